"""Unlearning: a method is a direction, a guard and an update (registry.py lists them)."""

from .api import keep_fisher, unlearn
from .registry import METHODS, Method, get_method
from .result import UnlearnResult

__all__ = ["METHODS", "Method", "UnlearnResult", "get_method", "keep_fisher", "unlearn"]
