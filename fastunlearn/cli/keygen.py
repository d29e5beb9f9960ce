"""``fastunlearn keygen``: makes the keys that evidence is signed with."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "keygen"
HELP = "Make a key pair to sign evidence with, and show its fingerprint."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for private.pem and public.pem")
    parser.add_argument(
        "--openssf", action="store_true",
        help="also a key for OpenSSF model signing (needs the packages model-signing and pyOpenSSL)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from fastunlearn.evidence.keys import PUBLIC, fingerprint, generate_key, load_private
    from fastunlearn.evidence.openssf import generate_openssf_key, need

    if args.openssf:
        need()
    private = generate_key(args.out)
    if args.openssf:
        generate_openssf_key(args.out)
    print(f"Private key: {private} (keep it to yourself; whoever has it can sign in your name)")
    print(f"Public key:  {Path(args.out) / PUBLIC} (give it to those who verify)")
    print(f"Fingerprint: {fingerprint(load_private(private))}")
