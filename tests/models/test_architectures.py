"""The dual pass against float64 double backward, over the catalogue of architectures."""

from __future__ import annotations

import copy

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


def truth(model, batch, kind, v, params=None):
    """The product with the columns of v, by the oracle, on float64 copies of the model's own weights."""
    wide = copy.deepcopy(model).double()
    operator = {"hessian": fu.Hessian, "ggn": fu.GGN, "fisher": fu.Fisher}[kind](wide, [batch], params=params)
    operator.walk._engine = DoubleBackward(wide, operator.walk.parameters)
    return operator @ v


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
def test_eager_attention(name):
    """The model's own attention, written out in small operations, instead of SDPA."""
    model, batch = build(name, attention="eager"), make_batch(padded=True)
    v = draw(sum(p.numel() for p in model.parameters()), 1)
    assert error(fu.Hessian(model, [batch]) @ v, truth(model, batch, "hessian", v)) <= 1e-10


@pytest.mark.parametrize(
    "name", ["gpt2", "bloom", "falcon", "gemma3", "phi3", "mixtral", "deepseek_v3", "mamba", "invented"]
)
def test_recomputation_by_block(name):
    """Blocks run again in the reverse sweep instead of being kept."""
    model, batch = build(name), make_batch(padded=True)
    v = draw(sum(p.numel() for p in model.parameters()), 2)
    kept = fu.Hessian(model, [batch], memory="store") @ v
    assert error(fu.Hessian(model, [batch], memory="recompute") @ v, kept) <= 1e-12
    assert error(kept, truth(model, batch, "hessian", v)) <= 1e-10


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
    """The Hessian of a choice of parameters; what lies below them is a constant. (Gemma 3 rounds the frozen weights of
    its norms to float32: the oracle follows it there, the rule for norms does not.)"""
    model, batch = build(name), make_batch(padded=True)
    known = [p for p in patterns if any(p.strip("*") in n for n, _ in model.named_parameters())]
    hessian = fu.Hessian(model, [batch], params=known)
    v = draw(hessian.shape[0], 1)
    assert 0 < hessian.shape[0] < sum(p.numel() for p in model.parameters())
    assert error(hessian @ v, truth(model, batch, "hessian", v, known)) <= (1e-6 if name == "gemma3" else 1e-10)


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
