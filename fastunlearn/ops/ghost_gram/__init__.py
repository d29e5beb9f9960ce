"""Gram matrices of per-sample gradients, without the gradients (DESIGN: solving in sample space).

Tokens are rows: ``x`` (N, d_in) are a linear layer's inputs, ``g`` (N, d_out) the gradients of the loss with
respect to its outputs, and ``offsets`` int64 (m + 1,) cuts the N rows into m samples (ragged, empty allowed).
dtypes: float32, float64, bfloat16 or float16; sums are kept in float64 for float64, else in float32 or wider,
and that is the dtype of the result. See README.md in this folder for the derivation and the cost model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import backend_module, choose_backend
from fastunlearn.ops._recording import recording

from . import embedding, formed, reference
from ._arguments import Side, accumulator, check_matrix, check_offsets, check_pair, make_out
from .cost import choose_route

__all__ = ["embedding_gram", "embedding_linear_gram", "formed_gram", "ghost_gram", "gram", "rows_gram"]

BACKENDS = ("reference", "cpu", "cuda", "triton")
MEMORY_BYTES = 256 * 2**20
ROUTES = ("auto", "ghost", "formed")


def ghost_gram(
    x1: Tensor,
    g1: Tensor,
    offsets1: Tensor,
    x2: Tensor | None = None,
    g2: Tensor | None = None,
    offsets2: Tensor | None = None,
    *,
    bias: bool = False,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``K_ij = sum_{t in i, s in j} (x_t . x_s [+ 1 with bias]) (g_t . g_s)``, float (m1, m2).

    x1 (N1, d_in), g1 (N1, d_out), offsets1 int64 (m1 + 1,); the second set likewise, all three or none
    (then it is the first with itself, for half the work). ``out`` (m1, m2), in the sums' dtype, is overwritten.
    No token x token matrix is kept beyond a tile. While a CUDA graph is recorded (backends "cuda" and "triton")
    offsets must be on the GPU, and what they hold is not checked.

    Raises InvalidInputError (shapes, dtypes, offsets) and BackendUnavailableError (a backend asked for by
    name that cannot run).
    """
    first, second = check_pair(x1, g1, offsets1, x2, g2, offsets2)
    chosen = choose_backend(backend, first.x.device, BACKENDS, first.x.dtype)
    return backend_module(__package__, chosen).ghost_gram(first, second, bias, _out(first, second, out))


def formed_gram(
    x1: Tensor,
    g1: Tensor,
    offsets1: Tensor,
    x2: Tensor | None = None,
    g2: Tensor | None = None,
    offsets2: Tensor | None = None,
    *,
    bias: bool = False,
    out: Tensor | None = None,
    backend: str | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Tensor:
    """The same matrix as :func:`ghost_gram`, from gradients formed in tiles of the weight.

    All samples' gradients exist for one tile of the weight at a time, in at most ``memory_bytes`` bytes.
    This way is PyTorch's own GEMM on every device, so ``backend`` is None or "reference".
    Raises InvalidInputError as :func:`ghost_gram` does, where ``memory_bytes`` is too small, and while a CUDA graph is
    recorded: it cuts tokens where offsets say, and so waits for them.
    """
    first, second = check_pair(x1, g1, offsets1, x2, g2, offsets2)
    if backend is not None:
        choose_backend(backend, first.x.device, ("reference",))
    if recording(first.x):
        raise InvalidInputError(
            "gradients cannot be formed while a CUDA graph is recorded: use ghost_gram, or gram with route='ghost'"
        )
    return formed.formed_gram(first, second, bias, _out(first, second, out), memory_bytes)


def gram(
    x1: Tensor,
    g1: Tensor,
    offsets1: Tensor,
    x2: Tensor | None = None,
    g2: Tensor | None = None,
    offsets2: Tensor | None = None,
    *,
    bias: bool = False,
    out: Tensor | None = None,
    backend: str | None = None,
    memory_bytes: int = MEMORY_BYTES,
    route: str = "auto",
) -> Tensor:
    """The Gram by the route that the cost model says is faster ("auto"), or by the one named. While a CUDA graph is
    recorded "auto" is the ghost route: the other waits for the offsets.

    ``route``: "auto", "ghost" (:func:`ghost_gram`) or "formed" (:func:`formed_gram`). ``backend`` is for the
    ghost route; the formed one is PyTorch's GEMM. Raises InvalidInputError as those two do.
    """
    if route not in ROUTES:
        raise InvalidInputError(f"route={route!r} is unknown; use one of {', '.join(ROUTES)}")
    first, second = check_pair(x1, g1, offsets1, x2, g2, offsets2)
    other = second or first
    if route == "auto":
        route = "ghost" if recording(first.x) else choose_route(
            first.tokens, other.tokens, first.samples, other.samples, first.x.shape[1], first.g.shape[1],
            second is None, first.x.device.type,
        )  # fmt: skip
    if route == "ghost":
        return ghost_gram(x1, g1, offsets1, x2, g2, offsets2, bias=bias, out=out, backend=backend)
    return formed_gram(x1, g1, offsets1, x2, g2, offsets2, bias=bias, out=out, memory_bytes=memory_bytes)


def embedding_gram(
    ids1: Tensor,
    g1: Tensor,
    offsets1: Tensor,
    ids2: Tensor | None = None,
    g2: Tensor | None = None,
    offsets2: Tensor | None = None,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``K_ij = sum_{t in i, s in j} [id_t == id_s] g_t . g_s``: the Gram of an embedding's weight gradients.

    ids1 int64 (N1,), g1 (N1, d) gradients with respect to the embedding's outputs, offsets1 int64 (m1 + 1,).
    Rows are summed by (id, sample) first, so only samples that share a token meet. ``backend="reference"``
    compares every pair of tokens instead (for checks). Tokens whose embedding gets no gradient (padding_idx)
    must have zero rows in g. Raises InvalidInputError.
    """
    _check_ids(ids1, g1, "ids1", "g1")
    rows = check_offsets(offsets1, ids1, "offsets1")
    if ids2 is None and g2 is None and offsets2 is None:
        ids2, g2, columns = ids1, g1, rows
    elif ids2 is None or g2 is None or offsets2 is None:
        raise InvalidInputError("ids2, g2 and offsets2 go together: give all three, or none")
    else:
        _check_ids(ids2, g2, "ids2", "g2", g1)
        columns = check_offsets(offsets2, ids2, "offsets2")
    if backend is not None:
        choose_backend(backend, g1.device, ("reference",))
    out = make_out(out, rows.numel() - 1, columns.numel() - 1, accumulator(g1.dtype), g1.device)
    compute = reference.embedding_gram if backend == "reference" else embedding.embedding_gram
    return compute(ids1, g1.detach(), rows, ids2, g2.detach(), columns, out)


def embedding_linear_gram(
    ids1: Tensor,
    e1: Tensor,
    offsets1: Tensor,
    x2: Tensor,
    g2: Tensor,
    offsets2: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """``K_ij = sum_{t in i, s in j} g2[s, id_t] (e1_t . x2_s)``: the cross term of a tied embedding.

    One weight (V, d) serves as embedding (ids1 int64 (N1,), gradients of its outputs e1 (N1, d)) and as
    linear layer (inputs x2 (N2, d), gradients of its outputs g2 (N2, V)). With both sets the same samples the
    tied Gram is linear + embedding + this + this transposed. Raises InvalidInputError.
    """
    _check_ids(ids1, e1, "ids1", "e1")
    check_matrix(x2, "x2", like=e1, width=e1.shape[1])
    check_matrix(g2, "g2", like=e1)
    if x2.shape[0] != g2.shape[0]:
        raise InvalidInputError(f"x2 has {x2.shape[0]} rows and g2 has {g2.shape[0]}: one per token")
    if ids1.numel() and int(ids1.max()) >= g2.shape[1]:
        raise InvalidInputError(f"ids1 holds {int(ids1.max())}, but g2 has {g2.shape[1]} columns (the vocabulary)")
    rows = check_offsets(offsets1, ids1, "offsets1")
    columns = check_offsets(offsets2, x2, "offsets2")
    out = make_out(out, rows.numel() - 1, columns.numel() - 1, accumulator(e1.dtype), e1.device)
    return reference.embedding_linear_gram(ids1, e1.detach(), rows, x2.detach(), g2.detach(), columns, out)


def rows_gram(a1: Tensor, a2: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """``a1 @ a2.T`` (m1, m2) for explicit gradients a1 (m1, p), a2 (m2, p), summed in float32 or float64.

    a2 None means a1 with itself (half the work). Raises InvalidInputError.
    """
    check_matrix(a1, "a1")
    if a2 is not None:
        check_matrix(a2, "a2", like=a1, width=a1.shape[1])
    dtype = accumulator(a1.dtype)
    out = make_out(out, a1.shape[0], (a1 if a2 is None else a2).shape[0], dtype, a1.device).zero_()
    step = max(1, MEMORY_BYTES // (dtype.itemsize * max(1, out.shape[0] + out.shape[1])))
    if a1.dtype == dtype:
        step = max(1, a1.shape[1])  # nothing to convert: no need to cut the columns
    for start in range(0, a1.shape[1], step):
        a = a1.detach()[:, start : start + step].to(dtype)
        formed.add_product(out, a, None if a2 is None else a2.detach()[:, start : start + step].to(dtype))
    if a2 is None:
        formed.mirror_upper(out)
    return out


def _out(first: Side, second: Side | None, out: Tensor | None) -> Tensor:
    columns = (second or first).samples
    return make_out(out, first.samples, columns, accumulator(first.x.dtype), first.x.device)


def _check_ids(ids: Tensor, g: Tensor, ids_name: str, g_name: str, like: Tensor | None = None) -> None:
    check_matrix(g, g_name, like=like, width=like.shape[1] if like is not None else None)
    if not isinstance(ids, Tensor) or ids.dim() != 1 or ids.dtype != torch.int64:
        raise InvalidInputError(f"{ids_name} must be a 1-D int64 tensor of token numbers")
    if ids.numel() != g.shape[0] or ids.device != g.device:
        raise InvalidInputError(
            f"{ids_name} has {ids.numel()} tokens on {ids.device}, {g_name} has {g.shape[0]} rows on {g.device}: "
            "one id per row, on the same device"
        )
    if ids.numel() and int(ids.min()) < 0:
        raise InvalidInputError(f"{ids_name} holds a negative token number; mask those tokens out first")
