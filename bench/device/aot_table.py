"""Registers, spills, shared memory and tensor-core instructions of every Triton kernel, compiled without a GPU.

    python bench/device/aot_table.py                    writes bench/results/triton-aot.json (minutes)
    python bench/device/aot_table.py --only norm --show prints, writes nothing
    python bench/device/aot_table.py --every-tile       all candidate tiles, not the first guess alone; prints
    python bench/device/aot_table.py --loops            instructions of the longest loops, too; prints

Every kernel is compiled for sm_80 and sm_90 in float32, bfloat16 and float16, as its launcher would run it.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import triton

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")

from bench.device.aot import compile_only  # noqa: E402
from fastunlearn.ops.activation import KINDS  # noqa: E402
from fastunlearn.ops.activation import triton as activation  # noqa: E402
from fastunlearn.ops.attention import AttentionSpec  # noqa: E402
from fastunlearn.ops.attention import triton as attention  # noqa: E402
from fastunlearn.ops.ghost_gram import triton as gram  # noqa: E402
from fastunlearn.ops.ghost_gram._arguments import Side  # noqa: E402
from fastunlearn.ops.linear import triton as linear  # noqa: E402
from fastunlearn.ops.linear_cross_entropy import triton as cross_entropy  # noqa: E402
from fastunlearn.ops.linear_cross_entropy.reference import Head  # noqa: E402
from fastunlearn.ops.norm import triton as norm  # noqa: E402
from fastunlearn.ops.rope import triton as rope  # noqa: E402

TABLE = ROOT / "bench" / "results" / "triton-aot.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ARCHITECTURES = (80, 90)
KEY = ("case", "dtype", "architecture", "kernel", "candidate", "part")


def attention_pair(dtype: torch.dtype, head: int, tokens: int = 128, **spec) -> None:
    def zeros(*shape):
        return torch.zeros(shape, dtype=dtype)

    q, k, v = zeros(1, 4, tokens, head), zeros(1, 2, tokens, head), zeros(1, 2, tokens, head)
    tangents = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    how = AttentionSpec(head**-0.5, **{"causal": True, **spec})
    o, ot, stats = attention.dual_forward(q, k, v, *tangents, how, 1)
    attention.dual_backward(q, k, v, *tangents, o, ot, stats, o, ot, how, 1)


def attention_single(dtype: torch.dtype) -> None:
    q, k = torch.zeros(1, 4, 128, 64, dtype=dtype), torch.zeros(1, 2, 128, 64, dtype=dtype)
    how = AttentionSpec(0.125, causal=True)
    o, stats = attention.forward(q, k, k, how)
    attention.backward(q, k, k, o, stats, o.unsqueeze(0), how, 1)


def norms(dtype: torch.dtype, center: bool) -> None:
    x, w = torch.zeros(64, 4096, dtype=dtype), torch.zeros(4096, dtype=dtype)
    xt, wt = x.unsqueeze(0), w.unsqueeze(0)
    norm.dual_forward(x, xt, w, wt, w if center else None, wt if center else None, 1e-6, 0.0, center)
    norm.dual_backward(x, xt, w, wt, x, xt, 1e-6, 0.0, center)


def gated(dtype: torch.dtype, kind: str) -> None:
    x = torch.zeros(64, 8192, dtype=dtype)
    activation.gated_forward(x, x, x.unsqueeze(0), x.unsqueeze(0), kind)
    activation.gated_backward(x, x, x.unsqueeze(0), x.unsqueeze(0), x, x.unsqueeze(0), kind)


def rotary(dtype: torch.dtype) -> None:
    x, table = torch.zeros(1, 4, 128, 64, dtype=dtype), torch.zeros(128, 64)
    rope.apply(x, table, table, False, False)
    rope.apply(x, table, table, True, True)


def products(dtype: torch.dtype) -> None:
    x, w = torch.zeros(256, 512, dtype=dtype), torch.zeros(1, 256, 512)
    linear.weight_product(x, x.unsqueeze(0), x[:, :256].contiguous(), x[:, :256].contiguous().unsqueeze(0), w)
    narrow = torch.zeros(512, 256, dtype=dtype)
    pair = (x, narrow)
    linear.pair_product(pair, pair, torch.zeros(1, 256, 256, dtype=dtype))


def losses(dtype: torch.dtype, softcap: float | None = None) -> None:
    x, w = torch.zeros(128, 256, dtype=dtype), torch.zeros(1024, 256, dtype=dtype)
    labels, weights = torch.zeros(128, dtype=torch.int64), torch.ones(128, dtype=dtype)
    head = Head(w, w.unsqueeze(0), None, None, softcap, 1.0)
    # PyTorch has no half-precision product with a float32 result on the CPU; its values do not matter here.
    plain, cross_entropy.product = cross_entropy.product, lambda a, b: a.float() @ b.float()
    try:
        cross_entropy.hessian_product(x, x.unsqueeze(0), head, labels, weights, True, torch.zeros(1, *w.shape), None)
    finally:
        cross_entropy.product = plain


def ghost_gram(dtype: torch.dtype, two_sets: bool, single: bool = False) -> None:
    x, offsets = torch.zeros(256, 512, dtype=dtype), torch.arange(257) if single else torch.tensor([0, 100, 256])
    side, samples = Side(x, x, offsets), len(offsets) - 1
    gram.ghost_gram(side, side if two_sets else None, two_sets, torch.zeros(samples, samples))


CASES: dict[str, Callable[[torch.dtype], None]] = {
    "attention, head 64": lambda dtype: attention_pair(dtype, 64),
    "attention, head 128": lambda dtype: attention_pair(dtype, 128),
    "attention, head 256": lambda dtype: attention_pair(dtype, 256),
    "attention, head 80, odd length": lambda dtype: attention_pair(dtype, 80, tokens=127),
    "attention, head 64, everything": lambda dtype: attention_pair(
        dtype, 64, window=64, softcap=30.0, alibi=torch.ones(4), mask=torch.ones(128, 128, dtype=torch.bool)
    ),
    "attention, head 64, float mask": lambda dtype: attention_pair(
        dtype, 64, causal=False, mask=torch.zeros(128, 128, dtype=dtype)
    ),
    "attention, one stream": attention_single,
    "rms norm": lambda dtype: norms(dtype, False),
    "layer norm": lambda dtype: norms(dtype, True),
    **{f"gated {kind}": (lambda dtype, kind=kind: gated(dtype, kind)) for kind in KINDS},
    "rotary": rotary,
    "products": products,
    "ghost gram": lambda dtype: ghost_gram(dtype, False),
    "ghost gram, two sets and bias": lambda dtype: ghost_gram(dtype, True),
    "ghost gram, single tokens": lambda dtype: ghost_gram(dtype, False, True),
    "cross-entropy": losses,
    "cross-entropy, softcap": lambda dtype: losses(dtype, 30.0),
}


def rows(
    only: str = "", dtypes=tuple(DTYPES), architectures=ARCHITECTURES, every_tile=False, loops=False
) -> Iterator[dict]:
    for case, launch in CASES.items():
        for dtype in dtypes if only in case else ():
            for architecture in architectures:
                with compile_only(architecture, every_tile, loops) as found:
                    launch(DTYPES[dtype])
                seen: dict[tuple, int] = {}
                for row in found:  # a kernel that is launched twice in one case is told apart by its number
                    twin = (row["kernel"], row["candidate"])
                    seen[twin] = seen.get(twin, -1) + 1
                    yield {"case": case, "dtype": dtype, "part": seen[twin], **row}


def line(row: dict) -> str:
    tile = "x".join(str(size) for size in row["tile"].values())
    shown = (
        f"{row['case']:32} {row['dtype']:9} sm_{row['architecture']} {row['kernel']:28} {tile:14} w{row['warps']} "
        f"s{row['stages']} registers {row['registers']:3} spilled {row['spilled_bytes']:5} B "
        f"shared {row['shared_bytes'] / 1024:5.0f} KiB wgmma {row['wgmma']:3} mma {row['mma']:3}"
    )
    if loop := row.get("loop"):
        most = ", ".join(f"{name} {count}" for name, count in loop.names.most_common(6))
        shown += (
            f" loop {loop.instructions:4} less {loop.passed_by:3}: "
            f"{loop.issue_cycles(row['warps']):.0f} cycles of issue ({most})"
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--architecture", type=int, choices=ARCHITECTURES, action="append")
    parser.add_argument("--every-tile", action="store_true")
    parser.add_argument("--loops", action="store_true")
    parser.add_argument("--show", action="store_true", help="print only; the table is not written")
    options = parser.parse_args()
    found = []
    dtypes, architectures = options.dtype or DTYPES, options.architecture or ARCHITECTURES
    for row in rows(options.only, dtypes, architectures, options.every_tile, options.loops):
        found.append(row)
        print(line(row), flush=True)
    part = options.only or options.dtype or options.architecture
    if options.show or part or options.every_tile or options.loops:
        return
    record = {"triton": triton.__version__, "rows": found}
    body = ",\n".join(json.dumps(row) for row in record["rows"])
    TABLE.write_text(f'{{"triton": "{triton.__version__}", "rows": [\n{body}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
