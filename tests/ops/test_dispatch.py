"""The choice of a backend is explicit, and a refusal says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastunlearn.errors import BackendUnavailableError, InvalidInputError
from fastunlearn.ops import OPS, _dispatch
from fastunlearn.ops._dispatch import choose_backend, why_not_live
from fastunlearn.ops.null import null

CPU = torch.device("cpu")
ALL = ("reference", "cpu", "cuda", "triton")
needs_cpu = pytest.mark.skipif(bool(why_not_live("cpu")), reason=f"cpu backend: {why_not_live('cpu')}")


def test_argument_beats_environment(monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_BACKEND", "nonsense")
    assert choose_backend("reference", CPU, ALL) == "reference"
    with pytest.raises(InvalidInputError, match="FASTUNLEARN_BACKEND='nonsense' is unknown"):
        choose_backend(None, CPU, ALL)
    monkeypatch.setenv("FASTUNLEARN_BACKEND", "reference")
    assert choose_backend(None, CPU, ALL) == "reference"


@needs_cpu
def test_best_live_backend_by_default(monkeypatch):
    monkeypatch.delenv("FASTUNLEARN_BACKEND", raising=False)
    assert choose_backend(None, CPU, ALL) == "cpu"
    assert choose_backend(None, CPU, ("reference",)) == "reference"


def test_refusals(monkeypatch):
    with pytest.raises(BackendUnavailableError, match="no such backend"):
        choose_backend("cpu", CPU, ("reference",))
    with pytest.raises(InvalidInputError, match="unknown"):
        choose_backend("tpu", CPU, ALL)
    monkeypatch.setattr(_dispatch, "_load", lambda backend: (None, "no compiler that day"))
    with pytest.raises(BackendUnavailableError, match="no compiler that day"):
        choose_backend("cpu", CPU, ALL)
    assert choose_backend(None, CPU, ALL) == "reference"


def test_cuda_by_name_is_refused_with_the_reason():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(BackendUnavailableError, match="cuda"):
        null(torch.ones(3), backend="cuda")


def test_triton(monkeypatch):
    """On a GPU it comes after CUDA; float64 is not its own; without a GPU it is refused, with the reason."""
    cuda = torch.device("cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("FASTUNLEARN_BACKEND", raising=False)
    monkeypatch.setattr(_dispatch, "why_not_live", lambda name: "")
    assert choose_backend(None, cuda, ALL) == "cuda"
    assert choose_backend(None, cuda, ("reference", "triton"), torch.bfloat16) == "triton"
    assert choose_backend(None, cuda, ("reference", "triton"), torch.float64) == "reference"
    with pytest.raises(BackendUnavailableError, match=r"does not take torch\.float64"):
        choose_backend("triton", cuda, ("reference", "triton"), torch.float64)
    with pytest.raises(BackendUnavailableError, match="works on cuda tensors"):
        choose_backend("triton", CPU, ("reference", "triton"), torch.float32)
    monkeypatch.undo()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="Triton is"):
            choose_backend("triton", cuda, ("reference", "triton"), torch.bfloat16)


@pytest.fixture
def gpus(monkeypatch):
    """``gpus(capability, ...)``: GPUs of these capabilities, for which both kinds of kernels are there."""
    _dispatch._why_no_driver.cache_clear()

    def there(*capabilities, driver=""):
        module = SimpleNamespace(why_no_device=lambda: driver)
        monkeypatch.setattr(_dispatch, "_load", lambda backend: (module, ""))
        monkeypatch.setattr(_dispatch, "_capability", lambda index: capabilities[index])
        monkeypatch.setattr(_dispatch.importlib.util, "find_spec", lambda name: name)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        for variable in ("TRITON_INTERPRET", "FASTUNLEARN_BACKEND"):
            monkeypatch.delenv(variable, raising=False)

    yield there
    _dispatch._why_no_driver.cache_clear()


def test_gpus_that_are_too_old(gpus):
    gpus((7, 5), (7, 0))
    for name in ("cuda", "triton"):
        assert why_not_live(name).endswith("but needs a GPU of capability 8.0 or newer; there is 7.5, 7.0")
        with pytest.raises(BackendUnavailableError, match=r"8\.0 or newer; there is 7\.5"):
            choose_backend(name, torch.device("cuda"), ALL)
    assert choose_backend(None, torch.device("cuda"), ALL) == "reference"


def test_one_of_two_gpus_is_too_old(gpus):
    """Each tensor's own device decides."""
    gpus((7, 5), (8, 6))
    for name in ("cuda", "triton"):
        assert why_not_live(name) == ""
        assert choose_backend(name, torch.device("cuda", 1), ALL) == name
        for old in ("cuda", "cuda:0"):
            with pytest.raises(BackendUnavailableError, match=r"cuda.* has capability 7\.5, and the kernels need 8\.0"):
                choose_backend(name, torch.device(old), ALL)
    assert choose_backend(None, torch.device("cuda", 0), ALL) == "reference"
    assert choose_backend(None, torch.device("cuda", 1), ALL) == "cuda"


def test_a_driver_that_is_too_old_for_the_extension(gpus):
    gpus((9, 0), driver="CUDA driver version is insufficient")
    assert why_not_live("cuda").endswith("its CUDA runtime finds no device: CUDA driver version is insufficient")
    assert choose_backend(None, torch.device("cuda"), ALL) == "triton"


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_cpu)])
@pytest.mark.parametrize("count", [0, 1, 63, 1000])
def test_null(backend, count):
    x = torch.randn(count)
    got = null(x, backend=backend)
    assert torch.equal(got, x) and (count == 0 or got.data_ptr() != x.data_ptr())
    with pytest.raises(InvalidInputError, match="float32"):
        null(x.double(), backend=backend)


def test_table_of_ops():
    import importlib

    for name, op in OPS.items():
        assert op.name == name and set(op.backends) <= set(ALL)
        module = importlib.import_module(op.module)
        functions = [name] if hasattr(module, name) else module.__all__  # a folder of its own has several functions
        assert functions and all(callable(getattr(module, function)) for function in functions)


PROGRAM = """
import torch
from fastunlearn.ops._dispatch import cpu_isa
from fastunlearn.ops.ghost_gram import ghost_gram
from tests.ops.gram_cases import check, dense_gram, make_tokens
tokens = make_tokens([97, 0, 1, 30], 33, 17, torch.float32)
check(ghost_gram(*tokens, backend="cpu"), dense_gram(tokens))
print(cpu_isa())
"""


@needs_cpu
@pytest.mark.parametrize("isa", ["portable", "avx512", "mmx"])
def test_instruction_set_by_environment(isa):
    from fastunlearn import _cpu

    environment = {**os.environ, "FASTUNLEARN_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=120)
    if isa in _cpu.live_isas():
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == isa
    else:
        assert done.returncode != 0 and f"FASTUNLEARN_CPU_ISA='{isa}' cannot run here" in done.stderr


@needs_cpu
def test_an_instruction_set_asked_for_is_not_replaced_by_the_reference(monkeypatch):
    monkeypatch.delenv("FASTUNLEARN_BACKEND", raising=False)
    monkeypatch.setenv("FASTUNLEARN_CPU_ISA", "mmx")
    with pytest.raises(BackendUnavailableError, match="FASTUNLEARN_CPU_ISA='mmx' cannot run here; use one of portable"):
        choose_backend(None, CPU, ALL)
    assert choose_backend("reference", CPU, ALL) == "reference"
    assert choose_backend(None, CPU, ("reference",)) == "reference"
    assert choose_backend(None, CPU, ALL, torch.float16, {"cpu": (torch.float32,)}) == "reference"


def test_a_dtype_that_an_op_lacks_on_a_backend(monkeypatch):
    takes = {"cpu": (torch.float32, torch.float64)}
    monkeypatch.delenv("FASTUNLEARN_BACKEND", raising=False)
    assert choose_backend(None, CPU, ALL, torch.float16, takes) == "reference"
    words = r"='cpu' does not take torch\.float16 in this op, only torch\.float32, torch\.float64: convert"
    with pytest.raises(BackendUnavailableError, match=f"backend{words}"):
        choose_backend("cpu", CPU, ALL, torch.float16, takes)
    monkeypatch.setenv("FASTUNLEARN_BACKEND", "cpu")
    with pytest.raises(BackendUnavailableError, match=f"FASTUNLEARN_BACKEND{words}"):
        choose_backend(None, CPU, ALL, torch.float16, takes)


@pytest.mark.parametrize(
    "capability, best", [((8, 0), "cuda"), ((8, 9), "cuda"), ((9, 0), "triton"), ((10, 0), "triton"), ((12, 0), "cuda")]
)
def test_half_precision_goes_to_the_faster_products(gpus, capability, best, monkeypatch):
    """Those of warp groups, which only Triton's kernels use; but they add in an order of their own."""
    gpus(capability)
    device = torch.device("cuda")
    for dtype in (torch.bfloat16, torch.float16):
        assert choose_backend(None, device, ALL, dtype) == best
        assert choose_backend(None, device, ("reference", "cuda"), dtype) == "cuda"
    for dtype in (torch.float32, torch.float64, None):
        assert choose_backend(None, device, ALL, dtype) == "cuda"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert choose_backend(None, device, ALL, torch.bfloat16) == "cuda"
