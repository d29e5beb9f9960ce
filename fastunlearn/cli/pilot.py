"""``fastunlearn pilot``: the whole procedure in small, with retrained references: go or no-go."""

from __future__ import annotations

import argparse

from fastunlearn.cli._options import add_config, progress

NAME = "pilot"
HELP = "Try the whole procedure on a sample, compare with retrained models, and say go or no-go."


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """0: go; 1: no go."""
    from fastunlearn.production.config import load_config
    from fastunlearn.production.pilot import run_pilot

    config = load_config(args.config)

    def hours() -> float:
        from fastunlearn.production.job import job_of
        from fastunlearn.production.plan import make_plan

        return make_plan(job_of(config), progress=progress(args))["seconds"]["total"] / 3600

    verdict, folder = run_pilot(config, hours=hours, progress=progress(args))
    print(*verdict.reasons, sep="\n")
    print(f"{'GO' if verdict.go else 'NO GO'}. Report: {folder / 'report.html'}")
    return 0 if verdict.go else 1
