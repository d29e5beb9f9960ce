"""Settings of attacks from what a user gives: every name and every type is checked before an attack begins."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping

from fastunlearn.audit.attacks.registry import ATTACKS
from fastunlearn.errors import InvalidInputError

__all__ = ["make_settings"]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _each(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, tuple) and all(map(check, value))


#: By the annotation of a field: which values it takes, and that in words.
_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "int": (_whole, "an integer"),
    "float": (_number, "a finite number"),
    "tuple[float, ...]": (_each(_number), "a list of finite numbers"),
    "tuple[int, ...] | None": (lambda value: value is None or _each(_whole)(value), "a list of integers, or null"),
}


def make_settings(name: str, options: Mapping[str, object]):
    """The settings of the attack ``name`` (of ATTACKS) with ``options``; a list stands for a tuple. Raises
    InvalidInputError for a name that it has not, and for a value of another type or out of range."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(ATTACKS[name].settings)}
    unknown = [option for option in options if option not in fields]
    if unknown:
        has = ", ".join(sorted(fields)) or "none"
        raise InvalidInputError(f"settings: {name} has no setting {', '.join(unknown)}; its settings: {has}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    for key, value in given.items():
        check, words = _KINDS[fields[key]]
        if not check(value):
            raise InvalidInputError(f"settings: {key}={options[key]!r} of {name} must be {words}")
    return ATTACKS[name].settings(**given)
