"""``fastunlearn train``: a tokenizer and a small Llama-shaped model from scratch, to try the whole flow
on."""

from __future__ import annotations

import argparse

from fastunlearn.cli._options import (
    add_device,
    add_overwrite,
    add_seed,
    check_out,
    pad_token_id,
    progress,
    read_records,
)

NAME = "train"
HELP = "Train a small model from scratch on your files (to try unlearning without a download)."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", required=True, metavar="F", help="files of records to learn")
    parser.add_argument("--out", required=True, metavar="DIR", help="model folder to make")
    parser.add_argument("--tokenizer", choices=("words", "bpe"), default="words", help="default: words")
    parser.add_argument(
        "--tokenizer-from", metavar="DIR", help="take the tokenizer of this model folder instead of training one"
    )
    sizes = (
        ("--vocab-size", 8000, "most tokens of the tokenizer"), ("--hidden-size", 64, "width of the model"),
        ("--layers", 2, "transformer blocks"), ("--heads", 4, "attention heads"),
        ("--context", 128, "longest record in tokens"), ("--steps", 500, "optimiser steps"),
        ("--batch-size", 48, "records per step"),
    )  # fmt: skip
    for name, default, text in sizes:
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="X", help="default: 0.001")
    add_seed(parser)
    add_device(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    from fastunlearn.storage import check_device, load_model, save_model

    check_out(args.out, args)
    device = check_device(args.device)
    from fastunlearn.data import encode, train_tokenizer
    from fastunlearn.training import build_model, train

    records = [record for path in args.data for record in read_records(path)]
    if args.tokenizer_from is None:
        texts = (record.text for record in records)
        tokenizer = train_tokenizer(texts, kind=args.tokenizer, vocab_size=args.vocab_size)
    else:
        tokenizer = load_model(args.tokenizer_from)[1]
    model = build_model(
        tokenizer, hidden_size=args.hidden_size, layers=args.layers, heads=args.heads, context=args.context,
        seed=args.seed,
    ).to(device)  # fmt: skip
    samples = encode(records, tokenizer, max_length=args.context, name="data", mend="raise --context")
    log = train(
        model, samples, steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate,
        seed=args.seed, pad_token_id=pad_token_id(tokenizer), progress=progress(args),
    )  # fmt: skip
    training = {
        "records": len(records), "steps": log.steps, "batch_size": args.batch_size,
        "learning_rate": args.learning_rate, "seed": args.seed, "seconds": log.seconds,
        "gradients": log.gradients, "final_loss": log.losses[-1],
    }  # fmt: skip
    save_model(model, tokenizer, args.out, overwrite=args.overwrite, extra={"training.json": training})
    done = f"{len(records)} records, {log.steps} steps, loss {log.losses[-1]:.4f}, {log.seconds:.1f} s"
    print(f"{done}. New model: {args.out}")
