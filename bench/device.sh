#!/bin/sh
# Builds, checks and times everything on a bare GPU machine: Python, PyTorch with CUDA and nvcc are there, and
# nothing can be downloaded. Each part runs alone in under eight minutes:
#
#   bench/device.sh build|check|sanitize|time|models|all [FOLDER]
#
# check: every kernel, every dtype, against float64, and the tests of tests/ops where pytest is there. time: kernels
# beside their peers; models: whole Hessian-vector products.
# JSON and logs go to FOLDER, else to $OUT, else to runs/device. Exits non-zero when a check fails.
# PYTHON names the interpreter that has PyTorch (default python3).
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
part=${1:-all}
out=${2:-${OUT:-runs/device}}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# The extensions are built in place, for the GPU that is here: no install, no index.
build() {
    # With PART=1 in the environment a part that cannot be built is an error.
    arch=$("$PYTHON" -c 'import torch; a, b = torch.cuda.get_device_capability(); print(f"{a}{b}" + "a" * (a >= 9))')
    FASTUNLEARN_CPU=1 FASTUNLEARN_CUDA=1 FASTUNLEARN_CUDA_ARCHS="80 $arch" \
        "$PYTHON" setup.py build_ext --inplace >"$out/build.log" 2>&1 || { cat "$out/build.log"; return 1; }
    "$PYTHON" - "$out/info.json" <<'PY'
import json, sys
from fastunlearn.info import info, info_text
print(info_text())
state = info()
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(state, file, indent=1)
missing = [name for name, backend in state["backends"].items() if not backend["live"]]
sys.exit(f"not live: {', '.join(missing)}" if missing else 0)
PY
}

# A part run alone on a fresh machine builds first.
ensure() {
    "$PYTHON" -c 'import fastunlearn._cpu, fastunlearn._cuda' 2>/dev/null || build
}

check() {
    ensure
    "$PYTHON" -m bench.device.check --out "$out"
    if ! "$PYTHON" -c 'import pytest' 2>/dev/null; then
        echo "pytest is not installed: tests/ops is left out"
        return 0
    fi
    "$PYTHON" -m pytest tests/ops -q -p no:cacheprovider --junitxml="$out/check.xml"
    "$PYTHON" - "$out/check.xml" "$out/check.json" <<'PY'
import json, sys, xml.etree.ElementTree as tree
suites = tree.parse(sys.argv[1]).getroot().iter("testsuite")
counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
for suite in suites:
    for name in counts:
        counts[name] += int(suite.get(name, 0))
cases = [case for case in tree.parse(sys.argv[1]).getroot().iter("testcase") if "cuda" in case.get("classname", "")]
counts["on_gpu"] = sum(case.find("skipped") is None for case in cases)
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(counts, file, indent=1)
print(counts)
sys.exit("no test ran on the GPU" if not counts["on_gpu"] else 0)
PY
}

# Bad accesses, races, uninitialised memory and wrong barriers, on small shapes.
sanitize() {
    ensure
    tool=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    [ -x "$tool" ] || { echo "compute-sanitizer was not found" >&2; return 1; }
    for kind in memcheck racecheck initcheck synccheck; do
        echo "compute-sanitizer $kind"
        "$tool" --tool "$kind" --error-exitcode 9 --kernel-name-exclude kns=at:: \
            "$PYTHON" bench/device/small_run.py >"$out/sanitize-$kind.log" 2>&1 ||
            { tail -n 40 "$out/sanitize-$kind.log"; return 1; }
        tail -n 1 "$out/sanitize-$kind.log"
    done
}

time_all() {
    ensure
    "$PYTHON" -m bench.ghost_gram --device cuda --out "$out"
    "$PYTHON" -m bench.device.timings --out "$out" --only attention --only cross-entropy --only ghost-gram \
        --only explicit-rows
}

models() {
    ensure
    "$PYTHON" -m bench.device.timings --out "$out" --only hvp --rounds 5
}

case $part in
build) build ;;
check) check ;;
sanitize) sanitize ;;
time) time_all ;;
models) models ;;
all) build; check; sanitize; time_all; models ;;
*) echo "usage: bench/device.sh build|check|sanitize|time|models|all [FOLDER]" >&2; exit 2 ;;
esac
