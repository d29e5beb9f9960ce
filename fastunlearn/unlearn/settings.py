"""Settings of methods: dataclass fields that know which values they allow, and the check of what a user gives."""

from __future__ import annotations

import dataclasses
import math
import sys

from fastunlearn.errors import InvalidInputError

__all__ = ["at_least", "choice", "make_settings", "number", "optional", "whole"]


def _field(default, check, words: str):
    return dataclasses.field(default=default, metadata={"check": check, "words": words})


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def number(default, *, above: float | None = None):
    """A finite number, greater than ``above``."""
    words = "a finite number" + ("" if above is None else f" above {above:g}")
    return _field(default, lambda v: _is_number(v) and (above is None or v > above), words)


def at_least(default, least: float, *, most: float = math.inf):
    """A finite number from ``least`` to ``most``."""
    words = f"a number of at least {least:g}" if math.isinf(most) else f"a number from {least:g} to {most:g}"
    return _field(default, lambda v: _is_number(v) and least <= v <= most, words)


def whole(default, *, least: int):
    """An integer of at least ``least``."""
    return _field(default, lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
                  f"an integer of at least {least}")  # fmt: skip


def choice(*allowed: str):
    """One of ``allowed``; the first is the default."""
    return _field(allowed[0], lambda v: v in allowed, f"one of {', '.join(allowed)}")


def optional(field):
    """The same field, with None allowed."""
    check, words = field.metadata["check"], field.metadata["words"]
    return _field(field.default, lambda v: v is None or check(v), f"{words}, or null")


def make_settings(kind: type, method: str, options: dict):
    """``kind(**options)`` after checking every value.

    Raises InvalidInputError for a name that the method does not have (listing those it has), and for a value
    that is not allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in options.items():
        if name not in fields:
            raise InvalidInputError(f"{method} has no setting {name!r}; it has {', '.join(fields)}")
        check = fields[name].metadata.get("check")
        if check is not None and not check(value):
            raise InvalidInputError(f"{name}={value!r} must be {fields[name].metadata['words']}")
    return kind(**options)
