"""Kronecker Removal: Fisher Removal's bounded pull, shaped by EK-FAC of the retained records and their exact Fisher.

The exact Fisher in sample space has as many directions as there are retained records, and holds nothing else in place
but by its damping. EK-FAC is an approximation, but of full rank: directions that few records use are free, all others
are held. Together (solve/kronecker_space.py) they take fewer steps and mostly harm less than either, and less comes
back by relearning (docs/newton.md, "Which curvature"). With ``products`` they are only where each solve begins, and the
Gauss-Newton matrix itself takes the place of EK-FAC (solve/gauss_newton_space.py). *Rehearsed*, it goes on with steps
against what relearning would bring back (unlearn/rehearsal.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.rehearsal import rehearse
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, choice, number, optional, whole
from fastunlearn.unlearn.steps import descend_by_steps, make_monitor

from .k_fade import KroneckerMaker

__all__ = ["METHODS", "KroneckerSettings"]


@dataclass(frozen=True, kw_only=True)
class KroneckerSettings:
    """As for Fisher Removal; ``curvature``: "ekfac" corrects the eigenvalues, "kfac" does not. ``exact_weight``: weight
    of the exact Fisher of the retained records beside it (0: none). ``products``: at most so many products with their
    exact Gauss-Newton matrix, 4/3 of a gradient a record each, in EK-FAC's place for every solve (0: none);
    ``products_damping``: added to that matrix's diagonal. ``rehearsals``: at most so many steps against relearning,
    after the others (rehearsal.py); ``rehearsal_norm``: how far the weights move in a rehearsal, and at most in the
    step after it; ``rehearsal_drift``: how far such a step may move the probe, nats per target token."""

    steps: int = whole(60, least=1)
    step_norm: float = number(2.0, above=0)
    step_drift: float | None = optional(number(1e-3, above=0))
    damping: float = number(1e-6, above=0)
    curvature: str = choice("ekfac", "kfac")
    exact_weight: float = at_least(1e3, 0)
    products: int = whole(0, least=0)
    products_damping: float = number(1e-3, above=0)
    kind: str = choice("empirical", "sampled")
    fisher_samples: int | None = optional(whole(None, least=1))
    refresh: int = whole(1, least=1)
    threshold: float | None = optional(number(None))
    fade: str = choice("ranks", "blend", "mean")
    enough: str = choice("both", "accuracy")
    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))
    rehearsals: int = whole(0, least=0)
    rehearsal_norm: float = number(2.0, above=0)
    rehearsal_drift: float = number(2e-4, above=0)
    pull = "sum"


def run(request: Request, settings: KroneckerSettings) -> tuple[list[dict], str]:
    """Steps down the pull until enough is forgotten; then the rehearsals. A run that is taken up again does them anew:
    the state is of the steps before them."""
    monitor, maker = make_monitor(request, settings), KroneckerMaker(request, settings)
    steps, stopped = descend_by_steps(request, settings, monitor, maker)
    if settings.rehearsals and len(steps) > 1:  # else there was nothing to forget
        stopped += f"; {rehearse(request, settings, monitor, maker, steps)}"
    return steps, stopped


_SEARCH = {"damping": Logarithmic(1e-7, 1e-4), "step_drift": OneOf((2.5e-4, 5e-4, 1e-3))}
METHODS = (
    Method("kronecker-removal", "Kronecker Removal", "Fisher Removal's pull, held by EK-FAC and the exact Fisher",
           True, KroneckerSettings, run, restartable=True, search=_SEARCH),
    Method("gauss-newton-removal", "Gauss-Newton Removal",
           "Kronecker Removal, each step refined by exact Gauss-Newton products",
           True, KroneckerSettings, run, restartable=True, search={"products": OneOf((2, 6))},
           preset=(("products", 4),)),
    Method("kronecker-removal-rehearsed", "Kronecker Removal, rehearsed",
           "the same, then steps against what relearning would bring back",
           True, KroneckerSettings, run, restartable=True, search=_SEARCH, preset=(("rehearsals", 40),)),
)  # fmt: skip
