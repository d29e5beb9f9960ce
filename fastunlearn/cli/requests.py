"""``fastunlearn requests``: the ledger of requests to forget."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastunlearn.cli._options import add_config, progress, read_records, table

NAME = "requests"
HELP = "Keep a ledger of requests to forget, and run them together."


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="take in a request", allow_abbrev=False)
    add.add_argument("--id", required=True, metavar="ID", help="the request's identifier (no personal data)")
    add.add_argument("--records", required=True, metavar="F", help="the records to forget")
    show = actions.add_parser("list", help="show all requests", allow_abbrev=False)
    go = actions.add_parser("run", help="run all open requests as one", allow_abbrev=False)
    go.add_argument("--dry-run", action="store_true", help="only show what would be done")
    status = actions.add_parser("status", help="show one request and its proof", allow_abbrev=False)
    status.add_argument("id", metavar="ID")
    for one in (add, show, go, status):
        add_config(one)
        # SUPPRESS: an option before the action is kept
        one.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="show no progress")
        one.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error came from"
        )


def run(args: argparse.Namespace) -> None:
    {"add": _add, "list": _list, "run": _run, "status": _status}[args.action](args)


def _config(args: argparse.Namespace):
    from fastunlearn.production.config import load_config

    return load_config(args.config)


def _ledger(config, *, make: bool = False):
    from fastunlearn.production.ledger import Ledger

    return Ledger(config.place(config.requests.ledger), make=make)


def _add(args: argparse.Namespace) -> None:
    config = _config(args)
    records = read_records(args.records)
    with _ledger(config, make=True) as ledger:
        made = ledger.add(args.id, records)
    late = " (the clock was set back since the last request)" if made.clock_set_back else ""
    print(f"Request {made.id}: {made.records} records, received {made.received}{late}")


def _list(args: argparse.Namespace) -> None:
    with _ledger(_config(args)) as ledger:
        found = ledger.requests()
    rows = [("NUMBER", "ID", "RECEIVED", "STATUS", "RECORDS", "RUN", "EVIDENCE")]
    for one in found:
        clock = " (clock set back)" if one.clock_set_back else ""
        run_number = "-" if one.run is None else str(one.run)
        rows.append((str(one.number), one.id, one.received + clock, one.status, str(one.records), run_number,
                     one.evidence or "-"))  # fmt: skip
    print(table(rows))


def _status(args: argparse.Namespace) -> None:
    config = _config(args)
    with _ledger(config) as ledger:
        one = ledger.request(args.id)
        depend = sum(number == one.number for _, number in ledger.dependents(one.run)) if one.run is not None else 0
        texts = len(ledger.texts(one))
    print(f"Request {one.id}: {one.status}, {one.records} records, received {one.received}")
    if one.evidence is not None:
        print(f"Run {one.run}. Proof: {one.evidence} (check it with: fastunlearn verify {one.evidence})")
        print(f"Run identifier: {_identifier(config.place(one.evidence))}")
        print(f"Dependent retained records found with it: {depend}. Texts left in the ledger: {texts}")
    elif one.status == "running":
        print(f"Run {one.run} has begun and is not finished: `fastunlearn requests run` goes on with it")


def _identifier(evidence: Path) -> str:
    """The identifier of the run that an evidence folder is of."""
    try:
        return str(json.loads((evidence / "manifest.json").read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"not known, because {evidence / 'manifest.json'} cannot be read"


def _run(args: argparse.Namespace) -> None:
    config = _config(args)
    if args.dry_run:
        from fastunlearn.cli.unlearn import show_dry_run
        from fastunlearn.production.gather import would_be
        from fastunlearn.production.run import check_job

        show_dry_run(check_job(would_be(config)))
        return
    from fastunlearn.production.gather import run_requests

    run_, outcome, left = run_requests(config, progress=progress(args))
    again = ", taken up after an interruption" if outcome.restarted else ""
    print(f"Run {run_.number}{again}: {outcome.account['stopped']}. New model: {outcome.out}")
    print(f"Evidence: {outcome.evidence}")
    print(f"Run identifier: {outcome.account['run']} (for an auditor: fastunlearn verify --run)")
    if left:
        from fastunlearn.errors import OutputError

        places = ", ".join(sorted({str(one.path) for one in left})[:5])
        raise OutputError(
            f"texts of the requests are still to be found in {places}: find out how they came there, and hand none of "
            "these files on"
        )
    if config.requests.purge:
        print("Purged: no text of the requests' records is left in the ledger, the new model's folder or the evidence.")
    print("Delete the requests' records from your own files, their dependent records too.")
