"""Solves with low-rank curvature: factor once, solve many."""

from .cg import cg
from .explicit import ExplicitFisher, StoredGradients
from .gauss_newton_space import GaussNewtonFisher
from .kept_fisher import KeptFisher, keep_fisher
from .kfac import KFAC
from .kronecker_space import KroneckerSampleFisher
from .low_rank_fisher import LowRankFisher
from .minres import minres
from .sample_kernel import SampleKernel, sketched_gram, solve_in_sample_space
from .sample_space import SampleSpace, SampleSpaceFisher
from .solution import Solution
from .spectral import Eigenpairs, Nystrom, lanczos, nystrom
from .woodfisher import woodfisher_inverse

__all__ = [
    "KFAC", "Eigenpairs", "ExplicitFisher", "GaussNewtonFisher", "KeptFisher", "KroneckerSampleFisher", "LowRankFisher",
    "Nystrom", "SampleKernel", "SampleSpace", "SampleSpaceFisher", "Solution", "StoredGradients", "cg", "keep_fisher",
    "lanczos", "minres", "nystrom", "sketched_gram", "solve_in_sample_space", "woodfisher_inverse",
]  # fmt: skip
