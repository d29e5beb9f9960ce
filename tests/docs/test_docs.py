"""What the documents tell a newcomer to type works, and what they point to is there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from fastunlearn.cli.main import main
from fastunlearn.data import load_records

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "csrc" / "README.md",
             *(ROOT / "fastunlearn").rglob("*.md")]  # fmt: skip


def fenced(kind: str, document: str = "README.md") -> list[str]:
    """The fenced blocks of that kind in a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The lines of a block that a test can run: ``fastunlearn ...`` and ``cd FOLDER``, as words."""
    lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and line[0] in ("fastunlearn", "cd")]


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """An empty folder with the example's data in it, as the current one."""
    shutil.copytree(ROOT / "examples" / "data", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} points to {target}"


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_files_named_in_the_text_are_there(path):
    """Such as `unlearn/registry.py` or `bench/results`: from the root, the package, csrc or the document's folder."""
    folders = (ROOT, ROOT / "fastunlearn", ROOT / "csrc", path.parent)
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|cpp|cu|md|h|json))`", path.read_text(encoding="utf-8")):
        assert any((folder / name).exists() for folder in folders), f"{path.name} names {name}"


def test_the_auditors_steps_begin_their_lines():
    """A step that a reflowed paragraph has swallowed is no step any more."""
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8").split("## For auditors")[1]
    assert re.findall(r"^(\d)\. ", text, flags=re.MULTILINE) == ["1", "2", "3", "4", "5"]


def test_nobody_is_told_to_install_what_is_not_released():
    """``pip install 'fastunlearn[...]'`` would look for the name on PyPI, where it is not this project's."""
    sources = [path for folder in ("fastunlearn", "examples") for path in (ROOT / folder).rglob("*.py")]
    for path in [*DOCUMENTS, *sources]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"fastunlearn\[|pip install '?fastunlearn", text), path


@pytest.mark.slow
def test_every_command_of_the_readme_runs(files, capsys):
    found = [line[1:] for block in fenced("sh") if "fastunlearn new" not in block for line in commands(block)]
    assert {line[0] for line in found} >= {"train", "unlearn", "evaluate", "keep-fisher", "report", "methods", "info"}
    found.sort(key=lambda line: line[0] == "info")  # the install section names it first; the order of the rest stays
    for line in found:
        assert main(line) == 0, f"fastunlearn {shlex.join(line)}: {capsys.readouterr().err}"
    assert (files / "page" / "report.html").is_file() and (files / "after-2" / "unlearning.json").is_file()


def test_the_training_file_holds_what_is_forgotten_and_what_stays(files):
    names = {record.digest() for name in ("forget.jsonl", "retain.csv") for record in load_records(name)}
    assert names == {record.digest() for record in load_records("training.jsonl")}


@pytest.mark.slow
def test_the_readmes_python_runs(files, capsys):
    line = "train --data training.jsonl --out my-model --steps 60 --hidden-size 16 --heads 2 --quiet"
    assert main(shlex.split(line)) == 0
    block = next(block for block in fenced("python") if "fu.unlearn" in block)
    exec(compile(block, "README.md", "exec"), {})
    assert (files / "my-model-after" / "model.safetensors").is_file()


@pytest.mark.parametrize("document", ["README.md", "docs/operators.md"])
def test_the_python_about_operators_runs(document, files, tiny_llama):
    tiny_llama(torch.float32).save_pretrained("my-model")
    found, names = [block for block in fenced("python", document) if "fu.unlearn(" not in block], {}
    assert (
        "fu.Hessian" in found[0] and len(found[0].splitlines()) <= 5
    )  # with pip install: six lines to a first product
    for block in found:
        exec(compile(block, document, "exec"), names)
    assert names["product"].isfinite().all() and names["product"].abs().max() > 0
