"""What the GPU kernels are to reach, and what a GPU's result files say of it: one row for each goal.

A goal without its result file, or whose way did not run, is "not measured"; nothing is taken from another machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GOALS", "Goal", "Verdict", "verdicts"]

Case = dict
OURS = "fastunlearn"


@dataclass(frozen=True)
class Verdict:
    """``measured``: in words; ``met`` None where there is nothing to judge by."""

    work: str
    goal: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Goal:
    """``judge``: from the cases of the subject's result file to the words and the verdict; None: not measured there."""

    work: str
    goal: str
    subject: str
    judge: Callable[[list[Case]], tuple[str, bool] | None]


def _seconds(case: Case, way: str) -> float | None:
    return case["ways"].get(way, {}).get("seconds")


def _at_most(value: float | None, limit: float, unit: str) -> tuple[str, bool] | None:
    return None if value is None else (f"{value:.2f} {unit}", value <= limit)


def _gradients(model: str, tokens: int, limit: float) -> Callable[[list[Case]], tuple[str, bool] | None]:
    """Our product in gradients of the model, the fastest that was measured."""

    def judge(cases: list[Case]) -> tuple[str, bool] | None:
        found = [c for c in cases if c["model"] == model and c["tokens"] == tokens]
        return _at_most(found[0]["ways"][OURS].get("gradients"), limit, "gradients") if found else None

    return judge


def _others(case: Case) -> dict[str, dict]:
    """The exact products of other tools that ran."""
    return {name: way for name, way in case["ways"].items()
            if name != OURS and not name.startswith("gradient") and "seconds" in way}  # fmt: skip


def _peers(cases: list[Case]) -> tuple[str, bool] | None:
    """The longest sequence at which a peer runs too: its time and memory over ours."""
    for case in sorted(cases, key=lambda c: -c["tokens"]):
        ours, others = case["ways"][OURS], _others(case)
        if "seconds" in ours and others:
            name = min(others, key=lambda n: others[n]["seconds"])
            faster, memory = others[name]["seconds"] / ours["seconds"], ours["peak_bytes"] / others[name]["peak_bytes"]
            words = f"{faster:.1f} times, {memory:.2f} of the memory ({name}, {case['tokens']} tokens)"
            return words, faster >= 4 and memory <= 0.25
    return None


def _largest(cases: list[Case]) -> tuple[str, bool] | None:
    own = _gradients("llama-3.1-8b", 8192, 3.2)(cases)
    if own is None:
        return None
    ran = list(_others(cases[0]))
    return f"{own[0]}; peers that run: {', '.join(ran) or 'none'}", own[1] and not ran


def _attention_forward(cases: list[Case]) -> tuple[str, bool] | None:
    ratios = []
    for case in cases:
        ours, peers = _seconds(case, "dual forward"), [
            way["seconds"] for name, way in case["ways"].items()
            if name.startswith("jvp_flash_attention") and "seconds" in way
        ]  # fmt: skip
        if ours and peers:
            ratios.append(min(peers) / ours)
    errors = [(c["errors"]["ot"], c["errors"]["jvp_flash_attention: ot"]) for c in cases
              if "jvp_flash_attention: ot" in c.get("errors", {})]  # fmt: skip
    if not ratios or not errors:
        return None
    lower = all(ours < theirs for ours, theirs in errors)
    words = f"{min(ratios):.2f} to {max(ratios):.2f} times, error {'lower' if lower else 'not lower'}"
    return words, min(ratios) >= 1.5 and lower


def _share(way: str, kind: str, least: float, **fixed) -> Callable[[list[Case]], tuple[str, bool] | None]:
    """The shares of a way over the cases with these values; the lowest counts."""

    def judge(cases: list[Case]) -> tuple[str, bool] | None:
        shares = [
            result[kind]
            for case in cases if all(case[name] == value for name, value in fixed.items())
            for name, result in case["ways"].items() if name.startswith(way) and kind in result
        ]  # fmt: skip
        if not shares:
            return None
        return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %", min(shares) >= least

    return judge


def _gram(cases: list[Case]) -> tuple[str, bool] | None:
    """The faster of our two kernels, at every length of samples."""
    best = [
        max(way["share_of_product_rate"] for way in case["ways"].values() if "share_of_product_rate" in way)
        for case in cases if any("share_of_product_rate" in way for way in case["ways"].values())
    ]  # fmt: skip
    return (f"{100 * min(best):.0f} to {100 * max(best):.0f} %", min(best) >= 0.6) if best else None


def _cross_entropy(cases: list[Case]) -> tuple[str, bool] | None:
    ours = cases[0]["ways"][OURS]
    peers = [way for name, way in cases[0]["ways"].items() if name.startswith("hessian-eig") and "seconds" in way]
    if "seconds" not in ours or not peers:
        return None
    peer = min(peers, key=lambda way: way["seconds"])
    faster, memory = peer["seconds"] / ours["seconds"], ours["peak_bytes"] / peer["peak_bytes"]
    return f"{faster:.1f} times, {memory:.2f} of the memory", faster >= 3 and memory <= 0.1


def _newton(cases: list[Case]) -> tuple[str, bool] | None:
    return _at_most(cases[0]["ways"][OURS].get("gradients"), 4.0, "gradients")


def _accuracy(cases: list[Case]) -> tuple[str, bool] | None:
    errors = cases[0]["errors"]
    return _at_most(errors["product"] / errors["gradient of torch"], 1.5, "times")


GOALS = (
    Goal("Hessian product, Llama 3.2 1B, 1 x 4096, against its fastest gradient", "at most 3.0", "hvp",
         _gradients("llama-3.2-1b", 4096, 3.0)),
    Goal("the same against the fastest exact peer", "4 times as fast, 1/4 of the memory", "hvp", _peers),
    Goal("Hessian product, Llama 3.1 8B, 1 x 8192, one GPU", "at most 3.2 gradients; no peer runs", "hvp-large",
         _largest),
    Goal("attention, dual forward, against jvp_flash_attention", "1.5 times as fast, lower error", "attention",
         _attention_forward),
    Goal("attention, dual backward, counted in its 15 products", "50 % of the plain product's rate", "attention",
         _share("dual backward", "share_of_product_rate", 0.5)),
    Goal("output layer's Hessian product, 4096 x 4096 to 128256, against hessian-eigenthings",
         "3 times as fast, 1/10 of the memory", "cross-entropy", _cross_entropy),
    Goal("ghost Gram, 32768 tokens, 4096 x 4096", "60 % of the plain product's rate", "ghost-gram", _gram),
    Goal("streaming apply of stored gradients", "85 % of the copy's rate", "explicit-rows",
         _share("G", "share_of_copy_rate", 0.85)),
    Goal("Newton direction, 512 samples x 256 tokens, 1B, by layers", "at most 4 gradients", "newton", _newton),
    Goal("error of the Hessian product in bfloat16 against that of PyTorch's gradient", "at most 1.5 times", "accuracy",
         _accuracy),
)  # fmt: skip


def verdicts(results: Path, gpu: str) -> list[Verdict]:
    """One for each goal, from ``results / <gpu>-<subject>.json``."""
    found = []
    for goal in GOALS:
        path = results / f"{gpu}-{goal.subject}.json"
        judged = goal.judge(json.loads(path.read_text(encoding="utf-8"))["cases"]) if path.exists() else None
        words, met = judged or ("not measured", None)
        found.append(Verdict(goal.work, goal.goal, words, met))
    return found
