"""What a method is: one row of the table of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .search import Range

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """``run(request, settings[, kept])`` changes the request's model and returns its step log and why it stopped.

    ``uses_retain``: needs retained records. ``uses_kept``: needs a kept Fisher instead. ``first_order``: uses
    gradients alone. ``preset``: settings that the name itself stands for, unless the user says otherwise. ``search``:
    the settings that are worth tuning, and between what (search.py). ``restartable``: keeps its state after every step,
    where it is given one.
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
    search: Mapping[str, Range] = field(default_factory=dict)
