"""Per-sample gradients of models that call their layers in unusual ways, against autograd sample by sample."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastunlearn.operators.blocks import make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.sample_gradients import SampleGradients
from tests.operators.sampling import VOCABULARY, make_samples, true_gradients


class Odd(nn.Module):
    """An embedding, two layers that ``between(model, x)`` calls, and an output layer."""

    def __init__(self, between):
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=16, pad_token_id=0)
        self.embed, self.head = nn.Embedding(VOCABULARY, 6), nn.Linear(6, VOCABULARY, bias=False)
        self.first, self.second, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.between = between
        self.double()

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.head(self.between(self, self.embed(input_ids))))


def kept(model, x):
    """The layers run again in the backward."""
    return checkpoint(lambda y: model.second(model.norm(model.first(y).tanh())), x, use_reentrant=False)


def unused(model, x):
    """``first`` and ``norm`` have no part in the loss."""
    model.first(x)
    return model.second(x).tanh()


@pytest.mark.parametrize("between", [kept, unused])
@pytest.mark.parametrize("chosen", ["", "first", "norm"])
def test_odd_models(between, chosen):
    torch.manual_seed(0)
    model, samples = Odd(between), make_samples()
    parameters = {n: p for n, p in model.named_parameters() if n.startswith(chosen)}
    gradients = SampleGradients(model, samples, pad_token_id=0, batch_size=3, parameters=parameters)
    truth = true_gradients(model, samples, list(parameters))
    torch.testing.assert_close(gradients.dense(), truth, rtol=1e-10, atol=1e-12)
    gram = gram_blocks([gradients], [(0, 0)], make_blocks(list(parameters), "model"))[0, 0][0]
    torch.testing.assert_close(gram, truth @ truth.T, rtol=1e-10, atol=1e-12)
