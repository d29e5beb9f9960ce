"""Inputs for the attention tests, the independent truth by autograd, and the error measure they share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fastunlearn.ops.attention import AttentionSpec, backward, dual_backward, dual_forward, forward
from tests.ops.thresholds import ATTENTION

NAMES = ("o", "ot", "lse", "mean_t", "gq", "gk", "gv", "hq", "hk", "hv")


@dataclass
class Case:
    """Primal, tangents, adjoints and the specification of one attention."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    qt: torch.Tensor
    kt: torch.Tensor
    vt: torch.Tensor
    g: torch.Tensor
    h: torch.Tensor
    spec: AttentionSpec = field(default_factory=lambda: AttentionSpec(1.0))

    def map(self, change) -> Case:
        tensors = {name: value for name, value in vars(self).items() if name != "spec"}
        spec = {name: value for name, value in vars(self.spec).items() if name in ("mask", "alibi")}
        spec = {name: change(v) if v is not None and v.dtype != torch.bool else v for name, v in spec.items()}
        tensors = {name: None if value is None else change(value) for name, value in tensors.items()}
        return Case(**tensors, spec=AttentionSpec(**{**vars(self.spec), **spec}))

    def terms(self) -> float:
        """The size of the numbers whose difference a gradient of q or k is: scale (g . v) k."""
        largest = max([x.abs().max().item() for x in (self.q, self.k) if x.numel()], default=1.0)
        return self.spec.scale * self.v.shape[-1] ** 0.5 * largest

    def wide(self) -> Case:
        return self.map(lambda x: x.double())


def make_case(batch=2, heads=2, groups=2, queries=5, keys=7, size=4, value_size=None, count=1, dtype=torch.float64,
              seed=0, logits=1.0, transposed=False, **spec) -> Case:  # fmt: skip
    """Normal numbers; scores have standard deviation ``logits``. transposed: (B, S, H, D) in memory, as models have."""
    generator = torch.Generator().manual_seed(seed)
    value_size = value_size or size

    def draw(*shape, factor=1.0):
        x = factor * torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.to(dtype).transpose(-2, -3).contiguous().transpose(-2, -3) if transposed else x.to(dtype)

    query, key, value = (batch, heads, queries, size), (batch, groups, keys, size), (batch, groups, keys, value_size)
    out = (batch, heads, queries, value_size)
    spec.setdefault("scale", size**-0.5)
    return Case(
        draw(*query, factor=logits), draw(*key), draw(*value), draw(count, *query), draw(count, *key),
        draw(count, *value), draw(*out), draw(count, *out), AttentionSpec(**spec),
    )  # fmt: skip


def run_dual(case: Case, backend: str | None = None) -> dict[str, torch.Tensor]:
    """All results of the dual pair, by name."""
    c = case
    o, ot, stats = dual_forward(c.q, c.k, c.v, c.qt, c.kt, c.vt, c.spec, backend=backend)
    adjoints = dual_backward(c.q, c.k, c.v, c.qt, c.kt, c.vt, o, ot, stats, c.g, c.h, c.spec, backend=backend)
    return dict(zip(NAMES, (o, ot, stats.lse, stats.mean_t, *adjoints), strict=True))


def run_single(case: Case, backend: str | None = None) -> dict[str, torch.Tensor]:
    """All results of the one-stream pair, by name."""
    c = case
    o, stats = forward(c.q, c.k, c.v, c.spec, backend=backend)
    hq, hk, hv = backward(c.q, c.k, c.v, o, stats, c.h, c.spec, backend=backend)
    return {"o": o, "lse": stats.lse, "hq": hq, "hk": hk, "hv": hv}


def error(got: torch.Tensor, truth: torch.Tensor, terms: float = 0.0) -> float:
    """Largest error over the truth's largest element; infinite where ``got`` is NaN.

    Where the truth is a difference that leaves nothing (under 1e-3 of ``terms``: with one key per query the softmax has
    no derivative), the error is relative to ``terms``; where it leaves little, to a tenth of them.
    """
    same_infinities = torch.equal(torch.isinf(got), torch.isinf(truth))
    if bool(torch.isnan(got).any()) or not same_infinities:
        return float("inf")
    finite = torch.isfinite(truth)
    if not bool(finite.any()):
        return 0.0
    largest = truth[finite].abs().max().item()
    largest = max(largest, 0.1 * terms) if largest > 1e-3 * terms else terms
    return (got.double() - truth)[finite].abs().max().item() / max(largest, 1e-300)


def check(got: dict[str, torch.Tensor], truth: dict[str, torch.Tensor], threshold: float | None = None,
          terms: float = 0.0) -> None:  # fmt: skip
    """Every result against float64, with the threshold of its dtype."""
    for name, value in got.items():
        assert value.shape == truth[name].shape, name
        allowed = threshold or ATTENTION[value.dtype]
        found = error(value, truth[name], terms)
        assert found <= allowed, f"{name}: {found:.2e} > {allowed:.0e}"


def check_case(case: Case, threshold: float | None = None) -> None:
    """The dual pair and the one-stream pair of the kernels against the reference in float64."""
    wide = case.wide()
    check(run_dual(case, "cpu"), run_dual(wide, "reference"), threshold, case.terms())
    check(run_single(case, "cpu"), run_single(wide, "reference"), threshold, case.terms())
