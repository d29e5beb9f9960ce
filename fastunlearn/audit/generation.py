"""Continuing prompts, greedily or by chance, token by token; and where a record is cut into prompt and answer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastunlearn.audit._forward import evaluating
from fastunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from fastunlearn.data.encode import Encoded

__all__ = ["cut_before_end", "generate", "prompt_and_answer", "scored_tokens"]


def scored_tokens(sample: Encoded) -> Tensor:
    """The target tokens, over which a loss is taken. The first token of a sample is never one."""
    return sample.input_ids[1:][sample.labels[1:] != -100]


def prompt_and_answer(sample: Encoded) -> tuple[Tensor, Tensor]:
    """The tokens before the first target, and those from it on.

    Free text has no prompt (its first token has a label, as :func:`fastunlearn.data.encode` makes it): there the first
    half of its tokens is the prompt and the rest the answer, as in MUSE's verbatim memorisation (arXiv 2407.06460).
    """
    targets = torch.nonzero(sample.labels != -100).flatten()
    targets = targets[targets > 0]
    if not targets.numel():
        raise InvalidInputError("sample: no target token, so there is no answer to compare with; leave it out")
    first, last = int(targets[0]), int(targets[-1]) + 1
    if int(sample.labels[0]) != -100 and last > 2:
        first = max(1, last // 2)
    return sample.input_ids[:first], sample.input_ids[first:last]


def generate(
    model: torch.nn.Module,
    prompts: Sequence[Tensor],
    lengths: Sequence[int],
    *,
    eos_token_id: int | None = None,
    temperature: float = 0.0,
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[Tensor]]:
    """``draws`` continuations of each prompt: for prompt i at most ``lengths[i]`` tokens, int64 on the CPU, cut before
    an end token.

    ``prompts``: token ids (T_i,), at least one token each. ``temperature`` 0: the most likely token each time (then
    all draws are one); above: drawn from softmax(logits / temperature), from all tokens. The same seed gives the same
    draws; PyTorch's own random state is not touched. Prompts of one length share a batch, so nothing is padded.
    Raises InvalidInputError.
    """
    if temperature < 0 or draws < 1 or batch_size < 1:
        raise InvalidInputError("temperature must be at least 0, draws and batch_size at least 1")
    right = len(prompts) == len(lengths) and min(lengths, default=1) >= 1
    if not right or any(prompt.ndim != 1 or not prompt.numel() for prompt in prompts):
        raise InvalidInputError("prompts and lengths: one length of at least 1 for each prompt of at least one token")
    generator = torch.Generator().manual_seed(seed)
    copies = draws if temperature > 0 else 1
    found: list[list[Tensor]] = [[] for _ in prompts]
    with evaluating(model):
        for chosen in _groups(prompts, [one for one in range(len(prompts)) for _ in range(copies)], batch_size):
            ids = torch.stack([prompts[one] for one in chosen])
            wanted = [lengths[one] for one in chosen]
            written = _continue(model, ids, max(wanted), eos_token_id, temperature, generator)
            for one, row, length in zip(chosen, written, wanted, strict=True):
                found[one].append(cut_before_end(row[:length], eos_token_id))
    return [one * (draws // copies) for one in found]


def _groups(prompts: Sequence[Tensor], order: list[int], size: int) -> Iterator[list[int]]:
    """Batches of indices of prompts of one length."""
    by_length: dict[int, list[int]] = {}
    for index in order:
        by_length.setdefault(len(prompts[index]), []).append(index)
    for indices in by_length.values():
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _continue(model, ids: Tensor, steps: int, eos: int | None, temperature: float, generator) -> Tensor:
    """(n, at most steps) tokens after ``ids`` (n, T), with the model's cache of keys and values where it has one."""
    device = next(model.parameters()).device
    ended = torch.zeros(len(ids), dtype=torch.bool)
    taken = inspect.signature(model.forward).parameters
    keeps = next((name for name in ("cache", "past_key_values") if name in taken), None)  # by version of transformers
    whole, feed, past, written = ids, ids, None, []
    for _ in range(steps):
        options = {keeps: past, "use_cache": True} if keeps else {}
        output = model(input_ids=feed.to(device), **options)
        logits = output.logits[:, -1].double().cpu()
        if not bool(torch.isfinite(logits).all()):
            raise InvalidInputError("model: its logits hold NaN or infinity; it cannot be measured")
        if temperature > 0:
            chosen = torch.multinomial(torch.softmax(logits / temperature, 1), 1, generator=generator)
        else:
            chosen = logits.argmax(1, keepdim=True)
        written.append(chosen)
        if eos is not None:
            ended |= chosen[:, 0] == eos
            if bool(ended.all()):
                break
        past = getattr(output, keeps, None) if keeps else None
        whole = torch.cat([whole, chosen], 1)
        feed = whole if past is None else chosen
    return torch.cat(written, 1)


def cut_before_end(tokens: Tensor, eos: int | None) -> Tensor:
    """``tokens`` up to the first end token, which is left out; all of them where there is none."""
    ends = torch.nonzero(tokens == eos).flatten() if eos is not None else tokens[:0]
    return tokens[: int(ends[0])] if ends.numel() else tokens
