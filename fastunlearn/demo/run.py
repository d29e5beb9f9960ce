"""The demonstration: learn, forget, compare with first-order methods and with retraining, report."""

from __future__ import annotations

import os

from fastunlearn.audit.document import build_document
from fastunlearn.audit.html import write_report
from fastunlearn.evaluation.contest import TOLERANCE, Contest
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.unlearn import METHODS

from .claims import claims, sentences
from .grids import GRIDS
from .subject import PeopleSubject, make_subject

__all__ = ["compare", "run_demo"]

ONE_BLOCK = {"blocks": "model"}
CHOSEN = {"fisher-removal": ONE_BLOCK, "fisher-forgetting": ONE_BLOCK}
RETAIN_FREE = {
    "rank": 256, "damping": 1e-5, "step_norm": 0.1, "steps": 30, "pull": "gauss-newton", "kl_budget": None
}  # fmt: skip
#: Per cent of the whole time that each part takes, about: for the time left.
SHARES = {
    "models": 36, "fisher-removal": 8, "fisher-forgetting": 9, "newton": 2, "fisher-removal-retain-free": 4,
    "gradient-ascent": 2, "npo": 4, "bounded-ascent": 2, "gradient-difference": 10, "npo-retain": 10,
    "bounded-difference": 8, "finetune": 5,
}  # fmt: skip
SHOWN = tuple(name for name in SHARES if name != "models")  # the demonstration's methods, in the order they run

NOTES = (
    "First-order methods were tuned: each had the trials listed in its settings, every trial with as many gradient "
    "evaluations as Fisher Removal took; shown is the one that forgot enough with the least drift from the original "
    "on retained records. Its cost is that trial's, not that of the tuning. Fisher Removal ran once, with its defaults "
    'but for blocks="model".',
    "Methods that train on retained records spend the whole budget and go back to the best point on their way.",
    "Bounded ascent and bounded difference are not methods of the literature: they take Fisher Removal's own pull "
    "by Adam, without curvature, and so show what curvature adds.",
    "Gradient evaluations leave out what curvature costs besides: the Gram matrix and the solve. Seconds hold all.",
    "The retain-free method's cost leaves out keeping the Fisher, which is done once, at training time.",
    "Points along a method's way were measured on a subset of the retained records, end points on all.",
)


def compare(
    subject: PeopleSubject, *, seed: int = 0, progress: Progress | None = None, advance=lambda part: None
) -> dict:
    """All methods on ``subject``; the report document. First-order methods get as many gradient evaluations as
    Fisher Removal took. ``advance(part)`` is called after each method, by its name."""
    contest = Contest(subject, seed=seed, progress=progress)
    budget = 0
    for name in SHOWN:
        method = METHODS[name]
        if method.first_order:
            contest.run_tuned(name, budget, GRIDS[name])
        elif method.uses_kept:
            contest.run_retain_free(name, **RETAIN_FREE)
        else:
            found = contest.run(name, **CHOSEN.get(name, {}))
            budget = budget or found.gradients  # that of the first: Fisher Removal
        advance(name)
    people = subject.people
    size = subject.original.model.num_parameters()
    document = build_document(
        title="Removing ten people from a small language model",
        seed=seed,
        original=contest.trained("Original", subject.original, uses_retain=True),
        reference=contest.trained("Retrained without them", subject.reference, uses_retain=True),
        methods=contest.methods,
        data={
            "records to forget": len(subject.forget), "records to retain": len(subject.retain),
            "held-out records": len(subject.held_out), "canaries": len(people.canaries),
            "source": "invented people, generated from the seed",
        },
        model={"type": type(subject.original.model).__name__, "parameters": size, "vocabulary": len(subject.tokenizer)},
        settings={"target_tolerance": TOLERANCE, "first_order_budget": budget},
        notes=NOTES,
    )  # fmt: skip
    document["notes"] = [*sentences(claims(document)), *document["notes"]]
    return document


def run_demo(
    out: str | os.PathLike = "runs/demo", *, seed: int = 0, progress: Progress | None = None, **subject
) -> dict:
    """Trains, unlearns, compares, and writes ``report.html`` and ``report.json`` into ``out``.

    ``subject``: sizes, passed on to make_subject. Returns the report document. Raises InvalidInputError and
    OutputError.
    """
    assert {*SHOWN, *GRIDS} <= set(METHODS)
    progress = progress or NO_PROGRESS
    with progress.group("Demo", total=sum(SHARES.values()), unit="%") as whole:
        made = make_subject(seed, progress=progress, **subject)
        whole.advance(SHARES["models"])
        document = compare(made, seed=seed, progress=progress, advance=lambda part: whole.advance(SHARES[part]))
    write_report(document, out)
    return document
