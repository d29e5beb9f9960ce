"""The recursion by which the paper inverts the Fisher, kept as the oracle of the tests: O(m P^2), dense.

    F_0^-1 = I / damping
    F_i^-1 = F_{i-1}^-1 - (F_{i-1}^-1 g_i)(F_{i-1}^-1 g_i)^T / (m + g_i^T F_{i-1}^-1 g_i)

(Singh & Alistarh 2020, WoodFisher; used by arXiv 2403.10557.) It equals the Woodbury form exactly, and loses
digits as the damping falls: fastunlearn solves by :mod:`~fastunlearn.solve.sample_space`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sample_space import check_damping

__all__ = ["woodfisher_inverse"]


def woodfisher_inverse(gradients: Tensor, damping: float) -> Tensor:
    """``(damping I + G^T G / m)^-1`` (P, P) for rows of per-sample gradients G (m, P), in G's dtype."""
    samples, width = gradients.shape
    inverse = torch.eye(width, dtype=gradients.dtype, device=gradients.device) / check_damping(damping)
    for g in gradients:
        pulled = inverse @ g
        inverse -= torch.outer(pulled, pulled) / (samples + g @ pulled)
    return inverse
