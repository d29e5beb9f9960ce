"""One process at a time: a file that is locked while a block runs. The system frees it when the process dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fastunlearn.errors import OutputError

__all__ = ["exclusive"]


def _open_locked(path: Path, what: str) -> int:
    import fcntl  # not on Windows, where no command of ours locks

    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutputError(f"{path} could not be made: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            by = f" (process {holder})" if holder.isdigit() else ""
            raise OutputError(f"{what} is in use by another run{by}: wait until it is done, or stop it") from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the run that held it has just removed the file: there may be another by now


@contextlib.contextmanager
def exclusive(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Holds the lock file ``path`` while the block runs, and removes it at the end. ``what`` is being protected, for
    the message. Raises OutputError where another process holds it, or where it cannot be made."""
    path = Path(path)
    descriptor = _open_locked(path, what)
    try:
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # a full disk: the number is for the other's message alone
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
