"""One sentence that says how the comparison came out, computed from the numbers of the document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fastunlearn.audit._words import EN
from fastunlearn.audit.document import is_first_order

__all__ = ["Verdict", "judge"]

TOLERANCE = 0.02


class Verdict(NamedTuple):
    """``text``: the sentence. ``ranking``: all methods, nearest to retraining first, those that did not
    forget to the target last. ``reached``: those that did. ``limit``: the highest forget accuracy that
    counts as forgotten, None without a target."""

    text: str
    ranking: list[str]
    reached: list[str]
    limit: float | None


def kl_text(value: float) -> str:
    """A divergence with two to three significant digits."""
    return "0" if value == 0 else f"{value:.3g}" if value >= 1e-3 else f"{value:.1e}"


def share_text(value: float) -> str:
    """A share as a percentage with one digit after the point."""
    return f"{100 * value:.1f}\u202f%"


def _times(near: float, far: float) -> str:
    ratio = far / near
    return f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def _compare(methods: dict, reached: list[str], w: Mapping) -> str:
    """How the best method stands to the best one of the other kind."""
    kinds = {name: is_first_order(name, item) for name, item in methods.items()}
    best = reached[0]
    first = kinds[best]
    others = [name for name in reached if first is not None and kinds[name] is (not first)]
    kind = w["second_order"] if first else w["first_order"]
    if not others and None in kinds.values():  # one of these may be of the other kind
        return ""
    if (not first) not in kinds.values():
        return w["verdict_no_kind"].format(kind=kind)
    if not others:
        return w["verdict_no_kind_enough"].format(kind=kind)
    other, near = methods[others[0]], methods[best]["kl_retain"]
    far = other["kl_retain"]
    given = {"kind": kind, "stated": f"{other['label']}{w['and']}{kl_text(far)}"}
    if near == far:
        return w["verdict_as_near"].format(**given)
    if near == 0:
        return w["verdict_before"].format(**given)
    if far / near < 1.05:
        return w["verdict_hardly"].format(**given)
    return w["verdict_times"].format(times=_times(near, far), **given)


def judge(document: dict, w: Mapping = EN) -> Verdict:
    """Rank the methods by KL to the retrained model on retained data among those that forgot enough; without a
    retrained model by accuracy on retained data.

    A method has forgotten where its end point's forget accuracy is at most the target (of the settings, else
    the retrained model's) plus the tolerance. Only end points count, not points on the way. ``w``: the words.
    """
    methods, settings, reference = document["methods"], document["settings"], document["reference"]
    target = settings.get("target_forget_accuracy")
    if target is None and reference is not None:
        target = reference["forget_accuracy"]
    limit = None if target is None else min(1.0, target + settings.get("target_tolerance", TOLERANCE))
    reached = [name for name, item in methods.items() if limit is None or item["forget_accuracy"] <= limit]

    def order(name: str) -> tuple:
        item = methods[name]
        kl = None if reference is None else item["kl_retain"]
        near = kl if kl is not None else -(item["retain_accuracy"] or 0.0)
        return (name not in reached, kl is None, near)  # an accuracy and a KL do not compare

    ranking = sorted(methods, key=order)
    reached = [name for name in ranking if name in reached]
    return Verdict(_sentence(document, ranking, reached, limit, w), ranking, reached, limit)


def _sentence(document: dict, ranking: list[str], reached: list[str], limit: float | None, w: Mapping) -> str:
    methods, original = document["methods"], document["original"]
    if not methods:
        return w["verdict_none"]
    # A KL without a retrained model is from something else, and says nothing about retraining.
    known = document["reference"] is not None
    comparable = [name for name in reached if known and methods[name]["kl_retain"] is not None]
    goal = w["verdict_goal"].format(share_text(limit)) if limit is not None else ""
    if limit is not None and not reached:
        item = methods[min(ranking, key=lambda name: methods[name]["forget_accuracy"])]
        accuracy = share_text(item["forget_accuracy"])
        return w["verdict_not_enough"].format(goal=goal, label=item["label"], accuracy=accuracy)
    if not comparable:
        item = methods[ranking[0]]
        kept = item["retain_accuracy"]
        return w["verdict_no_reference"].format(
            label=item["label"], before=share_text(original["forget_accuracy"]),
            after=share_text(item["forget_accuracy"]),
            kept="" if kept is None else w["verdict_kept"].format(share_text(kept)),
        )  # fmt: skip
    item = methods[comparable[0]]
    among = w["verdict_among"].format(reached=len(reached), all=len(methods), goal=goal) if goal else ""
    compared = _compare(methods, comparable, w)
    kl = kl_text(item["kl_retain"])
    return w["verdict_closest"].format(label=item["label"], kl=kl, compared=compared, among=among)
