"""Membership inference: scores that should be low for records that the model was trained on.

Each attack gives one score per record, *lower = more likely trained on*; the metric is the AUC of telling forgotten
records from held-out ones (:func:`fastunlearn.audit.membership.auc`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from fastunlearn.audit.metrics.tokens import TokenStatistics, per_sample
from fastunlearn.audit.scores import TokenScores
from fastunlearn.errors import InvalidInputError

__all__ = ["PRIVLEAK_SHARE", "SHARE", "difficulty_scores", "loss_scores", "min_k_plus_plus_scores", "min_k_scores",
           "privleak", "zlib_scores"]  # fmt: skip

#: The share of lowest tokens in Min-K% (Shi et al. 2024 recommend 20 %) and in MUSE's PrivLeak (its code takes 40 %).
SHARE, PRIVLEAK_SHARE = 0.2, 0.4


def loss_scores(scores: TokenScores) -> np.ndarray:
    """(m,): mean loss per target token, in nats (Yeom et al. 2018, arXiv 1709.01604)."""
    return scores.sample_losses.numpy()


def zlib_scores(scores: TokenScores, texts: Sequence[str]) -> np.ndarray:
    """(m,): mean loss per target token over the bytes of the scored text after zlib (Carlini et al. 2021, arXiv
    2012.07805): a low loss on text that compresses badly is suspicious."""
    sizes = np.array([len(zlib.compress(text.encode("utf-8"))) for text in texts], dtype=np.float64)
    return scores.sample_losses.numpy() / sizes


def difficulty_scores(scores: TokenScores, reference: TokenScores) -> np.ndarray:
    """(m,): mean loss minus that of a reference model that was not trained on the records (Watson et al. 2022, arXiv
    2111.08440, "difficulty calibration"; Carlini et al. 2021 take the ratio)."""
    return (scores.sample_losses - reference.sample_losses).numpy()


def _lowest(values: np.ndarray, share: float) -> float:
    """Mean of the lowest ``share`` of the values, at least one of them."""
    return float(np.sort(values)[: max(1, int(share * len(values)))].mean())


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise InvalidInputError(f"share={share} must lie above 0 and be at most 1, such as 0.2")


def min_k_scores(scores: TokenScores, *, share: float = SHARE) -> np.ndarray:
    """(m,): minus the mean log-probability of the least likely ``share`` of the target tokens, rounded down to whole
    tokens but at least one (Min-K% Prob; Shi et al. 2024, arXiv 2310.16789)."""
    _check_share(share)
    parts = per_sample(scores.log_prob, scores.sample, scores.samples)
    return np.array([-_lowest(part, share) for part in parts])


def min_k_plus_plus_scores(scores: TokenStatistics, *, share: float = SHARE) -> np.ndarray:
    """(m,): as :func:`min_k_scores`, of (log p - mu) / sigma, with mu and sigma the mean and standard deviation of
    log p over the predicted distribution (Min-K%++; Zhang et al. 2025, arXiv 2404.02936).

    A distribution in which every token is equally likely has sigma 0: the token's score is then 0.
    """
    _check_share(share)
    apart = scores.log_prob - scores.expected
    normal = apart / scores.spread.clamp_min(1e-12)
    normal[apart.abs() < 1e-12] = 0.0
    return np.array([-_lowest(part, share) for part in per_sample(normal, scores.sample, scores.samples)])


def privleak(auc: float, reference_auc: float) -> float:
    """MUSE's PrivLeak, in per cent: 100 (A - A_retrained) / A_retrained, with A = 1 - AUC the chance that the attack
    takes a held-out record for a member before a forgotten one (Shi et al. 2025, arXiv 2407.06460).

    ``auc``, ``reference_auc``: AUCs as this package gives them (1: every forgotten record is found out). 0 is ideal;
    negative: the records still look trained on (at least -100); positive: they look less so than unseen ones.
    NaN where the retrained model's A is 0.
    """
    if reference_auc >= 1.0:
        return float("nan")
    return 100.0 * (reference_auc - auc) / (1.0 - reference_auc)
