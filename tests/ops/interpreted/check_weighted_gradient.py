"""The weighted gradient by Triton's products in the interpreter (run by tests/ops/test_triton_interpreter.py)."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops.weighted_gradient import triton as kernels
from tests.ops import sample_space_cases as cases


@pytest.mark.parametrize("weighted, strided", [(True, True), (False, False)])
@pytest.mark.parametrize("size", cases.GRADIENTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_against_float64(dtype, size, weighted, strided):
    cases.check_weighted_gradient(dtype, size, weighted, strided, "triton", "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_weights_of_a_solve(dtype):
    cases.check_weights_of_a_solve(dtype, "triton", "cpu")


@pytest.mark.parametrize("size, weight", [(1.0, 1e5), (1e-3, 1e-5), (1e-4, 1e-3)])
def test_range_of_weights(size, weight):
    cases.check_range_of_weights(size, weight, "triton", "cpu")


def test_tokens_in_parts(monkeypatch):
    monkeypatch.setattr(kernels, "SCRATCH_BYTES", 0)  # 1024 tokens at a time
    cases.check_weighted_gradient(torch.float16, (2051, 9, 17), True, False, "triton", "cpu")
