"""Models measured on the same records, and the report drawn again from its document."""

from __future__ import annotations

import json
from pathlib import Path

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


@pytest.mark.parametrize(
    ("account", "first_order", "shown"),
    [(None, None, "not recorded"), ({"method": "my-own"}, None, "not recorded"), ({"method": ["npo"]}, None, "not re"),
     ({"method": "fisher-removal"}, False, "second-order;"), ({"method": "kl-ascent"}, True, "first-order;")],
)  # fmt: skip
def test_how_a_model_was_made_is_told_by_its_account(evaluate, make_model, tmp_path, account, first_order, shown):
    """Not by the name that it is given here: "npo" may be anything."""
    changed = make_model("changed", 1)
    if account is not None:
        (tmp_path / "changed" / "unlearning.json").write_text(json.dumps(account))
    assert evaluate("--model", make_model("m"), "--model", f"npo={changed}")[0] == 0
    assert document_of(tmp_path)["methods"]["npo"]["first_order"] is first_order
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    details = page[page.index("<details") :]
    assert shown in details and ("second-order;" in details) is (first_order is False)


@pytest.mark.parametrize("name", ["retain", "held_out"])
def test_records_to_forget_in_another_set_are_refused(evaluate, make_model, records, tmp_path, name):
    """What is said of kept or unseen records would be of those to forget: an AUC of them against themselves is 0.5."""
    other = tmp_path / "both.jsonl"
    other.write_text("".join(Path(records[one]).read_text() for one in (name, "forget")))
    status, _, err = evaluate("--model", make_model("m"), f"--{name.replace('_', '-')}", other)
    assert status == 2 and f"forget and {name} overlap: 2 records" in err and f"remove them from {name}" in err
    assert not (tmp_path / "report").exists()


def test_a_model_without_a_context_length_takes_that_of_the_option(evaluate, records, tmp_path):
    """Bloom's positions are ALiBi's, so its configuration has no longest sequence."""
    from transformers import BloomConfig, BloomForCausalLM

    from fastunlearn.cli.main import main
    from fastunlearn.data import load_records, train_tokenizer
    from fastunlearn.storage import save_model

    tokenizer = train_tokenizer([one.text for path in records.values() for one in load_records(path)])
    model = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=8, n_layer=1, n_head=2))
    save_model(model, tokenizer, tmp_path / "bloom")
    status, _, err = evaluate("--model", tmp_path / "bloom")
    assert status == 2 and "give max_length (--max-length" in err
    assert evaluate("--model", tmp_path / "bloom", "--max-length", 16)[0] == 0
    assert document_of(tmp_path)["model"]["context"] == 16
    line = ["unlearn", "--quiet", "--model", str(tmp_path / "bloom"), "--forget", records["forget"], "--method",
            "gradient-ascent", "--set", "gradients=2", "--out", str(tmp_path / "after")]  # fmt: skip
    assert main(line) == 2 and main([*line, "--max-length", "1"]) == 2 and main([*line, "--max-length", "16"]) == 0


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
