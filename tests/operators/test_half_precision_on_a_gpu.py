"""Per-sample gradients of a bfloat16 model on a (pretended) GPU: matrix units, and an output layer without its logits.

The truth is float64 at the same weights. The model's own passes in bfloat16 are off by some per cent, so the limit is
the error of the ways of the CPU, which widen every factor, and a little more.
"""

from __future__ import annotations

import copy

import pytest
import torch

from fastunlearn.operators.blocks import make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.head import HeadSource
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.sources import LinearSource, weighted_sum
from fastunlearn.ops import _gemm
from tests.operators.sampling import flat, make_samples, true_gradients
from tests.ops.sample_space_cases import check_direction, damped, draw, nearly_singular


@pytest.fixture
def units(gpu, monkeypatch):
    """The pretended GPU, whose matrix units are products of widened factors; small chunks."""
    monkeypatch.setattr(_gemm, "CHUNK", 64)
    return gpu


def operator(model, memory="1GB") -> SampleGradients:
    return SampleGradients(model, make_samples(), pad_token_id=0, batch_size=3, memory=memory)


def results(model, device: str, memory: str) -> tuple[list[torch.Tensor], list[type]]:
    """K in one block, and G^T c from a pass and from factors, in float64; and of which kind the output layer's source
    is."""
    model = copy.deepcopy(model).to(device)
    g = operator(model, memory)
    c = torch.linspace(-1, 2, len(g), dtype=torch.float64).to(device)
    head = model.get_output_embeddings().weight
    kinds, from_factors = [], {}
    for name, found in g.passes():
        from_factors[name] = weighted_sum(found, c, g.parameters[name].shape)
        kinds += [type(one) for one in found] if g.parameters[name] is head else []
    k = gram_blocks([g], [(0, 0)], make_blocks(list(g.parameters), "model"))[0, 0][0]
    sums = [flat(operator(model).weighted_gradient(c)), flat({name: from_factors[name] for name in g.parameters})]
    return [t.cpu().double() for t in (k, *sums)], kinds


def relative(got, truth) -> float:
    return ((got - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("memory", ["1GB", "60KB"], ids=["kept", "layer by layer"])
def test_against_float64(units, tiny_llama, tied, memory):
    model = tiny_llama(torch.bfloat16, tied=tied, layers=2, attention="sdpa")
    truth = true_gradients(copy.deepcopy(model).double(), make_samples())
    c = torch.linspace(-1, 2, len(truth), dtype=torch.float64)
    wanted = truth @ truth.T, c @ truth, c @ truth
    plain, _ = results(model, "cpu", memory)
    with units("cuda"):
        found, kinds = results(model, "cuda", memory)
    for got, own, want in zip(found, plain, wanted, strict=True):
        assert relative(got, want) <= 1.3 * relative(own, want) + 2e-3, (relative(got, want), relative(own, want))
    assert memory == "1GB" or HeadSource in kinds, "the output layer's gradients were kept"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_of_a_solve(units, dtype):
    x, g, system = nearly_singular(dtype)
    c = system[2]
    offsets = torch.arange(0, len(x) + 1, len(x) // len(c))
    shape = torch.Size((g.shape[1], x.shape[1]))
    with units("cuda"):
        factors = [value.to("cuda") for value in (x, g, offsets)]
        check_direction(LinearSource(*factors).weighted(c.to("cuda"), shape), *system)


def test_weights_of_a_solve_in_the_output_layer(units):
    """As above, with gradients of the logits that are made anew."""
    length, samples, classes = 8, 24, 40
    x = (draw(length, 16).repeat(samples, 1) + 0.1 * draw(samples * length, 16, seed=1)).bfloat16()
    weight, labels = draw(classes, 16, seed=2).bfloat16(), torch.arange(length).repeat(samples)
    offsets = torch.arange(0, len(x) + 1, length)
    lse = torch.logsumexp(x.float() @ weight.float().T, 1)
    with units("cuda"):
        factors = (x, weight, labels, lse, torch.full_like(lse, 1 / length), offsets)
        source = HeadSource(*(value.to("cuda") for value in factors))
        system = damped(x, source.g.cpu(), samples)
        check_direction(source.weighted(system[2].to("cuda"), weight.shape), *system)
