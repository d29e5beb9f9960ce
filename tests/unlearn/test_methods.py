"""What all methods have in common: the account they give, what they may change, and that they repeat."""

from __future__ import annotations

import copy
import fnmatch
import json
import math

import pytest
import torch

from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import encode
from fastunlearn.errors import UnknownMethodError
from fastunlearn.unlearn import METHODS, UnlearnResult, get_method
from tests.unlearn.running import DESCENTS, run
from tests.unlearn.unchanged import bits, same_bits

#: Gradients of one step on 10 forget and 40 retained records (first order: batches of up to 16).
PER_STEP = {
    "fisher-removal": 50, "fisher-forgetting": 50, "newton": 50, "fisher-removal-retain-free": 10,
    "gradient-ascent": 10, "gradient-difference": 26, "npo": 10, "npo-retain": 26, "bounded-ascent": 10,
    "bounded-difference": 26, "finetune": 16, "kl-ascent": 26, "simnpo": 26, "rmu": 26, "soul": 26, "k-fade": 50,
    "newton-steps": 50, "win-u": 10, "kronecker-removal": 50, "kronecker-removal-rehearsed": 50,
    "gauss-newton-removal": 50,  # and the products
}  # fmt: skip


#: Of methods of many small steps, where a few of them show what is asked.
LITTLE = {"gradients": 150}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_the_account(world, method):
    model, names = world.model, [name for name, _ in world.model.named_parameters()]
    before, seen = bits(model), []
    result = run(world, method, on_step=lambda step: seen.append((step, bits(model))))
    assert isinstance(result, UnlearnResult) and result.model is model
    assert not same_bits(bits(model), before)
    assert [step for step, _ in seen] == result.steps  # called for each step, in order ...
    assert same_bits(seen[0][1], before) and same_bits(seen[-1][1], bits(model))  # ... with the model as it then was

    scores = token_scores(model, encode(world.data["forget"], world.tokenizer, max_length=32), pad_token_id=0)
    assert result.steps[-1]["forget_accuracy"] == scores.accuracy  # the last step is the model
    assert result.steps[-1]["forget_loss"] == pytest.approx(scores.loss, rel=1e-6)

    account = result.to_dict()
    text = json.dumps(account, allow_nan=False)
    assert result.model is model and "model" not in account
    for record in [*world.data["forget"], *world.data["retain"], *world.data["held_out"]]:
        assert record.prompt not in text and record.completion.strip() not in text
    assert account["method"] == method and account["parameters"] == names and account["seed"] == 0
    assert account["records"] == {"forget": 10, "retain": 40, "held_out": 24}
    assert account["uses_retain"] == METHODS[method].uses_retain
    assert account["stopped"] and account["seconds"] > 0

    steps = account["steps"]
    assert [step["step"] for step in steps] == sorted({step["step"] for step in steps}) and steps[0]["step"] == 0
    assert steps[0]["forget_accuracy"] == 1 and steps[0]["kl_probe"] == 0 and steps[-1]["kl_probe"] > 0
    assert all(math.isfinite(value) for step in steps for value in step.values())
    setup = 10 if METHODS[method].uses_kept else 0  # the records' part is taken out of the kept Fisher once
    taken = steps[-1]["step"]
    if method == "fisher-removal-retain-free":
        assert result.gradients >= setup + 10 * taken and result.gradients % 10 == 0
    elif method == "soul":
        assert result.gradients == 26 * (taken + -(-taken // 5))  # the curvature, at every fifth step from the first
    elif method == "kronecker-removal-rehearsed":
        plain = [step for step in steps if "rehearsal" not in step][-1]
        assert plain["gradients"] == 50 * plain["step"] and plain["gradients"] < result.gradients
    elif method == "gauss-newton-removal":  # four products a step, fewer where the solve has ended
        each = result.gradients / taken - PER_STEP[method]
        assert "reached" in result.stopped and 40 * 4 / 3 <= each <= 214
    else:
        assert "reached" in result.stopped or method in (*DESCENTS, "newton", "win-u", "newton-steps")
        assert result.gradients == setup + PER_STEP[method] * taken


@pytest.mark.parametrize(
    "method, patterns",
    [("fisher-removal", "*.mlp.*"), *((method, ["model.layers.1.*", "lm_head.weight"]) for method in METHODS)],
)
def test_only_the_chosen_parameters_change(world, method, patterns):
    before = weights(world.model)
    result = run(world, method, parameters=patterns, gradients=60) if method in DESCENTS else run(
        world, method, parameters=patterns
    )  # fmt: skip
    listed = [patterns] if isinstance(patterns, str) else patterns
    chosen = {name for name in before if any(fnmatch.fnmatchcase(name, pattern) for pattern in listed)}
    changed = {name for name, p in world.model.named_parameters() if not torch.equal(p, before[name])}
    assert set(result.parameters) == chosen and 0 < len(chosen) < len(before)
    behind = method == "rmu"  # nothing behind the layer that it steers changes
    assert changed == chosen or (behind and set() < changed < chosen)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_stay_unless_named_and_training_mode_ends(world, method):
    world.model.train()
    world.model.model.embed_tokens.weight.requires_grad_(False)
    before = weights(world.model)
    result = run(world, method, **(LITTLE if method in DESCENTS else {}))
    assert "model.embed_tokens.weight" not in result.parameters and len(result.parameters) == len(before) - 1
    assert torch.equal(world.model.model.embed_tokens.weight, before["model.embed_tokens.weight"])
    assert [p.requires_grad for p in world.model.parameters()] == [False] + [True] * (len(before) - 1)
    assert not any(module.training for module in world.model.modules())
    assert all(p.grad is None for p in world.model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bits(world, method):
    twin, options = copy.deepcopy(world), {"seed": 3}
    if method in DESCENTS:
        options |= {"batch": 4, **LITTLE}  # so that the order of the records matters
    first, second = run(world, method, **options), run(twin, method, **options)
    assert same_bits(bits(world.model), bits(twin.model))
    assert first.steps == second.steps and first.stopped == second.stopped


@pytest.mark.parametrize("method", [*DESCENTS, "fisher-forgetting"])
def test_another_seed_gives_other_weights(world, method):
    twin = copy.deepcopy(world)
    options = {"batch": 4, **LITTLE} if method in DESCENTS else {}
    run(world, method, seed=3, **options)
    run(twin, method, seed=4, **options)
    assert not same_bits(bits(world.model), bits(twin.model))


def test_training_mode_makes_no_difference(world):
    """Dropout must be off while gradients are taken, whatever mode the model is in."""
    twin = copy.deepcopy(world)
    for each in (world, twin):
        for layer in each.model.model.layers:
            layer.self_attn.attention_dropout = 0.5
    run(world)
    twin.model.train()
    run(twin)
    assert same_bits(bits(world.model), bits(twin.model))


@pytest.mark.parametrize("method", METHODS)
def test_tied_embeddings_in_bfloat16(tied_world, method):
    model = tied_world.model.bfloat16()
    start = weights(model)
    result = run(tied_world, method)
    assert model.lm_head.weight is model.model.embed_tokens.weight and "lm_head.weight" not in result.parameters
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert not torch.equal(model.lm_head.weight, start["model.embed_tokens.weight"])
    json.dumps(result.to_dict(), allow_nan=False)
    if method != "finetune":
        assert result.steps[-1]["forget_loss"] > result.steps[0]["forget_loss"] + 0.5


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("newton", "win-u")])
def test_nothing_to_do(world, method):
    """A target that is met from the start: no weight changes, and the account says why. (One-shot Newton does not
    ask for the target first.)"""
    before = bits(world.model)
    options = {"noise": 0} if method == "fisher-forgetting" else {}
    result = run(world, method, target_accuracy=1.0, target_loss=0.0, **options)
    assert same_bits(bits(world.model), before)
    assert result.stopped == "nothing to do: forgotten already" and len(result.steps) == 1


def test_without_held_out_records_a_note_says_what_was_assumed(world):
    result = run(world, held_out=None)
    assert len(result.notes) == 1 and "0.1" in result.notes[0] and "held-out" in result.notes[0]
    told = run(world, held_out=None, target_accuracy=0.2).notes
    assert len(told) == 1 and 'fade="blend"' in told[0]
    assert run(world, held_out=None, target_accuracy=0.2, fade="mean").notes == []


def test_without_probe_drift_is_unknown(world):
    result = run(world, "gradient-ascent", retain=None, held_out=None)
    assert all(step["kl_probe"] is None for step in result.steps)
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_table_of_methods():
    assert set(METHODS) == set(PER_STEP)
    for name, method in METHODS.items():
        assert get_method(name) is method and method.name == name and method.summary and method.label
    with pytest.raises(UnknownMethodError, match="gradient-ascent"):
        get_method("magic")
