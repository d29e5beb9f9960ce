"""Large tensors: the memory of one that is gone serves the next, and never one that is in use."""

from __future__ import annotations

import gc

import pytest
import torch

from fastunlearn.ops import _memory as memory

SHAPE = (memory.LARGE // 4 + 100,)  # float32: just above the bound


def test_reuses_what_is_gone():
    with memory.reuse():
        first = memory.empty(SHAPE, torch.float32)
        address = first.data_ptr()
        del first
        again = memory.empty((SHAPE[0] // 2, 2), torch.float32)
        assert again.data_ptr() == address and again.shape == (SHAPE[0] // 2, 2)
        assert memory.empty(SHAPE, torch.float32).data_ptr() != address


def test_views_keep_their_memory():
    with memory.reuse():
        view = memory.empty(SHAPE, torch.float32).fill_(3.0)[5:8]
        gc.collect()
        others = [memory.empty(SHAPE, torch.float32).zero_() for _ in range(3)]
        assert view.tolist() == [3.0, 3.0, 3.0]
        assert len({t.untyped_storage().data_ptr() for t in [view, *others]}) == 4


def test_tensors_outlive_the_pass():
    with memory.reuse():
        kept = memory.empty(SHAPE, torch.float64).fill_(2.0)
    gc.collect()
    with memory.reuse():
        memory.empty(SHAPE, torch.float64).fill_(7.0)
    assert bool((kept == 2).all())


def test_a_much_larger_block_is_not_taken():
    with memory.reuse():
        address = memory.empty((5 * SHAPE[0],), torch.float32).data_ptr()
        assert memory.empty(SHAPE, torch.float32).data_ptr() != address


def test_nothing_is_kept_after_the_pass(monkeypatch):
    blocks = []

    class Pool(memory._Pool):
        def tensor(self, *given):
            blocks.append(self)
            return super().tensor(*given)

    monkeypatch.setattr(memory, "_Pool", Pool)
    with memory.reuse():
        memory.empty(SHAPE, torch.float32)
        late = memory.empty(SHAPE, torch.float32)
        assert late.numel() == SHAPE[0] and blocks[0]._free == []
        del late
        assert len(blocks[0]._free) == 1
        late = memory.empty(SHAPE, torch.float32)
    del late
    assert blocks[0]._free == []


def test_outside_a_pass_it_is_the_allocator_of_pytorch(monkeypatch):
    monkeypatch.setattr(memory._Pool, "tensor", lambda *_: pytest.fail("took a block of its own"))
    assert memory.empty(SHAPE, torch.float32).shape == SHAPE
    with memory.reuse():
        assert memory.empty((3,), torch.float32).shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_dtypes_sizes_and_gradients(dtype):
    with memory.reuse():
        large = memory.empty((memory.LARGE, 1), dtype)
    assert large.dtype == dtype and large.is_contiguous() and large.shape == (memory.LARGE, 1)
    small = memory.empty((3, 0, 2), dtype)
    assert small.numel() == 0
    if dtype == torch.float32:
        with memory.reuse():
            leaf = memory.empty(SHAPE, dtype).zero_().requires_grad_()
        assert torch.autograd.grad((leaf * 3).sum(), leaf)[0][0] == 3
