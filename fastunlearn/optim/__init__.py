"""Second order in training: optimizers of PyTorch's kind that take their curvature from fastunlearn's operators."""

from .diagonal import diagonal_estimate
from .natural_gradient import NaturalGradient, natural_gradient
from .sophia import Sophia, curvature_update, sophia_update

__all__ = ["NaturalGradient", "Sophia", "curvature_update", "diagonal_estimate", "natural_gradient", "sophia_update"]
