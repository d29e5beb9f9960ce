"""Fisher Removal and Fisher Forgetting (arXiv 2403.10557), as docs/newton.md says, and Fisher Removal without retained
data, by a Fisher that was kept at training time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastunlearn.unlearn.curvature import Vector
from fastunlearn.unlearn.guard import guarded_move
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, choice, number, optional, whole
from fastunlearn.unlearn.steps import descend_by_steps, make_curvature, make_monitor, make_pull, norm, scaled

__all__ = ["METHODS", "ForgettingSettings", "RemovalSettings", "RetainFreeSettings"]


@dataclass(frozen=True, kw_only=True)
class RemovalSettings:
    """``steps``: at most so many. ``step_norm``: the longest step, L2 over all chosen weights. ``step_drift``: how far
    one step may move the probe from the original, nats per target token: longer ones are halved until they do not, and
    the next begins there (None: no such limit). ``damping``: added to the Fisher's diagonal. ``blocks``: between which
    curvature counts as zero ("auto": tensors where a 16th of ``memory`` holds their Grams, else layers, else one).
    ``kind``: "empirical" labels or "sampled" ones. ``fisher_samples``: retained records per Fisher (None: all).
    ``refresh``: steps for which one Fisher serves (see RetainCurvature). ``pull``: "sum" pulls all forget records
    alike; "gauss-newton" pulls each as far as it needs, its effect on the others counted. ``threshold``: log-odds at
    which a token's pull has faded by half (None: as ``fade`` says). ``fade``: "mean" takes those of a token with the
    target loss, or -3; "ranks" takes for each token those of the held-out token of its rank; "blend" lies between
    the two, the nearer to "ranks" the more of the held-out tokens the model has right (see docs/newton.md).
    ``enough``: what must be that of held-out records, accuracy and loss, or accuracy alone.
    ``kl_budget``: the drift that the guard allows in all, nats per target token (None: no guard).
    ``target_accuracy``, ``target_loss``: see Monitor."""

    steps: int = whole(60, least=1)
    step_norm: float = number(0.25, above=0)
    step_drift: float | None = optional(number(1e-3, above=0))
    damping: float = number(1e-6, above=0)
    blocks: str = choice("auto", "model", "layer", "tensor")
    kind: str = choice("empirical", "sampled")
    fisher_samples: int | None = optional(whole(None, least=1))
    refresh: int = whole(1, least=1)
    pull: str = choice("sum", "gauss-newton")
    threshold: float | None = optional(number(None))
    fade: str = choice("blend", "ranks", "mean")
    enough: str = choice("both", "accuracy")
    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


@dataclass(frozen=True, kw_only=True)
class RetainFreeSettings:
    """As Fisher Removal; damping and kind are those of the kept Fisher, and its blocks the whole model."""

    steps: int = whole(12, least=1)
    step_norm: float = number(0.25, above=0)
    pull: str = choice("sum", "gauss-newton")
    threshold: float | None = optional(number(None))
    fade: str = choice("blend", "ranks", "mean")
    enough: str = choice("both", "accuracy")
    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


@dataclass(frozen=True, kw_only=True)
class ForgettingSettings(RemovalSettings):
    """As Fisher Removal, and: ``noise``: standard deviation of n in ``F^-1/4 n``; ``noise_floor``: eigenvalues of F
    below it count as it, so that the noise in a direction without curvature is at most noise / floor^(1/4)."""

    noise: float = at_least(2e-4, 0)
    noise_floor: float = number(1e-3, above=0)


def fisher_removal(request: Request, settings: RemovalSettings, kept=None) -> tuple[list[dict], str]:
    """Re-linearised Newton steps away from the forget records."""
    monitor = make_monitor(request, settings)
    return descend_by_steps(request, settings, monitor, make_curvature(request, settings, kept))


def _noise(request: Request, step: int) -> Vector:
    generator = torch.Generator().manual_seed(request.seed * 1_000_003 + 500_009 + step)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.device)
        for name, p in request.parameters.items()
    }


def fisher_forgetting(request: Request, settings: ForgettingSettings, kept=None) -> tuple[list[dict], str]:
    """Fisher Removal, then ``noise * F^-1/4 n`` with n standard normal and F at the weights reached."""
    monitor = make_monitor(request, settings)
    maker = make_curvature(request, settings, kept)
    steps, stopped = descend_by_steps(request, settings, monitor, maker)
    if settings.noise == 0:
        return steps, stopped
    curvature = maker.at(len(steps), make_pull(settings, monitor))
    plain = _noise(request, len(steps))
    shaped = scaled(curvature.power(-0.25, plain, settings.noise_floor), settings.noise)
    move = guarded_move(monitor, shaped, settings.kl_budget, shorten=False)  # noise is not a pull
    floor = max(settings.noise_floor, settings.damping)
    more = {
        "noise_norm": move.scale * norm(shaped), "noise_scale": move.scale, "gradients": request.gradients,
        "noise_gain_at_most": floor**-0.25, "noise_clamped_at": floor,
    }  # fmt: skip
    steps.append(monitor.look(len(steps), **more))
    if move.scale == 0:
        return steps, f"{stopped}; no noise added, the KL budget of {settings.kl_budget:g} allows none"
    return steps, f"{stopped}; curvature-shaped noise added"


_SEARCH = {
    "damping": Logarithmic(1e-7, 1e-4), "step_drift": OneOf((2.5e-4, 5e-4, 1e-3)),
    "pull": OneOf(("sum", "gauss-newton")),
}  # fmt: skip
METHODS = (
    Method("fisher-removal", "Fisher Removal", "strong erasure: Newton steps shaped by the retained data's Fisher",
           True, RemovalSettings, fisher_removal, search=_SEARCH, restartable=True),
    Method("fisher-forgetting", "Fisher Forgetting", "Fisher Removal, then curvature-shaped noise",
           True, ForgettingSettings, fisher_forgetting, search=_SEARCH, restartable=True),
    Method("fisher-removal-retain-free", "Fisher Removal, retain-free",
           "Newton steps shaped by a Fisher kept from training time, down-dated",
           False, RetainFreeSettings, fisher_removal, uses_kept=True, restartable=True,
           search={"step_norm": OneOf((0.05, 0.1, 0.25)), "pull": OneOf(("sum", "gauss-newton"))}),
)  # fmt: skip
