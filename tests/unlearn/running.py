"""How the tests run a method on the trained model."""

from __future__ import annotations

from fastunlearn.unlearn import METHODS, UnlearnResult, keep_fisher, unlearn
from fastunlearn.unlearn.descent import DescentSettings

KEPT_DAMPING = 1e-6
#: Methods that take many small steps on batches, within a budget of gradients.
DESCENTS = [name for name, method in METHODS.items() if issubclass(method.settings, DescentSettings)]


def kept_fisher(world, **options):
    """The Fisher of all that the model was trained on, at full rank."""
    data = world.data["forget"] + world.data["retain"]
    return keep_fisher(world.model, world.tokenizer, data, **{"damping": KEPT_DAMPING, **options})


def run(world, method="fisher-removal", **options) -> UnlearnResult:
    """Runs the method on the world's model, with a kept Fisher where it needs one, and a learning rate that
    suits so small a model."""
    if method in DESCENTS:
        more = {"learning_rate": 3e-3, "layer": 1} if method == "rmu" else {"learning_rate": 1e-3}
        options = {**more, "gradients": 600, **options}
    if METHODS[method].uses_kept and "kept_fisher" not in options:
        damping = 1e-3 if method == "win-u" else KEPT_DAMPING  # as for one-shot Newton: its step has no other bound
        options["kept_fisher"] = kept_fisher(world, parameters=options.get("parameters"), damping=damping)
    return unlearn(world.model, world.tokenizer, method=method, **{**world.data, **options})
