"""Fields of the configuration: each knows its default, which values it takes, and the sentence that explains it."""

from __future__ import annotations

import dataclasses
import math
import sys

__all__ = ["allowed", "choice", "flag", "names", "number", "required", "table", "text", "whole"]


def _field(default, check, words: str, doc: str, **more):
    metadata = {"check": check, "words": words, "doc": doc}
    return dataclasses.field(default=default, metadata=metadata, **more)


def _is_text(value) -> bool:
    return isinstance(value, str) and "\0" not in value


def required(doc: str):
    """A string that must be given."""
    return _field(dataclasses.MISSING, lambda v: _is_text(v) and bool(v.strip()), "a string that is not empty", doc)


def text(default: str, doc: str):
    """A string."""
    return _field(default, _is_text, "a string", doc)


def choice(values: tuple[str, ...], doc: str):
    """One of ``values``, the first by default."""
    return _field(values[0], lambda v: v in values, f"one of {', '.join(map(repr, values))}", doc)


def flag(default: bool, doc: str):
    """true or false."""
    return _field(default, lambda v: isinstance(v, bool), "true or false", doc)


def whole(default: int, least: int, doc: str, most: float = math.inf):
    """An integer from ``least`` to ``most``."""
    words = f"an integer of at least {least}" if math.isinf(most) else f"an integer from {least} to {int(most)}"
    return _field(default, lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most, words, doc)


def number(default: float, least: float, doc: str, most: float = math.inf):
    """A finite number from ``least`` to ``most``."""
    words = f"a number of at least {least:g}" if math.isinf(most) else f"a number from {least:g} to {most:g}"

    def check(value) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return is_number and least <= value <= most

    return _field(default, check, words, doc)


def names(doc: str):
    """A list of strings, empty by default."""
    return _field((), lambda v: isinstance(v, list | tuple) and all(map(_is_text, v)), "a list of strings", doc)


def table(doc: str):
    """A table with keys of its own, checked elsewhere."""
    return dataclasses.field(
        default_factory=dict, metadata={"check": lambda v: isinstance(v, dict), "words": "a table", "doc": doc}
    )


def allowed(field: dataclasses.Field) -> str:
    """Which values the field takes, in words."""
    return field.metadata["words"]
