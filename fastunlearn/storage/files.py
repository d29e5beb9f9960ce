"""Files and folders that appear whole or not at all.

Everything is written to a temporary sibling (same folder, so the same file system), forced to the disk with
``fsync`` and then renamed, which POSIX makes atomic. A failure of any kind removes the sibling, removes the
parent folders that were made for it, and raises :class:`~fastunlearn.errors.OutputError`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fastunlearn.errors import InvalidInputError, OutputError

__all__ = [
    "refuse_existing", "remove_leftovers", "staged_file", "staged_folder", "write_json", "write_tensors", "write_text",
]  # fmt: skip

_MARGIN = 1 << 20  # bytes asked for above the content: directory entries, journals
_OLD = ".old"
_ADVICE = "choose another name, or pass overwrite=True"


def refuse_existing(
    path: str | os.PathLike, *, overwrite: bool = False, advice: str = "choose another name"
) -> Path:
    """``path`` made absolute with links followed; to be called before any long computation. ``advice``: what to do
    where something is there, in the words of whoever asks (the option, the key).

    Raises OutputError where it is there already (unless ``overwrite``), where a file stands in the place of
    one of its parent folders, or where the nearest existing parent cannot be written to. With ``overwrite`` a
    folder is still refused unless it is empty or holds a ``config.json``: replacing removes everything
    inside.
    """
    target = Path(os.path.realpath(path))
    parent = _nearest_parent(target)
    if not parent.is_dir():
        raise OutputError(f"{path} cannot be made: {parent} is a file; choose another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be made: no permission to write in {parent}")
    if target.exists() and not overwrite:
        raise OutputError(f"{path} is there already: {advice}")
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise OutputError(f"{path} is not a model folder (no config.json): it is not replaced")
    return target


def _nearest_parent(target: Path) -> Path:
    """The nearest parent of ``target`` that exists."""
    return next(parent for parent in target.parents if parent.exists())


def check_free_space(folder: Path, needed: int) -> None:
    """Raises OutputError where the disk that ``folder`` is (or would be) on has under ``needed`` bytes
    free."""
    free = shutil.disk_usage(_nearest_parent(folder / "_")).free
    if free < needed + _MARGIN:
        raise OutputError(
            f"not enough disk space in {folder}: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free; "
            "free some, or write to another disk"
        )


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Makes the parents of ``target``; on failure removes those it made and turns OSError to OutputError."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for folder in missing:
            with contextlib.suppress(OSError):  # not made after all, or no longer empty
                folder.rmdir()
        if isinstance(error, OutputError):
            raise
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise OutputError(f"{target} could not be written: {reason}; nothing was changed") from error
        if isinstance(error, SafetensorError):  # how safetensors reports a full disk
            raise OutputError(f"{target} could not be written: {error}; nothing was changed") from error
        raise


def _fsync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _default_mode(mode: int) -> int:
    """``mode`` as the process's umask leaves it (tempfile makes files that only the owner can read)."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


@contextlib.contextmanager
def staged_file(path: str | os.PathLike, *, needed: int = 0, mode: int | None = None) -> Iterator[Path]:
    """A temporary sibling file to write; it replaces ``path`` when the block ends without an exception.

    ``needed``: bytes that must be free before anything is written. ``mode``: the permission bits (default: an existing
    file's are kept, a new one's are those of the umask). Parent folders are made. Raises OutputError (no space, no
    permission, a folder in the place): ``path`` and its neighbours are then as they were.
    """
    target = Path(os.path.realpath(path))
    with _writing(target):
        if target.is_dir():
            raise OutputError(f"{path} is a folder; a file name is needed")
        check_free_space(target.parent, needed)
        if mode is None:
            mode = target.stat().st_mode & 0o7777 if target.exists() else _default_mode(0o666)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(descriptor)
        try:
            yield Path(name)
            _fsync(Path(name))
            os.chmod(name, mode)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _fsync_after_rename(target.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes ``text`` (UTF-8, newlines as they are) to ``path``, in one step: readers see the old file or the
    new. Raises OutputError as :func:`staged_file`."""
    data = text.encode("utf-8")
    with staged_file(path, needed=len(data)) as file:
        file.write_bytes(data)


def write_tensors(
    path: str | os.PathLike, tensors: dict[str, Tensor], metadata: dict[str, str], *, overwrite: bool = False
) -> None:
    """Writes one safetensors file, whole or not at all. Raises OutputError as :func:`staged_file`, and where
    ``path`` is there already (unless ``overwrite``)."""
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path} is there already: {_ADVICE}")
    with staged_file(path, needed=sum(t.numel() * t.element_size() for t in tensors.values())) as file:
        save_file(tensors, file, metadata=metadata)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes ``value`` as strict JSON (UTF-8, indented by 1, newline at the end) with :func:`write_text`.

    Raises InvalidInputError where ``value`` is not JSON-ready or holds NaN or infinity (strict readers refuse
    them), OutputError as :func:`write_text`.
    """
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"value for {Path(path).name} cannot be written as JSON: {error}") from error
    write_text(path, text + "\n")


@contextlib.contextmanager
def staged_folder(
    out: str | os.PathLike, *, overwrite: bool = False, needed: int = 0, advice: str = _ADVICE
) -> Iterator[Path]:
    """A temporary sibling folder to fill; it becomes ``out`` when the block ends without an exception.

    ``needed``: bytes that must be free before anything is written. ``overwrite``: an existing ``out`` is
    moved aside, and removed only after the new one is in place (a machine that dies between the two leaves it
    beside ``out`` with a name ending in ".old"). Raises OutputError as :func:`refuse_existing`, or where
    writing fails.
    """
    target = refuse_existing(out, overwrite=overwrite, advice=advice)
    if target.is_file():
        raise OutputError(f"{out} is a file; give the name of a folder")
    with _writing(target):
        check_free_space(target.parent, needed)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            yield stage
            for path in sorted(stage.rglob("*")):
                _fsync(path)
            _fsync(stage)
            os.chmod(stage, _default_mode(0o777))
            _put_in_place(stage, target, overwrite=overwrite)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        _fsync_after_rename(target.parent)


def _put_in_place(stage: Path, target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        os.rename(stage, target)
        return
    if not overwrite:  # it appeared while we were computing
        raise OutputError(f"{target} is there already: it was made by another process in the meantime")
    old = stage.with_suffix(_OLD)
    os.rename(target, old)
    try:
        os.rename(stage, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(*targets: str | os.PathLike) -> None:
    """Removes the temporary siblings that a killed writer of ``targets`` left. Only for one who knows that no other
    process is writing them, as the holder of a lock does."""
    for target in map(Path, targets):
        # tempfile's own characters: with any others it would be a sibling of another target, such as NAME.v2
        own = re.compile(re.escape(f".{target.name}.") + "[a-z0-9_]+" + re.escape(".tmp"))
        for path in filter(lambda path: own.fullmatch(path.name), target.parent.glob(".*.tmp")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _fsync_after_rename(folder: Path) -> None:
    """Forces the rename itself to disk. The result is in place by now, so a refusal here is not a failure."""
    with contextlib.suppress(OSError):
        _fsync(folder)
