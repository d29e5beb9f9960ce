"""A file of numbers that is mapped into memory, and that never takes the place of a file of somebody else's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

__all__ = ["MappedFile"]


class MappedFile:
    """``path`` is what :meth:`publish` names the file; before, it has a name of its own beside it. ``instead_of``: the
    file that may be at that path by then, and goes; tensors that are mapped from it keep their values.

    Raises InvalidInputError where any other file is there.
    """

    def __init__(self, path: str | os.PathLike, instead_of: MappedFile | None = None) -> None:
        self.path, self._before = Path(path).absolute(), instead_of
        self._check()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent)
        self._now = Path(name)
        self._identity = _identity(os.fstat(handle))
        os.close(handle)

    def zeros(self, count: int, dtype: torch.dtype) -> Tensor:
        """So many zeros, whose pages come into being when they are written."""
        os.truncate(self._now, max(1, count * dtype.itemsize))
        return torch.from_file(str(self._now), shared=True, size=count, dtype=dtype)

    def publish(self) -> None:
        """Gives the file its name."""
        self._check()
        os.replace(self._now, self.path)
        self._now, self._before = self.path, None

    def remove(self) -> None:
        """Removes the file; not another one that has come to its path."""
        if self.is_at(self._now):
            self._now.unlink()

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one."""
        try:
            return _identity(os.stat(path)) == self._identity
        except FileNotFoundError:
            return False

    def _check(self) -> None:
        if os.path.lexists(self.path) and not (self._before is not None and self._before.is_at(self.path)):
            raise InvalidInputError(
                f"path: {str(self.path)!r} exists, and is not this Fisher's own file: name one that does not exist, or "
                "remove it (forget_personal_data() removes a Fisher's own)"
            )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
