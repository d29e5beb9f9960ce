"""The README's figures and table of methods are what the generator makes of the measurements."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from bench import readme_figures
from fastunlearn.errors import InvalidInputError

MARKED = "".join(f"# x\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\ny\n" for name in ("methods", "figures"))


@pytest.fixture
def document() -> dict:
    path = Path(__file__).parents[1] / "audit" / "sample_document.py"
    spec = importlib.util.spec_from_file_location("sample_document", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.sample_document()


@pytest.fixture
def cases(document) -> list[dict]:
    """Three seeds with KL 0.01, 0.02 and 0.09 of Fisher removal, without the steps, as in the result files."""
    found = []
    for seed, value in enumerate((0.02, 0.09, 0.01)):
        one = copy.deepcopy(document) | {"seed": seed}
        one["methods"]["fisher-removal"]["kl_retain"] = value
        for item in (one["original"], one["reference"], *one["methods"].values()):
            del item["steps"], item["frontier"]
        found.append({"seed": seed, "document": one})
    return found


def write(folder: Path, name: str, record: dict) -> None:
    (folder / name).write_text(json.dumps(record), encoding="utf-8")


def row(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_readme_is_what_the_generator_makes():
    text = readme_figures.README.read_text(encoding="utf-8")
    assert text == readme_figures.filled(text), "run python -m bench.readme_figures"


def test_claims_by_seed_and_utility(tmp_path, cases):
    best = {"method": "npo-retain", "kl_retain": 0.04, "ratio": 0.25}
    none = {"method": None, "kl_retain": None, "ratio": None}
    cases[0]["claims"] = {
        "retrained_forget_accuracy": 0.1, "forget_accuracy": 0.08, "retain_accuracy_kept": 0.987,
        "without_retain_data": none, "with_retain_data": best, "own_pull_with_retain_data": none,
        "kl_retain": 0.01,
    }  # fmt: skip
    cases[0]["document"]["original"]["kl_retain"] = 0.004
    cases[0]["utility"] = {"original": {"accuracy": 0.5}, "retrained": {"accuracy": 0.25}}
    write(tmp_path, "demo-seeds.json", {"cases": cases})
    text = readme_figures.figures_section(tmp_path)
    assert row(text, "0 | 0.08")[1:] == [
        "0.08, at most 0.15", "98.7 %", "none forgot as much", "0.25 (npo-retain, KL 0.04, added: 0.167)",
        "none forgot as much",
    ]  # fmt: skip
    assert "original 50.0 %, retrained 25.0 %" in text


def test_seconds_of_a_machine_that_did_other_work_are_left_out(tmp_path, cases):
    write(tmp_path, "demo-seeds.json", {"settings": {"note": ""}, "cases": cases})
    assert row(readme_figures.figures_section(tmp_path), "Fisher removal |")[6] != "–"
    write(tmp_path, "demo-seeds.json", {"settings": {"note": "Other work ran beside it."}, "cases": cases})
    text = readme_figures.figures_section(tmp_path)
    assert row(text, "Fisher removal |")[6] == "–" and "Other work ran beside it." in text


def test_medians_and_spread_over_seeds(tmp_path, cases):
    write(tmp_path, "demo-seeds.json", {"cases": cases})
    text = readme_figures.figures_section(tmp_path)
    assert row(text, "Fisher removal |")[3] == "0.02 (0.01 to 0.09)"
    assert row(text, "original")[3] == "0.021"  # the same in all: no spread
    assert row(text, "retrained")[3] == "0"
    assert row(text, "Gradient ascent")[0] == "Gradient ascent *"  # needs no retained record
    assert row(text, "Negative")[0] == "Negative preference optimisation"
    assert "seeds 0, 1, 2" in text


def test_what_was_not_measured_is_a_dash_and_a_missing_seed_is_said(tmp_path, cases):
    for case in cases:
        case["document"]["methods"]["newton"]["kl_retain"] = None
    del cases[0]["document"]["methods"]["npo"]
    write(tmp_path, "demo-seeds.json", {"cases": cases})
    text = readme_figures.figures_section(tmp_path)
    assert row(text, "Newton step")[3] == readme_figures.NONE
    assert "(2 of 3 seeds)" in row(text, "Negative")[0]


def test_a_single_document_will_do_and_labels_are_escaped(tmp_path, document):
    document["methods"]["newton"]["label"] = "a|b<i>"
    write(tmp_path, "tofu.json", document)
    text = readme_figures.figures_section(tmp_path)
    assert "### TOFU" in text and "a\\|b&lt;i>" in text and "### The demo" not in text


def test_nothing_measured_leaves_only_the_word_on_gpus(tmp_path):
    word = "No figure of a GPU is known yet"
    assert readme_figures.figures_section(tmp_path).startswith(f"### On a GPU (H200)\n\n{word}")
    record = json.loads((readme_figures.RESULTS / "cpu-ghost-gram.json").read_text(encoding="utf-8"))
    record["machine"]["gpu"] = "A GPU"
    write(tmp_path, "cuda-ghost-gram.json", record)
    text = readme_figures.figures_section(tmp_path)
    assert word not in text and "A GPU" in text


def test_a_rejected_result_has_no_time(tmp_path):
    record = json.loads((readme_figures.RESULTS / "cpu-ghost-gram.json").read_text(encoding="utf-8"))
    record["cases"][0]["ways"]["fastunlearn: ghost"] = {"error": 0.5, "gate": "rejected", "peak_bytes": 1}
    write(tmp_path, "cpu-ghost-gram.json", record)
    assert "rejected: error 5e-01" in readme_figures.figures_section(tmp_path)


def test_a_damaged_result_is_refused(tmp_path, cases):
    cases[1]["document"]["methods"]["newton"]["forget_accuracy"] = 2
    write(tmp_path, "demo-seeds.json", {"cases": cases})
    with pytest.raises(InvalidInputError, match="forget_accuracy"):
        readme_figures.figures_section(tmp_path)
    write(tmp_path, "demo-seeds.json", {"cases": []})
    with pytest.raises(ValueError, match="no cases"):
        readme_figures.figures_section(tmp_path)


@pytest.mark.parametrize("text", ["", MARKED + MARKED, MARKED.replace("figures:end", "figures:stop")])
def test_markers_must_be_there_once(text):
    with pytest.raises(ValueError, match="begin"):
        readme_figures.filled(text)


def test_check_fails_on_an_edited_readme_and_changes_nothing(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(MARKED, encoding="utf-8")
    arguments = ["--readme", str(readme)]
    assert readme_figures.main([*arguments, "--check"]) == 1
    assert readme.read_text(encoding="utf-8") == MARKED and "out of date" in capsys.readouterr().err
    assert readme_figures.main(arguments) == 0
    assert readme_figures.main([*arguments, "--check"]) == 0
    readme.write_text(readme.read_text(encoding="utf-8").replace("ms", "us", 1), encoding="utf-8")
    assert readme_figures.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.00164, "0.00164"), (0.000016, "1.6e-05"), (21.34, "21.3"), (4321.0, "4,321")]
)
def test_three_digits(value, text):
    assert readme_figures.plain(value) == text
