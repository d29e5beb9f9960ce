#!/bin/sh
# Builds, checks and times everything on a bare GPU machine: Python, PyTorch with CUDA and nvcc are there, and
# nothing can be downloaded. Each part runs alone in under eight minutes:
#
#   bench/device.sh build|check|tests|sanitize|time|peers|models|large|all [FOLDER]
#
# check: every kernel, every dtype, against float64, also in CUDA graphs, on streams, in compiled code. tests: those of
# tests/ops, where pytest is there. time: kernels beside PyTorch's own; peers: some of them once more, beside other
# packages. models: whole products, 1B; large: 8B, and a Newton direction.
# JSON and logs go to FOLDER, else to $OUT, else to runs/device: <gpu>-<subject>.json is what belongs into bench/results,
# from where `python -m bench.readme_figures` takes it. Exits non-zero when a check fails.
#
# PYTHON names the interpreter that has PyTorch (default python3). WHEELS names a folder of wheels of peers to measure
# beside (jvp-flash-attention, hessian-eigenthings, curvlinops-for-pytorch and what they need beyond PyTorch); where it
# is not set, peers that are installed are measured.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
part=${1:-all}
out=${2:-${OUT:-runs/device}}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
processes=$(nproc)
[ "$processes" -le 12 ] || processes=12  # each holds some memory of the GPU

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
    "$PYTHON" -m bench.device.check --processes "$processes" --out "$out"
}

tests() {
    ensure
    if ! "$PYTHON" -c 'import pytest' 2>/dev/null; then
        echo "pytest is not installed: tests/ops is left out"
        return 0
    fi
    parallel=""
    if "$PYTHON" -c 'import xdist' 2>/dev/null; then parallel="-n $processes"; fi
    # shellcheck disable=SC2086
    "$PYTHON" -m pytest tests/ops -q -p no:cacheprovider $parallel --junitxml="$out/tests.xml"
    "$PYTHON" - "$out/tests.xml" "$out/tests.json" <<'PY'
import json, sys, xml.etree.ElementTree as tree
suites = tree.parse(sys.argv[1]).getroot().iter("testsuite")
counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
for suite in suites:
    for name in counts:
        counts[name] += int(suite.get(name, 0))
cases = [case for case in tree.parse(sys.argv[1]).getroot().iter("testcase") if "_cuda" in case.get("classname", "")]
cases = [case for case in cases if "emulated" not in case.get("classname")]
counts["on_gpu"] = sum(case.find("skipped") is None for case in cases)
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(counts, file, indent=1)
print(counts)
sys.exit("no test ran on the GPU" if not counts["on_gpu"] else 0)
PY
}

# Peers from the folder WHEELS, for this run alone.
wheels() {
    [ -n "${WHEELS:-}" ] || return 0
    installed=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$installed" "$WHEELS"/*.whl
    export PYTHONPATH="$PYTHONPATH:$installed"
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
        --only explicit-rows --only weighted-gradient --only systems --only pointwise
}

peers() {
    ensure
    wheels
    "$PYTHON" -m bench.device.timings --out "$out" --only attention --only cross-entropy
}

models() {
    ensure
    wheels
    "$PYTHON" -m bench.device.timings --out "$out" --only hvp --only accuracy --rounds 5
}

large() {
    ensure
    "$PYTHON" -m bench.device.timings --out "$out" --only newton --only hvp-large --rounds 3
}

case $part in
build) build ;;
check) check ;;
tests) tests ;;
sanitize) sanitize ;;
time) time_all ;;
peers) peers ;;
models) models ;;
large) large ;;
all) build; check; tests; sanitize; time_all; peers; models; large ;;
*) echo "usage: bench/device.sh build|check|tests|sanitize|time|peers|models|large|all [FOLDER]" >&2; exit 2 ;;
esac
