"""Where choices that were made by timing are kept: in memory, and in a JSON file for the next process.

The file is named by ``FASTUNLEARN_TUNE_FILE``; by default it is in Triton's cache folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

import triton

__all__ = ["get", "keep"]

_chosen: dict[str, int] = {}  # as in the file


def get(name: str) -> int | None:
    if name not in _chosen:
        _chosen.update(_read())
    return _chosen.get(name)


def keep(name: str, number: int) -> None:
    """A folder that cannot be written to is no error: the choice is then made again in the next process."""
    _chosen[name] = number
    path = file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: threads of this process, and processes of other containers, may be writing too.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as opened:
                json.dump({**_read(), name: number}, opened, indent=1)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise


def file() -> Path:
    named = os.environ.get("FASTUNLEARN_TUNE_FILE")
    return Path(named) if named else Path(triton.knobs.cache.dir) / "fastunlearn-tiles.json"


def _read() -> dict[str, int]:
    try:
        return {str(k): int(v) for k, v in json.loads(file().read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # no file yet, or one that is not ours: the tiles are timed again
