"""Near-duplicates: MinHash finds what the plain comparison of all pairs finds."""

from __future__ import annotations

import random

import pytest

from fastunlearn.data.records import Record

pytest.importorskip("datasketch")

from fastunlearn.production.dependents import near_duplicates, similarity

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "ledge"]


def text(stream, length=18):
    return " ".join(stream.choice(WORDS) for _ in range(length))


def changed(stream, words, count):
    words = words.split()
    for place in stream.sample(range(len(words)), count):
        words[place] = "other"
    return " ".join(words)


def test_the_same_as_comparing_all_pairs():
    stream = random.Random(0)
    forget = [Record("", text(stream)) for _ in range(20)]
    others = [Record("", text(stream)) for _ in range(100)]
    others += [Record("", changed(stream, one.text, count)) for one in forget for count in (0, 1, 2, 6)]
    stream.shuffle(others)
    for threshold in (0.5, 0.75, 1.0):
        found = near_duplicates(forget, others, threshold)
        wanted = {i for i, one in enumerate(others) if max(similarity(one, other) for other in forget) >= threshold}
        assert {place for place, _, _ in found} == wanted and len(wanted) >= 20
        for place, mine, value in found:
            assert value == similarity(others[place], forget[mine]) == max(similarity(others[place], f) for f in forget)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [("one two three four", "one two three four", 1.0), ("one two three four", "one two three five", 1 / 3),
     ("One, two!", "one, two!", 1.0), ("one", "two", 0.0), ("<b>one</b>", "\x07one", 0.0), ("same", "same", 1.0)],
)  # fmt: skip
def test_similarity_by_hand(a, b, value):
    assert similarity(Record("", a), Record("", b)) == pytest.approx(value)


def test_nothing_near_nothing_found():
    assert near_duplicates([Record("", "a b c d e")], [], 0.8) == []
    assert near_duplicates([Record("", "a b c d e")], [Record("", "v w x y z")], 0.8) == []
