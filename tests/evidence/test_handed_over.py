"""The model, the records and the salts in an auditor's hands; metrics measured again; the update computed again."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastunlearn.cli.main import main
from fastunlearn.data import Record
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import environment as environment_module
from fastunlearn.evidence import generate_key, remeasure, verify, write_evidence
from fastunlearn.evidence import recompute as recompute_module
from fastunlearn.evidence.commitments import Salts, match, record_hash
from fastunlearn.evidence.digests import model_digest
from fastunlearn.storage import load_model
from fastunlearn.unlearn import keep_fisher
from tests.evidence.forging import edit, resign
from tests.evidence.small_run import ARGUMENTS, RECORDS, finish, make_model


@pytest.fixture
def hands(finished):
    """All that an auditor may be given."""
    place = finished.place
    return {"public_key": finished.public, "model": place / "after", "before": place / "before", "records": RECORDS,
            "salts": place / "private" / "salts.json"}  # fmt: skip


def test_all_that_can_be_checked_is_proven(evidence, hands):
    found = verify(evidence, **hands, recompute=True, sample=None)
    assert found.passed and all(check.passed for check in found.checks), found.text()
    assert "to the bit" in found["update"].says
    assert "3 of 3 forget, 4 of 4 retain, 3 of 3 held_out" in found["metrics"].says
    assert "aggregates (forget, retain, held_out, membership)" in found["metrics"].says
    assert "3 records to forget are in request R-1, R-2" in found["records"].says
    assert len(found.proven) >= 8 and any("nothing of the records is left" in one for one in found.not_proven)


def test_the_sample_is_as_large_as_asked_for_and_depends_on_the_seed(evidence, hands, monkeypatch):
    drawn = []
    true = remeasure._draw
    monkeypatch.setattr(remeasure, "_draw", lambda *arguments: drawn.append(true(*arguments)) or drawn[-1])
    for seed in range(6):
        assert "2 of 3 forget, 2 of 4 retain" in verify(evidence, **hands, sample=2, seed=seed)["metrics"].says
    assert all(len(places) == 2 for places in drawn) and len({tuple(places) for places in drawn}) > 1


def test_a_record_of_another_text_is_no_record_of_the_run(evidence, hands):
    stranger = [RECORDS["forget"][0], Record("The harbour town of anna is", " bern")]
    hands["records"] = {"forget": stranger}
    found = verify(evidence, **hands)
    assert found["records"].passed is False and "records 2 of forget are in no request" in found["records"].says


def test_one_record_can_be_shown_without_the_others(evidence, hands, tmp_path):
    about = json.loads(hands["salts"].read_text())
    about["forget"] = [None, about["forget"][1], None]
    (tmp_path / "one.json").write_text(json.dumps(about))
    hands["salts"] = tmp_path / "one.json"
    hands["records"] = {"forget": RECORDS["forget"][1:2]}
    del hands["model"], hands["before"]
    assert "1 records to forget are in request R-1" in verify(evidence, **hands)["records"].says
    hands["records"] = {"forget": RECORDS["forget"][:1]}
    assert verify(evidence, **hands)["records"].passed is False


def test_salts_are_private_random_and_say_nothing_by_themselves(finished):
    path = finished.place / "private" / "salts.json"
    assert path.stat().st_mode & 0o077 == 0
    salts = Salts.read(path)
    assert len({*salts.forget, *salts.sets.values()}) == 5 and all(len(salt) == 32 for salt in salts.forget)
    record = RECORDS["forget"][0]
    assert record_hash(record, salts.forget[0]) != record_hash(record, salts.forget[1])
    shifted = Record(record.prompt + record.completion[:1], record.completion[1:])  # the same text, split elsewhere
    assert record_hash(record, salts.forget[0]) != record_hash(shifted, salts.forget[0])


def test_salts_of_another_run_or_garbage_are_told(evidence, hands, tmp_path):
    about = json.loads(hands["salts"].read_text()) | {"run": "run-6"}
    (tmp_path / "other.json").write_text(json.dumps(about))
    assert "another run" in verify(evidence, salts=tmp_path / "other.json", records=RECORDS)["records"].says
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="no file of salts"):
        verify(evidence, salts=tmp_path / "bad.json", records=RECORDS)


def test_with_salts_records_may_come_in_any_order_and_in_part(evidence, hands):
    hands["records"] = RECORDS | {"forget": RECORDS["forget"][::-1]}
    found = verify(evidence, **hands, recompute=True, sample=None)
    assert found.passed and found["update"].passed and found["metrics"].passed, found.text()
    hands["records"] = {"forget": RECORDS["forget"][2:]}
    found = verify(evidence, **hands, sample=None)
    assert found.passed and "1 of 3 forget" in found["metrics"].says, found.text()
    del hands["salts"]
    assert "1 forget records were given, there are figures of 3" in verify(evidence, **hands)["metrics"].says


def test_a_record_that_is_there_twice_has_two_places():
    record, salts = RECORDS["forget"][0], [b"a" * 32, b"b" * 32]
    hashes = [record_hash(record, salt) for salt in salts]
    assert match([record, record, record], hashes, salts) == [0, 1, None]
    assert match([record], hashes[::-1], salts[::-1]) == [0]


def test_retained_records_in_another_order_are_told(evidence, hands):
    hands["records"] = RECORDS | {"retain": RECORDS["retain"][::-1]}
    assert "the retain records are not those of the run" in verify(evidence, **hands)["records"].says


def test_wrong_records_give_other_metrics(evidence, hands):
    hands["records"] = {"retain": [Record(one.prompt, one.completion[::-1]) for one in RECORDS["retain"]]}
    del hands["salts"], hands["before"]
    assert verify(evidence, **hands)["metrics"].passed is False


def test_aggregates_that_no_table_holds_are_measured_again(evidence, finished, hands):
    """KL to a reference is in no table of records; the owner states a smaller one."""
    edit(evidence, "metrics.json", "after", "kl_retain", value=0.5)
    edit(evidence, "models.json", "reference", value=lambda _: {
        "kind": "retrained", **json.loads((evidence / "models.json").read_text())["before"]})  # fmt: skip
    resign(evidence, finished.key)
    hands |= {"reference": hands["before"]}
    found = verify(evidence, **hands, sample=None)
    assert found["model reference"].passed and "kl_retain is" in found["metrics"].says and not found.passed


def test_aggregates_of_other_sets_are_measured_again_without_the_forget_records(evidence, finished, hands):
    hands["records"] = {name: RECORDS[name] for name in ("retain", "held_out")}
    found = verify(evidence, **hands, sample=None)
    assert found.passed and "the aggregates (retain, held_out)" in found["metrics"].says, found.text()
    edit(evidence, "metrics.json", "after", "kl_retain", value=0.5)
    edit(evidence, "models.json", "reference", value=lambda _: {
        "kind": "retrained", **json.loads((evidence / "models.json").read_text())["before"]})  # fmt: skip
    resign(evidence, finished.key)
    said = verify(evidence, **hands, reference=hands["before"], sample=None)["metrics"]
    assert said.passed is False and "kl_retain is" in said.says and "kl_held_out can be measured" in said.says


def test_records_that_the_folder_has_no_figures_of_are_a_failed_check(evidence, finished, hands):
    for place in (("table", "forget"), ("intervals", "forget"), ("after", "forget"), ("after", "membership")):
        edit(evidence, "metrics.json", *place, value=...)
    resign(evidence, finished.key)
    said = verify(evidence, **hands)["metrics"]
    assert said.passed is False and "no figures of single records of forget, which was given" in said.says


def test_a_procedure_that_does_not_give_the_weights_is_told(evidence, finished, hands, monkeypatch):
    monkeypatch.setattr(recompute_module, "differences", lambda *_: [])  # whoever edits the sources meanwhile
    edit(evidence, "procedure.json", "arguments", "steps", value=1)
    resign(evidence, finished.key)
    found = verify(evidence, **hands, recompute=True)
    assert [check.name for check in found.failures] == ["update"]
    assert "does not give the model after on the same type of machine" in found["update"].says


def test_on_another_machine_type_the_weights_may_differ_a_little(evidence, finished, hands, tmp_path, monkeypatch):
    """The model after is nudged as other rounding would: near is near enough there, and not on the same type."""
    shutil.copytree(hands["model"], tmp_path / "after")
    before = load_file(hands["before"] / "model.safetensors")
    weights = load_file(tmp_path / "after" / "model.safetensors")
    changed = [name for name in weights if not torch.equal(weights[name], before[name])]

    def nudge(part):
        new = {n: w + part * (w - before[n]) if n in changed else w for n, w in weights.items()}
        save_file(new, tmp_path / "after" / "model.safetensors", metadata={"format": "pt"})
        edit(evidence, "models.json", "after", value=model_digest(tmp_path / "after"))
        resign(evidence, finished.key)
        return verify(evidence, **hands | {"model": tmp_path / "after"}, recompute=True)["update"]

    monkeypatch.setattr(recompute_module, "differences", lambda *_: [])
    assert nudge(1e-4).passed is False
    monkeypatch.setattr(recompute_module, "differences", lambda *_: ["machine processor: 'A' then, 'B' here"])
    near, far = nudge(1e-4), nudge(0.1)
    assert near.passed is True and "1.00e-04 of the update's length" in near.says and "'B' here" in near.says
    assert far.passed is False


def test_a_run_from_a_kept_fisher_is_computed_again_with_that_file(tmp_path):
    make_model(tmp_path / "before")
    model, tokenizer = load_model(tmp_path / "before")
    data = RECORDS["forget"] + RECORDS["retain"]
    for name, damping in (("kept", 1e-3), ("other", 1e-2)):
        kept = keep_fisher(model, tokenizer, data, parameters=["*mlp*"], damping=damping, rank=4)
        kept.save(tmp_path / f"{name}.safetensors")
    arguments = {key: value for key, value in ARGUMENTS.items() if key != "method"}
    arguments["method"] = "fisher-removal-retain-free"
    run = finish(tmp_path, arguments, tmp_path / "kept.safetensors")
    write_evidence(tmp_path / "evidence", run, key=generate_key(tmp_path / "keys"))
    run.log.close()
    procedure = json.loads((tmp_path / "evidence" / "procedure.json").read_text())
    assert procedure["kept_fisher"]["damping"] == 1e-3 and procedure["kept_fisher"]["rank"] == 4
    assert procedure["steps"][1]["leverage_at_most"] > 0
    given = {"before": tmp_path / "before", "records": RECORDS, "recompute": True}
    found = [verify(tmp_path / "evidence", **given, kept_fisher=file)["update"]
             for file in (tmp_path / "kept.safetensors", tmp_path / "other.safetensors", None)]  # fmt: skip
    assert [one.passed for one in found] == [True, False, False]
    assert "another file" in found[1].says and "--kept-fisher" in found[2].says


def test_what_is_missing_for_a_recomputation_is_named(evidence, hands):
    whole = hands.pop("records")
    for left_out, option in (("forget", "--forget"), ("retain", "--retain"), ("held_out", "--held-out")):
        some = {name: found for name, found in whole.items() if name != left_out}
        found = verify(evidence, **hands, records=some, recompute=True)["update"]
        assert found.passed is False and option in found.says
    del hands["before"]
    with pytest.raises(InvalidInputError, match="not checked: --before is missing"):
        verify(evidence, **hands, records=whole, recompute=True)
    assert verify(evidence, salts=hands["salts"])["records"].passed is False


def test_machine_types_are_told_apart():
    one = environment_module.environment(1, deterministic=True)
    assert environment_module.differences(one, one) == []
    other = json.loads(json.dumps(one))
    other["machine"]["processor"], other["code"]["digest"] = "another", "0"
    assert len(environment_module.differences(one, other)) == 2
    text = json.dumps(one)
    for private in (socket.gethostname(), os.getcwd(), getpass.getuser()):
        assert f'"{private}"' not in text


@pytest.fixture
def files(hands, tmp_path):
    """The options of the command for what the auditor was given."""
    found = []
    for name, option in (("forget", "--forget"), ("retain", "--retain"), ("held_out", "--held-out")):
        rows = [{"prompt": one.prompt, "completion": one.completion} for one in RECORDS[name]]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found += [option, str(tmp_path / f"{name}.jsonl")]
    for name in ("public_key", "model", "before", "salts"):
        found += [f"--{name.replace('_', '-')}", str(hands[name])]
    return found


def test_the_command_verifies_and_its_status_says_so(evidence, files, capsys):
    assert main(["verify", str(evidence), *files, "--run", "run-7", "--sample", "2", "--recompute", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("VERIFIED\n") and "NOT VERIFIED" not in out and "What it does not show" in out
    edit(evidence, "metrics.json", "after", "forget", "loss", value=1.0)
    assert main(["verify", str(evidence), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False and found["proven"] == []
    assert any("/after/forget/loss was changed" in check["says"] for check in found["checks"])


def test_wrong_arguments_of_the_command_are_errors(evidence, files, capsys, tmp_path):
    for line, message in (
        ([str(tmp_path / "nowhere")], "no folder"), ([str(evidence), "--sample", "0"], "--sample"),
        ([str(evidence), "--public-key", str(tmp_path / "no.pem")], "no.pem"),
        ([str(evidence), "--public-key", str(evidence / "log.jsonl")], "no public key"),
    ):  # fmt: skip
        assert main(["verify", *line]) == 2
        assert message in capsys.readouterr().err


def test_the_commands_that_auditors_are_told_work(evidence, finished, files, hands, tmp_path, monkeypatch, capsys):
    for name, as_told in (("before", "original"), ("after", "after")):
        shutil.copytree(finished.place / name, tmp_path / as_told)
    shutil.copy(hands["salts"], tmp_path / "salts.json")
    shutil.copy(finished.public, tmp_path / "owner.pem")
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.strip().startswith("fastunlearn verify")]
    assert len(lines) == 3
    for line in lines:
        assert main([part if part != "RUN" else "run-7" for part in line[1:]]) == 0, capsys.readouterr().out
    assert "update: the update was computed again" in capsys.readouterr().out
