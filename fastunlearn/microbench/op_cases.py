"""The dual pass of single ops at a model's sizes: ours against eager PyTorch's double backward.

Every case computes the adjoints of the op's inputs and weights: forward, and twice backward, with one tangent. PyTorch
gets the same by one gradient with create_graph and a second backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastunlearn.ops import attention, gated_mlp, linear, linear_cross_entropy, norm

from .harness import OURS, Peaks, Way
from .shapes import configuration

__all__ = ["OPS", "cases", "limit", "truth", "ways"]

EPS = 1e-5
PEER = "torch: double backward"


def _draw(shape: tuple[int, ...], seed: int, case: dict, device: str) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(device=device, dtype=getattr(torch, case["dtype"]))


def _flat(parts) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def double_backward(function: Callable, primals, tangents, g, h) -> Tensor:
    """The adjoints of the primals: gradient of <gradient, tangents> + <y, h>."""
    leaves = [p.detach().requires_grad_() for p in primals]
    y = function(*leaves)
    first = torch.autograd.grad(y, leaves, g, create_graph=True)
    along = sum((one * t[0]).sum() for one, t in zip(first, tangents, strict=True))
    if h is not None:
        along = along + (y * h[0]).sum()
    return _flat(torch.autograd.grad(along, leaves))


class Problem:
    """Inputs, tangents and adjoints of one op, all normal numbers."""

    def __init__(self, case: dict, device: str, shapes: list[tuple[int, ...]], out: tuple[int, ...] | None):
        self.primals = [_draw(shape, i, case, device) for i, shape in enumerate(shapes)]
        self.tangents = [_draw((1, *shape), 10 + i, case, device) for i, shape in enumerate(shapes)]
        self.g = None if out is None else _draw(out, 20, case, device)
        self.h = None if out is None else _draw((1, *out), 21, case, device)


class Op:
    """One op: its problem, ours, the eager function, and the least work in multiply-adds x 2 or bytes moved."""

    def __init__(self, case: dict, device: str):
        self.case, self.device = case, device
        self.rows, self.d = case["batch"] * case["tokens"], case["hidden"]
        self.problem = self.inputs()

    def inputs(self) -> Problem:
        raise NotImplementedError

    def ours(self) -> Tensor:
        raise NotImplementedError

    def eager(self, *primals: Tensor) -> Tensor:
        raise NotImplementedError

    def peer(self) -> Tensor:
        p = self.problem
        return double_backward(self.eager, p.primals, p.tangents, p.g, p.h)

    @staticmethod
    def flop(case: dict) -> float:
        return 0.0

    @staticmethod
    def numbers(case: dict) -> float:
        """Read or written at least."""
        return 0.0


class Linear(Op):
    def inputs(self) -> Problem:
        n = self.case["mlp"]
        return Problem(self.case, self.device, [(self.rows, self.d), (n, self.d)], (self.rows, n))

    def ours(self) -> Tensor:
        (x, w), (xt, wt), p = self.problem.primals, self.problem.tangents, self.problem
        linear.dual_forward(x, xt, w, wt)
        _, hx = linear.dual_backward(w, wt, p.g, p.h)
        out = torch.zeros(1, *w.shape, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device)
        return _flat([hx, linear.weight_product(x, xt, p.g, p.h, out).to(hx)])

    def eager(self, x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w)

    @staticmethod
    def flop(case: dict) -> float:
        return 8 * 2 * case["batch"] * case["tokens"] * case["hidden"] * case["mlp"]


class RMSNorm(Op):
    def inputs(self) -> Problem:
        return Problem(self.case, self.device, [(self.rows, self.d), (self.d,)], (self.rows, self.d))

    def ours(self) -> Tensor:
        (x, w), (xt, wt), p = self.problem.primals, self.problem.tangents, self.problem
        norm.rms_norm_dual_forward(x, xt, w, wt, EPS)
        return _flat(norm.rms_norm_dual_backward(x, xt, w, wt, p.g, p.h, EPS)[1:])

    def eager(self, x: Tensor, w: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w

    @staticmethod
    def numbers(case: dict) -> float:
        return 10 * case["batch"] * case["tokens"] * case["hidden"]


class GatedMLP(Op):
    def inputs(self) -> Problem:
        shape = (self.rows, self.case["mlp"])
        return Problem(self.case, self.device, [shape, shape], shape)

    def ours(self) -> Tensor:
        (a, b), (at, bt), p = self.problem.primals, self.problem.tangents, self.problem
        gated_mlp.dual_forward(a, b, at, bt, "silu")
        return _flat(gated_mlp.dual_backward(a, b, at, bt, p.g, p.h, "silu")[2:])

    def eager(self, a: Tensor, b: Tensor) -> Tensor:
        return F.silu(a) * b

    @staticmethod
    def numbers(case: dict) -> float:
        return 16 * case["batch"] * case["tokens"] * case["mlp"]


class Attention(Op):
    def inputs(self) -> Problem:
        c = self.case
        query = (c["batch"], c["heads"], c["tokens"], c["head"])
        key = (c["batch"], c["groups"], c["tokens"], c["head"])
        self.spec = attention.AttentionSpec(c["head"] ** -0.5, causal=True)
        return Problem(c, self.device, [query, key, key], query)

    def ours(self) -> Tensor:
        p = self.problem
        o, ot, stats = attention.dual_forward(*p.primals, *p.tangents, self.spec)
        return _flat(attention.dual_backward(*p.primals, *p.tangents, o, ot, stats, p.g, p.h, self.spec)[3:])

    def eager(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        several = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(several, 1), v.repeat_interleave(several, 1)
        scores = q @ k.mT * self.spec.scale
        blocked = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return torch.softmax(scores.masked_fill(blocked, -torch.inf), -1) @ v

    @staticmethod
    def flop(case: dict) -> float:
        return 21 * 2 * case["batch"] * case["heads"] * case["head"] * case["tokens"] ** 2 / 2


class CrossEntropy(Op):
    def inputs(self) -> Problem:
        v = self.case["vocabulary"]
        found = Problem(self.case, self.device, [(self.rows, self.d), (v, self.d)], None)
        found.primals[1] *= self.d**-0.5
        generator = torch.Generator().manual_seed(30)
        self.labels = torch.randint(v, (self.rows,), generator=generator).to(self.device)
        self.weights = torch.full((self.rows,), 1 / self.rows, dtype=found.primals[0].dtype, device=self.device)
        return found

    def ours(self) -> Tensor:
        (x, w), (xt, wt) = self.problem.primals, self.problem.tangents
        out = torch.zeros(1, *w.shape, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device)
        hx = linear_cross_entropy.hessian_product(x, xt, w, wt, self.labels, self.weights, True, out)[-1]
        return _flat([hx, out.to(hx)])

    def eager(self, x: Tensor, w: Tensor) -> Tensor:
        return F.cross_entropy(x @ w.T, self.labels)

    @staticmethod
    def flop(case: dict) -> float:
        return 8 * 2 * case["batch"] * case["tokens"] * case["hidden"] * case["vocabulary"]


#: By the name in the results.
OPS: dict[str, type[Op]] = {
    "linear": Linear, "attention": Attention, "linear_cross_entropy": CrossEntropy, "gated_mlp": GatedMLP,
    "rms_norm": RMSNorm,
}  # fmt: skip


def cases(common: dict) -> list[dict]:
    """One case for each op, at the sizes of the shape (or of the model's configuration)."""
    config = configuration(common["shape"], common.get("model"))
    heads, hidden = config.num_attention_heads, config.hidden_size
    sizes = {
        "hidden": hidden, "mlp": getattr(config, "intermediate_size", None) or 4 * hidden, "heads": heads,
        "groups": getattr(config, "num_key_value_heads", None) or heads,
        "head": getattr(config, "head_dim", None) or hidden // heads, "vocabulary": config.vocab_size,
    }  # fmt: skip
    return [{"kind": "op", "name": name, **common, **sizes} for name in OPS]


def ways(case: dict, device: str = "cpu") -> list[Way]:
    made = functools.cache(lambda: OPS[case["name"]](case, device))
    return [
        Way(OURS, lambda: made().ours(), made),
        Way(PEER, lambda: made().peer(), made, ours=False),
    ]


def truth(case: dict, device: str = "cpu") -> tuple[str, Tensor]:
    """Double backward of the eager function in float64, of the same numbers."""
    op = OPS[case["name"]](case, device)
    p = op.problem
    for tensors in (p.primals, p.tangents):
        tensors[:] = [t.double() for t in tensors]
    p.g, p.h = (None if t is None else t.double() for t in (p.g, p.h))
    return f"{PEER}, float64", op.peer()


def limit(case: dict, peaks: Peaks) -> float:
    """Seconds that the machine needs at least: all products at its GEMM peak, or all numbers at a copy's speed."""
    op = OPS[case["name"]]
    size = getattr(torch, case["dtype"]).itemsize
    return op.flop(case) / (peaks.gflop_per_s * 1e9) + op.numbers(case) * size / (peaks.gb_per_s * 1e9)
