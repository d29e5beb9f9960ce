"""Words, in scripts with spaces and without."""

from __future__ import annotations

import pytest

from fastunlearn.audit.metrics.rouge import rouge_l
from fastunlearn.data.records import Record
from fastunlearn.data.words import words, words_and_signs
from fastunlearn.production.dependents import similarity


@pytest.mark.parametrize(
    ("text", "plain", "signs"),
    [("Mira's 3rd_goat, née O!", ["Mira", "s", "3rd", "goat", "née", "O"],
      ["Mira", "'", "s", "3rd_goat", ",", "née", "O", "!"]),
     ("Mira は東京に", ["Mira", "は", "東", "京", "に"], ["Mira", "は", "東", "京", "に"]),
     ("abc日本3。", ["abc", "日", "本", "3"], ["abc", "日", "本", "3", "。"]),
     ("나는 서울에 산다", ["나는", "서울에", "산다"], ["나는", "서울에", "산다"]), (" \n_", [], ["_"]), ("", [], [])],
)  # fmt: skip
def test_words(text, plain, signs):
    assert words(text) == plain and words_and_signs(text) == signs


def test_texts_without_spaces_that_differ_in_one_character_are_alike():
    one, two = "山田太郎は一九八四年に東京の下町で生まれた。", "山田太郎は一九八五年に東京の下町で生まれた。"
    assert 0.6 < similarity(Record("", one), Record("", two)) < 1
    assert rouge_l(two, one).recall == pytest.approx(20 / 21)  # the full stop is no word
