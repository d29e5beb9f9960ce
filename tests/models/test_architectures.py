"""The dual pass against float64 double backward, over the catalogue of architectures."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from tests.models.catalogue import EAGER_ONLY, HAND_WRITTEN, NAMES, build, make_batch
from tests.oracles.double_backward import DoubleBackward

#: Relative errors of a product, in the Euclidean norm over all parameters.
THRESHOLDS = {torch.float64: 1e-10, torch.float32: 1e-5}
MOE = ["mixtral", "qwen3_moe", "deepseek_v3"]
SOME = ["gpt2", "llama", "gemma2", "falcon_alibi", "mixtral", "mamba", "nanogpt", "invented"]


def draw(size, k, seed=3):
    return torch.randn(size, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def truth(model, batch, kind, v):
    """The product with the columns of v, by the oracle, on float64 copies of the model's own weights."""
    wide = build_wide(model)
    oracle = {"hessian": fu.Hessian, "ggn": fu.GGN, "fisher": fu.Fisher}[kind](wide, [batch])
    oracle.walk._engine = DoubleBackward(wide, oracle.walk.parameters)
    return oracle @ v


def build_wide(model):
    import copy

    return copy.deepcopy(model).double()


def error(found, expected):
    return float(torch.nan_to_num((found.double() - expected).norm() / expected.norm(), nan=torch.inf))


@pytest.mark.parametrize("dtype", THRESHOLDS, ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_hessian(name, dtype):
    """Exact; with padding and -100; linear; k at once = one at a time; symmetric."""
    model, batch, limit = build(name, dtype), make_batch(padded=True), THRESHOLDS[dtype]
    hessian = fu.Hessian(model, [batch])
    v = draw(hessian.shape[0], 2).to(dtype)
    found = hessian @ v
    expected = truth(model, batch, "hessian", v.double())
    assert error(found, expected) <= limit
    assert error(hessian @ v[:, 1], expected[:, 1]) <= limit
    combined = hessian @ (2 * v[:, 0] - 3 * v[:, 1])
    assert error(combined, 2 * expected[:, 0] - 3 * expected[:, 1]) <= 3 * limit
    left, right = v[:, 0] @ found[:, 1], v[:, 1] @ found[:, 0]
    assert abs(left - right) <= 10 * limit * v[:, 0].norm() * found[:, 1].norm()


@pytest.mark.parametrize("dtype", THRESHOLDS, ids=["float64", "float32"])
@pytest.mark.parametrize("kind", ["ggn", "fisher"])
@pytest.mark.parametrize("name", SOME)
def test_ggn_and_fisher(name, kind, dtype):
    """Exact, and positive semi-definite."""
    model, batch = build(name, dtype), make_batch(padded=True)
    operator = (fu.GGN if kind == "ggn" else fu.Fisher)(model, [batch])
    v = draw(operator.shape[0], 2).to(dtype)
    found = operator @ v
    assert error(found, truth(model, batch, kind, v.double())) <= THRESHOLDS[dtype]
    assert all((v * found).sum(0) > 0)


@pytest.mark.parametrize("name", sorted(set(NAMES) - EAGER_ONLY - set(HAND_WRITTEN)))
def test_eager_attention_gives_the_same(name):
    """The model's own attention, written out in small operations, instead of SDPA."""
    batch = make_batch(padded=True)
    eager, fused = build(name, attention="eager"), build(name)
    v = draw(sum(p.numel() for p in eager.parameters()), 1)[:, 0]
    assert error(fu.Hessian(eager, [batch]) @ v, fu.Hessian(fused, [batch]) @ v) <= 1e-10


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bloom"])
def test_left_padding(name):
    model, batch = build(name), make_batch()
    batch["attention_mask"][1, :3] = 0
    batch["labels"][1, :3] = -100
    v = draw(sum(p.numel() for p in model.parameters()), 1)
    assert error(fu.Hessian(model, [batch]) @ v, truth(model, batch, "hessian", v)) <= 1e-10


@pytest.mark.parametrize("name", ["gpt2", "llama_tied", "gemma3", "mixtral", "invented"])
@pytest.mark.parametrize("patterns", [["*1.*"], ["*norm*", "*ln*", "*bias*", "*scale*"]], ids=["last layer", "small"])
def test_some_parameters(name, patterns):
    """A choice of parameters gives the block of the whole Hessian."""
    model, batch = build(name), make_batch(padded=True)
    known = [p for p in patterns if any(p.strip("*") in n for n, _ in model.named_parameters())]
    part, whole = fu.Hessian(model, [batch], params=known), fu.Hessian(model, [batch])
    v = draw(part.shape[0], 1)[:, 0]
    inside = torch.cat([
        torch.full((p.numel(),), n in part.walk.parameters) for n, p in model.named_parameters()
    ])  # fmt: skip
    full = torch.zeros(whole.shape[0], dtype=torch.float64).masked_scatter(inside, v)
    assert error(part @ v, (whole @ full)[inside]) <= 1e-10


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_inputs_embeds(name):
    """Embeddings given instead of tokens: constants, with a mask and labels."""
    model, batch = build(name), make_batch(padded=True)
    embedded = model.get_input_embeddings()(batch.pop("input_ids")).detach()
    batch["inputs_embeds"] = embedded
    hessian = fu.Hessian(model, [batch], allow_unused=True)
    v = draw(hessian.shape[0], 1)
    oracle = fu.Hessian(model, [batch], allow_unused=True)
    oracle.walk._engine = DoubleBackward(model, oracle.walk.parameters)
    assert error(hessian @ v, oracle @ v) <= 1e-10


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_reference_itself(name):
    """Double backward against differences of gradients: the truth of this file has another witness."""
    model, batch = build(name), make_batch(padded=True)
    parameters = dict(model.named_parameters())
    oracle, v = DoubleBackward(model, parameters), draw(sum(p.numel() for p in parameters.values()), 1)[:, 0]
    step = 1e-5 / v.abs().max()

    def gradient(at):
        space = fu.Hessian(model, [batch]).space
        start = torch.nn.utils.parameters_to_vector(parameters.values()).detach()
        torch.nn.utils.vector_to_parameters(start + at * step * v, parameters.values())
        out = space.zeros(1)
        oracle.gradient(batch, out)
        torch.nn.utils.vector_to_parameters(start, parameters.values())
        return torch.cat([out[n].flatten() for n in parameters])

    assert error((gradient(1) - gradient(-1)) / (2 * step), truth(model, batch, "hessian", v)) <= 1e-6
