"""Checks of the arguments of the Gram functions, worded for the person who called them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._recording import recording

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Side:
    """The tokens of one set of samples: x (N, d_in), g (N, d_out), offsets (m + 1,) int64 on the CPU (while a CUDA
    graph is recorded: on the GPU)."""

    x: Tensor
    g: Tensor
    offsets: Tensor

    @property
    def samples(self) -> int:
        return self.offsets.numel() - 1

    @property
    def tokens(self) -> int:
        return self.x.shape[0]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_offsets(offsets: Tensor, rows_of: Tensor, name: str) -> Tensor:
    """``offsets`` as a contiguous int64 CPU tensor, after a check that it cuts the rows of ``rows_of`` into samples.
    While a CUDA graph is recorded they are left on the GPU, unread."""
    tokens = rows_of.shape[0]
    if not isinstance(offsets, Tensor) or offsets.dim() != 1 or offsets.dtype != torch.int64:
        raise InvalidInputError(f"{name} must be a 1-D int64 tensor of m + 1 row numbers")
    if offsets.numel() < 1:
        raise InvalidInputError(f"{name} is empty; it starts with 0 and has one more entry than samples")
    if recording(rows_of):
        if offsets.device != rows_of.device:
            raise InvalidInputError(
                f"{name} is on {offsets.device}: give it on {rows_of.device} while a CUDA graph is recorded"
            )
        return offsets.detach().contiguous()
    rows = offsets.detach().cpu().contiguous()
    if rows[0].item() != 0 or rows[-1].item() != tokens:
        raise InvalidInputError(
            f"{name} must start with 0 and end with the number of tokens, {tokens}; "
            f"it runs from {rows[0].item()} to {rows[-1].item()}"
        )
    if bool((rows.diff() < 0).any()):
        raise InvalidInputError(f"{name} must not decrease")
    return rows


def check_matrix(value: Tensor, name: str, like: Tensor | None = None, width: int | None = None) -> None:
    """Checks that ``value`` is a floating 2-D tensor, of the dtype and device of ``like`` and of ``width``."""
    if not isinstance(value, Tensor) or value.dim() != 2:
        raise InvalidInputError(f"{name} must be a 2-D tensor with one row per token")
    if value.dtype not in FLOATS:
        raise InvalidInputError(f"{name} has dtype {value.dtype}; use float32, float64, bfloat16 or float16")
    if like is not None and (value.dtype != like.dtype or value.device != like.device):
        raise InvalidInputError(
            f"{name} is {value.dtype} on {value.device}, but x1/g1 are {like.dtype} on {like.device}: "
            "give all of them the same dtype and device"
        )
    if width is not None and value.shape[1] != width:
        raise InvalidInputError(f"{name} has {value.shape[1]} columns where {width} are needed")


def check_side(x: Tensor, g: Tensor, offsets: Tensor, number: int, first: Side | None = None) -> Side:
    """One set of samples, checked; ``first`` is the other one that widths and dtypes must agree with."""
    check_matrix(x, f"x{number}", like=first.x if first else None, width=first.x.shape[1] if first else None)
    check_matrix(g, f"g{number}", like=x, width=first.g.shape[1] if first else None)
    if x.shape[0] != g.shape[0]:
        raise InvalidInputError(f"x{number} has {x.shape[0]} rows and g{number} has {g.shape[0]}: one per token")
    if x.shape[1] == 0 or g.shape[1] == 0:
        raise InvalidInputError(f"x{number} and g{number} need at least one column: leave a layer without weights out")
    return Side(x.detach(), g.detach(), check_offsets(offsets, x, f"offsets{number}"))


def check_pair(x1, g1, offsets1, x2, g2, offsets2) -> tuple[Side, Side | None]:
    """Both sets of samples; the second is None where the product is of the first with itself."""
    first = check_side(x1, g1, offsets1, 1)
    given = [value is not None for value in (x2, g2, offsets2)]
    if not any(given):
        return first, None
    if not all(given):
        raise InvalidInputError("x2, g2 and offsets2 go together: give all three, or none for a symmetric product")
    return first, check_side(x2, g2, offsets2, 2, first)


def make_out(out: Tensor | None, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``out`` checked, or a new tensor (rows, columns). Its old content is overwritten by the caller."""
    if out is None:
        return torch.empty(rows, columns, dtype=dtype, device=device)
    if out.shape != (rows, columns) or out.dtype != dtype or out.device != device:
        raise InvalidInputError(
            f"out is {tuple(out.shape)} {out.dtype} on {out.device}; it must be {(rows, columns)} {dtype} on {device}"
        )
    return out


def segments(offsets: Tensor, tokens: int) -> Tensor:
    """The sample number of each of the N tokens, int64 (N,), where ``offsets`` is."""
    lengths = offsets.diff()
    samples = torch.arange(lengths.numel(), device=offsets.device)
    return torch.repeat_interleave(samples, lengths, output_size=tokens)
