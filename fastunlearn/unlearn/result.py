"""What an unlearning run hands back."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields

from torch import nn

__all__ = ["UnlearnResult"]


@dataclass
class UnlearnResult:
    """The changed ``model`` (the object that was passed in) and an account of what was done to it.

    ``steps``: one dict per step with ``step``, ``forget_accuracy``, ``forget_loss``, ``enough`` (whether these are at
    the target), ``kl_probe`` (drift from the original on the probe records, nats) and what the method adds (step norm,
    damping, noise). ``gradients``: per-sample gradient evaluations. ``seconds``: wall time, without ``on_step``.
    ``peak_bytes``: memory above that at the start. ``stopped``: why it ended, in words. ``enough``: whether the model
    as it was left has forgotten enough, whatever ended the run. ``parameters``: the names that were allowed to change.
    ``notes``: what a reader should know before trusting the result.
    """

    model: nn.Module
    method: str
    settings: dict
    steps: list[dict]
    gradients: int
    seconds: float
    peak_bytes: int | None
    stopped: str
    enough: bool
    uses_retain: bool
    parameters: list[str]
    seed: int
    records: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """All but the model, ready for JSON. Holds no text of any record."""
        return {one.name: deepcopy(getattr(self, one.name)) for one in fields(self) if one.name != "model"}
