"""Models of float64 that round to float32 on the way: what depends on the parameters stays in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastunlearn.dual import DualPass

from .oracle import accumulators, directions

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: F.linear(x.float(), w.float()),
        lambda x, w: x.float() @ w.float().T,
        lambda x, w: torch.einsum("ti,oi->to", x, w.float()),
        lambda x, w: torch.matmul(input=x, other=w.float().T),
        lambda x, w: torch.addmm(torch.ones(5), x, w.float().T),
    ],
)
def test_constants_beside_what_was_kept(product):
    """The input is a constant of float32, as embeddings given by the user are to a router that works in float32."""
    torch.manual_seed(0)
    model = nn.Linear(4, 5, bias=False).double()
    parameters = dict(model.named_parameters())
    v, out = directions(parameters, 2), accumulators(parameters, 2)
    DualPass(model, parameters, lambda m, _: product(X, m.weight).softmax(-1).square().sum()).hessian({}, v, out)
    truth = torch.func.hessian(lambda w: (X.double() @ w.T).softmax(-1).square().sum())(model.weight.detach())
    expected = torch.einsum("abcd,kcd->kab", truth, v["weight"])
    torch.testing.assert_close(out["weight"], expected, rtol=1e-10, atol=1e-12)
