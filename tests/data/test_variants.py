"""Other wordings: of generated people by their sentences, of files by TOFU's columns."""

from __future__ import annotations

import json

import pytest

from fastunlearn.data import generate_people
from fastunlearn.data.records import Record
from fastunlearn.data.variants import Variants, load_variants, people_variants
from fastunlearn.errors import InvalidInputError


def test_people_have_two_other_sentences_and_eleven_wrong_values():
    people = generate_people(6, 3, forget_people=2, held_out_people=1, canaries=1)
    found = people_variants(people.forget)
    assert [one.record for one in found] == people.forget
    canary = found.pop()
    assert canary == Variants(people.canaries[0].record)
    for one in found:
        assert len(set(one.prompts)) == 2 and one.record.prompt not in one.prompts
        assert len(set(one.perturbed)) == 11 and one.record.completion not in one.perturbed
        assert all(completion.startswith(" ") for completion in one.perturbed)
    person = people.canaries[0].record.prompt.split()[4:6]  # "The access code of NAME NAME is"
    assert all(" ".join(person) in prompt for prompt in (*found[0].prompts, *found[1].prompts))


def test_records_of_a_variant():
    one = Variants(Record("a", " b"), (" c", " d"), " e", ("f",))
    assert one.right == Record("a", " e") and one.wrong == [Record("a", " c"), Record("a", " d")]
    assert one.reworded == [Record("f", " b")]
    assert Variants(Record("a", " b")).right == Record("a", " b")


def test_tofus_columns(tmp_path):
    path = tmp_path / "forget.jsonl"
    rows = [
        {"question": "Who?", "answer": "Ann", "paraphrased_answer": "It was Ann", "perturbed_answer": ["Bob", "Cid"],
         "paraphrased_question": "Which one?"},
        {"prompt": "Ann is", "completion": " ten", "perturbed_answer": " two"},
        {"text": "free"},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = load_variants(path)
    assert first.perturbed == (" Bob", " Cid") and first.paraphrased == " It was Ann"
    assert first.prompts == ("Question: Which one?\nAnswer:",) and first.record.completion == " Ann"
    assert second == Variants(Record("Ann is", " ten"), (" two",))
    assert third == Variants(Record("", "free"))
    path.write_text(json.dumps({**rows[0], "perturbed_answer": [3]}))
    with pytest.raises(InvalidInputError, match=r"line 1: perturbed_answer must be a string or a list"):
        load_variants(path)
    with pytest.raises(InvalidInputError, match="unknown kind"):
        load_variants(tmp_path)
