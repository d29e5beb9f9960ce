"""``fastunlearn methods``: the table of unlearning methods."""

from __future__ import annotations

import argparse

NAME = "methods"
HELP = "List the unlearning methods, what each does, and whether it needs retain data."


def configure(parser: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def table(rows: list[tuple[str, ...]]) -> str:
    """The rows in columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def run(args: argparse.Namespace) -> None:
    from fastunlearn.unlearn import METHODS

    rows = [(name, "yes" if one.uses_retain else "no", one.summary) for name, one in METHODS.items()]
    print(table([("METHOD", "RETAIN DATA", "WHAT IT DOES"), *rows]))
