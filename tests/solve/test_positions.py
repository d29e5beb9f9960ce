"""Positions that are added to a batch are those that the model takes by itself: per-sample gradients of models that
count in every way, with and without padding on the left, against autograd on the batch as it was given."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

import fastunlearn as fu

SIZES = {
    "vocab_size": 53, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 24, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "initializer_range": 0.2,
}  # fmt: skip
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KINDS = {
    "gpt2": {"n_positions": 24, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {},
    "bert": {"is_decoder": True, **STILL},
    "roberta": {"is_decoder": True, "type_vocab_size": 1, **STILL},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0},
}
TABLES = {
    "gpt2": "transformer.wpe.weight", "bert": "bert.embeddings.position_embeddings.weight",
    "roberta": "roberta.embeddings.position_embeddings.weight",
}  # fmt: skip


def make(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**SIZES, **KINDS[kind]})
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double().eval()


def a_batch(left):
    """Three sequences, the second with padding on one side, before or behind it."""
    ids = torch.randint(3, 53, (3, 7), generator=torch.Generator().manual_seed(4))
    mask, labels = torch.ones_like(ids), ids.clone()
    pad = slice(0, 3) if left else slice(5, 7)
    mask[1, pad], ids[1, pad], labels[1, pad] = 0, 1, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def rows(model, batch):
    """G by autograd, on the model as it is called."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    found = []
    for z, y in zip(logits[:, :-1], batch["labels"][:, 1:], strict=True):
        loss = F.cross_entropy(z, y, reduction="sum")
        own = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in own]))
    return torch.stack(found)


def error(found, truth):
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_count_positions_in_their_own_way(kind):
    model = make(kind)
    for left in (False, True):
        batch = a_batch(left)
        g = rows(model, batch)
        fisher = fu.LowRankFisher(model, [batch], 1e-3)
        v = torch.randn(g.shape[1], dtype=torch.float64)
        assert error(fisher.gram[0], g @ g.T) < 1e-6  # Llama's norms compute in float32 inside
        assert error(fisher @ v, 1e-3 * v + g.T @ (g @ v) / 3) < 1e-6
    plain = {name: value[:1] for name, value in batch.items()}
    assert TABLES.get(kind) not in fu.LowRankFisher(model, [plain], 1e-3)._plan.generic  # the rule holds, as before


class Backwards(torch.nn.Module):
    """Counts from the end, as no other model does."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(53, 6), torch.nn.Embedding(24, 6)
        self.head = torch.nn.Linear(6, 53)

    def forward(self, input_ids, position_ids=None):
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], 0, -1)[None]
        return self.head(torch.tanh(self.tokens(input_ids) + self.places(position_ids)))


def test_a_way_that_nobody_knows_is_left_to_the_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Backwards().double()
    ids = a_batch(False)["input_ids"]
    truth = []
    for z, y in zip(model(ids)[:, :-1], ids[:, 1:], strict=True):
        own = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), list(model.parameters()), retain_graph=True)
        truth.append(torch.cat([g.flatten() for g in own]))
    g = torch.stack(truth)
    fisher = fu.LowRankFisher(model, [{"input_ids": ids, "labels": ids}], 1e-3)
    assert error(fisher.gram[0], g @ g.T) < 1e-10
