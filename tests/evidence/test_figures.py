"""What an owner who has the key may state of the records: nothing without figures, and no figures but the model's."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.evidence import verify
from fastunlearn.evidence.table import encoded_sets, intervals, rows_of
from fastunlearn.evidence.ties import possible_counts
from fastunlearn.storage import load_model
from tests.evidence.forging import edit, read, resign
from tests.evidence.small_run import RECORDS


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


@pytest.mark.parametrize("sample", [32, None])
def test_an_owner_who_forges_one_right_token_of_each_record_is_found(evidence, finished, sample):
    """With answers of one token that is the whole accuracy."""
    metrics = read(evidence, "metrics.json")
    table, after = metrics["table"], metrics["after"]
    for name, rows in table.items():
        rows["correct"] = [right - 1 if right else 1 for right in rows["correct"]]
        after[name]["accuracy"] = sum(rows["correct"]) / sum(rows["tokens"])
    edit(evidence, "metrics.json", "table", value=table)
    edit(evidence, "metrics.json", "after", value=after)
    edit(evidence, "metrics.json", "intervals", value=intervals(table, metrics["measured_with"]))
    resign(evidence, finished.key)
    assert verify(evidence).passed  # all that is stated adds up
    said = verify(evidence, model=finished.place / "after", records=RECORDS, sample=sample)["metrics"]
    assert said.passed is False and "tokens right" in said.says and "record 1 of forget" in said.says


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_only_tokens_as_likely_as_another_are_in_doubt(finished, dtype):
    """Against each target's margin written out, with a token made as likely as the target of the first record."""
    model, tokenizer = load_model(finished.place / "before", dtype=dtype)
    samples = encoded_sets(model, tokenizer, RECORDS)["retain"]
    options = {"pad_token_id": 0, "batch_size": 3}
    target = int(samples[0].input_ids[-1])
    with torch.no_grad():
        hidden = model.model(input_ids=samples[0].input_ids[None]).last_hidden_state[0, -2]
        place = int(model.lm_head(hidden).argmax())  # the target is made as likely as this one
    hidden = torch.nn.functional.normalize(hidden, dim=0)
    for nudge, doubt in ((0.0, True), (1.0, False), (-1.0, False)):
        with torch.no_grad():
            model.lm_head.weight[target] = model.lm_head.weight[place] + nudge * 3 * hidden
        found = possible_counts(model, samples, limit=1e-3, **options)
        counts = rows_of(model, samples, **options)["correct"]
        fewest, most = found[0]
        assert fewest <= counts[0] <= most and (most - fewest == 1) is doubt, (nudge, found)
        for sample, (low, high), count in zip(samples, found, counts, strict=True):
            rows = model(input_ids=sample.input_ids[None]).logits[0, :-1].detach().double()
            wanted = sample.labels[1:]
            sure = maybe = 0
            for row, one in zip(rows[wanted != -100], wanted[wanted != -100], strict=True):
                margin = float(row[one] - max(row[i] for i in range(len(row)) if i != one))
                rounding = 2 * torch.finfo(dtype).eps * abs(float(row[one]))
                reach = 1e-3 * (1 + float(row.logsumexp(0) - row[one])) + rounding
                sure, maybe = sure + (margin > reach), maybe + (margin >= -reach)
            assert (low, high) == (sure, maybe) and low <= count <= high
