"""What the demonstration tries for each first-order method."""

from __future__ import annotations

__all__ = ["GRIDS"]

_SPEND = {"stop": "budget", "check_every": 8}  # retained data repairs on: the first point that forgets is not the best


def _rates(*rates: float, **more) -> list[dict]:
    return [{"learning_rate": rate, **more} for rate in rates]


def _repaired(*pairs: tuple[float, float], **more) -> list[dict]:
    return [{"learning_rate": rate, "retain_weight": weight, **more, **_SPEND} for rate, weight in pairs]


#: What is tried for each first-order method: chosen around the best of a wider search on the demo's model, seed 0.
GRIDS: dict[str, list[dict]] = {
    "gradient-ascent": _rates(5e-5, 3e-4, check_every=2),
    "npo": _rates(2e-5, 5e-5, beta=0.5, check_every=4) + _rates(5e-5, beta=0.1, check_every=4),
    "bounded-ascent": _rates(3e-5, 1e-4, check_every=2),
    "gradient-difference": _repaired((2e-4, 1.0), (3e-4, 2.0), (3e-4, 4.0), (4e-4, 1.0)),
    "npo-retain": _repaired((2e-4, 1.0), (4e-4, 1.0), (4e-4, 2.0), beta=0.5) + _repaired((3e-4, 1.0), beta=0.1),
    "bounded-difference": _repaired((2e-4, 1.0), (2e-4, 4.0), (4e-4, 4.0)),
    "finetune": [one | _SPEND for one in _rates(1e-3, 2e-3)],
}
