"""The ways to one reverse sweep of attention. Which is the fastest is timed on the GPU (ops/_triton.py).

apart    queries (9 products of tiles), keys (9), values (6). Not for heads wider than 128, nor in float32 than 64: the
         registers do not hold both scores and sums
fused    keys and queries (12), values (6): the queries' sums by atomics, so that their last bits vary. Not offered
         under torch.use_deterministic_algorithms, nor where the kernel has no tile (_triton_tiles.py)
stored   tiles of p, ds and their tangents go to memory (6), and are read for queries (3), keys (3) and values (3): no
         kernel holds large sums beside its scores; 20 bytes of traffic for a pair of query and key, in half precision
storing  the kernel of the queries (9) stores what its own sums are made of; keys (3), values (3): 16 bytes. Where there
         is apart

Of all but the second every sum is made by one program in one order. One stream alone has about a third of all that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastunlearn.ops._triton import launch

from ._triton_backward import attention_backward_queries
from ._triton_backward_keys import attention_backward_keys
from ._triton_stored import stored
from ._triton_tiles import fused_tiles, key_tiles, query_tiles

__all__ = ["Sweep"]


class Sweep:
    """``arguments``: what the kernels take. ``outputs``: gq, gk, gv (None for one stream), hq, hk, hv. ``key``: what
    the best tiles depend on."""

    def __init__(self, arguments: dict, outputs: dict[str, Tensor | None], key: tuple):
        self.arguments, self.outputs, self.key = arguments, outputs, key
        self.dtype, self.head = arguments["q"].dtype, max(arguments["D"], arguments["E"])

    def ways(self) -> tuple[Callable[[], None], ...]:
        """Best guess first."""
        if not query_tiles(self.dtype, self.head):
            return (self.stored,)
        found = [self.apart]
        if fused_tiles(self.dtype, self.head) and not torch.are_deterministic_algorithms_enabled():
            found.append(self.fused)
        narrow = self.head <= 64 and self.dtype != torch.float32
        return (*found, self.stored, self.storing) if narrow else (self.stored, *found, self.storing)

    def apart(self) -> None:
        a = self.arguments
        across = a["B"] * a["H"]
        alone = {"p_tiles": None, "pt_tiles": None, "ds_tiles": None, "dst_tiles": None, "row0": 0, "rows": a["S"],
                 "columns": 0, "SUM": True, "STORE": 0, "FIRST": True}  # fmt: skip
        launch(
            attention_backward_queries, lambda t: (-(-a["S"] // t.sizes["BLOCK_M"]) * across, self._count()),
            query_tiles(self.dtype, self.head), a | self._of("gq", "hq") | alone, self.key,
        )  # fmt: skip
        for want_k in (True, False):  # keys, then values: together they would not fit into registers
            self._keys(key_tiles(self.dtype, self.head), WANT_Q=False, WANT_K=want_k, WANT_V=not want_k)

    def fused(self) -> None:
        sums = {f"sum_{n}": None if t is None else torch.zeros(t.shape, dtype=torch.float32, device=t.device)
                for n, t in self._of("gq", "hq").items()}  # fmt: skip

        def reset() -> None:
            for one in sums.values():
                if one is not None:
                    one.zero_()

        self._keys(fused_tiles(self.dtype, self.head), reset, **sums, WANT_Q=True, WANT_K=True, WANT_V=False)
        self._keys(key_tiles(self.dtype, self.head), WANT_Q=False, WANT_K=False, WANT_V=True)
        for name, out in self._of("gq", "hq").items():
            if out is not None:
                out.copy_(sums[f"sum_{name}"])

    def stored(self) -> None:
        stored(self.arguments, self.outputs, self.key, storing=False)

    def storing(self) -> None:
        stored(self.arguments, self.outputs, self.key, storing=True)

    def _count(self) -> int:
        return len(self.outputs["hq"])

    def _of(self, *names: str) -> dict[str, Tensor | None]:
        return {name: self.outputs[name] for name in names}

    def _keys(self, tiles, reset=None, sum_gq: Tensor | None = None, sum_hq: Tensor | None = None, **wants) -> None:
        a = self.arguments
        across, given = a["B"] * a["G"], {"sum_gq": sum_gq, "sum_hq": sum_hq, **wants}
        launch(
            attention_backward_keys, lambda t: (-(-a["T"] // t.sizes["BLOCK_N"]) * across, self._count()), tiles,
            a | self._of("gk", "gv", "hk", "hv") | given, (*wants.values(), *self.key), reset=reset,
        )  # fmt: skip
