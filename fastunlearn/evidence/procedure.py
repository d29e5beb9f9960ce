"""What was done to the weights: arguments, settings, curvature, the log of steps and the decisions of the guard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fastunlearn.errors import InvalidInputError

from .canonical import file_digest
from .run import RunRecord

__all__ = ["procedure", "took_steps"]

_CURVATURE = ("damping", "blocks", "kind", "fisher_samples", "refresh", "noise", "noise_floor")
_KEPT = ("format", "damping", "samples", "kind", "weights")


def _kept(path) -> dict | None:
    """What a kept Fisher says of itself, and the digest of its file."""
    if path is None:
        return None
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("fastunlearn", "{}"))
            rank = file.get_slice("core").get_shape()[0]
        digest, size = file_digest(Path(path).resolve())
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidInputError(f"kept_fisher: {path} cannot be read ({error})") from error
    return {key: about.get(key) for key in _KEPT} | {"rank": rank, "sha256": digest, "bytes": size}


def _guard(steps: list[dict], budget: float | None) -> list[dict]:
    """Of each step with a guard: the share of the proposal that was taken, and the drift after it."""
    found = []
    for step in steps:
        scale = step.get("scale", step.get("noise_scale"))
        if scale is not None:
            decision = "refused" if scale == 0 else "taken whole" if scale == 1 else "shortened"
            found.append({"step": step.get("step"), "decision": decision, "share": scale, "drift": step.get("kl_probe"),
                          "budget": budget})  # fmt: skip
    return found


def took_steps(result: Mapping) -> bool:
    """Whether a result (or a procedure) has a step beyond the look at the beginning."""
    steps = result.get("steps")
    return not isinstance(steps, list) or any(not isinstance(one, dict) or one.get("step") != 0 for one in steps)


def procedure(run: RunRecord) -> dict:
    """``arguments``, ``curvature``, ``steps`` (norms, leverage and drift are in them), ``guard``, ``stopped``, costs.

    Raises InvalidInputError where ``result`` lacks what ``UnlearnResult.to_dict`` gives.
    """
    result = dict(run.result)
    missing = {"method", "settings", "steps", "stopped", "parameters", "seed", "gradients", "seconds"} - result.keys()
    if missing:
        raise InvalidInputError(f"result lacks {', '.join(sorted(missing))}: give UnlearnResult.to_dict()")
    settings = result["settings"]
    return {
        "arguments": dict(run.arguments),
        "method": result["method"],
        "settings": settings,
        "curvature": {key: settings[key] for key in _CURVATURE if key in settings},
        "kept_fisher": _kept(run.kept_fisher),
        "steps": result["steps"],
        "guard": _guard(result["steps"], settings.get("kl_budget")),
        "stopped": result["stopped"],
        "parameters": result["parameters"],
        "seed": result["seed"],
        "device": run.device,
        "cost": {key: result.get(key) for key in ("gradients", "seconds", "peak_bytes")},
        "records": result.get("records"),
        "notes": list(result.get("notes", [])),
    }
