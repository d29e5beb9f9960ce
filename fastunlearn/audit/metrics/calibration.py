"""Calibration: is the model right as often as it is sure? (Guo et al. 2017, arXiv 1706.04599, equation 3)"""

from __future__ import annotations

import numpy as np

from fastunlearn.errors import InvalidInputError

__all__ = ["BINS", "bin_sums", "calibration_error"]

BINS = 15


def bin_sums(confidence: np.ndarray, correct: np.ndarray, sample: np.ndarray, samples: int, *, bins: int = BINS):
    """(samples, bins, 3): of each record's tokens whose confidence lies in ((b - 1)/bins, b/bins], their number, the
    sum of their confidences, and how many are right. ``confidence``, ``correct``, ``sample``: (n,) of tokens."""
    if bins < 1:
        raise InvalidInputError(f"bins={bins} must be at least 1; 15 is usual")
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    sums = np.zeros((samples, bins, 3))
    np.add.at(sums, (sample, place), np.stack([np.ones_like(confidence), confidence, correct.astype(np.float64)], 1))
    return sums


def calibration_error(sums: np.ndarray) -> float:
    """The expected calibration error, 0 to 1: sum_b (n_b / n) |accuracy_b - mean confidence_b| over the bins of
    ``sums`` (:func:`bin_sums`), tokens of all records together; the confidence is the highest probability."""
    total = sums.sum(0)
    return float(np.abs(total[:, 2] - total[:, 1]).sum() / total[:, 0].sum())
