"""Memory holds the factors of one Fisher: a step's are gone when the next one is made."""

from __future__ import annotations

import weakref

import pytest

from fastunlearn.unlearn.curvature import Sides
from tests.unlearn.running import run

FEW = {"steps": 3, "target_accuracy": 0.0}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fisher-removal", FEW), ("fisher-forgetting", FEW), ("newton-steps", FEW | {"damping": 1.0}), ("k-fade", FEW),
        ("kronecker-removal", FEW), ("gauss-newton-removal", FEW | {"products": 2}),
        ("kronecker-removal-rehearsed", FEW | {"rehearsals": 11}),
    ],
)  # fmt: skip
def test_the_last_one_is_freed_before_the_next(world, monkeypatch, method, options):
    plain, made = Sides.gradients, []

    def gradients(self, samples, loss, label, **more):
        if label == "retained records":
            assert all(one() is None for one in made), f"the gradients of an earlier Fisher, of {len(made)}, live on"
        found = plain(self, samples, loss, label, **more)
        if label == "retained records":
            made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Sides, "gradients", gradients)
    run(world, method, **options)
    assert len(made) >= 3
