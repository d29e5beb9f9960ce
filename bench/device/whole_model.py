"""Hessian-vector products of whole models on a GPU, beside the model's own gradient and what else gives them.

Shapes are those of the published configurations of Llama 3.2 1B and Llama 3.1 8B, weights are random: nothing is
downloaded, and the values of the weights do not change the work.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import torch

import fastunlearn as fu
from bench.device.measure import Bench, leave_out_imports
from fastunlearn.dual import DualPass
from fastunlearn.microbench import peers
from fastunlearn.microbench.shapes import make_batch

#: The numbers of the configurations.
SHAPES = {
    "llama-3.2-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                     "tie_word_embeddings": True, "rope_theta": 500000.0},
    "llama-3.1-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                     "tie_word_embeddings": False, "rope_theta": 500000.0},
    "toy": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 61, "tie_word_embeddings": True},
}  # fmt: skip
#: Ours, by what the reverse sweep may keep (see DualPass). "auto" takes free memory of the GPU to save time: memory is
#: compared by "recompute", and the time beside it is that of the same runs.
OURS = {"fastunlearn, memory=auto": "auto", "fastunlearn, memory=recompute": "recompute"}
SHORT = 1024
RECORDED = "fastunlearn, in a CUDA graph"
#: Exact products of other tools, each at its best attention that works.
OTHERS = ("double backward", "torch.func jvp of grad", "torch.func grad of jvp", "curvlinops", "hessian-eigenthings")


@functools.cache
def _llama() -> tuple[type, type]:
    from transformers import LlamaConfig, LlamaForCausalLM

    leave_out_imports()
    return LlamaConfig, LlamaForCausalLM


def build(bench: Bench, name: str, tokens: int):
    """The model in half precision, made on its device."""
    LlamaConfig, LlamaForCausalLM = _llama()
    config = LlamaConfig(**SHAPES[name], max_position_embeddings=max(8192, tokens), attn_implementation="sdpa")
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = LlamaForCausalLM(config).to(bench.half)
    model.config.use_cache = False
    return model.eval()


def gradients(model, batch) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(model(**batch).loss, list(model.parameters()))


def hvp(bench: Bench) -> list:
    return _case(bench, "llama-3.2-1b", 4096, compiled=True)


def short_hvp(bench: Bench) -> list:
    """For peers that run out of memory at the longer sequence."""
    return _case(bench, "llama-3.2-1b", SHORT, compiled=False)


def large_hvp(bench: Bench) -> list:
    return _case(bench, "llama-3.1-8b", 8192, compiled=False)


def _case(bench: Bench, name: str, tokens: int, compiled: bool) -> list:
    if bench.toy:
        name, tokens, compiled = "toy", 16, False
    return [({"model": name, "tokens": tokens, "ways": {}}, functools.partial(_products, bench, compiled))]


def _products(bench: Bench, compiled: bool, case: dict) -> Iterator[None]:
    model = build(bench, case["model"], case["tokens"])
    batch = make_batch(model, case["tokens"])

    def measure(name: str, run: Callable[[], object]) -> None:
        case["ways"][name] = bench.measure(run)
        _count_gradients(case["ways"])

    measure("gradient, sdpa", functools.partial(gradients, model, batch))
    yield
    tangents = _tangents(model)
    for name, memory in OURS.items():
        measure(name, functools.partial(_product, _dual(model, memory), batch, tangents))
        yield
    if bench.cuda and case["tokens"] == SHORT:  # where the host's work may be what takes the time
        measure(RECORDED, Recorded(functools.partial(_operator_product, model, batch, tangents)))
        case["ways"][RECORDED]["peak_bytes"] = None  # a graph's memory was taken when it was recorded
        bench.tidy()
        yield
    del tangents
    if compiled:
        measure("gradient, sdpa, torch.compile", _compiled_gradients(model, batch))
        yield
    model.set_attn_implementation("eager")
    if bench.toy:
        case["error"] = _difference(model, batch)
    vector = torch.cat([0.01 * torch.randn_like(p).flatten() for p in model.parameters()])
    for other in filter(peers.installed, OTHERS):
        measure(other, functools.partial(peers.HESSIAN[other][1], model, batch, vector))
        yield


def _count_gradients(ways: dict[str, dict]) -> None:
    """Every way's time in gradients of the model, the fastest of those that were measured."""
    found = [way["seconds"] for name, way in ways.items() if name.startswith("gradient") and "seconds" in way]
    for way in ways.values():
        if found and "seconds" in way:
            way["gradients"] = way["seconds"] / min(found)


def _compiled_gradients(model, batch):
    """Of the model's own forward and loss, compiled for these sizes: after another length of sequence it would be
    compiled for sizes that may vary, which is slower. The dual pass takes the model as it is."""
    torch._dynamo.reset()
    forward = torch.compile(model.forward, dynamic=False)
    return lambda: torch.autograd.grad(forward(**batch).loss, list(model.parameters()))


def _tangents(model) -> dict[str, torch.Tensor]:
    """0.01 x standard normal in the model's dtype."""
    return {name: 0.01 * torch.randn_like(p).unsqueeze(0) for name, p in model.named_parameters()}


def _dual(model, memory: str = "auto") -> DualPass:
    return DualPass(model, dict(model.named_parameters()), memory=memory)


def _product(dual: DualPass, batch, tangents) -> dict[str, torch.Tensor]:
    """Its result is made here, within what is measured, as those of other tools are."""
    wide = torch.float64 if next(iter(tangents.values())).dtype == torch.float64 else torch.float32
    out = {name: torch.zeros_like(t, dtype=wide) for name, t in tangents.items()}
    dual.hessian(batch, tangents, out)
    return out


def _operator_product(model, batch, tangents) -> Callable[[], object]:
    hessian, vector = fu.Hessian(model, batch), {name: t.squeeze(0) for name, t in tangents.items()}
    return lambda: hessian @ vector


class Recorded:
    """The product that ``make`` makes, as a program runs it that takes many: after one as a warm-up it is recorded in a
    CUDA graph, at the first call, and replayed from then on, without the host's work. Needs a GPU."""

    def __init__(self, make: Callable[[], Callable[[], object]]):
        self.make, self.graph, self.out = make, None, None

    def __call__(self) -> None:
        if self.graph is None:
            run = self.make()
            run()
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = run()
        self.graph.replay()


def _flat(values) -> torch.Tensor:
    return torch.cat([value.flatten() for value in values])


def _difference(model, batch) -> float:
    """Of our product from float32 double backward, relative."""
    tangents = _tangents(model)
    out = _product(_dual(model), batch, tangents)
    truth = peers.double_backward(copy.deepcopy(model).float(), batch, _flat(tangents.values()).float())
    return ((_flat(out.values()) - truth).norm() / truth.norm()).item()


def accuracy(bench: Bench) -> list:
    """Errors in bfloat16 against float64 at the same weights and vector: our product, and PyTorch's own gradient."""
    name, tokens = ("toy", 16) if bench.toy else ("llama-3.2-1b", 512)
    return [({"model": name, "tokens": tokens, "ways": {}}, functools.partial(_errors, bench))]


def _errors(bench: Bench, case: dict) -> Iterator[None]:
    model = build(bench, case["model"], case["tokens"])
    batch = make_batch(model, case["tokens"])
    tangents = _tangents(model)
    product, gradient = _flat(_product(_dual(model), batch, tangents).values()), _flat(gradients(model, batch))
    wide = copy.deepcopy(model).double()
    truth = _product(_dual(wide), batch, {name: t.double() for name, t in tangents.items()})
    errors = {"product": _relative(product, _flat(truth.values()))}
    del truth
    errors["gradient of torch"] = _relative(gradient, _flat(gradients(wide, batch)))
    case["errors"] = errors
    yield


def _relative(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the error over the norm of the truth."""
    return ((got.double() - truth).norm() / truth.norm()).item()
