"""Fine-tuning on the retained records, in the hope that the rest fades."""

from __future__ import annotations

from fastunlearn.unlearn.descent import DescentSettings, Objective, descend, mean_loss
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic

__all__ = ["METHODS"]


def run(request: Request, settings: DescentSettings) -> tuple[list[dict], str]:
    """Adam down the retained loss."""
    return descend(request, settings, Objective(retain=mean_loss(request)))


METHODS = (
    Method("finetune", "Fine-tuning", "descends the retained loss and lets the rest fade", True, DescentSettings, run,
           first_order=True, search={"learning_rate": Logarithmic(1e-4, 5e-3)}),
)  # fmt: skip
