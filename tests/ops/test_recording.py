"""While a CUDA graph is recorded nothing may wait for the GPU: the CUDA kernels (emulated) on a pretended GPU that is
being recorded. Those of Triton: tests/ops/interpreted/check_on_a_gpu.py. On a GPU: bench/device.sh check."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import _dispatch, explicit_rows, small_cholesky
from fastunlearn.ops.ghost_gram import formed_gram, ghost_gram, gram
from fastunlearn.ops.ghost_gram.cost import choose_route
from fastunlearn.ops.weighted_gradient import weighted_gradient
from tests.emulated_cuda.device import pretended_gpu
from tests.ops.gram_cases import check, dense_gram, make_tokens


@pytest.fixture
def gpu(emulated_cuda, monkeypatch):
    load = _dispatch._load
    monkeypatch.setattr(_dispatch, "_load", lambda name: (emulated_cuda, "") if name == "cuda" else load(name))
    with pretended_gpu() as found:
        yield found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("two", [False, True], ids=["one set", "two sets"])
def test_ghost_gram(gpu, dtype, two):
    first, second = make_tokens([5, 0, 1, 40, 17], 20, 33, dtype), make_tokens([9, 30, 0], 20, 33, dtype, seed=1)
    there = [value.to("cuda") for tokens in ((first, second) if two else (first,)) for value in tokens]
    with gpu.recording():
        got = ghost_gram(*there, backend="cuda")
    check(got.cpu(), dense_gram(first, second) if two else dense_gram(first))


def test_gram_takes_the_way_that_waits_for_nothing(gpu):
    """Few samples of many tokens: without a recording their gradients are formed."""
    tokens = make_tokens([300, 212], 4, 5, torch.float32)
    assert choose_route(512, 512, 2, 2, 4, 5, True, "cuda") == "formed"
    there = [value.to("cuda") for value in tokens]
    check(gram(*there, backend="cuda").cpu(), dense_gram(tokens))
    with gpu.recording():
        got = gram(*there, backend="cuda")
        for call in (lambda: gram(*there, route="formed"), lambda: formed_gram(*there)):
            with pytest.raises(InvalidInputError, match="while a CUDA graph is recorded: use ghost_gram"):
                call()
    check(got.cpu(), dense_gram(tokens))


def test_weighted_gradient_in_float16(gpu):
    """Its unit is made where the weights are."""
    x, g, w = torch.randn(30, 17).half(), torch.randn(30, 9).half(), 1e-6 * torch.rand(30)
    there = [value.to("cuda") for value in (x, g, w)]
    with gpu.recording():
        got = weighted_gradient(*there, torch.zeros(9, 17, device="cuda"), backend="cuda")
    want = (g.double() * w.double()[:, None]).T @ x.double()
    assert (got.cpu() - want).abs().max() <= 1e-5 * want.abs().max()


def test_offsets_on_the_cpu_are_refused(gpu):
    tokens = make_tokens([5, 3], 4, 4, torch.float32)
    x, g = tokens.x.to("cuda"), tokens.g.to("cuda")
    with gpu.recording(), pytest.raises(InvalidInputError, match="offsets1 is on cpu: give it on cuda:0"):
        ghost_gram(x, g, tokens.offsets, backend="cuda")


def test_other_kernels(gpu):
    rows, v, c = torch.randn(7, 1001), torch.randn(1001), torch.randn(7)
    x, g, w, a = torch.randn(30, 17), torch.randn(30, 9), torch.rand(30), torch.randn(3, 5, 5)
    a, rhs = a @ a.mT, torch.randn(3, 5, 2)
    there = [value.to("cuda") for value in (rows, v, c, x, g, w, a, rhs)]
    with gpu.recording():
        rows_, v_, c_, x_, g_, w_, a_, rhs_ = there
        got = [
            explicit_rows.matvec(rows_, v_, backend="cuda"), explicit_rows.rmatvec(rows_, c_, backend="cuda"),
            weighted_gradient(x_, g_, w_, torch.zeros(9, 17, device="cuda"), backend="cuda"),
            *small_cholesky.solve(a_, rhs_, 0.5, backend="cuda"),
        ]  # fmt: skip
    shifted = (a + 0.5 * torch.eye(5)).double()
    truth = [rows @ v, c @ rows, (g * w[:, None]).T @ x, torch.linalg.solve(shifted, rhs.double()), torch.zeros(3)]
    for value, want in zip(got, truth, strict=True):
        torch.testing.assert_close(value.cpu().double(), want.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wait", [
    lambda x: x.sum().item(), lambda x: bool((x > 0).any()), lambda x: x[x > 0], lambda x: x.nonzero(),
    lambda x: x.cpu(), lambda x: x.tolist(), lambda x: x.copy_(torch.zeros(3)), lambda x: torch.unique(x),
    lambda x: torch.tensor([1.0], device=x.device),
], ids=["item", "bool", "mask", "nonzero", "cpu", "tolist", "copy", "unique", "tensor"])  # fmt: skip
def test_a_recording_permits_no_waiting(gpu, wait):
    """What the other tests rest on."""
    x = torch.randn(3, device="cuda")
    wait(x)
    with gpu.recording(), pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        wait(x)
