"""Second-order work on causal language models, cheap enough to use, and unlearning built on it."""

import importlib
import sys
import types

__version__ = "0.1.0"

# Where each public name lives (after a colon: under which other name). A name's module is imported when the name is
# first used: PyTorch and transformers take seconds, and ``fastunlearn --help`` needs neither.
_HOMES = {
    "FastUnlearnError": "fastunlearn.errors",
    "Fisher": "fastunlearn.operators.fisher",
    "GGN": "fastunlearn.operators.ggn",
    "Hessian": "fastunlearn.operators.hessian",
    "Identity": "fastunlearn.operators.base",
    "KeptFisher": "fastunlearn.solve",
    "LowRankFisher": "fastunlearn.solve",
    "UnlearnResult": "fastunlearn.unlearn",
    "accelerate": "fastunlearn.accelerate",
    "accelerated": "fastunlearn.accelerate",
    "gradient": "fastunlearn.operators.first_order",
    "influence": "fastunlearn.analysis",
    "info": "fastunlearn.info",
    "jvp": "fastunlearn.operators.first_order",
    "keep_fisher": "fastunlearn.unlearn",
    "methods": "fastunlearn.unlearn:METHODS",
    "per_sample_dot": "fastunlearn.operators.sample_space",
    "precision": "fastunlearn.ops.linear",
    "sharpness": "fastunlearn.analysis",
    "spectrum": "fastunlearn.analysis",
    "trace": "fastunlearn.analysis",
    "unlearn": "fastunlearn.unlearn",
    "weighted_gradient": "fastunlearn.operators.sample_space",
}

#: Subpackages that are imported when they are first used.
_PACKAGES = ("audit",)
__all__ = list(_HOMES)


class _Package(types.ModuleType):
    """A package in which a submodule (``unlearn``, ``info``) never hides the public function of the same name: the
    import system binds every submodule that it loads as an attribute of its package."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *_HOMES, *_PACKAGES})


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, _, other = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(home), other or name)
    globals()[name] = value
    return value


sys.modules[__name__].__class__ = _Package
