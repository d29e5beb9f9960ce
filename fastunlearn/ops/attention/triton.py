"""Attention by Triton kernels, on float32, bfloat16 and float16 GPU tensors. Derivation: README.md of this folder.

Shapes and meaning of every function are those of reference.py. All strides are honoured where the last one is 1;
other tensors are copied. With K tangents the primal is computed K times over (6 products of tiles per tangent forward,
where sharing it would need 2 + 4 K): its tiles would not fit into registers otherwise. Backward: _triton_ways.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._triton import (
    Tile,
    fastest,
    hopper,
    launch,
    next_power_of_2,
    precision,
    with_device,
)

from ._arguments import AttentionSpec, Statistics
from ._triton_backward import row_products
from ._triton_forward import attention_forward
from ._triton_range import growth
from ._triton_tiles import forward_tiles
from ._triton_ways import Sweep

__all__ = ["backward", "dual_backward", "dual_forward", "forward"]

def _rows(value: Tensor | None) -> Tensor | None:
    return value if value is None or value.stride(-1) == 1 or value.shape[-1] == 1 else value.contiguous()


def _strides(name: str, value: Tensor | None, count: int) -> dict[str, int]:
    """The strides of ``value`` without the last one, as arguments; zeros for an absent tensor or an absent K."""
    axes = "kbhs"[4 - count :]
    strides = (0,) * count if value is None else value.stride()[:-1]
    strides = (0,) * (count - len(strides)) + tuple(strides)
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}


def _unscaled(dtype: torch.dtype, spec: AttentionSpec) -> bool:
    """Whether scores can wait for their scale until the exponential: nothing is added to them, and half precision
    forgives its rounding (_triton_scores.py)."""
    added = spec.softcap is not None or spec.alibi is not None
    float_mask = spec.mask is not None and spec.mask.dtype != torch.bool
    return dtype != torch.float32 and spec.scale > 0 and not added and not float_mask


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
        "window": min(int(spec.window or 0), S + T),  # a longer one hides nothing, and could pass 32 bits
        "D": D, "E": E,
        "HAS_QT": qt is not None, "HAS_KT": kt is not None, "HAS_VT": vt is not None,
        "CAUSAL": bool(spec.causal), "WINDOW": spec.window is not None, "SOFTCAP": spec.softcap is not None,
        "MASK": kind, "ALIBI": alibi is not None, "PRECISION": precision(q.dtype),
        "UNSCALED": _unscaled(q.dtype, spec),
        "BRANCH": hopper(),  # Ampere's compiled kernels spill when masks are in a branch
        "BLOCK_D": max(16, next_power_of_2(D)), "BLOCK_E": max(16, next_power_of_2(E)),
    }  # fmt: skip


def _key(arguments: dict) -> tuple:
    """What the best tile depends on; lengths by powers of two, from 32768 on alike."""
    length = min(32768, next_power_of_2(min(arguments["S"], arguments["T"])))
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
    with with_device(q):
        arguments = _arguments(q, k, v, qt, kt, vt, spec) | {
            "o": o, "ot": ot, "lse": lse, "lse_rest": rest, "mean_t": mean_t
        }  # fmt: skip
        launch(
            attention_forward, lambda t: (-(-S // t.sizes["BLOCK_M"]) * B * H, count),
            forward_tiles(q.dtype, max(D, E)), arguments, (dual, *_key(arguments)),
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
    (B, H, S, _), T = q.shape, v.shape[2]
    gq, gk, gv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) if dual else None for t in (q, k, v))
    hq, hk, hv = (torch.empty(count, *t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    outputs = {"gq": gq, "gk": gk, "gv": gv, "hq": hq, "hk": hk, "hv": hv}
    if S == 0 or T == 0 or B == 0 or H == 0:
        return tuple(None if t is None else t.zero_() for t in outputs.values())
    with with_device(q):
        grown = growth(g, h)
        if grown is not None:
            g, h = g * grown, None if h is None else h * grown
        _launch_backward(_arguments(q, k, v, qt, kt, vt, spec), o, ot, stats, g, h, outputs, count)
        if grown is not None:
            for out in outputs.values():
                if out is not None:
                    out.div_(grown)
    return tuple(outputs.values())


def _launch_backward(arguments: dict, o, ot, stats: Statistics, g, h, outputs: dict, count: int) -> None:
    q, dual = arguments["q"], h is not None
    B, H, S, _ = q.shape
    statistics = q.new_empty(1 if dual else count, B, H, S, dtype=torch.float32)
    statistics_t = q.new_empty(count, B, H, S, dtype=torch.float32) if dual else None
    sides = {**_strides("g", g, 4), **_strides("h", h, 4)}
    both = {"g": g, "h": h, "delta": statistics, "delta_t": statistics_t}
    rest = None if stats.lse_rest is None else stats.lse_rest.contiguous()
    mean_t = stats.mean_t.contiguous() if dual else None
    arguments |= sides | both
    arguments |= {"lse": stats.lse.contiguous(), "lse_rest": rest, "mean_t": mean_t, "DUAL": dual}
    rows = {
        "o": o, "ot": ot, **_strides("o", o, 3), **_strides("ot", ot, 4), **sides, **both, "B": B, "H": H, "S": S,
        "E": arguments["E"], "DUAL": dual, "HAS_OT": ot is not None, "BLOCK_E": arguments["BLOCK_E"],
    }  # fmt: skip
    tile = (Tile({"BLOCK_M": max(1, 8192 // arguments["BLOCK_E"])}),)
    launch(row_products, lambda t: (-(-S // t.sizes["BLOCK_M"]) * B * H, count), tile, rows)
    key = (dual, *_key(arguments))
    fastest("attention_backward", Sweep(arguments, outputs, key).ways(), key)()


def dual_backward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                  o: Tensor, ot: Tensor, stats: Statistics, g: Tensor, h: Tensor | None, spec: AttentionSpec,
                  count: int) -> tuple[Tensor, ...]:  # fmt: skip
    h = g.new_zeros(count, *g.shape) if h is None else h
    return _backward(q, k, v, qt, kt, vt, o, ot, stats, g, h, spec, count)


def backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, stats: Statistics, h: Tensor,
             spec: AttentionSpec, count: int) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _backward(q, k, v, None, None, None, o, None, stats, h, None, spec, count)[3:]
