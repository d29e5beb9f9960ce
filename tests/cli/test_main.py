"""Exit statuses and messages; and that help does not wait for PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest

import fastunlearn
from fastunlearn.cli import info as info_command
from fastunlearn.cli import main as main_module
from fastunlearn.errors import InvalidInputError, OutputError

COMMANDS = [
    "info", "methods", "train", "unlearn", "evaluate", "keep-fisher", "report", "sweep", "demo", "new", "plan",
    "pilot", "requests", "keygen", "verify", "bench",
]  # fmt: skip


def failing(error):
    def run(_args):
        raise error

    return run


def test_help_names_every_command_and_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from fastunlearn.cli.main import build_parser\n"
        "print(build_parser().format_help())\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'numpy', 'tqdm'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert all(f"    {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(command, name):
    status, out, _ = command(name, "--help")
    assert status == 0 and out.startswith(f"usage: fastunlearn {name}") and "%" not in out


def test_no_command_is_an_error(command):
    status, _, err = command()
    assert status == 2 and "COMMAND" in err


def test_info(command):
    status, out, _ = command("info")
    assert status == 0 and out.startswith("Backends")
    status, out, _ = command("info", "--json")
    assert status == 0 and json.loads(out)["backends"]["reference"]["live"] is True


def test_named_error_is_one_line_on_stderr_and_status_2(command, monkeypatch):
    monkeypatch.setattr(info_command, "run", failing(OutputError("no space\nleft here")))
    assert command("info") == (2, "", "fastunlearn: error: no space left here\n")


def test_version(command):
    assert command("--version") == (0, f"fastunlearn {fastunlearn.__version__}\n", "")


def test_debug_goes_with_the_actions_of_requests(command, tmp_path):
    with pytest.raises(InvalidInputError, match="there is no file"):
        command("requests", "list", "--debug", "--config", tmp_path)


@pytest.mark.parametrize("arguments", [("--debug", "info"), ("info", "--debug")])
def test_debug_shows_where_the_error_came_from(command, monkeypatch, arguments):
    monkeypatch.setattr(info_command, "run", failing(OutputError("no space")))
    with pytest.raises(OutputError):
        command(*arguments)


def test_other_exceptions_keep_their_traceback(command, monkeypatch):
    monkeypatch.setattr(info_command, "run", failing(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        command("info")


def test_ctrl_c_is_status_130_and_one_line(command, monkeypatch):
    monkeypatch.setattr(info_command, "run", failing(KeyboardInterrupt()))
    status, out, err = command("info")
    assert (status, out, err) == (130, "", "fastunlearn: stopped by Ctrl-C\n")


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (("train", "--data", "x.jsonl", "--out"), "add --overwrite"),
        (("unlearn", "--model", "m", "--forget", "x.jsonl", "--out"), "add --overwrite"),
        (("new",), "choose another name"),
    ],
)
def test_what_is_in_the_way_is_named_with_a_way_out(command, tmp_path, line, advice):
    (tmp_path / "there").mkdir()
    status, _, err = command(*line, tmp_path / "there")
    assert status == 2 and "is there already" in err and err.endswith(f"{advice}\n") and "allow overwriting" not in err


def test_warnings_are_one_plain_line(command, monkeypatch):
    monkeypatch.setattr(info_command, "run", lambda _args: warnings.warn("look\nout", stacklevel=1))
    before = warnings.showwarning
    assert command("info") == (0, "", "fastunlearn: warning: look out\n")
    assert warnings.showwarning is before


def test_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastunlearn.cli.main", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 0 and err == b""


@pytest.mark.parametrize(("encoding", "folder"), [("utf-8", b"n\xff"), ("cp1252", "日本".encode())])
def test_a_name_that_cannot_be_shown_is_no_error(tmp_path, encoding, folder):
    """Python's own output would end there with a traceback, when all the work is done."""
    line = [sys.executable, "-m", "fastunlearn.cli.main", "new", folder]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith(b"New folder: ") and done.stderr == b""


def test_commands_are_the_documented_ones():
    assert [module.NAME for module in main_module.COMMANDS] == COMMANDS
