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
from fastunlearn.ops.known_modules import ACTIVATIONS, epsilon_of, is_rms_norm

from .rules.activation import activate
from .rules.norm import dual_norm
from .values import Dual

__all__ = ["ModuleRules", "agree"]

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}  # norms compute in float32 inside; half types: 2e-2
_EXACT = 1e-12  # of activations in float64: Bloom's GELU has a constant of eight digits and is left alone there

Rule = Callable[[Any, Dual], Any]


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
            if id(module) not in self._rules:
                with torch.no_grad(), torch._C.DisableTorchFunction():
                    self._rules[id(module)] = _checked_rule(module, own, x.primal)
            rule = self._rules[id(module)]
            if rule is None:
                return own(*args, **kwargs)
            with torch.no_grad(), torch._C.DisableTorchFunction():
                return rule(mode, x)

        return run


def _checked_rule(module: nn.Module, own: Callable, x: Tensor) -> Rule | None:
    kind = ACTIVATIONS.get(type(module).__name__)
    result = own(x)
    if not isinstance(result, Tensor):
        return None
    if kind is not None:
        found = activation_op.dual_forward(x, None, kind)[0]
        return (lambda mode, value: activate(value, kind)) if agree(result, found, True) else None
    eps = epsilon_of(module)
    weight = module.weight
    if eps is None or weight.dtype != x.dtype or x.shape[-1] != weight.shape[0]:
        return None
    for offset in (0.0, 1.0):
        rows = x.reshape(-1, x.shape[-1])
        found, _ = norm_op.rms_norm_dual_forward(rows, None, weight.detach(), None, eps, offset)
        if agree(result, found.view(x.shape)):
            return lambda mode, value: dual_norm(mode, value, mode.lookup(weight, True), None, eps, offset, False)
    return None
