"""Gradient ascent on the forget records (Jang et al. 2023), or down their bounded pull: with or without retained data.

gradient-ascent       maximise the forget loss
gradient-difference   maximise the forget loss, minimise the retained one        (Liu et al. 2022)
bounded-ascent, bounded-difference      the same with Fisher Removal's pull (operators/losses.py) in place of the
                                        loss, which shows what curvature adds to it
"""

from __future__ import annotations

from dataclasses import dataclass

from fastunlearn.operators.losses import softplus_log_odds
from fastunlearn.unlearn.descent import DescentSettings, Objective, descend, mean_loss
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.monitor import Monitor
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, choice

__all__ = ["METHODS", "AscentSettings", "DifferenceSettings"]


@dataclass(frozen=True, kw_only=True)
class AscentSettings(DescentSettings):
    """As DescentSettings, and ``loss``: "likelihood" climbs the forget records' loss without end, "log-odds" descends
    their bounded pull."""

    loss: str = choice("likelihood", "log-odds")


@dataclass(frozen=True, kw_only=True)
class DifferenceSettings(AscentSettings):
    """As gradient ascent, and ``retain_weight``: of the retained loss, against 1 for the forget loss."""

    retain_weight: float = at_least(1.0, 0)


def run(request: Request, settings: AscentSettings) -> tuple[list[dict], str]:
    """Adam up the forget loss (or down its bounded pull), and down the retained loss where the settings weigh it."""
    monitor = Monitor(request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss)
    if settings.loss == "log-odds":
        forget = mean_loss(request, softplus_log_odds(monitor.threshold))
    else:
        forget = mean_loss(request, sign=-1)
    objective = Objective(forget, mean_loss(request), getattr(settings, "retain_weight", 0.0))
    return descend(request, settings, objective, monitor=monitor)


_RATE = {"learning_rate": Logarithmic(1e-5, 1e-3)}
_BOTH = {**_RATE, "retain_weight": OneOf((0.5, 1.0, 2.0, 4.0, 8.0))}
_BOUNDED = (("loss", "log-odds"),)
METHODS = (
    Method("gradient-ascent", "Gradient ascent", "climbs the forget loss",
           False, AscentSettings, run, first_order=True, search=_RATE),
    Method("gradient-difference", "Gradient difference", "climbs the forget loss, descends the retained one",
           True, DifferenceSettings, run, first_order=True, search=_BOTH),
    Method("bounded-ascent", "Bounded ascent", "Fisher Removal's pull on the forget records, without curvature",
           False, AscentSettings, run, first_order=True, preset=_BOUNDED, search=_RATE),
    Method("bounded-difference", "Bounded difference", "the same pull and the retained loss, without curvature",
           True, DifferenceSettings, run, first_order=True, preset=_BOUNDED, search=_BOTH),
)  # fmt: skip
