"""Every Python block of every page runs, in the page's order and one namespace, and so do its ``fastunlearn`` commands.

A page finds what its reader has: the files of examples/data and a model folder, ``my-model``. Pages whose examples need
more say here what, and have a test of their own. A block that cannot run here (a GPU, a download) is marked ``text``.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from fastunlearn.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(python|sh)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
#: Names that a page's examples take as given, made by ``prepare``; see there.
GIVEN = {"docs/metrics.md", "docs/attacks.md"}
#: Pages whose examples other tests run.
ELSEWHERE = {
    "docs/operators.md": "tests/docs/test_docs.py",
    "docs/evidence.md": "tests/evidence",
}


def blocks(path: Path) -> list[tuple[str, str]]:
    return FENCE.findall(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


RUN = [path for path in PAGES if blocks(path) and name_of(path) not in ELSEWHERE]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A small model that has read the example's training file."""
    folder = tmp_path_factory.mktemp("reader") / "my-model"
    data = ROOT / "examples" / "data" / "training.jsonl"
    line = f"train --data {data} --out {folder} --steps 60 --hidden-size 16 --heads 2 --quiet"
    assert main(shlex.split(line)) == 0
    return folder


@pytest.fixture
def own_methods():
    """The table of methods is put back: a page shows how to add to it."""
    from fastunlearn.unlearn import METHODS

    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)


@pytest.fixture
def reader(tmp_path, monkeypatch, model_folder) -> Path:
    """A folder with the example's data and that model, as the current one."""
    shutil.copytree(ROOT / "examples" / "data", tmp_path, dirs_exist_ok=True)
    shutil.copytree(model_folder, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(page: str) -> dict:
    """The names that a page takes as given."""
    if page not in GIVEN:
        return {}
    from fastunlearn.data import encode, load_records
    from fastunlearn.storage import load_model

    (model, tokenizer), (retrained, _) = load_model("my-model"), load_model("my-model")
    files = {"forget": "forget.jsonl", "retain": "retain.csv", "held_out": "held_out.txt"}
    sets = {name: encode(load_records(file), tokenizer, max_length=64, name=name) for name, file in files.items()}
    return {"model": model, "tokenizer": tokenizer, "retrained": retrained, "sets": sets}


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_the_page_runs(path, reader, own_methods, capsys):
    names = {"__name__": "page", **prepare(name_of(path))}
    for kind, text in blocks(path):
        if kind == "python":
            exec(compile(text, name_of(path), "exec", dont_inherit=True), names)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "fastunlearn":
                assert main([*words[1:], "--quiet"]) == 0, f"{line}: {capsys.readouterr().err}"


def test_pages_are_seen():
    assert {"docs/quickstart.md", "docs/extend/op.md", "docs/analysis.md"} <= {name_of(path) for path in RUN}
    assert all((ROOT / where).exists() for where in ELSEWHERE.values())


def test_a_broken_block_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nassert 1 == 2\n```\n")
    ((kind, text),) = blocks(page)
    assert kind == "python"
    with pytest.raises(AssertionError):
        exec(text, {})


def test_the_optimizers_page_is_about_what_is_public():
    import fastunlearn.optim

    text = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    assert all(hasattr(fastunlearn.optim, name) for name in re.findall(r"`([a-z]+_update)`", text))
    assert torch.optim.Optimizer in fastunlearn.optim.Sophia.__mro__
