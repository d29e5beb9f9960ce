"""``fastunlearn demo``: the whole flow on invented people, with a report at the end."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastunlearn.cli._options import add_overwrite, add_seed, check_report_out, progress

NAME = "demo"
HELP = "Train a small model on invented people, make it forget some, and write a report."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="default: runs/demo")
    add_seed(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> None:
    check_report_out(args)
    from fastunlearn.demo.claims import claims, sentences
    from fastunlearn.demo.run import run_demo

    document = run_demo(args.out, seed=args.seed, progress=progress(args))
    print(*sentences(claims(document)), sep="\n")
    print(f"Report: {Path(args.out) / 'report.html'}")
