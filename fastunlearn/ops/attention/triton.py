"""Attention by Triton kernels, on float32, bfloat16 and float16 GPU tensors. Derivation: README.md of this folder.

Shapes and meaning of every function are those of reference.py. All strides are honoured where the last one is 1;
other tensors are copied. With K tangents the primal is computed K times over (6 products of tiles per tangent forward,
24 or 18 backward, where sharing it would need 2 + 4 K and 9 + 15 K): its tiles would not fit into registers otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastunlearn.ops._triton import (
    Tile,
    fastest,
    interpreted,
    launch,
    next_power_of_2,
    precision,
    with_device,
)

from ._arguments import AttentionSpec, Statistics
from ._triton_backward import attention_backward_queries, row_products
from ._triton_backward_keys import attention_backward_keys
from ._triton_forward import attention_forward
from ._triton_tiles import forward_tiles, fused_tiles, key_tiles, query_tiles

__all__ = ["backward", "dual_backward", "dual_forward", "forward"]

# The interpreter: several tiles even for short sequences.
_SMALL, _SMALL_KEYS = ((Tile({"BLOCK_M": m, "BLOCK_N": n}),) for m, n in ((32, 16), (16, 32)))


def _rows(value: Tensor | None) -> Tensor | None:
    return value if value is None or value.stride(-1) == 1 or value.shape[-1] == 1 else value.contiguous()


def _strides(name: str, value: Tensor | None, count: int) -> dict[str, int]:
    """The strides of ``value`` without the last one, as arguments; zeros for an absent tensor or an absent K."""
    axes = "kbhs"[4 - count :]
    strides = (0,) * count if value is None else value.stride()[:-1]
    strides = (0,) * (count - len(strides)) + tuple(strides)
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}


def _arguments(q, k, v, qt, kt, vt, spec) -> dict:
    """What all three kernels take."""
    B, H, S, D = q.shape
    G, T, E = k.shape[1], k.shape[2], v.shape[3]
    mask, kind = spec.mask, 0
    mask_strides = (0, 0, 0, 0)
    if mask is not None:
        mask = mask.to(q.device).expand(B, H, S, T)
        kind = 1 if mask.dtype == torch.bool else 2
        mask_strides = mask.stride()
        mask = mask.view(torch.uint8) if kind == 1 else mask
    alibi = None if spec.alibi is None else spec.alibi.to(device=q.device, dtype=torch.float32).contiguous()
    return {
        "q": q, "k": k, "v": v, "qt": qt, "kt": kt, "vt": vt, "mask": mask, "alibi": alibi,
        **_strides("q", q, 3), **_strides("k", k, 3), **_strides("v", v, 3),
        **_strides("qt", qt, 4), **_strides("kt", kt, 4), **_strides("vt", vt, 4),
        **dict(zip(("mask_b", "mask_h", "mask_i", "mask_j"), mask_strides, strict=True)),
        "B": B, "H": H, "G": G, "S": S, "T": T, "scale": float(spec.scale), "softcap": float(spec.softcap or 0.0),
        "window": int(spec.window or 0), "D": D, "E": E,
        "HAS_QT": qt is not None, "HAS_KT": kt is not None, "HAS_VT": vt is not None,
        "CAUSAL": bool(spec.causal), "WINDOW": spec.window is not None, "SOFTCAP": spec.softcap is not None,
        "MASK": kind, "ALIBI": alibi is not None, "PRECISION": precision(q.dtype),
        "BLOCK_D": max(16, next_power_of_2(D)), "BLOCK_E": max(16, next_power_of_2(E)),
    }  # fmt: skip


def _key(arguments: dict) -> tuple:
    """What the best tile depends on; lengths by powers of two, from 4096 on alike."""
    length = min(4096, next_power_of_2(min(arguments["S"], arguments["T"])))
    flags = [arguments[n] for n in ("HAS_QT", "HAS_KT", "HAS_VT", "CAUSAL", "WINDOW", "SOFTCAP", "MASK", "ALIBI")]
    return (str(arguments["q"].dtype), arguments["D"], arguments["E"], arguments["PRECISION"], length, *flags)


def _forward(q, k, v, qt, kt, vt, spec, count: int):
    q, k, v, qt, kt, vt = (_rows(t) for t in (q, k, v, qt, kt, vt))
    dual = any(t is not None for t in (qt, kt, vt))
    (B, H, S, D), E = q.shape, v.shape[3]
    o = q.new_empty(B, H, S, E)
    ot = q.new_empty(count, B, H, S, E) if dual else None
    lse, rest = (q.new_empty(B, H, S, dtype=torch.float32) for _ in range(2))
    mean_t = q.new_zeros(count, B, H, S, dtype=torch.float32) if dual else None
    if o.numel() == 0:
        return o, ot, Statistics(lse, mean_t, rest)
    if k.shape[2] == 0:  # no keys: nothing is attended to
        return o.zero_(), None if ot is None else ot.zero_(), Statistics(lse.fill_(float("-inf")), mean_t, rest.zero_())
    arguments = _arguments(q, k, v, qt, kt, vt, spec) | {"o": o, "ot": ot, "lse": lse, "lse_rest": rest,
                                                          "mean_t": mean_t}  # fmt: skip
    tiles = _SMALL if interpreted() else forward_tiles(q.dtype, max(D, E))
    with with_device(q):
        launch(
            attention_forward, lambda t: (-(-S // t.sizes["BLOCK_M"]) * B * H, count), tiles, arguments,
            (dual, *_key(arguments)),
        )  # fmt: skip
    return o, ot, Statistics(lse, mean_t, rest)


def forward(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> tuple[Tensor, Statistics]:
    o, _, stats = _forward(q, k, v, None, None, None, spec, 1)
    return o, stats


def dual_forward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                 spec: AttentionSpec, count: int) -> tuple[Tensor, Tensor, Statistics]:  # fmt: skip
    return _forward(q, k, v, qt, kt, vt, spec, count)


def _backward(q, k, v, qt, kt, vt, o, ot, stats: Statistics, g, h, spec, count: int):
    """Both streams where ``h`` is given; else one stream, the ordinary backward of ``g`` (K,B,H,S,E)."""
    q, k, v, qt, kt, vt, o, ot, g, h = (_rows(t) for t in (q, k, v, qt, kt, vt, o, ot, g, h))
    dual = h is not None
    (B, H, S, _), (_, T, E) = q.shape, v.shape[1:]
    gq, gk, gv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) if dual else None for t in (q, k, v))
    hq, hk, hv = (torch.empty(count, *t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    if S == 0 or T == 0 or B == 0 or H == 0:
        return tuple(None if t is None else t.zero_() for t in (gq, gk, gv, hq, hk, hv))
    statistics = q.new_empty(1 if dual else count, B, H, S, dtype=torch.float32)
    statistics_t = q.new_empty(count, B, H, S, dtype=torch.float32) if dual else None
    sides = {**_strides("g", g, 4), **_strides("h", h, 4)}
    both = {"g": g, "h": h, "delta": statistics, "delta_t": statistics_t}
    arguments = _arguments(q, k, v, qt, kt, vt, spec) | sides | both
    rest = None if stats.lse_rest is None else stats.lse_rest.contiguous()
    mean_t = stats.mean_t.contiguous() if dual else None
    arguments |= {"lse": stats.lse.contiguous(), "lse_rest": rest, "mean_t": mean_t, "DUAL": dual}
    rows = {
        "o": o, "ot": ot, **_strides("o", o, 3), **_strides("ot", ot, 4), **sides, **both, "B": B, "H": H, "S": S,
        "E": E, "DUAL": dual, "HAS_OT": ot is not None, "BLOCK_E": arguments["BLOCK_E"],
    }  # fmt: skip
    key = (dual, *_key(arguments))
    call = _Backward(arguments, {"gk": gk, "gv": gv, "hk": hk, "hv": hv}, gq, hq, key)
    with with_device(q):
        tile = (Tile({"BLOCK_M": max(1, 8192 // arguments["BLOCK_E"])}),)
        launch(row_products, lambda t: (-(-S // t.sizes["BLOCK_M"]) * B * H, count), tile, rows)
        fastest("attention_backward", call.ways(), key)()
    return gq, gk, gv, hq, hk, hv


class _Backward:
    """The launches of one reverse sweep, in two ways.

    apart    queries (9 products), keys (9), values (6): every sum by one program in one order
    fused    keys and queries (12), values (6): the queries' sums by atomics, so that their last bits vary. Not offered
             under torch.use_deterministic_algorithms, nor where the kernel has no tile (_triton_tiles.py)
    """

    def __init__(self, arguments: dict, outputs: dict, gq: Tensor | None, hq: Tensor, key: tuple):
        self.arguments, self.outputs, self.gq, self.hq, self.key = arguments, outputs, gq, hq, key
        self.dtype, self.head = arguments["q"].dtype, max(arguments["D"], arguments["E"])

    def ways(self) -> tuple[Callable[[], None], ...]:
        fusing = fused_tiles(self.dtype, self.head) and not torch.are_deterministic_algorithms_enabled()
        return (self.apart, self.fused) if fusing else (self.apart,)

    def apart(self) -> None:
        a = self.arguments
        tiles = _SMALL if interpreted() else query_tiles(self.dtype, self.head)
        across = a["B"] * a["H"]
        launch(
            attention_backward_queries, lambda t: (-(-a["S"] // t.sizes["BLOCK_M"]) * across, len(self.hq)), tiles,
            a | {"gq": self.gq, "hq": self.hq}, self.key,
        )  # fmt: skip
        tiles = _SMALL_KEYS if interpreted() else key_tiles(self.dtype, self.head)
        for want_k in (True, False):  # keys, then values: together they would not fit into registers
            self._keys(tiles, WANT_Q=False, WANT_K=want_k, WANT_V=not want_k)

    def fused(self) -> None:
        sums = [None if t is None else torch.zeros(t.shape, dtype=torch.float32, device=t.device)
                for t in (self.gq, self.hq)]  # fmt: skip
        tiles = _SMALL_KEYS if interpreted() else fused_tiles(self.dtype, self.head)

        def reset() -> None:
            for one in sums:
                if one is not None:
                    one.zero_()

        self._keys(tiles, reset, *sums, WANT_Q=True, WANT_K=True, WANT_V=False)
        self._keys(
            _SMALL_KEYS if interpreted() else key_tiles(self.dtype, self.head), WANT_Q=False, WANT_K=False, WANT_V=True
        )
        for one, out in zip(sums, (self.gq, self.hq), strict=True):
            if out is not None:
                out.copy_(one)

    def _keys(self, tiles, reset=None, sum_gq: Tensor | None = None, sum_hq: Tensor | None = None, **wants) -> None:
        a = self.arguments
        across, given = a["B"] * a["G"], {"sum_gq": sum_gq, "sum_hq": sum_hq, **wants}
        launch(
            attention_backward_keys, lambda t: (-(-a["T"] // t.sizes["BLOCK_N"]) * across, len(self.hq)), tiles,
            a | self.outputs | given, (*wants.values(), *self.key), reset=reset,
        )  # fmt: skip


def dual_backward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                  o: Tensor, ot: Tensor, stats: Statistics, g: Tensor, h: Tensor | None, spec: AttentionSpec,
                  count: int) -> tuple[Tensor, ...]:  # fmt: skip
    h = g.new_zeros(count, *g.shape) if h is None else h
    return _backward(q, k, v, qt, kt, vt, o, ot, stats, g, h, spec, count)


def backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, stats: Statistics, h: Tensor,
             spec: AttentionSpec, count: int) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _backward(q, k, v, None, None, None, o, None, stats, h, None, spec, count)[3:]
