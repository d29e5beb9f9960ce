"""grouped_mm, the product of mixtures of experts, against the same written out."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.dual import DualPass


class Experts(torch.nn.Module):
    def __init__(self, turned):
        super().__init__()
        shape = (4, 7, 5) if turned else (4, 5, 7)
        self.x = torch.nn.Parameter(torch.randn(9, 5, dtype=torch.float32))
        self.w = torch.nn.Parameter(torch.randn(shape, dtype=torch.float32))
        self.turned = turned

    def weight(self):
        return self.w.transpose(-2, -1) if self.turned else self.w


OFFS = torch.tensor([3, 3, 8, 9], dtype=torch.int32)  # the second expert has no rows


def fused(model, _):
    x = torch.tanh(model.x) * 1.0
    return torch._grouped_mm(x, model.weight(), offs=OFFS).square().mean().sin()


def plain(model, _):
    x, w = torch.tanh(model.x), model.weight()
    parts = [x[:3] @ w[0], x[3:8] @ w[2], x[8:] @ w[3]]
    return torch.cat(parts).square().mean().sin()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("chosen", [("x", "w"), ("x",), ("w",)], ids="+".join)
def test_hessian_and_gradient(turned, chosen):
    model = Experts(turned)
    parameters = {n: p for n, p in model.named_parameters() if n in chosen}
    v = {n: torch.randn(3, *p.shape) for n, p in parameters.items()}
    found = []
    for loss in (fused, plain):
        out = {n: torch.full_like(t, 0.0) for n, t in v.items()}
        DualPass(model, parameters, loss).hessian({}, v, out)
        first = {n: torch.zeros(1, *p.shape) for n, p in parameters.items()}
        DualPass(model, parameters, loss).gradient({}, first)
        found.append((out, first))
    for ours, theirs in zip(*found, strict=True):
        for name in parameters:
            assert (ours[name] - theirs[name]).norm() < 1e-5 * theirs[name].norm()
    plain(model, None).backward()
    assert (
        found[0][1]["w" if "w" in chosen else "x"][0] - getattr(model, "w" if "w" in chosen else "x").grad
    ).norm() < 1e-3
