"""Binding of the C++ attention kernels (csrc/cpu/attention*.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops import _memory as fresh
from fastunlearn.ops._dispatch import cpu_isa, extension

from ._arguments import AttentionSpec, Statistics, accumulator

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_NONE = (0, 0, 0, 0, 0)


class _Call:
    """The arguments that both kernels share, and the tensors that must stay alive while they run."""

    def __init__(self, q, k, v, qt, kt, vt, spec: AttentionSpec, count: int, isa: str | None):
        self.dtype, self.wide, self.count = q.dtype, accumulator(q.dtype), count
        self.alive: list[Tensor] = []
        batch, heads, queries, size = q.shape
        self.q_shape, self.k_shape, self.v_shape = q.shape, k.shape, v.shape
        self.out_shape = (batch, heads, queries, v.shape[3])
        sizes = (batch, heads, k.shape[1], queries, k.shape[2], size, v.shape[3], count)
        inputs = tuple(self.tensor(x) for x in (q, k, v, qt, kt, vt))
        self.common = (isa or cpu_isa(), DTYPES[q.dtype], sizes, inputs, self._scores(spec))

    def tensor(self, x: Tensor | None) -> tuple[int, int, int, int, int]:
        """Address and strides; only the last axis must be contiguous, else a copy is made. So it is of a tensor whose
        sign PyTorch puts off (``resolve_neg``)."""
        if x is None:
            return _NONE
        x = x.resolve_neg()
        if x.stride(-1) != 1 and x.shape[-1] > 1:
            x = x.contiguous()
        self.alive.append(x)
        strides = x.stride()[:-1]
        return (x.data_ptr(), *((0, *strides) if x.dim() == 4 else strides))

    def _scores(self, spec: AttentionSpec) -> tuple:
        kind, mask_address, strides, slopes = 0, 0, (0, 0, 0, 0), 0
        if spec.mask is not None:
            mask = spec.mask if spec.mask.dtype == torch.bool else spec.mask.to(self.wide).resolve_neg()
            mask = mask.expand(*self.q_shape[:3], self.k_shape[2])  # a stride of 0 where it broadcasts
            kind, mask_address, strides = 1 if mask.dtype == torch.bool else 2, mask.data_ptr(), mask.stride()
            self.alive.append(mask)
        if spec.alibi is not None:
            alibi = spec.alibi.to(self.wide).resolve_neg().contiguous()
            slopes = alibi.data_ptr()
            self.alive.append(alibi)
        return (spec.scale, spec.softcap or 0.0, spec.causal, spec.window or 0, kind, mask_address, strides, slopes)

    def statistics(self, stats: Statistics) -> tuple[int, ...]:
        """Addresses of lse, mean_t, lse_rest; 0 for what is not there."""
        contiguous = [None if x is None else x.resolve_neg().contiguous() for x in stats]
        self.alive += [x for x in contiguous if x is not None]
        return _addresses(*contiguous)

    def out(self, *shape: int) -> Tensor:
        return fresh.empty(shape, self.wide)

    def narrow(self, *results: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.to(self.dtype) for x in results)


def _addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple(0 if x is None else x.data_ptr() for x in tensors)


def forward(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, isa: str | None = None) -> tuple[Tensor, Statistics]:
    """o and statistics; ``isa`` names the instruction set (None: the best that is live)."""
    call = _Call(q, k, v, None, None, None, spec, 0, isa)
    o, lse, rest = call.out(*call.out_shape), call.out(*q.shape[:3]), call.out(*q.shape[:3])
    extension("cpu").attention_forward(*call.common, _addresses(o, None, lse, None, rest), torch.get_num_threads())
    return *call.narrow(o), Statistics(lse, None, rest)


def dual_forward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                 spec: AttentionSpec, count: int,
                 isa: str | None = None) -> tuple[Tensor, Tensor, Statistics]:  # fmt: skip
    """o, ot and statistics; ``isa`` names the instruction set (None: the best that is live)."""
    call = _Call(q, k, v, qt, kt, vt, spec, count, isa)
    o, ot = call.out(*call.out_shape), call.out(count, *call.out_shape)
    lse, mean_t, rest = call.out(*q.shape[:3]), call.out(count, *q.shape[:3]), call.out(*q.shape[:3])
    extension("cpu").attention_forward(*call.common, _addresses(o, ot, lse, mean_t, rest), torch.get_num_threads())
    return *call.narrow(o, ot), Statistics(lse, mean_t, rest)


def backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, stats: Statistics, h: Tensor, spec: AttentionSpec, count: int,
             isa: str | None = None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """hq, hk, hv of K ordinary backwards; ``isa`` as in :func:`forward`."""
    call = _Call(q, k, v, None, None, None, spec, count, isa)
    results = tuple(call.out(count, *shape) for shape in (call.q_shape, call.k_shape, call.v_shape))
    adjoints = (call.tensor(o), _NONE, _NONE, call.tensor(h))
    extension("cpu").attention_backward(
        *call.common, False, adjoints, call.statistics(stats._replace(mean_t=None)),
        _addresses(None, None, None, *results), torch.get_num_threads(),
    )  # fmt: skip
    return call.narrow(*results)


def dual_backward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None, o: Tensor,
                  ot: Tensor, stats: Statistics, g: Tensor, h: Tensor | None, spec: AttentionSpec, count: int,
                  isa: str | None = None) -> tuple[Tensor, ...]:  # fmt: skip
    """gq, gk, gv, hq, hk, hv; ``isa`` as in :func:`forward`."""
    call = _Call(q, k, v, qt, kt, vt, spec, count, isa)
    shapes = (call.q_shape, call.k_shape, call.v_shape)
    results = (*(call.out(*shape) for shape in shapes), *(call.out(count, *shape) for shape in shapes))
    adjoints = (call.tensor(o), call.tensor(ot), call.tensor(g), call.tensor(h))
    extension("cpu").attention_backward(
        *call.common, True, adjoints, call.statistics(stats), _addresses(*results), torch.get_num_threads()
    )
    return call.narrow(*results)
