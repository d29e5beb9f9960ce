"""Sharpness: the quadratic's maximum against a dense solve and random points, and the loss itself at what is found."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

import fastunlearn as fu
from fastunlearn.analysis.ball import maximum_in_ball
from fastunlearn.errors import InvalidInputError

PART = ["*down_proj*", "*norm*"]


def quadratic(g, h, y):
    return y @ g + (y * (y @ h)).sum(-1) / 2


@pytest.mark.parametrize("shift", [0.0, 3.0, -30.0])  # indefinite, mostly up, a hill
@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_no_point_of_the_ball_is_higher(shift, size):
    generator = torch.Generator().manual_seed(4)
    h = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    h = h + h.T + shift * torch.eye(5, dtype=torch.float64)
    g = size * torch.randn(5, generator=generator, dtype=torch.float64)
    y = maximum_in_ball(g, h, 0.7)
    assert y.norm() <= 0.7 * (1 + 1e-9)
    points = torch.randn(20000, 5, generator=generator, dtype=torch.float64)
    points = 0.7 * points / points.norm(dim=1, keepdim=True)
    points = torch.cat([points, points * torch.rand(20000, 1, generator=generator, dtype=torch.float64)])
    best = quadratic(g, h, points).max()
    assert quadratic(g, h, y) >= best - 1e-9 * best.abs()
    assert quadratic(g, h, y) >= 0


def test_the_hard_case_fills_up_along_the_top_eigenvector():
    h = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    g = torch.tensor([0.0, 0.1], dtype=torch.float64)
    y = maximum_in_ball(g, h, 1.0)
    assert y.norm().item() == pytest.approx(1.0) and y[1].item() == pytest.approx(0.1)  # (2 - 1) y = 0.1


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_is_the_maximum_of_the_dense_quadratic_and_the_loss_there(adaptive, tiny_llama, batch, hessian, dense):
    model = tiny_llama(layers=1)
    before = [p.detach().clone() for p in model.parameters()]
    g = fu.gradient(model, batch, params=PART)
    theta = torch.cat([p.detach().flatten() for p in hessian.walk.parameters.values()])
    scale = theta.abs() if adaptive else torch.ones_like(theta)
    found = fu.sharpness(model, batch, params=PART, radius=0.1, steps=30, adaptive=adaptive, profile=5)
    y = maximum_in_ball(scale * g, scale[:, None] * dense * scale, 0.1)
    assert found.predicted == pytest.approx(quadratic(scale * g, scale[:, None] * dense * scale, y).item(), rel=1e-6)
    top = torch.linalg.eigvalsh(scale[:, None] * dense * scale)[-1].item()
    assert found.eigenvalue.value == pytest.approx(top, rel=1e-6)
    assert found.value == max(found.rises.values()) and found.value > 0.9 * found.predicted
    assert (found.direction / scale).norm().item() == pytest.approx(0.1, rel=1e-6)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert found.loss == pytest.approx(model(**batch).loss.item(), rel=1e-12)
    # the loss at the point given, by the model itself
    at = 0
    with torch.no_grad():
        for p in hessian.walk.parameters:
            tensor = dict(model.named_parameters())[p]
            tensor += found.direction[at : at + tensor.numel()].view_as(tensor)
            at += tensor.numel()
        assert model(**batch).loss.item() - found.loss == pytest.approx(found.value, rel=1e-9)
    assert found.profile[2] == (0.0, found.loss) and found.profile[4][1] - found.loss == pytest.approx(found.value)
    ElementTree.fromstring(found.svg())


class Bowl(torch.nn.Module):
    """A loss ``h |w|^2 / 2 + c . w``, whose Krylov spaces have one dimension."""

    def __init__(self, h: float):
        super().__init__()
        self.h, self.w = h, torch.nn.Parameter(torch.tensor([1.0, 0.5, -2.0, 3.0, 1.0], dtype=torch.float64))

    def forward(self, c):
        return self.h * self.w.square().sum() / 2 + (c * self.w).sum()


@pytest.mark.parametrize("h", [-1.0, 0.0, 2.0])
def test_a_krylov_space_that_is_used_up(h):
    """A straight loss and a hill have no eigenvalue above 0, and the zeros behind the space's end are none."""
    c = torch.tensor([3.0, 1.0, 2.0, 4.0, 5.0], dtype=torch.float64)
    model = Bowl(h)
    found = fu.sharpness(model, {"c": c}, loss=lambda model, batch: model(batch["c"]), radius=0.1, steps=20)
    g = c + h * model.w.detach()
    assert found.eigenvalue.value == pytest.approx(h, abs=1e-12)
    assert found.value == pytest.approx(0.1 * g.norm().item() + h * 0.1**2 / 2)  # along the gradient
    assert found.predicted == pytest.approx(found.value) and len(found.rises) == 4


def test_half_precision_does_not_swallow_the_step(tiny_llama, batch):
    """At this radius most of the step is below a bfloat16 weight's last digit."""
    narrow, wide = tiny_llama(torch.bfloat16), tiny_llama(torch.float32)
    wide.load_state_dict(narrow.state_dict())
    before = [p.detach().clone() for p in narrow.parameters()]
    found, truth = (fu.sharpness(model, batch, radius=1e-3, steps=4) for model in (narrow, wide))
    assert found.value == pytest.approx(truth.value, rel=0.02) and found.loss == pytest.approx(truth.loss, rel=1e-6)
    assert found.value == pytest.approx(found.predicted, rel=0.05)
    assert all(torch.equal(p, old) and p.dtype == old.dtype for p, old in zip(narrow.parameters(), before, strict=True))


def test_it_rises_with_the_radius_and_beats_the_first_order_point(tiny_llama, batch):
    model = tiny_llama(torch.float32, layers=1)
    small, large = (fu.sharpness(model, batch, radius=r, params=PART, steps=10) for r in (0.05, 0.5))
    assert 0 < small.value < large.value
    assert large.value >= large.rises["gradient"] and set(large.rises) > {"quadratic", "gradient"}


def test_the_weights_come_back_after_an_error(tiny_llama, batch):
    model = tiny_llama(layers=1)
    before = [p.detach().clone() for p in model.parameters()]
    calls = []

    def loss(model, batch):
        calls.append(1)
        if not torch.is_grad_enabled() and len(calls) > 14:
            raise RuntimeError("out")
        return model(**batch).loss

    with pytest.raises(RuntimeError, match="out"):
        fu.sharpness(model, batch, loss=loss, params=PART, steps=10)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_bad_arguments_are_named(tiny_llama, batch):
    with pytest.raises(InvalidInputError, match="radius"):
        fu.sharpness(tiny_llama(), batch, radius=0.0)
    with pytest.raises(InvalidInputError, match="steps"):
        fu.sharpness(tiny_llama(), batch, steps=0)
    with pytest.raises(InvalidInputError, match="profile"):
        fu.sharpness(tiny_llama(layers=1), batch, params=PART, steps=3).svg()
