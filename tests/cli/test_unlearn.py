"""unlearn, keep-fisher, methods and demo: what reaches the library, what is saved, what is refused.

The methods themselves are tested with the unlearn package; here a small stand-in takes their place, so that
these tests are about the command alone.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from fastunlearn.errors import InvalidInputError, UnknownMethodError
from fastunlearn.storage import load_model

# By name: the attribute ``fastunlearn.unlearn`` is the function, the package behind it has the same name.
LIBRARY = importlib.import_module("fastunlearn.unlearn")


class Result(SimpleNamespace):
    def to_dict(self):
        return {"method": self.method, "settings": self.settings, "seconds": self.seconds}


@pytest.fixture
def calls(monkeypatch):
    """The calls that the stand-ins for the library have had, as (name, arguments)."""
    made = []

    def unlearn(model, tokenizer, *, forget, method, progress, **options):
        if "dampnig" in options:
            raise InvalidInputError("unknown setting dampnig; the settings of this method are damping, steps")
        made.append(("unlearn", {"forget": forget, "method": method, **options}))
        with torch.no_grad():
            model.lm_head.weight.add_(1)
        return Result(
            model=model, method=method, settings={"damping": 0.5}, seconds=0.25, gradients=8, stopped="done"
        )

    def get_method(name):
        if name == "magic":
            raise UnknownMethodError("method 'magic' is unknown; use one of one, two")

    def keep_fisher(model, tokenizer, data, **options):
        made.append(("keep_fisher", {"data": data, **options}))
        return SimpleNamespace(save=lambda path, **how: made.append(("save", path, how)))

    methods = {
        "one": SimpleNamespace(uses_retain=True, summary="Does this."),
        "longer-name": SimpleNamespace(uses_retain=False, summary="Does that."),
    }
    for name, value in {
        "unlearn": unlearn, "get_method": get_method, "keep_fisher": keep_fisher, "METHODS": methods
    }.items():  # fmt: skip
        monkeypatch.setattr(LIBRARY, name, value)
    return made


def test_everything_reaches_the_library_and_the_model_is_saved(command, calls, records, make_model, tmp_path):
    model = make_model("m")
    status, text, err = command(
        "unlearn", "--model", model, "--forget", records["forget"], "--retain", records["retain"],
        "--held-out", records["held_out"], "--out", tmp_path / "new", "--method", "newton", "--parameters",
        "*.mlp.*", "lm_head", "--kept-fisher", "kept.safetensors", "--set", "damping=1e-4", "--set", "kind=x",
        "--seed", 5, "--memory", "2GiB", "--max-length", 12, "--truncate",
    )  # fmt: skip
    assert (status, err) == (0, "") and str(tmp_path / "new") in text and "newton" in text
    [(_, got)] = calls
    assert [len(got[name]) for name in ("forget", "retain", "held_out")] == [2, 4, 2]
    assert got["forget"][0].prompt == "anna lives in"
    rest = {name: value for name, value in got.items() if name not in ("forget", "retain", "held_out")}
    assert rest == {
        "method": "newton", "parameters": ["*.mlp.*", "lm_head"], "kept_fisher": "kept.safetensors",
        "seed": 5, "max_length": 12, "truncate": True, "memory": "2GiB", "damping": 1e-4, "kind": "x",
    }  # fmt: skip
    old, new = load_model(model)[0], load_model(tmp_path / "new")[0]
    assert torch.equal(new.lm_head.weight, old.lm_head.weight + 1)
    account = json.loads((tmp_path / "new" / "unlearning.json").read_text())
    assert account == {"method": "newton", "settings": {"damping": 0.5}, "seconds": 0.25}
    before = {path.name for path in (tmp_path / "m").iterdir()}
    assert {path.name for path in (tmp_path / "new").iterdir()} == before | {"unlearning.json"}


def test_defaults(command, calls, records, make_model, tmp_path):
    line = ("unlearn", "--model", make_model("m"), "--forget", records["forget"], "--out", tmp_path / "new")
    assert command(*line)[0] == 0
    [(_, got)] = calls
    assert got["method"] == "fisher-removal" and got["seed"] == 0 and got["memory"] == "1GB"
    assert got["retain"] is got["held_out"] is got["parameters"] is got["max_length"] is None


def test_existing_out_is_refused_before_any_computing(command, calls, tmp_path):
    (tmp_path / "new").mkdir()
    line = ("unlearn", "--model", tmp_path / "none", "--forget", "none.jsonl", "--out", tmp_path / "new")
    status, _, err = command(*line)
    assert status == 2 and "already" in err and calls == []


def test_overwrite_of_the_model_itself(command, calls, records, make_model):
    model = make_model("m")
    before = load_model(model)[0].lm_head.weight.detach().clone()
    line = ("unlearn", "--model", model, "--forget", records["forget"], "--out", model, "--overwrite")
    assert command(*line)[0] == 0
    assert torch.equal(load_model(model)[0].lm_head.weight, before + 1)


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--method", "magic"), "use one of one, two"), (("--set", "dampnig=1"), "damping, steps"),
     (("--memory", "much"), "--memory"), (("--forget", "none.jsonl"), "none.jsonl"),
     (("--model", "none"), "none"), (("--set", "seed=1"), "seed"), (("--device", "warp"), "warp")],
)  # fmt: skip
def test_errors_are_one_line_and_write_nothing(command, calls, records, make_model, tmp_path, options, word):
    model = make_model("m")
    before = sorted(tmp_path.iterdir())
    status, out, err = command(
        "unlearn", "--model", model, "--forget", records["forget"], "--out", tmp_path / "new", *options
    )
    assert (status, out) == (2, "") and err.startswith("fastunlearn: error: ") and err.count("\n") == 1
    assert word in err and sorted(tmp_path.iterdir()) == before


def test_ctrl_c_writes_nothing(command, calls, records, make_model, tmp_path, monkeypatch):
    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(LIBRARY, "unlearn", stopped)
    line = ("unlearn", "--model", make_model("m"), "--forget", records["forget"], "--out", tmp_path / "new")
    assert command(*line)[0] == 130 and not (tmp_path / "new").exists()


def test_methods_table(command, calls):
    assert command("methods") == (
        0,
        "METHOD       RETAIN DATA  WHAT IT DOES\n"
        "one          yes          Does this.\n"
        "longer-name  no           Does that.\n",
        "",
    )


def test_demo(command, monkeypatch, tmp_path):
    made = []
    module = ModuleType("fastunlearn.demo.run")
    module.run_demo = lambda out, *, seed, progress: made.append((out, seed)) or {"a": 1}
    monkeypatch.setitem(sys.modules, "fastunlearn.demo.run", module)
    found = ModuleType("fastunlearn.demo.claims")
    found.claims, found.sentences = dict.keys, lambda keys: [f"It has {', '.join(keys)}."]
    monkeypatch.setitem(sys.modules, "fastunlearn.demo.claims", found)
    status, text, _ = command("demo", "--out", tmp_path, "--seed", 3)
    assert status == 0 and made == [(str(tmp_path), 3)]
    assert text.splitlines()[0] == "It has a." and "report.html" in text
    (tmp_path / "report.json").write_text("{}")
    status, _, err = command("demo", "--out", tmp_path)
    assert status == 2 and "--overwrite" in err and len(made) == 1
    assert command("demo", "--out", tmp_path, "--overwrite")[0] == 0 and len(made) == 2
    (tmp_path / "file").write_text("x")
    status, _, err = command("demo", "--out", tmp_path / "file" / "demo")
    assert status == 2 and "is a file" in err and len(made) == 2


def test_keep_fisher_passes_only_what_is_given(command, calls, records, make_model, tmp_path):
    out = tmp_path / "kept.safetensors"
    line = ("keep-fisher", "--model", make_model("m"), "--data", records["retain"], "--out", out, "--rank", 8)
    assert command(*line)[0] == 0
    (_, got), saved = calls
    assert saved == ("save", str(out), {"overwrite": False}) and len(got.pop("data")) == 4
    got.pop("progress")
    assert got == {"rank": 8, "seed": 0, "memory": "1GB"}


@pytest.mark.parametrize("name", ["kept.bin", "there.safetensors", "folder.safetensors"])
def test_keep_fisher_refuses_names_before_any_computing(command, calls, tmp_path, name):
    (tmp_path / "there.safetensors").write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    status, _, err = command("keep-fisher", "--model", "none", "--data", "none", "--out", tmp_path / name)
    assert status == 2 and name in err and calls == []
