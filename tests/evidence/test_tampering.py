"""200 random single-byte changes of a folder and the meaningful ones: each is found, and told by name."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastunlearn.evidence import EvidenceLog, generate_key, verify
from fastunlearn.evidence.canonical import leaves
from fastunlearn.evidence.layout import LOG, MANIFEST, SIGNATURE
from tests.evidence.forging import edit, read, rechain, relist, resign


def failed(folder, **options) -> str:
    """All that the failed checks say; fails where none did."""
    found = verify(folder, **options)
    assert not found.passed, found.text()
    assert found.proven == [] and found.failures
    return "\n".join(f"{check.name}: {check.says}" for check in found.failures)


def test_the_untouched_folder_is_verified(evidence, finished):
    found = verify(evidence, public_key=finished.public, run="run-7")
    assert found.passed, found.text()
    assert all(check.passed for check in found.checks), found.text()
    assert found.proven and found.not_proven


def test_without_a_key_the_signature_shows_consistency_only(evidence):
    found = verify(evidence)
    assert found.passed and found["signer"].passed is None and "not who signed" in found["signer"].says
    assert any("Who signed" in sentence for sentence in found.not_proven)
    assert not any("owner of the key" in sentence for sentence in found.proven)


def test_two_hundred_single_byte_changes_are_all_found(evidence, finished):
    files = sorted(path for path in evidence.rglob("*") if path.is_file())
    draw = random.Random(20261124)
    seen = set()
    for number in range(200):
        path = files[number % len(files)]
        name = path.relative_to(evidence).as_posix()
        data = path.read_bytes()
        offset = draw.randrange(len(data))
        byte = (data[offset] + draw.randrange(1, 256)) % 256
        path.write_bytes(data[:offset] + bytes([byte]) + data[offset + 1 :])
        said = failed(evidence, public_key=finished.public)
        assert name in said, f"{name} byte {offset}: {data[offset]} to {byte}: {said}"
        path.write_bytes(data)
        seen.add(name)
    assert seen == {path.relative_to(evidence).as_posix() for path in files}
    assert verify(evidence, public_key=finished.public).passed  # all is as it was: the changes alone were found


def test_every_single_byte_of_the_smallest_files_counts(evidence, finished):
    for name in (SIGNATURE, "public.pem"):
        data = (evidence / name).read_bytes()
        for offset in range(len(data)):
            (evidence / name).write_bytes(data[:offset] + bytes([data[offset] ^ 0x20]) + data[offset + 1 :])
            assert name in failed(evidence), f"{name} byte {offset}"
        for other in (data + b"\n", data[:-1], b""):
            (evidence / name).write_bytes(other)
            assert name in failed(evidence)
        (evidence / name).write_bytes(data)


FORGERIES = {
    "a metric": (
        lambda folder: edit(folder, "metrics.json", "after", "forget", "accuracy", value=0.001),
        "metrics.json: the value /after/forget/accuracy was changed"),
    "an interval": (
        lambda folder: edit(folder, "metrics.json", "after", "membership", "high", value=0.51),
        "the value /after/membership/high was changed"),
    "the metric of the model before": (
        lambda folder: edit(folder, "metrics.json", "before", "forget", "loss", value=0.001),
        "the value /before/forget/loss was changed"),
    "a metric and the manifest with it": (
        lambda folder: (edit(folder, "metrics.json", "after", "retain", "loss", value=0.1), relist(folder)),
        "manifest.json or manifest.sig is not what was signed"),
    "a metric taken away": (
        lambda folder: edit(folder, "metrics.json", "after", "membership", value=...),
        "the value /after/membership/auc was removed"),
    "the date of the manifest": (
        lambda folder: edit(folder, MANIFEST, "created", value="2026-01-01T00:00:00.000000Z"),
        "the manifest's date, 2026-01-01T00:00:00.000000Z, is not that of the sealing"),
    "the date of a log entry": (
        lambda folder: (folder / LOG).write_bytes((folder / LOG).read_bytes().replace(b'"time":"2', b'"time":"1', 1)),
        "entry 0 (begin): its content was changed"),
    "the date of a request": (
        lambda folder: edit(folder, "requests.json", "requests", 0, "received", value="2026-11-01"),
        "the value /requests/0/received was changed"),
    "a request taken away": (
        lambda folder: edit(folder, "requests.json", "requests", 1, value=...),
        "the value /requests/1/id was removed"),
    "a record exchanged": (
        lambda folder: edit(folder, "requests.json", "requests", 0, "records", 1, value="0" * 64),
        "the value /requests/0/records/1 was changed"),
    "the seed": (
        lambda folder: edit(folder, "procedure.json", "arguments", "seed", value=6),
        "the value /arguments/seed was changed"),
    "the norm of a step": (
        lambda folder: edit(folder, "procedure.json", "steps", 1, "step_norm", value=0.01),
        "the value /steps/1/step_norm was changed"),
    "a decision of the guard": (
        lambda folder: edit(folder, "procedure.json", "guard", 0, "decision", value="refused"),
        "the value /guard/0/decision was changed"),
    "the digest of a weight": (
        lambda folder: edit(folder, "models.json", "after", "weights", value="0" * 64),
        "the weights after are 0000000000000000 in models.json"),
    "the digest of the code": (
        lambda folder: edit(folder, "environment.json", "code", "digest", value="0" * 64),
        "the value /code/digest was changed"),
    "a sentence of what is not claimed": (
        lambda folder: edit(folder, "not_claimed.json", "not_claimed", 0, value="That the moon is near."),
        "the value /not_claimed/0 was changed"),
    "the configuration": (
        lambda folder: edit(folder, "configuration.json", "configuration", "unlearn", "method", value="npo"),
        "the value /configuration/unlearn/method was changed"),
    "a removed log line": (
        lambda folder: (folder / LOG).write_bytes(
            b"".join((folder / LOG).read_bytes().splitlines(True)[i] for i in (0, 1, 3, 4, 5, 6))),
        "1 entries were removed between entry 1 and entry 3"),
    "an older log put back": (
        lambda folder: (folder / LOG).write_bytes(b"".join((folder / LOG).read_bytes().splitlines(True)[:-1])),
        "the last ones were removed, or an older log was put back"),
    "a log written anew": (
        lambda folder: (folder / LOG).write_bytes(_other_history(folder)),
        "it is a whole chain but not the one that was signed"),
    "the log's last line torn": (
        lambda folder: (folder / LOG).write_bytes((folder / LOG).read_bytes()[:-1]),
        "its last line is torn"),
    "a file added": (
        lambda folder: (folder / "extra.txt").write_text("hello"),
        "extra.txt was added"),
    "a folder added": (lambda folder: (folder / "more").mkdir(), "the folder more was added"),
    "a file removed": (lambda folder: (folder / "not_claimed.json").unlink(), "not_claimed.json was removed"),
    "the report exchanged": (
        lambda folder: (folder / "report" / "page.html").write_text("<title>all is well</title>"),
        "report/page.html: it was changed"),
    "a file replaced by a link to its like": (
        lambda folder: _link(folder, "metrics.json"),
        "metrics.json is a link"),
    "the manifest removed": (lambda folder: (folder / MANIFEST).unlink(), "manifest.json cannot be read"),
    "the signature removed": (lambda folder: (folder / SIGNATURE).unlink(), "manifest.sig cannot be read"),
    "another spelling of the same values": (
        lambda folder: (folder / "metrics.json").write_text(json.dumps(read(folder, "metrics.json"))),
        "metrics.json: its spelling was changed, no value in it"),
    "a name that leads out": (
        lambda folder: edit(folder, MANIFEST, "files", value=lambda files: files | {"../evil": files["log.jsonl"]}),
        "it leads out of the folder"),
}  # fmt: skip


def _other_history(folder) -> bytes:
    entries = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    entries[2]["facts"]["forget_accuracy"] = 0.125
    return rechain(entries)


def _link(folder, name) -> None:
    shutil.move(folder / name, folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)


@pytest.mark.parametrize("what", FORGERIES)
def test_a_meaningful_change_is_found_and_named(evidence, finished, what):
    forge, message = FORGERIES[what]
    forge(evidence)
    assert message in failed(evidence, public_key=finished.public)


def test_the_forgeries_are_at_least_twenty():
    assert len(FORGERIES) >= 20


def test_a_folder_signed_by_another_key_is_found(evidence, finished, tmp_path):
    """A forger who makes everything fit and signs it: consistent, but not with the owner's key."""
    edit(evidence, "configuration.json", "configuration", "unlearn", "method", value="npo")
    resign(evidence, generate_key(tmp_path / "forger"))
    assert verify(evidence).passed  # that is all that a folder alone can show
    assert "was signed by another key" in failed(evidence, public_key=finished.public)


def test_an_owner_who_changes_a_metric_and_signs_again_is_found(evidence, finished):
    edit(evidence, "metrics.json", "after", "forget", "accuracy", value=0.001)
    resign(evidence, finished.key)
    assert "sums: forget accuracy: 0.001 is stated, the table of records gives" in failed(evidence)


def test_an_owner_who_changes_an_interval_and_signs_again_is_found(evidence, finished):
    edit(evidence, "metrics.json", "after", "membership", "low", value=lambda low: low / 2 + 0.01)
    resign(evidence, finished.key)
    assert "sums: membership low" in failed(evidence)


def test_an_owner_who_narrows_an_interval_and_signs_again_is_found(evidence, finished):
    edit(evidence, "metrics.json", "intervals", "retain", "loss", 1, value=lambda high: high - 0.01)
    resign(evidence, finished.key)
    assert "sums: retain loss high" in failed(evidence)


def test_an_owner_who_changes_figures_of_records_is_found_on_the_model(evidence, finished):
    def half(rows):
        return [value / 2 for value in rows]

    edit(evidence, "metrics.json", "table", "retain", "log_prob", value=half)
    edit(evidence, "metrics.json", "after", "retain", "loss", value=lambda loss: loss / 2)
    edit(evidence, "metrics.json", "after", "retain", "perplexity", value=lambda perplexity: perplexity**0.5)
    edit(evidence, "metrics.json", "intervals", "retain", "loss", value=half)
    resign(evidence, finished.key)
    assert verify(evidence).passed
    said = failed(evidence, model=finished.place / "after", records={"retain": finished.run.retain})
    assert "metrics: measured again on 4 of 4 retain" in said and "has a loss of" in said


def test_weights_that_were_not_to_change_are_found(evidence, finished):
    edit(evidence, "procedure.json", "parameters", value=lambda names: names[:1])
    edit(evidence, "procedure.json", "arguments", "parameters", value=["*gate*"])
    resign(evidence, finished.key)
    assert "weights changed that were not to" in failed(evidence)


def test_the_log_of_another_run_is_found(evidence, finished, tmp_path):
    with EvidenceLog(tmp_path / "old.jsonl", run="run-6") as log:
        log.append("started")
    shutil.copy(tmp_path / "old.jsonl", evidence / LOG)
    assert "it is the log of run run-6, the folder is of run run-7: another log was put in" in failed(evidence)


def test_a_replayed_folder_of_another_run_is_found_by_its_identifier(evidence, finished):
    said = failed(evidence, public_key=finished.public, run="run-8")
    assert "of run run-7, not of run-8: it is another run's folder, or the identifier is mistyped" in said


@pytest.mark.parametrize(("folder", "message"), [
    ("before", "the model was swapped"), ("tuned", "1 of 12 tensors differ (first: model.norm.weight)"),
    ("config", "config.json differs"), ("nowhere", "does not exist"),
])  # fmt: skip
def test_a_swapped_model_is_found(evidence, finished, tmp_path, folder, message):
    shutil.copytree(finished.place / "before", tmp_path / "before")
    for name in ("tuned", "config"):
        shutil.copytree(finished.place / "after", tmp_path / name)
    weights = load_file(tmp_path / "tuned" / "model.safetensors")
    weights["model.norm.weight"] = torch.nextafter(weights["model.norm.weight"], torch.tensor(9.0))
    save_file(weights, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config" / "config.json").write_text("{}")
    assert message in failed(evidence, model=tmp_path / folder)


def test_names_with_control_characters_are_shown_escaped(evidence):
    (evidence / "a\x1b[2Jb\n<b>").write_text("")
    said = verify(evidence).text()
    assert "\x1b" not in said and "a\\x1b[2Jb\\n<b>" in said


def test_strange_entries_are_told_and_not_opened(evidence):
    os.mkfifo(evidence / "pipe")  # opening it would wait for ever
    (evidence / os.fsdecode(b"bad\xffname")).write_text("x")
    said = failed(evidence)
    assert "pipe is neither a file nor a folder" in said and "bad\\udcffname was added" in said and said.isascii()


GARBAGE = (b"", b"\n", b"null\n", b"[]", b"{}", b'{"a": NaN}', b'{"a": 1e999}', b"\xff" * 9, b"[" * 5000,
           b"[" * 500 + b"]" * 500)  # fmt: skip


def test_garbage_in_any_file_never_raises(evidence):
    draw = random.Random(5)
    for path in sorted(path for path in evidence.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for other in (*GARBAGE, draw.randbytes(99)):
            path.write_bytes(other)
            assert not verify(evidence).passed, f"{path.name} as {other[:9]!r}"
        path.write_bytes(data)


def test_a_hostile_folder_with_a_good_signature_never_raises(evidence, finished, tmp_path):
    """Anybody can sign anything with a key of his own: every value is a stranger's."""
    key, salts = generate_key(tmp_path / "stranger"), finished.place / "private" / "salts.json"
    draw, signed = random.Random(7), 0
    values = [None, True, -1, 10**30, 1e308, "\x1b[2J", [], {}, [[]], {"a": 1}, ""]
    for name in ("metrics.json", "requests.json", "procedure.json", "models.json", "environment.json"):
        honest, document = (evidence / name).read_bytes(), read(evidence, name)
        places = [place for place, _ in leaves(document)] + _containers(document)
        for place in draw.sample(places, min(len(places), 12)):
            keys = [int(part) if part.isdecimal() else part.replace("~1", "/") for part in place.split("/")[1:]]
            edit(evidence, name, *keys, value=draw.choice(values))
            try:
                resign(evidence, key)
                signed += 1
            except (KeyError, TypeError, AttributeError):
                pass  # what cannot be signed again is checked as it is
            found = verify(evidence, salts=salts, records={"forget": finished.run.forget})
            assert "\x1b" not in found.text(), (name, place)
            (evidence / name).write_bytes(honest)
    assert signed > 30


def _containers(value, place="") -> list[str]:
    if not isinstance(value, (dict, list)):
        return []
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [] if not place else [place]
    return found + [one for key, item in inner for one in _containers(item, f"{place}/{str(key).replace('/', '~1')}")]


def test_a_check_does_not_wait_for_pytorch(evidence):
    script = f"import sys; from fastunlearn.cli.main import main; status = main(['verify', {str(evidence)!r}]); " \
             "print(status, sorted({'torch', 'transformers'} & set(sys.modules)))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.stdout.endswith("VERIFIED\n0 []\n"), done.stdout + done.stderr
