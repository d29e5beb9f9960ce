"""Attention's dual pass (dual forward and dual backward) against every exact way of eager PyTorch.

    python -m bench.attention                   all cases, into bench/results/cpu-attention.json
    python -m bench.attention --case NAME ...   these cases anew; the others of the file stay

All ways compute o, its tangent, and all six adjoints. GFLOP/s count the products named in the op's README over the
scores that count (half of them where causal), so work on masked scores is not counted. Gradient cases compare the
one-stream pair with PyTorch's own fused attention.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from fastunlearn.microbench.gemm_peak import gemm_peak
from fastunlearn.microbench.harness import Way, compare, peak_bytes, relative_error, write_json
from fastunlearn.ops.attention import AttentionSpec, backward, dual_backward, dual_forward, forward, reference

GATE = 1e-5  # relative to float64; the inputs are float32
RESULTS = Path(__file__).parent / "results" / "cpu-attention.json"
NAMES = ("o", "ot", "gq", "gk", "gv", "hq", "hk", "hv")
OURS = "fastunlearn"


def case_of(name: str, queries: int, size: int = 64, heads: int = 8, groups: int = 8, *, causal: bool = True,
            tangents: int = 1, eager: bool = True, dual: bool = True) -> dict:  # fmt: skip
    return {"name": name, "heads": heads, "groups": groups, "queries": queries, "size": size, "causal": causal,
            "tangents": tangents, "eager": eager, "dual": dual}  # fmt: skip


CASES = [
    case_of("2048 causal", 2048),
    case_of("2048 full", 2048, causal=False),
    case_of("512 causal", 512),
    case_of("2048 causal, size 128, 2 key heads", 2048, 128, groups=2),
    case_of("2048 causal, 4 tangents", 2048, tangents=4, eager=False),
    case_of("4096 causal", 4096, eager=False),
    case_of("gradient, 2048 causal", 2048, dual=False),
    case_of("gradient, 512 causal", 512, dual=False),
]


class Inputs:
    """Normal numbers, laid out in memory as (B, S, H, D), as models have them."""

    def __init__(self, case: dict, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)

        def draw(*shape):
            x = torch.randn(shape, generator=generator).transpose(-2, -3).contiguous().transpose(-2, -3)
            return x.to(dtype)

        query = (1, case["heads"], case["queries"], case["size"])
        key = (1, case["groups"], case["queries"], case["size"])
        k = case["tangents"]
        self.primal = draw(*query), draw(*key), draw(*key)
        self.tangents = draw(k, *query), draw(k, *key), draw(k, *key)
        self.g, self.h = draw(*query), draw(k, *query)
        self.spec = AttentionSpec(case["size"] ** -0.5, causal=case["causal"])
        length = case["queries"]
        blocked = torch.full((length, length), -torch.inf if case["causal"] and case["eager"] else 0.0, dtype=dtype)
        self.mask = torch.triu(blocked, 1) if case["eager"] and case["dual"] else None


def ours(x: Inputs, backend: str | None = "cpu"):
    o, ot, stats = dual_forward(*x.primal, *x.tangents, x.spec, backend=backend)
    found = dual_backward(*x.primal, *x.tangents, o, ot, stats, x.g, x.h, x.spec, backend=backend)
    return (o, ot, *found)


def eager_attention(q, k, v, x: Inputs):
    heads = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(heads, 1), v.repeat_interleave(heads, 1)
    scores = q @ k.mT * x.spec.scale
    return torch.softmax(scores + x.mask if x.spec.causal else scores, -1) @ v


def double_backward(x: Inputs):
    primal = [p.detach().requires_grad_() for p in x.primal]
    g = x.g.detach().requires_grad_()
    o = eager_attention(*primal, x)
    found = torch.autograd.grad(o, primal, g, create_graph=True)
    pairs = zip((*found, o), (*(t[0] for t in x.tangents), x.h[0]), strict=True)
    *h, ot = torch.autograd.grad(sum((a * b).sum() for a, b in pairs), (*primal, g))
    return (o, ot[None], *found, *(y[None] for y in h))


def jvp_of_vjp(x: Inputs):
    def both(q, k, v, g):
        o, pull = torch.func.vjp(lambda *p: eager_attention(*p, x), q, k, v)
        return (o, *pull(g))

    values, tangents = torch.func.jvp(both, (*x.primal, x.g), (*(t[0] for t in x.tangents), x.h[0]))
    return (values[0], tangents[0][None], *values[1:], *(t[None] for t in tangents[1:]))


def vjp_of_jvp(x: Inputs):
    def both(q, k, v, qt, kt, vt):
        return torch.func.jvp(lambda *p: eager_attention(*p, x), (q, k, v), (qt, kt, vt))

    (o, ot), pull = torch.func.vjp(both, *x.primal, *(t[0] for t in x.tangents))
    found = pull((x.h[0], x.g))
    return (o, ot[None], *found[3:], *(h[None] for h in found[:3]))


def formulas(x: Inputs):
    return ours(x, "reference")


def our_gradient(x: Inputs):
    o, stats = forward(*x.primal, x.spec, backend="cpu")
    return (o, *backward(*x.primal, o, stats, x.h, x.spec, backend="cpu"))


def sdpa_gradient(x: Inputs):
    primal = [p.detach().requires_grad_() for p in x.primal]
    o = F.scaled_dot_product_attention(*primal, is_causal=x.spec.causal, scale=x.spec.scale)
    return (o, *(h[None] for h in torch.autograd.grad(o, primal, x.h[0])))


EAGER = {"torch: double backward": double_backward, "torch: jvp of vjp": jvp_of_vjp, "torch: vjp of jvp": vjp_of_jvp,
         "torch: our formulas, unfused": formulas}  # fmt: skip
SDPA = "torch: fused SDPA and its backward"


def functions(case: dict) -> dict:
    if not case["dual"]:
        return {OURS: our_gradient, SDPA: sdpa_gradient}
    return {OURS: ours} | (EAGER if case["eager"] else {})


def ways(case: dict, device: str) -> list[Way]:
    x = Inputs(case)
    adjoint_of_q = 1 if not case["dual"] else 5  # the last to be ready in every way
    return [Way(name, lambda run=run: run(x)[adjoint_of_q], ours=name == OURS) for name, run in functions(case).items()]


def products(case: dict) -> int:
    """Multiply-add pairs x 2 of the dual pass, or of the gradient, over scores that count."""
    k = case["tangents"]
    count = (2 + 4 * k) + (5 + 10 * k) if case["dual"] else 2 + 5
    pairs = case["queries"] ** 2 * (0.5 if case["causal"] else 1)
    return int(count * 2 * case["heads"] * case["size"] * pairs)


def truth_of(case: dict) -> tuple:
    """By the reference in float64, head by head where all heads at once do not fit."""
    x = Inputs(case, torch.float64)
    per_group = case["heads"] // case["groups"]
    parts = []
    for group in range(case["groups"]):
        heads = slice(group * per_group, (group + 1) * per_group)
        cut = Inputs.__new__(Inputs)
        cut.spec = x.spec
        take = [heads, slice(group, group + 1), slice(group, group + 1)]
        cut.primal = tuple(p[:, s] for p, s in zip(x.primal, take, strict=True))
        cut.tangents = tuple(t[:, :, s] for t, s in zip(x.tangents, take, strict=True))
        cut.g, cut.h = x.g[:, heads], x.h[:, :, heads]
        if case["dual"]:
            parts.append(formulas(cut))
        else:
            o, _ = reference.forward(*cut.primal, cut.spec)
            parts.append((o, *reference.backward(*cut.primal, cut.h, cut.spec)))
    return tuple(torch.cat(group, -3) for group in zip(*parts, strict=True))


def measure(case: dict, rounds: int) -> dict:
    found = functions(case)
    truth = truth_of(case)
    names = NAMES if case["dual"] else ("o", "hq", "hk", "hv")
    x = Inputs(case)
    errors = {name: relative_error(a, b) for name, a, b in zip(names, found[OURS](x), truth, strict=True)}
    if max(errors.values()) > GATE:
        raise SystemExit(f"fastunlearn does not pass the gate: {errors}")
    baseline = next((name for name in found if name != OURS), OURS)
    results = compare(ways(case, "cpu"), truth[names.index("hq")], GATE, baseline, rounds=rounds)
    for name, result in results.items():
        result["peak_bytes"] = peak_bytes("bench.attention", case, name)
    peak = gemm_peak()
    rate = products(case) / results[OURS]["seconds"] / 1e9
    record = {"case": case, "ways": results, "errors": errors, "gflops": rate, "gemm_peak_gflops": peak,
              "share_of_gemm_peak": rate / peak}  # fmt: skip
    others = {name: r["seconds"] for name, r in results.items() if name != OURS and "seconds" in r}
    if others:
        fastest = min(others, key=others.get)
        record |= {"fastest_other": fastest, "times_faster_than_it": others[fastest] / results[OURS]["seconds"]}
    return record


def report(done: dict) -> None:
    print(f"{done['case']['name']}: {done['gflops']:.0f} GFLOP/s, {done['share_of_gemm_peak']:.0%} of the GEMM peak; "
          f"{done.get('times_faster_than_it', float('nan')):.2f} x the fastest other")  # fmt: skip
    for name, result in done["ways"].items():
        seconds = f"{result['seconds'] * 1e3:9.1f} ms" if "seconds" in result else result["gate"]
        memory = "-" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 2**20:8.1f} MiB"
        print(f"  {name:36} {seconds}  {memory}  error {result.get('error', float('nan')):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="*", choices=[case["name"] for case in CASES], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    kept = {}
    if options.case and RESULTS.exists():
        kept = {c["case"]["name"]: c for c in json.loads(RESULTS.read_text(encoding="utf-8"))["cases"]}
    for case in CASES:
        if not options.case or case["name"] in options.case:
            kept[case["name"]] = measure(case, options.rounds)
            report(kept[case["name"]])
    ordered = [kept[case["name"]] for case in CASES if case["name"] in kept]
    settings = {"dtype": "float32", "rounds": options.rounds, "gate": GATE}
    write_json(RESULTS, "attention's dual pass", settings, ordered)


if __name__ == "__main__":
    main()
