"""Models measured on the same records, and the report drawn again from its document."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def evaluate(command, records, tmp_path):
    def run(*arguments, out="report"):
        return command(
            "evaluate", "--forget", records["forget"], "--retain", records["retain"], "--quiet", "--out",
            tmp_path / out, *arguments,
        )  # fmt: skip

    return run


def document_of(tmp_path, out="report"):
    return json.loads((tmp_path / out / "report.json").read_text(encoding="utf-8"))


def test_report_of_three_models(evaluate, make_model, records, tmp_path):
    original, other, reference = (make_model(name, seed) for seed, name in enumerate(("o", "m", "r")))
    status, text, _ = evaluate(
        "--original", original, "--model", f"same={original}", "--model", f"twin={reference}",
        "--model", other, "--reference", reference, "--held-out", records["held_out"],
    )  # fmt: skip
    assert status == 0 and "report.html" in text
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000
    document = document_of(tmp_path)
    assert list(document["methods"]) == ["same", "twin", "m"]
    assert document["data"] == {"forget": 2, "retain": 4, "held_out": 2}
    # the same weights under two names measure the same, and nothing is as near to a model as itself
    assert document["methods"]["same"]["metrics"] == document["original"]["metrics"]
    assert document["methods"]["twin"]["kl_retain"] == document["reference"]["kl_retain"] == 0
    assert document["methods"]["m"]["kl_retain"] > 0 and document["original"]["kl_forget"] > 0
    assert 0 <= document["original"]["metrics"]["membership"]["auc"] <= 1


def test_one_model_alone(evaluate, make_model, tmp_path):
    assert evaluate("--model", make_model("m"))[0] == 0
    document = document_of(tmp_path)
    assert document["methods"] == {} and document["reference"] is None
    assert document["original"]["kl_retain"] is None and document["original"]["metrics"]["held_out"] is None


def test_cost_comes_from_the_account_in_the_folder(evaluate, make_model, tmp_path):
    account = {
        "method": "npo", "uses_retain": True, "gradients": 12, "seconds": 1.5, "peak_bytes": 99,
        "settings": {"beta": 0.1}, "stopped": "after 3 steps", "steps": [{"step": 1, "forget_accuracy": 0.5}],
    }  # fmt: skip
    changed = make_model("changed", 1)
    (tmp_path / "changed" / "unlearning.json").write_text(json.dumps(account))
    assert evaluate("--model", make_model("m"), "--model", changed)[0] == 0
    entry = document_of(tmp_path)["methods"]["changed"]
    assert {name: entry[name] for name in account if name != "method"} == {
        name: value for name, value in account.items() if name != "method"
    }
    assert entry["first_order"] is True


def test_cost_of_a_trained_model_is_that_of_its_training(evaluate, make_model, tmp_path):
    changed = make_model("changed", 1)
    (tmp_path / "changed" / "training.json").write_text(json.dumps({"gradients": 7, "seconds": 2.5, "steps": 3}))
    assert evaluate("--model", make_model("m"), "--model", changed)[0] == 0
    entry = document_of(tmp_path)["methods"]["changed"]
    assert (entry["gradients"], entry["seconds"], entry["steps"]) == (7, 2.5, [])


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": "long"}'])
def test_broken_account_is_named(evaluate, make_model, tmp_path, text):
    changed = make_model("changed", 1)
    (tmp_path / "changed" / "unlearning.json").write_text(text)
    status, _, err = evaluate("--model", make_model("m"), "--model", changed)
    assert status == 2 and err.count("\n") == 1 and "changed" in err
    assert not (tmp_path / "report").exists()


def test_models_of_two_tokenizers_are_not_compared(evaluate, make_model, tmp_path):
    models = make_model("one"), make_model("two", words=["aa aa aa aa aa aa"])
    status, _, err = evaluate("--model", models[0], "--model", models[1])
    assert status == 2 and "tokens of the records" in err and not (tmp_path / "report").exists()


def test_existing_report_is_refused_before_any_work_unless_overwrite(evaluate, make_model, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("old")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    status, _, err = evaluate("--model", tmp_path / "missing")
    assert status == 2 and "already" in err
    assert evaluate("--model", make_model("m"), "--overwrite")[0] == 0
    assert document_of(tmp_path)["schema"] == 1
    assert (tmp_path / "report" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--max-length", 99), "context of 16"), (("--max-length", 3), "record 1 of forget"),
     (("--model", "nowhere"), "nowhere"), (("--retain", "nowhere.jsonl"), "nowhere.jsonl")],
)  # fmt: skip
def test_wrong_options(evaluate, make_model, tmp_path, options, word):
    status, _, err = evaluate("--model", make_model("m"), *options)
    assert status == 2 and word in err and not (tmp_path / "report").exists()


def test_report_again_from_its_document(evaluate, command, make_model, tmp_path):
    assert evaluate("--model", make_model("m"))[0] == 0
    status, text, _ = command("report", tmp_path / "report" / "report.json", "--out", tmp_path / "again")
    assert status == 0 and "report.html" in text
    line = ("report", tmp_path / "report" / "report.json", "--out", tmp_path / "again")
    (tmp_path / "again" / "report.html").write_text("older")
    status, _, err = command(*line)
    assert status == 2 and "--overwrite" in err and (tmp_path / "again" / "report.html").read_text() == "older"
    assert command(*line, "--overwrite")[0] == 0
    for name in ("report.json", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "report" / name).read_bytes()


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema": 1}', '{"schema": 99}', "[" * 100_000],
                         ids=["none", "cut short", "list", "no content", "another schema", "nested"])  # fmt: skip
def test_report_of_what_is_no_document(command, tmp_path, text):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    status, _, err = command("report", path, "--out", tmp_path / "again")
    assert status == 2 and err.startswith("fastunlearn: error: ") and err.count("\n") == 1
    assert not (tmp_path / "again").exists()
