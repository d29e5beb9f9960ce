"""The rows of a check: results against float64, with their limits; and which rows are this process's."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from bench.device.measure import described, gpu_is_lost
from bench.device.rows import Writer

__all__ = ["DTYPES", "LIMIT", "GpuLostError", "Record", "relative"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Products of half-precision numbers whose factors (probabilities, adjoints) are themselves rounded to half.
LIMIT = {torch.float32: 5e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


class GpuLostError(Exception):
    """A case broke the GPU for this process: its other cases need a new one."""


class Record:
    """``share``: (i, n): of all cases every n-th, from the i-th on, is this process's. Cases of the numbers in ``done``
    are not run again. ``gpu``: whether a failure may have broken the GPU."""

    def __init__(
        self, share: tuple[int, int] = (0, 1), writer: Writer | None = None, done: frozenset[int] = frozenset(),
        gpu: bool = False,
    ):  # fmt: skip
        self.rows: list[dict] = []
        self._share, self._writer, self._done, self._gpu = share, writer, done, gpu
        self._seen = 0

    def run(self, title: str, case: Callable[[], None]) -> None:
        """The case that is up next, where it is this process's; called for each, in the same order everywhere. What it
        raises is a failed row. Raises GpuLostError where no other case could run after it."""
        number, before = self._seen, len(self.rows)
        self._seen += 1
        if number % self._share[1] != self._share[0] or number in self._done:
            return
        if self._writer is not None:
            self._writer.started(number, title)
        failed = None
        try:
            case()
        except Exception as failure:
            failed = described(failure)
        if failed is not None:
            self.rows.append({"case": title, "passed": False, "failed": failed})
        if self._writer is not None:
            self._writer.ended(number, self.rows[before:])
        if failed is not None and self._gpu and gpu_is_lost():
            raise GpuLostError(title)

    def compare(self, case: str, dtype: torch.dtype, got, truth, names, limit: float | None = None) -> None:
        limit = LIMIT[dtype] if limit is None else limit
        for name, value, want in zip(names, got, truth, strict=True):
            if value is None and want is None:
                continue
            error = relative(value, want)
            shown = error if math.isfinite(error) else None  # strict JSON has no infinity
            row = {"case": case, "dtype": str(dtype)[6:], "result": name, "error": shown, "limit": limit}
            self.rows.append(row | {"passed": error <= limit})


def relative(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest error over the largest element; infinities (of a fully masked row) must be in the same places."""
    got = got.double().cpu()
    finite = torch.isfinite(truth)
    if got.shape != truth.shape or not bool((torch.isfinite(got) == finite).all()):
        return float("inf")
    if truth.numel() == 0 or not bool(finite.any()):
        return 0.0
    largest = truth[finite].abs().max().clamp_min(1e-12)
    return ((got - truth)[finite].abs().max() / largest).item()
