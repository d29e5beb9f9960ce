"""A realistic report document, for tests and for looking at the page: run this file with a folder's name."""

from __future__ import annotations

import math
import sys

from fastunlearn.audit.document import build_document, entry
from fastunlearn.audit.html import write_report


def metrics(forget, retain, held_out, kl_retain, kl_forget, auc, bits, kept_bits) -> dict:
    """A dictionary as ``measure`` gives it."""

    def one(accuracy: float, samples: int) -> dict:
        loss = 0.05 + 2.4 * (1 - accuracy)
        size = {"samples": samples, "tokens": samples}
        return {"loss": loss, "perplexity": math.exp(loss), "accuracy": accuracy, **size}

    canary = {"rank": 3.0, "candidates": 1000, "bits": 8.38, "forgotten": True}
    return {
        "forget": one(forget, 63), "retain": one(retain, 1143), "held_out": one(held_out, 300),
        "kl_forget": kl_forget, "kl_retain": kl_retain, "kl_held_out": kl_retain,
        "exposure": [canary, {**canary, "forgotten": False}],
        "exposure_forget": bits, "exposure_retain": kept_bits,
        "membership": {"auc": auc, "low": max(0.0, auc - 0.06), "high": min(1.0, auc + 0.05), "level": 0.95},
    }  # fmt: skip


def way(forget, kl, count: int, bend: float) -> list[dict]:
    """Steps from the original (0.98, 0.021) to (forget, kl)."""
    steps = []
    for index in range(1, count + 1):
        share = index / count
        steps.append(
            {
                "step": index,
                "forget_accuracy": 0.98 + (forget - 0.98) * share,
                "kl_retain": 0.021 * (kl / 0.021) ** (share**bend),
                "retain_accuracy": 0.97 - 0.02 * share,
            }
        )
    return steps


METHODS = {
    # label, uses retain, gradients, seconds; accuracies: forget, retain, held out; KL: retain, forget; AUC;
    # exposure: forgotten, kept
    "fisher-removal": ("Fisher removal", True, 1206, 8.4, 0.09, 0.968, 0.085, 0.0172, 0.31, 0.52, 1.2, 9.8),
    "fisher-removal-retain-free": (
        "Fisher removal, retain-free", False, 63, 1.1, 0.10, 0.951, 0.083, 0.0325, 0.42, 0.55, 1.6, 9.1),
    "newton": ("Newton step", True, 2412, 14.2, 0.095, 0.962, 0.09, 0.0221, 0.35, 0.47, 0.9, 9.5),
    "fisher-forgetting": (
        "Fisher forgetting (noise)", True, 1206, 3.3, 0.11, 0.74, 0.07, 0.61, 0.93, 0.44, 1.1, 4.2),
    "gradient-ascent": ("Gradient ascent", False, 630, 2.1, 0.0, 0.41, 0.03, 2.84, 5.6, 0.08, 0.4, 2.1),
    "gradient-difference": (
        "Gradient difference", True, 1890, 6.9, 0.08, 0.941, 0.081, 0.094, 1.7, 0.19, 0.8, 8.0),
    "npo": (
        "Negative preference optimisation", True, 3780, 15.1, 0.105, 0.955, 0.084,
        0.0714, 0.88, 0.31, 1.3, 8.8),
    "finetune": (
        "Fine-tuning on retained data", True, 7900, 187.0, 0.86, 0.985, 0.088, 0.0188, 1.9, 0.97, 8.3, 9.9),
}  # fmt: skip


def sample_document(**changes) -> dict:
    """The document, with ``changes`` to the arguments of ``build_document``."""
    methods = {}
    for name, (label, uses, gradients, seconds, *numbers) in METHODS.items():
        methods[name] = entry(
            label, metrics(*numbers), uses_retain=uses, gradients=gradients, seconds=seconds,
            peak_bytes=410_000_000 + 1000 * gradients,
            settings={
                "damping": 0.001, "steps": 5, "step_size": 0.5, "parameters": ["*.mlp.*", "*.self_attn.*"],
            },
            stopped="the forget accuracy reached the target", steps=way(numbers[0], numbers[3], 6, 1.5),
            frontier=[{"forget_accuracy": min(1.0, numbers[0] + 0.12), "kl_retain": numbers[3] * 0.8}],
        )  # fmt: skip
    arguments = {
        "title": "Unlearning ten invented people",
        "created": "2026-01-31",
        "seed": 0,
        "original": entry(
            "original", metrics(0.98, 0.97, 0.09, 0.021, 3.4, 0.99, 9.97, 9.9), uses_retain=True,
            gradients=96000, seconds=212.0, peak_bytes=640_000_000,
            settings={"steps": 2000, "learning_rate": 1e-3},
        ),
        "reference": entry(
            "retrained", metrics(0.095, 0.972, 0.088, 0.0, 0.0, 0.51, 1.4, 9.9), uses_retain=True,
            gradients=91000, seconds=201.0, peak_bytes=640_000_000,
            settings={"steps": 2000, "learning_rate": 1e-3},
        ),
        "methods": methods,
        "data": {"forget": {"records": 63, "people": 10}, "retain": {"records": 1143, "people": 190},
                 "held_out": {"records": 300, "people": 50}, "canaries": 6},
        "model": {"architecture": "LlamaForCausalLM", "parameters": 1_204_224, "layers": 4},
        "settings": {"target_tolerance": 0.02, "batch_size": 32},
        "notes": ["The people are invented; the data was generated from the seed."],
        **changes,
    }  # fmt: skip
    return build_document(**arguments)


if __name__ == "__main__":
    print(write_report(sample_document(), sys.argv[1])[1])
