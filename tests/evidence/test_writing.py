"""The folder appears whole or not at all, holds no text of a record, and is signed with a key that is guarded."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat

import numpy as np
import pytest
import torch

from fastunlearn.cli.main import main
from fastunlearn.data import Record
from fastunlearn.errors import InvalidInputError, ModelFolderError, OutputError
from fastunlearn.evidence import EvidenceLog, Requested, deterministic, generate_key, keys, verify, write_evidence
from fastunlearn.evidence import folder as folder_module
from fastunlearn.evidence.digests import code_digest, kernels_digest, model_digest
from fastunlearn.evidence.layout import DOCUMENTS
from tests.evidence.forging import read


@pytest.fixture
def run(finished, tmp_path):
    """The finished run with a log and salts of its own, to be written anew."""
    shutil.copytree(finished.place / "private", tmp_path / "private")
    entries = finished.run.log.entries()
    with EvidenceLog(tmp_path / "log.jsonl", run="run-7") as log:
        for entry in entries[1:-1]:
            log.append(entry["event"], **entry["facts"])
        yield dataclasses.replace(finished.run, log=log, salts=tmp_path / "private" / "salts.json")


def left_over(place) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name not in ("log.jsonl", "private"))


def test_what_was_asked_for_is_in_the_folder(evidence, finished):
    requests = read(evidence, "requests.json")
    assert [(one["id"], one["received"], len(one["records"])) for one in requests["requests"]] == [
        ("R-1", "2026-11-20", 2), ("R-2", "", 1)]  # fmt: skip
    assert len({one for request in requests["requests"] for one in request["records"]}) == 3
    assert requests["sets"]["retain"]["records"] == 4
    models = read(evidence, "models.json")
    for side in ("before", "after"):
        assert models[side] == model_digest(finished.place / side)
    procedure = read(evidence, "procedure.json")
    assert procedure["curvature"]["damping"] == 1e-6 and procedure["seed"] == 5
    assert [step["step"] for step in procedure["steps"]] == [0, 1, 2] and procedure["steps"][1]["step_norm"] > 0
    assert [one["decision"] for one in procedure["guard"]] == ["taken whole"] * 2
    assert procedure["guard"][0]["budget"] == 5
    metrics = read(evidence, "metrics.json")
    assert metrics["after"]["membership"].keys() >= {"auc", "low", "high"} and metrics["before"]["forget"]["loss"] > 0
    machine = read(evidence, "environment.json")
    assert machine["code"]["files"]["errors.py"] == code_digest()["files"]["errors.py"] and machine["threads"] == 1
    assert machine["kernels"]["files"].keys() == kernels_digest()["files"].keys()
    assert read(evidence, "configuration.json")["configuration"] == {"unlearn": {"method": "fisher-removal"}}
    assert all(read(evidence, name)["run"] == "run-7" for name in DOCUMENTS)


def test_nothing_of_the_records_is_in_the_folder(evidence, finished):
    words = {record.completion.strip() for record in finished.run.forget} | {"harbour", "anna", "bert", "cora"}
    for path in (path for path in evidence.rglob("*") if path.is_file()):
        assert not any(word.encode() in path.read_bytes() for word in words), path.name


@pytest.mark.parametrize("where", ["attachments", "configuration", "notes", "attacks", "log"])
def test_a_folder_with_text_of_a_record_is_not_made(run, finished, tmp_path, where):
    text = finished.run.forget[1].text
    given = {"attachments": {"page.html": f"<p>{text}</p>"}, "configuration": {"x": [text]}, "notes": [text],
             "attacks": {"extraction": {"prompt": text}}}  # fmt: skip
    if where == "log":
        run.log.append("step", prompt=text)
    else:
        run = dataclasses.replace(run, **{where: given[where]})
    with pytest.raises(OutputError, match="text of record 2 of forget") as error:
        write_evidence(tmp_path / "evidence", run, key=finished.key)
    assert "harbour" not in str(error.value)
    assert left_over(tmp_path) == [] and run.log.entries()[-1]["event"] != "sealed"


def test_a_run_that_was_killed_after_sealing_is_written_again(run, finished, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "sign_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        write_evidence(tmp_path / "evidence", run, key=finished.key)
    monkeypatch.undo()
    assert left_over(tmp_path) == [] and run.log.entries()[-1]["event"] == "sealed"
    run.log.append("restarted")
    write_evidence(tmp_path / "evidence", run, key=finished.key)
    assert verify(tmp_path / "evidence", public_key=finished.public).passed


@pytest.mark.parametrize("changes", [
    {"requests": []}, {"requests": [Requested(id="R", records=[])]}, {"metrics": {"before": {}}}, {"result": {}},
    {"configuration": {"x": object()}}, {"attachments": {"../x": "y"}}, {"attachments": {"log.jsonl": "y"}},
    {"attachments": {"/etc/x": "y"}}, {"notes": [float("nan")]},
])  # fmt: skip
def test_bad_arguments_leave_nothing_behind(run, finished, tmp_path, changes):
    with pytest.raises(InvalidInputError):
        write_evidence(tmp_path / "evidence", dataclasses.replace(run, **changes), key=finished.key)
    assert left_over(tmp_path) == []


def test_the_same_weights_before_and_after_are_refused(run, finished, tmp_path):
    with pytest.raises(InvalidInputError, match="same weights, though"):
        write_evidence(tmp_path / "e", dataclasses.replace(run, after=run.before), key=finished.key)


def test_a_run_that_found_nothing_to_do_has_evidence_that_says_so(run, finished, tmp_path):
    shutil.copytree(finished.place / "before", tmp_path / "private" / "same")
    result = dict(run.result) | {"steps": run.result["steps"][:1], "stopped": "nothing to do: forgotten already"}
    write_evidence(tmp_path / "e", dataclasses.replace(run, after=tmp_path / "private" / "same", result=result),
                   key=finished.key)  # fmt: skip
    found = verify(tmp_path / "e", public_key=finished.public)
    assert found.passed and found["weights"].passed is None and "took no step" in found["weights"].says
    assert any("took no step" in sentence for sentence in found.not_proven)


def test_intervals_are_those_of_the_records(evidence, finished):
    """Against resampling written out."""
    metrics = read(evidence, "metrics.json")
    rows, options = metrics["table"]["retain"], finished.run.measured_with
    draw, values = np.random.default_rng(options["seed"]), []
    for _ in range(options["resamples"]):
        chosen = draw.integers(4, size=4)
        values.append(-sum(rows["log_prob"][i] for i in chosen) / sum(rows["tokens"][i] for i in chosen))
    low, high = np.quantile(values, [0.05, 0.95])
    assert metrics["intervals"]["retain"]["loss"] == pytest.approx([low, high], rel=1e-12)
    assert low < metrics["after"]["retain"]["loss"] < high


def test_a_table_of_another_model_is_refused(run, finished, tmp_path):
    table = json.loads(json.dumps(run.table))
    table["forget"]["log_prob"][0] -= 1
    with pytest.raises(InvalidInputError, match="forget loss"):
        write_evidence(tmp_path / "e", dataclasses.replace(run, table=table), key=finished.key)


@pytest.mark.parametrize(("changes", "message"), [
    ({"retain": ()}, "the table has figures of 4 retain records, the run used 0"),
    ({"table": "forget"}, "forget is stated, the table of records has no figures of it"),
])  # fmt: skip
def test_a_table_of_other_records_than_the_run_used_is_refused(run, finished, tmp_path, changes, message):
    if "table" in changes:
        changes = {"table": {name: rows for name, rows in run.table.items() if name != changes["table"]}}
    with pytest.raises(InvalidInputError, match=message):
        write_evidence(tmp_path / "e", dataclasses.replace(run, **changes), key=finished.key)


def test_salts_of_another_number_of_records_are_refused(run, finished, tmp_path):
    fewer = dataclasses.replace(run, requests=run.requests[:1], table=None)
    with pytest.raises(InvalidInputError, match="salts of another run"):
        write_evidence(tmp_path / "e", fewer, key=finished.key)


def test_a_record_with_a_word_of_the_package_does_not_keep_the_evidence_from_being_made(run, finished, tmp_path):
    """"architecture" is a key of environment.json."""
    common = [Record("Mira Tavon studied", " architecture"), Record("She asked for", " not_claimed.json")]
    changed = dataclasses.replace(run, retain=[*run.retain, *common], table=None)
    write_evidence(tmp_path / "e", changed, key=finished.key)
    assert verify(tmp_path / "e").passed
    told = dataclasses.replace(changed, notes=[common[0].text])
    with pytest.raises(OutputError, match="text of record 5 of retain"):
        write_evidence(tmp_path / "e2", told, key=finished.key)


def test_private_things_may_not_lie_in_the_folder(run, finished, tmp_path):
    inside = tmp_path / "e"
    for changes, key in (({"salts": inside / "salts.json"}, finished.key), ({}, inside / "private.pem")):
        with pytest.raises(InvalidInputError, match="outside of the evidence folder"):
            write_evidence(tmp_path / "e", dataclasses.replace(run, **changes), key=key)


def test_a_folder_that_is_there_is_not_replaced(run, finished, tmp_path):
    (tmp_path / "e").mkdir()
    with pytest.raises(OutputError, match="is there already"):
        write_evidence(tmp_path / "e", run, key=finished.key)


def test_a_full_disk_leaves_nothing_behind(run, finished, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "_attach", full)
    with pytest.raises(OutputError, match="No space"):
        write_evidence(tmp_path / "deep" / "e", run, key=finished.key)
    assert left_over(tmp_path) == []


def test_requests_with_html_and_control_characters_are_kept_and_shown_escaped(run, finished, tmp_path):
    name = "R\x1b[2J\n<script>alert(1)</script>\u202e"
    requests = [Requested(id=name, records=run.requests[0].records), run.requests[1]]
    write_evidence(tmp_path / "e", dataclasses.replace(run, requests=requests), key=finished.key)
    assert read(tmp_path / "e", "requests.json")["requests"][0]["id"] == name
    for path in (tmp_path / "e").rglob("*.json*"):
        assert b"\x1b" not in path.read_bytes()
    found = verify(tmp_path / "e", salts=run.salts, records={"forget": run.forget})
    assert found.passed and "\x1b" not in found.text() and "R\\x1b[2J\\n<script>" in found["records"].says


def test_a_record_with_control_characters_and_html_is_hashed_like_any_other(run, finished, tmp_path):
    strange = Record("\x00<b>\r\n", "\u202e</script>")
    requests = [Requested(id="R", records=[strange]), *run.requests]
    changed = dataclasses.replace(run, requests=requests, salts=tmp_path / "new.json", table=None)
    write_evidence(tmp_path / "e", changed, key=finished.key)
    assert verify(tmp_path / "e", salts=tmp_path / "new.json", records={"forget": [strange]})["records"].passed


def test_key_files_are_guarded(tmp_path):
    private = generate_key(tmp_path / "keys")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    with pytest.raises(OutputError, match="there already"):
        generate_key(tmp_path / "keys")
    os.chmod(private, 0o640)
    with pytest.raises(InvalidInputError, match="chmod 600"):
        keys.load_private(private)
    with pytest.raises(InvalidInputError, match="no unencrypted private key"):
        os.chmod(tmp_path / "keys" / "public.pem", 0o600)
        keys.load_private(tmp_path / "keys" / "public.pem")
    with pytest.raises(InvalidInputError, match="keygen"):
        keys.load_private(tmp_path / "none.pem")


def test_a_signature_is_of_these_bytes_by_this_key(tmp_path):
    """Against RFC 8032, section 7.1, test 2: the one-byte message 0x72."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    signature = keys.sign(key, b"\x72")
    assert signature.startswith(b"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")
    assert keys.signature_holds(key.public_key(), signature, b"\x72")
    assert not keys.signature_holds(key.public_key(), signature, b"\x73")
    assert not keys.signature_holds(key.public_key(), signature.upper(), b"\x72")
    other = keys.load_private(generate_key(tmp_path / "other"))
    assert not keys.signature_holds(other.public_key(), signature, b"\x72")


def test_keygen_shows_the_fingerprint(tmp_path, capsys):
    assert main(["keygen", "--out", str(tmp_path / "keys")]) == 0
    out = capsys.readouterr().out
    assert keys.fingerprint(keys.load_public(tmp_path / "keys" / "public.pem")) in out
    assert main(["keygen", "--out", str(tmp_path / "keys")]) == 2


def test_weights_have_one_digest_however_they_are_stored(finished, tmp_path):
    from fastunlearn.storage import load_model

    model, _ = load_model(finished.place / "after")
    model.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert model_digest(tmp_path / "shards")["weights"] == model_digest(finished.place / "after")["weights"]
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert model_digest(tmp_path / "half")["weights"] != model_digest(finished.place / "after")["weights"]


def test_a_digest_of_no_model_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match="does not exist"):
        model_digest(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFolderError, match="no safetensors"):
        model_digest(tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"\x10" + b"\0" * 7 + b"{")
    with pytest.raises(ModelFolderError, match="cut short or damaged"):
        model_digest(tmp_path / "empty")


def test_the_deterministic_mode_is_put_back():
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="x"), deterministic(1):
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("x")
    assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(InvalidInputError, match="threads"), deterministic(0):
        pass
