"""What the GPU kernels are to reach, and what a GPU's result files say of it: one row for each goal.

A goal is met where every case that it is about was measured, beside what it is compared with. Without its result file
it is "not measured", where one of our ways failed "failed", and where cases are missing (a file that was cut short) it
may be missed, but not met. Nothing is taken from another machine.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GOALS", "Goal", "Verdict", "verdicts"]

Case = dict
OURS, AUTO, RECOMPUTE = "fastunlearn", "fastunlearn, memory=auto", "fastunlearn, memory=recompute"
GRADIENT = "gradient, sdpa"
#: Exact products that PyTorch itself gives: tried wherever ours are compared with those of other tools.
PLAIN = ("double backward", "torch.func jvp of grad", "torch.func grad of jvp")


@dataclass(frozen=True)
class Verdict:
    """``measured``: in words; ``met`` None where there is nothing to judge by."""

    work: str
    goal: str
    measured: str
    met: bool | None


Judge = Callable[[list[Case]], tuple[str, bool] | None]


@dataclass(frozen=True)
class Goal:
    """``judge``: from the cases of the result files to the words and the verdict; None: not measured there.

    ``about``: what tells the cases that must be there from each other, such as their lengths; other cases are not
    looked at. ``ours``: ways that may not fail in them. ``beside``: ways that must have been tried in them."""

    work: str
    goal: str
    subjects: tuple[str, ...]
    judge: Judge
    about: tuple[Case, ...]
    ours: tuple[str, ...] = (OURS,)
    beside: tuple[str, ...] = ()

    def verdict(self, found: list[Case]) -> Verdict:
        cases = [case for case in found if any(_is(case, about) for about in self.about)]
        if not cases:
            return Verdict(self.work, self.goal, "not measured", None)
        failures = [words for case in cases for words in self._failures(case)]
        if failures:
            return Verdict(self.work, self.goal, f"failed: {failures[0]}", False)
        judged = self.judge(cases)
        if judged is None:
            return Verdict(self.work, self.goal, "not measured", None)
        words, met = judged
        there = sum(any(_is(case, about) and self._is_whole(case) for case in cases) for about in self.about)
        if there < len(self.about):
            words, met = f"{words} (cut short: {there} of {len(self.about)} cases)", None if met else met
        return Verdict(self.work, self.goal, words, met)

    def _failures(self, case: Case) -> list[str]:
        ways = [case, *(case["ways"].get(name, {}) for name in self.ours)]
        return [str(way["failed"]) for way in ways if way.get("failed")]

    def _is_whole(self, case: Case) -> bool:
        return all(name in case["ways"] for name in (*self.ours, *self.beside))


def _is(case: Case, about: Case) -> bool:
    return all(case.get(name) == value for name, value in about.items())


def _seconds(case: Case, way: str) -> float | None:
    return case["ways"].get(way, {}).get("seconds")


def _at_most(value: float | None, limit: float, unit: str) -> tuple[str, bool] | None:
    return None if value is None else (f"{value:.2f} {unit}", value <= limit)


def _gradients(way: str, limit: float) -> Judge:
    """Our product in gradients of the model, the fastest that was measured."""
    return lambda cases: _at_most(cases[0]["ways"].get(way, {}).get("gradients"), limit, "gradients")


def _others(case: Case) -> dict[str, dict]:
    """The exact products of other tools that ran."""
    return {name: way for name, way in case["ways"].items()
            if not name.startswith((OURS, "gradient")) and "seconds" in way}  # fmt: skip


def _peers(cases: list[Case]) -> tuple[str, bool] | None:
    """The longest sequence at which a peer runs too: its time and memory over ours."""
    for case in sorted(cases, key=lambda c: -c["tokens"]):
        ours, others = case["ways"].get(RECOMPUTE, {}), _others(case)
        if "seconds" in ours and others:
            name = min(others, key=lambda n: others[n]["seconds"])
            faster, memory = others[name]["seconds"] / ours["seconds"], ours["peak_bytes"] / others[name]["peak_bytes"]
            words = f"{faster:.1f} times, {memory:.2f} of the memory ({name}, {case['tokens']} tokens)"
            return words, faster >= 4 and memory <= 0.25
    return None


def _largest(cases: list[Case]) -> tuple[str, bool] | None:
    own = _gradients(AUTO, 3.2)(cases)
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
    lower = all(ours is not None and (theirs is None or ours < theirs) for ours, theirs in errors)  # None: not finite
    words = f"{min(ratios):.2f} to {max(ratios):.2f} times, error {'lower' if lower else 'not lower'}"
    return words, min(ratios) >= 1.5 and lower


def _share(ways: tuple[str, ...], kind: str, least: float) -> Judge:
    """The shares of these ways over the cases; the lowest counts."""

    def judge(cases: list[Case]) -> tuple[str, bool] | None:
        shares = [case["ways"][way][kind] for case in cases for way in ways if kind in case["ways"].get(way, {})]
        return (f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %", min(shares) >= least) if shares else None

    return judge


def _gram(cases: list[Case]) -> tuple[str, bool] | None:
    """The faster of our two kernels, at every length of samples."""
    best = [
        max(way["share_of_product_rate"] for way in case["ways"].values() if "share_of_product_rate" in way)
        for case in cases if any("share_of_product_rate" in way for way in case["ways"].values())
    ]  # fmt: skip
    return (f"{100 * min(best):.0f} to {100 * max(best):.0f} %", min(best) >= 0.6) if best else None


def _cross_entropy(cases: list[Case]) -> tuple[str, bool] | None:
    ours = cases[0]["ways"].get(OURS, {})
    peers = [way for name, way in cases[0]["ways"].items() if name.startswith("hessian-eig") and "seconds" in way]
    if "seconds" not in ours or not peers:
        return None
    peer = min(peers, key=lambda way: way["seconds"])
    faster, memory = peer["seconds"] / ours["seconds"], ours["peak_bytes"] / peer["peak_bytes"]
    return f"{faster:.1f} times, {memory:.2f} of the memory", faster >= 3 and memory <= 0.1


def _accuracy(cases: list[Case]) -> tuple[str, bool] | None:
    errors = cases[0].get("errors", {})
    if not errors.get("gradient of torch"):
        return None
    if errors["product"] is None:  # what strict JSON has for NaN and infinity
        return "not finite", False
    return _at_most(errors["product"] / errors["gradient of torch"], 1.5, "times")


def _model(name: str, tokens: int) -> Case:
    return {"model": f"llama-{name}", "tokens": tokens}


ATTENTION = tuple({"length": n, "head": head} for n, head in itertools.product((2048, 4096, 8192, 16384), (64, 128)))
PEER = ("jvp_flash_attention", "jvp_flash_attention, without TMA")
GRAM = ("fastunlearn: CUDA", "fastunlearn: Triton")
APPLY = ("G v", "G^T c")
GOALS = (
    Goal("Hessian product, Llama 3.2 1B, 1 x 4096, memory=auto, against its fastest gradient", "at most 3.0", ("hvp",),
         _gradients(AUTO, 3.0), (_model("3.2-1b", 4096),), (AUTO,), (GRADIENT, "gradient, sdpa, torch.compile")),
    Goal("Hessian product, Llama 3.2 1B, memory=recompute, against the fastest exact peer, at the longest sequence "
         "that it can take", "4 times as fast, 1/4 of the memory", ("hvp", "hvp-short"), _peers,
         (_model("3.2-1b", 4096), _model("3.2-1b", 1024)), (RECOMPUTE,), PLAIN),
    Goal("Hessian product, Llama 3.1 8B, 1 x 8192, memory=auto, one GPU", "at most 3.2 gradients; no peer runs",
         ("hvp-large",), _largest, (_model("3.1-8b", 8192),), (AUTO,), (GRADIENT, *PLAIN)),
    Goal("attention, dual forward, against jvp_flash_attention", "1.5 times as fast, lower error", ("attention",),
         _attention_forward, ATTENTION, ("dual forward",), PEER),
    Goal("attention, dual backward, counted in its 15 products", "50 % of the plain product's rate", ("attention",),
         _share(("dual backward",), "share_of_product_rate", 0.5), ATTENTION, ("dual backward",)),
    Goal("output layer's Hessian product, 4096 x 4096 to 128256, against hessian-eigenthings",
         "3 times as fast, 1/10 of the memory", ("cross-entropy",), _cross_entropy,
         ({"tokens": 4096, "width": 4096, "vocabulary": 128256},)),
    Goal("ghost Gram, 32768 tokens, 4096 x 4096", "60 % of the plain product's rate", ("ghost-gram",), _gram,
         tuple({"tokens": 32768, "length": length} for length in (1, 32, 256)), GRAM),
    Goal("streaming apply of stored gradients", "85 % of the copy's rate", ("explicit-rows",),
         _share(APPLY, "share_of_copy_rate", 0.85),
         tuple({"dtype": dtype} for dtype in ("float32", "bfloat16", "int8")), APPLY),
    Goal("Newton direction, 512 samples x 256 tokens, 1B, by layers", "at most 4 gradients", ("newton",),
         _gradients(OURS, 4.0), ({"samples": 512, "tokens": 256},), (OURS,), (GRADIENT,)),
    Goal("error of the Hessian product in bfloat16 against that of PyTorch's gradient", "at most 1.5 times",
         ("accuracy",), _accuracy, (_model("3.2-1b", 512),), ()),
)  # fmt: skip


def verdicts(results: Path, gpu: str) -> list[Verdict]:
    """One for each goal, from ``results / <gpu>-<subject>.json``."""
    found = []
    for goal in GOALS:
        paths = [results / f"{gpu}-{subject}.json" for subject in goal.subjects]
        cases = [case for path in paths if path.exists()
                 for case in json.loads(path.read_text(encoding="utf-8"))["cases"]]  # fmt: skip
        found.append(goal.verdict(cases))
    return found
