"""The C++ attention kernels at scores of 1e4, and checks that are shown to fail on broken kernels."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops._dispatch import why_not_live
from fastunlearn.ops.attention import AttentionSpec, cpu
from tests.ops.attention_cases import Case, check, check_case, make_case, run_dual
from tests.ops.thresholds import ATTENTION

CPU_REASON = why_not_live("cpu")
pytestmark = pytest.mark.skipif(bool(CPU_REASON), reason=f"cpu backend: {CPU_REASON}")


def _extreme(seed: int, exact: bool) -> Case:
    """Scores up to some 1e4. exact: of whole numbers, so that float32 holds every score without rounding."""
    case = make_case(2, 2, 1, 130, 200, 16, count=2, seed=seed, dtype=torch.float32, logits=1e4)
    if exact:
        case.q, case.k = (case.q / 5e3).round() * 2500, case.k.round()
    return case


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_extreme_scores(seed, exact):
    """Scores that float32 holds lose nothing. Others are rounded by epsilon |s|, which is a relative error of p."""
    case = _extreme(seed, exact)
    truth = run_dual(case.wide(), "reference")
    largest = case.spec.scale * (case.q.double() @ case.k.double().mT).abs().max().item()
    allowed = ATTENTION[torch.float32] + (0 if exact else 4 * torch.finfo(torch.float32).eps * largest)
    # Near-zero gradients are differences of numbers of the size scale (g . v), times k, or q, or 1.
    factor = {"q": case.k.abs().max().item(), "k": case.q.abs().max().item()}
    for name, value in run_dual(case, "cpu").items():
        size = max(truth[name].abs().max().item(), case.spec.scale * 4 * factor.get(name[1:], 1.0))
        assert (value.double() - truth[name]).abs().max().item() <= allowed * size, name


@pytest.mark.parametrize("seed", range(3))
def test_extreme_tangents_lose_nothing(seed):
    """Tangents of the scores as large as the scores (1e4): the running mean keeps their difference."""
    case = _extreme(seed, exact=True)
    got, truth = run_dual(case, "cpu"), run_dual(case.wide(), "reference")
    check({name: got[name] for name in ("o", "ot", "lse", "mean_t")}, truth, 1e-6)


# --- the checks can fail -----------------------------------------------------------------------------------

def _lost_tangent(case: Case) -> None:
    case.vt = None


def _shifted_causal(case: Case) -> None:
    case.spec = AttentionSpec(case.spec.scale, window=case.spec.window)


def _window_by_one(case: Case) -> None:
    case.spec = AttentionSpec(case.spec.scale, causal=True, window=case.spec.window + 1)


def _rounded_keys(case: Case) -> None:
    case.k = case.k.half().float()


def _swapped_heads(case: Case) -> None:
    case.k = case.k.flip(1)


@pytest.mark.parametrize("fault", [_lost_tangent, _shifted_causal, _window_by_one, _rounded_keys, _swapped_heads])
def test_negative_control(fault):
    """A kernel given one fault is caught by the same check, at the same threshold."""
    def make():
        return make_case(1, 4, 2, 130, 130, 24, causal=True, window=60, dtype=torch.float32)

    truth, broken = run_dual(make().wide(), "reference"), make()
    check(run_dual(make(), "cpu"), truth)
    fault(broken)
    with pytest.raises(AssertionError):
        check(run_dual(broken, "cpu"), truth)


def test_unwritten_output_is_caught(monkeypatch):
    """The poison works: a kernel that leaves an output alone fails the check."""
    kernel = cpu.extension("cpu").attention_backward

    def lazy(*arguments):
        *front, out, threads = arguments
        spare = torch.empty(10**6)
        kernel(*front, (*out[:5], spare.data_ptr()), threads)

    case = make_case(1, 2, 2, 30, 30, 16, dtype=torch.float32)
    module = type("Module", (), {"attention_forward": cpu.extension("cpu").attention_forward,
                                 "attention_backward": staticmethod(lazy)})  # fmt: skip
    monkeypatch.setattr(cpu, "extension", lambda _: module)
    fresh = cpu._Call.out
    monkeypatch.setattr(cpu._Call, "out", lambda call, *shape: fresh(call, *shape).fill_(torch.nan))
    with pytest.raises(AssertionError, match="hv"):
        check_case(case)
