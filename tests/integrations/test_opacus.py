"""Opacus: its per-sample gradients (``grad_sample``) are the rows of our G."""

from __future__ import annotations

import copy

import pytest
import torch

import fastunlearn as fu
from fastunlearn.data.encode import collate
from fastunlearn.operators.sample_gradients import SampleGradients

# Opacus measures privacy by many packages; what is used here is its per-sample gradients alone.
grad_sample = pytest.importorskip("opacus.grad_sample", exc_type=ImportError)

EXACT = 1e-5  # float32 activations inside the model's norms


def theirs(model, batch) -> dict[str, torch.Tensor]:
    """Opacus' gradient of every sequence's summed loss, by parameter."""
    wrapped = grad_sample.GradSampleModule(copy.deepcopy(model).train(), loss_reduction="sum", strict=False)
    positions = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    logits = wrapped(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=positions,
                     use_cache=False).logits  # fmt: skip
    torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    ).backward()
    return {name.removeprefix("_module."): p.grad_sample for name, p in wrapped.named_parameters()}


@pytest.fixture
def both(world):
    model = world.model.double()
    samples = world.encoded(world.retain[:5])
    return model, samples, theirs(model, collate(samples, pad_token_id=0))


def test_rows_of_g(both):
    model, samples, found = both
    ours = SampleGradients(model, samples, pad_token_id=0)
    wanted = torch.cat([found[name].flatten(1) for name in ours.parameters], 1)
    assert list(found) == list(ours.parameters)
    assert (ours.dense() - wanted).norm() < EXACT * wanted.norm()


def test_the_gram_and_products_of_g(both):
    from fastunlearn.operators.blocks import make_blocks
    from fastunlearn.operators.gram import gram_blocks

    model, samples, found = both
    ours = SampleGradients(model, samples, pad_token_id=0)
    g = torch.cat([found[name].flatten(1) for name in ours.parameters], 1).double()
    gram = gram_blocks([ours], [(0, 0)], make_blocks(list(ours.parameters), "model"))[0, 0][0]
    assert (gram - g @ g.T).norm() < EXACT * (g @ g.T).norm()
    v = torch.randn(g.shape[1], dtype=torch.float64)
    batch = collate(samples, pad_token_id=0)
    assert (fu.per_sample_dot(model, batch, v) - g @ v).norm() < EXACT * (g @ v).norm()
    c = torch.randn(len(samples), dtype=torch.float64)
    assert (fu.weighted_gradient(model, batch, c) - g.T @ c).norm() < EXACT * (g.T @ c).norm()
