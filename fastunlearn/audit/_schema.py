"""Checks of JSON-like values against a description; a failure names the place and the mend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from fastunlearn.errors import InvalidInputError

Check = Callable[[str, object], None]
_LARGEST = sys.float_info.max  # JSON allows integers beyond it, with which nothing here can reckon


def _fail(place: str, wanted: str, value: object) -> None:
    # The value itself may be text of a record: only its type is told.
    raise InvalidInputError(f"document: {place} must be {wanted}, got {type(value).__name__}")


def number(low: float | None = None, high: float | None = None, *, whole=False, null=False) -> Check:
    """A finite number in [low, high]; ``whole``: an integer; ``null``: or None."""
    wanted = ("an integer" if whole else "a finite number") + (" or null" if null else "")

    def check(place: str, value: object) -> None:
        if value is None and null:
            return
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) <= _LARGEST:
            _fail(place, wanted, value)
        if (low is not None and value < low) or (high is not None and value > high):
            raise InvalidInputError(f"document: {place}={value} is outside {low} to {high}")

    return check


def text(place: str, value: object) -> None:
    """Any string that UTF-8 can hold."""
    if not isinstance(value, str):
        _fail(place, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"document: {place} holds half of a surrogate pair; write it as UTF-8"
        ) from None


def boolean(place: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        _fail(place, "true or false", value)


def json_ready(place: str, value: object) -> None:
    """Anything that JSON can hold: string keys, finite numbers, no tensors, no paths."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        text(place, value)
        return
    if isinstance(value, (int, float)):
        number()(place, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            text(f"a key of {place}", key)
            json_ready(f"{place}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            json_ready(f"{place}[{index}]", item)
    else:
        _fail(place, "plain JSON data (convert tensors with .item() or .tolist())", value)


def optional(check: Check) -> Check:
    """None, or what ``check`` takes."""
    return lambda place, value: None if value is None else check(place, value)


def list_of(check: Check) -> Check:
    """A list, every item of which ``check`` takes."""

    def run(place: str, value: object) -> None:
        if not isinstance(value, (list, tuple)):
            _fail(place, "a list", value)
        for index, item in enumerate(value):
            check(f"{place}[{index}]", item)

    return run


def each_value(check: Check) -> Check:
    """A dictionary with string keys, every value of which ``check`` takes."""

    def run(place: str, value: object) -> None:
        if not isinstance(value, dict):
            _fail(place, "a dictionary", value)
        for key, item in value.items():
            text(f"a key of {place}", key)
            check(f"{place}.{key}", item)

    return run


def fields(required: Mapping[str, Check], maybe: Mapping[str, Check] | None = None, *, closed=False) -> Check:
    """A dictionary with these keys. Other keys are any JSON, or with ``closed`` an error."""
    maybe = maybe or {}

    def run(place: str, value: object) -> None:
        if not isinstance(value, dict):
            _fail(place, "a dictionary", value)
        missing = [key for key in required if key not in value]
        if missing:
            raise InvalidInputError(f"document: {place} lacks {', '.join(missing)}")
        for key, item in value.items():
            check = required.get(key) or maybe.get(key)
            if check is None and closed:
                raise InvalidInputError(f"document: {place} has the unknown key {key!r}; remove it")
            (check or json_ready)(f"{place}.{key}", item)

    return run
