"""The dual pass over a model: Hessian, Gauss-Newton and directional derivatives of a loss, exactly."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from fastunlearn._threads import PASS
from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._recording import recording

from .architecture import output_weights
from .blocks import BlockPolicy, block_forward, repeated_blocks
from .checks import check_batch, check_dropout, check_model, check_vectors, memory_budget
from .functions import followed_functions
from .leftovers import without_leftovers
from .mode import DualMode, as_loss
from .modules import ModuleRules
from .patches import replaced_forwards
from .rotary import RotaryRules
from .rules.output_layer import DeferredLoss, Head, weighted_tokens
from .tokens import only_tokens, spread
from .unseen import varied
from .values import Dual

__all__ = ["DualPass", "Result", "loss_of"]

_UNKNOWN = object()


@dataclass(frozen=True)
class Result:
    """``loss``: a float64 scalar tensor. ``loss_t`` (K,): its derivative along each tangent; None without tangents.
    ``unused``: names of chosen parameters that the model did not use. ``labels`` (N,): those that the loss's one call
    of F.cross_entropy was given, -100 = no target; None where it had no call, or several."""

    loss: Tensor
    loss_t: Tensor | None
    unused: frozenset[str] = frozenset()
    labels: Tensor | None = None


class DualPass:
    """Second-order products of ``loss(model, batch)`` with respect to ``parameters``.

    ``model``: any module whose forward is plain PyTorch. ``parameters``: name -> parameter, those that are varied; all
    others are constants. ``loss(model, batch)`` returns a scalar; without it ``model(**batch).loss`` is taken.
    Tangents are dicts name -> (K, *shape) and results are *added* to ``out``, dicts name -> (K, *shape) of float32
    or float64. The model is as it was after every call, also after one that raised. ``reversing(block)``: a context
    around the reverse sweep of each repeated block that is recomputed.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        memory: str | int = "auto",
        reversing: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        self.model = model
        self._memory, self._reversing = memory, reversing
        memory_budget(memory, 0)
        self._budget: Any = _UNKNOWN
        self._modules, self._rotary = ModuleRules(model), RotaryRules(model)
        self._blocks = repeated_blocks(model)
        self.parameters = dict(parameters)
        self._loss = loss
        check_model(model, self.parameters)

    def hessian(
        self, batch: Any, tangents: Mapping[str, Tensor], out: Mapping[str, Tensor], weight: float = 1.0,
        token_weights: Tensor | None = None,
    ) -> Result:  # fmt: skip
        """``out[name] += weight * (H v)[name]`` with H the Hessian of the batch's loss; with ``token_weights`` c, that
        broadcast to (B, S') as :meth:`token_jvp` counts, the loss is ``sum_n c_n nll_n``."""
        return self._reverse(batch, tangents, out, weight, False, token_weights)

    def ggn(
        self, batch: Any, tangents: Mapping[str, Tensor], out: Mapping[str, Tensor], weight: float = 1.0,
        token_weights: Tensor | None = None,
    ) -> Result:  # fmt: skip
        """``out[name] += weight * (J^T H_L J v)[name]``: H_L is the Hessian of the loss as a function of the logits.
        ``token_weights``: see :meth:`hessian`."""
        return self._reverse(batch, tangents, out, weight, True, token_weights)

    def gradient(
        self, batch: Any, out: Mapping[str, Tensor], weight: float = 1.0, token_weights: Tensor | None = None
    ) -> Result:
        """``out[name] += weight * gradient[name]``; ``out`` has a leading axis of length 1. ``token_weights``: see
        :meth:`hessian`."""
        count = check_vectors(self.parameters, None, out)
        if count != 1:
            raise InvalidInputError(f"out: a gradient has a leading axis of 1, got {count}")
        return self._run(self._mode(None, out), batch, weight, 1, token_weights)

    def jvp(self, batch: Any, tangents: Mapping[str, Tensor], token_weights: Tensor | None = None) -> Result:
        """The loss and its derivative along each tangent, by a forward pass alone. ``token_weights``: see
        :meth:`hessian`."""
        count = check_vectors(self.parameters, tangents, None)
        return self._run(self._mode(tangents, None), batch, 1.0, count, token_weights)

    def token_jvp(self, batch: Any, tangents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Per target position: the loss (B, S'), its derivatives (K, B, S') and the labels (B, S'), -100 = ignored.

        S' is the number of positions that the model's loss looks at (shifted as the model shifts them).
        """
        check_vectors(self.parameters, tangents, None)
        mode = self._mode(tangents, None)
        with self._prepared(mode):
            self._forward(mode, batch)
        losses, labels = only_tokens(mode, batch)
        nll, nll_t = losses.forward() if isinstance(losses, Head) else (losses.primal, losses.tangent)
        return nll.view(labels.shape), nll_t.view(len(nll_t), *labels.shape), labels

    def weighted_gradient(self, batch: Any, token_weights: Tensor, out: Mapping[str, Tensor]) -> Result:
        """``out[name] += gradient of sum_n c_n nll_n`` for each of the K vectors of weights c.

        ``token_weights`` broadcasts to (K, B, S'), K the leading axis of ``out``, B and S' as :meth:`token_jvp` counts:
        (K, B, 1) weighs sequences. Positions without a target count for nothing. The result's loss is the plain sum.
        """
        count = check_vectors(self.parameters, None, out)
        mode = self._mode(None, out)
        with self._prepared(mode):
            self._forward(mode, batch)
            losses, labels = only_tokens(mode, batch)
            h = spread(token_weights, (count,), labels)
            with torch.no_grad():
                if isinstance(losses, Head):
                    nll = losses.one_stream(h)
                else:
                    nll = losses.primal
                    losses.slot.add(None, h.to(nll.dtype))
            self._sweep(mode)
        return Result(nll.double().sum(), None, mode.unused())

    def _reverse(self, batch, tangents, out, weight, one_stream: bool, token_weights: Tensor | None) -> Result:
        count = check_vectors(self.parameters, tangents, out)
        return self._run(self._mode(tangents, out, one_stream), batch, weight, count, token_weights)

    def _mode(self, tangents, out, one_stream: bool = False) -> DualMode:
        heads = frozenset(id(w) for w in output_weights(self.model))
        given = None if tangents is None else dict(tangents)
        return DualMode(self.parameters, given, None if out is None else dict(out), one_stream, heads)

    def _run(
        self, mode: DualMode, batch: Any, weight: float, count: int, token_weights: Tensor | None = None
    ) -> Result:
        """Forward, and where there are accumulators the reverse sweep."""
        with self._prepared(mode):
            loss = self._forward(mode, batch)
            with torch.no_grad():
                if token_weights is not None:
                    losses, labels = only_tokens(mode, batch)
                    loss = weighted_tokens(mode, losses, spread(token_weights, (), labels))
                if isinstance(loss.pending, DeferredLoss):
                    value, tangent = loss.pending.finish(mode, weight)
                else:
                    mode.forced(loss)
                    value, tangent = loss.primal.double().reshape(()), loss.tangent
                    if mode.tape is not None:
                        _seed(loss, mode, weight)
                if mode.has_tangents:
                    tangent = value.new_zeros(count) if tangent is None else tangent.double().reshape(count)
            del loss
            self._sweep(mode)
        return Result(value, tangent, mode.unused(), mode.tokens[0][1] if len(mode.tokens) == 1 else None)

    @contextmanager
    def _prepared(self, mode: DualMode) -> Iterator[None]:
        """The model with the pass's own forward functions; all comes back afterwards. One pass at a time."""
        if any(isinstance(one, DualMode) for one in _get_current_function_mode_stack()):
            raise InvalidInputError(
                "loss: it makes a product or gradient by fastunlearn itself, whose values this pass would take for its "
                "own: compute that first, outside of the loss"
            )
        policy = BlockPolicy(len(self._blocks), self._kept_bytes(mode))
        around = self._reversing
        contexts = [nullcontext if around is None else partial(around, block) for block in self._blocks]
        replacements = [
            (block, lambda own, i=i: block_forward(mode, own, i, policy, contexts[i]))
            for i, block in enumerate(self._blocks)
        ] + [(m, lambda own, m=m: self._modules.forward(mode, m, own)) for m in self._modules.candidates]
        forwards, rotary = replaced_forwards(mode, replacements), self._rotary.replaced(mode)
        clean = without_leftovers(self.model)
        with PASS, _without_cache(self.model), clean, forwards, rotary, followed_functions(mode):
            yield

    def _kept_bytes(self, mode: DualMode) -> int | None:
        """The budget. While a CUDA graph is recorded it is that of the pass before: the same blocks are kept."""
        like = next(iter(self.parameters.values()))
        if not recording(like) or self._budget is _UNKNOWN:
            self._budget = memory_budget(self._memory, mode.out_bytes, like.device)
        return self._budget

    def _forward(self, mode: DualMode, batch: Any) -> Dual:
        check_batch(batch)
        check_dropout(self.model)
        with varied(self.parameters), torch.enable_grad(), mode:
            value = loss_of(self.model, batch) if self._loss is None else self._loss(self.model, batch)
            value = mode.lookup(value, False)
        return as_loss(value)

    def _sweep(self, mode: DualMode) -> None:
        if mode.tape is not None:
            with torch.no_grad():
                mode.tape.reverse()


def _seed(loss: Dual, mode: DualMode, weight: float) -> None:
    """The adjoint of the loss itself: of its tangent where there are tangents, else of its value."""
    if mode.has_tangents:
        loss.slot.add(torch.full_like(loss.primal, weight), None)
    else:
        loss.slot.add(None, torch.full((1, *loss.primal.shape), weight, dtype=loss.dtype, device=loss.device))


def loss_of(model: nn.Module, batch: Any) -> Any:
    """``model(**batch).loss``, without a cache of keys and values where the model knows such a thing."""
    if not isinstance(batch, Mapping):
        raise InvalidInputError(f"batch: expected a mapping of the model's arguments, got {type(batch).__name__}")
    options = dict(batch)
    takes = inspect.signature(model.forward).parameters
    if "use_cache" in takes and "use_cache" not in options:
        options["use_cache"] = False
    output = model(**options)
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if loss is None and isinstance(output, tuple) and output:
        loss = output[0] if getattr(output[0], "ndim", None) == 0 else output[-1]
    if loss is None:
        raise InvalidInputError("batch: the model returned no loss: add 'labels' to the batch, or pass loss=function")
    return loss


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """The model without a key-value cache; its configuration comes back afterwards."""
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    if cached:
        config.use_cache = False
    try:
        yield
    finally:
        if cached:
            config.use_cache = cached
