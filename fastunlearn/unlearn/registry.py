"""The table of methods: name, what it does, what it needs, its settings and the function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastunlearn.errors import UnknownMethodError

from . import first_order, second_order

__all__ = ["METHODS", "Method", "get_method"]


@dataclass(frozen=True)
class Method:
    """``run(request, settings[, kept])`` changes the request's model and returns its step log and why it stopped.

    ``uses_retain``: needs retained records. ``uses_kept``: needs a kept Fisher instead. ``first_order``: uses
    gradients alone. ``preset``: settings that the name itself stands for, unless the user says otherwise.
    ``restartable``: keeps its state after every step, where it is given one.
    """

    name: str
    label: str
    summary: str
    uses_retain: bool
    settings: type
    run: Callable
    uses_kept: bool = False
    first_order: bool = False
    preset: tuple[tuple[str, object], ...] = ()
    restartable: bool = False


_FIRST = {"first_order": True}
_STEPS = {"restartable": True}
_ALL = (
    Method("fisher-removal", "Fisher Removal", "strong erasure: Newton steps shaped by the retained data's Fisher",
           True, second_order.RemovalSettings, second_order.fisher_removal, **_STEPS),
    Method("fisher-forgetting", "Fisher Forgetting", "Fisher Removal, then curvature-shaped noise",
           True, second_order.ForgettingSettings, second_order.fisher_forgetting, **_STEPS),
    Method("newton", "Newton, one shot", "the paper's single Newton removal step",
           True, second_order.NewtonSettings, second_order.newton),
    Method("fisher-removal-retain-free", "Fisher Removal, retain-free",
           "Newton steps shaped by a Fisher kept from training time, down-dated",
           False, second_order.RetainFreeSettings, second_order.fisher_removal, uses_kept=True, **_STEPS),
    Method("gradient-ascent", "Gradient ascent", "climbs the forget loss",
           False, first_order.AscentSettings, first_order.gradient_ascent, **_FIRST),
    Method("gradient-difference", "Gradient difference", "climbs the forget loss, descends the retained one",
           True, first_order.DifferenceSettings, first_order.gradient_difference, **_FIRST),
    Method("npo", "NPO", "negative preference optimisation, forget records alone",
           False, first_order.NPOSettings, first_order.npo, **_FIRST),
    Method("npo-retain", "NPO with retained data", "negative preference optimisation and the retained loss",
           True, first_order.NPOSettings, first_order.npo, preset=(("retain_weight", 1.0),), **_FIRST),
    Method("bounded-ascent", "Bounded ascent", "Fisher Removal's pull on the forget records, without curvature",
           False, first_order.AscentSettings, first_order.gradient_ascent, preset=(("loss", "log-odds"),), **_FIRST),
    Method("bounded-difference", "Bounded difference", "the same pull and the retained loss, without curvature",
           True, first_order.DifferenceSettings, first_order.gradient_difference, preset=(("loss", "log-odds"),),
           **_FIRST),
    Method("finetune", "Fine-tuning", "descends the retained loss and lets the rest fade",
           True, first_order.DescentSettings, first_order.finetune, **_FIRST),
)  # fmt: skip

#: Every method by name.
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def get_method(name: str) -> Method:
    """The method of that name. Raises UnknownMethodError, listing the known ones."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise UnknownMethodError(f"method={name!r} is unknown; use one of {', '.join(METHODS)}") from None
