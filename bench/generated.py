"""Writes a page that is made from bench/results, or says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fastunlearn.storage.files import write_text

__all__ = ["write_page"]


def write_page(
    module: str,
    description: str,
    page: Path,
    results: Path,
    made: Callable[[str, Path], str],
    arguments: Sequence[str] | None = None,
    flag: str = "--page",
) -> int:
    """The command line of ``python -m module``. ``made``: from the page as it is ("" where there is none) and the
    folder of results to the page as it should be. With --check nothing is written, and the exit status is 1 where the
    two differ."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page is out of date")
    parser.add_argument(flag, dest="page", type=Path, default=page)
    parser.add_argument("--results", type=Path, default=results)
    options = parser.parse_args(arguments)
    before = options.page.read_text(encoding="utf-8") if options.page.exists() else ""
    after = made(before, options.results)
    if options.check and before != after:
        print(f"{options.page.name} is out of date: run python -m {module}", file=sys.stderr)
        return 1
    if not options.check:
        write_text(options.page, after)
    return 0
