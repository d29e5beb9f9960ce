"""The reverse sweep by way of memory: the scores' adjoints in tiles, then sums over them.

All of p, ds and their tangents at once would be S x T arrays for every head. They go through a part of the memory that
holds some heads, or some queries of the heads of one group, at a time. Keys' sums are made for each head of queries,
then added up over the heads that share keys; from one part of the queries to the next they are carried on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.ops._triton import Grid, Tile, launch

from ._triton_backward import attention_backward_queries
from ._triton_sums import attention_sums
from ._triton_tiles import column_block, store_grain, store_tiles, storing_tiles, sum_tiles

__all__ = ["stored"]

#: Of a GPU's memory, for the tiles: fewer would not give all of a large GPU's processors work, the keys' least.
STORED_SHARE = 1 / 32
STORED_BYTES = 512 * 2**20  # at least
#: Arguments by their axes: k tangents, b batch, h heads of queries, g those of keys.
_AXES = {
    "q": "bh", "k": "bg", "v": "bg", "qt": "kbh", "kt": "kbg", "vt": "kbg", "g": "bh", "h": "kbh", "lse": "bh",
    "lse_rest": "bh", "mean_t": "kbh", "delta": "1bh", "delta_t": "kbh", "mask": "bh", "alibi": "h",
    "gq": "bh", "gk": "bg", "gv": "bg", "hq": "kbh", "hk": "kbg", "hv": "kbg",
}  # fmt: skip


Pair = tuple[str, str]


@dataclass(frozen=True)
class Part:
    """Batches and groups of heads (all groups where there are several batches), and how many queries at a time."""

    batches: slice
    groups: slice
    rows: int


def parts(batches: int, groups: int, rows: int, row_bytes: int, grain: int, room: int) -> Iterator[Part]:
    """``row_bytes``: of one query of the heads of one group. ``rows``: of queries, a multiple of the grain. ``room``:
    bytes; a grain of queries of one group is taken where it is less than that."""
    fitting = room // (row_bytes * rows)
    if fitting >= groups:
        step = fitting // groups
        for b in range(0, batches, step):
            yield Part(slice(b, min(b + step, batches)), slice(0, groups), rows)
        return
    some = rows if fitting else max(grain, room // row_bytes // grain * grain)
    step = max(1, fitting)
    for b in range(batches):
        for g in range(0, groups, step):
            yield Part(slice(b, b + 1), slice(g, min(g + step, groups)), some)


def stored(arguments: dict, outputs: dict[str, Tensor | None], key: tuple, storing: bool) -> None:
    """``storing``: the queries' sums are made while the tiles are stored."""
    a, grain = arguments, store_grain()
    rows, columns = (-(-a[n] // grain) * grain for n in "ST")
    names = ["p_tiles", "ds_tiles"]
    if a["DUAL"]:
        names += ["dst_tiles", *["pt_tiles"] * (a["HAS_QT"] or a["HAS_KT"])]
    row_bytes = len(names) * (a["H"] // a["G"]) * columns * a["q"].element_size()

    def cut(room: int) -> list[Part]:
        return list(parts(a["B"], a["G"], rows, row_bytes, grain, room))

    def memory_for(part: Part) -> dict[str, Tensor]:
        groups, batches = part.groups.stop - part.groups.start, part.batches.stop - part.batches.start
        count = batches * groups * (a["H"] // a["G"]) * part.rows * columns
        return {name: _room(count, a["q"]) for name in names}

    room = _bytes(a["q"])
    while True:
        found = cut(room)
        try:
            memory = memory_for(found[0])  # the first part is the largest
            break
        except torch.OutOfMemoryError:
            if room == 0:
                raise
            room //= 4  # as little as a grain of the queries of one group
    for part in found:
        for number in range(len(a["h"] if a["DUAL"] else a["g"])):
            first = number == 0 or not a["DUAL"]  # the first stream's tiles are the same for all tangents
            _Launches(_views({**a, **outputs}, part, number), memory, key, storing, first).run(part.rows)


def _bytes(like: Tensor) -> int:
    if not like.is_cuda:
        return STORED_BYTES
    return max(STORED_BYTES, int(STORED_SHARE * torch.cuda.get_device_properties(like.device).total_memory))


def _room(count: int, like: Tensor) -> Tensor:
    return like.new_empty(count)


def _views(values: dict, part: Part, number: int) -> dict:
    """The arguments of the kernels for one part and one tangent; for one stream, one adjoint."""
    per = values["H"] // values["G"]
    cut = {
        "k": slice(number, number + 1), "b": part.batches, "g": part.groups, "1": slice(None),
        "h": slice(part.groups.start * per, part.groups.stop * per),
    }  # fmt: skip
    found = dict(values)
    for name, axes in (_AXES if values["DUAL"] else _AXES | {"g": "kbh", "delta": "kbh"}).items():
        if values[name] is not None:
            found[name] = values[name][tuple(cut[axis] for axis in axes)]
    groups = part.groups.stop - part.groups.start
    return found | {"B": part.batches.stop - part.batches.start, "G": groups, "H": groups * per}


class _Launches:
    """The launches for one part and one tangent or adjoint, some queries after the others."""

    def __init__(self, arguments: dict, memory: dict[str, Tensor], key: tuple, storing: bool, first: bool):
        self.arguments, self.memory, self.key, self.storing, self.first = arguments, memory, key, storing, first
        self.dtype, self.head = arguments["q"].dtype, max(arguments["D"], arguments["E"])

    def run(self, some: int) -> None:
        a, grain = self.arguments, store_grain()
        keys = {name: a[name] for name in (("gk", "hk", "gv", "hv") if self.first and a["DUAL"] else ("hk", "hv"))}
        apart = some < a["S"] or a["G"] < a["H"]
        if apart:
            keys = {n: self._sums_of_heads(t.shape[-1]) for n, t in keys.items()}
        for start in range(0, a["S"], some):
            rows = min(some, -(-(a["S"] - start) // grain) * grain)
            seen = min(a["T"], start + rows) if a["CAUSAL"] else a["T"]
            panel = {"row0": start, "rows": rows, "columns": -(-seen // grain) * grain}
            self._store(panel, self.first or some < a["S"])
            if not self.storing:
                self._sum(panel, ("ds", "dst"), ("k", "kt"), (a["gq"], a["hq"]), False)
            self._sum(panel, ("ds", "dst"), ("q", "qt"), (keys.get("gk"), keys["hk"]), start > 0)
            self._sum(panel, ("p", "pt"), ("g", "h"), (keys.get("gv"), keys["hv"]), start > 0)
        for name, value in keys.items() if apart else ():
            a[name].copy_(value.unflatten(1, (a["G"], -1)).sum(2).view_as(a[name]))

    def _sums_of_heads(self, width: int) -> Tensor:
        a = self.arguments
        return a["q"].new_empty(a["B"], a["H"], a["T"], width, dtype=torch.float32)

    def _store(self, panel: dict, first: bool) -> None:
        """``first``: p and ds as well, where they are not there from another tangent."""
        a, grain = self.arguments, store_grain()
        tiles = storing_tiles(self.dtype, self.head) if self.storing else store_tiles(self.dtype, self.head)
        own = {n: v for n, v in a.items() if n not in ("gk", "gv", "hk", "hv")}
        room = {"pt_tiles": None, "dst_tiles": None, **self.memory}
        given = {**room, **panel, "SUM": self.storing, "STORE": grain, "FIRST": first}
        launch(
            attention_backward_queries, lambda t: (panel["rows"] // t.sizes["BLOCK_M"] * a["B"] * a["H"], 1), tiles,
            own | given, ("store", self.storing, first, *self.key),
        )  # fmt: skip

    def _sum(self, panel: dict, names: Pair, factors: Pair, results: tuple[Tensor | None, Tensor], add: bool) -> None:
        """Stored tiles times a factor, with its tangent: for the queries k; for keys and values q and g of queries."""
        a, (x, xt), out = self.arguments, factors, dict(zip(("out", "out_t"), results, strict=True))
        tiles, tiles_t = (self.memory.get(f"{name}_tiles") for name in names)
        if not a["DUAL"]:  # the one stream is the second
            tiles, tiles_t = None, tiles
        keys, values = x != "k", x == "g"
        width = a["E" if values else "D"]
        block = column_block(width)
        arguments = {
            "tiles": tiles, "tiles_t": tiles_t, "x": a[x], "xt": a[xt], **out, **panel,
            **{f"x_{axis}": a[f"{x}_{axis}"] for axis in "bhs"}, **{f"xt_{axis}": a[f"{xt}_{axis}"] for axis in "bhs"},
            **{n: a[n] for n in ("H", "G", "S", "T", "window", "CAUSAL", "WINDOW", "PRECISION")},
            "scale": 1.0 if values else a["scale"], "KEYS": keys, "FIRST": a["DUAL"] and self.first, "ADD": add,
            "HAS_TILES_T": tiles_t is not None, "HAS_XT": a[xt] is not None, "GRAIN": store_grain(),
            "WIDTH": width, "BLOCK_D": block,
        }  # fmt: skip
        length, across = a["T"] if keys else panel["rows"], a["B"] * a["H"]

        def grid(tile: Tile) -> tuple[int, int]:
            return -(-length // tile.sizes["BLOCK_R"]) * across, -(-width // block)

        def trial() -> tuple[Grid, dict]:
            """Into memory of its own where something is added to."""
            return grid, arguments | {n: None if t is None else torch.empty_like(t) for n, t in out.items()}

        launch(
            attention_sums, grid, sum_tiles(self.dtype, block), arguments,
            ("sums", x, self.first, add, *self.key), trial=trial if add else None,
        )  # fmt: skip
