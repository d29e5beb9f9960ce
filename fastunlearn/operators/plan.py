"""How each chosen parameter's per-sample gradients are found: by a rule, or sample by sample.

Rules read a layer's input and the gradient of its output (capture.py). Whether a rule holds for *this* model
is not believed but tried: on one small batch the rule's weighted sum of gradients, with random weights, must
equal autograd's. A parameter that fails (used outside its module, mixed over samples, of an unknown kind) gets
its gradients by one backward pass per sample: slower, and exact for any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from fastunlearn.data.encode import IGNORE, Encoded
from fastunlearn.resources import trim

from .losses import negative_log_likelihood
from .model_state import evaluation
from .samples import Sample
from .targets import make_batch, target_logits

__all__ = ["CapturePlan", "Use", "make_plan", "short_samples"]

PROBE_SAMPLES, PROBE_TOKENS = 4, 32
# Relative, per dtype of the parameter. Float64 is loose because many models' norms compute in float32 whatever
# the weights are; a rule that does not hold is wrong by tens of percent.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


@dataclass(frozen=True)
class Use:
    """One module that holds the parameter, as its ``attribute``; ``kind`` is the rule: linear, transposed
    (weight stored as (d_in, d_out)), bias, embedding, or leaf (any other module without children)."""

    module: str
    attribute: str
    kind: str


@dataclass
class CapturePlan:
    """``parameters`` by name; ``uses`` of those that have a rule; ``generic``: names of those that have none."""

    parameters: dict[str, nn.Parameter]
    uses: dict[str, list[Use]] = field(default_factory=dict)
    generic: list[str] = field(default_factory=list)


def _kind(module: nn.Module, attribute: str) -> str | None:
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Linear):
        return "linear" if attribute == "weight" else "bias"
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' linear layer of GPT-2
        return "transposed" if attribute == "weight" else "bias"
    return "leaf" if not any(True for _ in module.children()) else None


def make_plan(
    model: nn.Module, parameters: dict[str, nn.Parameter], samples: Sequence[Sample], *, pad_token_id: int
) -> CapturePlan:
    """Finds the uses of ``parameters`` and tries every rule on the first few of ``samples``."""
    names = {id(p): name for name, p in parameters.items()}
    plan = CapturePlan(parameters)
    for module_name, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in names:
                continue
            kind = _kind(module, attribute)
            name = names[id(parameter)]
            if kind is None:
                plan.generic.append(name)
            else:
                plan.uses.setdefault(name, []).append(Use(module_name, attribute, kind))
    for name in set(plan.generic) | _failing(model, plan, short_samples(samples), pad_token_id):
        plan.uses.pop(name, None)
    plan.generic = [name for name in parameters if name not in plan.uses]
    return plan


def short_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The first few samples, cut to a few tokens around their first target: a rule does not depend on the length."""
    found = []
    for sample in samples[:PROBE_SAMPLES]:
        targets = torch.nonzero(sample.labels[1:] != IGNORE)
        start = max(0, int(targets[0]) - PROBE_TOKENS // 2) if len(targets) else 0
        some = slice(start, start + PROBE_TOKENS)
        plain = isinstance(sample, Encoded)
        found.append(Encoded(sample.input_ids[some], sample.labels[some]) if plain else sample)
    return found


def _failing(model: nn.Module, plan: CapturePlan, samples: Sequence[Sample], pad_token_id: int) -> set[str]:
    from .capture import capture  # the capture reads plans

    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    weights = torch.randn(len(samples), generator=generator, dtype=torch.float64).to(device)
    checked = {name: plan.parameters[name] for name in plan.uses if name not in plan.generic}
    if not checked:
        return set()
    with evaluation(model, list(checked.values())):
        found = target_logits(model, make_batch(model, samples, pad_token_id))
        losses = negative_log_likelihood(found.logits, found.tokens)
        total = (losses * weights[found.sample].to(losses.dtype)).sum()
        truth = [None] * len(checked)  # where none of them takes part in the loss
        if total.requires_grad:
            truth = torch.autograd.grad(total, list(checked.values()), allow_unused=True)
    captured = capture(
        model, plan, list(checked), samples, negative_log_likelihood, pad_token_id=pad_token_id,
        batch_size=len(samples), strict=False,
    )  # fmt: skip
    failing = set()
    for (name, parameter), gradient in zip(checked.items(), truth, strict=True):
        sources = captured.sources.get(name)
        if sources is None:
            failing.add(name)
            continue
        expected = torch.zeros_like(parameter) if gradient is None else gradient
        got = sum(source.weighted(weights, parameter.shape) for source in sources) if sources else 0 * expected
        scale = expected.norm().clamp_min(torch.finfo(expected.dtype).tiny)
        if not bool((got - expected).norm() <= TOLERANCE.get(expected.dtype, 1e-3) * scale):
            failing.add(name)
    del truth, captured
    trim()
    return failing
