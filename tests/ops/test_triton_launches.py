"""Triton's own launches, from the launchers here to the driver, which is pretended: it loads nothing and runs nothing.

The interpreter takes another path, and ahead-of-time compiling (bench/device/aot.py) makes its own picture of a launch:
here both are held to what Triton does with the same arguments on a GPU.
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
CASES = ("attention, head 64", "attention, one stream", "rms norm", "gated silu", "rotary", "products", "ghost gram",
         "cross-entropy")  # fmt: skip
PROGRAM = """
import json, sys
from types import SimpleNamespace
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from bench.device import aot, aot_table
from fastunlearn.ops import _triton
from fastunlearn.ops.attention import triton as attention

launched = []


class Launcher:
    def __init__(self, source, metadata):
        self.source = source

    def __call__(self, x, y, z, *arguments):
        launched.append({"source": self.source, "grid": (x, y, z)})


driver.set_active(SimpleNamespace(
    launcher_cls=Launcher, get_current_device=lambda: 0, get_current_stream=lambda device: 0,
    get_device_capability=lambda device=0: (9, 0), get_current_target=lambda: GPUTarget("cuda", 90, 32),
    utils=SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
                          load_binary=lambda *binary: (1, 1, 0, 0, 1024)),
))
rows, run = [], _triton.run


def watched(kernel, grid, tile, arguments):
    run(kernel, grid, tile, arguments)
    there, here = launched[-1]["source"], aot.source(kernel, {**arguments, **tile.sizes})
    given = {place: values for place, values in there.attrs.items() if values}
    rows.append({"kernel": kernel.fn.__name__, "grid": launched[-1]["grid"], "same": (
        there.signature == here.signature and there.constants == here.constants and given == here.attrs)})


def every(name, ways, key):
    return lambda: [way() for way in ways]


with (
    mock.patch.object(_triton, "run", watched), mock.patch.object(_triton, "_device", lambda: "pretended"),
    mock.patch.object(torch.cuda, "current_device", lambda: 0),
    mock.patch.object(torch.cuda, "get_device_capability", lambda *device: (9, 0)),
    mock.patch.object(attention, "fastest", every),
):
    for case in json.loads(sys.argv[1]):
        aot_table.CASES[case](torch.bfloat16)
print(json.dumps({"rows": rows, "launched": len(launched)}))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_launches():
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(CASES)]
    environment = {**clean, "PYTHONPATH": str(ROOT), "FASTUNLEARN_TUNE": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.splitlines()[-1])
    kernels = {row["kernel"] for row in got["rows"]}
    assert got["launched"] == len(got["rows"]) >= 42
    assert kernels >= {"attention_forward", "attention_backward_queries", "attention_backward_keys", "attention_sums",
                       "products", "gram_tiles", "loss_rows", "norm_backward", "rotate"}  # fmt: skip
    for row in got["rows"]:
        x, y, z = row["grid"]
        assert row["same"], f"bench/device/aot.py compiles another {row['kernel']} than a launch does"
        assert 1 <= x < 2**31 and 1 <= y <= 65535 and 1 <= z <= 65535, row
