"""RMU reads one layer's activations by a hook, which hears its own thread alone."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import torch
from torch import nn

from fastunlearn.data.encode import Encoded
from fastunlearn.unlearn.methods.rmu import _Layer


class Disturbed(nn.Module):
    """Before its own call of the layer another thread calls it with other tokens."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=16, pad_token_id=0)
        self.embed, self.layer = nn.Embedding(7, 3), nn.Linear(3, 3)

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        other = threading.Thread(target=lambda: self.layer(torch.zeros(2, 2, 3)))
        other.start()
        other.join()
        return self.layer(self.embed(input_ids))


def test_activations_of_this_thread():
    model, tokens = Disturbed(), torch.tensor([1, 4, 2])
    layer = object.__new__(_Layer)
    layer._request, layer._module = SimpleNamespace(model=model, pad_token_id=0), model.layer
    found = layer([Encoded(tokens, torch.tensor([-100, 4, 2]))])
    torch.testing.assert_close(found, model.layer(model.embed(tokens)))
