"""``fastunlearn verify``: checks the evidence folder of a run, for a third party."""

from __future__ import annotations

import argparse
import json

from fastunlearn.cli._options import add_device, add_trust, progress, read_records

NAME = "verify"
HELP = "Check the evidence folder of a run, and the model and records handed over with it."
EXIT_FAILED = 1


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the evidence folder")
    parser.add_argument("--public-key", metavar="F", help="the signer's public key, got by another way than the folder")
    parser.add_argument("--openssf-public-key", metavar="F", help="the signer's key for the OpenSSF signature")
    parser.add_argument("--run", dest="run_id", metavar="ID", help="the identifier of the run that it must be of")
    parser.add_argument("--model", metavar="DIR", help="the model after; it must be that of the run")
    parser.add_argument("--before", metavar="DIR", help="the model before")
    parser.add_argument("--reference", metavar="DIR", help="the model retrained without the records")
    parser.add_argument("--forget", metavar="F", help="records that were to be forgotten")
    parser.add_argument("--retain", metavar="F", help="records that were to be kept")
    parser.add_argument("--held-out", metavar="F", help="records that the model has never seen")
    parser.add_argument("--salts", metavar="F", help="the owner's salts, by which the records are those of the run")
    parser.add_argument("--kept-fisher", metavar="F", help="the kept Fisher of the run")
    parser.add_argument("--sample", default="32", metavar="N", help="records of each set to measure again, or all")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws the sample (default: 0)")
    parser.add_argument("--recompute", action="store_true", help="compute the update again (needs --before, records)")
    parser.add_argument("--tolerance", type=float, metavar="X", help="of the update on another type of machine")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_device(parser)
    add_trust(parser)


def _sample(text: str) -> int | None:
    from fastunlearn.errors import InvalidInputError

    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InvalidInputError(f"--sample {text!r} must be a number of at least 1, or all")
    return int(text)


def run(args: argparse.Namespace) -> int:
    sample = _sample(args.sample)
    records = {}
    if args.forget or args.retain or args.held_out:
        paths = {"forget": args.forget, "retain": args.retain, "held_out": args.held_out}
        records = {name: read_records(path) for name, path in paths.items() if path is not None}
    from fastunlearn.evidence.verification import verify

    found = verify(
        args.folder, public_key=args.public_key, openssf_public_key=args.openssf_public_key, run=args.run_id,
        model=args.model, before=args.before, reference=args.reference, records=records, salts=args.salts,
        kept_fisher=args.kept_fisher, sample=sample, seed=args.seed, recompute=args.recompute,
        tolerance=args.tolerance, device=args.device, trust_remote_code=args.trust_remote_code,
        progress=progress(args) if args.recompute else None,
    )  # fmt: skip
    print(json.dumps(found.to_dict(), indent=1) if args.json else found.text())
    return 0 if found.passed else EXIT_FAILED
