"""One safetensors file: exact, whole or not at all."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fastunlearn.errors import OutputError
from fastunlearn.storage import files


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_round_trip_with_metadata(tmp_path):
    tensors = {"a": torch.randn(3, 5, dtype=torch.float64), "b": torch.arange(4)}
    files.write_tensors(tmp_path / "x.safetensors", tensors, {"kind": "test"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"kind": "test"}
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_existing_file_is_refused_unless_overwrite(tmp_path, snapshot):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, {"a": torch.zeros(2)}, {})
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="already"):
        files.write_tensors(path, {"a": torch.ones(2)}, {})
    assert snapshot(tmp_path) == before
    files.write_tensors(path, {"a": torch.ones(2)}, {}, overwrite=True)
    assert torch.equal(load_file(path)["a"], torch.ones(2))


@pytest.mark.parametrize("place", ["fsync", "replace", "chmod"])
def test_full_disk_leaves_the_file_before(tmp_path, snapshot, monkeypatch, place):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, {"a": torch.zeros(2)}, {})
    before = snapshot(tmp_path)
    monkeypatch.setattr(files.os, place, no_space)
    with pytest.raises(OutputError, match="space"):
        files.write_tensors(path, {"a": torch.ones(2)}, {}, overwrite=True)
    assert snapshot(tmp_path) == before
