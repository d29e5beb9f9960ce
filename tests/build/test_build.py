"""The package builds from its sdist, and a part that cannot be built says why and is not missed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

PROBE = """
import json, sys, torch
# An editable install (make test makes one) would lend its extensions to a package that lacks them.
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
from fastunlearn.errors import BackendUnavailableError
from fastunlearn.info import info, info_text
from fastunlearn.ops.ghost_gram import ghost_gram
x, g, offsets = torch.ones(5, 3), torch.ones(5, 2), torch.tensor([0, 2, 5])
try:
    ghost_gram(x, g, offsets, backend="cpu")
    refusal = ""
except BackendUnavailableError as error:
    refusal = str(error)
text = info_text()
print(json.dumps({"info": info(), "text": text, "refusal": refusal, "k": ghost_gram(x, g, offsets).tolist()}))
"""
TRUTH = [[24.0, 36.0], [36.0, 54.0]]  # T_i T_j * 3 * 2


def probe(python, folder: Path) -> dict:
    done = python(folder, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++")) is not None or shutil.which("c++") is not None


def has_nvcc() -> bool:
    homes = (os.environ.get("CUDA_HOME", ""), "/usr/local/cuda")
    return shutil.which("nvcc") is not None or any(shutil.which("nvcc", path=f"{home}/bin") for home in homes)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here")
def test_sdist_is_whole_and_builds(tree, tmp_path, python):
    done = python(tree, "setup.py", "-q", "sdist", "-d", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("fastunlearn-*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    folders = ("csrc", "fastunlearn", "tests", "bench", "docs", "examples")  # the tests read the last three
    paths = (path for folder in folders for path in (tree / folder).rglob("*") if path.is_file())
    wanted = {path.relative_to(tree).as_posix() for path in paths if "__pycache__" not in path.parts}
    wanted |= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"}
    wanted |= {"LICENSE", "pyproject.toml", "setup.py", "fastunlearn/py.typed", "bench/device.sh", "tests/conftest.py"}
    assert wanted <= names, sorted(wanted - names)
    assert not [name for name in names if name.endswith((".so", ".o", "_build_report.json"))]

    place = tmp_path / "place"
    install = ["-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir"]
    done = python(tmp_path, *install, "--target", str(place), str(archive), FASTUNLEARN_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert (place / "fastunlearn" / "py.typed").exists()
    assert (place / "fastunlearn" / "ops" / "ghost_gram" / "README.md").exists()
    state = probe(python, place)
    assert state["k"] == TRUTH and state["refusal"] == ""
    assert state["info"]["backends"]["cpu"]["live"]
    assert "FASTUNLEARN_CUDA=0" in state["info"]["backends"]["cuda"]["reason"]


def test_without_compilers_it_says_why_and_works(tree, python):
    nothing = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++", "NVCC": "/nonexistent/nvcc", "PATH": "/nonexistent",
               "CUDA_HOME": "", "CUDA_PATH": ""}  # fmt: skip
    if Path("/usr/local/cuda/bin/nvcc").exists():
        nothing["FASTUNLEARN_CUDA"] = "0"
    done = python(tree, "setup.py", "build_ext", "--inplace", **nothing)
    assert done.returncode == 0, done.stderr
    assert "fastunlearn._cpu is not built: no working C++17 compiler" in done.stderr
    assert "fastunlearn._cuda is not built" in done.stderr
    state = probe(python, tree)
    assert state["k"] == TRUTH
    assert "no working C++17 compiler" in state["refusal"]
    backends = state["info"]["backends"]
    assert backends["reference"]["live"] and not backends["cpu"]["live"] and not backends["cuda"]["live"]
    assert backends["cpu"]["reason"] in state["text"]
    # Asked for by name, a part that cannot be built is an error.
    done = python(tree, "setup.py", "build_ext", "--inplace", **{**nothing, "FASTUNLEARN_CPU": "1"})
    assert done.returncode != 0 and "fastunlearn._cpu cannot be built" in done.stderr


def test_parts_left_out_and_never_built(tree, python):
    assert "never built" in probe(python, tree)["refusal"]
    done = python(tree, "setup.py", "build_ext", "--inplace", FASTUNLEARN_CPU="0", FASTUNLEARN_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert "left out at build time by FASTUNLEARN_CPU=0" in probe(python, tree)["refusal"]


@pytest.mark.skipif(not has_nvcc(), reason="nvcc was not found: the CUDA sources are not compiled here")
def test_cuda_sources_compile_and_import(tree, python):
    # Some seconds per file and architecture where the machine is idle; a busy one may take minutes.
    done = python(
        tree, "setup.py", "build_ext", "--inplace", timeout=900, FASTUNLEARN_CPU="0", FASTUNLEARN_CUDA="1"
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    report = json.loads((tree / "fastunlearn" / "_build_report.json").read_text())
    assert report["extensions"]["cuda"]["archs"] == ["sm_80", "sm_90a"]
    done = python(tree, "-c", "from fastunlearn import _cuda; print(_cuda.runtime_version())")
    assert done.returncode == 0 and int(done.stdout) >= 12000, done.stderr


RECORDER = """#!{python}
import sys
from pathlib import Path
Path({file!r}).write_text("\\n".join(sys.argv[1:]))
sys.exit("that will do")
"""


@pytest.mark.parametrize("archs, fallback", [("80 90a", "80"), ("90a", "90"), ("90a 86", "86"), ("100f 90a", "90")])
def test_other_gpus_get_intermediate_code_that_they_can_use(tree, tmp_path, python, archs, fallback):
    """compute_90a's is for capability 9.0 alone."""
    nvcc, said = tmp_path / "nvcc", tmp_path / "said"
    nvcc.write_text(RECORDER.format(python=sys.executable, file=str(said)))
    nvcc.chmod(0o755)
    how = {"FASTUNLEARN_CPU": "0", "FASTUNLEARN_CUDA_ARCHS": archs, "NVCC": str(nvcc)}
    done = python(tree, "setup.py", "build_ext", "--inplace", **how)
    assert "nvcc failed: that will do" in done.stderr
    codes = [one for one in said.read_text().splitlines() if one.startswith("-gencode")]
    assert codes == [
        *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs.split()),
        f"-gencode=arch=compute_{fallback},code=compute_{fallback}",
    ]


STAND_IN = """#!{python}
import sys
if "-o" in sys.argv:
    open(sys.argv[sys.argv.index("-o") + 1], "w").write("new")
"""


def test_an_extension_in_use_is_replaced_and_not_written_over(tree, tmp_path, python):
    """A process that runs the old one keeps it: written over, its code would change under it."""
    nvcc, old = tmp_path / "nvcc", tree / "fastunlearn" / ("_cuda" + sysconfig.get_config_var("EXT_SUFFIX"))
    nvcc.write_text(STAND_IN.format(python=sys.executable))
    nvcc.chmod(0o755)
    old.write_text("old")
    with old.open() as held:
        done = python(tree, "setup.py", "build_ext", "--inplace", FASTUNLEARN_CPU="0", NVCC=str(nvcc))
        assert done.returncode == 0, done.stderr
        assert (old.read_text(), held.read()) == ("new", "old")


def test_an_architecture_that_is_none_is_named(tree, python):
    done = python(
        tree, "setup.py", "build_ext", "--inplace", FASTUNLEARN_CPU="0", FASTUNLEARN_CUDA_ARCHS="native", NVCC="true"
    )
    assert "FASTUNLEARN_CUDA_ARCHS='native': name architectures such as 80 90a" in done.stderr


@pytest.mark.skipif(not has_nvcc(), reason="nvcc was not found")
def test_a_cuda_source_that_does_not_compile_is_reported(tree, python):
    (tree / "csrc" / "cuda" / "null.cu").write_text("this is not CUDA\n")
    for path in (tree / "csrc" / "cuda").glob("*.c*"):
        if path.name != "null.cu":
            path.unlink()
    done = python(tree, "setup.py", "build_ext", "--inplace", FASTUNLEARN_CPU="0")
    assert done.returncode == 0
    assert "fastunlearn._cuda is not built: nvcc failed" in done.stderr
    reason = probe(python, tree)["info"]["backends"]["cuda"]["reason"]
    assert "nvcc failed" in reason


def test_info_names_no_path_of_this_machine(tree, python):
    state = probe(python, tree)
    assert str(tree) not in json.dumps(state["info"]) and sys.prefix not in json.dumps(state["info"])
