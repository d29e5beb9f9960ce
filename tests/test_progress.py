"""Progress: silent by default, one line per task off a terminal, a bar on one."""

from __future__ import annotations

import io

import pytest

from fastunlearn.progress import NO_PROGRESS, Progress, TerminalProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_default_is_silent(capsys):
    with NO_PROGRESS.task("work", 3) as task:
        task.advance()
        task.note("loss 1.0")
    assert capsys.readouterr() == ("", "")
    assert isinstance(NO_PROGRESS, Progress)


def test_one_line_per_task_off_a_terminal():
    stream = io.StringIO()
    with TerminalProgress(stream).task("reading", 3) as task:
        task.advance()
        assert stream.getvalue() == ""
        task.advance(2)
        task.note("loss 0.5")
    assert stream.getvalue().startswith("reading: 3 of 3 samples in ")
    assert stream.getvalue().endswith(" s (loss 0.5)\n")
    assert stream.getvalue().count("\n") == 1


def test_line_of_a_task_that_fails_says_so_and_passes_the_error_on():
    stream = io.StringIO()
    with pytest.raises(KeyError), TerminalProgress(stream).task("reading", 1, unit="step"):
        raise KeyError("x")
    assert stream.getvalue().startswith("reading: stopped at 0 of 1 step in ")


def test_bar_on_a_terminal_shows_description_count_and_note():
    stream = Terminal()
    with TerminalProgress(stream).task("training", 2, unit="step") as task:
        task.note("loss 0.5")
        task.advance(2)
    text = stream.getvalue()
    assert "training" in text and "2/2" in text and "loss 0.5" in text and "step" in text


def test_off_a_terminal_a_task_within_a_task_has_no_line_and_a_group_hides_nothing():
    stream = io.StringIO()
    shown = TerminalProgress(stream)
    with shown.group("all", 2) as everything:
        for name in ("first", "second"):
            with shown.task(name, 1), shown.task("inner", 1), shown.task("innermost", 1):
                pass
            everything.advance()
    assert [line.partition(":")[0] for line in stream.getvalue().splitlines()] == ["first", "second", "all"]


def test_a_sign_has_no_plural():
    stream = io.StringIO()
    with TerminalProgress(stream).group("all", 100, unit="%") as task:
        task.advance(100)
    assert stream.getvalue().startswith("all: 100 of 100 % in ")


def test_a_failed_inner_task_leaves_the_next_one_visible():
    stream = io.StringIO()
    shown = TerminalProgress(stream)
    with pytest.raises(KeyError), shown.task("outer", 1), shown.task("inner", 1):
        raise KeyError("x")
    with shown.task("next", 1):
        pass
    assert [line.partition(":")[0] for line in stream.getvalue().splitlines()] == ["outer", "next"]


def test_on_a_terminal_an_inner_bar_goes_away_and_an_outer_one_stays():
    stream = Terminal()
    shown = TerminalProgress(stream)
    with shown.task("outer", 1) as outer:
        with shown.task("inner", 1) as inner:
            inner.advance()
        outer.advance()
    last = stream.getvalue().rstrip().rpartition("\r")[2]
    assert "outer" in last and "1/1" in last and "inner" in stream.getvalue()


def test_stream_is_looked_up_late(capsys):
    with TerminalProgress().task("late", 1) as task:
        task.advance()
    assert capsys.readouterr().err.startswith("late: 1 of 1 sample ")
