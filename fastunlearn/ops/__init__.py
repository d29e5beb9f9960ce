"""The ops, and one table of all of them: name, what it computes, the backends that have it.

Choice of backend: :mod:`fastunlearn.ops._dispatch`. To add an op, see ``csrc/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import activation as _activation
from . import attention as _attention
from . import explicit_rows as _explicit_rows
from . import gated_mlp as _gated_mlp
from . import ghost_gram as _ghost_gram
from . import linear as _linear
from . import linear_cross_entropy as _linear_cross_entropy
from . import low_rank_apply as _low_rank_apply
from . import norm as _norm
from . import null as _null
from . import rope as _rope
from . import small_cholesky as _small_cholesky
from . import weighted_gradient as _weighted_gradient

__all__ = ["OPS", "Op"]


@dataclass(frozen=True)
class Op:
    """One row of the table: where the op is, what it computes, and the backends it has."""

    name: str
    module: str
    computes: str
    backends: tuple[str, ...]


_GRAM = "fastunlearn.ops.ghost_gram"
_TORCH = ("reference",)
_ROWS = (
    Op("null", "fastunlearn.ops.null", "a copy of x: the op to copy for a new one", _null.BACKENDS),
    Op("attention", "fastunlearn.ops.attention", "softmax attention, no S x T matrix", _attention.BACKENDS),
    Op("ghost_gram", _GRAM, "Gram of a linear layer's per-sample gradients, never formed", _ghost_gram.BACKENDS),
    Op("formed_gram", _GRAM, "the same Gram from gradients formed in tiles of the weight", _TORCH),
    Op("gram", _GRAM, "the cheaper of those two, by the cost model", _ghost_gram.BACKENDS),
    Op("embedding_gram", _GRAM, "Gram of an embedding's per-sample gradients", _TORCH),
    Op("embedding_linear_gram", _GRAM, "cross Gram of a weight tied between embedding and head", _TORCH),
    Op("rows_gram", _GRAM, "Gram of explicit gradient rows", _TORCH),
    Op("linear", "fastunlearn.ops.linear", "dual forward and reverse of y = x W^T + b", _linear.BACKENDS),
    Op(
        "linear_cross_entropy", "fastunlearn.ops.linear_cross_entropy",
        "output layer and cross-entropy: gradient, Hessian and Gauss-Newton products, no whole logits",
        _linear_cross_entropy.BACKENDS,
    ),
    Op("low_rank_apply", "fastunlearn.ops.low_rank_apply", "products with stored gradients", _low_rank_apply.BACKENDS),
    Op("rms_norm", "fastunlearn.ops.norm", "RMSNorm and its dual", _norm.BACKENDS),
    Op("layer_norm", "fastunlearn.ops.norm", "LayerNorm and its dual", _norm.BACKENDS),
    Op("activation", "fastunlearn.ops.activation", "SiLU, GELU and kin, and their dual", _activation.BACKENDS),
    Op("gated_mlp", "fastunlearn.ops.gated_mlp", "act(gate) * up, and its dual", _gated_mlp.BACKENDS),
    Op("rope", "fastunlearn.ops.rope", "rotary embedding, and its transpose", _rope.BACKENDS),
    Op(
        "explicit_rows", "fastunlearn.ops.explicit_rows", "G v and G^T c for an explicit G, also int8",
        _explicit_rows.BACKENDS,
    ),
    Op(
        "weighted_gradient", "fastunlearn.ops.weighted_gradient", "a weight gradient with a weight per token",
        _weighted_gradient.BACKENDS,
    ),
    Op(
        "small_cholesky", "fastunlearn.ops.small_cholesky", "solves of many small positive definite systems",
        _small_cholesky.BACKENDS,
    ),
)

#: Every op by name.
OPS: dict[str, Op] = {op.name: op for op in _ROWS}
