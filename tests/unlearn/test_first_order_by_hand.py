"""The losses of the first-order methods on a model small enough to work them out by hand.

The model predicts every token by the same logits, a vector: log p of a record with token counts n is
``n.logits - |n| logsumexp(logits)``, and its gradient ``n - |n| softmax(logits)``. All records are in every batch.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.unlearn import unlearn

LOGITS = (0.3, -0.2, 0.9, 0.0)
FORGET, RETAIN = ([0, 0, 2], [3]), ([1, 1], [2, 3, 3])  # target tokens of each record
RATE = 0.05


class Unigram(torch.nn.Module):
    """The same next-token logits everywhere."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=16, pad_token_id=0)
        self.head = torch.nn.Linear(1, 4, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(LOGITS, dtype=torch.float64)[:, None])

    @property
    def vector(self) -> torch.Tensor:
        return self.head.weight.detach()[:, 0]

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        return SimpleNamespace(logits=self.head(torch.ones(*input_ids.shape, 1, dtype=torch.float64)))


def encoded(records) -> list[Encoded]:
    return [Encoded(torch.tensor([1, *r]), torch.tensor([-100, *r])) for r in records]


def counts(record) -> torch.Tensor:
    return torch.bincount(torch.tensor(record), minlength=4).double()


def log_p(records, v) -> list[torch.Tensor]:
    return [counts(r) @ v - len(r) * torch.logsumexp(v, 0) for r in records]


def log_p_slopes(records, v) -> list[torch.Tensor]:
    return [counts(r) - len(r) * v.softmax(0) for r in records]


def mean_slope(records, v) -> torch.Tensor:
    """Of the mean log-likelihood over target tokens."""
    return sum(log_p_slopes(records, v)) / sum(len(r) for r in records)


def adam(slope, steps) -> torch.Tensor:
    """Kingma & Ba 2015, algorithm 1, with the usual constants."""
    v = torch.tensor(LOGITS, dtype=torch.float64)
    first, second = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for t in range(1, steps + 1):
        g = slope(v)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        v = v - RATE * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return v


def result(method, steps, **options) -> tuple[torch.Tensor, object]:
    model = Unigram()
    per_step = 4 if method in ("gradient-difference", "npo-retain") else 2
    found = unlearn(
        model, forget=encoded(FORGET), retain=encoded(RETAIN), method=method, learning_rate=RATE,
        gradients=steps * per_step, target_accuracy=0.0, target_loss=99.0, **options,
    )  # fmt: skip
    assert (found.gradients, found.steps[-1]["step"]) == (steps * per_step, steps)
    return model.vector, found


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_gradient_ascent_and_difference(steps, weight):
    expected = adam(lambda v: mean_slope(FORGET, v) - weight * mean_slope(RETAIN, v), steps)
    if weight == 0:
        got, _ = result("gradient-ascent", steps)
    else:
        got, _ = result("gradient-difference", steps, retain_weight=weight)
    assert torch.allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_finetune(steps):
    got, _ = result("finetune", steps)
    assert torch.allclose(got, adam(lambda v: -mean_slope(RETAIN, v), steps), atol=1e-12)


@pytest.mark.parametrize(("method", "weight"), [("npo", 0.0), ("npo-retain", 1.0), ("npo-retain", 2.5)])
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_npo(method, weight, beta):
    """The slope of -(2/beta) log sigmoid(-beta r), r = log p / p_original, is 2 sigmoid(beta r): 1 at the start, so
    that the first step is gradient ascent's on whole records, and fading as r falls."""
    start = log_p(FORGET, torch.tensor(LOGITS, dtype=torch.float64))

    def slope(v):
        weights = [2 * torch.sigmoid(beta * (now - then)) for now, then in zip(log_p(FORGET, v), start, strict=True)]
        pull = sum(w * s for w, s in zip(weights, log_p_slopes(FORGET, v), strict=True)) / len(FORGET)
        return pull - weight * mean_slope(RETAIN, v)

    got, _ = result(method, 6, beta=beta, **({"retain_weight": weight} if weight > 1 else {}))
    assert torch.allclose(got, adam(slope, 6), atol=1e-12)


def test_the_first_step_of_ascent_goes_down_where_the_forget_records_are():
    """By hand: the forget records have tokens 0, 0, 2, 3, so shares (1/2, 0, 1/4, 1/4) against the softmax of
    LOGITS, (.240, .146, .437, .178): Adam's first step is the rate long and down for 0 and 3, up for 1 and 2."""
    got, found = result("gradient-ascent", 1)
    moved = got - torch.tensor(LOGITS, dtype=torch.float64)
    assert torch.allclose(moved, RATE * torch.tensor([-1.0, 1, 1, -1], dtype=torch.float64), atol=1e-6)
    assert found.steps[1]["forget_loss"] > found.steps[0]["forget_loss"]


def test_the_loss_in_the_step_log():
    _, found = result("gradient-ascent", 1)
    total = math.log(sum(math.exp(x) for x in LOGITS))
    by_hand = -(2 * 0.3 + 0.9 + 0.0 - 4 * total) / 4
    assert found.steps[0]["forget_loss"] == pytest.approx(by_hand, abs=1e-12)
    assert found.steps[0]["forget_accuracy"] == 0.25  # token 2 is the likeliest everywhere


def test_a_loss_that_is_not_finite_stops_the_run_and_restores():
    class Broken(Unigram):
        def forward(self, input_ids, attention_mask=None, use_cache=False):
            found = super().forward(input_ids)
            if torch.is_grad_enabled() and not torch.equal(self.vector, self.start):
                found.logits = found.logits * math.inf
            return found

    model = Broken()
    model.start = model.vector.clone()
    with pytest.raises(InvalidInputError, match="lower learning_rate"):
        unlearn(model, forget=encoded(FORGET), method="gradient-ascent", target_loss=99.0)
    assert torch.equal(model.vector, model.start) and model.head.weight.grad is None


@pytest.mark.parametrize(("method", "weight"), [("bounded-ascent", 0.0), ("bounded-difference", 3.0)])
def test_the_bounded_pull(method, weight):
    """Down the sum of softplus(z - t), z the log-odds of a target and t those of a token with the target loss: the
    slope of z is that of log p over 1 - p."""
    loss = 1.2
    t = -math.log(math.exp(loss) - 1)

    def slope(v):
        p = v.softmax(0)
        z = torch.log(p) - torch.log1p(-p)
        pull = torch.zeros(4, dtype=torch.float64)
        tokens = [token for record in FORGET for token in record]
        for token in tokens:
            one = torch.zeros(4, dtype=torch.float64)
            one[token] = 1
            pull += torch.sigmoid(z[token] - t) * (one - p) / (1 - p[token])
        return pull / len(tokens) - weight * mean_slope(RETAIN, v)

    model = Unigram()
    options = {"retain_weight": weight} if weight else {}
    found = unlearn(
        model, forget=encoded(FORGET), retain=encoded(RETAIN), method=method, learning_rate=RATE,
        gradients=12 if weight else 6, target_accuracy=-0.0, target_loss=loss, **options,
    )  # fmt: skip
    steps = found.steps[-1]["step"]
    assert steps == 3 and torch.allclose(model.vector, adam(slope, 3), atol=1e-12)


@pytest.mark.parametrize("every", [1, 3])
def test_the_whole_budget_is_spent_and_the_best_look_is_gone_back_to(every):
    """With a retained loss that pulls the other way the drift is not monotone; a target that is met early."""
    seen = {}

    def look(step):
        seen[step["step"]] = (step["kl_probe"], model.vector.clone())

    model = Unigram()
    found = unlearn(
        model, forget=encoded(FORGET), retain=encoded(RETAIN), method="gradient-difference", learning_rate=RATE,
        gradients=4 * 20, stop="budget", check_every=every, target_accuracy=1.0, target_loss=1.7, on_step=look,
    )  # fmt: skip
    assert found.gradients == 80
    enough = {s["step"]: s["kl_probe"] for s in found.steps if s["forget_loss"] >= 1.7 and "back_to_step" not in s}
    best = min(enough, key=enough.get)
    assert len(enough) > 1 and best < 20 and found.steps[-1]["back_to_step"] == best
    assert torch.equal(model.vector, seen[best][1])
    assert found.steps[-1]["kl_probe"] == pytest.approx(enough[best]) and found.stopped.startswith("reached")
    assert f"step {best}" in found.stopped


def test_a_budget_that_never_forgets_says_so():
    _, found = result("gradient-difference", 3, stop="budget")
    assert found.stopped == "the budget of 12 gradients is spent"
