"""Second-order work on causal language models, cheap enough to use, and unlearning built on it."""

from fastunlearn.errors import FastUnlearnError
from fastunlearn.info import info
from fastunlearn.solve import KeptFisher, LowRankFisher
from fastunlearn.unlearn import METHODS, UnlearnResult, keep_fisher, unlearn

__version__ = "0.1.0"
__all__ = ["METHODS", "FastUnlearnError", "KeptFisher", "LowRankFisher", "UnlearnResult", "info", "keep_fisher",
           "unlearn"]  # fmt: skip
