"""``fastunlearn bench``: this machine, this model: ours beside the peers that are installed and the machine's limit."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastunlearn.cli._options import add_device, progress

NAME = "bench"
HELP = "Measure products, ops and solves on this machine, beside the peers that are installed."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="all", help="op, hvp, lowrank or all (default)")
    parser.add_argument("--shape", default="llama-5m", help="llama-5m (default), llama-42m, llama-1b, ...")
    parser.add_argument("--model", metavar="DIR", help="a model folder of your own instead of a shape")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of a sequence (default: 128)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences (default: 1)")
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="of the Fisher (default: 16)")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float64")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times are medians of N (default: 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: PyTorch's")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--memory", action="store_true", help="peak memory too, in a process for each (slower)")
    parser.add_argument("--out", metavar="FILE.json", help="write the record there, and its chart beside it (.svg)")
    parser.add_argument("--compare", metavar="OLD.json", help="a record of before, to compare with")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    import torch

    from fastunlearn.errors import InvalidInputError
    from fastunlearn.microbench import suite
    from fastunlearn.microbench.harness import write_json
    from fastunlearn.storage import check_device, refuse_existing, write_text

    device = str(check_device(args.device))
    request = suite.Request(
        what=args.what, shape=args.shape, model=args.model, tokens=args.tokens, batch=args.batch, samples=args.samples,
        dtype=args.dtype, device=device, rounds=args.rounds, peers=not args.no_peers, memory=args.memory,
    )  # fmt: skip
    old = None if args.compare is None else suite.read_record(args.compare)
    if args.out is not None and not args.out.endswith(".json"):
        raise InvalidInputError(f"--out {args.out}: the record is JSON, so its name must end in .json")
    if args.out is not None:
        refuse_existing(args.out, overwrite=True)  # can it be written at all? A record of before is replaced
    if args.threads is not None:
        if args.threads < 1:
            raise InvalidInputError(f"--threads {args.threads} must be at least 1")
        torch.set_num_threads(args.threads)
    settings, cases = suite.run(request, progress(args))
    print(suite.table(settings, cases, device))
    if old is not None:
        print("\n" + suite.comparison(old, cases, device))
    if args.out is not None:
        out = Path(args.out)
        write_json(out, "fastunlearn bench", settings, cases, device)
        write_text(out.with_suffix(".svg"), suite.chart(cases))
        print(f"\nRecord: {out}, chart: {out.with_suffix('.svg')}")
