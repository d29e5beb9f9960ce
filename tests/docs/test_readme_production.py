"""The README's way from pilot to production, as it stands there. In a file of its own: it takes a minute, and files of
tests are spread over workers."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from fastunlearn.cli.main import main
from tests.docs.test_docs import commands, fenced


@pytest.mark.slow
def test_the_readme_goes_from_pilot_to_production(tmp_path, monkeypatch, capsys):
    """The block about it, line by line, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in fenced("sh") if "fastunlearn new" in block]
    for program, *words in commands(block):
        if program == "cd":
            monkeypatch.chdir(words[0])
        else:
            assert main([*words, "--quiet"]) == 0, f"fastunlearn {shlex.join(words)}: {capsys.readouterr().err}"
    assert {"after", "evidence", "after-0001", "evidence-0001"} <= {path.name for path in Path.cwd().iterdir()}
