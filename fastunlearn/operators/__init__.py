"""Curvature and per-sample gradients as linear operators: multiplied with, never formed."""
