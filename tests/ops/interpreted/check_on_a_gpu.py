"""Whole products on a pretended GPU (tests/emulated_cuda/device.py), with the Triton kernels that a real one would run
(started by tests/ops/test_triton_interpreter.py)."""

from __future__ import annotations

import copy

import pytest
import torch

import fastunlearn as fu
from fastunlearn.ops import _dispatch
from tests.emulated_cuda.device import pretended_gpu


@pytest.mark.parametrize("kind, family", [("Hessian", "llama"), ("GGN", "gpt2")])
def test_products(kind, family, tiny_llama, tiny_gpt2, monkeypatch):
    model = (tiny_llama if family == "llama" else tiny_gpt2)(torch.float32, layers=1, attention="sdpa")
    ids = torch.randint(1, 37, (2, 7))
    vectors = torch.randn(sum(p.numel() for p in model.parameters()), 2)
    truth = getattr(fu, kind)(copy.deepcopy(model).double(), {"input_ids": ids, "labels": ids}) @ vectors.double()
    chosen = []
    import_module = _dispatch.backend_module
    monkeypatch.setattr(_dispatch, "why_not_live", lambda name: "" if name in ("triton", "reference") else "not here")

    def seen(package, backend):
        chosen.append(backend)
        return import_module(package, backend)

    for module in ("attention", "norm", "linear", "linear_cross_entropy", "activation", "gated_mlp", "rope"):
        monkeypatch.setattr(f"fastunlearn.ops.{module}.backend_module", seen)
    with pretended_gpu():
        model.to("cuda")
        there = ids.to("cuda")
        got = getattr(fu, kind)(model, {"input_ids": there, "labels": there}) @ vectors.to("cuda")
        assert got.device.type == "cuda"
        got = got.cpu()
    assert set(chosen) == {"triton"}
    assert (got.double() - truth).abs().max() <= 1e-4 * truth.abs().max()
