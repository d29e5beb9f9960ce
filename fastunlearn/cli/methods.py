"""``fastunlearn methods``: the table of unlearning methods, and the settings of one."""

from __future__ import annotations

import argparse
import json
import textwrap

from fastunlearn.cli._options import table

NAME = "methods"
HELP = "List the unlearning methods, or the settings of one."
_HOW = (
    "Give a setting as --set NAME=VALUE, as a keyword argument of fu.unlearn (there null is None), or under "
    '[method.settings] in fastunlearn.toml (there null is "none").'
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method, to see its settings")


def run(args: argparse.Namespace) -> None:
    if args.name is not None:
        print(_one(args.name))
        return
    from fastunlearn.unlearn import METHODS

    rows = [(name, "yes" if one.uses_retain else "no", one.summary) for name, one in METHODS.items()]
    print(table([("METHOD", "RETAIN DATA", "WHAT IT DOES"), *rows]))


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _one(name: str) -> str:
    """The method ``name`` with its settings."""
    from fastunlearn.unlearn import get_method
    from fastunlearn.unlearn.meanings import settings_of

    method = get_method(name)
    needs = "retained records" if method.uses_retain else "a kept Fisher" if method.uses_kept else "forget records only"
    rows = [(one.name, _shown(one.default), one.values, one.meaning) for one in settings_of(method)]
    shown = table([("SETTING", "DEFAULT", "VALUES", "MEANING"), *rows])
    return "\n\n".join((f"{name} ({method.label}): {method.summary}. Needs: {needs}.", shown, textwrap.fill(_HOW, 100)))
