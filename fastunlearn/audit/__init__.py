"""Measure how far a model has forgotten, how near it is to one retrained, attack it, and report it."""

import importlib

_PACKAGES = ("attacks", "metrics")


def __getattr__(name: str) -> object:
    if name not in _PACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")  # when first used: it takes PyTorch


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES})
