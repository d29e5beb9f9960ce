"""A Newton direction F^-1 G^T c with the low-rank Fisher: ours, against forming every sample's gradient."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .harness import OURS, Peaks, Way
from .product_cases import Setting, weights_in_products
from .shapes import empty_model, make_batch

__all__ = ["cases", "limit", "truth", "ways"]

DAMPING = 1e-3
PEER = "torch: explicit gradients"
#: Capture (forward, and backward for activations) and one weighted sum of gradients.
UNITS = 3


def cases(common: dict) -> list[dict]:
    return [{"kind": "lowrank", "name": f"Fisher of {common['samples']} samples: Newton direction", **common}]


def _batch(setting: Setting) -> dict[str, Tensor]:
    return make_batch(setting.model("sdpa"), setting.case["tokens"], setting.case["samples"])


def _c(setting: Setting) -> Tensor:
    return torch.randn(setting.case["samples"], generator=torch.Generator().manual_seed(3))


def ours(setting: Setting) -> Tensor:
    import fastunlearn as fu

    return fu.LowRankFisher(setting.model("sdpa"), _batch(setting), DAMPING).solve_samples(_c(setting))


def explicit(setting: Setting) -> Tensor:
    """One backward pass for each sample, G as a matrix, and the same push-through."""
    model, parameters = setting.model("sdpa"), list(setting.model("sdpa").parameters())
    rows = []
    for ids in _batch(setting)["input_ids"]:
        logits = model(input_ids=ids[None]).logits[0, :-1]
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), ids[1:], reduction="sum")
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    g = torch.stack(rows)
    m = len(g)
    damped = (g @ g.T).double() + m * DAMPING * torch.eye(m, dtype=torch.float64, device=g.device)
    weights = m * torch.linalg.solve(damped, _c(setting).to(damped))
    return g.T @ weights.to(g)


def ways(case: dict, device: str = "cpu") -> list[Way]:
    setting = Setting(case, device)
    prepare = functools.partial(setting.model, "sdpa")
    found = [Way(OURS, functools.partial(ours, setting), prepare)]
    if case.get("peers", True):
        found.append(Way(PEER, functools.partial(explicit, setting), prepare, ours=False))
    return found


def truth(case: dict, device: str = "cpu") -> tuple[str, Tensor]:
    return f"{PEER}, float64", explicit(Setting({**case, "dtype": "float64"}, device))


def limit(case: dict, peaks: Peaks) -> float:
    """Seconds at the GEMM peak of the passes alone; the Gram matrix comes on top, by the route that is cheapest."""
    count = weights_in_products(empty_model(case["shape"], case.get("model")))
    return 2 * UNITS * count * case["tokens"] * case["samples"] / (peaks.gflop_per_s * 1e9)
