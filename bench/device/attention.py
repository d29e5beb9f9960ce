"""Attention's dual forward and backward, causal, 32 heads over 8, beside the other ways to its tangents.

jvp_flash_attention tries some twenty tiles at each length, each of them compiled anew: it comes when all else was
measured, and not again after PEER_SECONDS of that. It has no second reverse pass, so no Hessian product of a model can
be had by it.

"one way": each of our ways to the backward (fastunlearn/ops/attention/_triton_ways.py), of which "dual backward" takes
the fastest.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.device.choices import offered_ways, one_way
from bench.device.measure import Bench, error
from fastunlearn.ops.attention import AttentionSpec, dual_backward, dual_forward

#: Products of tiles that the two take: 2 and 5 of an ordinary attention, and 4 and 10 of its tangent.
FORWARD, BACKWARD = 6, 15
LENGTHS, HEADS = (2048, 4096, 8192, 16384), (64, 128)
PEERS = {"jvp_flash_attention": True, "jvp_flash_attention, without TMA": False}
PEER_SECONDS = 60
ERRORS_UP_TO = 2048  # tokens: the reference in float64 has S x T arrays


def attention(bench: Bench) -> list:
    """All cases with ours and PyTorch's ways; then the peer in each of them, whose compiling takes minutes."""
    heads, groups = (4, 2) if bench.toy else (32, 8)
    shapes = ((32, 16),) if bench.toy else tuple(itertools.product(LENGTHS, HEADS))
    cases = [{"heads": heads, "groups": groups, "head": head, "length": n, "ways": {}} for n, head in shapes]
    found = [(case, functools.partial(_ours, bench)) for case in cases]
    if importlib.util.find_spec("jvp_flash_attention") is not None:
        left: list[float] = [PEER_SECONDS]
        found += [(case, functools.partial(_peer, bench, left)) for case in cases]
    return found


def _inputs(bench: Bench, case: dict):
    """Values, tangents, and the adjoints of both; the operation."""
    torch.manual_seed(0)
    heads, groups, head, length = (case[name] for name in ("heads", "groups", "head", "length"))
    shapes = ((1, heads, length, head), (1, groups, length, head), (1, groups, length, head))
    values = [bench.draw(*s) for s in shapes]
    tangents = [bench.draw(1, *s) for s in shapes]
    g, h = bench.draw(*shapes[0]), bench.draw(1, *shapes[0])
    return values, tangents, g, h, AttentionSpec(head**-0.5, causal=True)


def _ours(bench: Bench, case: dict) -> Iterator[None]:
    values, tangents, g, h, spec = _inputs(bench, case)
    plain = [t[0] for t in tangents]
    heads, head, length, ways = case["heads"], case["head"], case["length"], case["ways"]
    pairs = 2 * heads * length * length / 2 * head  # operations of one product of tiles, half by causality

    def measure(name: str, run: Callable[[], object], operations: float | None = None) -> None:
        ways[name] = bench.measure(run)
        if operations is not None:
            bench.share_of_product_rate(ways[name], operations)

    forward = functools.partial(dual_forward, *values, *tangents, spec)
    measure("dual forward", forward, FORWARD * pairs)
    yield
    o, ot, stats = forward()
    backward = functools.partial(dual_backward, *values, *tangents, o, ot, stats, g, h, spec)
    measure("dual backward", backward, BACKWARD * pairs)
    yield
    if length <= ERRORS_UP_TO:
        case["errors"] = _errors(values, tangents, g, spec, forward(), backward())
        yield
    for name, run in {
        "torch: jvp, math": lambda: _jvp(values, plain),
        "torch: double backward, math": lambda: _twice(values, plain, g),
        "torch: gradient, its own choice": lambda: _gradient(values, g),
    }.items():  # fmt: skip
        measure(name, run)
        yield
    for name in offered_ways(backward)[: 1 if bench.toy else None] if bench.cuda else ():
        with one_way(name):
            measure(f"one way: {name}", backward, BACKWARD * pairs)
        yield


def _peer(bench: Bench, left: list[float], case: dict) -> Iterator[None]:
    """``left``: seconds that it may still have."""
    many: list[torch.Tensor] = []
    inputs = functools.cache(functools.partial(_inputs, bench, case))

    def run(tma: bool):
        if not many:  # it has no grouped heads: keys and values are repeated for it, outside of the clock
            values, tangents = inputs()[:2]
            many.extend(t.repeat_interleave(case["heads"] // t.shape[1], 1).contiguous()
                        for t in (*values, *(t[0] for t in tangents)))  # fmt: skip
        return flash_jvp(many, case["head"] ** -0.5, tma)

    for name, tma in PEERS.items():
        if left[0] <= 0:
            return
        start = time.monotonic()
        case["ways"][name] = bench.measure(functools.partial(run, tma))
        left[0] -= time.monotonic() - start
        yield
    if "errors" in case and any("seconds" in case["ways"][name] for name in PEERS):
        values, tangents, _, _, spec = inputs()
        case["errors"] |= _peer_errors(many, values, tangents, spec)


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
