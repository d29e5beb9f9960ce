"""Negative preference optimisation (Zhang et al. 2024), and its form without a reference model (Fan et al. 2024).

    NPO      -(2/beta) log sigmoid(-beta log(p / p_original))           p: probability of the whole completion
    SimNPO   -(2/beta) log sigmoid(-(beta/|y|) log p - gamma)           |y|: its number of target tokens

Both fade as a record is forgotten: NPO measures that against the original model, SimNPO by the mean log-likelihood of
a token, so that long records do not count more. A retained loss may be added to either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastunlearn.data.encode import Encoded
from fastunlearn.operators.losses import negative_log_likelihood
from fastunlearn.operators.model_state import evaluation
from fastunlearn.unlearn.descent import DescentSettings, Objective, descend, mean_loss, record_losses
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, number

__all__ = ["METHODS", "NPOSettings", "SimNPOSettings", "npo_objective"]


@dataclass(frozen=True, kw_only=True)
class NPOSettings(DescentSettings):
    """As DescentSettings, and ``beta``: inverse temperature; ``retain_weight``: of the retained loss (0: none)."""

    beta: float = number(0.1, above=0)
    retain_weight: float = at_least(0.0, 0)


@dataclass(frozen=True, kw_only=True)
class SimNPOSettings(DescentSettings):
    """As NPO, and ``gamma``: the margin; a record counts as forgotten where its mean loss in nats is well above
    gamma / beta."""

    beta: float = number(2.5, above=0)
    gamma: float = at_least(0.0, 0)
    retain_weight: float = at_least(1.0, 0)


@torch.no_grad()
def _original_log_p(request: Request) -> Tensor:
    found = []
    with evaluation(request.model):
        for start in range(0, len(request.forget), request.batch_size):
            samples = request.forget[start : start + request.batch_size]
            found.append(-record_losses(request, samples, negative_log_likelihood)[0])
    return torch.cat(found)


def npo_objective(request: Request, beta: float, retain_weight: float) -> Objective:
    """NPO against the model as it is now, and the retained loss."""
    original = _original_log_p(request)

    def forget(samples: list[Encoded], places: list[int]) -> Tensor:
        sums, _ = record_losses(request, samples, negative_log_likelihood)
        return -(2 / beta) * F.logsigmoid(-beta * (-sums - original[places])).mean()

    return Objective(forget, mean_loss(request), retain_weight)


def npo(request: Request, settings: NPOSettings) -> tuple[list[dict], str]:
    """Adam down the NPO loss, with the original model as the reference, and the retained loss."""
    return descend(request, settings, npo_objective(request, settings.beta, settings.retain_weight))


def simnpo(request: Request, settings: SimNPOSettings) -> tuple[list[dict], str]:
    """Adam down the SimNPO loss and the retained loss."""
    beta, gamma = settings.beta, settings.gamma

    def forget(samples: list[Encoded], _places: list[int]) -> Tensor:
        sums, counts = record_losses(request, samples, negative_log_likelihood)
        return -(2 / beta) * F.logsigmoid(beta * sums / counts - gamma).mean()

    return descend(request, settings, Objective(forget, mean_loss(request), settings.retain_weight))


_RATE = {"learning_rate": Logarithmic(1e-5, 1e-3)}
_WEIGHT = {"retain_weight": OneOf((0.5, 1.0, 2.0, 4.0, 8.0))}
_BETA = {"beta": OneOf((0.05, 0.1, 0.2, 0.5, 1.0))}
METHODS = (
    Method("npo", "NPO", "negative preference optimisation, forget records alone",
           False, NPOSettings, npo, first_order=True, search=_RATE | _BETA),
    Method("npo-retain", "NPO with retained data", "negative preference optimisation and the retained loss",
           True, NPOSettings, npo, first_order=True, preset=(("retain_weight", 1.0),),
           search=_RATE | _BETA | _WEIGHT),
    Method("simnpo", "SimNPO", "NPO without a reference model, by the mean over tokens, and the retained loss",
           True, SimNPOSettings, simnpo, first_order=True,
           search=_RATE | _WEIGHT | {"beta": OneOf((1.0, 2.5, 4.5)), "gamma": OneOf((0.0, 0.5, 1.0, 2.0))}),
)  # fmt: skip
