"""The second-order methods on the trained model: what they are for, their guard, their settings, their noise."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import encode
from fastunlearn.unlearn import METHODS
from tests.unlearn.running import KEPT_DAMPING, kept_fisher, run
from tests.unlearn.unchanged import bits, same_bits

GUARDED = [
    name for name, method in METHODS.items() if "kl_budget" in {f.name for f in dataclasses.fields(method.settings)}
]
NEVER = {"target_loss": 99.0, "kl_budget": None}  # neither the target nor the guard ends or shortens a run


def change(world, method="fisher-removal", **options) -> torch.Tensor:
    """What a run adds to the weights, as one vector."""
    before = torch.cat([p.detach().flatten().double() for p in world.model.parameters()])
    run(world, method, **options)
    return torch.cat([p.detach().flatten().double() for p in world.model.parameters()]) - before


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def accuracy(world, name) -> float:
    samples = encode(world.data[name], world.tokenizer, max_length=32)
    return token_scores(world.model, samples, pad_token_id=0).accuracy


def test_removal_reaches_the_target_with_far_less_drift_than_ascent(world):
    other = copy.deepcopy(world)
    removal, ascent = run(world), run(other, "gradient-ascent")
    for result in (removal, ascent):
        assert result.stopped.startswith("reached the target") and result.steps[-1]["forget_accuracy"] <= 0.25
    assert removal.steps[-1]["kl_probe"] < 0.1 * ascent.steps[-1]["kl_probe"]
    assert accuracy(world, "retain") >= 0.95 > accuracy(other, "retain")


LONG = ("newton", "newton-steps", "win-u")  # steps that nothing else bounds: free, they drift by 2.6 and more


@pytest.mark.parametrize("method", GUARDED)
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_no_step_exceeds_the_budget(world, method, share):
    budget = share * (0.02 if method in LONG else 0.002)  # eight free steps drift by .003 and more
    few = {"steps": 8} if hasattr(METHODS[method].settings(), "steps") else {}
    result = run(world, method, kl_budget=budget, target_loss=99.0, **few)
    assert max(step["kl_probe"] for step in result.steps) <= budget
    assert result.steps[-1]["kl_probe"] > 0
    assert any(step.get("scale", 1) < 1 for step in result.steps) or "KL budget" in result.stopped  # it was in the way


@pytest.mark.parametrize("method", GUARDED)
def test_a_budget_too_small_for_any_step(world, method):
    before = bits(world.model)
    result = run(world, method, kl_budget=1e-9)
    assert same_bits(bits(world.model), before)
    assert "the KL budget of 1e-09 allows no" in result.stopped and "noise added" not in result.stopped.split("no ")[0]
    assert all(step["kl_probe"] == 0 and step.get("scale", 0) == 0 for step in result.steps)


def test_each_step_is_as_long_as_it_says(world):
    places = []
    result = run(
        world, steps=4, step_norm=0.1, **NEVER,
        on_step=lambda step: places.append(torch.cat([p.detach().flatten() for p in world.model.parameters()])),
    )  # fmt: skip
    assert len(result.steps) == 5 and result.stopped == "all 4 steps are taken"
    for a, b, step in zip(places, places[1:], result.steps[1:], strict=False):
        assert step["scale"] == 1 and step["step_norm"] == pytest.approx(0.1, rel=1e-4)
        assert float((b - a).norm()) == pytest.approx(step["step_norm"], rel=1e-3)


@pytest.mark.parametrize("kind", ["empirical", "sampled"])
@pytest.mark.parametrize("blocks", ["model", "layer", "tensor"])
@pytest.mark.parametrize("pull", ["sum", "gauss-newton"])
def test_blocks_kinds_and_pulls(world, blocks, kind, pull):
    result = run(world, blocks=blocks, kind=kind, pull=pull, damping=1e-5, steps=4, step_drift=None)
    assert result.settings | {"blocks": blocks, "kind": kind, "pull": pull} == result.settings
    assert result.steps[-1]["forget_loss"] > result.steps[0]["forget_loss"] + 1


@pytest.mark.parametrize(
    "options", [{"blocks": "layer"}, {"blocks": "model"}, {"kind": "sampled"}, {"pull": "gauss-newton"}]
)
def test_these_settings_reach_the_step(world, options):
    """After three steps: at the first, this model is so sure of itself that sampled labels may all be the true ones."""
    plain = change(copy.deepcopy(world), steps=3, **NEVER)
    assert relative(change(world, steps=3, **NEVER, **options), plain) > 1e-2


def test_blocks_are_as_fine_as_memory_holds(world):
    """10 + 40 records: 8 * 50 * 50 bytes a block, for 21 tensors or 5 layers, in a 16th of the memory."""
    options = {"steps": 1, "batch_size": 2}
    many = len(list(world.model.parameters()))
    block = 16 * 8 * 50 * 50
    rooms = {"tensor": block * (many + 1), "layer": block * (many - 1), "model": block * 4}
    notes = {}
    for kind, memory in rooms.items():
        auto, fixed = copy.deepcopy(world), copy.deepcopy(world)
        found, wanted = run(auto, memory=memory, **options), run(fixed, memory=memory, blocks=kind, **options)
        assert same_bits(bits(auto.model), bits(fixed.model)) and found.settings["blocks"] == "auto"
        notes[kind] = [note for note in found.notes if note not in wanted.notes]
    assert notes["tensor"] == [] and "blocks by layer" in notes["layer"][0] and "blocks by model" in notes["model"][0]


def test_blocks_of_one_tensor_are_all_alike(world):
    options = {"parameters": "model.layers.1.mlp.up_proj.weight", "steps": 1, **NEVER}
    whole = change(copy.deepcopy(world), blocks="model", **options)
    assert relative(change(world, blocks="tensor", **options), whole) < 1e-5


def test_less_memory_gives_the_same_for_more_gradients(world):
    other = copy.deepcopy(world)
    first, options = [], {"steps": 1, "damping": 1e-3, "batch_size": 2, "blocks": "model", **NEVER}
    for each, memory in ((world, "1GB"), (other, "1.2MB")):
        before = torch.cat([p.detach().flatten().double() for p in each.model.parameters()])
        result = run(each, memory=memory, **options)
        after = torch.cat([p.detach().flatten().double() for p in each.model.parameters()])
        first.append((result.gradients, after - before))
    assert first[0][0] == 50 < first[1][0]
    assert relative(first[1][1], first[0][1]) < 1e-3


def test_fewer_fisher_samples_cost_fewer_gradients_and_are_drawn_anew(world):
    result = run(world, steps=3, fisher_samples=8, **NEVER)
    assert result.gradients == 3 * (10 + 8)
    seeds = [change(copy.deepcopy(world), steps=1, fisher_samples=8, seed=s, **NEVER) for s in (0, 1)]
    assert relative(*seeds) > 1e-2


def test_newton_takes_one_step_and_says_how_much_of_it(world):
    result = run(world, "newton", damping=1e-2)
    last = result.steps[-1]
    assert len(result.steps) == 2 and last["step_norm"] == pytest.approx(last["scale"] * last["newton_norm"])
    assert last["forget_loss"] > result.steps[0]["forget_loss"]


def test_newton_is_the_step_of_the_paper(world):
    """theta + H^-1 sum g with dense matrices, H = sum of g g^T over the retained records + m damping I."""
    from fastunlearn.operators.model_state import select_parameters
    from fastunlearn.operators.sample_gradients import SampleGradients

    name, damping = "model.layers.1.self_attn.v_proj.weight", 1e-2
    world.model.double()
    chosen = select_parameters(world.model, name)
    rows = {
        data: SampleGradients(
            world.model, encode(world.data[data], world.tokenizer, max_length=32), pad_token_id=0, parameters=chosen
        ).dense()
        for data in ("forget", "retain")
    }
    hessian = rows["retain"].T @ rows["retain"] + 40 * damping * torch.eye(32 * 32, dtype=torch.float64)
    expected = torch.linalg.solve(hessian, rows["forget"].sum(0))
    before = chosen[name].detach().clone()
    run(world, "newton", damping=damping, parameters=name, **NEVER)
    assert relative((chosen[name].detach() - before).flatten(), expected) < 1e-8


# Noise. ---------------------------------------------------------------------------------------------------------


def test_no_noise_is_fisher_removal(world):
    other = copy.deepcopy(world)
    removal, forgetting = run(world), run(other, "fisher-forgetting", noise=0)
    assert same_bits(bits(world.model), bits(other.model))
    assert removal.steps == forgetting.steps and removal.stopped == forgetting.stopped


@pytest.mark.parametrize(("damping", "floor", "clamp"), [(1e-6, 1e-3, 1e-3), (1e-2, 1e-3, 1e-2)])
def test_noise_is_what_the_log_says(world, damping, floor, clamp):
    other = copy.deepcopy(world)
    options = {"damping": damping, "steps": 2, **NEVER}
    run(world, **options)
    result = run(other, "fisher-forgetting", noise=2e-4, noise_floor=floor, **options)
    last = result.steps[-1]
    pairs = zip(world.model.parameters(), other.model.parameters(), strict=True)
    length = float(torch.cat([(b - a).detach().flatten().double() for a, b in pairs]).norm())
    assert length == pytest.approx(last["noise_norm"], rel=1e-3) and length > 0
    assert last["noise_clamped_at"] == clamp and last["noise_gain_at_most"] == pytest.approx(clamp**-0.25)
    count = sum(p.numel() for p in other.model.parameters())
    assert length <= 1.05 * 2e-4 * last["noise_gain_at_most"] * count**0.5
    assert last["noise_scale"] == 1 and result.stopped.endswith("curvature-shaped noise added")


def test_noise_grows_in_proportion(world):
    norms = [
        run(copy.deepcopy(world), "fisher-forgetting", noise=noise, steps=1, **NEVER).steps[-1]["noise_norm"]
        for noise in (1e-4, 3e-4)
    ]
    assert norms[1] == pytest.approx(3 * norms[0])


def test_noise_is_cut_to_the_budget_and_left_out_where_it_never_fits(world):
    other = copy.deepcopy(world)
    cut = run(world, "fisher-forgetting", noise=2e-2)
    assert 0 < cut.steps[-1]["noise_scale"] < 1 and cut.steps[-1]["kl_probe"] <= 0.5
    none = run(other, "fisher-forgetting", noise=1e3)
    assert none.steps[-1]["noise_scale"] == none.steps[-1]["noise_norm"] == 0
    assert none.stopped.endswith("no noise added, the KL budget of 0.5 allows none")
    twin_steps = none.steps[-2]
    assert none.steps[-1]["forget_loss"] == twin_steps["forget_loss"]


# Without retained data. -----------------------------------------------------------------------------------------


def test_the_kept_fisher_steps_as_the_retained_data_do(world):
    """From the weights that the Fisher was kept at, the down-dated Fisher at full rank is the retained records'."""
    other, options = copy.deepcopy(world), {"steps": 1, **NEVER}
    damping = 1e-4
    kept = kept_fisher(other, damping=damping)
    with_data = change(world, damping=damping, blocks="model", **options)  # as the kept one
    without = change(other, "fisher-removal-retain-free", kept_fisher=kept, retain=None, **options)
    assert relative(without, with_data) < 1e-2


def test_retain_free_needs_no_retained_data_and_spends_none(world):
    result = run(world, "fisher-removal-retain-free", retain=None)
    assert not result.uses_retain and result.records["retain"] == 0
    assert result.steps[-1]["forget_loss"] > result.steps[0]["forget_loss"] + 1


def test_a_low_rank_runs_too(world):
    kept = kept_fisher(world, rank=5)
    assert kept.rank == 5
    result = run(world, "fisher-removal-retain-free", kept_fisher=kept)
    assert len(result.steps) > 1 and result.steps[-1]["forget_loss"] > result.steps[0]["forget_loss"]


def test_a_kept_fisher_from_a_file_does_the_same(world, tmp_path):
    other, path = copy.deepcopy(world), tmp_path / "fisher.safetensors"
    kept = kept_fisher(world)
    kept.save(path)
    run(world, "fisher-removal-retain-free", kept_fisher=kept)
    run(other, "fisher-removal-retain-free", kept_fisher=path)
    assert same_bits(bits(world.model), bits(other.model))


def test_the_kept_fisher_of_a_bfloat16_model_is_orthonormal(world):
    """With vectors rounded to bfloat16 a down-date of records that are in it is refused."""
    world.model.bfloat16()
    kept = kept_fisher(world)
    u = torch.cat([tensor.flatten(1).double() for tensor in kept.vectors.values()], 1)
    assert float((u @ u.T - torch.eye(kept.rank)).abs().max()) < 1e-3 and kept.damping == KEPT_DAMPING


@pytest.mark.parametrize(("samples", "kept_of"), [(None, 50), (20, 20), (99, 50)])
def test_keep_fisher_of_some_of_the_data(world, samples, kept_of):
    first, second = kept_fisher(world, samples=samples, seed=1), kept_fisher(world, samples=samples, seed=1)
    assert first.samples == kept_of and torch.equal(first.core, second.core)
