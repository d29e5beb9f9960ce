"""How the tests run a method on the trained model."""

from __future__ import annotations

from fastunlearn.unlearn import METHODS, UnlearnResult, keep_fisher, unlearn

KEPT_DAMPING = 1e-6


def kept_fisher(world, **options):
    """The Fisher of all that the model was trained on, at full rank."""
    data = world.data["forget"] + world.data["retain"]
    return keep_fisher(world.model, world.tokenizer, data, **{"damping": KEPT_DAMPING, **options})


def run(world, method="fisher-removal", **options) -> UnlearnResult:
    """Runs the method on the world's model, with a kept Fisher where it needs one, and a learning rate that
    suits so small a model."""
    if METHODS[method].first_order:
        options = {"learning_rate": 1e-3, "gradients": 600, **options}
    if METHODS[method].uses_kept and "kept_fisher" not in options:
        options["kept_fisher"] = kept_fisher(world, parameters=options.get("parameters"))
    return unlearn(world.model, world.tokenizer, method=method, **{**world.data, **options})
