"""How well the answers are remembered: probability, accuracy, perplexity, exact memorisation, extraction strength."""

from __future__ import annotations

import numpy as np
import torch

from fastunlearn.audit.metrics.tokens import per_sample
from fastunlearn.audit.scores import TokenScores

__all__ = ["exact_memorisation", "extraction_strength", "nll_sums", "perplexity_of_sums", "probability"]


def probability(scores: TokenScores) -> np.ndarray:
    """(m,): P(answer | prompt) ** (1 / answer tokens), the geometric mean of the token probabilities, 0 to 1.

    Source: Maini et al. 2024 (TOFU, arXiv 2401.06121), section 2.2, "Probability".
    """
    return torch.exp(-scores.sample_losses).numpy()


def exact_memorisation(scores: TokenScores) -> np.ndarray:
    """(m,): the share of a record's target tokens that the model puts first, given the true tokens before, 0 to 1.

    Source: Tirumala et al. 2022 (arXiv 2205.10770): M(f) = sum 1[argmax f(s) = x] / |C|.
    """
    hits = torch.zeros(scores.samples, dtype=torch.float64).index_add_(0, scores.sample, scores.correct.double())
    return (hits / torch.bincount(scores.sample, minlength=scores.samples)).numpy()


def extraction_strength(scores: TokenScores) -> np.ndarray:
    """(m,): 1 - k / n, with n target tokens and k the fewest of them that must be given so that greedy decoding
    writes all the others; 0 (nothing is extracted, k = n) to 1 (the prompt alone is enough).

    Greedy decoding from k given tokens writes the truth exactly where every later token is put first given the true
    ones before, so k is where the last run of right tokens begins: one pass is enough. Source: Carlini et al. 2021
    (arXiv 2012.07805) for the notion; Wang et al. 2025 (arXiv 2406.09179), "extraction strength", for this formula.
    """
    found = []
    for right in per_sample(scores.correct, scores.sample, scores.samples):
        wrong = np.flatnonzero(~right)
        found.append(1.0 - (0 if wrong.size == 0 else wrong[-1] + 1) / len(right))
    return np.array(found)


def nll_sums(scores: TokenScores) -> np.ndarray:
    """(m, 2): each record's negative log-likelihood, summed over its target tokens, and their number."""
    counts = torch.bincount(scores.sample, minlength=scores.samples).double()
    return torch.stack([-scores.sample_log_probs, counts], 1).numpy()


def perplexity_of_sums(sums: np.ndarray) -> float:
    """exp of the mean negative log-likelihood over all tokens of ``sums`` (:func:`nll_sums`); 1 to infinity.

    Source: Jelinek et al. 1977. Infinity where it is beyond the range of a float.
    """
    mean = sums[:, 0].sum() / sums[:, 1].sum()
    with np.errstate(over="ignore"):
        return float(np.exp(mean))
