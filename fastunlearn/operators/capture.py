"""One pass over the samples that records, for chosen parameters, the factors of their per-sample gradients.

The backward sweep stops at the layers' outputs: no weight gradient is formed (two thirds of the price of an
ordinary gradient). Tokens without any gradient (padding, and for the head all but the targets) are dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fastunlearn._threads import of_this_thread

from .gemm import FastLinears
from .losses import TokenLoss
from .model_state import evaluation
from .plan import CapturePlan, Use
from .samples import Sample
from .sources import EmbeddingSource, LinearSource, RowsSource, Source
from .targets import make_batch, target_logits

__all__ = ["Calls", "Captured", "Collector", "capture", "record_calls", "token_losses"]


@dataclass
class Captured:
    """``sources``: by parameter name (a name is missing where a rule could not be applied at all).
    ``losses`` (m,) float64: each sample's loss."""

    sources: dict[str, list[Source]] = field(default_factory=dict)
    losses: Tensor | None = None


class Calls:
    """Forward hooks that note each call of the modules at hand: its input and its output."""

    def __init__(self, model: nn.Module, modules: set[str]):
        self.calls: list[tuple[str, Tensor, Tensor]] = []
        self.odd: set[str] = set()  # modules with inputs or outputs that no rule can read
        self.listening = True  # off while a leaf's own derivative is taken, which calls the module again
        self._handles = [
            model.get_submodule(name).register_forward_hook(of_this_thread(self._hook(name)), with_kwargs=True)
            for name in modules
        ]

    def _hook(self, name: str):
        def note(module, args, kwargs, output):
            if not self.listening:
                return None
            inputs = args[0] if args else next(iter(kwargs.values()), None)
            if not isinstance(inputs, Tensor) or not isinstance(output, Tensor) or len(args) + len(kwargs) > 1:
                self.odd.add(name)
                return None
            if output.requires_grad:
                self.calls.append((name, inputs.detach(), output))
                return None
            # Nothing below asks for a gradient: the graph starts here. The clone allows in-place changes later.
            start = output.detach().requires_grad_()
            self.calls.append((name, inputs.detach(), start))
            return start.clone()

        return note

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class Collector:
    """Gathers the factors of every batch, by parameter and by the how-manieth call within a forward pass.

    ``samples``, ``tokens``: at most so many come. They are written into memory that is asked for at once, so that no
    second copy is ever there; pages that stay empty cost nothing. ``dtype``: of inputs and gradients of layers as they
    are kept; None keeps theirs.
    """

    def __init__(self, samples: Sequence[Sample], dtype: torch.dtype | None = None):
        self.room = {True: sum(s.input_ids.numel() for s in samples), False: len(samples)}
        self.dtype = dtype
        self.parts: dict[tuple, list[Tensor]] = {}
        self.filled: dict[tuple, int] = defaultdict(int)
        self.counts: dict[tuple, list[Tensor]] = defaultdict(list)

    def _write(self, key: tuple, rows: Sequence[Tensor], room: int, dtype: torch.dtype | None) -> None:
        at = self.filled[key]
        held = self.parts.get(key, [])
        if not held or at + len(rows[0]) > len(held[0]):
            # Padding that has a gradient (a model that looks at it) takes more room than the samples' own tokens.
            room = max(room, at + len(rows[0]), 2 * len(held[0]) if held else 0)
            kinds = [dtype if dtype is not None and one.is_floating_point() else one.dtype for one in rows]
            wider = [one.new_empty(room, *one.shape[1:], dtype=kind) for one, kind in zip(rows, kinds, strict=True)]
            for buffer, old in zip(wider, held, strict=False):
                buffer[:at] = old[:at]
            self.parts[key] = wider
        for buffer, one in zip(self.parts[key], rows, strict=True):
            buffer[at : at + len(one)] = one
        self.filled[key] = at + len(rows[0])

    def tokens(self, key: tuple, inputs: Tensor, gradient: Tensor, keep: Tensor) -> None:
        self._write(key, [inputs[keep], gradient[keep]], self.room[True], self.dtype)
        self.counts[key].append(keep.sum(1))

    def rows(self, key: tuple, rows: Tensor) -> None:
        self._write(key, [rows], self.room[False], None)

    def sources(self) -> dict[str, list[Source]]:
        found: dict[str, list[Source]] = defaultdict(list)
        for key in list(self.parts):
            name, kind = key[0], key[1]
            columns = [buffer[: self.filled[key]] for buffer in self.parts.pop(key)]
            if kind == "rows":
                found[name].append(RowsSource(columns[0]))
                continue
            lengths = torch.cat(self.counts[key])
            offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            if kind == "embedding":
                found[name].append(EmbeddingSource(columns[0], columns[1], offsets))
            else:
                found[name].append(LinearSource(columns[0], columns[1], offsets, kind == "transposed"))
        return _merge_rows(found)


def _merge_rows(found: dict[str, list[Source]]) -> dict[str, list[Source]]:
    """Several uses that gave explicit rows of one parameter become one matrix."""
    merged = {}
    for name, sources in found.items():
        rows = [source for source in sources if isinstance(source, RowsSource)]
        rest = [source for source in sources if not isinstance(source, RowsSource)]
        if rows:
            total = rows[0].rows
            for source in rows[1:]:
                total = total + source.rows
            rest.append(RowsSource(total))
        merged[name] = rest
    return merged


def _leaf_rows(module: nn.Module, attribute: str, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Per-sample gradients of one parameter of a small module, by its own derivative, sample by sample at once."""
    parameter = getattr(module, attribute).detach()

    def pulled(value: Tensor, x: Tensor, g: Tensor) -> Tensor:
        _, pull = torch.func.vjp(lambda v: torch.func.functional_call(module, {attribute: v}, (x[None],)), value)
        return pull(g[None])[0]

    return torch.func.vmap(pulled, in_dims=(None, 0, 0))(parameter, inputs, gradient).flatten(1)


def _record(collector: Collector, model: nn.Module, name: str, use: Use, call: int, x: Tensor, g: Tensor) -> None:
    key = (name, use.kind, use.module, call)
    if use.kind == "bias":
        collector.rows((name, "rows", use.module, call), g.flatten(1, -2).sum(1) if g.dim() > 2 else g)
    elif use.kind == "leaf":
        module = model.get_submodule(use.module)
        collector.rows((name, "rows", use.module, call), _leaf_rows(module, use.attribute, x, g))
    else:
        keep = g.ne(0).any(-1)
        if use.kind == "embedding":
            padding = model.get_submodule(use.module).padding_idx
            keep = keep if padding is None else keep & x.ne(padding)  # autograd gives that row no gradient
        collector.tokens(key, x, g, keep)


def _fits(use: Use, x: Tensor, g: Tensor, samples: int) -> bool:
    """Whether the leading dimension is the batch, and the shapes are those that the rule reads."""
    if use.kind == "leaf":
        return x.dim() >= 2 and x.shape[0] == g.shape[0] == samples
    tokens = x.shape if use.kind == "embedding" else x.shape[:-1]
    return len(tokens) == 2 and tokens[0] == samples and g.shape[:-1] == tokens


def token_losses(model, part, loss: TokenLoss, pad_token_id: int, weights: Tensor | None = None):
    """The losses of one batch's target tokens (n,), each times its sample's weight (None: 1), and their samples."""
    found = target_logits(model, make_batch(model, part, pad_token_id))
    losses = loss(found.logits, found.tokens)
    return losses if weights is None else losses * weights.to(losses)[found.sample], found.sample


def record_calls(collector, model, by_module, calls: Calls, gradients, samples: int, broken=frozenset()) -> set[str]:
    """Hands the noted calls with the gradients of their outputs to the collector, and clears them; the names (beyond
    ``broken``) whose rule does not fit."""
    # Checkpointed code has run again in the backward: the calls behind those that have gradients are no new ones.
    noted, calls.calls, calls.listening = calls.calls[: len(gradients)], [], False
    seen: dict[str, int] = defaultdict(int)
    odd = set()
    for (module, x, _), g in zip(noted, gradients, strict=True):
        for name, use in by_module[module]:
            # A call that is no part of the loss has no gradient: _fits sees it as an odd shape.
            own = x.new_zeros(()) if g is None else g
            if not _fits(use, x, own, samples):
                odd.add(name)
            elif name not in broken:
                _record(collector, model, name, use, seen[module], x, own)
        seen[module] += 1
    calls.listening = True
    return odd


def _batch_gradients(model, calls: Calls, part, loss: TokenLoss, pad_token_id: int, weights: Tensor | None):
    """The captured calls of one batch with the gradients of their outputs, and each sample's loss."""
    losses, sample = token_losses(model, part, loss, pad_token_id, weights)
    outputs = [output for _, _, output in calls.calls]
    gradients = [None] * len(outputs)  # where none of them takes part in the loss
    if outputs and losses.requires_grad:
        gradients = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
    sums = torch.zeros(len(part), dtype=torch.float64, device=losses.device)
    sums.index_add_(0, sample, losses.detach().double())
    return gradients, sums


def capture(
    model: nn.Module,
    plan: CapturePlan,
    names: Sequence[str],
    samples: Sequence[Sample],
    loss: TokenLoss,
    *,
    pad_token_id: int,
    batch_size: int,
    weights: Tensor | None = None,
    strict: bool = True,
    dtype: torch.dtype | None = None,
    on_batch=None,
) -> Captured:
    """The factors of ``names`` (all with a rule in ``plan``) over all samples.

    ``weights`` (m,): each sample's loss is times its weight. ``strict``: a parameter whose rule cannot be applied
    raises RuntimeError (the plan promised that it can);
    otherwise its name is left out. ``dtype``: that factors are kept in, default their own. ``on_batch(n)`` is called
    after each batch of n samples.
    """
    uses = [(name, use) for name in names for use in plan.uses[name]]
    by_module: dict[str, list[tuple[str, Use]]] = defaultdict(list)
    for name, use in uses:
        by_module[use.module].append((name, use))
    collector, sums, broken = Collector(samples, dtype), [], set()
    with evaluation(model), FastLinears():
        calls = Calls(model, set(by_module))
        try:
            for start in range(0, len(samples), batch_size):
                part = samples[start : start + batch_size]
                some = None if weights is None else weights[start : start + len(part)]
                noted, losses = _batch_gradients(model, calls, part, loss, pad_token_id, some)
                sums.append(losses)
                broken |= record_calls(collector, model, by_module, calls, noted, len(part), broken)
                if on_batch is not None:
                    on_batch(len(part))
        finally:
            calls.remove()
    broken |= {name for name, use in uses if use.module in calls.odd}
    if broken and strict:
        raise RuntimeError(f"the capture rules of {sorted(broken)} do not hold for this batch: please report this")
    sources = {name: found for name, found in collector.sources().items() if name not in broken}
    return Captured({n: sources[n] for n in names if n in sources}, torch.cat(sums) if sums else None)
