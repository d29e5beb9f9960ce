"""Runs a script of bench/device as a GPU machine would, on a pretended GPU: CUDA kernels emulated, Triton's in the
interpreter, whose products of bfloat16 are wrong, so that float32 stands in the place of half precision.

    TRITON_INTERPRET=1 python -m tests.bench.pretended_device SCRIPT[,SCRIPT] --device cuda --toy --out FOLDER
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from bench.device import check_cases, measure, runtime
from fastunlearn.ops import _dispatch
from tests.emulated_cuda.build import SHARED_BUILD, build_once
from tests.emulated_cuda.device import pretended_gpu
from tests.ops.interpreter import patch_once


def recorded(gpu, run, refresh):
    """What a graph's recording would forbid is an error; nothing is replayed."""
    run()
    refresh()
    with gpu.recording():
        return run()


def main(names: list[str], arguments: list[str]) -> None:
    patch_once()
    emulated = build_once(Path(os.environ.get(SHARED_BUILD) or tempfile.mkdtemp()))
    load = _dispatch._load
    patches = {"_load": lambda name: (emulated, "") if name == "cuda" else load(name), "_interpreted": lambda: False}
    for name in names:
        with (
            pretended_gpu() as gpu,
            mock.patch.multiple(_dispatch, **patches),
            mock.patch.object(sys, "argv", [name, *arguments]),
            mock.patch.object(measure, "HALF", torch.float32),
            mock.patch.multiple(runtime, HALF=torch.float32, WAYS={"in a CUDA graph": partial(recorded, gpu)}),
        ):
            script = importlib.import_module(name)  # a script without a main() runs here
            if not hasattr(script, "main"):
                continue
            check_cases.DTYPES = (torch.float32,)
            try:
                script.main()
            except SystemExit as stop:
                if stop.code:
                    raise


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
