"""What the demonstration is to show, computed from its document: forgetting like the retrained model, at little harm,
and far nearer to it than first-order methods *at the same forgetting*.

A model has forgotten where its forget accuracy is at most the retrained model's plus the tolerance. Of a first-order
method every measured point that meets this counts: its end, the points on its way, and those of its other trials;
the nearest one to the retrained model stands for it. Of Fisher Removal only the end counts. This favours the others.
Fisher Removal's own pull taken without curvature is no method of the literature: it is compared apart.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastunlearn.audit.document import is_first_order
from fastunlearn.evaluation.contest import TOLERANCE

__all__ = ["claims", "sentences"]

OURS, FREE = "fisher-removal", "fisher-removal-retain-free"
OWN_PULL = frozenset({"bounded-ascent", "bounded-difference"})
KEPT = 0.95  # of the original's retained accuracy
AGAINST_FREE, AGAINST_RETAIN = 0.25, 0.5


def _points(item: dict) -> Iterator[dict]:
    for point in (item, *item["steps"], *item["frontier"]):
        if point.get("kl_retain") is not None and point.get("forget_accuracy") is not None:
            yield point


def nearest(item: dict, limit: float) -> float | None:
    """The least KL on retained data among the points that have forgotten; None where there is none."""
    return min((p["kl_retain"] for p in _points(item) if p["forget_accuracy"] <= limit), default=None)


def _best(document: dict, limit: float, uses_retain: bool, own_pull: bool = False) -> dict:
    found = {}
    for name, item in document["methods"].items():
        counts = is_first_order(name, item) and (name in OWN_PULL) is own_pull
        if counts and item["uses_retain"] is uses_retain:
            value = nearest(item, limit)
            if value is not None:
                found[name] = value
    if not found:
        return {"method": None, "kl_retain": None, "ratio": None}
    name = min(found, key=found.get)
    return {"method": name, "kl_retain": found[name], "ratio": document["methods"][OURS]["kl_retain"] / found[name]}


def claims(document: dict) -> dict:
    """Figures and verdicts of the document of a demonstration with steps and frontier. ``ratio``: Fisher Removal's KL
    on retained data over the best first-order method's; ``shown``: whether each claim holds. A claim against
    methods of which none has forgotten enough holds."""
    ours, reference, original = document["methods"][OURS], document["reference"], document["original"]
    limit = reference["forget_accuracy"] + TOLERANCE
    free, retain = _best(document, limit, False), _best(document, limit, True)
    share = ours["retain_accuracy"] / original["retain_accuracy"]
    shown = {
        "forgets": ours["forget_accuracy"] <= limit,
        "keeps": share >= KEPT,
        "against_methods_without_retain_data": free["ratio"] is None or free["ratio"] <= AGAINST_FREE,
        "against_methods_with_retain_data": retain["ratio"] is None or retain["ratio"] <= AGAINST_RETAIN,
    }
    found = {
        "forget_accuracy": ours["forget_accuracy"], "retrained_forget_accuracy": reference["forget_accuracy"],
        "retain_accuracy_kept": share, "kl_retain": ours["kl_retain"], "without_retain_data": free,
        "with_retain_data": retain, "own_pull_without_retain_data": _best(document, limit, False, True),
        "own_pull_with_retain_data": _best(document, limit, True, True), "shown": shown,
    }  # fmt: skip
    if FREE in document["methods"]:
        item = document["methods"][FREE]
        other = free["kl_retain"]
        found["retain_free"] = {
            "forget_accuracy": item["forget_accuracy"], "kl_retain": item["kl_retain"],
            "retain_accuracy_kept": item["retain_accuracy"] / original["retain_accuracy"],
            "ratio": None if other is None else item["kl_retain"] / other,
        }  # fmt: skip
    return found


def _against(kind: str, found: dict) -> str:
    if found["method"] is None:
        return f"no first-order method {kind} forgot as much"
    return (
        f"{found['ratio']:.3g} of the best first-order method {kind} at the same forgetting "
        f"({found['method']}, {found['kl_retain']:.3g})"
    )


def sentences(found: dict) -> list[str]:
    """The figures of :func:`claims` in words."""
    return [
        f"Fisher Removal: forget accuracy {found['forget_accuracy']:.3f} (retrained "
        f"{found['retrained_forget_accuracy']:.3f}), {100 * found['retain_accuracy_kept']:.1f} % of the original's "
        "accuracy on retained data.",
        f"Its KL to the retrained model on retained data is {found['kl_retain']:.3g} nats: "
        f"{_against('without retained data', found['without_retain_data'])}, and "
        f"{_against('with retained data', found['with_retain_data'])}.",
        "Against its own pull taken without curvature: "
        f"{_against('without retained data', found['own_pull_without_retain_data'])}, and "
        f"{_against('with retained data', found['own_pull_with_retain_data'])}.",
    ]
