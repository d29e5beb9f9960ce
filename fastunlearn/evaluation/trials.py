"""What is tried for a method: draws of its settings, the same number for each, all within one budget of gradients."""

from __future__ import annotations

import dataclasses

from fastunlearn.solve.gauss_newton_space import product_gradients
from fastunlearn.unlearn import METHODS
from fastunlearn.unlearn.descent import DescentSettings
from fastunlearn.unlearn.rehearsal import rehearsing_gradients
from fastunlearn.unlearn.search import Logarithmic, draw

__all__ = ["FISHER_STEPS", "budget_of", "trial_settings"]

FISHER_STEPS = 40  # the budget: gradients of so many steps of Fisher Removal
LOOKS = 8  # at the forget records, on the way of a method of many small steps
KEPT_DAMPING = Logarithmic(1e-4, 1e-1)  # of a kept Fisher, which is no setting of the methods that use one


def budget_of(forget: int, retain: int) -> int:
    """The gradients that each trial of each method may take, on so many records."""
    return FISHER_STEPS * (forget + retain)


def trial_settings(name: str, *, trials: int, budget: int, forget: int, retain: int, seed: int) -> list[dict]:
    """``trials`` settings of the method: its defaults first, then draws from its ranges, for so many records.

    Methods that train on retained records spend the whole budget and go back to the best point on their way, since
    retained data repairs on; others stop where enough is forgotten. A method without ranges has one trial. Methods of
    large steps get as many steps as the budget holds.
    """
    row = METHODS[name]
    ranges = dict(row.search) | ({"damping": KEPT_DAMPING} if row.uses_kept else {})
    drawn = draw(ranges, trials if ranges else 1, seed)
    return [one | _common(row, one, budget, forget, retain) for one in drawn]


def _common(row, drawn: dict, budget: int, forget: int, retain: int) -> dict:
    names = {field.name: field.default for field in dataclasses.fields(row.settings)}
    if issubclass(row.settings, DescentSettings):
        batch = min(names["batch"], forget) + (min(names["batch"], retain) if row.uses_retain else 0)
        spend = {"stop": "budget"} if row.uses_retain else {}
        return {"check_every": max(1, budget // batch // LOOKS), **spend}
    if "steps" not in names:
        return {}
    own = names | dict(row.preset) | drawn
    rehearsals, products = own.get("rehearsals", 0), product_gradients(retain, own.get("products", 0))
    budget -= rehearsing_gradients(rehearsals, forget, retain)
    retained = retain / names.get("refresh", 1) if row.uses_retain else 0  # one curvature serves so many steps
    return {"steps": max(1, int(budget / (forget + retained + products)))}
