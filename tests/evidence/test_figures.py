"""What an owner who has the key may state of the records: nothing without figures, and no figures but the model's."""

from __future__ import annotations

import pytest

from fastunlearn.evidence import verify
from tests.evidence.forging import edit, resign


def _without(folder, *places) -> None:
    for place in places:
        edit(folder, "metrics.json", *place, value=...)


LEFT_OUT = {
    "the figures of the records to forget": (
        lambda folder: _without(folder, ("table", "forget"), ("intervals", "forget")),
        "forget is stated, the table of records has no figures of it"),
    "what says that they were measured, too": (
        lambda folder: _without(folder, ("table", "forget"), ("intervals", "forget"), ("after", "forget")),
        "the table has no figures of forget, of which the run used 3 records"),
    "the held-out half of an attack": (
        lambda folder: _without(folder, ("table", "held_out"), ("intervals", "held_out"), ("after", "held_out")),
        "membership is stated, the table of records lacks one of its two sets"),
    "the figures of one record": (
        lambda folder: [edit(folder, "metrics.json", "table", "forget", key, value=lambda rows: rows[1:])
                        for key in ("tokens", "correct", "log_prob")],
        "the table has figures of 2 forget records, the run used 3"),
    "a part of a figure": (
        lambda folder: edit(folder, "metrics.json", "table", "forget", "correct", value=lambda rows: rows[1:]),
        "the table of records is damaged"),
    "an accuracy": (lambda folder: _without(folder, ("after", "forget", "accuracy")), "forget accuracy: None is"),
    "a set": (lambda folder: _without(folder, ("after", "retain")), "figures of retain, nothing is stated of it"),
    "an attack": (lambda folder: _without(folder, ("after", "membership")), "membership is not stated"),
    "the end of an attack's interval": (
        lambda folder: _without(folder, ("after", "membership", "high")), "membership high: None is stated"),
    "the figures of a set with an interval": (
        lambda folder: _without(folder, ("table", "retain")), "intervals of retain are stated, the table"),
    "the name of a set": (
        lambda folder: edit(folder, "metrics.json", "table", value=lambda table: table | {"other": table["retain"]}),
        "figures of other, which is no set"),
    "nothing, but a perplexity is another": (
        lambda folder: edit(folder, "metrics.json", "after", "forget", "perplexity", value=1e6),
        "forget perplexity: 1000000.0 is stated"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT_OUT)
def test_an_owner_who_leaves_something_out_and_signs_again_is_found(evidence, finished, what):
    """Whatever is stated has its figures, of as many records as were used: nothing can be stated of the rest."""
    forge, message = LEFT_OUT[what]
    forge(evidence)
    resign(evidence, finished.key)
    assert message in verify(evidence)["sums"].says and not verify(evidence).passed
