"""Capture layer by layer, for models whose factors do not all fit into memory at once.

A first pass keeps what enters each of the model's repeated layers, and the gradient of what leaves the last one.
Then, from the last layer to the first, each is run again and taken back on its own, its factors are handed out, and
they are gone before the next layer's are made. So all factors are seen for one more forward pass, whatever the depth;
what is kept is one tensor of tokens x width for each layer. The output layer's gradients are never kept (head.py).

Whether a model is built so (one layer's output is the next one's first input, nothing bypasses them, the logits are
the output layer's) is not believed but tried, on the first samples, against an ordinary capture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from fastunlearn._threads import of_this_thread
from fastunlearn.resources import trim

from .capture import Calls, Collector, record_calls
from .forward import arguments
from .gemm import FastLinears
from .head import HeadSource, head_backward, plain_head
from .losses import negative_log_likelihood
from .model_state import evaluation
from .plan import TOLERANCE, CapturePlan, short_samples
from .samples import Sample
from .sources import Source
from .targets import make_batch

__all__ = ["LayerWalk", "find_layers"]


class _Stop(Exception):
    """Ends a forward pass where all that is wanted has been seen."""


def find_layers(model: nn.Module) -> list[str]:
    """The names of the model's repeated layers: the module list of one class with the most weights; [] for none."""
    best, most = [], 0
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len({type(one) for one in module}) == 1:
            size = sum(p.numel() for p in module.parameters())
            if size > most:
                best, most = [f"{name}.{i}" for i in range(len(module))], size
    return best


def _add(pending: dict[str, list[Source]], collector: Collector) -> None:
    for name, found in collector.sources().items():
        pending.setdefault(name, []).extend(found)


class LayerWalk:
    """One walk over ``samples``: see :meth:`passes`. ``limit``: bytes of factors at a time. ``weights`` (m,): of the
    samples' losses, or None. ``dtype``: that factors are kept in, default their own. ``check(found)`` is called with
    every parameter's factors, ``done(losses)`` at the end. Made by ``LayerWalk.of``."""

    check = done = staticmethod(lambda _found: None)

    def __init__(
        self, model, plan: CapturePlan, samples: Sequence[Sample], pad: int, batch_size: int, weights, limit, dtype=None
    ):
        self.model, self.plan, self.samples, self.pad = model, plan, samples, pad
        self.batch_size, self.weights, self.limit, self.dtype = batch_size, weights, limit, dtype
        self.layers, self.head = find_layers(model), plain_head(model)
        self.losses: Tensor | None = None
        names = {id(module): name for name, module in model.named_modules()}
        self.head_name = names.get(id(self.head), "")

    # Which modules lie where

    def part_of(self, module: str) -> int:
        """The number of the layer that a module is in; -1: before them, or after them."""
        return next((i for i, name in enumerate(self.layers) if module == name or module.startswith(name + ".")), -1)

    def order(self) -> list[list[str]]:
        """Parameters by the part at whose end all their uses have been seen: [after, last layer, ..., before]."""
        parts: list[list[str]] = [[] for _ in range(len(self.layers) + 2)]
        after = self._after()
        for name in self.plan.parameters:
            stages = []
            for use in self.plan.uses[name]:
                layer = self.part_of(use.module)
                before = len(self.layers) + 1
                stages.append(len(self.layers) - layer if layer >= 0 else 0 if use.module in after else before)
            parts[max(stages)].append(name)
        return parts

    def _after(self) -> set[str]:
        """The modules that are called after the last layer, by trying one sample."""
        seen: list[str] = []
        handles = [
            module.register_forward_pre_hook(of_this_thread(lambda _m, _a, name=name: seen.append(name)))
            for name, module in self.model.named_modules()
        ]
        try:
            with torch.no_grad(), evaluation(self.model):
                self.model(**self._inputs(self.samples[:1]))
        finally:
            for handle in handles:
                handle.remove()
        last = max(i for i, name in enumerate(seen) if self.part_of(name) == len(self.layers) - 1)
        return set(seen[last + 1 :])

    def _inputs(self, part: Sequence[Sample]) -> dict[str, Tensor]:
        return arguments(self.model, make_batch(self.model, part, self.pad))

    def _batches(self) -> Iterator[tuple[int, Sequence[Sample]]]:
        for start in range(0, len(self.samples), self.batch_size):
            yield start, self.samples[start : start + self.batch_size]

    # The passes

    def passes(self) -> Iterator[tuple[str, list[Source]]]:
        """Every parameter with its factors, from the output to the input. The list of a parameter's factors is emptied
        when the next one is asked for, so that those of two are never there together."""
        order = self.order()
        entries: list[list] = [[] for _ in self.layers]  # by layer, by batch: (hidden, other arguments)
        after = Collector(self.samples, self.dtype)
        head, gradients = self._forward(entries, after)
        pending: dict[str, list[Source]] = after.sources()
        if self.head_name and self.head_parameter in self.plan.parameters:
            pending.setdefault(self.head_parameter, []).append(head)
        yield from self._ready(order[0], pending)
        for i in range(len(self.layers) - 1, -1, -1):
            names = order[len(self.layers) - i]
            groups = self._groups(names, i)
            for number, group in enumerate(groups):
                collector = Collector(self.samples, self.dtype)
                self._layer(i, entries[i], gradients, group, collector, last=number == len(groups) - 1)
                _add(pending, collector)
                yield from self._ready([n for n in names if n in group], pending)
            entries[i] = []
            trim()
        collector = Collector(self.samples, self.dtype)
        self._before(gradients, collector)
        _add(pending, collector)
        self.done(self.losses)
        yield from self._ready(order[-1], pending)

    def _ready(self, names: Sequence[str], pending: dict[str, list[Source]]) -> Iterator[tuple[str, list[Source]]]:
        for name in names:
            found = pending.pop(name)
            self.check({name: found})
            yield name, found
            found.clear()

    @property
    def head_parameter(self) -> str:
        return next((n for n, p in self.plan.parameters.items() if p is self.head.weight), "")

    def _uses(self, wanted) -> dict[str, list]:
        """By module the parameters used there, of those modules for which ``wanted(name, use)`` holds."""
        found: dict[str, list] = {}
        for name in self.plan.parameters:
            for use in self.plan.uses[name]:
                if wanted(name, use):
                    found.setdefault(use.module, []).append((name, use))
        return found

    def _groups(self, names: Sequence[str], layer: int) -> list[set[str]]:
        """The names used in a layer, cut so that their factors fit; uses of names that end elsewhere come along."""
        mine = list(self._uses(lambda _n, use: self.part_of(use.module) == layer).values())
        inside = list(dict.fromkeys(name for uses in mine for name, _ in uses))
        tokens = sum(s.input_ids.numel() for s in self.samples)
        groups, room = [set()], self.limit
        for name in inside:
            p = self.plan.parameters[name]
            size = p.element_size() if self.dtype is None else min(p.element_size(), self.dtype.itemsize)
            need = tokens * sum(p.shape) * size if p.dim() > 1 else len(self.samples) * p.numel() * p.element_size()
            if need > room and groups[-1]:
                groups.append(set())
                room = self.limit
            groups[-1].add(name)
            room -= need
        return groups

    def _forward(self, entries: list[list], collector: Collector) -> tuple[HeadSource, list[Tensor]]:
        """The first pass: what enters the layers, the output layer's source, the gradients of the last layer."""
        modules = [self.model.get_submodule(name) for name in self.layers]
        after = self._after()
        uses = self._uses(lambda _n, use: use.module in after and use.module != self.head_name)
        gradients, rows, sums = [], [], []
        start_of: dict[str, Tensor] = {}

        def enter(i: int):
            def note(_module, args, kwargs):
                # The hidden state is copied: a layer may add to it in place.
                entries[i].append((args[0].detach().clone(), args[1:], kwargs))

            return note

        def leave(_module, _args, output):
            first = output[0] if isinstance(output, tuple) else output
            start_of["last"] = first.detach().requires_grad_()
            fresh = start_of["last"].clone()
            return (fresh, *output[1:]) if isinstance(output, tuple) else fresh

        def stop(_module, args):
            start_of["head"] = args[0]
            raise _Stop

        with ExitStack() as stack:
            stack.enter_context(evaluation(self.model))
            stack.enter_context(FastLinears())
            handles = [
                m.register_forward_pre_hook(of_this_thread(enter(i)), with_kwargs=True) for i, m in enumerate(modules)
            ]
            handles.append(modules[-1].register_forward_hook(of_this_thread(leave)))
            handles.append(self.head.register_forward_pre_hook(of_this_thread(stop)))
            for handle in handles:
                stack.callback(handle.remove)
            calls = Calls(self.model, set(uses))
            stack.callback(calls.remove)
            for start, part in self._batches():
                with suppress(_Stop):
                    self.model(**self._inputs(part))
                row, losses, grads = self._head_rows(start, part, start_of["head"], start_of["last"], calls.calls)
                rows.append(row)
                sums.append(losses)
                gradients.append(grads[0])
                record_calls(collector, self.model, uses, calls, grads[1:], len(part))
        self.losses = torch.cat(sums)
        x, labels, lse, scale, lengths = (torch.cat(column) for column in zip(*rows, strict=True))
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return HeadSource(x, self.head.weight.detach(), labels, lse, scale, offsets), gradients

    def _head_rows(self, start: int, part, hidden: Tensor, last: Tensor, calls: list):
        labels = make_batch(self.model, part, self.pad)["labels"][:, 1:]
        chosen = labels != -100
        x, owner = hidden[:, :-1][chosen], chosen.nonzero()[:, 0]
        wide = torch.promote_types(x.dtype, torch.float32)
        given = x.new_ones(len(part)) if self.weights is None else self.weights[start : start + len(part)]
        scale = given.to(x.device, wide)
        losses, lse, gx = head_backward(x.detach(), self.head.weight.detach(), labels[chosen], scale[owner])
        outputs = [last, *(output for _, _, output in calls)]
        grads = torch.autograd.grad(x, outputs, gx, allow_unused=True)
        sums = torch.zeros(len(part), dtype=torch.float64, device=x.device)
        sums.index_add_(0, owner, (losses * scale[owner]).double())
        return (x.detach(), labels[chosen], lse, scale[owner], chosen.sum(1)), sums, grads

    def _layer(self, i: int, entered: list, gradients: list[Tensor], names: set[str], collector: Collector, last: bool):
        """Runs layer i again and takes it back; with ``last`` the gradients become those of its input."""
        module = self.model.get_submodule(self.layers[i])
        uses = self._uses(lambda name, use: name in names and self.part_of(use.module) == i)
        with ExitStack() as stack:
            stack.enter_context(evaluation(self.model))
            stack.enter_context(FastLinears())
            calls = Calls(self.model, set(uses))
            stack.callback(calls.remove)
            for number, (_, part) in enumerate(self._batches()):
                hidden, args, kwargs = entered[number]
                hidden = hidden.requires_grad_()
                with torch.enable_grad():
                    output = module(hidden, *args, **kwargs)
                output = output[0] if isinstance(output, tuple) else output
                outputs = [hidden, *(out for _, _, out in calls.calls)]
                grads = torch.autograd.grad(output, outputs, gradients[number], allow_unused=True)
                record_calls(collector, self.model, uses, calls, grads[1:], len(part))
                if last:
                    gradients[number] = grads[0]
                hidden.requires_grad_(False)

    def _before(self, gradients: list[Tensor], collector: Collector) -> None:
        """Takes back what lies before the first layer (embeddings)."""
        after = self._after()
        uses = self._uses(lambda _n, use: self.part_of(use.module) < 0 and use.module not in after)
        if not uses:
            return
        seen: dict[str, Tensor] = {}

        def stop(_module, args, _kwargs):
            seen["hidden"] = args[0]
            raise _Stop

        with ExitStack() as stack:
            stack.enter_context(evaluation(self.model))
            first = self.model.get_submodule(self.layers[0])
            stack.callback(first.register_forward_pre_hook(of_this_thread(stop), with_kwargs=True).remove)
            calls = Calls(self.model, set(uses))
            stack.callback(calls.remove)
            for number, (_, part) in enumerate(self._batches()):
                with suppress(_Stop):
                    self.model(**self._inputs(part))
                outputs = [out for _, _, out in calls.calls]
                grads = torch.autograd.grad(seen["hidden"], outputs, gradients[number], allow_unused=True)
                record_calls(collector, self.model, uses, calls, grads, len(part))

    # Whether it can be done

    @classmethod
    def of(cls, model, plan, samples, loss, *, pad_token_id: int, batch_size: int, weights, limit: int, dtype=None):
        """A walk, or None where the model, the loss or the plan is not made for it."""
        walk = cls(model, plan, samples, pad_token_id, batch_size, weights, limit, dtype)
        fits = loss is negative_log_likelihood and not plan.generic and walk.head is not None and len(walk.layers) > 1
        return walk if fits and walk._holds() else None

    def _holds(self) -> bool:
        from .capture import capture

        some = short_samples(self.samples)[:2]
        weights = None if self.weights is None else self.weights[: len(some)]
        trial = LayerWalk(self.model, self.plan, some, self.pad, len(some), weights, 2**62)
        c = torch.tensor([1.0, -0.7][: len(some)], dtype=torch.float64)
        truth = capture(
            self.model, self.plan, list(self.plan.parameters), some, negative_log_likelihood, pad_token_id=self.pad,
            batch_size=len(some), weights=weights,
        ).sources  # fmt: skip
        try:
            found = {name: list(sources) for name, sources in trial.passes()}
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError):
            return False  # not built of layers in a row: groups of parameters serve any model
        for name, p in self.plan.parameters.items():
            if name not in found:
                return False
            got = sum(source.weighted(c, p.shape) for source in found[name])
            expected = sum(source.weighted(c, p.shape) for source in truth[name])
            scale = expected.norm().clamp_min(torch.finfo(expected.dtype).tiny)
            if not bool((got - expected).norm() <= max(1e-3, TOLERANCE.get(p.dtype, 0.0)) * scale):
                return False
        return True
