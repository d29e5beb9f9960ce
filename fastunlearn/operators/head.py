"""The output layer without its logits: the loss, its gradient, and per-sample gradients, a stretch at a time.

The gradient of a token's loss in the logits, ``softmax(z) - onehot(label)``, is as wide as the vocabulary. It is not
kept but made anew from x, the weight and the token's log-sum-exp, for a stretch of the vocabulary or of the tokens.

Logits, losses and sums are float32 at least. With a weight in half precision, adjoints of logits are rounded to it
where a product takes them, as a captured gradient would be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastunlearn.ops.weighted_gradient import weighted_gradient

from .gemm import HALVES, matrix_units, nt, wide_nt

__all__ = ["HeadSource", "head_backward", "plain_head", "plain_losses", "stretch"]

#: Of the logits that exist at a time, and tokens of which they do at most, by the kind of device.
LOGITS_BYTES = {"cpu": 2**26, "cuda": 2**28}
TOKENS = {"cpu": 1024, "cuda": 4096}


def stretch(weight: Tensor) -> int:
    """Tokens of which the logits exist at a time; at least 64."""
    kind = "cuda" if weight.is_cuda else "cpu"
    return max(64, min(TOKENS[kind], LOGITS_BYTES[kind] // max(1, weight.shape[0] * max(4, weight.element_size()))))


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The output layer where it is an ordinary linear layer without bias, of a dtype that :func:`takes`; else None."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    plain = type(head) is nn.Linear and head.bias is None
    return head if plain and takes(head.weight) else None


def takes(weight: Tensor) -> bool:
    """float32 and float64; on a GPU half precision too. On a CPU each product would widen the whole weight."""
    return weight.dtype in (torch.float32, torch.float64) or (weight.dtype in HALVES and weight.is_cuda)


def plain_losses(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The losses (n,) as a model makes them: logits in its own dtype."""
    return nn.functional.cross_entropy(nn.functional.linear(x, weight).float(), labels, reduction="none")


def head_backward(
    x: Tensor, weight: Tensor, labels: Tensor, scale: Tensor | None, *, weight_out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of tokens x (n, d) with labels (n,): losses (n,), their log-sum-exp (n,), and the gradient in x (n, d) of
    ``sum scale * loss``. ``weight_out`` (V, d): the gradient in the weight is added to it."""
    wide = torch.promote_types(x.dtype, torch.float32)
    losses, lse, gx = x.new_empty(len(x), dtype=wide), x.new_empty(len(x), dtype=wide), torch.empty_like(x)
    step = stretch(weight)
    for start in range(0, len(x), step):
        some = slice(start, start + step)
        z, own = wide_nt(x[some], weight), labels[some, None]
        lse[some] = torch.logsumexp(z, 1)
        losses[some] = lse[some] - z.gather(1, own)[:, 0]
        z.sub_(lse[some, None]).exp_().scatter_add_(1, own, torch.full_like(own, -1, dtype=z.dtype))
        if scale is not None:
            z.mul_(scale[some, None])
        z = z.to(x.dtype)
        gx[some] = nt(z, weight.t())
        if weight_out is not None:
            weight_out += wide_nt(z.t(), x[some].t())
    return losses, lse, gx


@dataclass
class HeadSource:
    """As LinearSource, with g made anew: x (N, d), ``weight`` (V, d), labels, lse and scale (N,) at least float32,
    offsets (m + 1,)."""

    x: Tensor
    weight: Tensor
    labels: Tensor
    lse: Tensor
    scale: Tensor
    offsets: Tensor

    transposed = False

    def gradient(self, low: int, high: int, tokens: slice = slice(None)) -> Tensor:
        """g for classes ``low`` to ``high``: (tokens, high - low)."""
        z = wide_nt(self.x[tokens], self.weight[low:high])
        z.sub_(self.lse[tokens, None]).exp_()
        labels = self.labels[tokens]
        inside = torch.nonzero((labels >= low) & (labels < high)).flatten()
        z[inside, labels[inside] - low] -= 1
        return z.mul_(self.scale[tokens, None]).to(self.x.dtype)

    @property
    def g(self) -> Tensor:
        return self.gradient(0, self.weight.shape[0])

    def weighted(self, c: Tensor, shape: torch.Size) -> Tensor:
        wide = self.lse.dtype
        per_token = torch.repeat_interleave(c.to(self.x.device, wide), self.offsets.diff())
        out = torch.zeros(shape, dtype=wide, device=self.x.device)
        step = stretch(self.weight)
        for start in range(0, len(self.x), step):
            some = slice(start, start + step)
            g = self.gradient(0, shape[0], some)
            if matrix_units(self.x):  # weighted gradients rounded once more would be worth little after a solve
                weighted_gradient(self.x[some], g, per_token[some], out)
            else:
                out += wide_nt((g * per_token[some, None]).t(), self.x[some].t())
        return out

    def dot(self, v: Tensor) -> Tensor:
        parts, step = [], stretch(self.weight)
        for start in range(0, len(self.x), step):
            some = slice(start, start + step)
            g = self.gradient(0, self.weight.shape[0], some)
            x = self.x[some].to(self.lse.dtype)
            parts.append(torch.stack([(nt(x, one.to(x)) * g).sum(1, dtype=torch.float64) for one in v], 1))
        owner = torch.repeat_interleave(torch.arange(self.offsets.numel() - 1), self.offsets.diff())
        total = torch.zeros(self.offsets.numel() - 1, len(v), dtype=torch.float64, device=self.x.device)
        return total.index_add_(0, owner.to(total.device), torch.cat(parts)) if parts else total

    def tile(self, low: int, high: int, shape: torch.Size) -> Tensor:
        from .sources import outer_sums

        return outer_sums(self.gradient(low, high), self.x, self.offsets)
