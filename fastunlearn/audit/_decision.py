"""The first page, for who decides: what was removed, how sure it is, what it cost, what remains open; and the section
for the model card."""

from __future__ import annotations

from collections.abc import Mapping

from fastunlearn.audit._markup import Element, make
from fastunlearn.audit._table import bytes_text, count_text, seconds_text
from fastunlearn.audit.verdict import Verdict, kl_text, share_text

__all__ = ["decision", "model_card"]


def _records(item: Mapping) -> int | None:
    found = (item["metrics"]["forget"] or {}).get("samples")
    return found if isinstance(found, int) else None  # no key of the schema: it may be anything


def _span(found: Mapping) -> dict[str, str]:
    return {key: f"{found[key]:.2f}" for key in ("auc", "low", "high")}


def _removed(document: dict, item: dict, w: Mapping) -> list[str]:
    before, reference, count = document["original"]["forget_accuracy"], document["reference"], _records(item)
    found = [w["removed_counts"].format(records=count_text(count))] if isinstance(count, int) else []
    found.append(w["removed_share"].format(before=share_text(before), after=share_text(item["forget_accuracy"])))
    if reference is not None:
        found.append(w["removed_reference"].format(reference=share_text(reference["forget_accuracy"])))
    elif document["original"]["held_out_accuracy"] is not None:
        found.append(w["removed_unseen"].format(unseen=share_text(document["original"]["held_out_accuracy"])))
    return found


def _sure(document: dict, item: dict, w: Mapping) -> list[str]:
    reference, membership = document["reference"], item["metrics"]["membership"]
    if reference is None or item["kl_retain"] is None:
        found = [w["sure_no_reference"]]
    else:
        found = [w["sure_reference"].format(kl=kl_text(item["kl_retain"]))]
    if membership is None:
        found.append(w["sure_no_membership"])
    else:
        found.append(w["sure_membership"].format(**_span(membership)))
        other = None if reference is None else reference["metrics"]["membership"]
        if other is not None:
            found.append(w["sure_membership_reference"].format(auc=f"{other['auc']:.2f}"))
    bits = item["metrics"]["exposure_forget"]
    return found if bits is None else [*found, w["sure_exposure"].format(bits=f"{bits:.1f}")]


def _cost(document: dict, item: dict, w: Mapping) -> list[str]:
    before, after = document["original"]["retain_accuracy"], item["retain_accuracy"]
    run = w["cost_run"].format(
        time=seconds_text(item["seconds"], w), gradients=count_text(item["gradients"]),
        memory=bytes_text(item["peak_bytes"]),
    )  # fmt: skip
    if before is None or after is None:
        return [run, w["cost_not_kept"]]
    return [run, w["cost_kept"].format(before=share_text(before), after=share_text(after))]


def _box(heading: str, sentences: list[str]) -> Element:
    return make("section", make("h3", heading), make("ul", *(make("li", one) for one in sentences)), class_="box")


def decision(document: dict, verdict: Verdict, w: Mapping) -> Element:
    """The verdict and the four boxes, of the method that the verdict puts first; the verdict alone without a method."""
    text = make("p", verdict.text, class_="verdict")
    boxes = None
    if verdict.ranking:
        item = document["methods"][verdict.ranking[0]]
        boxes = make(
            "div", _box(w["removed"], _removed(document, item, w)), _box(w["sure"], _sure(document, item, w)),
            _box(w["cost"], _cost(document, item, w)), _box(w["open"], list(w["limits"])), class_="boxes",
        )  # fmt: skip
    return make("section", make("h2", w["decision"]), text, boxes, class_="decision")


def model_card(document: dict, verdict: Verdict, w: Mapping) -> Element | None:
    """Lines of Markdown to be copied into a model card; None without a method."""
    if not verdict.ranking:
        return None
    name = verdict.ranking[0]
    item, before, reference = document["methods"][name], document["original"], document["reference"]
    count, membership = _records(item), item["metrics"]["membership"]
    version = document["versions"].get("fastunlearn", "")
    lines = [
        w["card_title"], "",
        w["card_method"].format(label=item["label"], name=name, version=version, created=document["created"]),
        w["card_forget"].format(records="–" if count is None else count_text(count),
                                before=share_text(before["forget_accuracy"]),
                                after=share_text(item["forget_accuracy"])),
    ]  # fmt: skip
    if reference is not None:
        lines.append(w["card_forget_reference"].format(reference=share_text(reference["forget_accuracy"])))
    if before["retain_accuracy"] is not None and item["retain_accuracy"] is not None:
        kept = {"before": share_text(before["retain_accuracy"]), "after": share_text(item["retain_accuracy"])}
        lines.append(w["card_retain"].format(**kept))
    if reference is not None and item["kl_retain"] is not None:
        lines.append(w["card_kl"].format(kl=kl_text(item["kl_retain"])))
    if membership is not None:
        lines.append(w["card_membership"].format(**_span(membership)))
    lines.append(w["card_limit"])
    return make(
        "section", make("h2", w["card"]), make("p", w["card_hint"], class_="note"),
        make("pre", "\n".join(lines), class_="card", tabindex=0), class_="card-section",
    )  # fmt: skip
