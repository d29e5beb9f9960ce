"""A batch for the optimizers' tests."""

import pytest
import torch


@pytest.fixture
def batch():
    """Five rows of seven tokens, one of them a prompt that is no target, and one padded."""
    ids = torch.randint(3, 37, (5, 7), generator=torch.Generator().manual_seed(1))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[1, :3] = -100
    labels[4, 5:], mask[4, 5:] = -100, 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
