"""Modules that are written out of small pieces and are one op: which op, by their name and parts.

Only a guess: whoever uses it compares the op with the module's own result first.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "epsilon_of", "is_rms_norm"]

#: Class name of a module without parameters -> the kind of ops.activation that it computes.
ACTIVATIONS = {
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "BloomGelu": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "ReLUSquaredActivation": "relu2",
}


def is_rms_norm(module: nn.Module) -> bool:
    """Whether ``module`` looks like an RMSNorm with one weight vector (PyTorch's own is an op already)."""
    weight = getattr(module, "weight", None)
    named = "RMSNorm" in type(module).__name__ and not isinstance(module, nn.RMSNorm)
    return named and isinstance(weight, Tensor) and weight.dim() == 1 and len(list(module.parameters())) == 1


def epsilon_of(module: nn.Module) -> float | None:
    """The epsilon of an RMSNorm, under the names that are in use; None where it has none of them."""
    values = (getattr(module, name, None) for name in ("variance_epsilon", "eps", "epsilon"))
    return next((value for value in values if isinstance(value, float)), None)
