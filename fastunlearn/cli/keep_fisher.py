"""``fastunlearn keep-fisher``: what a later unlearning needs of the training data, in one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastunlearn.cli._options import (
    add_device,
    add_overwrite,
    add_seed,
    add_trust,
    check_out,
    load,
    progress,
    read_records,
)
from fastunlearn.errors import InvalidInputError

NAME = "keep-fisher"
HELP = "Keep the curvature of the training data in a file, so that unlearning needs no retain data later."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder (safetensors)")
    parser.add_argument("--data", required=True, metavar="F", help="records that the model was trained on")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to make, ending in .safetensors")
    parser.add_argument("--rank", type=int, metavar="N", help="directions to keep")
    parser.add_argument("--samples", type=int, metavar="N", help="records to use (default: all)")
    parser.add_argument("--damping", type=float, metavar="X", help="damping of the curvature")
    parser.add_argument("--parameters", nargs="+", metavar="PATTERN", help="names of the weights to cover")
    parser.add_argument("--memory", default="1GB", metavar="SIZE", help="memory to work in (default: 1GB)")
    add_seed(parser)
    add_device(parser)
    add_trust(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    if Path(args.out).suffix != ".safetensors":
        raise InvalidInputError(f"--out {args.out} must end in .safetensors")
    if check_out(args.out, args).is_dir():
        raise InvalidInputError(f"--out {args.out} is a folder; a file name is needed")
    from fastunlearn.resources import parse_memory
    from fastunlearn.unlearn import keep_fisher

    parse_memory(args.memory, name="--memory")
    data = read_records(args.data)
    model, tokenizer = load(args.model, args)
    # What is not given is left to the defaults of the library, which are written down in one place.
    given = {name: getattr(args, name) for name in ("rank", "samples", "damping", "parameters")}
    options = {name: value for name, value in given.items() if value is not None}
    kept = keep_fisher(
        model, tokenizer, data, seed=args.seed, memory=args.memory, progress=progress(args), **options
    )
    kept.save(args.out, overwrite=args.overwrite)
    print(f"Kept Fisher of {len(data)} records: {args.out}")
