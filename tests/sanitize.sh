#!/bin/sh
# Runs the op tests on CPU kernels built with AddressSanitizer and UBSan.
#
#   tests/sanitize.sh [FOLDER [pytest arguments...]]
#
# FOLDER (default: a temporary one, removed at the end) gets the build, so a second run there is quick. The package
# itself and its build stay as they are. PYTHON names the interpreter, CXX the compiler. Exit status: that of pytest;
# 77 where the compiler has no sanitizers.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
compiler=${CXX:-c++} # may be several words
if [ $# -gt 0 ]; then
    folder=$1
    shift
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
[ $# -gt 0 ] || set -- tests/ops -m "not gpu"

flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
echo 'int main() { return 0; }' > "$folder/probe.cpp"
if ! $compiler $flags "$folder/probe.cpp" -o "$folder/probe" 2> "$folder/probe.log" || ! "$folder/probe"; then
    echo "the compiler $compiler has no AddressSanitizer and UBSan here: $(head -1 "$folder/probe.log")" >&2
    exit 77
fi

cd "$root"
FASTUNLEARN_CPU=1 FASTUNLEARN_CUDA=0 FASTUNLEARN_CPU_FLAGS="-O1 -g1 $flags" CXX="$compiler" \
    "$python" setup.py -q build --build-base "$folder/build" --build-lib "$folder/lib" > "$folder/build.log" 2>&1 || {
    tail -40 "$folder/build.log" >&2
    exit 1
}

# The sanitizer must be in the process before Python; the C++ library, so that it finds the functions for exceptions.
# Python itself never gives back all its memory, so leaks are not looked for. pytest leaves the descriptors alone, so that
# a report is seen.
library() { $compiler -print-file-name="$1"; }
export LD_PRELOAD="$(library libasan.so) $(library libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:quarantine_size_mb=64 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export EMULATED_CUDA_FLAGS="$flags" # the CUDA kernels on the CPU, tests/emulated_cuda
export PYTHONPATH="$folder/lib:$root" PYTHONDONTWRITEBYTECODE=1
exec "$python" -P -m pytest -o pythonpath= -p no:cacheprovider --capture=sys -q "$@"
