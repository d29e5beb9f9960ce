"""``fastunlearn methods``: the table of unlearning methods."""

from __future__ import annotations

import argparse

from fastunlearn.cli._options import table

NAME = "methods"
HELP = "List the unlearning methods, what each does, and whether it needs retain data."


def configure(parser: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(args: argparse.Namespace) -> None:
    from fastunlearn.unlearn import METHODS

    rows = [(name, "yes" if one.uses_retain else "no", one.summary) for name, one in METHODS.items()]
    print(table([("METHOD", "RETAIN DATA", "WHAT IT DOES"), *rows]))
