"""``fastunlearn report``: draws the report page again from its JSON document."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastunlearn.cli._options import add_lang, add_overwrite, check_report_out
from fastunlearn.errors import InvalidInputError

NAME = "report"
HELP = "Make report.html again from a report.json."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("document", metavar="REPORT.json", help="the document that evaluate or demo wrote")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the report")
    add_lang(parser)
    add_overwrite(parser)


def read_document(path: str | Path) -> dict:
    """The JSON document at ``path``. Raises InvalidInputError where it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidInputError(f"{path} is not JSON: {error}") from error
    except RecursionError:
        raise InvalidInputError(f"{path} is nested too deep to be a document that evaluate or demo wrote") from None


def run(args: argparse.Namespace) -> None:
    check_report_out(args)
    document = read_document(args.document)
    from fastunlearn.audit.document import validate
    from fastunlearn.audit.html import write_report

    validate(document)
    write_report(document, args.out, lang=args.lang)
    print(f"Report: {Path(args.out) / 'report.html'}")
