"""linear: the reference against autograd in float64, and every backend against the reference."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import linear as op
from tests.ops.linear_cases import FLOATS, check, error, sums

FORWARD = ("x", "xt", "weight", "weight_t", "bias", "bias_t")


def inputs(rows: int, width: int, height: int, streams: int, dtype=torch.float64, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "x": normal(rows, width), "xt": normal(streams, rows, width), "weight": normal(height, width),
        "weight_t": normal(streams, height, width), "bias": normal(height), "bias_t": normal(streams, height),
        "g": normal(rows, height), "h": normal(streams, rows, height),
    }  # fmt: skip


def run(c: dict, backend: str, fill: float = 0.0) -> dict:
    """Every function of the op on the inputs ``c``."""
    y, yt = op.dual_forward(*(c[n] for n in FORWARD), backend=backend)
    gx, hx = op.dual_backward(c["weight"], c["weight_t"], c["g"], c["h"], backend=backend)
    streams, height, width = c["weight_t"].shape
    w = torch.full((streams, height, width), fill, dtype=sums(c["x"].dtype))
    b = torch.full((streams, height), fill, dtype=sums(c["x"].dtype))
    assert op.weight_product(c["x"], c["xt"], c["g"], c["h"], w, backend=backend) is w
    assert op.bias_product(c["h"], b, backend=backend) is b
    return {"y": y, "yt": yt, "gx": gx, "hx": hx, "w": w, "b": b}


def test_reference_is_reverse_over_forward():
    """The adjoints of the dual forward itself, by autograd: <g, yt> + <h, y> differentiated."""
    c = inputs(7, 5, 6, 2)
    got = run(c, "reference")
    for k in range(2):
        leaves = {n: (v if n in ("x", "weight", "bias") else v[k]).clone().requires_grad_()
                  for n, v in c.items() if n not in "gh"}  # fmt: skip
        y = torch.nn.functional.linear(leaves["x"], leaves["weight"], leaves["bias"])
        yt = leaves["xt"] @ leaves["weight"].T + leaves["x"] @ leaves["weight_t"].T + leaves["bias_t"]
        ((c["g"] * yt).sum() + (c["h"][k] * y).sum()).backward()
        check(got["y"], y.detach(), torch.float64)
        check(got["yt"][k], yt.detach(), torch.float64)
        for name, leaf in (("gx", "xt"), ("hx", "x"), ("w", "weight"), ("b", "bias")):
            value = got[name] if name == "gx" else got[name][k]
            check(value, leaves[leaf].grad, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_reference_in_every_dtype(dtype):
    c = inputs(33, 20, 41, 3, dtype)
    got, truth = run(c, "reference"), run({n: v.double() for n, v in c.items()}, "reference")
    for name, value in got.items():
        assert value.is_contiguous() and value.dtype == (sums(dtype) if name in "wb" else dtype)
        check(value, truth[name], dtype)


def test_none_is_zero():
    c = inputs(9, 4, 6, 2)
    for gone in (["xt"], ["weight_t"], ["bias_t"], ["xt", "weight_t"], ["xt", "bias_t"], ["weight_t", "bias_t"]):
        zeros = c | {n: torch.zeros_like(c[n]) for n in gone}
        left = c | dict.fromkeys(gone)
        _, yt = op.dual_forward(*(left[n] for n in FORWARD))
        _, truth = op.dual_forward(*(zeros[n] for n in FORWARD))
        check(yt, truth, torch.float64)
    assert op.dual_forward(c["x"], None, c["weight"], None)[1] is None
    gx, hx = op.dual_backward(c["weight"], None, None, c["h"])
    assert gx is None
    check(hx, c["h"] @ c["weight"], torch.float64)
    gx, hx = op.dual_backward(c["weight"], None, c["g"], None)
    assert hx is None
    check(gx, c["g"] @ c["weight"], torch.float64)
    for names, truth in ((("h", "x"), c["h"].mT @ c["x"]), (("g", "xt"), c["g"].T @ c["xt"])):
        only = {n: c[n] if n in (*names, "x") else None for n in ("x", "xt", "g", "h")}
        out = op.weight_product(*only.values(), torch.ones_like(truth))
        check(out, truth + 1, torch.float64)


def test_the_check_fails_on_a_missing_term():
    c = inputs(9, 4, 6, 1)
    truth = run(c, "reference")
    broken = run(c | {"weight_t": torch.zeros_like(c["weight_t"])}, "reference")
    assert error(broken["yt"], truth["yt"]) > 1e-3 and error(broken["hx"], truth["hx"]) > 1e-3


def test_wrong_input_is_named():
    c = inputs(6, 4, 7, 2)
    with pytest.raises(InvalidInputError, match="weight_t"):
        op.dual_forward(c["x"], c["xt"], c["weight"], c["weight_t"].float())
    with pytest.raises(InvalidInputError, match="leading axes"):
        op.dual_forward(c["x"], c["xt"][:1], c["weight"], c["weight_t"])
    with pytest.raises(InvalidInputError, match="flatten"):
        op.dual_forward(c["xt"], None, c["weight"], None)
    with pytest.raises(InvalidInputError, match="g has shape"):
        op.dual_backward(c["weight"], None, c["g"][:, :3], c["h"])
    with pytest.raises(InvalidInputError, match="out is"):
        op.weight_product(c["x"], c["xt"], c["g"], c["h"], torch.zeros(2, 7, 4))
