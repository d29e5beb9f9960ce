"""A batch, and dense matrices in float64, for the analyses' tests."""

import pytest
import torch

import fastunlearn as fu


@pytest.fixture
def batch():
    """Six rows of seven tokens, one of them a prompt that is no target, and one padded."""
    ids = torch.randint(3, 37, (6, 7), generator=torch.Generator().manual_seed(1))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[1, :3] = -100
    labels[4, 5:], mask[4, 5:] = -100, 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture
def hessian(tiny_llama, batch):
    """A Hessian of 400 weights."""
    return fu.Hessian(tiny_llama(layers=1), batch, params=["*down_proj*", "*norm*"])


@pytest.fixture
def dense(hessian):
    """The same, formed."""
    return hessian @ torch.eye(hessian.shape[0], dtype=torch.float64)
