"""``fastunlearn evaluate --metrics --attacks``: what lands in the report and on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FAST = (
    "--attack-set", "relearn.steps=2", "--attack-set", "relearn.learning_rates=[0.001]",
    "--attack-set", "sample.draws=2",
)  # fmt: skip


@pytest.fixture
def evaluate(command, records, make_model, tmp_path):
    """``evaluate(*options)``: status, stdout, stderr; models o (original), m, and r (retrained) with ``reference``."""

    def run(*options, reference=True):
        folders = [make_model(name, seed) for seed, name in enumerate("omr")]
        models = ("--model", folders[0], "--model", folders[1], *(("--reference", folders[2]) if reference else ()))
        return command(
            "evaluate", *models, "--forget", records["forget"], "--retain", records["retain"], "--held-out",
            records["held_out"], "--out", tmp_path / "report", "--quiet", *options,
        )  # fmt: skip

    return run


@pytest.fixture
def document(tmp_path):
    return lambda: json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))


def test_metrics_and_attacks_in_the_report(evaluate, document, records, tmp_path):
    rows = [json.loads(line) for line in Path(records["forget"]).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        name = row["prompt"].split()[0]
        row |= {"perturbed_answer": [" oslo", " lima"], "paraphrased_question": f"lives in {name}"}
    Path(records["forget"]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "fresh.txt").write_text("anna lives in oslo\nlives in bern\n")
    options = ("--metrics", "all", "--attacks", "all", "--more-records", f"fresh={tmp_path / 'fresh.txt'}")
    status, text, err = evaluate(*options, *FAST)
    assert status == 0, err
    found = document()
    metrics = found["methods"]["m"]["more_metrics"]
    assert {"kl", "js", "privleak", "forget_quality", "mia_gradient_norm", "rouge_l_recall"} <= set(metrics)
    assert set(metrics["kl"]) == {"forget", "retain", "held_out", "fresh"}
    assert metrics["kl"]["retain"]["value"] == pytest.approx(found["methods"]["m"]["kl_retain"], rel=1e-4)
    assert metrics["exact_memorisation"]["forget"]["value"] == found["methods"]["m"]["forget_accuracy"]
    assert "kl" not in found["reference"]["more_metrics"] and "probability" in found["reference"]["more_metrics"]
    attacks = found["original"]["attacks"]
    assert {"relearn", "quantise-nf4", "paraphrase", "sample"} <= set(attacks) and "attacks" not in found["reference"]
    assert attacks["relearn"]["settings"]["steps"] == 2 and attacks["relearn"]["settings"]["learning_rates"] == [0.001]
    assert attacks["sample"]["measures"]["exact"]["reference"] is not None
    assert "m  kl  fresh: " in text and "m  relearn  accuracy: " in text and "; retrained " in text
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    for word in ("Further metrics", "mia_gradient_norm", "Attacks", "quantise-nf4", "rouge_l_recall"):
        assert word in page, word


def test_names_and_no_reference(evaluate, document):
    status, _, err = evaluate("--metrics", "probability, mia_loss", "--attacks", "quantise-int8", reference=False)
    assert status == 0, err
    found = document()["original"]
    assert list(found["more_metrics"]) == ["probability", "mia_loss"] and list(found["attacks"]) == ["quantise-int8"]
    assert found["attacks"]["quantise-int8"]["measures"]["accuracy"]["reference"] is None


def test_nothing_further_without_the_options(evaluate, document):
    assert evaluate()[0] == 0
    assert not {"more_metrics", "attacks"} & set(document()["original"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--metrics", "kll"), "--metrics: 'kll' is not known; use all, or some of probability"),
        (("--metrics", ""), "--metrics: '' is not known"),
        (("--attacks", "all,sample"), "--attacks: 'all' is not known"),
        (("--attacks", "paraphrase"), "paraphrase needs other wordings"),
        (("--metrics", "truth_ratio"), "truth_ratio needs wrong answers"),
        (("--attack-set", "sample.draws=3"), "--attacks, which is not given"),
        (("--attacks", "sample", "--attack-set", "draws=3"), "must be of the form ATTACK.KEY=VALUE"),
        (("--attacks", "sample", "--attack-set", "smple.draws=3"), "--attack-set: 'smple' is not known"),
        (("--attacks", "sample", "--attack-set", "sample.drws=3"), "has no setting drws"),
        (("--attacks", "sample", "--attack-set", "sample.temperature=hot"), "temperature='hot' of sample must be"),
        (("--more-records", "fresh=x.txt"), "add --metrics all"),
        (("--metrics", "all", "--more-records", "retain=x.txt"), "a name of its own"),
        (("--metrics", "all", "--more-records", "fresh=missing.txt"), "missing.txt"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(evaluate, tmp_path, options, word):
    status, _, err = evaluate(*options)
    assert status == 2 and word in err and err.count("\n") == 1
    assert not (tmp_path / "report").exists()
