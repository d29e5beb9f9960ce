"""Options and small steps that several commands share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastunlearn.errors import InvalidInputError

__all__ = [
    "add_config", "add_device", "add_lang", "add_length", "add_overwrite", "add_seed", "add_trust", "check_out",
    "check_report_out", "context", "load", "named_value", "pad_token_id", "progress", "read_records", "table",
]  # fmt: skip


def _seed(text: str) -> int:
    """NumPy takes no negative seed, PyTorch none of more than 64 bits: all commands take what all methods do."""
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer from 0 to 2**32 - 1")
    return int(text)


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed (default: 0)")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the Python files of the model folder"
    )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what is there under the --out name")


def check_out(path: str | Path, args: argparse.Namespace) -> Path:
    """The place of a result, looked at before anything is computed: free, or to be replaced by --overwrite."""
    from fastunlearn.storage import refuse_existing

    return refuse_existing(path, overwrite=args.overwrite, advice="choose another --out, or add --overwrite")


def check_report_out(args: argparse.Namespace) -> None:
    """The same for both files of a report in the folder --out."""
    for name in ("report.json", "report.html"):
        check_out(Path(args.out) / name, args)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default="fastunlearn.toml", metavar="F", help="the configuration (default: fastunlearn.toml)"
    )


def add_lang(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lang", default="en", choices=("en", "ja"), help="language of the report (default: en)")


def add_length(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="most tokens of a record (default: the model's context)"
    )
    parser.add_argument("--truncate", action="store_true", help="cut longer records instead of refusing them")


def table(rows: list[tuple[str, ...]]) -> str:
    """The rows in columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def named_value(text: str) -> tuple[str, object]:
    """``key=value``; the value is read as JSON (numbers, true, null, lists) and else is the text itself."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    try:
        return key, json.loads(value, parse_constant=_no_constant)
    except ValueError:
        return key, value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")  # json reads NaN and Infinity by default


def progress(args: argparse.Namespace):
    """What to show progress with: the terminal, or nothing with --quiet."""
    from fastunlearn.progress import NO_PROGRESS, TerminalProgress

    return NO_PROGRESS if args.quiet else TerminalProgress()


def read_records(path: str | None):
    """The records of a file, a folder, or ``hub:NAME``; None stays None."""
    from fastunlearn.data.loading import load_records

    return None if path is None else load_records(path)


def load(folder: str | Path, args: argparse.Namespace):
    """Model and tokenizer of a folder, on the device and with the trust that ``args`` give."""
    from fastunlearn.storage import load_model

    return load_model(folder, device=args.device, trust_remote_code=args.trust_remote_code)


def pad_token_id(tokenizer) -> int:
    """A token to pad with. Padding is masked, so where there is no pad token any other one will do."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in found if token is not None)


def context(model, args: argparse.Namespace) -> int:
    """The most tokens of a record: --max-length, which must fit the model, else the model's context."""
    from fastunlearn.audit.exposure import context_length, known_context

    if args.max_length is None:
        return context_length(model)
    longest = known_context(model)
    if longest is not None and args.max_length > longest:
        raise InvalidInputError(f"--max-length {args.max_length} is above the model's context of {longest}")
    return args.max_length
