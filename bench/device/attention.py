"""Attention's dual forward and backward, causal, 32 heads over 8, beside the other ways to its tangents.

jvp_flash_attention tries some twenty tiles at each length, each of them compiled anew: it is left out of what comes
after PEER_SECONDS of that. It has no second reverse pass, so no Hessian product of a model can be had by it.

"one way": each of our ways to the backward (fastunlearn/ops/attention/_triton_ways.py), of which "dual backward" takes
the fastest.
"""

from __future__ import annotations

import functools
import importlib.util
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.device.choices import offered_ways, one_way
from bench.device.measure import Bench, error
from fastunlearn.ops.attention import AttentionSpec, dual_backward, dual_forward

#: Products of tiles that the two take: 2 and 5 of an ordinary attention, and 4 and 10 of its tangent.
FORWARD, BACKWARD = 6, 15
PEER_SECONDS = 240
ERRORS_UP_TO = 2048  # tokens: the reference in float64 has S x T arrays


def attention(bench: Bench) -> list[dict]:
    cases, spent = [], [0.0]
    heads, groups = (4, 2) if bench.toy else (32, 8)
    for length in (32,) if bench.toy else (2048, 4096, 8192, 16384):
        for head in (16,) if bench.toy else (64, 128):
            cases.append(_case(bench, heads, groups, head, length, spent))
    return cases


def _case(bench: Bench, heads: int, groups: int, head: int, length: int, spent: list[float]) -> dict:
    """``spent``: seconds that the peer has had so far."""
    shapes = ((1, heads, length, head), (1, groups, length, head), (1, groups, length, head))
    values = [bench.draw(*s) for s in shapes]
    tangents = [bench.draw(1, *s) for s in shapes]
    g, h = bench.draw(*shapes[0]), bench.draw(1, *shapes[0])
    spec = AttentionSpec(head**-0.5, causal=True)
    o, ot, stats = dual_forward(*values, *tangents, spec)
    forward = functools.partial(dual_forward, *values, *tangents, spec)
    backward = functools.partial(dual_backward, *values, *tangents, o, ot, stats, g, h, spec)
    plain = [t[0] for t in tangents]
    ways = {
        "dual forward": forward, "dual backward": backward, "torch: jvp, math": lambda: _jvp(values, plain),
        "torch: double backward, math": lambda: _twice(values, plain, g),
        "torch: gradient, its own choice": lambda: _gradient(values, g),
    }  # fmt: skip
    peer = importlib.util.find_spec("jvp_flash_attention") is not None and spent[0] < PEER_SECONDS
    if peer:  # it has no grouped heads: keys and values are repeated for it, outside of the clock
        many = [t.repeat_interleave(heads // t.shape[1], 1).contiguous() for t in (*values, *plain)]
        ways["jvp_flash_attention"] = lambda: flash_jvp(many, head**-0.5)
        ways["jvp_flash_attention, without TMA"] = lambda: flash_jvp(many, head**-0.5, tma=False)
    case = {"heads": heads, "groups": groups, "head": head, "length": length, "ways": {}}
    for name, run in ways.items():
        start = time.monotonic()
        case["ways"][name] = bench.measure(run)
        spent[0] += time.monotonic() - start if name.startswith("jvp_flash") else 0.0
    for name in offered_ways(backward)[: 1 if bench.toy else None] if bench.cuda else ():
        with one_way(name):
            case["ways"][f"one way: {name}"] = bench.measure(backward)
    pairs = 2 * heads * length * length / 2 * head  # operations of one product of tiles, half by causality
    bench.share_of_product_rate(case["ways"]["dual forward"], FORWARD * pairs)
    for name, way in case["ways"].items():
        if name == "dual backward" or name.startswith("one way"):
            bench.share_of_product_rate(way, BACKWARD * pairs)
    if length <= ERRORS_UP_TO:
        case["errors"] = _errors(values, tangents, g, spec, forward(), backward())
        if peer:
            case["errors"] |= _peer_errors(many, values, tangents, spec)
    return case


def _sdpa(*values):
    return torch.nn.functional.scaled_dot_product_attention(*values, is_causal=True, enable_gqa=True)


def _jvp(values, tangents):
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(_sdpa, tuple(values), tuple(tangents))


def _twice(values, tangents, up):
    leaves = [t.clone().requires_grad_() for t in values]
    with sdpa_kernel(SDPBackend.MATH):
        first = torch.autograd.grad(_sdpa(*leaves), leaves, up, create_graph=True)
        return torch.autograd.grad(first, leaves, tangents)


def _gradient(values, up):
    leaves = [t.clone().requires_grad_() for t in values]
    return torch.autograd.grad(_sdpa(*leaves), leaves, up)


def flash_jvp(many, scale: float, tma: bool = True):
    """Value and tangent by jvp_flash_attention, as its users call it. ``many``: q, k, v and their tangents."""
    import torch.autograd.forward_ad as forward_mode
    from jvp_flash_attention.jvp_attention import JVPAttn

    with forward_mode.dual_level():
        dual = [forward_mode.make_dual(*pair) for pair in zip(many[:3], many[3:], strict=True)]
        out = JVPAttn.fwd_dual(*dual, causal=True, sm_scale=scale, warp_specialize=tma, USE_TMA=tma)
        return tuple(forward_mode.unpack_dual(out))


def _errors(values, tangents, g, spec, forward, backward) -> dict:
    """Against the reference in float64; PyTorch's own first-order gradient beside it."""
    wide = [t.double() for t in (*values, *tangents, g)]
    o, ot, stats = dual_forward(*wide[:6], spec, backend="reference")
    truth = dual_backward(*wide[:6], o, ot, stats, wide[6], None, spec, backend="reference")
    plain = _gradient(values, g)
    return {
        "o": error(forward[0], o), "ot": error(forward[1], ot), "gq": error(backward[0], truth[0]),
        "torch gradient of q": error(plain[0], truth[0]), "torch gradient of k": error(plain[1], truth[1]),
    }  # fmt: skip


def _peer_errors(many, values, tangents, spec) -> dict:
    o, ot, _ = dual_forward(*(t.double() for t in (*values, *tangents)), spec, backend="reference")
    for tma in (True, False):
        try:
            got, got_t = flash_jvp(many, spec.scale, tma)
        except Exception:  # why is in its way's own row
            continue
        return {"jvp_flash_attention: o": error(got, o), "jvp_flash_attention: ot": error(got_t, ot[0])}
    return {}
