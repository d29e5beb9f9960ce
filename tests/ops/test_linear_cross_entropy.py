"""linear_cross_entropy: the reference against autograd in float64, and every backend against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import linear_cross_entropy as op
from tests.ops.linear_cases import FLOATS, HeadCase, by_autograd, check, error, head_case, sums

LAYERS = [{}, {"bias": True}, {"softcap": 1.7, "logit_scale": 0.6}, {"bias": True, "softcap": 30.0, "logit_scale": 2.0}]
BACKENDS = ["reference"]


def outs(case: HeadCase, dtype: torch.dtype, streams: tuple[int, ...], fill: float = 0.0):
    shape = (*streams, *case.weight.shape)
    return torch.full(shape, fill, dtype=dtype), torch.full(shape[:-1], fill, dtype=dtype)


def hessian(case: HeadCase, backend: str, fill: float = 0.0) -> dict:
    w, b = outs(case, sums(case.x.dtype), (case.streams,), fill)
    nll, nll_t, gx, hx = op.hessian_product(
        *case.tangents(), case.token_weights, True, w, b, bias_t=case.bias_t, **case.layer(), backend=backend
    )
    return {"nll": nll, "nll_t": nll_t, "gx": gx, "hx": hx, "w": w, "b": b}


def ggn(case: HeadCase, backend: str, fill: float = 0.0) -> dict:
    w, b = outs(case, sums(case.x.dtype), (case.streams,), fill)
    nll, nll_t, hx = op.ggn_product(
        *case.tangents(), case.token_weights, True, w, b, bias_t=case.bias_t, **case.layer(), backend=backend
    )
    return {"nll": nll, "nll_t": nll_t, "hx": hx, "w": w, "b": b}


def backward(case: HeadCase, backend: str, fill: float = 0.0) -> dict:
    w, b = outs(case, sums(case.x.dtype), (), fill)
    nll, gx = op.backward(
        case.x, case.weight, case.labels, case.token_weights, True, w, b, **case.layer(), backend=backend
    )
    return {"nll": nll, "gx": gx, "w": w, "b": b}


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_reference_is_double_backward(layer):
    case = head_case(17, 5, 13, 3, **layer)
    live = ((case.labels != -100) & (case.token_weights != 0)).double()
    products, first = hessian(case, "reference"), backward(case, "reference")
    nll, nll_t = op.dual_forward(*case.tangents(), bias_t=case.bias_t, **case.layer(), backend="reference")
    for k in range(3):
        truth = by_autograd(case, k)
        check(nll, truth["nll"], torch.float64)
        check(nll_t[k], truth["nll_t"], torch.float64)
        check(products["nll"], truth["nll"] * live, torch.float64)
        check(products["nll_t"][k], truth["nll_t"] * live, torch.float64)
        check(products["gx"], truth["g_x"], torch.float64)
        check(products["hx"][k], truth["h_x"], torch.float64)
        check(products["w"][k], truth["h_weight"], torch.float64)
        check(first["gx"], truth["g_x"], torch.float64)
        check(first["w"], truth["g_weight"], torch.float64)
        if case.bias is not None:
            check(products["b"][k], truth["h_bias"], torch.float64)
            check(first["b"], truth["g_bias"], torch.float64)
    nll = op.forward(case.x, case.weight, case.labels, **case.layer(), backend="reference")
    check(nll, truth["nll"], torch.float64)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_reference_ggn_is_jacobian_hessian_jacobian(layer):
    """J^T H_L J v with H_L by autograd and J of z by torch.func, in float64."""
    case = head_case(11, 4, 9, 2, **layer)
    live = (case.labels != -100) & (case.token_weights != 0)
    weights = torch.where(live, case.token_weights, 0.0)

    def logits(x, weight, bias):
        z = case.logit_scale * (x @ weight.T + (0 if bias is None else bias))
        return z if case.softcap is None else case.softcap * torch.tanh(z / case.softcap)

    def loss(z):
        nll = torch.nn.functional.cross_entropy(z, case.labels.clamp(min=0), reduction="none")
        return (weights * nll).sum()

    got = ggn(case, "reference")
    bias = torch.zeros(9, dtype=torch.float64) if case.bias is None else case.bias
    for k in range(2):
        bias_t = torch.zeros_like(bias) if case.bias_t is None else case.bias_t[k]
        primals, tangents = (case.x, case.weight, bias), (case.xt[k], case.weight_t[k], bias_t)
        z, zt = torch.func.jvp(logits, primals, tangents)
        _, h_z = torch.func.jvp(torch.func.grad(loss), (z,), (zt,))
        hx, hw, hb = torch.func.vjp(logits, *primals)[1](h_z)
        check(got["hx"][k], hx, torch.float64)
        check(got["w"][k], hw, torch.float64)
        check(got["b"][k], hb, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("run", [hessian, ggn, backward])
def test_reference_in_every_dtype(dtype, run):
    case = head_case(33, 20, 50, 2, dtype=dtype, bias=True, softcap=4.0)
    got, truth = run(case, "reference"), run(case.to(torch.float64), "reference")
    for name, value in got.items():
        assert value.dtype == (sums(dtype) if name in "wb" else dtype)
        check(value, truth[name], dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_input_is_named(backend):
    case = head_case(6, 4, 7, 2)
    sound = {"x": case.x, "xt": case.xt, "weight": case.weight, "weight_t": case.weight_t, "labels": case.labels,
             "token_weights": case.token_weights, "backend": backend}  # fmt: skip
    for change, named in [
        ({"labels": case.labels + 7}, "labels"),
        ({"labels": case.labels.int()}, "labels"),
        ({"token_weights": case.token_weights[:3]}, "token_weights"),
        ({"xt": case.xt[:1]}, "leading axes"),
        ({"weight": case.weight[:, :3]}, "weight"),
        ({"softcap": 0.0}, "softcap"),
        ({"softcap": float("inf")}, "softcap=inf must be positive and finite"),
        ({"logit_scale": float("nan")}, "logit_scale"),
        ({"weight_out": torch.zeros(7, 4, dtype=torch.float64)}, "weight_out"),
        ({"weight_out": torch.zeros(2, 7, 4)}, "weight_out"),
        ({"bias_out": torch.zeros(2, 6, dtype=torch.float64)}, "bias_out"),
        ({"xt": None, "weight_t": None}, "at least one tangent"),
    ]:
        with pytest.raises(InvalidInputError, match=named):
            op.hessian_product(**(sound | change))


def test_the_check_fails_on_a_wrong_sign():
    case = head_case(9, 4, 7)
    truth = hessian(case, "reference")
    broken = hessian(replace(case, weight_t=-case.weight_t), "reference")
    assert error(broken["hx"], truth["hx"]) > 1e-3
    assert error(broken["w"], truth["w"]) > 1e-3
