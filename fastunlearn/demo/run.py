"""The demonstration: learn, forget, compare with first-order methods and with retraining, report."""

from __future__ import annotations

import os

from fastunlearn.audit.document import build_document
from fastunlearn.audit.html import write_report
from fastunlearn.progress import Progress
from fastunlearn.unlearn.tuning import GRIDS

from .contest import Contest
from .subject import Subject, make_subject

__all__ = ["compare", "run_demo"]

TOLERANCE = 0.05  # "reached the retrained model's accuracy": within five points
RETAIN_FREE = {"rank": 256, "damping": 1e-5, "step_norm": 0.1, "steps": 30, "pull": "gauss-newton", "kl_budget": None}


def compare(subject: Subject, *, seed: int = 0, progress: Progress | None = None) -> dict:
    """All methods on ``subject``; the report document. First-order methods get as many gradient evaluations as
    Fisher Removal took."""
    contest = Contest(subject, seed=seed, progress=progress)
    removal = contest.run("fisher-removal")
    contest.run("fisher-forgetting")
    contest.run("newton")
    contest.run_retain_free("fisher-removal-retain-free", **RETAIN_FREE)
    for name in GRIDS:
        contest.run_tuned(name, removal.gradients)
    people = subject.people
    size = subject.original.model.num_parameters()
    return build_document(
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
        settings={"target_tolerance": TOLERANCE, "first_order_budget": removal.gradients},
        notes=[
            "First-order methods were tuned: each had the trials listed in its settings, every trial with as many gradient "
            "evaluations as Fisher Removal took; the best by drift on retained records is shown. Cost is that trial's.",
            "Gradient evaluations leave out what curvature costs besides: the Gram matrix and the solve. Seconds hold all.",
            "The retain-free method's cost leaves out keeping the Fisher, which is done once, at training time.",
            "Points along a method's way were measured on a subset of the retained records, end points on all.",
        ],
    )  # fmt: skip


def run_demo(
    out: str | os.PathLike = "runs/demo", *, seed: int = 0, progress: Progress | None = None, **subject
) -> dict:
    """Trains, unlearns, compares, and writes ``report.html`` and ``report.json`` into ``out``.

    ``subject``: sizes, passed on to make_subject. Returns the report document. Raises InvalidInputError and
    OutputError.
    """
    document = compare(make_subject(seed, progress=progress, **subject), seed=seed, progress=progress)
    write_report(document, out)
    return document
