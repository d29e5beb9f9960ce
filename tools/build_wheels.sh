#!/bin/sh
# Wheels with the CPU kernels into dist/.
#   tools/build_wheels.sh            one for this Python and machine, by the compiler that is here
#   tools/build_wheels.sh --all      for every Python and architecture of pyproject.toml, by cibuildwheel (needs Docker)
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ "${1:-}" = --all ]; then
    "$python" -m pip install -q cibuildwheel
    exec "$python" -m cibuildwheel --output-dir dist
fi
"$python" -m pip install -q 'setuptools>=77' wheel 'pybind11>=2.13'
FASTUNLEARN_CPU=1 FASTUNLEARN_CUDA=0 "$python" -m pip wheel --no-build-isolation --no-deps -w dist .
ls -l dist
