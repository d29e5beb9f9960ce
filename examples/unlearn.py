"""Teaches a tiny model some invented people, makes it forget three of them, and says what happened.

    python examples/unlearn.py [--seed N] [--method NAME] [--report FOLDER]

Everything is made from the seed; nothing is downloaded. It ends within a minute on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import fastunlearn as fu
from fastunlearn.audit.document import build_document, entry, result_entry
from fastunlearn.audit.html import write_report
from fastunlearn.audit.measure import measure
from fastunlearn.data import encode, generate_people, train_tokenizer
from fastunlearn.training import train

CONTEXT = 32  # tokens; the records have about twelve


def new_model(tokenizer, seed: int) -> LlamaForCausalLM:
    """A Llama of width 48 with random weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=CONTEXT,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    needs_no_file = [name for name, method in fu.methods.items() if not method.uses_kept]
    parser.add_argument("--method", default="fisher-removal", choices=needs_no_file)
    parser.add_argument("--report", metavar="FOLDER", help="also write report.json and report.html there")
    options = parser.parse_args()

    # 1. Records: what to forget, what to keep, and what no model ever sees.
    data = generate_people(people=30, facts=4, forget_people=3, held_out_people=20, canaries=0, seed=options.seed)
    tokenizer = train_tokenizer(record.text for record in data.forget + data.retain + data.held_out)
    sets = {
        name: encode(getattr(data, name), tokenizer, max_length=CONTEXT, name=name)
        for name in ("forget", "retain", "held_out")
    }
    print(", ".join(f"{len(samples)} {name} records" for name, samples in sets.items()))

    # 2. Two models: one that has learnt everything, and the one to compare with, which never saw the forget records.
    models = {}
    for name, samples in (("original", sets["forget"] + sets["retain"]), ("retrained", sets["retain"])):
        models[name] = new_model(tokenizer, options.seed)
        log = train(
            models[name], samples, steps=300, batch_size=32, learning_rate=5e-3, seed=options.seed,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        print(f"{name}: {log.steps} steps, {log.seconds:.1f} s, loss {log.losses[-1]:.3f}")

    # 3. Measure, unlearn, measure. KL is to the retrained model, in nats per target token.
    def measured(model: torch.nn.Module) -> dict:
        return measure(
            model, **sets, reference=models["retrained"], tokenizer=tokenizer, pad_token_id=tokenizer.pad_token_id,
            seed=options.seed,
        )  # fmt: skip

    before, wanted = measured(models["original"]), measured(models["retrained"])
    result = fu.unlearn(models["original"], tokenizer, **sets, method=options.method, seed=options.seed)
    after = measured(result.model)
    print(
        f"{result.method}: {result.stopped}; {len(result.steps) - 1} steps, {result.gradients} gradients, "
        f"{result.seconds:.1f} s"
    )

    print(f"\n{'model':12}{'forget acc.':>12}{'retain acc.':>12}{'KL forget':>12}{'KL retain':>12}")
    for name, metrics in (("original", before), ("unlearned", after), ("retrained", wanted)):
        forget, retain = metrics["forget"]["accuracy"], metrics["retain"]["accuracy"]
        print(f"{name:12}{forget:12.3f}{retain:12.3f}{metrics['kl_forget']:12.4f}{metrics['kl_retain']:12.4f}")
    for note in result.notes:
        print(f"Note: {note}")

    # 4. The same as a page, if asked for.
    if options.report:
        label = fu.methods[options.method].label
        document = build_document(
            title="A small example", seed=options.seed, original=entry("original", before, uses_retain=True),
            reference=entry("retrained", wanted, uses_retain=True),
            methods={options.method: result_entry(label, after, result)},
            data={name: len(samples) for name, samples in sets.items()},
        )  # fmt: skip
        write_report(document, options.report)
        print(f"Report: {options.report}/report.html")


if __name__ == "__main__":
    main()
