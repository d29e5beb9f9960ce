"""Data sets to compare methods on, one file each: NAME, KIND, FILES, ``make(folder, seed, **sizes)``.

Each is made of the user's files where a folder is given, or generated where it is not; never a mixture, and what is
missing from a folder is an error.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path

from fastunlearn.errors import InvalidInputError

from ._set import EvaluationSet

__all__ = ["DATASETS", "EvaluationSet", "make_dataset"]


def _collect() -> dict:
    names = (found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {module.NAME: module for module in modules}


#: The module of every data set, by name.
DATASETS = _collect()


def make_dataset(name: str, folder: str | os.PathLike | None = None, *, seed: int = 0, **sizes: int) -> EvaluationSet:
    """The data set of that name: from the files in ``folder``, or generated where it is None. ``sizes``: see the data
    set's ``make``. ``seed``: which records go where, and what is generated.

    Raises InvalidInputError for an unknown name, for a file that is missing (naming it), and for too few records.
    """
    if name not in DATASETS:
        raise InvalidInputError(f"dataset={name!r} is unknown; use one of {', '.join(DATASETS)}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidInputError(f"seed must be an integer, got {seed!r}")
    module = DATASETS[name]
    place = None if folder is None else Path(folder)
    if place is not None:
        missing = [file for file in module.FILES if not (place / file).is_file()]
        if missing:
            raise InvalidInputError(
                f"folder: {name} needs {', '.join(missing)} in {place}; put it there, or give no folder to have the "
                "data generated"
            )
    return module.make(place if module.FILES else None, seed, **sizes)
