"""``fastunlearn``: reads the command line, runs one command, turns errors into one line and an exit
status."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from fastunlearn import __version__
from fastunlearn.cli import (
    bench,
    demo,
    evaluate,
    info,
    keep_fisher,
    keygen,
    methods,
    new,
    pilot,
    plan,
    report,
    requests,
    sweep,
    train,
    unlearn,
    verify,
)
from fastunlearn.errors import FastUnlearnError

__all__ = ["EXIT_ERROR", "EXIT_INTERRUPTED", "build_parser", "main"]

#: Each has NAME, HELP, ``configure(parser)`` and ``run(args)``, which may return an exit status.
COMMANDS = (
    info, methods, train, unlearn, evaluate, keep_fisher, report, sweep, demo, new, plan, pilot, requests, keygen,
    verify, bench,
)  # fmt: skip
EXIT_ERROR = 2  # as argparse for a wrong command line
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells do


def _shared() -> argparse.ArgumentParser:
    """The options that every command has, before or after its name (SUPPRESS: neither place resets the
    other)."""
    shared = argparse.ArgumentParser(add_help=False)
    absent = argparse.SUPPRESS
    shared.add_argument("--debug", action="store_true", default=absent, help="show where an error came from")
    shared.add_argument("--quiet", action="store_true", default=absent, help="show no progress")
    return shared


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fastunlearn",
        description="Make a causal language model forget chosen records, and measure how well it has.",
        parents=[_shared()],
    )
    parser.add_argument("--version", action="version", version=f"fastunlearn {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        one = commands.add_parser(
            module.NAME, help=module.HELP, description=module.HELP, parents=[_shared()], allow_abbrev=False
        )
        module.configure(one)
        one.set_defaults(run=module.run)
    return parser


def _one_line(kind: str, message: object) -> None:
    print(f"fastunlearn: {kind}: {' '.join(str(message).split())}", file=sys.stderr)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _one_line("warning", message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command of ``arguments`` (default: those of the process) and returns the exit status: 0 (or what the
    command gives, such as 1 for a failed verification), 2 for an error that has a name, 130 for Ctrl-C. Other
    exceptions are bugs and pass through with their traceback."""
    if hasattr(sys.stdout, "reconfigure"):  # as of stderr: hours of work must not end at a name that cannot be shown
        sys.stdout.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args(arguments)
    debug = getattr(args, "debug", False)
    args.quiet = getattr(args, "quiet", False)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = args.run(args)
            sys.stdout.flush()
        return status or 0
    except FastUnlearnError as error:
        if debug:
            raise
        _one_line("error", error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        if debug:
            raise
        print("fastunlearn: stopped by Ctrl-C", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has gone: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
