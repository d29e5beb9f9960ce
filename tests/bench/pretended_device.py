"""Runs a script of bench/device as a GPU machine would, on a pretended GPU: CUDA kernels emulated, Triton's in the
interpreter, whose products of bfloat16 are wrong, so that float32 stands in the place of half precision.

    TRITON_INTERPRET=1 python -m tests.bench.pretended_device SCRIPT[,SCRIPT] --device cuda --toy --out FOLDER
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

from fastunlearn.ops import _dispatch
from tests.emulated_cuda.build import build
from tests.emulated_cuda.device import pretended_gpu


def main(names: list[str], arguments: list[str]) -> None:
    emulated, load = build(Path(tempfile.mkdtemp())), _dispatch._load
    patches = {"_load": lambda name: (emulated, "") if name == "cuda" else load(name), "_interpreted": lambda: False}
    for name in names:
        with (
            pretended_gpu(),
            mock.patch.multiple(_dispatch, **patches),
            mock.patch.object(sys, "argv", [name, *arguments]),
        ):
            if name.endswith("timings"):
                torch.bfloat16 = torch.float32
            script = importlib.import_module(name)
            if hasattr(script, "DTYPES"):
                script.DTYPES = (torch.float32,)
            try:
                script.main()
            except SystemExit as stop:
                if stop.code:
                    raise


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
