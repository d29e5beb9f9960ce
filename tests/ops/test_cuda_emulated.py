"""The CUDA kernels' own code, compiled for the CPU (tests/emulated_cuda), against float64: also where no GPU is.

What it shows: indices, bounds, barriers, rounding, the way from Python to the launch. What it can't: speed, what nvcc
makes of the code, and true races between warps. bench/device.sh checks the kernels on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastunlearn.ops import _dispatch, explicit_rows
from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.null import null
from fastunlearn.ops.weighted_gradient import weighted_gradient
from tests.emulated_cuda.build import build
from tests.ops import sample_space_cases as cases
from tests.ops.gram_cases import check, dense_gram, make_tokens
from tests.ops.test_ghost_gram import FLOATS, SHAPES

STREAM = 0x51


def seed(module, value: int) -> None:
    """Another order of turns."""
    ctypes.CDLL(module.__file__).emulated_seed(value)


def use(module, monkeypatch) -> None:
    """Backend "cuda" is the emulation, and takes tensors of the CPU."""
    load, why = _dispatch._load, _dispatch.why_not_live
    monkeypatch.setattr(_dispatch, "_load", lambda name: (module, "") if name == "cuda" else load(name))
    monkeypatch.setattr(_dispatch, "why_not_live", lambda name: "" if name == "cuda" else why(name))
    monkeypatch.setitem(_dispatch.BACKENDS, "cuda", ("emulated", "cpu"))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))


@pytest.fixture
def cuda(emulated_cuda, monkeypatch, request):
    """The emulation in the backend's place; each test has an order of turns of its own."""
    use(emulated_cuda, monkeypatch)
    seed(emulated_cuda, zlib.crc32(request.node.name.encode()))
    return emulated_cuda


@pytest.mark.parametrize("count", [0, 1, 63, 70_001])
def test_null(cuda, count):
    x = torch.randn(count)
    assert torch.equal(null(x, backend="cuda"), x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{len(s[0])}x{s[1]}x{s[2]}")
def test_gram_of_one_set(cuda, dtype, shape):
    bias = shape[2] % 2 == 1
    tokens = make_tokens(*shape, dtype)
    got = ghost_gram(*tokens, bias=bias, backend="cuda")
    check(got, dense_gram(tokens, bias=bias))
    assert torch.equal(got, got.T)


def inside(value: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """The same numbers, with NaN around them on every side: what is read beyond the ends spoils the result. Below there
    are rows enough for a whole tile."""
    n, width = value.shape
    wide = torch.full((1 + n + 128, before + width + after), float("nan"), dtype=value.dtype)
    view = wide[1 : n + 1, before : before + width]
    view.copy_(value)
    return view


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("before, after", [(3, 4), (8, 8)], ids=["unaligned", "aligned"])
def test_gram_of_two_sets_reads_nothing_around_them(cuda, dtype, before, after):
    first = make_tokens([63, 1, 0, 127, 210], 40, 64, dtype, seed=1)
    second = make_tokens([5, 400, 0, 1, 1, 30, 9], 40, 64, dtype, seed=2)
    x, g = inside(first.x, before, after), inside(first.g, before, after)
    check(ghost_gram(x, g, first.offsets, *second, backend="cuda"), dense_gram(first, second))
    check(ghost_gram(*second, x, g, first.offsets, backend="cuda"), dense_gram(second, first))


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("size", cases.ROWS, ids=str)
def test_explicit_rows(cuda, size, dtype, strided):
    cases.check_explicit_rows(dtype, size, strided, "cuda", "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("size", cases.BLOCKS, ids=str)
def test_low_rank_apply(cuda, size, dtype):
    cases.check_low_rank_apply(dtype, size, "cuda", "cpu")


@pytest.mark.parametrize("weighted, strided", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", cases.GRADIENTS, ids=str)
def test_weighted_gradient(cuda, size, dtype, weighted, strided):
    cases.check_weighted_gradient(dtype, size, weighted, strided, "cuda", "cpu")


@pytest.mark.parametrize("dtype", FLOATS[:1] + FLOATS[2:], ids=str)
def test_weights_of_a_solve(cuda, dtype):
    cases.check_weights_of_a_solve(dtype, "cuda", "cpu")


@pytest.mark.parametrize("size, weight", [(1.0, 1e5), (1e-3, 1e-5), (1e-4, 1e-3), (1e4, 1e-12), (0.0, 1.0), (1.0, 0.0)])
def test_range_of_weights(cuda, size, weight):
    cases.check_range_of_weights(size, weight, "cuda", "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", cases.SYSTEMS, ids=str)
def test_small_cholesky(cuda, size, dtype):
    cases.check_small_cholesky(dtype, size, "cuda", "cpu")


#: One fault for each kernel. Barriers and waits: what a GPU would mostly get right, and sometimes not.
ORDER = {
    "ghost_gram.cu": ("__syncthreads();  // the slabs of the step before were read by all", ""),
    "ghost_gram_tensor.cu": ("__pipeline_wait_prior(kStages - 2)", "__pipeline_wait_prior(kStages - 1)"),
    "weighted_gradient.cu": ("__syncwarp();\n            for (int n = lane", "for (int n = lane"),
    "explicit_rows.cu": ("coefficients[base + n];\n        __syncthreads();", "coefficients[base + n];"),
    "small_cholesky.cu": ("l[r * pitch + j] *= inverse;\n        __syncthreads();", "l[r * pitch + j] *= inverse;"),
}  # fmt: skip
BOUNDS = {
    "ghost_gram.cu": ("r < rows && k0 + k < width", "r < rows"),
    "ghost_gram_tensor.cu": ("left >= 8 && o.vectors", "left > 0 && o.vectors"),
    "weighted_gradient.cu": ("t < tokens ? width - c : 0", "width - c"),
    "explicit_rows.cu": ("c + kWide <= end", "c < end"),
    "small_cholesky.cu": ("if (c <= r) l[r * pitch + c] = a[n]", "if (c < r) l[r * pitch + c] = a[n]"),
}  # fmt: skip


def gram_of_parts(dtype: torch.dtype) -> None:
    first, second = make_tokens([63, 1, 0, 70], 44, 44, dtype, seed=1), make_tokens([30, 9], 44, 44, dtype, seed=2)
    parts = [(inside(side.x, 8, 12), inside(side.g, 8, 12), side.offsets) for side in (first, second)]
    check(ghost_gram(*parts[0], *parts[1], backend="cuda"), dense_gram(first, second))


def gradient_of_parts() -> None:
    x, g = inside(cases.draw(33, 64).to(torch.bfloat16), 8, 8), inside(cases.draw(33, 64).to(torch.bfloat16), 8, 8)
    got = weighted_gradient(x, g, None, torch.zeros(64, 64), backend="cuda")
    assert cases.error(got, g.double().T @ x.double()) <= cases.LIMIT[torch.bfloat16]


def rows_of_parts() -> None:
    rows = inside(cases.draw(3, 1000 + 6).float(), 8, 10)
    v, c = inside(cases.draw(1, 1006).float(), 0, 18)[0], cases.draw(3).float()
    assert cases.error(explicit_rows.matvec(rows, v, backend="cuda"), rows.double() @ v.double()) <= 5e-6
    assert cases.error(explicit_rows.rmatvec(rows, c, backend="cuda"), c.double() @ rows.double()) <= 5e-6


PARTS = {
    "ghost_gram.cu": lambda: gram_of_parts(torch.float32),
    "ghost_gram_tensor.cu": lambda: gram_of_parts(torch.bfloat16),
    "weighted_gradient.cu": gradient_of_parts,
    "explicit_rows.cu": rows_of_parts,
    "small_cholesky.cu": lambda: cases.check_small_cholesky(torch.float32, (3, 33, 2), "cuda", "cpu"),
}


@pytest.fixture(scope="module", params=[None, ORDER, BOUNDS], ids=["right", "order", "bounds"])
def maybe_wrong(request, emulated_cuda, tmp_path_factory):
    """The kernels with a fault each, or with none: the module and its faults."""
    faults = request.param
    if faults is None:
        return emulated_cuda, None
    return build(tmp_path_factory.mktemp("wrong"), changes=faults, like=Path(emulated_cuda.__file__).parent), faults


@pytest.mark.parametrize("name", PARTS)
def test_faults_are_found(maybe_wrong, name, monkeypatch):
    module, faults = maybe_wrong
    use(module, monkeypatch)
    found = []
    for turn in range(4):
        seed(module, turn)
        try:
            PARTS[name]()
        except (AssertionError, RuntimeError) as error:
            found.append(error)
    assert bool(found) == (faults is not None)
