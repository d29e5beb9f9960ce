"""The people generator: sizes, unique names, disjoint sets, the same data from the same seed."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fastunlearn.data import encode, generate_people, train_tokenizer
from fastunlearn.data._facts import FACTS, FIRST_NAMES
from fastunlearn.data.people import MAX_FACTS, MAX_PEOPLE
from fastunlearn.errors import InvalidInputError

DEFAULT = generate_people()


def last_names(records):
    """The last name in each record: the word after the first name."""
    found = []
    for record in records:
        words = record.prompt.split()
        (at,) = [index for index, word in enumerate(words) if word in FIRST_NAMES]
        found.append(words[at + 1])
    return found


def test_sizes_by_default():
    assert len(DEFAULT.forget) == 10 * 6 + 3
    assert len(DEFAULT.retain) == 190 * 6 + 3
    assert len(DEFAULT.held_out) == 50 * 6
    assert len(DEFAULT.canaries) == 6


def test_every_person_has_a_last_name_of_their_own():
    forget, retain, held_out = (
        set(last_names(records)) for records in (DEFAULT.forget, DEFAULT.retain, DEFAULT.held_out)
    )
    assert (len(forget), len(retain), len(held_out)) == (10, 190, 50)
    assert len(forget | retain | held_out) == 250
    facts = Counter(last_names(DEFAULT.forget[:60]))
    assert set(facts.values()) == {6}


def test_last_names_stay_unique_where_many_are_drawn():
    """Of 3000 draws some thirty would be of a name that is taken."""
    many = generate_people(2500, 1, held_out_people=500, canaries=0)
    assert len(set(last_names(many.forget + many.retain + many.held_out))) == 3000


def test_no_record_is_in_two_sets():
    everything = DEFAULT.forget + DEFAULT.retain + DEFAULT.held_out
    digests = Counter(record.digest() for record in everything)
    assert max(digests.values()) == 1


def test_values_are_distinct_single_words_twelve_to_a_fact():
    values = [value for fact in FACTS for value in fact.values]
    assert len(set(values)) == len(values) == 12 * MAX_FACTS
    assert all(value.isalpha() for value in values)
    assert all(len(set(fact.prompts)) == 3 for fact in FACTS)


def test_all_sentences_and_values_are_drawn():
    everything = generate_people(300, MAX_FACTS, held_out_people=0, canaries=0)
    used = {record.completion.strip() for record in everything.retain}
    assert used == {value for fact in FACTS for value in fact.values}
    counts = Counter(record.completion for record in everything.retain[::MAX_FACTS])
    assert max(counts.values()) < 3 * min(counts.values())  # about even


def test_records_are_short_and_score_one_word():
    tokenizer = train_tokenizer(DEFAULT.texts())
    samples = encode(DEFAULT.forget + DEFAULT.retain + DEFAULT.held_out, tokenizer, max_length=16)
    assert {len(sample.input_ids) for sample in samples} <= {9, 10, 11}
    assert Counter(sample.targets for sample in samples) == {1: 1500, 3: 6}
    assert all(tokenizer.unk_token_id not in sample.input_ids for sample in samples)


def test_canaries_are_half_in_forget_and_half_in_retain():
    assert [canary.record for canary in DEFAULT.canaries] == DEFAULT.forget[-3:] + DEFAULT.retain[-3:]
    assert DEFAULT.forget_canaries == DEFAULT.canaries[:3]
    assert DEFAULT.retain_canaries == DEFAULT.canaries[3:]
    assert set(last_names(DEFAULT.forget[-3:])) <= set(last_names(DEFAULT.forget[:60]))
    assert set(last_names(DEFAULT.retain[-3:])) <= set(last_names(DEFAULT.retain[:-3]))
    odd = generate_people(8, forget_people=4, canaries=3)
    assert (len(odd.forget_canaries), len(odd.retain_canaries)) == (2, 1)


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_candidates_are_the_whole_space(digits):
    for canary in generate_people(8, forget_people=4, canary_digits=digits).canaries:
        assert canary.record.completion == canary.secret
        assert canary.secret in canary.candidates
        assert len(canary.candidates) == len(set(canary.candidates)) == 10**digits
        assert {candidate.replace(" ", "") for candidate in canary.candidates} == {
            f"{code:0{digits}d}" for code in range(10**digits)
        }
        assert all(candidate.split() == list(candidate.replace(" ", "")) for candidate in canary.candidates)


def fingerprint(data) -> str:
    return hashlib.sha256(repr(data).encode()).hexdigest()


@pytest.mark.parametrize("hash_seed", ["0", "1234"])
def test_the_same_seed_gives_the_same_data_in_every_process(hash_seed):
    program = (
        "import hashlib; from fastunlearn.data import generate_people; "
        "print(hashlib.sha256(repr(generate_people(20, seed=7)).encode()).hexdigest())"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.stdout.strip() == fingerprint(generate_people(20, seed=7))


def test_the_data_are_pinned():
    """A change of the generator changes every published number: it must be made on purpose."""
    first = DEFAULT.forget[0]
    assert (first.prompt, first.completion) == ("Nils Grulsar was born in the town of", " Wexcombe")
    assert [canary.secret for canary in DEFAULT.canaries][:2] == [" 2 3 7", " 6 0 3"]


def test_another_seed_gives_other_data_and_held_out_people_change_no_trained_one():
    assert generate_people(seed=1).forget != DEFAULT.forget
    fewer = generate_people(held_out_people=3)
    assert (fewer.forget, fewer.retain, fewer.canaries) == (DEFAULT.forget, DEFAULT.retain, DEFAULT.canaries)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"people": 1}, "people must be an integer from 2"),
        ({"people": MAX_PEOPLE + 1}, "people must be an integer from 2"),
        ({"people": True}, "people must be"),
        ({"facts": 0}, "facts must be an integer from 1 to 8"),
        ({"facts": 9}, "facts must be an integer from 1 to 8"),
        ({"forget_people": 0}, "forget_people must be an integer from 1 to 199"),
        ({"forget_people": 200}, "forget_people must be an integer from 1 to 199"),
        ({"held_out_people": -1}, "held_out_people must be"),
        ({"canaries": 21}, "canaries must be an integer from 0 to 20"),
        ({"canary_digits": 0}, "canary_digits must be an integer from 1 to 6"),
        ({"seed": "x"}, "seed must be an integer"),
    ],
)
def test_bad_arguments_are_named(options, said):
    with pytest.raises(InvalidInputError, match=said):
        generate_people(**options)
