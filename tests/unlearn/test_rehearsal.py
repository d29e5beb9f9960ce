"""Rehearsals: the direction by autograd through the attacker's steps, when they end, and what they leave to relearn."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call

from fastunlearn.operators.losses import softplus_log_odds
from fastunlearn.operators.targets import make_batch
from fastunlearn.unlearn import rehearsal
from fastunlearn.unlearn.curvature import RetainedRecords
from fastunlearn.unlearn.rehearsal import LEAST, Rehearsal, nothing_returns, rehearsing_gradients, shown_at
from fastunlearn.unlearn.request import prepare
from tests.unlearn.running import run
from tests.unlearn.unchanged import bits, same_bits

METHOD = "kronecker-removal-rehearsed"
THRESHOLD = -2.0


def by_autograd(model, names, shown, others, length) -> tuple[dict, torch.Tensor]:
    """The gradient of the pull on ``others`` after the steps on ``shown``, in one graph; |u| and s are constants."""
    weights = {name: model.get_parameter(name).detach().clone().requires_grad_(True) for name in names}

    def targets(moved, records):
        batch = make_batch(model, records, 0)
        labels = batch.pop("labels")[:, 1:]
        logits = functional_call(model, moved, (), {**batch, "use_cache": False}).logits[:, :-1]
        return logits[labels != -100], labels[labels != -100]

    moved = dict(weights)
    for _ in range(rehearsal.STEPS):
        loss = torch.nn.functional.cross_entropy(*targets(moved, shown), reduction="sum")
        g = torch.autograd.grad(loss, list(moved.values()), create_graph=True)
        flat = torch.cat([one.detach().flatten() for one in g])
        s = flat.square().mean().sqrt()
        u = [one / (one.abs() + s) for one in g]
        size = torch.cat([one.detach().flatten() for one in u]).norm()
        part = length / rehearsal.STEPS / size
        moved = {name: w - part * one for (name, w), one in zip(moved.items(), u, strict=True)}
    logits, tokens = targets(moved, others)
    pull = softplus_log_odds(THRESHOLD)(logits, tokens).sum()
    found = torch.autograd.grad(pull, list(weights.values()))
    return dict(zip(names, found, strict=True)), (logits.argmax(1) == tokens).double().mean()


@pytest.mark.parametrize("patterns", [None, ["*mlp.down_proj*", "*layers.0.self_attn*"]])
@pytest.mark.parametrize("which", ["world", "tied_world"])
def test_the_direction_is_that_of_autograd_through_the_steps(which, patterns, request):
    found = request.getfixturevalue(which)
    found.model.double()
    found.data["forget"], found.data["held_out"] = found.data["held_out"], found.data["forget"]  # as if forgotten
    asked = prepare(found.model, found.tokenizer, **found.data, parameters=patterns)
    shown, others = asked.forget[:2], asked.forget[2:5]
    names, before = list(asked.parameters), bits(found.model)
    wanted, accuracy = by_autograd(found.model, names, shown, others, 0.7)
    records = RetainedRecords(asked, None, "empirical")
    got = Rehearsal(asked, shown, others, 0.7, lambda: softplus_log_odds(THRESHOLD), records.of)
    assert same_bits(bits(found.model), before)
    assert got.accuracy == pytest.approx(float(accuracy), abs=1e-9)
    a, b = (torch.cat([one[name].double().flatten() for name in names]) for one in (got.direction, wanted))
    assert (a - b).norm() < 1e-4 * b.norm()  # the model's norms and softmax are in float32, whatever it is in
    plain = softplus_log_odds(THRESHOLD)
    straight = records.of(others, plain).weighted_gradient(torch.ones(len(others), dtype=torch.float64))
    c = torch.cat([straight[name].double().flatten() for name in names])
    assert (c - b).norm() > 0.1 * b.norm()  # the pull without a rehearsal is another one


def test_the_weights_are_back_after_a_failure(world):
    asked = prepare(world.model, world.tokenizer, **world.data)
    before = bits(world.model)

    def fail(_records, _pull):
        raise RuntimeError("no gradients")

    with pytest.raises(RuntimeError, match="no gradients"):
        Rehearsal(asked, asked.forget[:1], asked.forget[1:], 1.0, lambda: softplus_log_odds(0.0), fail)
    assert same_bits(bits(world.model), before)


@pytest.mark.parametrize("forget", [2, 7, 20, 21, 45])
def test_every_record_is_shown_in_turn(forget):
    count = -(-forget // 20)
    rounds = -(-forget // count)
    shown = [shown_at(number, forget, 3) for number in range(1, rounds + 1)]
    assert all(1 <= len(one) <= count for one in shown)
    assert set().union(*shown) == set(range(forget))
    assert shown == [shown_at(number, forget, 3) for number in range(1, rounds + 1)]
    assert forget < 7 or shown != [shown_at(number, forget, 4) for number in range(1, rounds + 1)]


def pull_after_rehearsals(world) -> float:
    """On the other records, when one is shown, as an attacker who knows each of them in turn would leave it; per
    rehearsal. The way is longer than those that the method takes."""
    asked, total = prepare(world.model, world.tokenizer, **world.data), 0.0
    plain = softplus_log_odds(THRESHOLD)
    for place, one in enumerate(asked.forget):
        others = asked.forget[:place] + asked.forget[place + 1 :]
        seen = []

        def record(some, loss, seen=seen):
            seen.append(RetainedRecords(asked, None, "empirical").of(some, loss))
            return seen[0]

        Rehearsal(asked, [one], others, 3.0, lambda: plain, record)
        total += float(seen[0].losses.sum())
    return total / len(asked.forget)


def test_less_comes_back_and_what_stays_is_kept(world):
    twin = copy.deepcopy(world)
    options = {"steps": 3, "target_accuracy": 0.0}
    plain, rehearsed = run(world, "kronecker-removal", **options), run(twin, METHOD, rehearsals=20, **options)
    taken = [step for step in rehearsed.steps if "rehearsal" in step]
    assert rehearsed.steps[: len(plain.steps)] == plain.steps
    assert [step["rehearsal"] for step in taken] == list(range(1, len(taken) + 1)) and len(taken) > 10
    assert rehearsed.steps[-1]["kl_probe"] < plain.steps[-1]["kl_probe"] + len(taken) * 2e-4 + 1e-9
    assert pull_after_rehearsals(twin) < 0.7 * pull_after_rehearsals(world)


def test_gradients_are_those_foretold(world):
    result = run(world, METHOD, steps=2, rehearsals=7, target_accuracy=0.0)
    spent = result.gradients - [step for step in result.steps if "rehearsal" not in step][-1]["gradients"]
    assert "7 rehearsals" in result.stopped and result.steps[-1]["rehearsal"] == 7
    assert spent == rehearsing_gradients(7, len(world.data["forget"]), len(world.data["retain"])) - shown_once(7, world)


def shown_once(rehearsals: int, world) -> int:
    """Of a record that is shown no gradient of the pull is taken."""
    return sum(len(shown_at(number, len(world.data["forget"]), 0)) for number in range(1, rehearsals + 1))


def test_it_ends_where_nothing_comes_back(world):
    result = run(world, METHOD, steps=8, target_accuracy=0.9, target_loss=0.0)
    rounds = [step for step in result.steps if "rehearsal" in step]
    assert "no more than unseen records have right" in result.stopped
    assert len(rounds) == LEAST - 1  # the last one only looked


@pytest.mark.parametrize(("forget", "turn"), [(2, 5), (7, 7), (20, 20), (21, 11), (400, 20)])
def test_a_whole_turn_says_whether_anything_comes_back(forget, turn):
    assert nothing_returns([0.1] * LEAST, forget, 0.1) and not nothing_returns([0.0] * (LEAST - 1), forget, 0.1)
    assert not nothing_returns([0.9] + [0.0] * (LEAST - 1), forget, 0.1)  # of fewer than a turn, all count
    high = [2.0] * 3  # as much as a turn may hold on average, and three times that
    assert not nothing_returns(high + [0.0] * (turn - 1), forget, 1.9 / turn)
    assert nothing_returns(high + [0.0] * turn, forget, 0.0)


def test_one_forget_record_has_nothing_to_rehearse(world):
    world.data["forget"] = world.data["forget"][:1]
    twin = copy.deepcopy(world)
    rehearsed, plain = run(world, METHOD, steps=3), run(twin, "kronecker-removal", steps=3)
    assert any("two forget records" in note for note in rehearsed.notes) and "one forget record" in rehearsed.stopped
    assert same_bits(bits(world.model), bits(twin.model)) and rehearsed.steps == plain.steps


def test_the_guard_of_all_steps_is_that_of_rehearsals_too(world):
    result = run(world, METHOD, steps=3, rehearsals=6, kl_budget=1e-6)
    assert all(step["kl_probe"] <= 1e-6 for step in result.steps)
