"""Activations and gated activations by Triton kernels (float32, bfloat16, float16); meaning as in reference.py."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._triton import Tile, interpreted, launch, with_device

from ._triton_kernels import activation_backward, activation_forward

__all__ = ["dual_backward", "dual_forward", "gated_backward", "gated_forward"]

_SMALL = (Tile({"BLOCK": 128}),)
_TILES = (Tile({"BLOCK": 1024}, warps=4),)


def _as_rows(shape: tuple[int, ...], tensors: dict[str, tuple[Tensor | None, bool]]) -> tuple[dict, int, int]:
    """The tensors as (M, N) or, with a leading K, (K, M, N), their strides, and M and N.

    One row where all are contiguous; else rows of the last axis. A tensor that is neither is copied.
    """
    given = [tensor for tensor, _ in tensors.values() if tensor is not None]
    n = shape[-1] if shape else 1
    if all(tensor.is_contiguous() for tensor in given):
        n = 1
        for size in shape:
            n *= size
    views: dict[str, Tensor | None] = {}
    for name, (tensor, leads) in tensors.items():
        if tensor is None:
            views[name] = None
            continue
        view = tensor.reshape(*((tensor.shape[0],) if leads else ()), -1, n)
        views[name] = view if view.stride(-1) == 1 or n == 1 else view.contiguous()
    first = next(iter(views.values()))
    return views, first.shape[0], n


def _stride(view: Tensor | None, axis: int) -> int:
    return 0 if view is None else view.stride(axis)


def _grid(rows: int, columns: int):
    return lambda tile: (rows * -(-columns // tile.sizes["BLOCK"]),)


def gated_forward(
    x: Tensor, up: Tensor | None, xt: Tensor | None, up_t: Tensor | None, kind: str
) -> tuple[Tensor, Tensor | None]:
    """y = f(x) up and its tangent; up None stands for 1."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tangent = xt if xt is not None else up_t
    count = 0 if tangent is None else tangent.shape[0]
    yt = None if tangent is None else torch.empty(count, *x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return y, yt
    t, rows, columns = _as_rows(x.shape, {"x": (x, False), "up": (up, False), "xt": (xt, True), "up_t": (up_t, True)})
    arguments = {
        **t, "y": y, "yt": yt, "x_n": t["x"].stride(0), "up_n": _stride(t["up"], 0), "xt_k": _stride(t["xt"], 0),
        "xt_n": _stride(t["xt"], 1), "up_k": _stride(t["up_t"], 0), "up_tn": _stride(t["up_t"], 1),
        "M": rows, "N": columns, "K": count, "KIND": kind, "HAS_UP": up is not None, "HAS_XT": xt is not None,
        "HAS_UP_T": up_t is not None,
    }  # fmt: skip
    with with_device(x):
        launch(activation_forward, _grid(rows, columns), _SMALL if interpreted() else _TILES, arguments)
    return y, yt


def gated_backward(
    x: Tensor, up: Tensor | None, xt: Tensor | None, up_t: Tensor | None, g: Tensor | None, h: Tensor | None, kind: str
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(gx, g_up, hx, h_up); None where zero because of what is None."""
    curved = g is not None and xt is not None
    streams = next((tensor.shape[0] for tensor in (xt, up_t, h) if tensor is not None), 0)
    to_x = h is not None or curved or (g is not None and up_t is not None)
    to_up = up is not None and (h is not None or curved)

    def fresh(wanted: bool, *lead: int) -> Tensor | None:
        return torch.empty(*lead, *x.shape, dtype=x.dtype, device=x.device) if wanted else None

    results = (fresh(g is not None), fresh(g is not None and up is not None), fresh(to_x, streams),
               fresh(to_up, streams))  # fmt: skip
    if x.numel() == 0 or (g is None and h is None):
        return results
    t, rows, columns = _as_rows(
        x.shape,
        {"x": (x, False), "up": (up, False), "xt": (xt, True), "up_t": (up_t, True), "g": (g, False), "h": (h, True)},
    )
    arguments = {
        **t, **dict(zip(("gx", "g_up", "hx", "h_up"), results, strict=True)),
        "x_n": t["x"].stride(0), "up_n": _stride(t["up"], 0), "xt_k": _stride(t["xt"], 0),
        "xt_n": _stride(t["xt"], 1), "up_k": _stride(t["up_t"], 0), "up_tn": _stride(t["up_t"], 1),
        "g_n": _stride(t["g"], 0), "h_k": _stride(t["h"], 0), "h_n": _stride(t["h"], 1), "M": rows, "N": columns,
        "K": streams, "KIND": kind, "HAS_UP": up is not None, "HAS_XT": xt is not None, "HAS_UP_T": up_t is not None,
        "HAS_G": g is not None, "HAS_H": h is not None,
    }  # fmt: skip
    with with_device(x):
        launch(activation_backward, _grid(rows, columns), _SMALL if interpreted() else _TILES, arguments)
    return results


def dual_forward(x: Tensor, xt: Tensor | None, kind: str) -> tuple[Tensor, Tensor | None]:
    return gated_forward(x, None, xt, None, kind)


def dual_backward(
    x: Tensor, xt: Tensor | None, g: Tensor | None, h: Tensor | None, kind: str
) -> tuple[Tensor | None, Tensor | None]:
    gx, _, hx, _ = gated_backward(x, None, xt, None, g, h, kind)
    return gx, hx
