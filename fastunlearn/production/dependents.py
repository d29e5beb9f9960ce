"""Retained records that say much the same as one to forget: near-duplicates, found by MinHash.

Similarity is Jaccard's, of the sets of word triples (Broder 1997); in scripts without spaces a character is a word.
MinHash with banding proposes pairs; every proposed pair is then compared exactly, so nothing is called a near-duplicate
that is none. A pair at the threshold may be missed by chance, with the probability that the bands leave
(docs/requests.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from fastunlearn.data.records import Record
from fastunlearn.data.words import words_and_signs
from fastunlearn.errors import InvalidInputError

__all__ = ["near_duplicates", "similarity"]

HASHES, WORDS, MARGIN = 128, 3, 0.6


def _shingles(record: Record) -> frozenset[tuple[str, ...]]:
    words = words_and_signs(record.text.casefold())
    if len(words) <= WORDS:
        return frozenset([tuple(words)])
    return frozenset(tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1))


def similarity(a: Record, b: Record) -> float:
    """Jaccard similarity of the two records' word triples, 0 to 1."""
    first, second = _shingles(a), _shingles(b)
    return len(first & second) / len(first | second)


def near_duplicates(
    forget: Sequence[Record], others: Sequence[Record], threshold: float, *, seed: int = 0
) -> list[tuple[int, int, float]]:
    """(index in ``others``, index in ``forget``, similarity) of every record of ``others`` that is at least
    ``threshold`` similar to one of ``forget``, with the most similar one. Raises InvalidInputError without datasketch.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise InvalidInputError(
            "finding dependent records needs the datasketch package: pip install datasketch"
        ) from None

    def sketch(shingles: frozenset) -> MinHash:
        made = MinHash(num_perm=HASHES, seed=seed + 1)
        made.update_batch([" ".join(one).encode() for one in sorted(shingles)])
        return made

    # Banded for a lower similarity than is asked for: what it proposes too much, the exact comparison takes out.
    index = MinHashLSH(threshold=MARGIN * threshold, num_perm=HASHES, weights=(0.1, 0.9))
    sets = [_shingles(record) for record in forget]
    for number, shingles in enumerate(sets):
        index.insert(number, sketch(shingles))
    found = []
    for place, record in enumerate(others):
        own = _shingles(record)
        near = [(len(own & sets[i]) / len(own | sets[i]), -i) for i in index.query(sketch(own))]
        if near and max(near)[0] >= threshold:
            best, i = max(near)
            found.append((place, -i, best))
    return found
