"""Modules that are written out of small pieces and are one operation: RMSNorm and some activations.

A module is recognised by its name and parts, and *checked*: on the first real input its own forward is compared with
the operation. Where they differ, the module's own code runs, piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.ops import activation as activation_op
from fastunlearn.ops import norm as norm_op
from fastunlearn.ops._recording import recording
from fastunlearn.ops.known_modules import ACTIVATIONS, epsilon_of, is_rms_norm

from .rules.activation import activate
from .rules.norm import dual_norm
from .values import Dual, ParameterSlot

__all__ = ["ModuleRules", "agree"]

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}  # norms compute in float32 inside; half types: 2e-2
_EXACT = 1e-12  # of activations in float64: Bloom's GELU has a constant of eight digits and is left alone there

Rule = Callable[[Any, Dual], Any]  # None: this time the module's own code


def agree(own: Tensor, found: Tensor, exact: bool = False) -> bool:
    """Whether an operation's result is that of the model's own code, to the rounding of their dtype."""
    if own.shape != found.shape or own.dtype != found.dtype:
        return False
    scale = own.abs().max().clamp_min(1e-30)
    limit = _EXACT if exact and own.dtype == torch.float64 else _TOLERANCE.get(own.dtype, 2e-2)
    return bool((own - found).abs().max() <= limit * scale)


class ModuleRules:
    """The modules of a model that have a rule; what the check of each said is remembered."""

    def __init__(self, model: nn.Module) -> None:
        self.candidates = [m for m in model.modules() if is_rms_norm(m) or type(m).__name__ in ACTIVATIONS]
        self._rules: dict[int, Rule | None] = {}

    def forward(self, mode: Any, module: nn.Module, own: Callable) -> Callable:
        """The forward function that takes the place of ``own``, the module's, during a pass."""

        def run(*args: Any, **kwargs: Any) -> Any:
            x = mode.lookup(args[0], True) if len(args) == 1 and not kwargs else None
            if not isinstance(x, Dual) or not torch.is_grad_enabled():
                return own(*args, **kwargs)
            with torch.no_grad(), torch._C.DisableTorchFunction():
                found = self._rule(mode, module, own, x)
                result = None if found is None else found(mode, x)
            return own(*args, **kwargs) if result is None else result

        return run

    def _rule(self, mode: Any, module: nn.Module, own: Callable, x: Dual) -> Rule | None:
        """What the check says, from memory where it has been able to tell."""
        if id(module) not in self._rules:
            if recording(x.primal):  # a graph cannot look at values; what ran before it could not tell either
                return None
            kind = ACTIVATIONS.get(type(module).__name__)
            rules = _norms(mode, module, own, x) if kind is None else _activations(kind, own, x.primal)
            if len(rules) > 1:  # an input that tells them not apart, all zeros for instance
                return None
            self._rules[id(module)] = next(iter(rules), None)
        return self._rules[id(module)]


def _activations(kind: str, own: Callable, x: Tensor) -> list[Rule]:
    result = own(x)
    found = activation_op.dual_forward(x, None, kind)[0]
    fits = isinstance(result, Tensor) and agree(result, found, True)
    return [lambda mode, value: activate(value, kind)] if fits else []


def _norms(mode: Any, module: nn.Module, own: Callable, x: Dual) -> list[Rule]:
    """The norms, with weight or 1 + weight, whose result is the module's."""
    weight = _weight(mode, module, x)
    eps, rows = epsilon_of(module), x.primal.reshape(-1, x.shape[-1])
    if weight is None or eps is None:
        return []
    result = own(x.primal)
    plain = weight.primal if isinstance(weight, Dual) else weight.detach()
    if not isinstance(result, Tensor):
        return []
    pairs = [(o, norm_op.rms_norm_dual_forward(rows, None, plain, None, eps, o)[0].view(x.shape)) for o in (0.0, 1.0)]
    fitting = [(offset, found) for offset, found in pairs if agree(result, found)]
    if len(fitting) > 1:  # weights of 50 and more in a half type: small ones among them tell
        fitting = [pair for pair in fitting if _agree_everywhere(result, pair[1])] or fitting
    return [_norm(module, offset) for offset, _ in fitting]


def _norm(module: nn.Module, offset: float) -> Rule:
    def rule(mode: Any, value: Dual) -> Any:
        weight, eps = _weight(mode, module, value), epsilon_of(module)
        return None if weight is None or eps is None else dual_norm(mode, value, weight, None, eps, offset, False)

    return rule


def _weight(mode: Any, module: nn.Module, x: Dual) -> Tensor | None:
    """The module's weight of now. None for one that it computes (a parametrised one), which its own code has to do."""
    weight = mode.lookup(module._parameters.get("weight"), True)
    if not isinstance(weight, Tensor) or weight.dtype != x.dtype or weight.shape != x.shape[-1:]:
        return None
    return None if isinstance(weight, Dual) and not isinstance(weight.slot, ParameterSlot) else weight


def _agree_everywhere(own: Tensor, found: Tensor) -> bool:
    limit = _TOLERANCE.get(own.dtype, 2e-2)
    return bool(((own - found).abs() <= limit * own.abs()).all())
