"""The reference of attention against autograd: jvp for the dual forward, its vjp for the dual backward, in float64."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops.attention import AttentionSpec, dual_forward, forward
from tests.ops.attention_cases import NAMES, Case, check, make_case, run_dual, run_single

SLOPES = torch.tensor([0.5, 0.25])


def plain_attention(q, k, v, spec: AttentionSpec):
    """Softmax attention written apart from the reference: a dense mask built entry by entry, torch's softmax."""
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    k, v = (torch.stack([x[:, h * x.shape[1] // heads] for h in range(heads)], 1) for x in (k, v))
    s = torch.einsum("bhid,bhjd->bhij", q, k) * spec.scale
    if spec.softcap is not None:
        s = torch.tanh(s / spec.softcap) * spec.softcap
    added = torch.zeros(s.shape, dtype=s.dtype)
    for i in range(queries):
        for j in range(keys):
            if spec.alibi is not None:
                added[:, :, i, j] += spec.alibi.to(s.dtype) * (j - i)
            if (spec.causal and j > i) or (spec.window is not None and j <= i - spec.window):
                added[:, :, i, j] = -torch.inf
    if spec.mask is not None:
        mask = spec.mask
        if mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, -torch.inf)
        added = added + mask
    return torch.softmax(s + added, -1) @ v


def by_autograd(c: Case) -> dict[str, torch.Tensor]:
    """o, ot and all adjoints of <g, ot> + <h, o>, one tangent at a time."""
    primal = (c.q, c.k, c.v)
    parts = []
    for n in range(c.h.shape[0]):
        def pair(*values):
            return torch.func.jvp(lambda *x: plain_attention(*x, c.spec), values[:3], values[3:])

        (o, ot), pull = torch.func.vjp(pair, *primal, c.qt[n], c.kt[n], c.vt[n])
        parts.append((o, ot, *pull((c.h[n], c.g))))
    o, ot, hq, hk, hv, gq, gk, gv = (torch.stack(x) for x in zip(*parts, strict=True))
    return {"o": o[0], "ot": ot, "gq": gq[0], "gk": gk[0], "gv": gv[0], "hq": hq, "hk": hk, "hv": hv}


VARIANTS = {
    "plain": {},
    "causal": {"causal": True},
    "causal, more keys": {"causal": True, "queries": 3, "keys": 8},
    "window": {"window": 3},
    "causal window": {"causal": True, "window": 2},
    "softcap": {"softcap": 0.7, "logits": 2.0},
    "alibi": {"alibi": SLOPES, "causal": True},
    "bool mask": {"mask": torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(1)) > 0.3},
    "float mask": {"mask": torch.randn(1, 2, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)},
    "key mask": {"mask": torch.tensor([True, True, False, True, True, False, True])},
    "everything": {"softcap": 2.0, "alibi": SLOPES, "causal": True, "window": 4, "groups": 1, "value_size": 3,
                   "count": 3,
                   "mask": torch.randn(5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_dual_pair_against_autograd(variant):
    case = make_case(**VARIANTS[variant])
    got, truth = run_dual(case, "reference"), by_autograd(case)
    check({name: got[name] for name in truth}, truth)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_stream_against_autograd(variant):
    case = make_case(**{**VARIANTS[variant], "count": 2})
    o, pull = torch.func.vjp(lambda *x: plain_attention(*x, case.spec), case.q, case.k, case.v)
    hq, hk, hv = (torch.stack(x) for x in zip(*(pull(h) for h in case.h), strict=True))
    got = run_single(case, "reference")
    check({n: got[n] for n in ("o", "hq", "hk", "hv")}, {"o": o, "hq": hq, "hk": hk, "hv": hv})


def test_against_sdpa():
    case = make_case(causal=True, queries=9, keys=9, groups=1)
    expected = torch.nn.functional.scaled_dot_product_attention(case.q, case.k, case.v, is_causal=True, enable_gqa=True)
    check({"o": forward(case.q, case.k, case.v, case.spec, backend="reference")[0]}, {"o": expected})


def test_statistics():
    """lse is the log-sum-exp, and mean_t its derivative."""
    case = make_case(causal=True)
    got = run_dual(case, "reference")
    i, j = torch.arange(5)[:, None], torch.arange(7)[None, :]

    def lse(q, k):
        return torch.logsumexp((q @ k.mT * case.spec.scale).masked_fill(j > i, -torch.inf), -1)

    value, tangent = torch.func.jvp(lse, (case.q, case.k), (case.qt[0], case.kt[0]))
    check({"lse": got["lse"], "mean_t": got["mean_t"]}, {"lse": value, "mean_t": tangent[None]})


def test_fully_masked_rows_take_no_part():
    """Such a row gives zeros, and everything else is what it is without the row."""
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[2] = False
    case = make_case(mask=mask)
    got = run_dual(case, "reference")
    assert all(bool((got[name][..., 2, :] == 0).all()) for name in ("o", "ot", "gq", "hq"))
    assert bool((got["lse"][..., 2] == -torch.inf).all()) and bool((got["mean_t"][..., 2] == 0).all())
    rest = [0, 1, 3, 4]
    without = case.map(lambda x: x[..., rest, :] if x.shape[-2] == 5 else x)
    without.spec = AttentionSpec(case.spec.scale)
    truth = run_dual(without, "reference")
    for name in NAMES:
        kept = got[name]
        if name in ("lse", "mean_t"):
            kept = kept[..., rest]
        elif name in ("o", "ot", "gq", "hq"):
            kept = kept[..., rest, :]
        check({name: kept}, truth)


@pytest.mark.parametrize("missing", [("qt",), ("kt",), ("vt",), ("qt", "kt"), ("kt", "vt"), ("h",), ("qt", "kt", "h")])
def test_none_is_zero(missing):
    case, zeros = make_case(causal=True, count=2), make_case(causal=True, count=2)
    for name in missing:
        setattr(case, name, None)
        setattr(zeros, name, torch.zeros_like(getattr(zeros, name)))
    truth = run_dual(zeros, "reference")
    got = run_dual(case, "reference")
    check(got, truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(dtype):
    case = make_case(dtype=dtype, causal=True, count=2)
    got, truth = run_dual(case, "reference"), run_dual(case.wide(), "reference")
    assert got["o"].dtype == got["hv"].dtype == dtype and got["lse"].dtype == torch.float32
    check(got, truth, {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float32: 1e-5}[dtype])


def test_bad_arguments():
    c = make_case()
    with pytest.raises(InvalidInputError, match="multiple"):
        forward(c.q, c.k[:, :1].expand(2, 3, 7, 4), c.v, c.spec)
    with pytest.raises(InvalidInputError, match="v must have shape"):
        forward(c.q, c.k, c.v[:, :, :3], c.spec)
    with pytest.raises(InvalidInputError, match="at least one tangent"):
        dual_forward(c.q, c.k, c.v, None, None, None, c.spec)
    with pytest.raises(InvalidInputError, match="leading axis K"):
        dual_forward(c.q, c.k, c.v, c.qt[0], None, None, c.spec)
    with pytest.raises(InvalidInputError, match="kt must have shape"):
        dual_forward(c.q, c.k, c.v, c.qt, torch.cat([c.kt, c.kt]), None, c.spec)
    with pytest.raises(InvalidInputError, match="as q is"):
        forward(c.q, c.k.float(), c.v, c.spec)
    with pytest.raises(InvalidInputError, match="broadcast"):
        forward(c.q, c.k, c.v, AttentionSpec(1.0, mask=torch.ones(3, 7)))
    with pytest.raises(InvalidInputError, match="slopes"):
        forward(c.q, c.k, c.v, AttentionSpec(1.0, alibi=torch.ones(3)))
    for bad in ({"window": 0}, {"softcap": 0.0}, {"scale": float("nan")}, {"mask": torch.ones(2, dtype=torch.int64)}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            AttentionSpec(**{"scale": 1.0, **bad})
