"""Data sets: repeatable, disjoint, of the sizes asked for, from files and generated."""

from __future__ import annotations

import csv
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from fastunlearn.data import encode, train_tokenizer
from fastunlearn.errors import InvalidInputError
from fastunlearn.evaluation.datasets import DATASETS, make_dataset
from fastunlearn.evaluation.datasets._set import cut, take

NAMES = ("biographies", "literature", "news", "personal", "questions", "verbatim")
SETS = ("forget", "retain", "held_out", "fresh")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files of the right form, with invented contents."""
    stream = random.Random(0)

    def text(count):
        return " ".join(f"w{int(stream.random() * 900)}" for _ in range(count))

    for name in ("tofu_forget.jsonl", "tofu_retain.jsonl"):
        rows = [{"question": f"{text(4)}?", "answer": text(6)} for _ in range(20 * 10)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [{"question": f"{text(4)}?", "answer": text(3), "perturbed_answer": ["no"]} for _ in range(50)]
    (tmp_path / "tofu_real_authors_perturbed.json").write_text(json.dumps(rows), encoding="utf-8")
    with (tmp_path / "ag_news.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(["1", text(5), text(30)] for _ in range(400))
    (tmp_path / "shakespeare.txt").write_text("\n\n".join(text(30) for _ in range(800)), encoding="utf-8")
    (tmp_path / "documents.txt").write_text("\n".join(text(15) for _ in range(300)), encoding="utf-8")
    return tmp_path


def test_four_kinds_and_two_memorisation_cases():
    assert tuple(sorted(DATASETS)) == NAMES and len({module.KIND for module in DATASETS.values()}) == 6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("files", [False, True])
def test_a_data_set(name, files, folder):
    place = folder if files else None
    found, same, other = (make_dataset(name, place, seed=seed) for seed in (3, 3, 4))
    assert found == same and found.forget != other.forget and found.name == name
    assert found.source == (", ".join(DATASETS[name].FILES) if files and DATASETS[name].FILES else "generated")
    texts = {part: {record.text for record in getattr(found, part)} for part in SETS}
    for i, a in enumerate(SETS):
        assert len(texts[a]) == len(getattr(found, a)) > 0  # nothing twice
        for b in SETS[i + 1 :]:
            assert not texts[a] & texts[b]
    digests = {record.digest() for records in found.sets.values() for record in records}
    assert set(found.copies) <= digests and all(count >= 1 for count in found.copies.values())
    repeated = Counter(record.digest() for record in found.repeated(found.forget))
    assert repeated == {record.digest(): found.copies.get(record.digest(), 1) for record in found.forget}


@pytest.mark.parametrize("name", NAMES)
def test_records_fit_the_context_that_suits_them(name):
    found = make_dataset(name, seed=0)
    tokenizer = train_tokenizer(found.texts(), kind=found.tokenizer, vocab_size=found.vocabulary)
    for part, records in found.sets.items():
        encode(records, tokenizer, max_length=found.context, name=part)


@pytest.mark.skipif(not os.environ.get("FASTUNLEARN_DATA"), reason="FASTUNLEARN_DATA names no folder of real data")
@pytest.mark.parametrize("name", ["questions", "news", "literature", "verbatim"])
def test_real_files(name):
    found = make_dataset(name, os.environ["FASTUNLEARN_DATA"])
    tokenizer = train_tokenizer(found.texts(), kind=found.tokenizer, vocab_size=found.vocabulary)
    for part, records in found.sets.items():
        encode(records, tokenizer, max_length=found.context, name=part)


def test_secrets_are_planted_at_several_counts():
    found = make_dataset("personal", seed=1, forget=6, retain=6, held_out=3, fresh=3)
    assert [found.copies[record.digest()] for record in found.forget] == [1, 4, 16] * 2
    assert [canary.record.text for canary in found.canaries] == [record.text for record in found.forget]
    for canary in found.canaries:
        assert canary.secret in canary.candidates and len(canary.candidates) == 1000
        assert canary.record.prompt.endswith("is") and canary.record.completion == canary.secret
    assert not any("telephone" in record.text for record in found.fresh)


def test_literature_forgets_a_run_of_consecutive_passages(folder):
    words = 12
    found = make_dataset("literature", folder, seed=2, forget=5, retain=9, held_out=2, fresh=2, words=words)
    text = (folder / "shakespeare.txt").read_text(encoding="utf-8")
    places = [text.index(record.text) for record in found.forget]
    assert places == sorted(places) and places[-1] - places[0] < 4 * 30 * 5 + 200
    assert all(len(record.text.split()) == words for record in found.retain)


def test_errors_name_what_is_missing(tmp_path, folder):
    with pytest.raises(InvalidInputError, match=r"ag_news\.csv"):
        make_dataset("news", tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="use one of biographies"):
        make_dataset("magic")
    with pytest.raises(InvalidInputError, match="forget must be an integer"):
        make_dataset("news", forget=0)
    with pytest.raises(InvalidInputError, match="items of news: 1000"):
        make_dataset("news", folder, forget=700, retain=200, held_out=50, fresh=50)
    (folder / "ag_news.csv").write_text("one,two\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="three columns"):
        make_dataset("news", folder)


def test_runs_of_items():
    assert take("abcdef", {"x": 2, "y": 3}, "letters") == {"x": ["a", "b"], "y": ["c", "d", "e"]}
    assert cut(" a  b\nc d", 3) == "a b c"


def test_files_are_read_as_records_are(folder):
    """A byte order mark is no word, line ends are those of any system, and a cell may be long."""
    play = (folder / "shakespeare.txt").read_text(encoding="utf-8")
    (folder / "shakespeare.txt").write_bytes(b"\xef\xbb\xbf" + play.replace("\n", "\r\n").encode())
    made = make_dataset("literature", folder, seed=3)
    assert not any("\ufeff" in record.text for records in made.sets.values() for record in records)
    with (folder / "ag_news.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["1", "title", "word " * 40_000])
    make_dataset("news", folder)
    for name, file in (("literature", "shakespeare.txt"), ("news", "ag_news.csv")):
        (folder / file).write_bytes(b"1,one,caf\xe9 two\n")
        with pytest.raises(InvalidInputError, match=f"{file} line 1: not UTF-8"):
            make_dataset(name, folder)
