"""Second-order products of the output layer with cross-entropy, alone: 512 tokens, 512 -> 32000, float32.

    python -m bench.linear_cross_entropy        writes bench/results/cpu-linear-cross-entropy.json

Two cases. "weight": the product in the weight only, where the layer is linear in what varies, so Hessian and
Gauss-Newton agree. "weight and input": the input varies too, as inside a model, and the results are both parts.

Peers: PyTorch's double backward; hessian-eigenthings' operators as they come (its fused cross-entropy HVP,
torch.compile on the CPU, is in 1.0.0a6 and later); and that fused kernel with exact products of the layer around it,
which is the most that can be made of it by hand. Its own Gauss-Newton operator takes the directional derivative by
finite differences: where that misses the gate, its error is reported and no time.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fastunlearn.microbench.gemm_peak import gemm_peak
from fastunlearn.microbench.harness import Way, compare, peak_bytes, write_json
from fastunlearn.ops.linear_cross_entropy import ggn_product, hessian_product

GATE = 1e-5  # relative to float64
TOKENS, WIDTH, VOCABULARY = 512, 512, 32000
BASELINE = "hessian-eigenthings: fused kernel, exact products around it"
DOUBLE = "torch: double backward"
UNITS = {  # multiplications by the weight for all tokens: what the product needs at least
    "weight": 3, "weight and input": 8, "weight and input, Gauss-Newton": 5,
}  # fmt: skip


class Head(nn.Module):
    """Logits of a batch that is the input itself, or of an input that is a parameter."""

    def __init__(self, weight: Tensor, x: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.x = None if x is None else nn.Parameter(x.clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.x is None else self.x) @ self.weight.T


def problem(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """x, weight, their tangents, and labels shifted by one place as language models do (the last token has none)."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    scale = WIDTH**-0.5
    p = {"x": normal(TOKENS, WIDTH), "weight": normal(VOCABULARY, WIDTH) * scale}
    p |= {"xt": normal(1, TOKENS, WIDTH), "weight_t": normal(1, VOCABULARY, WIDTH) * scale}
    p = {name: value.to(dtype) for name, value in p.items()}
    ids = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    p["ids"], p["labels"] = ids, torch.cat([ids[1:], torch.tensor([-100])])
    p["token_weights"] = torch.full((TOKENS,), 1 / (TOKENS - 1), dtype=dtype)
    return p


def ours(product: Callable, p: dict[str, Tensor], inputs: bool, backend: str | None = None) -> Tensor:
    out = torch.zeros_like(p["weight_t"])
    layer = (p["x"], p["xt"] if inputs else None, p["weight"], p["weight_t"])
    found = product(*layer, p["labels"], p["token_weights"], inputs, out, backend=backend)
    return torch.cat([out.flatten(), found[-1].flatten()]) if inputs else out.flatten()


def _model(p: dict[str, Tensor], inputs: bool) -> tuple[Head, dict[str, Tensor], Tensor]:
    parts = [p["weight_t"].flatten(), *([p["xt"].flatten()] if inputs else [])]
    batch = {"x": p["x"][None], "labels": p["ids"][None]}
    return Head(p["weight"], p["x"][None] if inputs else None), batch, torch.cat(parts)


def double_backward(model: Head, batch: dict, vector: Tensor) -> Tensor:
    parameters = list(model.parameters())
    logits = model(batch["x"])[0, :-1]
    loss = nn.functional.cross_entropy(logits, batch["labels"][0, 1:])
    grads = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in grads])
    return torch.cat([h.flatten() for h in torch.autograd.grad(flat @ vector, parameters)])


def eigenthings_ways(model: Head, batch: dict, vector: Tensor, gauss_newton: bool) -> list[Way]:
    from hessian_eigenthings import GGNOperator, HessianOperator
    from hessian_eigenthings.loss_fns.huggingface import hf_lm_loss_of_output

    loss = hf_lm_loss_of_output()
    if not gauss_newton:
        whole = HessianOperator(model, [batch], lambda m, b: loss(m(b["x"]), b))
        return [Way("hessian-eigenthings: Hessian", functools.partial(whole.matvec, vector))]
    operator = GGNOperator(model, [batch], lambda m, b: m(b["x"]), loss)
    return [Way("hessian-eigenthings: Gauss-Newton", functools.partial(operator.matvec, vector))]


def by_hand(kernel: Callable, p: dict[str, Tensor], inputs: bool) -> Tensor:
    """J^T H_L J v with the peer's fused kernel for H_L and exact products for J."""
    x, weight, weight_t, xt = p["x"][:-1], p["weight"], p["weight_t"][0], p["xt"][0, :-1]
    z, zt = nn.functional.linear(x, weight), nn.functional.linear(x, weight_t)
    if inputs:
        zt += nn.functional.linear(xt, weight)
    h = kernel(z, zt, torch.ones(len(x)), torch.tensor(float(len(x))))
    product = h.T @ x
    if not inputs:
        return product.flatten()
    return torch.cat([product.flatten(), (h @ weight).flatten(), torch.zeros(WIDTH)])


def peer_version() -> str:
    """1.0.0a6 or later has the fused kernel; a source tree on the path may differ from the installed metadata."""
    found = importlib.util.find_spec("hessian_eigenthings.loss_fns._fused_ce_hvp")
    return "1.0.0a6 or later" if found else importlib.metadata.version("hessian-eigenthings")


def ways(case: dict, device: str = "cpu") -> list[Way]:
    torch.set_float32_matmul_precision(case["precision"])  # the peers' setting; our products do not ask it
    p, kind = problem(), case["kind"]
    inputs, gauss_newton = kind != "weight", kind != "weight and input"
    product = ggn_product if gauss_newton else hessian_product
    found = [Way("fastunlearn", functools.partial(ours, product, p, inputs))]
    model = _model(p, inputs)
    if kind != "weight and input, Gauss-Newton":
        found.append(Way(DOUBLE, functools.partial(double_backward, *model)))
        found += eigenthings_ways(*model, False)
    if gauss_newton:
        found += eigenthings_ways(*model, True)
        try:
            from hessian_eigenthings.loss_fns._fused_ce_hvp import compiled_ce_hvp
        except ImportError:
            print("hessian-eigenthings before 1.0.0a6 has no fused kernel: left out")
        else:
            found.append(Way(BASELINE, functools.partial(by_hand, compiled_ce_hvp, p, inputs)))
    return found


def truth(case: dict) -> Tensor:
    p, kind = problem(), case["kind"]
    p = {name: value.double() if value.is_floating_point() else value for name, value in p.items()}
    product = hessian_product if kind == "weight and input" else ggn_product
    return ours(product, p, kind != "weight", "reference")


def measure(case: dict, rounds: int, peak: float) -> dict:
    baseline = DOUBLE if case["kind"] == "weight and input" else BASELINE
    results = compare(ways(case), truth(case), GATE, baseline, rounds=rounds)
    for name, result in results.items():
        result["peak_bytes"] = peak_bytes("bench.linear_cross_entropy", case, name)
    own = results["fastunlearn"]
    rate = UNITS[case["kind"]] * 2 * TOKENS * WIDTH * VOCABULARY / own["seconds"] / 1e9
    own |= {"gflop_per_s": rate, "share_of_gemm_peak": rate / peak}
    return {"case": case, "baseline": baseline, "ways": results}


def report(done: dict) -> None:
    print(done["case"])
    for name, result in done["ways"].items():
        if "seconds" not in result:
            print(f"  {name:62} rejected: error {result['error']:.1e}")
            continue
        ratio, memory = result.get("times_faster_than_baseline", float("nan")), result["peak_bytes"] or 0
        rate = f"  {result['gflop_per_s']:.0f} GFLOP/s" if "gflop_per_s" in result else ""
        print(f"  {name:62} {result['seconds'] * 1e3:8.1f} ms {ratio:6.2f} x {memory / 2**20:7.0f} MiB "
              f" error {result['error']:.1e}{rate}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    options = parser.parse_args()
    peak, cases = gemm_peak(), []
    for precision in ("highest", "medium"):
        for kind in UNITS:
            cases.append(measure({"kind": kind, "precision": precision}, options.rounds, peak))
            report(cases[-1])
    settings = {"tokens": TOKENS, "width": WIDTH, "vocabulary": VOCABULARY, "dtype": "float32", "gate": GATE,
                "rounds": options.rounds, "gemm_peak_gflop_per_s": peak,
                "hessian_eigenthings": peer_version()}  # fmt: skip
    write_json(options.out / "cpu-linear-cross-entropy.json", "linear + cross-entropy", settings, cases)
    if any(case["ways"]["fastunlearn"]["gate"] != "passed" for case in cases):
        raise SystemExit("our result did not pass the gate: no time is reported for it")


if __name__ == "__main__":
    main()
