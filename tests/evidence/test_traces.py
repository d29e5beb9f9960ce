"""Text of records is found however it is spelled, and what is derived from them is deleted."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest

from fastunlearn.data import Record, train_tokenizer
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import EvidenceLog, find_traces, purge
from fastunlearn.evidence import traces as traces_module
from fastunlearn.evidence.purging import derived
from fastunlearn.storage.files import write_tensors

SECRET = Record("Where was Zoë \"Z\" <Brandurel> born & raised?\nAnswer:", " In the small harbour town of Saltmere.")
OTHER = Record("", "Nobody but the lighthouse keeper knows the door's code, which is 4711.")
SPELLINGS = {
    "plain": lambda text: text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "big-endian": lambda text: text.encode("utf-16-be"),
    "json": lambda text: json.dumps({"x": text}).encode(),
    "json in utf-8": lambda text: json.dumps({"x": text}, ensure_ascii=False).encode(),
    "html": lambda text: html.escape(text).encode(),
    "html text": lambda text: html.escape(text, quote=False).encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("shift", range(3))
def test_a_record_is_found_in_every_spelling(tmp_path, spelling, shift):
    data = b"#" * (1000 + shift) + SPELLINGS[spelling](SECRET.text) + b"#" * 77
    (tmp_path / "file.bin").write_bytes(data)
    found = find_traces(tmp_path, [OTHER, SECRET])
    assert [(trace.record, trace.kind) for trace in found] == [(1, "text")]
    assert 1000 <= found[0].offset < len(data) - 77
    assert "Saltmere" not in str(found[0]) and "record 2" in str(found[0])


def test_every_fragment_of_the_promised_length_is_found(tmp_path):
    length = traces_module.WINDOW + traces_module.STRIDE
    text = OTHER.text
    for start in range(len(text) - length + 1):
        (tmp_path / "file").write_text("." * 13 + text[start : start + length] + ".")
        assert find_traces([tmp_path / "file"], [OTHER]), start


def test_what_is_not_there_is_not_found(tmp_path):
    (tmp_path / "file").write_bytes(np.random.default_rng(0).bytes(1 << 18) + b"Where was nobody born? In a town.")
    assert find_traces(tmp_path, [SECRET, OTHER]) == []


def test_a_completion_alone_is_found(tmp_path):
    (tmp_path / "out.txt").write_text("the answer: In the small harbour town of Saltmere.")
    assert len(find_traces(tmp_path, [SECRET])) == 1


def test_a_word_that_is_known_without_the_record_is_no_trace_of_it(tmp_path):
    record = Record("Zoë Brandurel works as a", " Geometerin (Köln)")
    word = record.completion.strip()
    for data, traces in ((f"x {word} y", 0), (f"x {record.text} y", 1), (f"x {record.prompt} y", 1)):
        for encoding in ("utf-8", "utf-16-le"):
            (tmp_path / "file").write_bytes(data.encode(encoding))
            assert len(find_traces(tmp_path, [SECRET, record])) == 1
            known = [b"", b"nothing", json.dumps({word: 1}).encode()]  # in another spelling than the file has
            assert len(find_traces(tmp_path, [SECRET, record], known=known)) == traces
            assert len(find_traces(tmp_path, [record], known=[b"nothing"])) == 1


def test_a_place_on_the_border_of_two_parts_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(traces_module, "_PART", 64)
    for before in range(20, 140, 3):
        (tmp_path / "file").write_bytes(b"-" * before + OTHER.text[:24].encode() + b"-" * 50)
        found = find_traces(tmp_path, [OTHER])
        assert [trace.offset for trace in found] == [before]


@pytest.mark.parametrize("kind", ["<i8", "<i4", "<u2", "json"])
def test_token_numbers_are_found(tmp_path, kind):
    tokenizer = train_tokenizer([SECRET.text, OTHER.text])
    ids = [3, *tokenizer(OTHER.text, add_special_tokens=False)["input_ids"], 3]
    data = json.dumps(ids).encode() if kind == "json" else np.array(ids, dtype=kind).tobytes()
    (tmp_path / "ids").write_bytes(b"x" + data)
    found = find_traces(tmp_path, [SECRET, OTHER], tokenizer)
    assert [(trace.record, trace.kind) for trace in found] == [(1, "tokens")]
    assert find_traces(tmp_path, [SECRET], tokenizer) == [] and find_traces(tmp_path, [OTHER]) == []


def test_file_names_are_searched(tmp_path):
    (tmp_path / "In the small harbour town of Saltmere.txt").write_text("")
    assert len(find_traces(tmp_path, [SECRET])) == 1


def test_records_too_short_to_tell_are_not_searched_for(tmp_path):
    (tmp_path / "file").write_text("yes no yes")
    assert find_traces(tmp_path, [Record("", "yes")]) == []


def test_links_are_not_followed(tmp_path):
    (tmp_path / "outside").write_text(OTHER.text)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    assert find_traces([tmp_path / "in", tmp_path / "in" / "link", tmp_path / "nowhere"], [OTHER]) == []


def test_purge_deletes_and_notes(tmp_path):
    work = tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    (work / "deep" / "ids.bin").write_text(OTHER.text)
    (work / "kept\n.txt").write_text("x")
    with EvidenceLog(tmp_path / "log.jsonl") as log:
        done = purge([work / "deep", work / "kept\n.txt", work / "gone"], log)
        assert purge([work / "deep"], log) == []
        noted = [entry["facts"] for entry in log.entries() if entry["event"] == "purged"]
    assert [(one.name, one.kind, one.bytes) for one in done] == [
        ("deep", "folder", len(OTHER.text)), ("kept\\n.txt", "file", 1)]  # fmt: skip
    assert [one["name"] for one in noted] == ["deep", "kept\\n.txt"] and set(noted[0]) == {"name", "kind", "bytes"}
    assert list(work.iterdir()) == [] and find_traces(tmp_path, [OTHER]) == []


def test_purge_refuses_links_before_it_deletes_anything(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(InvalidInputError, match="link"):
        purge([tmp_path / "file", tmp_path / "link"])
    assert (tmp_path / "file").exists() and (tmp_path / "precious").exists()


def test_what_was_derived_from_records_is_known_by_its_looks(tmp_path):
    import torch

    tensors = {"core": torch.zeros(2, 2)}
    for name, about in (
        ("kept", {"format": "fastunlearn-kept-fisher-1"}), ("low", {"format": "fastunlearn-low-rank-fisher-1"}),
        ("state", {"key": "k", "facts": {}}), ("model", {"other": 1}),
    ):  # fmt: skip
        write_tensors(tmp_path / f"{name}.safetensors", tensors, {"fastunlearn": json.dumps(about)})
    (tmp_path / ".after.x1.tmp").write_text("")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    for name, header in (("number", b'{"__metadata__":{"fastunlearn":5}}'), ("deep", b"[" * 20_000), ("list", b"[]")):
        (tmp_path / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert [path.name for path in derived(tmp_path)] == [
        ".after.x1.tmp", "kept.safetensors", "low.safetensors", "state.safetensors"]  # fmt: skip


def test_a_kept_fisher_of_the_package_is_recognised(tmp_path):
    """The format's name is the solver's own."""
    from fastunlearn.solve.fisher_file import FORMAT as LOW_RANK
    from fastunlearn.solve.kept_fisher import FORMAT as KEPT

    assert KEPT.startswith("fastunlearn-kept-fisher") and LOW_RANK.startswith("fastunlearn-low-rank-fisher")
