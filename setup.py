"""Builds the compiled parts of fastunlearn; everything else is stated in pyproject.toml.

``fastunlearn._cpu`` (csrc/cpu) needs a C++17 compiler of the GCC or Clang family; ``fastunlearn._cuda``
(csrc/cuda) needs nvcc. Either may be missing: the build then says so, records the reason in
``_build_report.json`` (which ``fastunlearn info`` reads), and the package works on its reference path.

Switches (environment): ``FASTUNLEARN_CPU=0``, ``FASTUNLEARN_CUDA=0`` leave a part out; ``=1`` makes its failure
an error. ``FASTUNLEARN_CPU_FLAGS`` holds flags for the C++ compiler and linker, after those that are here.
``FASTUNLEARN_CUDA_ARCHS`` lists the GPU architectures, from 80 on (default "80 90a"). ``NVCC`` names the compiler.
"""

import json
import os
import platform
import re
import shlex
import shutil
import string
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
REPORT = "_build_report.json"
COMMON_FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
# Name, width of a vector in bytes, flags. -mno-... keeps a later compiler's default from widening "portable".
ISAS = [("portable", 16, [])]
if X86:
    ISAS += [
        ("avx2", 32, ["-mavx2", "-mfma"]),
        ("avx512", 64, ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"]),
    ]


class CannotBuild(Exception):
    """One extension cannot be built here; the message says why, for a person."""


def switch(name):
    """True or False where the environment variable says so, None where it is not set."""
    value = os.environ.get(name, "").strip().lower()
    return None if value == "" else value not in ("0", "no", "off", "false")


def sources(folder, suffix):
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / folder).glob(f"*{suffix}"))


def find_nvcc():
    named = os.environ.get("NVCC")
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    in_homes = [str(Path(home) / "bin" / "nvcc") for home in homes]
    for candidate in [named, *in_homes, "nvcc", "/usr/local/cuda/bin/nvcc"]:
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    raise CannotBuild("nvcc was not found (set NVCC or CUDA_HOME, or put it on PATH)")


def machine_codes(archs):
    """nvcc's flags: code for each of the architectures, and intermediate code from which the driver compiles for a GPU
    that is not listed. That is of the oldest one, without letters: "90a" is for that GPU alone."""
    if not archs or not all(re.fullmatch(r"[0-9]+[a-z]?", arch) for arch in archs):
        raise CannotBuild(f"FASTUNLEARN_CUDA_ARCHS={' '.join(archs)!r}: name architectures such as 80 90a")
    oldest = min(int(arch.rstrip(string.ascii_lowercase)) for arch in archs)
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    return [*codes, f"-gencode=arch=compute_{oldest},code=compute_{oldest}"]


class BuildExtensions(build_ext):
    """Builds each extension by its own recipe and writes the report beside them."""

    def build_extensions(self):
        report = {"machine": platform.machine(), "python": platform.python_version(), "extensions": {}}
        for extension in self.extensions:
            part = extension.name.rsplit("_", 1)[-1]
            variable = f"FASTUNLEARN_{part.upper()}"
            wanted = switch(variable)
            try:
                if wanted is False:
                    raise CannotBuild(f"left out at build time by {variable}=0")
                details = (self._build_cpu if part == "cpu" else self._build_cuda)(extension)
                report["extensions"][part] = {"built": True, **details}
            except CannotBuild as reason:
                if wanted:
                    raise SystemExit(f"fastunlearn: {extension.name} cannot be built: {reason}") from None
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)  # no stale one from before
                report["extensions"][part] = {"built": False, "reason": str(reason)}
                print(f"fastunlearn: {extension.name} is not built: {reason}", file=sys.stderr)
        target = Path(self.get_ext_fullpath("fastunlearn._cpu")).parent / REPORT
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def get_outputs(self):
        built = [path for path in super().get_outputs() if Path(path).exists()]
        return [*built, str(Path(self.get_ext_fullpath("fastunlearn._cpu")).parent / REPORT)]

    def get_output_mapping(self):
        return {k: v for k, v in super().get_output_mapping().items() if Path(k).exists()}

    def copy_extensions_to_source(self):
        """Editable installs: the extensions that were built, and the report, go beside the sources."""
        self.inplace = False
        package = Path(self.get_finalized_command("build_py").get_package_dir("fastunlearn"))
        for extension in self.extensions:
            built = Path(self.get_ext_fullpath(extension.name))
            beside = package / built.name
            beside.unlink(missing_ok=True)  # not written over: a process that runs it would read the new one's code
            if built.exists():
                shutil.copy2(built, beside)
        shutil.copy2(Path(self.get_ext_fullpath("fastunlearn._cpu")).parent / REPORT, package / REPORT)
        self.inplace = True

    def _includes(self, folder):
        import pybind11

        return [str(ROOT / "csrc" / folder), pybind11.get_include(), *self.compiler.include_dirs]

    def _try(self, flags, text="int main() { return 0; }\n"):
        """Whether the C++ compiler accepts ``flags``."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cpp"
            source.write_text(text, encoding="utf-8")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(Path(folder) / "probe"), extra_postargs=flags)
            except Exception:  # distutils raises its own, the file system its own
                return False
            return True

    def _compile(self, source, folder, flags, macros=(), includes=()):
        objects = self.compiler.compile(
            [source], output_dir=str(Path(self.build_temp) / folder), macros=list(macros),
            include_dirs=list(includes), extra_postargs=flags,
        )  # fmt: skip
        return objects

    def _build_cpu(self, extension):
        if self.compiler.compiler_type == "msvc" or not self._try(["-std=c++17"]):
            raise CannotBuild(
                "no working C++17 compiler of the GCC or Clang family (on Debian: apt install g++; or set CXX)"
            )
        probe = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
        openmp = ["-fopenmp"] if self._try(["-fopenmp"], probe) else []
        extra = shlex.split(os.environ.get("FASTUNLEARN_CPU_FLAGS", ""))
        flags = [*COMMON_FLAGS, *openmp, *extra]
        includes = self._includes("cpu")
        isas = [isa for isa in ISAS if self._try(isa[2])]
        have = [(f"FU_HAVE_{name.upper()}", "1") for name, _, _ in isas[1:]]
        try:
            jobs = [(source, "generic", flags, have, includes) for source in sources("cpu", ".cpp")]
            for source in sources("cpu/isa", ".cpp"):  # compiled once per instruction set
                for name, width, machine in isas:
                    macros = [("FU_ISA", name), ("FU_BYTES", str(width))]
                    jobs.append((source, name, flags + machine, macros, includes))
            with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
                objects = [one for found in pool.map(lambda job: self._compile(*job), jobs) for one in found]
            target = self.get_ext_fullpath(extension.name)
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            self.compiler.link_shared_object(objects, target, extra_postargs=[*openmp, *extra], target_lang="c++")
        except Exception as error:
            raise CannotBuild(f"the C++ compiler failed: {error}") from error
        return {"isas": [name for name, _, _ in isas], "openmp": bool(openmp)}

    def _build_cuda(self, extension):
        nvcc = find_nvcc()
        archs = os.environ.get("FASTUNLEARN_CUDA_ARCHS", "80 90a").split()
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{path}" for path in self._includes("cuda")]
        command = [
            nvcc, "-std=c++17", "-O3", "-cudart", "static", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden",
            "--threads", "0", *machine_codes(archs), *includes, "-o", str(target), *sources("cuda", ".cu"),
            *sources("cuda", ".cpp"),
        ]  # fmt: skip
        print("fastunlearn:", " ".join(command))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            print("\n".join(lines), file=sys.stderr)
            raise CannotBuild(f"nvcc failed: {lines[0] if lines else f'exit status {done.returncode}'}")
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        release = version.partition("release ")[2].partition(",")[0]
        return {"archs": [f"sm_{arch}" for arch in archs], "nvcc": release}


setup(
    ext_modules=[
        Extension(
            "fastunlearn._cpu", sources("cpu", ".cpp"), depends=sources("cpu", ".h") + sources("cpu/isa", ".cpp")
        ),
        Extension("fastunlearn._cuda", [], depends=sources("cuda", ".cu") + sources("cuda", ".h")),
    ],
    cmdclass={"build_ext": BuildExtensions},
)
