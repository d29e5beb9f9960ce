"""Whole products on a pretended GPU (tests/emulated_cuda/device.py), with the Triton kernels that a real one would run
(started by tests/ops/test_triton_interpreter.py)."""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import _dispatch, linear_cross_entropy
from fastunlearn.ops.ghost_gram import ghost_gram
from tests.emulated_cuda.device import pretended_gpu
from tests.ops.gram_cases import check, dense_gram, make_tokens
from tests.ops.linear_cases import HeadCase, head_case


@pytest.mark.parametrize("kind, family", [("Hessian", "llama"), ("GGN", "gpt2")])
def test_products(kind, family, tiny_llama, tiny_gpt2, monkeypatch):
    model = (tiny_llama if family == "llama" else tiny_gpt2)(torch.float32, layers=1, attention="sdpa")
    ids = torch.randint(1, 37, (2, 7))
    vectors = torch.randn(sum(p.numel() for p in model.parameters()), 2)
    truth = getattr(fu, kind)(copy.deepcopy(model).double(), {"input_ids": ids, "labels": ids}) @ vectors.double()
    chosen = []
    import_module = _dispatch.backend_module
    monkeypatch.setattr(_dispatch, "why_not_live", lambda name: "" if name in ("triton", "reference") else "not here")

    def seen(package, backend):
        chosen.append(backend)
        return import_module(package, backend)

    for module in ("attention", "norm", "linear", "linear_cross_entropy", "activation", "gated_mlp", "rope"):
        monkeypatch.setattr(f"fastunlearn.ops.{module}.backend_module", seen)
    with pretended_gpu():
        model.to("cuda")
        there = ids.to("cuda")
        got = getattr(fu, kind)(model, {"input_ids": there, "labels": there}) @ vectors.to("cuda")
        assert got.device.type == "cuda"
        got = got.cpu()
    assert set(chosen) == {"triton"}
    assert (got.double() - truth).abs().max() <= 1e-4 * truth.abs().max()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(_dispatch, "why_not_live", lambda name: "" if name in ("triton", "reference") else "not here")
    with pretended_gpu() as found:
        yield found


@pytest.mark.parametrize("kind, family", [("Hessian", "llama"), ("GGN", "gpt2")])
def test_products_in_a_recording(kind, family, tiny_llama, tiny_gpt2, gpu):
    """Nothing waits for a value; tokens without a loss count for nothing there too."""
    model = (tiny_llama if family == "llama" else tiny_gpt2)(torch.float32, layers=2, attention="sdpa")
    ids = torch.randint(1, 37, (2, 7))
    labels = ids.clone()
    labels[0, :4] = -100
    size = sum(p.numel() for p in model.parameters())
    warm, vector = torch.randn(size), torch.randn(size)
    truth = getattr(fu, kind)(copy.deepcopy(model).double(), {"input_ids": ids, "labels": labels}) @ vector.double()
    model.to("cuda")
    warm, there = warm.to("cuda"), vector.to("cuda")
    operator = getattr(fu, kind)(model, {"input_ids": ids.to("cuda"), "labels": labels.to("cuda")})
    operator @ warm
    with gpu.recording():
        got = operator @ there
    assert (got.cpu().double() - truth).abs().max() <= 1e-4 * truth.abs().max()


def test_a_product_that_was_not_warmed_up(tiny_gpt2, gpu):
    model = tiny_gpt2(torch.float32, layers=2, attention="sdpa").to("cuda")
    ids = [torch.randint(1, 37, (2, length)).to("cuda") for length in (7, 5)]
    operator = fu.GGN(model, [{"input_ids": some, "labels": some} for some in ids])
    vector = torch.ones(operator.shape[0]).to("cuda")
    with gpu.recording(), pytest.raises(InvalidInputError, match="as a warm-up"):
        operator @ vector


def losses(name: str, case: HeadCase, sums: torch.Tensor) -> list[torch.Tensor]:
    """What the function of that name gives, and the sums that it adds to."""
    call, layer, dual = getattr(linear_cross_entropy, name), case.layer(), {"bias_t": case.bias_t, **case.layer()}
    if name == "forward":
        return [call(case.x, case.weight, case.labels, **layer)]
    if name == "dual_forward":
        return list(call(*case.tangents(), **dual))
    if name == "backward":
        return [*call(case.x, case.weight, case.labels, case.token_weights, True, sums, **layer), sums]
    return [*call(*case.tangents(), case.token_weights, True, sums, **dual), sums]


@pytest.mark.parametrize("name", ["forward", "dual_forward", "backward", "hessian_product", "ggn_product"])
def test_losses_in_a_recording(name, gpu):
    """Where labels are -100 or weights 0, nothing comes out: as without a recording, where such tokens are left out.
    Not even where they hold no numbers."""
    case = head_case(23, 17, 63, 2, dtype=torch.float32, bias=True, softcap=20.0)
    case.labels[::3], case.token_weights[1::4] = -100, 0.0
    case.x[::6], case.xt[:, 3::6] = float("nan"), float("inf")
    shape = tuple(case.weight.shape) if name == "backward" else (2, *case.weight.shape)
    truth = losses(name, case.to(torch.float64), torch.zeros(shape, dtype=torch.float64))
    there = replace(case, **{f.name: value.to("cuda") for f in fields(case)
                             if isinstance(value := getattr(case, f.name), torch.Tensor)})  # fmt: skip
    sums = torch.zeros(shape, device="cuda")
    with gpu.recording():
        got = losses(name, there, sums)
    for value, want in zip(got, truth, strict=True):
        assert (value.cpu().double() - want).abs().max() <= 1e-5 * want.abs().max()
        assert torch.equal(value.cpu() == 0, want == 0)


def test_ghost_gram_in_a_recording(gpu):
    tokens = make_tokens([5, 0, 1, 40, 17], 20, 33, torch.float32)
    x, g, offsets = (value.to("cuda") for value in tokens)
    with gpu.recording():
        got = ghost_gram(x, g, offsets)
        with pytest.raises(InvalidInputError, match="offsets1 is on cpu"):
            ghost_gram(x, g, tokens.offsets)
    check(got.cpu(), dense_gram(tokens))
