"""Runs OpenUnlearning's ``src/train.py`` (or ``src/eval.py``) from a checkout, with our trainers and metrics there.

    python -m fastunlearn.integrations.openunlearning.run --checkout DIR [--entry eval] HYDRA_OVERRIDE ...
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from fastunlearn.errors import FastUnlearnError, InvalidInputError

from . import register

__all__ = ["main"]

SEARCH_PATH = "pkg://fastunlearn.integrations.openunlearning"


def _script(checkout: str, entry: str) -> Path:
    script = Path(checkout).resolve() / "src" / f"{entry}.py"
    if not script.is_file():
        raise InvalidInputError(
            f"--checkout {checkout} has no src/{entry}.py: give the root folder of a checkout of "
            "github.com/locuslab/open-unlearning"
        )
    return script


def _with_search_path(overrides: Sequence[str]) -> list[str]:
    """The overrides, with our configurations on hydra's search path."""
    if any("fastunlearn.integrations.openunlearning" in one for one in overrides):
        return list(overrides)
    for place, one in enumerate(overrides):
        if one.startswith("hydra.searchpath=["):
            joined = one.removesuffix("]") + f",{SEARCH_PATH}]"
            return [*overrides[:place], joined, *overrides[place + 1 :]]
    return [*overrides, f"hydra.searchpath=[{SEARCH_PATH}]"]


def main(argv: Sequence[str] | None = None) -> int:
    """What the module runs as a command. 2 where the checkout is none; errors of the run itself are raised."""
    parser = argparse.ArgumentParser(prog="python -m fastunlearn.integrations.openunlearning.run", allow_abbrev=False)
    parser.add_argument("--checkout", required=True, metavar="DIR", help="root of an open-unlearning checkout")
    parser.add_argument("--entry", choices=("train", "eval"), default="train", help="which of its scripts to run")
    args, overrides = parser.parse_known_args(argv)
    try:
        script = _script(args.checkout, args.entry)
        sys.path.insert(0, str(script.parent))
        names = register()
    except FastUnlearnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"fastunlearn: registered {', '.join(names)}")
    sys.argv = [str(script), *_with_search_path(overrides)]
    runpy.run_path(str(script), run_name="__main__")  # as a script, so that hydra finds ../configs beside it
    return 0


if __name__ == "__main__":
    sys.exit(main())
