"""A tiny model that has learnt some questions and one that has not learnt those to forget: made once."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.evaluation.datasets import make_dataset
from fastunlearn.evaluation.subject import make_subject


@pytest.fixture(scope="session")
def subject():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = make_dataset("questions", seed=0, forget_people=1, retain_people=4, held_out_people=4, fresh=6)
        return make_subject(data, 0, layers=1, width=32, steps=150, batch_size=16, learning_rate=1e-2)
    finally:
        torch.set_num_threads(threads)
