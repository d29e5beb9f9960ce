"""Files and folders appear whole or not at all, and a failure leaves everything as it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.storage import files as module
from fastunlearn.storage import refuse_existing, staged_folder, write_json, write_text
from fastunlearn.storage.files import remove_leftovers


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["fsync", "replace", "chmod", "write", "disk_usage"])
def full_disk(request, monkeypatch):
    """The disk is full at each of the places where that can come up."""
    if request.param == "disk_usage":
        usage = shutil.disk_usage(os.curdir)._replace(free=10)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage)
    elif request.param == "write":
        write = Path.write_bytes

        def half(path, data):
            write(path, data[: len(data) // 2])
            no_space()

        monkeypatch.setattr(module.Path, "write_bytes", half)
    else:
        monkeypatch.setattr(module.os, request.param, no_space)
        if request.param == "replace":
            monkeypatch.setattr(module.os, "rename", no_space)


def test_text_is_written_as_it_is_and_parents_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "grüß\r\nGott\n")
    assert path.read_bytes() == "grüß\r\nGott\n".encode()
    assert os.listdir(path.parent) == ["text.txt"]


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, True], "ß": "ü"}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_json_refuses_what_strict_readers_refuse(tmp_path, value):
    with pytest.raises(InvalidInputError, match=r"x\.json"):
        write_json(tmp_path / "x.json", {"value": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="permission bits are those of POSIX")
def test_permissions_are_those_of_the_umask_or_of_the_file_before(tmp_path):
    path = tmp_path / "x.txt"
    old = os.umask(0o027)
    try:
        write_text(path, "new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_text(path, "again")
        with staged_folder(tmp_path / "out") as stage:
            (stage / "x").write_text("x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


def test_link_is_followed_not_replaced(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"


def test_full_disk_leaves_file_and_neighbours(tmp_path, snapshot, full_disk):
    (tmp_path / "x.txt").write_text("old")
    (tmp_path / "y.txt").write_text("other")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError):
        write_text(tmp_path / "x.txt", "new")
    with pytest.raises(OutputError):
        write_text(tmp_path / "deep" / "er" / "x.txt", "new")
    assert snapshot(tmp_path) == before


def test_write_over_a_folder_or_below_a_file_is_refused(tmp_path, snapshot):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="folder"):
        write_text(tmp_path / "folder", "x")
    with pytest.raises(OutputError):
        write_text(tmp_path / "file" / "x", "x")
    assert snapshot(tmp_path) == before


def test_staged_folder_appears_at_the_end_only(tmp_path):
    out = tmp_path / "new" / "out"
    with staged_folder(out) as stage:
        (stage / "sub").mkdir()
        (stage / "sub" / "x").write_text("x")
        assert not out.exists() and stage.parent == out.parent
    assert (out / "sub" / "x").read_text() == "x"
    assert os.listdir(tmp_path / "new") == ["out"]


@pytest.mark.parametrize("failure", [KeyError, KeyboardInterrupt])
def test_staged_folder_is_gone_after_a_failure(tmp_path, failure):
    with pytest.raises(failure), staged_folder(tmp_path / "new" / "out") as stage:
        (stage / "x").write_text("x")
        raise failure
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["fsync", "rename", "chmod"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_leaves_folder_and_neighbours(tmp_path, snapshot, monkeypatch, place, overwrite):
    out = tmp_path / "out"
    if overwrite:
        out.mkdir()
        (out / "config.json").write_text("{}")
    (tmp_path / "neighbour").write_text("x")
    before = snapshot(tmp_path)
    monkeypatch.setattr(module.os, place, no_space)
    with pytest.raises(OutputError, match="space"), staged_folder(out, overwrite=overwrite) as stage:
        (stage / "x").write_text("x")
    assert snapshot(tmp_path) == before


def test_second_rename_failing_puts_the_old_folder_back(tmp_path, snapshot, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    before = snapshot(tmp_path)
    rename = os.rename

    def fails_for_the_new(source, target):
        if str(source).endswith(".tmp"):
            no_space()
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", fails_for_the_new)
    with pytest.raises(OutputError, match="space"), staged_folder(out, overwrite=True) as stage:
        (stage / "x").write_text("x")
    assert snapshot(tmp_path) == before


def test_overwrite_replaces_and_leaves_nothing_beside(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    with staged_folder(out, overwrite=True) as stage:
        (stage / "config.json").write_text("new")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == ["config.json"]
    assert (out / "config.json").read_text() == "new"


def test_folder_that_appears_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="meantime"), staged_folder(out) as stage:
        (stage / "x").write_text("x")
        out.mkdir()
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == []


def test_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"), staged_folder(tmp_path / "file", overwrite=True):
        pass
    assert (tmp_path / "file").read_text() == "x"


def test_refuse_existing(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("x")
    assert refuse_existing(tmp_path / "new" / "er") == tmp_path.resolve() / "new" / "er"
    for name in ("file", "photos"):
        with pytest.raises(OutputError, match="already"):
            refuse_existing(tmp_path / name)
    with pytest.raises(OutputError, match=r"config\.json"):
        refuse_existing(tmp_path / "photos", overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        refuse_existing(tmp_path / "file" / "below")


def test_leftovers_of_another_name_that_begins_alike_stay(tmp_path):
    """A run with model.out = "after" must not take away what one with "after.v2" is writing."""
    with staged_folder(tmp_path / "after.v2") as other:
        (other / "x").write_text("x")
        for name in (".after.abcd_123.tmp", ".after.tmp", ".after.v2.old", ".before.abcd.tmp"):
            (tmp_path / name).mkdir()
        remove_leftovers(tmp_path / "after")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [".after.tmp", ".after.v2.old", ".before.abcd.tmp", other.name]
        )
        (tmp_path / ".after.v2.abcd.tmp").write_text("y")
    remove_leftovers(tmp_path / "after.v2")
    assert (tmp_path / "after.v2" / "x").is_file() and not (tmp_path / ".after.v2.abcd.tmp").exists()
