"""LowRankFisher, influence and the natural gradient on one's own module; and adapters that change the tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.optim.natural_gradient import natural_gradient

IDS = torch.randint(0, 19, (3, 7), generator=torch.Generator().manual_seed(1))
BATCH = {"input_ids": IDS, "labels": IDS}


class Own(torch.nn.Module):
    """Knows no mask, no cache and no output class of transformers."""

    def __init__(self, answer):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.tokens, self.head = torch.nn.Embedding(19, 6), torch.nn.Linear(6, 19)
        self.answer = answer
        self.double()

    def logits(self, ids):
        return self.head(torch.tanh(self.tokens(ids).cumsum(1)))

    def forward(self, input_ids, labels=None):
        z = self.logits(input_ids)
        loss = None if labels is None else F.cross_entropy(z[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"mapping": {"loss": loss, "logits": z}, "tuple": (loss, z), "tensor": z}[self.answer]


class Both(Own):
    """Cannot be called without labels."""

    def forward(self, input_ids, labels):
        return super().forward(input_ids, labels)


def rows(model, logits=None, labels=IDS):
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for z, y in zip((model.logits(IDS) if logits is None else logits)[:, :-1], labels[:, 1:], strict=True):
        own = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), parameters, retain_graph=True)
        found.append(torch.cat([g.flatten() for g in own]))
    return torch.stack(found)


def error(found, truth):
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize("make, answer", [(Own, "mapping"), (Own, "tuple"), (Own, "tensor"), (Both, "mapping")])
def test_low_rank_fisher(make, answer):
    model = make(answer)
    g = rows(model)
    truth = 1e-2 * torch.eye(g.shape[1], dtype=torch.float64) + g.T @ g / 3
    v, c = torch.randn(g.shape[1], dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    fisher = fu.LowRankFisher(model, [BATCH], 1e-2)
    assert error(fisher.solve(v), torch.linalg.solve(truth, v)) < 1e-10
    assert error(fisher.solve_samples(c), torch.linalg.solve(truth, g.T @ c)) < 1e-10
    if answer == "mapping":  # the dual pass needs the loss
        assert error(fisher @ v, truth @ v) < 1e-10
    tight = fu.LowRankFisher(model, [BATCH], 1e-2, memory="300KB")
    assert error(tight.solve_samples(c), torch.linalg.solve(truth, g.T @ c)) < 1e-10


@pytest.mark.parametrize("kind", ["sampled", "ggn"])
def test_other_kinds(kind):
    model, batch = Own("mapping"), {name: t[:1, :4] for name, t in BATCH.items()}
    fisher = fu.LowRankFisher(model, [batch], 1e-2, kind=kind)
    v = torch.randn(fisher.shape[0], dtype=torch.float64)
    if kind == "ggn":
        truth = fu.GGN(model, [batch], reduction="samples") @ v + 1e-2 * v
        assert error(fisher @ v, truth) < 1e-10
    assert error(fisher @ fisher.solve(v), v) < 1e-10


def test_influence_and_natural_gradient():
    model = Own("mapping")
    g = rows(model)
    inverse = torch.linalg.inv(1e-2 * torch.eye(g.shape[1], dtype=torch.float64) + g.T @ g / 3)
    found = fu.influence(model, [BATCH], [BATCH], damping=1e-2)
    assert error(found.scores, g @ inverse @ g.T / 3) < 1e-10
    step = natural_gradient(model, BATCH, damping=1e-2)
    assert error(torch.cat([t.flatten() for t in step.tensors.values()]), inverse @ g.mean(0)) < 1e-10


def test_samples_of_several_lengths_are_padded_behind():
    model = Own("mapping")
    short = {name: t[:1, :4] for name, t in BATCH.items()}
    g = torch.cat([rows(model), rows(model, model.logits(IDS[:1, :4]), IDS[:1, :4])])
    assert error(fu.LowRankFisher(model, [BATCH, short], 1e-2).gram[0], g @ g.T) < 1e-10


def test_a_module_without_logits_is_told_so():
    class Silent(Own):
        def forward(self, input_ids, labels=None):
            return super().forward(input_ids, labels)["loss"]

    with pytest.raises(InvalidInputError, match="returns no logits"):
        fu.LowRankFisher(Silent("mapping"), [BATCH], 1e-2)


def test_prompt_tuning(tiny_gpt2):
    """A prompt of 3 places in front: refused in plain words where places are counted; the Fisher operator has it, and
    leaves out the first token, which the prompt would predict."""
    peft = pytest.importorskip("peft")
    options = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(tiny_gpt2(layers=1), options).double().eval()
    v = torch.randn(sum(p.numel() for p in model.parameters() if p.requires_grad), dtype=torch.float64)
    for call in (lambda: fu.LowRankFisher(model, [BATCH], 1e-2), lambda: fu.Fisher(model, [BATCH], kind="sampled") @ v):
        with pytest.raises(InvalidInputError, match="prompt tuning"):
            call()
    labels = IDS.clone()
    labels[:, 0] = -100
    g = rows(model, model(input_ids=IDS).logits[:, 3:])
    assert error(fu.Fisher(model, [{"input_ids": IDS, "labels": labels}]) @ v, g.T @ (g @ v) / 3) < 1e-10
