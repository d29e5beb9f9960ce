"""Wall time and peak memory of a block, also nested, and sizes of memory as text."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastunlearn import resources
from fastunlearn.errors import InvalidInputError
from fastunlearn.resources import measured, parse_memory

MB = 10**6
#: What the kernel's batched counters and the interpreter's own objects may add or hide.
SLACK = 4 * MB


def _touch(size: int) -> None:
    """Takes ``size`` bytes, writes to all of them and gives them back."""
    torch.ones(size, dtype=torch.uint8)


def _can_measure() -> bool:
    with measured() as usage:
        pass
    return usage.peak_bytes is not None


on_linux = pytest.mark.skipif(not _can_measure(), reason="this system has no peak memory counter to reset")


def test_seconds_are_wall_time():
    with measured() as usage:
        time.sleep(0.05)
    assert 0.05 <= usage.seconds < 5


@on_linux
def test_peak_of_memory_given_back_before_the_end():
    with measured() as usage:
        _touch(64 * MB)
    assert 64 * MB - SLACK <= usage.peak_bytes <= 64 * MB + 4 * SLACK


@on_linux
def test_earlier_peak_does_not_count():
    _touch(96 * MB)
    with measured() as usage:
        _touch(8 * MB)
    assert usage.peak_bytes <= 8 * MB + 4 * SLACK


@on_linux
def test_nested_blocks_each_see_their_own_peak():
    with measured() as outer:
        _touch(96 * MB)  # before the inner block, whose start resets the counter
        with measured() as inner:
            _touch(32 * MB)
        with measured() as second:
            pass
    assert outer.peak_bytes >= 96 * MB - SLACK
    assert 32 * MB - SLACK <= inner.peak_bytes <= 32 * MB + 4 * SLACK
    assert second.peak_bytes <= 2 * SLACK


@on_linux
def test_outer_block_sees_the_peak_of_the_inner_one():
    with measured() as outer, measured() as inner:
        _touch(48 * MB)
    assert inner.peak_bytes >= 48 * MB - SLACK
    assert outer.peak_bytes >= inner.peak_bytes - SLACK


@on_linux
def test_block_that_fails_is_measured_and_closed():
    with pytest.raises(KeyError), measured() as usage:
        _touch(32 * MB)
        raise KeyError
    assert usage.seconds > 0 and usage.peak_bytes >= 32 * MB - SLACK
    assert resources._open == []


@pytest.mark.parametrize("missing", ["_STATUS", "_CLEAR_REFS"])
def test_none_where_the_system_cannot_tell(monkeypatch, tmp_path, missing):
    monkeypatch.setattr(resources, missing, tmp_path / "no" / "such")
    with measured() as usage:
        pass
    assert usage.peak_bytes is None and usage.seconds > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_peak_is_the_allocators():
    held = torch.ones(16 << 20, dtype=torch.uint8, device="cuda")
    with measured("cuda") as outer:
        torch.ones(64 << 20, dtype=torch.uint8, device="cuda")
        with measured("cuda") as inner:
            torch.ones(8 << 20, dtype=torch.uint8, device="cuda")
    assert held.numel() == 16 << 20
    assert (outer.peak_bytes, inner.peak_bytes) == (64 << 20, 8 << 20)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("8 gb", 8 * 10**9), ("8g", 8 * 10**9), ("1.5KiB", 1536), ("64MiB", 64 << 20),
     ("2TB", 2 * 10**12), (" 100 B ", 100), (" 1000000 ", 10**6), ("12B", 12), (7, 7), (".5k", 500)],
)  # fmt: skip
def test_parse_memory(text, size):
    assert parse_memory(text) == size


@given(st.integers(1, 10**15))
def test_parse_memory_of_whole_bytes_is_exact(size):
    assert parse_memory(f"{size}B") == parse_memory(size) == size
    assert size < 10**6 or parse_memory(str(size)) == size


@pytest.mark.parametrize(
    "wrong", ["", "GB", "-1GB", "8XB", "nan", "inf", "1e9", "0", "0.1", "8iB", 0, -5, True, None, 1.5, 10**400]
)
def test_parse_memory_refuses(wrong):
    with pytest.raises(InvalidInputError, match="budget"):
        parse_memory(wrong, name="budget")


@pytest.mark.parametrize("text", ["3", " 500 ", "999999"])
def test_a_small_number_without_a_unit_is_not_taken_for_bytes(text):
    number = text.strip()
    with pytest.raises(InvalidInputError, match=f"--memory {number} is {number} bytes; give a unit, as in {number}GB"):
        parse_memory(text, name="--memory")
