"""Kronecker Removal and the pull by ranks: a step by hand, where the pull ends, and what it spares."""

from __future__ import annotations

import copy

import pytest
import torch

from fastunlearn.data.encode import encode
from fastunlearn.operators.targets import make_batch, target_logits
from fastunlearn.unlearn.monitor import Monitor
from fastunlearn.unlearn.request import prepare
from tests.unlearn.running import run
from tests.unlearn.test_curvature_by_hand import DAMPING, NAME, factors, moved, relative, rows
from tests.unlearn.unchanged import bits, same_bits


def samples(world, name):
    return encode(world.data[name], world.tokenizer, max_length=32)


def odds(model, records) -> torch.Tensor:
    """Log-odds of every target token by softmax, in float64."""
    found = target_logits(model, make_batch(model, records, 0))
    p = found.logits.double().softmax(1).gather(1, found.tokens[:, None]).squeeze(1)
    return p.log() - (1 - p).log()


def blended(world, ranks: torch.Tensor) -> torch.Tensor:
    """Between the log-odds of a token with the mean held-out loss and ``ranks``, by twice the held-out accuracy."""
    found = target_logits(world.model, make_batch(world.model, samples(world, "held_out"), 0))
    right = (found.logits.argmax(1) == found.tokens).double().mean()
    loss = torch.nn.functional.cross_entropy(found.logits.double(), found.tokens)
    p = torch.exp(-loss)
    share = min(1.0, 2 * right)
    assert 0.05 < share < 0.95
    return (share * ranks + (1 - share) * torch.log(p / (1 - p))).detach()


def quantiles(values: torch.Tensor, count: int) -> torch.Tensor:
    """The middle of each of ``count`` equal parts of the sorted values, between neighbours by a straight line."""
    values, places = values.sort().values, (torch.arange(count).double() + 0.5) / count * (len(values) - 1)
    low = places.floor().long()
    high = (low + 1).clamp_max(len(values) - 1)
    return values[low] + (places - low) * (values[high] - values[low])


def test_ranks_are_those_of_the_original_on_held_out_records(world):
    request = prepare(world.model, world.tokenizer, **world.data)
    monitor = Monitor(request)
    with torch.no_grad():
        own = odds(world.model, samples(world, "forget")).sort().values
        wanted = quantiles(odds(world.model, samples(world, "held_out")), len(own))
        for parameter in world.model.parameters():
            parameter.mul_(0.9)  # what is wanted stays, what is now does not
        now = odds(world.model, samples(world, "forget")).sort().values
    found = monitor.ranks()
    assert torch.allclose(found[0], now, atol=1e-3) and not torch.allclose(now, own, atol=1e-1)
    assert torch.allclose(found[1], wanted, atol=1e-3)


@pytest.mark.parametrize("weight", [0.0, 5.0])
@pytest.mark.parametrize("fade", ["ranks", "blend", None])
def test_a_step_goes_down_the_pull_held_by_the_kronecker_product_and_the_records(world, fade, weight):
    world.model.double()
    a, b, _ = factors(world)
    z = odds(world.model, samples(world, "forget"))
    threshold = wanted = -2.0
    if fade is not None:
        threshold = None
        unseen = odds(world.model, samples(world, "held_out")).detach()
        wanted = quantiles(unseen, len(z))[torch.argsort(torch.argsort(z.detach()))]
        wanted = blended(world, wanted) if fade == "blend" else wanted
    (down,) = torch.autograd.grad(torch.nn.functional.softplus(z - wanted).sum(), world.model.get_parameter(NAME))
    held, retained = torch.kron(b, a) + DAMPING * torch.eye(down.numel()).double(), rows(world, "retain")
    step = torch.linalg.solve(held + weight / len(retained) * retained.T @ retained, down.flatten())
    got = moved(
        world, "kronecker-removal", curvature="kfac", kind="empirical", damping=DAMPING, steps=1, step_norm=0.2,
        threshold=threshold, exact_weight=weight, fade=fade or "ranks", target_loss=None,
    )  # fmt: skip
    assert relative(got, -0.2 * step / step.norm()) < 1e-4  # norms are in float32, whatever the model is in


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_with_products_the_step_is_shaped_by_the_gauss_newton_matrix(world, weight):
    """The matrix from a dense Jacobian of the logits, by autograd."""
    world.model.double()
    retained, parameter = samples(world, "retain"), world.model.get_parameter(NAME)
    z = odds(world.model, samples(world, "forget"))
    (down,) = torch.autograd.grad(torch.nn.functional.softplus(z + 2.0).sum(), parameter)

    def logits(weight_):
        batch = make_batch(world.model, retained, 0)
        labels = batch.pop("labels")[:, 1:]
        found = torch.func.functional_call(world.model, {NAME: weight_}, (), {**batch, "use_cache": False}).logits
        return found[:, :-1][labels != -100]

    point = parameter.detach()
    p = logits(point).detach().softmax(1)
    jacobian = torch.func.jacrev(logits, chunk_size=64)(point).flatten(2)  # tokens, vocabulary, weights
    mean = torch.einsum("tv,tvp->tp", p, jacobian)
    ggn = torch.einsum("tv,tvp,tvq->pq", p, jacobian, jacobian) - mean.T @ mean
    m, own = len(retained), rows(world, "retain")
    held = (ggn + weight * own.T @ own) / m + DAMPING * torch.eye(down.numel()).double()
    step = torch.linalg.solve(held, down.flatten())
    got = moved(
        world, "gauss-newton-removal", kind="empirical", damping=DAMPING, products_damping=DAMPING, products=200,
        steps=1, step_norm=0.2, threshold=-2.0, exact_weight=weight, target_loss=None,
    )  # fmt: skip
    assert relative(got, -0.2 * step / step.norm()) < 3e-3  # the solve ends at a residual of 1e-3


def test_where_unseen_records_are_known_as_well_there_is_next_to_no_pull(world):
    """Some of the retained records as held-out ones: a pull by ranks has nowhere to go."""
    world.data = {**world.data, "held_out": world.data["retain"][:10], "retain": world.data["retain"][10:]}
    request = prepare(world.model, world.tokenizer, **world.data)
    own, wanted = Monitor(request).ranks()
    assert (own - wanted).abs().mean() < 1.5 < own.mean()


def test_a_blend_is_ranks_where_half_of_what_was_never_seen_is_right(world):
    """Some of the retained records as held-out ones, which the model knows."""
    world.data = {**world.data, "held_out": world.data["retain"][:10], "retain": world.data["retain"][10:]}
    twin, options = copy.deepcopy(world), {"steps": 1, "target_accuracy": 0.1, "target_loss": 5.0}
    run(world, fade="blend", **options), run(twin, fade="ranks", **options)
    assert same_bits(bits(world.model), bits(twin.model))


@pytest.mark.parametrize("fade", ["ranks", "blend"])
@pytest.mark.parametrize("method", ["fisher-removal", "kronecker-removal"])
def test_without_held_out_records_ranks_are_the_mean(world, method, fade):
    world.data = {**world.data, "held_out": None}
    twin = copy.deepcopy(world)
    options = {"steps": 1, "target_accuracy": 0.1}  # without one, the note on held-out records says it
    ranks, mean = run(world, method, fade=fade, **options), run(twin, method, fade="mean", **options)
    added = [note for note in ranks.notes if note not in mean.notes]
    assert len(added) == 1 and f'fade="{fade}"' in added[0] and "held-out" in added[0]
    assert same_bits(bits(world.model), bits(twin.model))


@pytest.mark.parametrize("method", ["fisher-removal", "kronecker-removal"])
def test_accuracy_alone_can_be_enough(world, method):
    """A loss that no run reaches is then not asked for, and still says where the pull fades."""
    twin = copy.deepcopy(world)
    out_of_reach = {"target_accuracy": 0.25, "target_loss": 99.0, "kl_budget": None, "steps": 8, "step_norm": 0.25}
    alone, both = run(world, method, enough="accuracy", **out_of_reach), run(twin, method, **out_of_reach)
    assert alone.stopped == "reached the target of forget accuracy 0.250" and both.stopped == "all 8 steps are taken"
    assert alone.steps[-1]["forget_accuracy"] <= 0.25 < alone.steps[-2]["forget_accuracy"]
    assert alone.steps[:-1] == both.steps[: len(alone.steps) - 1]
