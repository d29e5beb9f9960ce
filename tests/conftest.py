"""What all tests share: fixed seeds, restored threads, and tiny models built from their configurations."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

#: The same examples on every run; other ones with HYPOTHESIS_PROFILE=random.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("random", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

VOCABULARY = 37  # odd, so that no kernel is tested on round sizes only


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: workers take whole files, and one that begins a long file last keeps all waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now need not be looked through, .3 s each time, where a test collects garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test starts from the same random state and leaves the number of threads as it was."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def threads() -> Callable[[int], None]:
    """``threads(n)`` sets PyTorch's thread count; the old one comes back after the test."""
    return torch.set_num_threads


def _build(make: Callable[[], torch.nn.Module], dtype: torch.dtype, seed: int) -> torch.nn.Module:
    """The model of ``make`` with weights that depend on ``seed`` alone, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().to(dtype).eval()


@pytest.fixture
def tiny_llama() -> Callable[..., torch.nn.Module]:
    """``tiny_llama(dtype=float64, tied=False, layers=2, attention="eager", seed=0, **config)``: a Llama of
    width 16, two heads (one for keys and values), MLP 24, vocabulary 37, context 32."""

    def make(dtype=torch.float64, *, tied=False, layers=2, attention="eager", seed=0, **config):
        from transformers import LlamaConfig, LlamaForCausalLM

        settings = {
            "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
            "tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
            "attn_implementation": attention, **config,
        }  # fmt: skip
        return _build(lambda: LlamaForCausalLM(LlamaConfig(**settings)), dtype, seed)

    return make


@pytest.fixture
def tiny_gpt2() -> Callable[..., torch.nn.Module]:
    """``tiny_gpt2(dtype=float64, tied=True, layers=2, attention="eager", seed=0, **config)``: a GPT-2 (its linear
    layers are Conv1D, with biases) of width 16, two heads, vocabulary 37, context 32, no dropout."""

    def make(dtype=torch.float64, *, tied=True, layers=2, attention="eager", seed=0, **config):
        from transformers import GPT2Config, GPT2LMHeadModel

        settings = {
            "vocab_size": VOCABULARY, "n_embd": 16, "n_layer": layers, "n_head": 2, "n_positions": 32,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": tied,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attn_implementation": attention, **config,
        }  # fmt: skip
        return _build(lambda: GPT2LMHeadModel(GPT2Config(**settings)), dtype, seed)

    return make


@pytest.fixture(scope="session")
def emulated_cuda(tmp_path_factory):
    """The CUDA extension, compiled for the CPU once for all workers, and the processes that tests start."""
    from tests.emulated_cuda.build import SHARED_BUILD, build_once

    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return build_once(Path(os.environ.setdefault(SHARED_BUILD, str(common / "emulated_cuda"))))


@pytest.fixture
def gpu(emulated_cuda, monkeypatch) -> Callable[[str], contextlib.AbstractContextManager]:
    """``gpu(device)``: a context with that device; "cuda" is pretended, its CUDA kernels emulated, without Triton."""
    from fastunlearn.ops import _dispatch
    from tests.emulated_cuda.device import pretended_gpu

    load, why = _dispatch._load, _dispatch.why_not_live

    @contextlib.contextmanager
    def there(device: str):
        if device == "cpu":
            yield
            return
        with monkeypatch.context() as patch, pretended_gpu():
            patch.setattr(_dispatch, "_load", lambda name: (emulated_cuda, "") if name == "cuda" else load(name))
            reasons = {"cuda": "", "triton": "not here"}
            patch.setattr(_dispatch, "why_not_live", lambda name: reasons[name] if name in reasons else why(name))
            yield

    return there
