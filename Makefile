# make test   set everything up in .venv, then run every test
# make demo   set everything up in .venv, then run the demonstration (writes runs/demo/report.html)
# make setup  the set-up alone;  make peers  the packages that tests and benchmarks compare with, where wanted
# make integrations  the packages that integrations meet (PEFT, Opacus, kronfluence, ...), and the tests with them
# make lint   ruff, mypy, clang-format;  make tidy  clang-tidy over csrc/cpu (minutes);  make docs  the site, warnings as errors
# make coverage   the share of Python lines that tests run (docs/coverage.md). Slower than make test: the tracer costs
#                 time in every line. The tests of the build are left out: they run copies of the package.
# make clean  removes what make wrote
#
# PYTHON names the interpreter to start from (3.11 or newer). A torch that it already has is used;
# otherwise TORCH is installed first, by version, because an unpinned torch may bring gigabytes of CUDA.
# FASTUNLEARN_CPU=0 and FASTUNLEARN_CUDA=0 leave the compiled parts out.

# Packages are compiled when they are first imported, and stay so, also where the environment would have
# every process compile them again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fastunlearn-stamp
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

# The packages that tests and benchmarks compare with. Without their dependencies: one of those asks for a
# torchvision that would bring another torch.
PEERS := curvlinops-for-pytorch==3.0.1 hessian-eigenthings==1.0.0a5 pyhessian linear_operator opt-einsum einops einconv \
         jaxtyping backpack-for-pytorch unfoldNd

# Those that the integration tests meet. The second line comes without dependencies, for the same reason.
PARTNERS := accelerate peft datasets scipy hydra-core bitsandbytes
PARTNERS_ALONE := kronfluence opacus curvlinops-for-pytorch==3.0.1 einops einconv opt-einsum jaxtyping \
                  linear_operator backpack-for-pytorch unfoldNd

.PHONY: setup test demo lint tidy docs coverage clean peers integrations

setup: $(STAMP)

$(BIN)/python:
	@if $(PYTHON) -c 'import torch' 2>/dev/null; \
	then echo "$(PYTHON) has torch: using it"; $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV); fi

$(STAMP): $(SOURCES) | $(BIN)/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --no-compile '$(TORCH)'
	$(BIN)/python -m pip install --no-compile 'setuptools>=77' wheel 'pybind11>=2.13' numpy
	$(BIN)/python -m pip install --no-compile --no-build-isolation -e '.[test]'
	@touch $(STAMP)

# One worker for each core, each with one thread but where a test asks for more: two pools of two threads on two
# cores wait for each other longer than they work.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

demo: $(STAMP)
	$(BIN)/fastunlearn demo --overwrite

peers: $(STAMP)
	$(BIN)/python -m pip install --no-compile --no-deps $(PEERS)

integrations: $(STAMP)
	$(BIN)/python -m pip install --no-compile $(PARTNERS)
	$(BIN)/python -m pip install --no-compile --no-deps $(PARTNERS_ALONE)
	$(BIN)/python -m pytest tests/integrations

lint: $(STAMP)
	$(BIN)/python -m pip install --no-compile -q -e '.[lint]' --no-build-isolation
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python tools/format_check.py

tidy: $(STAMP)
	$(BIN)/python -m pip install --no-compile -q 'clang-tidy>=23,<24'
	$(BIN)/python tools/tidy_check.py

docs: $(STAMP)
	$(BIN)/python -m pip install --no-compile -q -e '.[docs]' --no-build-isolation
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

coverage: $(STAMP)
	$(BIN)/python -m pip install --no-compile -q 'coverage>=7.10'
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q --ignore=tests/build
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

clean:
	rm -rf $(VENV) build dist site *.egg-info fastunlearn/*.so fastunlearn/_build_report.json
