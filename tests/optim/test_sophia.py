"""Sophia: one step worked by hand, and what an optimizer of PyTorch owes its users."""

from __future__ import annotations

import copy

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.optim import Sophia, curvature_update, sophia_update

SETTINGS = {"lr": 0.1, "beta1": 0.9, "gamma": 0.5, "eps": 1e-12}


def test_one_step_by_hand():
    """m = 0.9 m + 0.1 g, then m / max(0.5 h, eps), cut at 1 either way, times 0.1."""
    theta = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    g = torch.tensor([1.0, -1.0, 0.1, 0.0], dtype=torch.float64)
    m = torch.tensor([0.0, 0.0, 0.1, 0.0], dtype=torch.float64)
    h = torch.tensor([4.0, -2.0, 1.0, 0.0], dtype=torch.float64)
    sophia_update([theta], [g], [m], [h], **SETTINGS)
    torch.testing.assert_close(m, torch.tensor([0.1, -0.1, 0.1, 0.0], dtype=torch.float64))
    # 0.1 / 2 = 0.05;  negative curvature: the sign, -1;  0.1 / 0.5 = 0.2;  no momentum: no step
    torch.testing.assert_close(theta, torch.tensor([0.995, 1.1, 0.98, 1.0], dtype=torch.float64))
    assert h.tolist() == [4.0, -2.0, 1.0, 0.0]


def test_decay_is_apart_from_the_clipped_step():
    theta = torch.tensor([2.0], dtype=torch.float64)
    sophia_update([theta], [torch.ones(1)], [torch.zeros(1)], [torch.zeros(1)], weight_decay=0.5, **SETTINGS)
    assert theta.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1)


def test_maximize_is_the_same_step_with_the_other_sign():
    up, down = torch.zeros(3), torch.zeros(3)
    g, h = torch.tensor([1.0, -2.0, 0.5]), torch.ones(3)
    sophia_update([down], [g], [torch.zeros(3)], [h], **SETTINGS)
    sophia_update([up], [g], [torch.zeros(3)], [h], maximize=True, **SETTINGS)
    assert torch.equal(up, -down) and up.abs().min() > 0


def test_curvature_is_one_moving_average():
    h = torch.tensor([1.0])
    curvature_update([h], [torch.tensor([3.0])], beta2=0.75)
    assert h.item() == 1.5


def quadratic(optimizer, p, steps):
    """Descends sum(a p^2) / 2 with its exact curvature."""
    a = torch.tensor([100.0, 1.0])
    for _ in range(steps):
        optimizer.zero_grad()
        ((a * p.square()).sum() / 2).backward()
        if optimizer.curvature_due:
            optimizer.add_curvature([p], [a])
        optimizer.step()


def test_the_optimizer_does_what_the_update_does():
    p = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
    optimizer = Sophia([p], lr=0.01, betas=(0.9, 0.5), gamma=0.2, every=3)
    mirror, m, h = p.detach().clone(), torch.zeros(2), torch.zeros(2)
    a = torch.tensor([100.0, 1.0])
    for step in range(7):
        if step in (0, 3, 6):  # every=3
            curvature_update([h], [a], beta2=0.5)
        sophia_update([mirror], [a * mirror], [m], [h], lr=0.01, beta1=0.9, gamma=0.2)
    quadratic(optimizer, p, 7)
    torch.testing.assert_close(p.detach(), mirror)


def test_state_goes_through_a_state_dict():
    whole, first = (torch.nn.Parameter(torch.tensor([0.3, -0.2])) for _ in range(2))
    quadratic(Sophia([whole], lr=0.01, every=3), whole, 8)
    before = Sophia([first], lr=0.01, every=3)
    quadratic(before, first, 4)
    second = torch.nn.Parameter(first.detach().clone())
    after = Sophia([second], lr=0.5, every=3)
    after.load_state_dict(before.state_dict())
    quadratic(after, second, 4)
    assert torch.equal(second, whole)


def test_a_resumed_run_in_half_precision_goes_on_with_the_same_bits():
    """PyTorch's load_state_dict casts all state to the dtype of the weights."""
    gradients = torch.randn(8, 500, generator=torch.Generator().manual_seed(2)) + 0.3

    def run(p, optimizer, steps):
        for step in steps:
            p.grad = gradients[step].bfloat16()
            if optimizer.curvature_due:
                optimizer.add_curvature([p], [gradients[step].abs()])
            optimizer.step()

    whole, first = (torch.nn.Parameter(torch.linspace(-1, 1, 500).bfloat16()) for _ in range(2))
    straight, before = Sophia([whole], lr=0.01, every=2), Sophia([first], lr=0.01, every=2)
    run(whole, straight, range(8))
    run(first, before, range(4))
    second = torch.nn.Parameter(first.detach().clone())
    after = Sophia([second], lr=0.01, every=2)
    after.load_state_dict(before.state_dict())
    run(second, after, range(4, 8))
    assert torch.equal(second, whole)
    for name, value in straight.state[whole].items():
        assert value.dtype == torch.float32 and torch.equal(after.state[second][name], value), name


def test_a_copy_goes_on_like_the_original():
    one = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
    optimizer = Sophia([one], lr=0.01, every=3)
    quadratic(optimizer, one, 4)
    copied = copy.deepcopy(optimizer)
    other = copied.param_groups[0]["params"][0]
    quadratic(optimizer, one, 4)
    quadratic(copied, other, 4)
    assert torch.equal(one, other) and copied.every == 3


def test_groups_have_settings_of_their_own():
    fast, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Sophia([{"params": [fast]}, {"params": [still], "lr": 0.0}], lr=0.1)
    fast.grad, still.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(fast.detach(), torch.full((2,), 0.9))
    assert torch.equal(still, torch.ones(2))


def test_a_closure_runs_with_gradients_and_its_loss_comes_back():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = Sophia([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 2.0
    torch.testing.assert_close(p.detach(), torch.full((2,), 0.9))


def test_a_parameter_without_a_gradient_stays():
    p = torch.nn.Parameter(torch.ones(2))
    Sophia([p], weight_decay=0.5).step()
    assert torch.equal(p, torch.ones(2))


@pytest.mark.parametrize("kind", ["gauss-newton-bartlett", "hutchinson"])
def test_it_trains_a_language_model(kind, tiny_llama, batch):
    model = tiny_llama(torch.float32)
    optimizer = Sophia(model.parameters(), lr=3e-3, kind=kind, every=5)
    losses = []
    for _ in range(30):
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        if optimizer.curvature_due:
            optimizer.update_curvature(model, batch)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    assert all(bool((state["curvature"] != 0).any()) for state in optimizer.state.values())


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"kind": "exact"}, "kind"), ({"every": 0}, "every"), ({"lr": -1.0}, "lr"), ({"betas": (0.9, 1.0)}, "betas"),
     ({"eps": 0.0}, "eps"), ({"gamma": float("nan")}, "gamma")],
)  # fmt: skip
def test_bad_settings_are_named(settings, name):
    with pytest.raises(InvalidInputError, match=name):
        Sophia([torch.nn.Parameter(torch.ones(1))], **settings)
