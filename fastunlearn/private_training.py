"""Training with differential privacy (DP-SGD, Abadi et al. 2016), to compare with: the line that forgetting would need
no unlearning to reach. It is a way to train, not to unlearn.

Each step draws every record with probability batch / N, takes the gradient of each, shortens it to ``max_norm``, adds
them up, adds noise of standard deviation ``noise * max_norm``, and divides by the batch size. The clipped sum is one
weighted sum of per-sample gradients (operators/sample_gradients.py): no gradient of a record is kept. What the noise is
worth is counted by Opacus' accountant (Renyi differential privacy). Draws come from PyTorch's generator, which is no
cryptographic one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.norms import squared_norms
from fastunlearn.operators.plan import make_plan
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.progress import NO_PROGRESS, Progress

__all__ = ["PrivateLog", "clipped_sum", "epsilon", "train_private"]


@dataclass(frozen=True, slots=True)
class PrivateLog:
    """As a TrainingLog, and ``epsilon`` for ``delta``: the privacy of the whole training, one record as the unit.
    ``losses``: mean over the target tokens of each step's records (NaN where none was drawn)."""

    steps: int
    gradients: int
    seconds: float
    losses: list[float]
    epsilon: float
    delta: float


def epsilon(*, noise: float, sample_rate: float, steps: int, delta: float) -> float:
    """The privacy that so many steps cost, at least 0. Raises InvalidInputError for a delta that is not between 0 and
    1, and without Opacus."""
    if not 0 < delta < 1:
        raise InvalidInputError(f"delta={delta!r} must lie between 0 and 1: take well below 1 / records")
    try:
        from opacus.accountants import RDPAccountant
    except ImportError:
        raise InvalidInputError(
            "the privacy accountant is that of Opacus, which is not installed: pip install opacus"
        ) from None
    accountant = RDPAccountant()
    accountant.history = [(noise, sample_rate, steps)]
    return max(0.0, float(accountant.get_epsilon(delta)))  # its bound falls below 0 for a large delta


def clipped_sum(gradients: SampleGradients, max_norm: float) -> dict[str, Tensor]:
    """The sum of the samples' gradients, each shortened to ``max_norm`` where it is longer; by parameter."""
    lengths = squared_norms(gradients).sqrt()
    return gradients.weighted_gradient((max_norm / lengths.clamp_min(1e-300)).clamp_max(1.0))


def train_private(
    model: nn.Module,
    samples: Sequence[Encoded],
    *,
    steps: int,
    batch_size: int,
    noise: float,
    max_norm: float = 1.0,
    delta: float = 1e-5,
    learning_rate: float = 1e-3,
    seed: int,
    pad_token_id: int,
    progress: Progress | None = None,
) -> PrivateLog:
    """Trains ``model`` in place with DP-Adam; it is left in evaluation mode.

    A record's loss is the mean over its target tokens. ``noise``: standard deviation over ``max_norm``; ``batch_size``:
    records per step, on the mean. ``delta`` should be well below 1 / records. Raises InvalidInputError for an argument
    out of range, a loss that is not finite, and without Opacus (before any training).
    """
    samples = list(samples)
    numbers = {"noise": noise, "max_norm": max_norm, "delta": delta, "learning_rate": learning_rate}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InvalidInputError(f"{name}={value!r} must be a number above 0")
    for number, sample in enumerate(samples, 1):
        if not sample.targets:
            raise InvalidInputError(f"sample {number} of samples has no target token to learn: leave it out")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInputError(f"{name}={value!r} must be an integer of at least 1")
    if batch_size > len(samples):
        raise InvalidInputError(f"batch_size={batch_size} must be at most the number of samples, {len(samples)}")
    rate = batch_size / len(samples)
    spent = epsilon(noise=noise, sample_rate=rate, steps=steps, delta=delta)
    chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
    plan = make_plan(model, chosen, samples, pad_token_id=pad_token_id)
    optimizer = torch.optim.Adam(chosen.values(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    losses, taken, started = [], 0, time.perf_counter()
    model.eval()
    with (progress or NO_PROGRESS).task("Private training", total=steps, unit="step") as task:
        for _ in range(steps):
            drawn = [s for s, u in zip(samples, torch.rand(len(samples), generator=generator), strict=True) if u < rate]
            total, loss = _step(model, plan, drawn, pad_token_id, max_norm)
            if drawn and not math.isfinite(loss):
                raise InvalidInputError(f"training diverged: the loss of step {len(losses) + 1} is {loss}")
            for name, p in chosen.items():
                random = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.device)
                p.grad = ((total.get(name, 0) + noise * max_norm * random) / batch_size).to(p.dtype)
            optimizer.step()
            losses.append(loss)
            taken += len(drawn)
            task.advance()
    optimizer.zero_grad(set_to_none=True)
    return PrivateLog(steps, taken, time.perf_counter() - started, losses, spent, delta)


def _step(model, plan, drawn: list[Encoded], pad: int, max_norm: float) -> tuple[dict[str, Tensor], float]:
    if not drawn:
        return {}, math.nan
    weights = torch.tensor([1 / one.targets for one in drawn])
    gradients = SampleGradients(model, drawn, pad_token_id=pad, plan=plan, row_weights=weights)
    total = clipped_sum(gradients, max_norm)
    tokens = sum(one.targets for one in drawn)
    each = gradients.losses / weights.to(gradients.losses)
    return total, float(each.sum() / tokens)
