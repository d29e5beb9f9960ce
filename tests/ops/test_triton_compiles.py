"""Triton kernels compile ahead of time for Ampere and Hopper, as bench/results/triton-aot.json says.

Some kernels here; all of them, in every dtype, by ``python bench/device/aot_table.py`` (which writes the table).
Registers and spills are compared where this Triton is the one that the table was written with; with another one the
kernels must compile and fit into shared memory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = json.loads((ROOT / "bench" / "results" / "triton-aot.json").read_text(encoding="utf-8"))
SHARED = {80: 163 * 1024, 90: 227 * 1024}
KEY = ("case", "dtype", "architecture", "kernel", "part", "candidate")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
DESKTOP = 99 * 1024  # GPUs of 8.6, 8.9 and 12.x
PROGRAM = """
import json, sys
from bench.device.aot_table import rows
import triton
found = []
for case, dtype, architecture in json.loads(sys.argv[1]):
    found += rows(case, (dtype,), (architecture,))
print(json.dumps({"triton": triton.__version__, "rows": found}))
"""


def key(row: dict) -> tuple:
    return tuple(row[name] for name in KEY)


def compiled(*jobs: tuple[str, str, int], program: str = PROGRAM):
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", program, json.dumps(jobs)]
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_kernels_compile_as_recorded():
    got = compiled(
        ("attention, one stream", "bfloat16", 90), ("rotary", "float16", 80), ("rms norm", "bfloat16", 90),
        ("gated silu", "bfloat16", 80), ("cross-entropy, softcap", "float32", 90), ("products", "bfloat16", 90),
    )  # fmt: skip
    recorded = {key(row): row for row in TABLE["rows"]}
    assert len(got["rows"]) >= 10
    for row in got["rows"]:
        assert row["shared_bytes"] <= SHARED[row["architecture"]], row
        assert key(row) in recorded, f"not in the table: write it again with bench/device/aot_table.py ({row})"
        if got["triton"] == TABLE["triton"]:
            assert row == recorded[key(row)], "registers or spills changed: write the table again and look at it"


def test_the_table_is_whole():
    """Every case in both architectures and three dtypes; tensor cores where there are products; nothing too large."""
    rows = TABLE["rows"]
    cases = {row["case"] for row in rows}
    assert len({(r["case"], r["dtype"], r["architecture"]) for r in rows}) == 6 * len(cases)
    assert len({key(row) for row in rows}) == len(rows)
    for row in rows:
        assert row["shared_bytes"] <= SHARED[row["architecture"]], row
        if row["kernel"].startswith("attention") or row["kernel"] == "products":
            assert row["wgmma"] + row["mma"] > 0, row


def test_main_configurations_hardly_spill():
    """Heads of 64 in half precision, causal: at most four registers; all kernels without products: two."""
    for row in TABLE["rows"]:
        main = row["case"] == "attention, head 64" and row["dtype"] != "float32"
        if main or not (row["kernel"].startswith("attention") or row["kernel"] in ("products", "row_products")):
            assert row["spilled_bytes"] <= (16 if main else 8), row


DESKTOP_PROGRAM = """
import json, sys
from bench.device.aot import compile_only
from bench.device.aot_table import attention_pair
import torch
with compile_only(120, every_tile=True) as rows:
    attention_pair(torch.bfloat16, 80)
print(json.dumps(rows))
"""


def test_a_gpu_with_less_shared_memory_has_a_tile_of_every_kernel():
    """The newest desktop GPUs, and a head that few tiles divide."""
    launches: list[list[dict]] = []
    for row in compiled(program=DESKTOP_PROGRAM):
        if row["candidate"] == 0:
            launches.append([])
        launches[-1].append(row)
    assert len(launches) > 8
    for tiles in launches:
        assert min(row["shared_bytes"] for row in tiles) <= DESKTOP, tiles
