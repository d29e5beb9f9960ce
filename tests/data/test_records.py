"""Record: what it accepts, and its identity."""

import hashlib

import pytest

from fastunlearn.data import Record
from fastunlearn.errors import InvalidInputError


def test_digest_is_the_sha256_of_both_parts_without_outer_white_space():
    expected = hashlib.sha256(b"Capital of X is\0Fredville").hexdigest()
    assert Record("Capital of X is", " Fredville").digest() == expected
    assert Record("  Capital of X is\n", "Fredville ").digest() == expected


@pytest.mark.parametrize(
    "other", [Record("ab", "c"), Record("", "abc"), Record("a", "b c"), Record("A", "bc"), Record("a", "bd")]
)
def test_digest_tells_different_records_apart(other):
    assert Record("a", "bc").digest() != other.digest()


@pytest.mark.parametrize(
    ("prompt", "completion", "said"),
    [
        (None, "x", "prompt must be a string, not NoneType"),
        ("x", 3, "completion must be a string, not int"),
        ("x", "", "completion is empty"),
        ("x", " \n", "completion is empty"),
        ("x\ud800", "y", "prompt holds half of a surrogate pair at character 1"),
    ],
)
def test_what_is_no_record_is_refused(prompt, completion, said):
    with pytest.raises(InvalidInputError, match=said):
        Record(prompt, completion)
