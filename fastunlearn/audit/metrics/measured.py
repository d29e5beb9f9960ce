"""A model with the passes that its metrics share, each made once: of every set, on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fastunlearn.audit._forward import LOGITS_BYTES, check_samples, vocabulary_size
from fastunlearn.audit._shared import shared_log_probs
from fastunlearn.audit.bootstrap import interval
from fastunlearn.audit.divergence import Divergences, divergences, reference_log_probs
from fastunlearn.audit.exposure import context_length, exposure
from fastunlearn.audit.generation import generate, prompt_and_answer, scored_tokens
from fastunlearn.audit.measure import find_canary
from fastunlearn.audit.metrics.tokens import TokenStatistics, token_statistics
from fastunlearn.data.encode import Encoded, encode_like
from fastunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from fastunlearn.data.people import Canary
    from fastunlearn.data.variants import Variants

__all__ = ["Answers", "MeasuredModel", "Measurement", "padding_token"]


class Answers(NamedTuple):
    """``right`` (m,): mean loss per token of each question's right answer (in other words, where there are any);
    ``own`` (m,): of the record's own; ``wrong``: of each question's wrong ones. In nats."""

    right: np.ndarray
    own: np.ndarray
    wrong: list[np.ndarray]


def padding_token(tokenizer, pad_token_id: int | None) -> int:
    """``pad_token_id``, else the tokenizer's. Raises InvalidInputError where there is none."""
    found = getattr(tokenizer, "pad_token_id", None) if pad_token_id is None else pad_token_id
    if found is None:
        raise InvalidInputError("pad_token_id: pass it, or a tokenizer that has a padding token")
    return found


class MeasuredModel:
    """A model and the sets that it is measured on. Every pass is kept, so one object of the retrained model serves
    many comparisons (as ``reference=`` of ``evaluate_metrics``). The model must not change in the meantime.

    ``sets``: encoded records by name, "forget" among them. ``variants``: by set, those of its records (only records
    that have wrong answers count for truth ratios). Raises InvalidInputError for a set that is empty or has a record
    without targets.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        sets: Mapping[str, Sequence[Encoded]],
        *,
        variants: Mapping[str, Sequence[Variants]] | None = None,
        canaries: Sequence[Canary] = (),
        pad_token_id: int | None = None,
        batch_size: int = 64,
    ):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.sets = {name: check_samples(samples, name) for name, samples in sets.items()}
        if "forget" not in self.sets:
            raise InvalidInputError("sets: needs the encoded records to forget, under the name forget")
        self.variants = {name: [one for one in found if one.perturbed] for name, found in (variants or {}).items()}
        unknown = [name for name in self.variants if name not in self.sets]
        if unknown:
            raise InvalidInputError(f"variants: no set is named {', '.join(unknown)}; the sets are {', '.join(sets)}")
        self.canaries = list(canaries)
        self.pad_token_id = padding_token(tokenizer, pad_token_id)
        self._kept: dict = {}

    def _once(self, key: tuple, make: Callable):
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    @property
    def _options(self) -> dict:
        return {"pad_token_id": self.pad_token_id, "batch_size": self.batch_size}

    def statistics(self, name: str) -> TokenStatistics:
        """Of every target token of a set."""
        return self._once(("statistics", name), lambda: token_statistics(self.model, self.sets[name], **self._options))

    def divergences(self, reference: MeasuredModel, name: str) -> Divergences:
        """From ``reference`` on a set; its predictions are kept where they take less than the logits of a batch may."""
        tokens = sum(sample.targets for sample in self.sets[name])
        other = reference.model
        if 4 * tokens * vocabulary_size(other) <= LOGITS_BYTES:
            other = reference._once(
                ("log probs", name), lambda: reference_log_probs(reference.model, self.sets[name], **self._options)
            )
        key = ("divergences", name, id(reference))
        return self._once(key, lambda: divergences(other, self.model, self.sets[name], **self._options))

    def answers(self, name: str) -> Answers:
        """Losses of right and wrong answers to the questions of a set that have wrong ones."""
        if not self.variants.get(name):
            raise InvalidInputError(f"variants: this model was given none of {name}; pass variants= to MeasuredModel")
        return self._once(("answers", name), lambda: self._answers(name))

    def _answers(self, name: str) -> Answers:
        found = self.variants[name]
        records = [record for one in found for record in (one.right, one.record, *one.wrong)]
        samples = encode_like(
            self.sets[name][0], records, self.tokenizer, max_length=context_length(self.model),
            name=f"variants of {name}",
        )  # fmt: skip
        sums = shared_log_probs(self.model, samples, **self._options).numpy()
        losses = -sums / np.array([sample.targets for sample in samples])
        starts = np.cumsum([0, *(2 + len(one.perturbed) for one in found)])
        return Answers(
            losses[starts[:-1]], losses[starts[:-1] + 1],
            [losses[low + 2 : high] for low, high in pairwise(starts)],
        )  # fmt: skip

    def texts(self, name: str) -> list[str]:
        """The true answers of a set, as the tokenizer writes them."""
        return self._once(("texts", name), lambda: [self.text(prompt_and_answer(s)[1]) for s in self.sets[name]])

    def scored_texts(self, name: str) -> list[str]:
        """What the losses of a set are of, as the tokenizer writes it: of free text all that is predicted, where
        :meth:`texts` has the second half alone."""
        return self._once(("scored texts", name), lambda: [self.text(scored_tokens(s)) for s in self.sets[name]])

    def text(self, tokens: torch.Tensor) -> str:
        """Tokens as text, special ones left out."""
        return self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)

    def written(self, name: str) -> list[str]:
        """What the model writes after each prompt of a set, greedily, for as many tokens as the true answer has."""
        return self._once(("written", name), lambda: self._written(name))

    def _written(self, name: str) -> list[str]:
        parts = [prompt_and_answer(sample) for sample in self.sets[name]]
        found = generate(
            self.model, [prompt for prompt, _ in parts], [len(answer) for _, answer in parts],
            eos_token_id=self.tokenizer.eos_token_id, batch_size=self.batch_size,
        )  # fmt: skip
        return [self.text(one[0]) for one in found]

    def gradient_norms(self, name: str) -> np.ndarray:
        """(m,): Euclidean norm of the gradient of each record's mean loss, over all weights that take gradients."""
        return self._once(("norms", name), lambda: self._gradient_norms(name))

    def _gradient_norms(self, name: str) -> np.ndarray:
        from fastunlearn.operators.norms import squared_norms
        from fastunlearn.operators.sample_gradients import SampleGradients

        samples = self.sets[name]
        squares = squared_norms(SampleGradients(self.model, samples, **self._options)).cpu().numpy()
        return np.sqrt(squares) / np.array([sample.targets for sample in samples])

    @cached_property
    def exposures(self) -> dict[str, np.ndarray]:
        """Bits of every canary, by the set that its record is in ("forget", "retain")."""
        bits: dict[str, list[float]] = {"forget": [], "retain": []}
        for index, canary in enumerate(self.canaries):
            sets = self.sets["forget"], self.sets.get("retain")
            forgotten, add_bos = find_canary(self.model, self.tokenizer, canary, index, *sets)
            found = exposure(self.model, self.tokenizer, canary, add_bos=add_bos, **self._options)
            bits["forget" if forgotten else "retain"].append(found.bits)
        return {name: np.array(values) for name, values in bits.items() if values}


@dataclass
class Measurement:
    """What a metric is computed from. ``reference``: the retrained model. ``references``: all retrained ones, with it;
    ``models``: all models of the method, the measured one first. ``calibration``: the model that the reference attack
    compares with. ``level``, ``resamples``, ``seed``: of the bootstrap intervals."""

    model: MeasuredModel
    reference: MeasuredModel | None = None
    references: list[MeasuredModel] = field(default_factory=list)
    models: list[MeasuredModel] = field(default_factory=list)
    calibration: MeasuredModel | None = None
    level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def estimate(self, statistic: Callable[..., float], *arrays: np.ndarray) -> dict:
        """``value``, ``low``, ``high`` of the statistic, by the percentile bootstrap; None where not finite. Rows of
        one array belong together (two models on one record), rows of two arrays do not."""
        with np.errstate(invalid="ignore", over="ignore"):
            found = interval(
                statistic, *arrays, level=self.level, resamples=self.resamples, seed=self.seed
            )
        return {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}
