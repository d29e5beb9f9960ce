"""K-FADE: a few Gauss-Newton steps up the forget loss, the retained outputs held by K-FAC or EK-FAC (2602.10568).

    theta <- theta + a F^-1 sum g        F: Kronecker-factored Gauss-Newton matrix of the retained records, damped

F measures, to second order, how far the model's predictions on the retained records move (their KL), so that each step
is the one that raises the forget loss most for a given move there. In contrast to the sample-space Fisher of Fisher
Removal, F has full rank and is an approximation: layers apart, and in each a Kronecker product (solve/kfac.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastunlearn.operators.ggn import GGN
from fastunlearn.operators.losses import TokenLoss, negative_log_likelihood
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.targets import make_batch
from fastunlearn.solve.gauss_newton_space import GaussNewtonFisher
from fastunlearn.solve.kfac import KFAC
from fastunlearn.solve.kronecker_space import KroneckerSampleFisher
from fastunlearn.unlearn.curvature import RetainedRecords, Vector
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, choice, number, optional, whole
from fastunlearn.unlearn.steps import descend_by_steps, make_monitor

__all__ = ["METHODS", "KFADESettings", "KroneckerMaker"]


@dataclass(frozen=True, kw_only=True)
class KFADESettings:
    """``steps``, ``step_norm``, ``damping``, ``fisher_samples``, ``kl_budget`` and targets: as for Fisher Removal.
    ``curvature``: "ekfac" corrects the eigenvalues, "kfac" does not. ``kind``: "sampled" labels (Gauss-Newton) or the
    records' own. ``refresh``: steps for which one F serves. ``loss``: "likelihood" climbs the forget loss without
    end, "log-odds" descends Fisher Removal's bounded pull, with its ``threshold`` and ``fade``."""

    steps: int = whole(12, least=1)
    step_norm: float = number(0.25, above=0)
    damping: float = number(1e-4, above=0)
    curvature: str = choice("ekfac", "kfac")
    kind: str = choice("sampled", "empirical")
    fisher_samples: int | None = optional(whole(None, least=1))
    refresh: int = whole(1, least=1)
    loss: str = choice("likelihood", "log-odds")
    threshold: float | None = optional(number(None))
    fade: str = choice("mean", "blend", "ranks")
    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))
    pull = "sum"


class _Kronecker:
    """F of one step, and the gradients of the pull."""

    def __init__(self, fisher: KroneckerSampleFisher | GaussNewtonFisher, forget: SampleGradients):
        self._fisher, self._forget = fisher, forget

    def solve_forget(self, c: Tensor) -> Vector:
        return self._fisher.solve(self._forget.weighted_gradient(c))

    def leverage(self) -> dict[str, float]:
        return {}  # the Kronecker factors keep no Gram of the records

    @property
    def records(self) -> int:
        return len(self._forget)


class KroneckerMaker:
    """F of retained records, taken anew at every ``refresh``-th step; with settings that have an ``exact_weight`` above
    0, at every step where ``memory`` does not hold the gradients, which would be those at other weights. With
    ``products`` in the settings it is only the preconditioner of the Gauss-Newton matrix at the present weights."""

    def __init__(self, request: Request, settings):
        self._request = request
        self.records = RetainedRecords(request, settings.fisher_samples, settings.kind)
        self._settings = settings
        self._weight: float = getattr(settings, "exact_weight", 0.0)
        self._fisher: KroneckerSampleFisher | None = None

    def prepare(self) -> None:
        """What an unbroken run does at the original weights, before its first step."""
        self.records.prepare()

    def is_fresh(self, step: int) -> bool:
        """Whether F is taken anew at ``step``."""
        return (step - 1) % self._settings.refresh == 0 or self._is_lost

    @property
    def _is_lost(self) -> bool:
        last = self._fisher
        return last is not None and self._weight > 0 and not last.gradients.keeps_factors

    def fisher(self, step: int, *, anew: bool) -> KroneckerSampleFisher | GaussNewtonFisher:
        """F, taken at the present weights where it is wanted ``anew``, and where the last one is lost."""
        if self._fisher is None or anew or self._is_lost:
            self._fisher = None  # frees its factors before the next ones are taken
            retained = self.records.gradients(step, negative_log_likelihood)
            corrected = self._settings.curvature == "ekfac"
            kronecker = KFAC(retained, self._settings.damping, corrected=corrected, own_gram=self._weight > 0)
            self._fisher = KroneckerSampleFisher(kronecker, retained, self._weight)
            if self._weight == 0:
                retained.forget_factors()
        return self._refined(self._fisher) if getattr(self._settings, "products", 0) else self._fisher

    def _refined(self, kronecker: KroneckerSampleFisher) -> GaussNewtonFisher:
        request, samples = self._request, kronecker.gradients.samples
        starts = range(0, len(samples), request.batch_size)
        batches = [make_batch(request.model, samples[i : i + request.batch_size], request.pad_token_id) for i in starts]
        with evaluation(request.model, list(request.parameters.values())):
            matrix = GGN(
                request.model, batches, params=list(request.parameters.values()), reduction="sum", allow_unused=True
            )
        settings = self._settings
        return GaussNewtonFisher(kronecker, matrix, settings.products_damping, settings.products, request.spend)

    def at(self, step: int, pull: TokenLoss) -> _Kronecker:
        return _Kronecker(self.fisher(step, anew=self.is_fresh(step)), self.records.forget(pull))


def run(request: Request, settings: KFADESettings) -> tuple[list[dict], str]:
    """Steps up the forget loss until enough is forgotten."""
    return descend_by_steps(request, settings, make_monitor(request, settings), KroneckerMaker(request, settings))


METHODS = (
    Method("k-fade", "K-FADE", "Gauss-Newton steps up the forget loss, retained outputs held by (E)K-FAC",
           True, KFADESettings, run, restartable=True,
           search={"damping": Logarithmic(1e-7, 1e-2), "step_norm": OneOf((0.1, 0.25, 0.5)),
                   "loss": OneOf(("likelihood", "log-odds"))}),
)  # fmt: skip
