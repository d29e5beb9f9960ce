"""Compiles csrc/cuda for the CPU, with the headers in ``include`` in CUDA's place: the kernels' own code, run thread by
thread. Only what is no C++ is rewritten: launches, and shared memory, which is filled with NaN at the start of a block.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shlex
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "csrc" / "cuda"
FLAGS = ["-std=c++17", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-Wno-unknown-pragmas", "-Wno-attributes"]

#: Environment variable with the folder of a build that several processes share.
SHARED_BUILD = "EMULATED_CUDA_BUILD"
#: Environment variable with more flags for the compiler and the linker: tests/sanitize.sh gives its sanitizers.
MORE_FLAGS = "EMULATED_CUDA_FLAGS"
LIBRARY = f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
LAUNCH = re.compile(r"(?P<kernel>\w+(?:<[\w:, .()]*>)?)\s*<<<(?P<how>[^;]*?)>>>\((?P<arguments>[^;]*)\);")
DYNAMIC = re.compile(r"extern __shared__ (?:__align__\((?P<align>\d+)\) )?unsigned char (?P<name>\w+)\[\];")
SHARED = re.compile(r"__shared__ (?P<declaration>[^;]+);")
NAMES = re.compile(r"(\w+)(?:\[[^\]]*\])*(?=,|$)")


def _launch(match: re.Match) -> str:
    grid, block, shared, stream = _split(match["how"])
    kernel, arguments = match["kernel"], match["arguments"]
    allowed = f"emulated::allowed_shared(reinterpret_cast<const void*>(&{kernel}))"
    return f"emulated::launch({grid}, {block}, {shared}, {stream}, {allowed}, [&] {{ {kernel}({arguments}); }});"


def _split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _shared(match: re.Match) -> str:
    declaration = " ".join(match["declaration"].split())
    names = NAMES.findall(declaration)
    return f"static {declaration}; " + " ".join(f"emulated::poison(&{name}, sizeof {name});" for name in names)


def translate(source: str) -> str:
    """A .cu file as C++ with the emulation's headers."""
    source = DYNAMIC.sub(
        lambda m: f"unsigned char* {m['name']} = emulated::dynamic_shared({m['align'] or 16});", source
    )
    return LAUNCH.sub(_launch, SHARED.sub(_shared, source))


def build(folder: Path, *, changes: dict[str, tuple[str, str]] | None = None, like: Path | None = None) -> ModuleType:
    """The compiled module. ``changes``: .cu file -> (text, what to put there), to show that a fault is found; the rest
    is then taken from the folder ``like`` of an earlier build.

    Raises RuntimeError with the compiler's words, and where a text to be changed is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [HERE / "emulated.cpp", SOURCES / "bindings.cpp"]
    for path in sorted(SOURCES.glob("*.cu")):
        text = path.read_text(encoding="utf-8")
        if changes and path.name in changes:
            old, new = changes[path.name]
            if old not in text:
                raise RuntimeError(f"{path.name} does not hold {old!r}")
            text = text.replace(old, new)
        written = folder / f"{path.stem}.cpp"
        written.write_text(translate(text), encoding="utf-8")
        sources.append(written)
    compiler = [*shlex.split(os.environ.get("CXX", "c++")), *shlex.split(os.environ.get(MORE_FLAGS, ""))]
    places = [HERE / "include", SOURCES, sysconfig.get_paths()["include"], pybind11.get_include()]
    includes = [f"-I{place}" for place in places]

    def compiled(source: Path) -> str:
        if like is not None and f"{source.stem}.cu" not in (changes or {}):
            return str(like / f"{source.stem}.o")
        out = folder / f"{source.stem}.o"
        run([*compiler, *FLAGS, *includes, "-c", str(source), "-o", str(out)])
        return str(out)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / LIBRARY
    run([*compiler, "-shared", *objects, "-o", str(library)])
    return _load(library)


def build_once(folder: Path) -> ModuleType:
    """The compiled module, compiled by the first of the processes that ask for this ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = folder / "whole"
        if whole.exists():
            return _load(folder / LIBRARY)
        module = build(folder)
        whole.touch()
    return module


def _load(library: Path) -> ModuleType:
    # A name of its own: pybind11 keeps one module for each.
    spec = importlib.util.spec_from_file_location(f"{library.parent.name}._cuda", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(command: list[str]) -> None:
    """Raises RuntimeError with what the command printed, where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
