"""Draws of settings: repeatable, within their ranges, and such as the methods have."""

from __future__ import annotations

import pytest

from fastunlearn.errors import InvalidInputError
from fastunlearn.unlearn import METHODS
from fastunlearn.unlearn.search import Logarithmic, OneOf, draw
from fastunlearn.unlearn.settings import make_settings


def test_a_logarithmic_range_by_hand():
    one = Logarithmic(1e-4, 1e-2)
    assert [one.at(share) for share in (0, 0.5, 1)] == [1e-4, 1e-3, 1e-2]
    assert one.at(0.25) == 3.16e-4


def test_one_of_some():
    one = OneOf(("a", "b", "c"))
    assert [one.at(share) for share in (0, 0.33, 0.34, 0.67, 0.999)] == ["a", "a", "b", "c", "c"]


def test_draws_start_with_the_defaults_and_repeat():
    ranges = {"x": Logarithmic(1e-3, 1.0), "y": OneOf((1, 2, 3, 4))}
    few, many = draw(ranges, 3, 7), draw(ranges, 40, 7)
    assert few[0] == {} and many[:3] == few and draw(ranges, 3, 8)[1:] != few[1:]
    assert all(1e-3 <= one["x"] <= 1 for one in many[1:]) and {one["y"] for one in many[1:]} == {1, 2, 3, 4}
    below = sum(one["x"] < 10**-1.5 for one in draw(ranges, 2001, 7)[1:])
    assert 900 < below < 1100  # half of them below the middle power


def test_no_trial_is_an_error():
    with pytest.raises(InvalidInputError, match="trials=0"):
        draw({}, 0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_searched_are_settings_of_the_method(method):
    row = METHODS[method]
    for settings in draw(row.search, 30, 0):
        make_settings(row.settings, method, dict(row.preset) | settings)
