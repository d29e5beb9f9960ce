"""The state of a long pass on disk: written whole or not at all at a set interval, taken up again after a kill.

A state belongs to one computation, named by a key (weights, samples, settings). A state of another computation is not
used; the pass then starts from its beginning and replaces it. A file that is no state, or a damaged one, is refused and
stays as it is. A pass that is taken up again
adds the same numbers in the same order, so its result has the same bits as that of an unbroken run.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.storage.files import write_tensors

__all__ = ["PassState"]


class PassState:
    """``path``: a safetensors file. ``interval``: seconds between writes, 0 for one at every step. ``key``: what the
    computation depends on, as JSON-ready values. Raises InvalidInputError: a bad interval, a folder, or a file that is
    there and is no state, or a damaged one."""

    def __init__(self, path: str | os.PathLike, interval: float, key: object):
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not interval >= 0:
            raise InvalidInputError(f"state_interval={interval!r} must be seconds, at least 0")
        if Path(path).is_dir():
            raise InvalidInputError(f"state={os.fspath(path)!r} is a folder; name a file")
        self.path, self.interval = Path(path), float(interval)
        if self.path.exists():
            self._about()
        self.key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._last = time.monotonic()

    def _about(self) -> dict:
        """What the file says of itself. Raises InvalidInputError where it is no state: it is not ours to replace."""
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("fastunlearn", "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise InvalidInputError(
                f"state: {self.path} cannot be read ({error}); delete it to start from the beginning, "
                "or name another file"
            ) from error
        if not isinstance(about, dict) or not {"key", "facts"} <= about.keys():
            raise InvalidInputError(f"state: {self.path} is another kind of file and stays as it is; name a new one")
        return about

    def load(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and facts of the last write of this computation; both empty where there is none."""
        if not self.path.exists():
            return {}, {}
        about = self._about()
        if about["key"] != self.key:
            return {}, {}
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, about["facts"]  # noqa: SIM118

    def step(self, tensors: dict[str, Tensor], facts: dict, *, last: bool = False) -> None:
        """Writes the state where the interval has passed, or where it is the ``last`` one. Raises OutputError."""
        if not last and time.monotonic() - self._last < self.interval:
            return
        about = {"fastunlearn": json.dumps({"key": self.key, "facts": facts})}
        write_tensors(self.path, {n: t.cpu().contiguous() for n, t in tensors.items()}, about, overwrite=True)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Deletes the file."""
        self.path.unlink(missing_ok=True)
