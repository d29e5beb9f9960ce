"""A tokenizer of the size of the tiny models, and a saved model folder to damage."""

from __future__ import annotations

import pytest

from fastunlearn.data import train_tokenizer


@pytest.fixture
def tokenizer():
    return train_tokenizer(["the cat sat on a mat", "the dog sat too"], vocab_size=37)


@pytest.fixture
def folder(tmp_path, tiny_llama, tokenizer):
    """A model folder as ``save_pretrained`` writes it, without fastunlearn."""
    path = tmp_path / "model"
    tiny_llama().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def snapshot(folder) -> dict:
    """Every path below ``folder`` with its bytes (None for a folder) and permission bits."""
    return {
        str(path.relative_to(folder)): (None if path.is_dir() else path.read_bytes(), path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(name="snapshot")
def _snapshot():
    return snapshot
