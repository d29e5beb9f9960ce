"""The CPU kernels of ``act(gate) * up``; the binding is in the folder of the activations, which share them."""

from fastunlearn.ops.activation._cpu_gated import dual_backward, dual_forward

__all__ = ["dual_backward", "dual_forward"]
