"""A small run of unlearning with all that its evidence is made of."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fastunlearn.audit.measure import measure
from fastunlearn.data import Record, train_tokenizer
from fastunlearn.evidence import (
    EvidenceLog,
    Requested,
    RunRecord,
    deterministic,
    record_table,
)
from fastunlearn.evidence.table import encoded_sets
from fastunlearn.storage import load_model, save_model
from fastunlearn.unlearn import unlearn

NAMES = ("anna", "bert", "cora", "dan", "eva", "finn", "gina", "hugo", "ida", "jon")
CITIES = ("rome", "oslo", "bern", "lima")
MEASURED = {"batch_size": 8, "level": 0.9, "resamples": 40, "seed": 3, "max_length": 16, "truncate": False}


def people(names, first=0):
    return [Record(f"The harbour town of {name} is", f" {CITIES[(i + first) % 4]}") for i, name in enumerate(names)]


RECORDS = {"forget": people(NAMES[:3]), "retain": people(NAMES[3:7], 1), "held_out": people(NAMES[7:], 2)}
ARGUMENTS = {
    "method": "fisher-removal", "parameters": ["*mlp*"], "seed": 5, "batch_size": 4, "memory": "1GB", "max_length": 16,
    "truncate": False, "steps": 2, "target_accuracy": 0.0, "target_loss": 30.0, "kl_budget": 5.0,
}  # fmt: skip


def make_model(folder, seed=0):
    tokenizer = train_tokenizer([record.text for found in RECORDS.values() for record in found])
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    save_model(LlamaForCausalLM(config), tokenizer, folder)
    return folder


def measured(model, tokenizer):
    samples = encoded_sets(model, tokenizer, RECORDS, max_length=MEASURED["max_length"])
    options = {key: value for key, value in MEASURED.items() if key not in ("max_length", "truncate")}
    return measure(model, **samples, tokenizer=tokenizer, **options)


def finish(place, arguments=None, kept_fisher=None) -> RunRecord:
    """Runs and measures on the model in ``place / "before"``; all that its evidence is made of."""
    arguments = arguments or ARGUMENTS
    with deterministic(1):
        model, tokenizer = load_model(place / "before")
        before = measured(model, tokenizer)
        sets = {name: RECORDS[name] for name in ("forget", "retain", "held_out")}
        result = unlearn(model, tokenizer, **sets, kept_fisher=kept_fisher, **arguments)
        save_model(model, tokenizer, place / "after")
        after = measured(model, tokenizer)
        table = record_table(model, tokenizer, RECORDS, max_length=16, batch_size=8)
    log = EvidenceLog(place / "log.jsonl", run="run-7")
    log.append("started", method=result.method)
    for step in result.steps:
        log.append("step", **step)
    log.append("measured", forget_accuracy=after["forget"]["accuracy"])
    return RunRecord(**{
        "log": log, "before": place / "before", "after": place / "after", "threads": 1, "deterministic": True,
        "requests": [Requested(id="R-1", records=RECORDS["forget"][:2], received="2026-11-20"),
                     Requested(id="R-2", records=RECORDS["forget"][2:])],
        "retain": RECORDS["retain"], "held_out": RECORDS["held_out"], "arguments": arguments,
        "kept_fisher": kept_fisher,
        "result": result.to_dict(),
        "metrics": {"before": before, "after": after, "reference": None}, "measured_with": MEASURED, "table": table,
        "salts": place / "private" / "salts.json", "configuration": {"unlearn": {"method": "fisher-removal"}},
        "attachments": {"report/page.html": "<!doctype html><title>report</title>"},
    })  # fmt: skip
