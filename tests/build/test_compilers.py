"""The kernels compile with GCC 11, which has no ``__builtin_shufflevector``: where g++ is newer, it plays that one."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

CPU = Path(__file__).resolve().parents[2] / "csrc" / "cpu"
SETS = {"portable": (16, ""), "avx512": (64, "-mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma")}
OLDER = "-U__GNUC__ -D__GNUC__=11 -D__builtin_shufflevector=not_in_this_compiler"


def refused(source: Path, name: str) -> str:
    width, machine = SETS[name]
    options = f"-std=c++17 -fsyntax-only -w -DFU_ISA={name} -DFU_BYTES={width} {machine} {OLDER}"
    command = ["g++", *shlex.split(options), "-I", str(CPU), str(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stderr


@pytest.mark.parametrize("name", SETS)
def test_kernels_compile_with_an_older_compiler(name, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ was not found")
    (tmp_path / "probe.cpp").write_text("#include <cstdint>\n#ifdef __clang__\n#error clang\n#endif\n")
    if refused(tmp_path / "probe.cpp", name):
        pytest.skip("g++ is another compiler by that name, or for another machine")
    for source in sorted((CPU / "isa").glob("*.cpp")):
        assert not refused(source, name), source.name
    (tmp_path / "new.cpp").write_text("typedef int V __attribute__((vector_size(16)));\n"
                                      "V f(V a) { return __builtin_shufflevector(a, a, 0, 1, 2, 3); }\n")  # fmt: skip
    assert "not_in_this_compiler" in refused(tmp_path / "new.cpp", name)
