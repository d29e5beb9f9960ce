"""The dual pass: values with tangents through any model, and one reverse sweep (see docs/dual.md)."""

from .dual_pass import DualPass, Result
from .values import UnsupportedOperationError

__all__ = ["DualPass", "Result", "UnsupportedOperationError"]
