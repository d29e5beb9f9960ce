"""Compiles Triton kernels ahead of time, exactly as their launchers would run them, on a machine without a GPU.

Inside :func:`compile_only` a launch compiles its kernel for a named architecture instead of running it, from the
arguments that the launcher made: what is compiled is what would run. Tensors may be on the CPU.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.device.machine_code import longest_loop
from fastunlearn.ops import _triton

TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64", torch.uint8: "u8",
    torch.int8: "i8", torch.int32: "i32", torch.int64: "i64", torch.bool: "i1",
}  # fmt: skip
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # the most that a block may ask for
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def source(kernel, arguments: dict) -> ASTSource:
    """The kernel with the types that Triton's own launch would give these arguments."""
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        name = parameter.name
        value = arguments[name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{TYPES[value.dtype]}"
            divisible = value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            signature[name], divisible = "fp32", False
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            divisible = value % 16 == 0
        if divisible:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def compile_kernel(kernel, tile: _triton.Tile, arguments: dict, architecture: int, loops: bool = False) -> dict:
    """Registers, bytes of spilled registers, shared memory and tensor-core instructions of one kernel and tile; with
    ``loops`` its longest loop too (machine_code.py)."""
    compiled = triton.compile(
        source(kernel, {**arguments, **tile.sizes}),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": tile.warps, "num_stages": tile.stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = _cuobjdump("--dump-resource-usage", file.name)
        found = {"loop": longest_loop(_cuobjdump("--dump-sass", file.name))} if loops else {}
    usage = {name: int(count) for name, count in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}
    if "REG" not in usage:
        raise RuntimeError(f"cuobjdump named no registers of {kernel.fn.__name__}: {text[:300]}")
    ptx = compiled.asm["ptx"]
    return {
        "kernel": kernel.fn.__name__, "architecture": architecture, "tile": {**tile.sizes}, "warps": tile.warps,
        "stages": tile.stages, "registers": usage["REG"], "spilled_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": compiled.metadata.shared, "wgmma": ptx.count("wgmma.mma_async"), "mma": ptx.count("mma.sync"),
        **found,
    }  # fmt: skip


def _cuobjdump(what: str, file: str) -> str:
    return subprocess.run([str(_CUOBJDUMP), what, file], capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def compile_only(architecture: int, every_tile: bool = False, loops: bool = False) -> Iterator[list[dict]]:
    """Launches inside compile instead; the list that is yielded gets one row per kernel (and per candidate tile)."""
    if _triton.interpreted():
        raise RuntimeError("TRITON_INTERPRET is set: kernels cannot be compiled in this process")
    rows: list[dict] = []

    def launch(kernel, grid, tiles, arguments, key=(), **_how):
        for number, tile in enumerate(tiles if every_tile else tiles[:1]):
            if min(grid(tile)) < 1:
                raise RuntimeError(f"{kernel.fn.__name__} was launched over an empty grid")
            rows.append({**compile_kernel(kernel, tile, arguments, architecture, loops), "candidate": number})

    def all_ways(_name, ways, _key=()):
        def each() -> None:
            for way in ways:
                way()

        return each

    with contextlib.ExitStack() as stack:
        for module in _modules_with("fastest"):
            stack.enter_context(mock.patch.object(module, "fastest", all_ways))
        for module in _modules_with("launch"):
            stack.enter_context(mock.patch.object(module, "launch", launch))
        for module in _modules_with("architecture"):
            stack.enter_context(mock.patch.object(module, "architecture", lambda: architecture))
        yield rows


def _modules_with(name: str) -> list:
    """Every loaded module of the ops that has this function of ops/_triton.py."""
    return [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("fastunlearn.ops.") and getattr(module, name, None) is getattr(_triton, name)
    ]
