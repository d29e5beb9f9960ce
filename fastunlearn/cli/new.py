"""``fastunlearn new``: a starter folder with example data."""

from __future__ import annotations

import argparse

from fastunlearn.cli._options import add_seed

NAME = "new"
HELP = "Make a folder to start from: example data and a commented fastunlearn.toml."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder to make")
    add_seed(parser)


def run(args: argparse.Namespace) -> None:
    from fastunlearn.production.starter import new_folder

    folder = new_folder(args.folder, seed=args.seed)
    print(f"New folder: {folder}. What to type next stands in {folder / 'README.txt'}")
