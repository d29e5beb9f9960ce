"""Every metric's formula on cases small enough to work out by hand; the numbers in this file were, with pencil."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch

from fastunlearn.audit.divergence import divergences
from fastunlearn.audit.membership import auc
from fastunlearn.audit.metrics import calibration, equivalence, klom, membership, memorisation, rouge, truth
from fastunlearn.audit.metrics.tokens import TokenStatistics, token_statistics
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError

#: Probabilities of the target tokens of three records (3, 2 and 4 tokens), and whether each is put first.
PROBABILITIES = [0.5, 0.25, 0.125, 1.0, 0.25, 0.5, 0.5, 0.5, 0.5]
CORRECT = [True, False, True, True, True, False, True, True, False]
OWNER = [0, 0, 0, 1, 1, 2, 2, 2, 2]


def statistics(**changes) -> TokenStatistics:
    """Those tokens; the distribution's mean and spread of log p are made up: -1 and 2 for every token."""
    p = torch.tensor(PROBABILITIES, dtype=torch.float64)
    odds = p.log() - (1 - p.clamp_max(0.9)).log()
    arguments = {
        "log_prob": p.log(), "correct": torch.tensor(CORRECT), "sample": torch.tensor(OWNER), "samples": 3,
        "confidence": p, "expected": torch.full_like(p, -1.0), "spread": torch.full_like(p, 2.0), "log_odds": odds,
        **changes,
    }  # fmt: skip
    return TokenStatistics(**arguments)


class Fixed(torch.nn.Module):
    """A causal language model of four tokens that predicts ``probabilities`` everywhere."""

    def __init__(self, *probabilities: float):
        super().__init__()
        self.head = torch.nn.Linear(1, 4, bias=False)
        self.logits = torch.tensor(probabilities, dtype=torch.float64).log()

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, use_cache):
        return type("Output", (), {"logits": self.logits.expand(*input_ids.shape, 4)})()


def test_statistics_of_a_known_distribution():
    # p = 1/2, 1/4, 1/8, 1/8: log2 p = -1, -2, -3, -3, mean -1.75; squares 1, 4, 9, 9: mean 15/4 - 49/16 = 11/16
    model, ids = Fixed(1 / 2, 1 / 4, 1 / 8, 1 / 8), torch.tensor([0, 1, 0])
    found = token_statistics(model, [Encoded(ids, ids)], pad_token_id=0)
    assert found.log_prob / math.log(2) == pytest.approx([-2, -1]) and found.correct.tolist() == [False, True]
    assert found.expected / math.log(2) == pytest.approx([-1.75] * 2)
    assert found.spread / math.log(2) == pytest.approx([math.sqrt(11) / 4] * 2)
    assert found.confidence.tolist() == pytest.approx([0.5, 0.5])
    assert found.log_odds.tolist() == pytest.approx([-math.log(3), 0])  # 1/4 against 3/4; 1/2 against 1/2


def test_divergences_of_known_distributions():
    # p = (1/2, 1/2), q = (1/4, 3/4), two other tokens at next to nothing: KL(p, q) = (log 2 + log 2/3) / 2
    ids, tiny = torch.tensor([0, 1]), 1e-30
    p, q = Fixed(1 / 2, 1 / 2, tiny, tiny), Fixed(1 / 4, 3 / 4, tiny, tiny)
    found = divergences(p, q, [Encoded(ids, ids)], pad_token_id=0)
    assert found.kl.tolist() == pytest.approx([math.log(4 / 3) / 2])
    # the middle (3/8, 5/8): KL(p, m) = log(16/15) / 2, KL(q, m) = log(2/3) / 4 + 3 log(6/5) / 4
    expected = (math.log(16 / 15) / 2 + math.log(2 / 3) / 4 + 3 * math.log(6 / 5) / 4) / 2
    assert found.js.tolist() == pytest.approx([expected])
    apart = divergences(Fixed(1, tiny, tiny, tiny), Fixed(tiny, 1, tiny, tiny), [Encoded(ids, ids)], pad_token_id=0)
    assert apart.js.tolist() == pytest.approx([math.log(2)])


def test_probability_is_the_geometric_mean():
    # (1/2 * 1/4 * 1/8)^(1/3) = (1/64)^(1/3) = 1/4;  (1 * 1/4)^(1/2) = 1/2;  1/2
    assert memorisation.probability(statistics()) == pytest.approx([0.25, 0.5, 0.5], rel=1e-12)


def test_exact_memorisation_is_the_share_of_right_tokens():
    assert memorisation.exact_memorisation(statistics()) == pytest.approx([2 / 3, 1, 1 / 2])


def test_extraction_strength_counts_the_last_run():
    # right, wrong, right: two of three must be given -> 1/3; all right: none -> 1; the last is wrong: all four -> 0
    assert memorisation.extraction_strength(statistics()) == pytest.approx([1 / 3, 1, 0])


def test_perplexity_pools_the_tokens():
    # bits: 1 + 2 + 3 + 0 + 2 + 4 * 1 = 12 over 9 tokens -> 2^(4/3), not the mean of the records' perplexities
    assert memorisation.perplexity_of_sums(memorisation.nll_sums(statistics())) == pytest.approx(2 ** (4 / 3))
    assert memorisation.perplexity_of_sums(np.array([[1000.0, 1.0]])) == math.inf


@pytest.mark.parametrize(
    ("candidate", "true", "recall", "precision", "f"),
    [
        # Lin 2004's examples: "police the gunman" is common to both, so 3 of 4 words each
        ("police kill the gunman", "police killed the gunman", 3 / 4, 3 / 4, 3 / 4),
        # "the gunman" alone: the order counts
        ("the gunman kill police", "police killed the gunman", 2 / 4, 2 / 4, 1 / 2),
        # LCS "a c e" of 5 and 3 words: recall 3/5, precision 1, F = 2 * 0.6 / 1.6
        ("a c e", "A, b; c! d e.", 3 / 5, 1.0, 0.75),
        ("", "a", 0, 0, 0), ("x", "a", 0, 0, 0), ("...", "a", 0, 0, 0),
    ],
)  # fmt: skip
def test_rouge_l(candidate, true, recall, precision, f):
    assert rouge.rouge_l(candidate, true) == pytest.approx((recall, precision, f))


def test_common_subsequence_allows_gaps_and_keeps_order():
    assert rouge.common_subsequence("AGGTAB", "GXTXAYB") == 4  # G T A B
    assert rouge.common_subsequence("abc", "cba") == 1 and rouge.common_subsequence("", "x") == 0


def test_truth_ratio():
    # right answer 1/2 a token; wrong ones 1/4 and 1/8: arithmetic (3/16) / (1/2) = 3/8, geometric sqrt(1/32) * 2
    right, wrong = np.array([math.log(2)]), [np.array([math.log(4), math.log(8)])]
    assert truth.truth_ratio(right, wrong) == pytest.approx([3 / 8])
    assert truth.truth_ratio(right, wrong, mean="geometric") == pytest.approx([2 / math.sqrt(32)])
    ratios = np.array([0.25, 1.0, 4.0])
    assert truth.nearness(ratios) == pytest.approx([0.25, 1, 0.25])
    assert truth.truthfulness(ratios) == pytest.approx([0.75, 0, 0])
    assert truth.normalised_probability(np.array([0.3]), [np.array([0.1, 0.2])]) == pytest.approx([0.5])
    assert truth.truth_ratio(np.array([2000.0]), [np.array([0.0])])[0] == math.inf
    for bad in ({"mean": "median"}, {"wrong": [np.array([])]}):
        with pytest.raises(InvalidInputError):
            truth.truth_ratio(**{"right": right, "wrong": wrong, **bad})


def test_harmonic_mean():
    assert truth.harmonic_mean([1, 0.5, 0.25]) == pytest.approx(3 / 7)  # 3 / (1 + 2 + 4)
    assert truth.harmonic_mean([0.0, 1.0]) == 0
    with pytest.raises(InvalidInputError):
        truth.harmonic_mean([-1.0])


def test_forget_quality_of_two_against_two():
    # {1, 2} against {3, 4}: D = 1. Of the 6 orders of two and two, the 2 extreme ones have D = 1: p = 1/3.
    found = truth.forget_quality(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert (found["statistic"], found["bound"]) == (1, 1) and found["value"] == pytest.approx(1 / 3)
    same = truth.forget_quality(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert (same["statistic"], same["value"]) == (0, 1)


def test_forty_items_show_little():
    # sqrt(ln 40 / 2) = 1.35810, times sqrt(80 / 1600) = .223607: .30368. ln 80 = 4.38203, / 80, root: .23404, twice
    assert equivalence.ks_critical(40, 40) == pytest.approx(0.30368, abs=2e-5)
    assert equivalence.ks_bound(0.0, 40, 40) == pytest.approx(0.46808, abs=2e-5)
    assert equivalence.ks_bound(0.9, 40, 40) == 1
    # 12 of 40 moved: D = .3 passes the ordinary test, and the true distance may be .768
    x, y = np.arange(40.0), np.where(np.arange(40) < 12, 100.0, np.arange(40.0))
    found = equivalence.compare_distributions(x, y)
    assert found.statistic == pytest.approx(0.3) and found.p_value > 0.05
    assert found.bound == pytest.approx(0.768, abs=1e-3)


def test_tost_paired():
    # differences 1, 2, 3: mean 2, sd 1, se 1/sqrt 3 = .57735, t(.95; 2) = 2.91999 -> margin 2 + 1.68585
    found = equivalence.tost([1, 2, 3], [0, 0, 0], 4.0)
    assert found.difference == 2 and found.margin == pytest.approx(3.68585, abs=1e-5)
    # (2 - 4) / .57735 = -3.46410 with 2 degrees of freedom: p = 1/2 - 3.4641 / (2 sqrt(2 + 12)) = .0370926
    assert found.p_value == pytest.approx(0.5 - math.sqrt(12) / (2 * math.sqrt(14)), abs=1e-9)
    assert equivalence.tost([1, 2, 3], [0, 0, 0], found.margin).p_value == pytest.approx(0.05)
    assert equivalence.tost([1, 1], [0, 0], 2.0) == (1, 0, 1) and equivalence.tost([1, 1], [0, 0], 0.5).p_value == 1


def test_tost_of_two_groups_is_welchs():
    # variances 1 and 4 of three each: se^2 = 1/3 + 4/3 = 5/3; df = (25/9) / (1/18 + 16/18) = 50/17
    error, freedom = equivalence._standard_error(np.array([1.0, 2, 3]), np.array([0.0, 2, 4]), False)
    assert error == pytest.approx(math.sqrt(5 / 3)) and freedom == pytest.approx(50 / 17)
    for bad in (([1, 2, 3], [1, 2], 1.0), ([1, 2], [1, 2], 0.0), ([1], [1], 1.0), ([1, math.nan], [1, 2], 1.0)):
        with pytest.raises(InvalidInputError):
            equivalence.tost(*bad)


def test_membership_scores():
    found = statistics()
    # mean loss in bits: (1 + 2 + 3) / 3, 2 / 2, 1
    assert membership.loss_scores(found) / math.log(2) == pytest.approx([2, 1, 1])
    other = statistics(log_prob=torch.tensor([0.5] * 9, dtype=torch.float64).log())
    assert membership.difficulty_scores(found, other) / math.log(2) == pytest.approx([1, 0, 0])
    # half of the tokens, at least one: the lowest 1 of 3 (3 bits), 1 of 2 (2 bits), 2 of 4
    assert membership.min_k_scores(found, share=0.5) / math.log(2) == pytest.approx([3, 2, 1])
    assert membership.min_k_scores(found, share=0.01) / math.log(2) == pytest.approx([3, 2, 1])
    assert membership.min_k_scores(found, share=1.0) / math.log(2) == pytest.approx([2, 1, 1])
    # (log p + 1) / 2 of the same tokens, negated
    ln2 = math.log(2)
    expected = [(3 * ln2 - 1) / 2, (2 * ln2 - 1) / 2, (ln2 - 1) / 2]
    assert membership.min_k_plus_plus_scores(found, share=0.5) == pytest.approx(expected)
    flat = statistics(expected=found.log_prob.clone(), spread=torch.zeros(9, dtype=torch.float64))
    assert membership.min_k_plus_plus_scores(flat).tolist() == [0, 0, 0]
    for share in (0.0, 1.5):
        with pytest.raises(InvalidInputError, match="share"):
            membership.min_k_scores(found, share=share)


def test_zlib_divides_by_the_compressed_size():
    # 2 bytes of header, 4 of checksum, and a block: 2 bytes where it is empty, one more for each of three literals;
    # a long run is a literal and a few matches
    run = len(zlib.compress(b"a" * 1000))
    assert run < 25
    found = membership.zlib_scores(statistics(), ["abc", "a" * 1000, ""])
    assert found == pytest.approx([2 * math.log(2) / 11, math.log(2) / run, math.log(2) / 8])


def test_privleak():
    # the retrained model's attack finds nothing (AUC .5); one that finds all is at -100, one turned round at +100
    assert membership.privleak(0.5, 0.5) == 0
    assert membership.privleak(1.0, 0.5) == -100 and membership.privleak(0.0, 0.5) == 100
    assert membership.privleak(0.7, 0.6) == pytest.approx(-25)  # (.3 - .4) / .4
    assert math.isnan(membership.privleak(0.5, 1.0))


def test_auc_of_scores_where_members_are_lower():
    assert auc([1, 3], [2, 4]) == 0.75  # 1 < 2, 1 < 4, 3 < 4 of four pairs


def test_calibration_error():
    # two bins: (0, .5] holds .5, .25, .5 with one right: |1 - 1.25|; (.5, 1] holds 1 and .75, both right: |2 - 1.75|
    confidence, correct = np.array([0.5, 0.25, 1.0, 0.75, 0.5]), np.array([True, False, True, True, False])
    sums = calibration.bin_sums(confidence, correct, np.array([0, 0, 1, 1, 1]), 2, bins=2)
    assert sums[0, 0].tolist() == [2, 0.75, 1] and sums[1, 0].tolist() == [1, 0.5, 0]
    assert calibration.calibration_error(sums) == pytest.approx((0.25 + 0.25) / 5)
    assert calibration.calibration_error(calibration.bin_sums(np.array([1.0]), np.array([True]), np.array([0]), 1)) == 0
    with pytest.raises(InvalidInputError, match="bins"):
        calibration.bin_sums(confidence, correct, np.array([0, 0, 1, 1, 1]), 2, bins=0)


def test_margins_are_means_of_log_odds():
    odds = torch.tensor([1.0, 2, 3, -1, 1, 4, 4, 4, 4], dtype=torch.float64)
    assert klom.sample_margins(statistics(log_odds=odds)) == pytest.approx([2, 0, 4])


def test_klom_gaussian():
    # retrained -1, 1 (mean 0, sd sqrt 2); unlearned 1, 5 (mean 3, sd sqrt 8):
    # log(sqrt 8 / sqrt 2) + (2 + 9) / 16 - 1/2 = log 2 + 3/16
    found = klom.klom([[-1.0], [1.0]], [[1.0], [5.0]])
    assert found == pytest.approx([math.log(2) + 3 / 16])
    assert klom.klom([[-1.0], [1.0]], [[-1.0], [1.0]]) == pytest.approx([0])
    # equal margins have the least spread, .01: (.1)^2 / (2 * .0001) = 50
    assert klom.klom([[0.0], [0.0]], [[0.1], [0.1]]) == pytest.approx([50])


def test_klom_histogram():
    # two of two models in the first bin and none in the last, against one and one: 1 * log(1 / .5), but for 1e-5 in the
    # empty bins
    found = klom.klom([[0.0], [0.0]], [[0.0], [1.0]], estimator="histogram")
    assert found == pytest.approx([math.log(2)], abs=1e-3)
    assert klom.klom([[3.0], [3.0]], [[3.0], [3.0]], estimator="histogram") == pytest.approx([0])
    many = np.zeros((20, 1))
    assert klom.klom(many, many + 1)[0] == pytest.approx(math.log(1e5), rel=1e-3)  # "auto": as wide apart as can be
    for bad in (([[1.0]], [[1.0]]), ([[1.0], [2.0]], [[1.0, 2], [3, 4]]), ([[math.nan], [1]], [[1.0], [2]])):
        with pytest.raises(InvalidInputError):
            klom.klom(*bad)
    with pytest.raises(InvalidInputError, match="estimator"):
        klom.klom([[1.0], [2]], [[1.0], [2]], estimator="exact")
