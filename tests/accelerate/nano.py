"""A small language model of plain PyTorch functions, all of them fused or awkward to differentiate twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY = 23


class Block(nn.Module):
    def __init__(self, width: int = 12, heads: int = 3):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.RMSNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 20), nn.Linear(width, 20), nn.Linear(20, width)

    def forward(self, x):
        qkv = self.qkv(self.first(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.second(x)
        return x + self.down(F.silu(self.gate(y)) * F.gelu(self.up(y)))


class Nano(nn.Module):
    """``Nano()(ids, labels)`` is the mean loss; ``loss`` "cross_entropy" or "log_softmax"."""

    def __init__(self, loss: str = "cross_entropy"):
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(VOCABULARY, 12), Block(), nn.Linear(12, VOCABULARY)
        self.loss = loss

    def forward(self, ids, labels):
        logits = self.head(self.block(self.embed(ids))).flatten(0, 1)
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, labels.flatten())
        return -F.log_softmax(logits, -1).gather(-1, labels.flatten()[:, None]).mean()


def make(loss: str = "cross_entropy", dtype: torch.dtype = torch.float64) -> Nano:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Nano(loss).to(dtype)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]
