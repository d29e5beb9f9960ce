"""The table of methods, made of the files of ``methods/``: each holds the rows ``METHODS`` of what it defines.

Methods with curvature stand first, then first-order ones; within each by file name.
"""

from __future__ import annotations

import importlib
import pkgutil

from fastunlearn.errors import UnknownMethodError

from . import methods as _folder
from .method import Method

__all__ = ["METHODS", "Method", "get_method"]


def _collect() -> dict[str, Method]:
    names = sorted(found.name for found in pkgutil.iter_modules(_folder.__path__))
    rows = [row for name in names for row in importlib.import_module(f"{_folder.__name__}.{name}").METHODS]
    found = {row.name: row for row in sorted(rows, key=lambda row: row.first_order)}
    if len(found) != len(rows):
        raise ImportError("two files of fastunlearn/unlearn/methods define a method of the same name")
    return found


#: Every method by name. In the package it is ``fu.methods``.
METHODS: dict[str, Method] = _collect()


def get_method(name: str) -> Method:
    """The method of that name. Raises UnknownMethodError, listing the known ones."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise UnknownMethodError(f"method={name!r} is unknown; use one of {', '.join(METHODS)}") from None
