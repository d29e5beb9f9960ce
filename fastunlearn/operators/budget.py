"""What of ``memory`` is taken by what, beside the factors of gradients: activations, logits, Grams, and the answer.

Estimates from above, from shapes alone. ``walked``: layer by layer (walk.py), where one layer's activations exist and
the logits of a stretch of tokens (head.py); else all of a batch's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .head import plain_head, stretch
from .walk import find_layers

if TYPE_CHECKING:
    from .sample_gradients import SampleGradients

__all__ = ["answer_bytes", "entering_bytes", "gram_bytes", "pass_bytes", "plan_bytes"]


def pass_bytes(gradients: SampleGradients, walked: bool) -> int:
    """One batch of the longest samples: inputs and outputs of the layers at hand, a copy and a half of each, and the
    logits, their exponentials and their gradient."""
    g = gradients
    tokens = g.batch_size * max(s.input_ids.numel() for s in g.samples)
    tokens = min(tokens, sum(s.input_ids.numel() for s in g.samples))
    head = g.model.get_output_embeddings() if hasattr(g.model, "get_output_embeddings") else None
    classes = head.weight.shape[0] if head is not None else 0
    layers = [p for name, p in g.parameters.items() if p.dim() == 2 and name in g.plan.uses and p.shape[0] != classes]
    size = next(iter(g.parameters.values())).element_size()
    inner = int(1.5 * sum(sum(p.shape) for p in layers) * size) * tokens
    if walked:
        inner //= max(1, len(find_layers(g.model)))
    if classes and plain_head(g.model) is not None and walked:
        return inner + 2 * min(tokens, stretch(head.weight)) * classes * max(4, size)
    return inner + 4 * classes * max(4, size) * tokens


def entering_bytes(gradients: SampleGradients) -> int:
    """What a walk keeps for every token: what enters each layer, and two gradients."""
    head = gradients.model.get_output_embeddings() if hasattr(gradients.model, "get_output_embeddings") else None
    if head is None:
        return 0
    each = (len(find_layers(gradients.model)) + 3) * head.weight.shape[1] * head.weight.element_size()
    return each * sum(s.input_ids.numel() for s in gradients.samples)


def gram_bytes(rows: int, blocks: int) -> int:
    """The sums of a Gram, its damped copy and the factor, in float64."""
    return 3 * blocks * rows**2 * 8


def answer_bytes(gradients: SampleGradients) -> int:
    """A weighted gradient: the sum and the part of one batch, at least float32."""
    return sum(p.numel() * (max(4, p.element_size()) + p.element_size()) for p in gradients.parameters.values())


def plan_bytes(gradients: SampleGradients, blocks: int = 1) -> int:
    """About the most that a Gram, its factor and one weighted gradient take at a time."""
    g, grams = gradients, gram_bytes(len(gradients), blocks)
    each = {name: g.bytes_of(name) for name in g.parameters}
    tile = g.memory_bytes // 8
    if sum(each.values()) <= g.memory_bytes // 2:
        return sum(each.values()) + grams + max(tile, pass_bytes(g, False), answer_bytes(g) // 2)
    room = g.walk_room(g.memory_bytes, grams)
    layer = min(room, sum(each.values()) // max(1, len(find_layers(g.model))))
    walk = entering_bytes(g) + layer + grams + max(tile, pass_bytes(g, True))
    return max(walk, grams + answer_bytes(g) + pass_bytes(g, True) * max(1, len(find_layers(g.model))))
