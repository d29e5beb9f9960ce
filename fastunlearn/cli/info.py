"""``fastunlearn info``: what is live on this machine, and why the rest is not."""

from __future__ import annotations

import argparse
import json

NAME = "info"
HELP = "Show which compute backends are live on this machine, and the versions."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    from fastunlearn.info import info, info_text

    state = info()
    print(json.dumps(state, indent=1) if args.json else info_text(state))
