"""K-FADE, re-linearised Newton and WIN-U: their steps from dense matrices made by plain autograd."""

from __future__ import annotations

import copy

import pytest
import torch

from fastunlearn.data.encode import encode
from fastunlearn.operators.targets import make_batch, target_logits
from fastunlearn.unlearn.kept_curvature import KeptCurvature
from fastunlearn.unlearn.request import prepare
from tests.oracles.dense import ggn
from tests.unlearn.running import kept_fisher, run

NEVER = {"target_loss": 99.0, "kl_budget": None}
NAME = "model.layers.1.mlp.down_proj.weight"
DAMPING = 1e-2


@pytest.fixture
def wide(world):
    world.model.double()
    return world


def samples(world, name):
    return encode(world.data[name], world.tokenizer, max_length=32)


def nll(model, sample):
    found = target_logits(model, make_batch(model, [sample], 0))
    return torch.nn.functional.cross_entropy(found.logits, found.tokens, reduction="sum")


def gradient(world, name) -> torch.Tensor:
    """Of the summed loss of all records of a set, with respect to NAME."""
    weight = world.model.get_parameter(NAME)
    return sum(torch.autograd.grad(nll(world.model, one), weight)[0] for one in samples(world, name))


def rows(world, name) -> torch.Tensor:
    weight = world.model.get_parameter(NAME)
    return torch.stack(
        [torch.autograd.grad(nll(world.model, one), weight)[0].flatten() for one in samples(world, name)]
    )


def moved(world, method, **options) -> torch.Tensor:
    before = world.model.get_parameter(NAME).detach().clone()
    run(world, method, parameters=NAME, **{**NEVER, **options})
    return (world.model.get_parameter(NAME).detach() - before).flatten()


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())


def factors(world) -> tuple[torch.Tensor, torch.Tensor, list]:
    """A = sum x x^T / tokens and B = sum g g^T / records of the retained records; and each record's (x, g)."""
    module = world.model.get_submodule(NAME.removesuffix(".weight"))
    pairs = []
    for one in samples(world, "retain"):
        seen = {}

        def note(_module, args, output, seen=seen):
            if output.requires_grad:  # not in a trial of how the model counts positions
                output.retain_grad()
                seen.update(x=args[0][0].detach(), y=output)

        handle = module.register_forward_hook(note)
        nll(world.model, one).backward()
        handle.remove()
        pairs.append((seen["x"], seen["y"].grad[0]))
    world.model.zero_grad(set_to_none=True)
    x, g = torch.cat([x for x, _ in pairs]), torch.cat([g for _, g in pairs])
    return x.T @ x / len(x), g.T @ g / len(pairs), pairs


@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_k_fade_steps_up_the_forget_loss_held_by_the_kronecker_product(wide, curvature):
    a, b, pairs = factors(wide)
    up = gradient(wide, "forget")
    if curvature == "kfac":
        dense = torch.kron(b, a)
    else:
        left, right = torch.linalg.eigh(b)[1], torch.linalg.eigh(a)[1]
        q = torch.kron(left, right)
        turned = torch.stack([(left.T @ (g.T @ x) @ right).flatten() for x, g in pairs])
        dense = q @ torch.diag(turned.square().mean(0)) @ q.T
    step = torch.linalg.solve(dense + DAMPING * torch.eye(len(dense)).double(), up.flatten())
    expected = 0.2 * step / step.norm()
    got = moved(wide, "k-fade", curvature=curvature, kind="empirical", damping=DAMPING, steps=1, step_norm=0.2)
    assert relative(got, expected) < 1e-4  # norms are in float32, whatever the model is in


def test_k_fade_can_keep_its_curvature_for_several_steps(world):
    twin = copy.deepcopy(world)
    each, once = run(world, "k-fade", steps=3, **NEVER), run(twin, "k-fade", steps=3, refresh=3, **NEVER)
    assert (each.gradients, once.gradients) == (150, 40 + 30)
    assert each.steps[1]["forget_loss"] == once.steps[1]["forget_loss"] != each.steps[0]["forget_loss"]
    assert each.steps[3]["forget_loss"] != once.steps[3]["forget_loss"]


def test_newton_steps_are_newton_taken_again(wide):
    """Two steps by hand: dense H and g at the start, then at where the first ended."""
    by_hand, before = copy.deepcopy(wide), wide.model.get_parameter(NAME).detach().clone()
    weight = by_hand.model.get_parameter(NAME)
    for _ in range(2):
        g = rows(by_hand, "retain")
        hessian = g.T @ g + len(g) * DAMPING * torch.eye(g.shape[1]).double()
        step = torch.linalg.solve(hessian, gradient(by_hand, "forget").flatten())
        with torch.no_grad():
            weight += step.view_as(weight)
    got = moved(wide, "newton-steps", damping=DAMPING, steps=2)
    assert relative(got, (weight.detach() - before).flatten()) < 1e-7


def test_win_u_by_an_empirical_fisher_is_newton(world):
    """At full rank the Fisher of all records, less the forget records', is that of the retained ones."""
    other, damping = copy.deepcopy(world), 1e-3
    kept = kept_fisher(other, damping=damping, parameters=NAME)
    assert (
        relative(moved(other, "win-u", kept_fisher=kept, retain=None), moved(world, "newton", damping=damping)) < 1e-2
    )


def test_win_u_takes_the_gauss_newton_matrix_of_the_forget_records_out(wide):
    """For a Fisher of drawn labels, against the dense Gauss-Newton matrix of the same records."""
    kept = kept_fisher(wide, damping=1e-1, kind="sampled", rank=7, parameters=NAME)
    request = prepare(wide.model, wide.tokenizer, **wide.data, parameters=NAME, batch_size=3)
    u = kept.vectors[NAME].double().flatten(1)
    encoded = samples(wide, "forget")
    batches = [make_batch(wide.model, [one], 0) for one in encoded]
    tokens = sum(one.targets for one in encoded)
    weight = {NAME: wide.model.get_parameter(NAME)}
    inside = u @ (tokens * ggn(wide.model, batches, weight)) @ u.T
    left = KeptCurvature(request, kept).kept
    assert relative(kept.core - left.core, inside) < 1e-4 and left.samples == 40
    assert request.gradients == -(-5 * 7 * 10 // 3)
    up = gradient(wide, "forget").flatten()
    s, q = torch.linalg.eigh(left.core)
    assert s.min() < 0  # the draw and its mean differ: what is below nothing counts as no curvature
    fisher = 1e-1 * torch.eye(len(up)).double() + u.T @ (q * s.clamp_min(0)) @ q.T @ u / 40
    got = moved(wide, "win-u", kept_fisher=kept, retain=None)
    assert relative(got, torch.linalg.solve(fisher, up) / 40) < 1e-4
