"""Representation misdirection for unlearning (Li et al. 2024, WMDP): one layer's activations are steered.

    |h(forget) - scale * u|^2 + weight * |h(retain) - h_original(retain)|^2

h: what leaves the layer, over all tokens and dimensions, as a mean; u: a random direction of unit length, its entries
drawn uniformly from [0, 1) before it is scaled. Weights behind the layer are not touched. The paper takes layer 7 of
32, scale 20 (here ``scale`` is a multiple of the mean length of the layer's own activations on the forget records, so
that it means the same for models of all widths) and only the layer's own and the two layers before, which
``parameters`` can ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastunlearn._threads import of_this_thread
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.targets import make_batch
from fastunlearn.operators.walk import find_layers
from fastunlearn.unlearn.descent import DescentSettings, Objective, descend
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, number, optional, whole
from fastunlearn.unlearn.snapshot import Snapshot

__all__ = ["METHODS", "RMUSettings"]


@dataclass(frozen=True, kw_only=True)
class RMUSettings(DescentSettings):
    """As DescentSettings, and ``layer``: whose output is steered, counted from 0 (None: the one in the middle);
    ``scale``: length that the forget records' activations are steered to, as a multiple of their own at the start;
    ``retain_weight``: of the retained activations."""

    layer: int | None = optional(whole(None, least=0))
    scale: float = number(3.0, above=0)
    retain_weight: float = at_least(10.0, 0)


class _Layer:
    """The activations (tokens, d) that leave one layer, for a batch of records."""

    def __init__(self, request: Request, number_: int | None):
        layers = find_layers(request.model)
        if not layers:
            raise InvalidInputError("model: rmu needs a model of repeated layers, and this one has none")
        self.number = (len(layers) - 1) // 2 if number_ is None else number_
        if self.number >= len(layers):
            raise InvalidInputError(f"layer={self.number} must be below the model's {len(layers)} layers")
        self._request, self._module = request, request.model.get_submodule(layers[self.number])
        if not any(self._reaches(p) for p in request.parameters.values()):
            raise InvalidInputError(f"parameters: none of them stands at or before layer {self.number}; choose some")

    def _reaches(self, parameter: nn.Parameter) -> bool:
        """Whether the layer's output depends on the parameter."""
        with evaluation(self._request.model, [parameter]):
            return self(self._request.forget[:1]).requires_grad

    def __call__(self, samples: list[Encoded], call: Callable | None = None) -> Tensor:
        """``call``: what runs the model (default: the model itself)."""
        batch = make_batch(self._request.model, samples, self._request.pad_token_id)
        del batch["labels"]
        seen: list[Tensor] = []
        handle = self._module.register_forward_hook(
            of_this_thread(lambda _m, _args, output: seen.append(output[0] if isinstance(output, tuple) else output))
        )
        try:
            (call or self._request.model)(**batch, use_cache=False)
        finally:
            handle.remove()
        return seen[0][batch["attention_mask"].bool()]


def _mean_length(request: Request, layer: _Layer) -> float:
    total, tokens = 0.0, 0
    with torch.no_grad(), evaluation(request.model):
        for start in range(0, len(request.forget), request.batch_size):
            lengths = layer(request.forget[start : start + request.batch_size]).double().norm(dim=1)
            total, tokens = total + float(lengths.sum()), tokens + len(lengths)
    return total / tokens


def _objective(request: Request, settings: RMUSettings) -> Objective:
    layer, weights = _Layer(request, settings.layer), Snapshot(request.parameters).values
    with torch.no_grad():
        width = layer(request.forget[:1]).shape[1]
    direction = torch.rand(width, dtype=torch.float64, generator=torch.Generator().manual_seed(request.seed))
    target = settings.scale * _mean_length(request, layer) * direction / direction.norm()

    def forget(samples: list[Encoded], _places: list[int]) -> Tensor:
        found = layer(samples)
        return (found - target.to(found)).square().mean()

    def original(**inputs):
        return functional_call(request.model, weights, args=(), kwargs=inputs)

    def retain(samples: list[Encoded], _places: list[int]) -> Tensor:
        with torch.no_grad():
            then = layer(samples, original)
        return (layer(samples) - then).square().mean()

    return Objective(forget, retain, settings.retain_weight)


def run(request: Request, settings: RMUSettings) -> tuple[list[dict], str]:
    """Adam down the two distances."""
    return descend(request, settings, _objective(request, settings))


METHODS = (
    Method("rmu", "RMU", "steers one layer's activations to a random direction, and holds those of retained records",
           True, RMUSettings, run, first_order=True,
           search={"learning_rate": Logarithmic(1e-5, 3e-3), "scale": OneOf((1.0, 2.0, 4.0, 8.0)),
                   "retain_weight": OneOf((1.0, 3.0, 10.0, 30.0, 100.0))}),
)  # fmt: skip
