"""The gated activation by the kernels of ops/activation (they know ``up``); meaning as in reference.py."""

from fastunlearn.ops.activation.triton import gated_backward as dual_backward
from fastunlearn.ops.activation.triton import gated_forward as dual_forward

__all__ = ["dual_backward", "dual_forward"]
