"""Benchmarks at a tiny shape: every case is right, complete in its record, and comparable with an older one."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from fastunlearn.cli.main import main
from fastunlearn.errors import InvalidInputError
from fastunlearn.microbench import suite
from fastunlearn.microbench.harness import OURS, Way, compare, peak_here
from fastunlearn.microbench.op_cases import OPS
from fastunlearn.microbench.shapes import SHAPES, configuration, empty_model

TINY = ["--shape", "llama-tiny", "--tokens", "9", "--samples", "3", "--rounds", "1", "--quiet"]


def test_everything_from_the_command_line(tmp_path, capsys):
    out, again = tmp_path / "bench.json", tmp_path / "again.json"
    assert main(["bench", *TINY, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert len(record["cases"]) == len(OPS) + 2 + 1
    assert {item["case"]["kind"] for item in record["cases"]} == {"op", "hessian", "ggn", "lowrank"}
    for item in record["cases"]:
        ours = item["results"][OURS]
        assert ours["gate"] == "passed" and ours["seconds"] > 0 and ours["error"] < 1e-4
        assert item["limit_seconds"] > 0 and len(item["results"]) > (item["case"]["kind"] != "ggn")
    double = record["cases"][len(OPS)]["results"]["double backward"]
    assert double["gate"] == "passed" and double["error"] > 0  # two computations, not one
    assert str(tmp_path) not in out.read_text()
    ElementTree.fromstring(out.with_suffix(".svg").read_text())
    text = capsys.readouterr().out
    assert "Hessian-vector product: llama-tiny, 1 x 9 tokens, float32 (held to double backward, float64)" in text
    assert main(["bench", "hvp", *TINY, "--no-peers", "--compare", str(out), "--out", str(again)]) == 0
    text = capsys.readouterr().out
    assert "it has none of these cases" in text  # with and without peers are different cases
    assert main(["bench", "op", *TINY, "--compare", str(out)]) == 0
    assert f"  linear: {OURS}: " in capsys.readouterr().out


def test_a_wrong_result_gets_no_time():
    exact = torch.ones(3, dtype=torch.float64)
    found = compare([Way(OURS, lambda: torch.ones(3)), Way("off", lambda: 1.1 * torch.ones(3)),
                     Way("broken", lambda: torch.full((3,), torch.nan)),
                     Way("raises", lambda: 1 / 0, ours=False)], exact, 1e-3, OURS, rounds=1)  # fmt: skip
    assert "seconds" in found[OURS] and not any("seconds" in found[name] for name in ("off", "broken", "raises"))
    assert found["broken"]["error"] is None and "ZeroDivision" in found["raises"]["reason"]
    about = {"name": "n", "model": None, "shape": "s", "kind": "op", "batch": 1, "tokens": 2, "dtype": "float32"}
    case = {"case": {**about, "truth": "t"}, "results": found, "limit_seconds": 1e-9}
    text = suite.table({"gemm_peak_gflop_per_s": 1.0, "copy_gb_per_s": 1.0}, [case])
    assert "rejected: error 1.0e-01" in text and "failed: ZeroDivision" in text and "not finite" in text
    assert "off" not in suite.chart([case])


def test_a_model_folder_of_ones_own(tmp_path, tiny_llama, capsys):
    from fastunlearn.data.tokenizer import train_tokenizer
    from fastunlearn.storage import save_model

    save_model(tiny_llama(torch.float32), train_tokenizer(["some words of text"]), tmp_path / "model")
    out = tmp_path / "own.json"
    arguments = ["bench", "hvp", "--model", str(tmp_path / "model"), *TINY[2:], "--no-peers", "--out", str(out)]
    assert main(arguments) == 0
    assert str(tmp_path / "model") not in out.read_text() and "a model of the user's" in out.read_text()
    save_model(tiny_llama(torch.float32, layers=1), train_tokenizer(["some words of text"]), tmp_path / "other")
    arguments = ["bench", "hvp", "--model", str(tmp_path / "other"), *TINY[2:], "--no-peers", "--compare", str(out)]
    assert main(arguments) == 0
    assert "it has none of these cases" in capsys.readouterr().out  # another model is another case


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system tells no peak")
def test_memory_that_the_c_library_has_kept_is_counted_too():
    def run() -> torch.Tensor:
        return [torch.ones(2**14) for _ in range(800)][0]  # noqa: RUF015  50 MiB in pieces that it keeps for reuse

    kept = run()
    assert peak_here(run, "cpu") > 40 * 2**20 and len(kept) == 2**14


@pytest.mark.slow
def test_the_memory_of_a_way_is_measured(capsys):
    assert main(["bench", "lowrank", *TINY, "--no-peers", "--memory"]) == 0
    assert " GB" in capsys.readouterr().out


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_can_be_built(shape):
    model = empty_model(shape)
    assert sum(p.numel() for p in model.parameters()) > 0 and configuration(shape).vocab_size > 90


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["fft"], "no benchmark"), (["--shape", "huge"], "shape"), (["--tokens", "1"], "tokens"),
     (["--tokens", "20000"], "context"), (["--dtype", "int8"], "dtype"),
     (["--compare", "no-such.json"], "no record"), (["--out", "table.txt"], ".json"), (["--threads", "0"], "threads")],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, words, capsys):
    assert main(["bench", *arguments, "--quiet"]) == 2
    assert words in capsys.readouterr().err


def test_a_record_that_cannot_be_written_is_told_before_anything_is_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suite, "run", lambda *_args: pytest.fail("it ran"))
    (tmp_path / "file").write_text("x")
    assert main(["bench", *TINY, "--out", str(tmp_path / "file" / "record.json")]) == 2
    assert "file is a file" in capsys.readouterr().err


def test_an_unknown_request_is_refused():
    with pytest.raises(InvalidInputError, match="rounds"):
        suite.Request(rounds=0)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"cases": {}, "machine": {}}', '{"cases": [], "machine": []}', '{"cases": [3], "machine": {}}',
     '{"cases": [{"case": {}}], "machine": {}}'],
)  # fmt: skip
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(InvalidInputError, match=r"old\.json is no record of fastunlearn bench"):
        suite.read_record(tmp_path / "old.json")


def test_comparison_with_another_machine_says_so(monkeypatch):
    monkeypatch.setattr(suite, "machine", lambda device: {"cpu": "this one"})
    about = {"name": "linear", "kind": "op"}
    old = {"machine": {"cpu": "that one"}, "cases": [{"case": about, "results": {OURS: {"seconds": 2.0}}}]}
    new = [{"case": {**about, "truth": "t"}, "results": {OURS: {"seconds": 0.05}, "failed": {"gate": "failed"}}}]
    text = suite.comparison(old, new)
    assert "another machine, or other threads: times do not compare" in text
    assert f"linear: {OURS}: 2 s -> 50 ms (0.03 x)" in text and "failed" not in text


def test_no_chart_of_nothing():
    case = {"case": {"name": "linear"}, "results": {OURS: {"gate": "rejected", "error": 1.0}}}
    with pytest.raises(InvalidInputError, match="nothing to draw"):
        suite.chart([case])
