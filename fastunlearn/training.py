"""Training of a small model on encoded records: to learn them, or the reference that never saw some."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fastunlearn.data.encode import IGNORE, Encoded, collate
from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import NO_PROGRESS, Progress

__all__ = ["TrainingLog", "build_model", "train"]

_NOTE_EVERY = 50  # steps between two notes of the loss to the progress


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """What a training run did. ``gradients``: gradients of single records that were taken (steps times batch
    size). ``seconds``: wall clock. ``losses``: of each step, the mean over its target tokens, in nats."""

    steps: int
    gradients: int
    seconds: float
    losses: list[float]


def build_model(tokenizer, *, hidden_size: int, layers: int, heads: int, context: int, seed: int):
    """A Llama of random weights that depend on ``seed`` alone; the MLP is 8/3 of the width, as in Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    for name, value in (("hidden-size", hidden_size), ("layers", layers), ("heads", heads)):
        if value < 1:
            raise InvalidInputError(f"--{name} must be at least 1, got {value}")
    if context < 2:
        raise InvalidInputError(f"--context must be at least 2 tokens, got {context}")
    if hidden_size % (2 * heads):
        raise InvalidInputError(
            f"--hidden-size {hidden_size} must be a multiple of twice --heads {heads} "
            "(rotary positions turn pairs of numbers)"
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=-(-hidden_size // 3) * 8,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=context, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _index_batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """``steps`` batches of ``size`` indices below ``count``: permutations of all, one after the other, so
    that each record has been drawn as often as any other, give or take one."""
    generator = torch.Generator().manual_seed(seed)
    queue = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(count, generator=generator)])
        yield queue[:size]
        queue = queue[size:]


def _rate(step: int, steps: int, warmup: int) -> float:
    """The share of the highest learning rate at ``step``: linear up to 1, then a half cosine towards 0.
    (PyTorch's OneCycleLR divides by zero where the warm-up is one step, and its last step has the rate 0.)"""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _check(samples: Sequence[Encoded], numbers: dict[str, tuple[object, float, float]], **integers) -> None:
    for name, value in integers.items():
        if isinstance(value, bool) or not isinstance(value, int) or (name != "seed" and value < 1):
            least = "" if name == "seed" else " of at least 1"
            raise InvalidInputError(f"{name} must be an integer{least}, got {value!r}")
    for name, (value, least, below) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < below:
            raise InvalidInputError(f"{name} must be a number from {least} to below {below}, got {value!r}")
    if not samples:
        raise InvalidInputError("samples is empty: give at least one encoded record")
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, Encoded):
            raise InvalidInputError(f"sample {number} of samples is no Encoded: use fastunlearn.data.encode")
        if not sample.targets:
            raise InvalidInputError(f"sample {number} of samples has no target token to learn")


def train(
    model: torch.nn.Module,
    samples: Sequence[Encoded],
    *,
    steps: int,
    batch_size: int = 48,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.98),
    warmup: float = 0.1,
    seed: int,
    pad_token_id: int,
    progress: Progress | None = None,
) -> TrainingLog:
    """Train ``model`` in place on ``samples`` with AdamW (Loshchilov & Hutter 2019); it is left in eval mode.

    ``model``: a causal language model that returns ``.logits`` (B, T, vocabulary); its parameters with
    ``requires_grad`` are trained, on the device where they are. ``steps``: optimiser steps. ``batch_size``:
    records per step. ``learning_rate``: the highest of one cycle (Smith & Topin 2019): linear up over the
    share ``warmup`` of the steps, then a half cosine down. The loss is the mean over the target tokens of
    the batch. ``seed``: the order of the records and dropout; the same seed, machine and number of threads
    give the same weights, and PyTorch's own random state is left as it was.

    Raises InvalidInputError for an argument out of range, and where the loss is NaN or infinite, before
    that step changes a weight: the model is then as the step before left it, and in eval mode.
    """
    samples = list(samples)
    betas = tuple(betas)
    if len(betas) != 2:
        raise InvalidInputError(f"betas must be two numbers, got {len(betas)}")
    _check(
        samples,
        {
            "learning_rate": (learning_rate, 0, math.inf),
            "weight_decay": (weight_decay, 0, math.inf),
            "betas[0]": (betas[0], 0, 1),
            "betas[1]": (betas[1], 0, 1),
            "warmup": (warmup, 0, 1),
        },
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InvalidInputError("model has no parameter with requires_grad: nothing can be trained")
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=betas)
    up = min(round(warmup * steps), steps - 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, up))

    lengths = torch.tensor([len(sample.input_ids) for sample in samples])
    # Padded once: a batch is rows of it, cut to its longest.
    whole = collate(samples, pad_token_id=pad_token_id)
    task = (progress or NO_PROGRESS).task("Training", total=steps, unit="step")
    losses: list[float] = []
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), task as shown:
        torch.manual_seed(seed)
        model.train()
        try:
            for rows in _index_batches(len(samples), batch_size, steps, seed):
                longest = int(lengths[rows].max())
                batch = {name: rows_of[rows, :longest].to(device) for name, rows_of in whole.items()}
                labels = batch.pop("labels")[:, 1:]
                logits = model(**batch, use_cache=False).logits[:, :-1]
                loss = functional.cross_entropy(
                    logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE
                )
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise InvalidInputError(
                        f"training diverged: the loss of step {len(losses)} is {losses[-1]}; lower "
                        f"learning_rate (now {learning_rate}), or check the model's weights"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                shown.advance()
                if len(losses) % _NOTE_EVERY == 0:
                    shown.note(f"loss {losses[-1]:.3f}")
        finally:
            optimizer.zero_grad(set_to_none=True)
            model.eval()
    return TrainingLog(steps, steps * batch_size, time.perf_counter() - started, losses)
