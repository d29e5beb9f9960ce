"""ROUGE-L: the longest common subsequence of two texts, in words (Lin 2004, "ROUGE", section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastunlearn.data.words import words as _words

__all__ = ["RougeL", "common_subsequence", "rouge_l", "words"]


class RougeL(NamedTuple):
    """``recall`` = LCS / words of the truth, ``precision`` = LCS / words of the candidate, ``f`` = 2 r p / (r + p);
    each 0 to 1, and 0 where a text has no word."""

    recall: float
    precision: float
    f: float


def words(text: str) -> list[str]:
    """The runs of letters and digits of ``text``, in lower case; of scripts without spaces, such as Japanese, single
    characters. (The usual package takes ASCII alone; no stemming here, where TOFU's script has Porter's.)"""
    return _words(text.lower())


def common_subsequence(a: Sequence, b: Sequence) -> int:
    """The length of the longest sequence that is in both, in order, with gaps; by dynamic programming,
    O(len(a) len(b)) time, O(len(b)) memory."""
    row = [0] * (len(b) + 1)
    for one in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if one == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(candidate: str, truth: str) -> RougeL:
    """ROUGE-L of a candidate text to the true one. TOFU (arXiv 2401.06121, section 2.2) uses the recall."""
    a, b = words(truth), words(candidate)
    if not a or not b:
        return RougeL(0.0, 0.0, 0.0)
    common = common_subsequence(a, b)
    recall, precision = common / len(a), common / len(b)
    return RougeL(recall, precision, 2 * recall * precision / (recall + precision) if common else 0.0)
