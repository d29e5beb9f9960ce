"""What is looked at between steps: how much is forgotten, and how far the model has drifted. Forward passes only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.audit.divergence import kl, reference_log_probs
from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import Encoded

from .request import Request

__all__ = ["Monitor"]

DEFAULT_TARGET = 0.1
DEFAULT_THRESHOLD = -3.0  # odds of one to twenty


def _subset(samples: list[Encoded], size: int, seed: int) -> list[Encoded]:
    if len(samples) <= size:
        return samples
    chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:size]
    return [samples[i] for i in chosen.tolist()]


class Monitor:
    """Watches the request's model. Made while the model is still the original.

    Enough is forgotten when the forget records look like records that the model has never seen: forget accuracy
    at most ``target_accuracy`` and forget loss at least ``target_loss`` (nats per target token). What is not
    given is the original's figure on the held-out records. Without those the accuracy is 0.1, with a note, and no
    loss is asked for; nor with ``needs="accuracy"``. The *probe*, on which drift from the original is measured as
    KL(original || model), is a seeded subset of the retained records, else of the held-out ones; without either,
    drift is None. ``rank_share``: how far ``fade="blend"`` is on the way from the mean to ranks: twice the share of
    held-out tokens that the original has right, at most 1.
    """

    def __init__(
        self,
        request: Request,
        *,
        target_accuracy: float | None = None,
        target_loss: float | None = None,
        needs: str = "both",
        probe_size: int = 256,
    ):
        self.request = request
        self._options = {"pad_token_id": request.pad_token_id, "batch_size": 2 * request.batch_size}
        self._unseen, self.rank_share = None, 0.0
        if request.held_out:
            unseen = token_scores(request.model, request.held_out, **self._options)
            target_accuracy = unseen.accuracy if target_accuracy is None else target_accuracy
            target_loss = unseen.loss if target_loss is None else target_loss
            self._unseen = unseen.clamped_log_odds
            self.rank_share = min(1.0, 2 * unseen.accuracy)
        elif target_accuracy is None:
            target_accuracy = DEFAULT_TARGET
            request.notes.append(
                f"No held-out records were given, so forgetting stops at a forget accuracy of {DEFAULT_TARGET}, a "
                "guess, and nothing says what unseen records have right as well; give records that the model has never "
                "seen, or set target_accuracy and target_loss."
            )
        self.target_accuracy, self.target_loss = target_accuracy, target_loss
        self._asks_loss = needs == "both" and target_loss is not None
        self.probe = _subset(request.retain or request.held_out, probe_size, request.seed)
        self._original = reference_log_probs(request.model, self.probe, **self._options) if self.probe else None

    @property
    def target(self) -> str:
        """The target, in words."""
        loss = f" and loss {self.target_loss:.2f}" if self._asks_loss else ""
        return f"the target of forget accuracy {self.target_accuracy:.3f}{loss}"

    @property
    def threshold(self) -> float:
        """Log-odds of a token with the target loss, at which a bounded pull fades; -3 without a target loss."""
        if self.target_loss is None:
            return DEFAULT_THRESHOLD
        loss = max(self.target_loss, 1e-3)
        return -loss - math.log1p(-math.exp(-loss))

    def ranks(self) -> tuple[Tensor, Tensor] | None:
        """Log-odds (n,) of the forget records' target tokens now, and as many quantiles of those that the original
        gives the held-out ones, both ascending; None without held-out records."""
        if self._unseen is None:
            return None
        own = token_scores(self.request.model, self.request.forget, **self._options).clamped_log_odds.sort().values
        share = (torch.arange(len(own), dtype=torch.float64) + 0.5) / len(own)
        return own, torch.quantile(self._unseen, share)

    def enough(self, accuracy: float, loss: float) -> bool:
        """Whether a model with this forget accuracy and loss has forgotten enough."""
        return accuracy <= self.target_accuracy and (not self._asks_loss or loss >= self.target_loss)

    def forgotten(self) -> bool:
        """Whether the model as it is now has forgotten enough."""
        return self.enough(*self.forgetting())

    def forgetting(self) -> tuple[float, float]:
        """Accuracy and loss (nats per target token) on the forget set."""
        scores = token_scores(self.request.model, self.request.forget, **self._options)
        return scores.accuracy, scores.loss

    def drift(self) -> float | None:
        """KL(original || model) on the probe, nats per target token; None without a probe."""
        if self._original is None:
            return None
        return kl(self._original, self.request.model, self.probe, **self._options)

    def look(self, step: int, **more) -> dict:
        """One entry of the step log; ``enough``: whether the model has forgotten enough there."""
        accuracy, loss = self.forgetting()
        entry = {
            "step": step, "forget_accuracy": accuracy, "forget_loss": loss, "enough": self.enough(accuracy, loss),
            "kl_probe": self.drift(), **more,
        }  # fmt: skip
        if self.request.on_step is not None:
            self.request.on_step(entry)
        return entry

    def done(self, entry: dict) -> bool:
        """:meth:`enough`, for an entry that :meth:`look` made."""
        return self.enough(entry["forget_accuracy"], entry["forget_loss"])
