"""``fastunlearn plan``: what the production run will take, before it runs."""

from __future__ import annotations

import argparse
import json

from fastunlearn.cli._options import add_config, progress

NAME = "plan"
HELP = "Show what a run will take: time, memory, disk and, where a price is given, money."


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--requests", action="store_true", help="of the ledger's open requests, not of data.forget")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    from fastunlearn.production.config import load_config
    from fastunlearn.production.plan import make_plan

    config = load_config(args.config)
    if args.requests:
        from fastunlearn.production.gather import would_be

        job = would_be(config)
    else:
        from fastunlearn.production.job import job_of

        job = job_of(config)
    from fastunlearn.resources import process_seconds

    plan = make_plan(job, started=process_seconds(), progress=progress(args))
    print(json.dumps(plan, indent=1) if args.json else text(plan))


def text(plan: dict) -> str:
    """The plan for people."""
    from fastunlearn.audit._table import bytes_text, count_text, seconds_text

    parts = plan["seconds"]
    width = max(map(len, parts))
    counts = ", ".join(f"{count_text(count)} {name.replace('_', '-')}" for name, count in plan["records"].items())
    lines = [
        f"{plan['method']} on {count_text(plan['model']['parameters'])} weights; records: {counts}",
        *(f"  {name:<{width}}  {seconds_text(value)}" for name, value in parts.items() if name != "total"),
        f"Time    {seconds_text(parts['total'])}, if all {plan['steps']} steps are taken (it may need fewer)",
        f"Memory  {bytes_text(plan['peak_bytes'])}",
        f"Disk    {bytes_text(plan['disk_bytes']['most'])} at the most, "
        f"{bytes_text(plan['disk_bytes']['at the end'])} at the end",
    ]  # fmt: skip
    if plan["price"] is not None:
        lines.append(f"Price   {plan['price']['amount']:.2f} {plan['price']['currency']}")
    tried = f"{100 * plan['share_tried']:.3g} % of the records"
    lines.append(f"Reckoned from trial passes on this machine with {tried}. Nothing was changed.")
    if not plan["weights_read"]:
        lines.append("The folder has no weights: the trial took random ones of the same shapes.")
    return "\n".join(lines).replace("\u202f", " ")  # not every terminal has the narrow space
