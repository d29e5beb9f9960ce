"""The rows of a check: results against float64, with their limits; and which rows are this process's."""

from __future__ import annotations

import torch

__all__ = ["DTYPES", "LIMIT", "Record", "relative"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Products of half-precision numbers whose factors (probabilities, adjoints) are themselves rounded to half.
LIMIT = {torch.float32: 5e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


class Record:
    """``share``: (i, n): of all cases every n-th, from the i-th on, is this process's."""

    def __init__(self, share: tuple[int, int] = (0, 1)):
        self.rows: list[dict] = []
        self._share, self._seen = share, 0

    def takes(self) -> bool:
        """Whether the case that is up next is this process's. Asked once for each, in the same order everywhere."""
        number, of = self._share
        self._seen += 1
        return (self._seen - 1) % of == number

    def compare(self, case: str, dtype: torch.dtype, got, truth, names, limit: float | None = None) -> None:
        limit = LIMIT[dtype] if limit is None else limit
        for name, value, want in zip(names, got, truth, strict=True):
            if value is None and want is None:
                continue
            error = relative(value, want)
            row = {"case": case, "dtype": str(dtype)[6:], "result": name, "error": error, "limit": limit}
            self.rows.append(row | {"passed": error <= limit})

    def failures(self) -> list[dict]:
        return [row for row in self.rows if not row["passed"]]


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
