"""``fastunlearn sweep``: what a method's settings cost and do on your model and records; a table and a plot."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastunlearn.cli._options import (
    add_device,
    add_length,
    add_seed,
    add_trust,
    context,
    load,
    named_value,
    pad_token_id,
    progress,
    read_records,
)
from fastunlearn.errors import InvalidInputError

NAME = "sweep"
HELP = "Try a method's settings on your model, and show what each costs and does."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder (safetensors)")
    parser.add_argument("--forget", required=True, metavar="F", help="records to forget")
    parser.add_argument("--retain", required=True, metavar="R", help="records that the model must keep")
    parser.add_argument("--held-out", required=True, metavar="H", help="records that the model has never seen")
    parser.add_argument("--reference", metavar="DIR", help="model trained without the forget records")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the results; a stopped sweep goes on there"
    )
    parser.add_argument("--method", default="fisher-removal", metavar="NAME", help="see fastunlearn methods")
    parser.add_argument(
        "--vary", type=named_value, action="append", default=[], metavar="key=[values]",
        help='a setting and its values as a JSON list, as damping=[1e-6,1e-4] or parameters=["*mlp*"]; may be given '
        "again (default: the usual settings of the method)",
    )  # fmt: skip
    parser.add_argument(
        "--set", dest="settings", type=named_value, action="append", default=[], metavar="key=value",
        help="a setting that all runs share; may be given again",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="every combination, instead of one setting at a time")
    parser.add_argument("--memory", default="1GB", metavar="SIZE", help="memory to work in (default: 1GB)")
    add_seed(parser)
    add_length(parser)
    add_device(parser)
    add_trust(parser)


def axes_of(pairs: list[tuple[str, object]]) -> dict[str, list] | None:
    """The axes of --vary; None where there are none."""
    axes: dict[str, list] = {}
    for key, values in pairs:
        if not isinstance(values, list) or not values:
            raise InvalidInputError(f'--vary {key}: give a JSON list of values, such as {key}=[1,2] or {key}=["a","b"]')
        if key in axes:
            raise InvalidInputError(f"--vary {key} is given twice; give all values at once")
        axes[key] = values
    return axes or None


def check_folder(out: str) -> None:
    """Raises InvalidInputError or OutputError where ``out`` cannot be made, or is of something else than a sweep."""
    from fastunlearn.evaluation.sweep import FILE
    from fastunlearn.storage import refuse_existing

    refuse_existing(Path(out) / FILE, overwrite=True)
    # A file with a dot may be what a killed sweep was about to write.
    visible = Path(out).is_dir() and any(not path.name.startswith(".") for path in Path(out).iterdir())
    if visible and not (Path(out) / FILE).is_file():
        raise InvalidInputError(f"--out {out} is there already and holds no sweep ({FILE}): choose another --out")


def run(args: argparse.Namespace) -> None:
    axes = axes_of(args.vary)
    check_folder(args.out)
    fixed = dict(args.settings)
    from fastunlearn.audit.html import write_report
    from fastunlearn.cli.methods import table as columns
    from fastunlearn.data import encode
    from fastunlearn.evaluation.sweep import sweep
    from fastunlearn.evaluation.sweep_page import report_document, table

    records = {"forget": args.forget, "retain": args.retain, "held_out": args.held_out}
    records = {name: read_records(path) for name, path in records.items()}
    model, tokenizer = load(args.model, args)
    longest = context(model, args)
    sets = {
        name: encode(some, tokenizer, max_length=longest, truncate=args.truncate, name=name)
        for name, some in records.items()
    }
    reference = None if args.reference is None else load(args.reference, args)[0]
    found = sweep(
        model, **sets, out=args.out, pad_token_id=pad_token_id(tokenizer), method=args.method, axes=axes, fixed=fixed,
        full=args.full, reference=reference, seed=args.seed, memory=args.memory, progress=progress(args),
    )  # fmt: skip
    print(columns(table(found.document)))
    if any(one["error"] is None for one in found.points):
        _, page = write_report(report_document(found.document), args.out)
        print(f"Results: {found.path}. Plot: {page}")
