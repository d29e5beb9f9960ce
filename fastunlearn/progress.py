"""How far a long computation is. Library code takes a :class:`Progress`; the default is silent."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

__all__ = ["NO_PROGRESS", "Progress", "Task", "TerminalProgress"]


class Task:
    """One piece of work with a known number of units; a context manager. This one is silent."""

    def advance(self, n: int = 1) -> None:
        """``n`` more units are done."""

    def note(self, text: str) -> None:
        """Shows ``text`` (a loss, a phase; never the text of a record) beside the task."""

    def __enter__(self) -> Task:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Progress:
    """Silent progress, and the base of those that show something (override :meth:`task`)."""

    def task(self, description: str, total: int, unit: str = "sample") -> Task:
        """A task of ``total`` units, to be used as ``with progress.task(...) as task: task.advance()``."""
        return Task()

    def group(self, description: str, total: int, unit: str = "part") -> Task:
        """A task that is made of others, which are shown beside it."""
        return self.task(description, total, unit)


#: What library functions use where ``progress`` is None.
NO_PROGRESS = Progress()


class TerminalProgress(Progress):
    """Bars with the time left on a terminal (tqdm), those of tasks within a task only while they run. Elsewhere
    (file, pipe) one line per task, at its end, and none for a task within a task."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._open: list[Task] = []  # the tasks that are running, groups left out

    def task(self, description: str, total: int, unit: str = "sample") -> Task:
        # sys.stderr is looked up here: it may have been replaced since the start
        stream = sys.stderr if self._stream is None else self._stream
        if stream.isatty():
            return _Bar(self._open, tqdm(desc=description, total=total, unit=f" {unit}", file=stream,
                                         dynamic_ncols=True, leave=not self._open))  # fmt: skip
        return _Line(self._open, stream, description, total, unit)

    def group(self, description: str, total: int, unit: str = "part") -> Task:
        stream = sys.stderr if self._stream is None else self._stream
        if stream.isatty():
            return _Bar(None, tqdm(desc=description, total=total, unit=f" {unit}", file=stream, dynamic_ncols=True))
        return _Line(None, stream, description, total, unit)


class _Shown(Task):
    """Keeps the list of running tasks; None for a group, which is not in it."""

    def __init__(self, running: list[Task] | None) -> None:
        self._running = running
        self._within = bool(running)

    def __enter__(self) -> Task:
        if self._running is not None:
            self._running.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None and self in self._running:
            self._running.remove(self)


class _Bar(_Shown):
    def __init__(self, running: list[Task] | None, bar: tqdm) -> None:
        super().__init__(running)
        self._bar = bar

    def advance(self, n: int = 1) -> None:
        self._bar.update(n)

    def note(self, text: str) -> None:
        self._bar.set_postfix_str(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._bar.close()


class _Line(_Shown):
    def __init__(
        self, running: list[Task] | None, stream: TextIO, description: str, total: int, unit: str
    ) -> None:
        super().__init__(running)
        self._stream, self._description, self._total, self._unit = stream, description, total, unit
        self._done = 0
        self._note = ""
        self._start = time.perf_counter()

    def advance(self, n: int = 1) -> None:
        self._done += n

    def note(self, text: str) -> None:
        self._note = text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._within:
            return
        seconds = time.perf_counter() - self._start
        unit = self._unit if self._total == 1 or not self._unit.isalpha() else f"{self._unit}s"
        stopped = "stopped at " if kind is not None else ""
        note = f" ({self._note})" if self._note else ""
        line = f"{self._description}: {stopped}{self._done} of {self._total} {unit} in {seconds:.1f} s{note}"
        print(line, file=self._stream, flush=True)
