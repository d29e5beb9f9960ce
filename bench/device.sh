#!/bin/sh
# Builds, checks and times everything on a bare GPU machine: Python, PyTorch with CUDA and nvcc are there, and
# nothing can be downloaded.
#
#   bench/device.sh first|build|check|tests|sanitize|time|models|large [FOLDER] [--seconds N]
#
# first: the most that few minutes give, in the order of its worth: build, check, products of a 1B model, attention, 8B,
# the output layer, the kernels of sample space, then the rest. It ends after 9 minutes and a quarter (or N seconds);
# called again it goes on, without what came to its end.
# check: every kernel, every dtype, against float64, also in CUDA graphs, on streams, in compiled code. tests: those that
# need a GPU, where pytest is there. time: kernels beside PyTorch's own and peers'. models: whole products, 1B; large: 8B,
# and a Newton direction. Each of these ends before eight minutes.
#
# Every step is a process with a limit of its own; one that fails or is stopped leaves what it had measured, the next
# ones run, and the status at the end is not 0. Into FOLDER (else $OUT, else runs/device) goes results.tgz, packed anew
# as results come, and beside it up to six <gpu>-<subject>.json:
#
#   tar -xzf FOLDER/results.tgz      makes results/: <gpu>-<subject>.json and cuda-ghost-gram.json belong into
#                                    bench/results, from where `python -m bench.readme_figures` takes them; check.json,
#                                    tests.json, info.json, steps.json (each step's status and seconds) and logs
#
# What `first` goes on from is in runs/work: remove it to begin anew; on another machine put there what results/ holds.
# With --dry everything that can be runs on the CPU on tiny shapes, to test these scripts.
#
# PYTHON names the interpreter that has PyTorch (default python3). WHEELS names a folder of wheels of peers to measure
# beside (jvp-flash-attention, hessian-eigenthings, curvlinops-for-pytorch and what they need beyond PyTorch); where it
# is not set, peers that are installed are measured.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m bench.device.session "$@"
