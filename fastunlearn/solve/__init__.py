"""Solves with low-rank curvature: factor once, solve many."""

from .kept_fisher import KeptFisher, keep_fisher
from .low_rank_fisher import LowRankFisher
from .sample_space import SampleSpace, SampleSpaceFisher
from .woodfisher import woodfisher_inverse

__all__ = ["KeptFisher", "LowRankFisher", "SampleSpace", "SampleSpaceFisher", "keep_fisher", "woodfisher_inverse"]
