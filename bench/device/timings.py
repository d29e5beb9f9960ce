"""Times of the GPU kernels beside what else computes the same: what ``bench/device.sh time`` runs.

    python -m bench.device.timings --out FOLDER [--only attention|cross-entropy|ghost-gram|explicit-rows|hvp]
    python -m bench.device.timings --out FOLDER --device cpu --toy     a dry run on tiny shapes; its times mean nothing

Writes device-<subject>.json. Medians of CUDA events after warm-up; peak memory is the allocator's, above what was there
before. A way that runs out of memory or raises is recorded with its message. Rates are shares of what a plain matrix
product (or copy) reached in the same run, not of a data sheet. Whether results are right is ``bench.device.check``'s
to say; here errors stand beside PyTorch's own where the whole S x T arrays fit.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fastunlearn.microbench.harness import write_json
from fastunlearn.ops import explicit_rows
from fastunlearn.ops.attention import AttentionSpec, dual_backward, dual_forward
from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.linear_cross_entropy import hessian_product

HALF = torch.bfloat16


class Bench:
    """Where and how large: the device, toy shapes or real ones, rounds."""

    def __init__(self, device: str, toy: bool, rounds: int):
        self.device, self.toy, self.rounds = device, toy, 1 if toy else rounds
        self.cuda = device == "cuda"

    def draw(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = HALF) -> torch.Tensor:
        return (scale * torch.randn(shape, device=self.device)).to(dtype)

    def measure(self, run: Callable[[], object]) -> dict:
        """Seconds (median, least) and peak bytes of ``run``, or why it did not run."""
        try:
            for _ in range(1 if self.toy else 3):
                run()
            gc.collect()
            before = self._start_memory()
            run()
            peak = torch.cuda.max_memory_allocated() - before if self.cuda else None
            times = [self._once(run) for _ in range(self.rounds)]
        except (RuntimeError, NotImplementedError) as error:  # out of memory is a RuntimeError too
            if self.cuda:
                torch.cuda.empty_cache()
            return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        return {"seconds": statistics.median(times), "seconds_least": min(times), "peak_bytes": peak}

    def _start_memory(self) -> int:
        if not self.cuda:
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def _once(self, run: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    @functools.cached_property
    def product_rate(self) -> float:
        """Operations per second of a square bfloat16 product."""
        size = 64 if self.toy else 8192
        a, b = self.draw(size, size), self.draw(size, size)
        return 2 * size**3 / self.measure(lambda: a @ b)["seconds"]

    @functools.cached_property
    def copy_rate(self) -> float:
        """Bytes per second, read and written, of a copy."""
        a = torch.empty(1000 if self.toy else 2**31, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        return 2 * a.numel() / self.measure(lambda: b.copy_(a))["seconds"]


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    return ((got.double() - truth.double()).abs().max() / truth.double().abs().max()).item()


def attention(bench: Bench) -> list[dict]:
    """Dual forward and backward, causal, 32 heads over 8, against jvp and double backward of the math SDPA."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cases = []
    heads, groups = (4, 2) if bench.toy else (32, 8)
    for head in (16,) if bench.toy else (64, 128):
        for length in (32,) if bench.toy else (2048, 4096, 8192, 16384):
            shapes = ((1, heads, length, head), (1, groups, length, head), (1, groups, length, head))
            q, k, v = (bench.draw(*s) for s in shapes)
            qt, kt, vt = (bench.draw(1, *s) for s in shapes)
            g, h = bench.draw(*shapes[0]), bench.draw(1, *shapes[0])
            spec = AttentionSpec(head**-0.5, causal=True)
            o, ot, stats = dual_forward(q, k, v, qt, kt, vt, spec)

            def sdpa(*values):
                return torch.nn.functional.scaled_dot_product_attention(*values, is_causal=True, enable_gqa=True)

            def jvp(values=(q, k, v), tangents=(qt[0], kt[0], vt[0]), sdpa=sdpa):
                with sdpa_kernel(SDPBackend.MATH):
                    return torch.func.jvp(sdpa, values, tangents)

            def twice(values=(q, k, v), tangents=(qt[0], kt[0], vt[0]), up=g, sdpa=sdpa):
                leaves = [t.clone().requires_grad_() for t in values]
                with sdpa_kernel(SDPBackend.MATH):
                    first = torch.autograd.grad(sdpa(*leaves), leaves, up, create_graph=True)
                    return torch.autograd.grad(first, leaves, tangents)

            def first_order(values=(q, k, v), up=g, sdpa=sdpa):
                leaves = [t.clone().requires_grad_() for t in values]
                return torch.autograd.grad(sdpa(*leaves), leaves, up)

            ours = functools.partial(dual_forward, q, k, v, qt, kt, vt, spec)
            back = functools.partial(dual_backward, q, k, v, qt, kt, vt, o, ot, stats, g, h, spec)
            ways = {"dual forward": ours, "dual backward": back, "torch: jvp, math": jvp,
                    "torch: double backward, math": twice, "torch: gradient, its own choice": first_order}  # fmt: skip
            case = {"heads": heads, "groups": groups, "head": head, "length": length,
                    "ways": {name: bench.measure(run) for name, run in ways.items()}}  # fmt: skip
            pairs = 2 * heads * length * length / 2 * head  # operations of one product of tiles, half by causality
            for name, count in (("dual forward", 6), ("dual backward", 15)):
                seconds = case["ways"][name].get("seconds")
                if seconds:
                    case["ways"][name]["share_of_product_rate"] = count * pairs / seconds / bench.product_rate
            if length <= 2048:
                case["errors"] = _attention_errors(q, k, v, qt, kt, vt, g, spec, ours, back, first_order)
            cases.append(case)
    return cases


def _attention_errors(q, k, v, qt, kt, vt, g, spec, ours, back, first_order) -> dict:
    """Against the reference in float64, two key heads at most; PyTorch's own first-order gradient beside it."""
    wide = [t.double() for t in (q, k, v, qt, kt, vt, g)]
    o, ot, stats = dual_forward(*wide[:6], spec, backend="reference")
    truth = dual_backward(*wide[:6], o, ot, stats, wide[6], None, spec, backend="reference")
    got_o, got_ot, _ = ours()
    plain = first_order()
    return {
        "o": error(got_o, o), "ot": error(got_ot, ot), "gq": error(back()[0], truth[0]),
        "torch gradient of q": error(plain[0], truth[0]), "torch gradient of k": error(plain[1], truth[1]),
    }  # fmt: skip


def cross_entropy(bench: Bench) -> list[dict]:
    """Hessian product of the output layer, 4096 tokens x 4096 -> 128256, against double backward on whole logits."""
    n, width, vocabulary = (16, 8, 50) if bench.toy else (4096, 4096, 128256)
    x, weight = bench.draw(n, width), bench.draw(vocabulary, width, scale=width**-0.5)
    xt, weight_t = bench.draw(1, n, width), bench.draw(1, vocabulary, width, scale=width**-0.5)
    labels = torch.randint(vocabulary, (n,), device=bench.device)
    weights = torch.full((n,), 1.0 / n, device=bench.device)
    out = torch.zeros(1, vocabulary, width, device=bench.device)

    def twice():
        leaves = [t.detach().requires_grad_() for t in (x, weight)]
        loss = torch.nn.functional.cross_entropy((leaves[0] @ leaves[1].T).float(), labels)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(first, leaves, (xt[0], weight_t[0]))

    ours = functools.partial(hessian_product, x, xt, weight, weight_t, labels, weights, True, out)
    ways = {"fastunlearn": bench.measure(ours), "torch: double backward, whole logits": bench.measure(twice)}
    seconds = ways["fastunlearn"].get("seconds")
    if seconds:
        ways["fastunlearn"]["share_of_product_rate"] = 8 * 2 * n * width * vocabulary / seconds / bench.product_rate
    case = {"tokens": n, "width": width, "vocabulary": vocabulary, "ways": ways}
    if "seconds" in ways["torch: double backward, whole logits"]:
        case["difference_of_hx"] = error(ours()[3][0], twice()[0])
    return [case]


def gram(bench: Bench) -> list[dict]:
    """Ghost Gram of 32768 tokens, 4096 -> 4096, as a share of the plain product's rate (half by symmetry)."""
    tokens, width = (96, 16) if bench.toy else (32768, 4096)
    cases = []
    for length in (8,) if bench.toy else (1, 32, 256):
        x, g = bench.draw(tokens, width), bench.draw(tokens, width)
        offsets = torch.arange(0, tokens + 1, length)
        kernels = {"CUDA": "cuda", "Triton": "triton"} if x.is_cuda else {"reference": "reference"}
        ways = {}
        for name, backend in kernels.items():
            result = bench.measure(functools.partial(ghost_gram, x, g, offsets, backend=backend))
            if "seconds" in result:
                work = 2 * tokens * tokens / 2 * 2 * width
                result["share_of_product_rate"] = work / result["seconds"] / bench.product_rate
            ways[f"fastunlearn: {name}"] = result
        cases.append({"tokens": tokens, "length": length, "width": width, "ways": ways})
    return cases


def rows(bench: Bench) -> list[dict]:
    """G v and G^T c, as a share of the rate of a copy; float32, bfloat16, int8."""
    m, width = (4, 1000) if bench.toy else (256, 16 * 2**20)
    cases = []
    for dtype in (torch.float32, HALF, torch.int8):
        scales = None
        if dtype == torch.int8:
            matrix = torch.randint(-127, 128, (m, width), dtype=dtype, device=bench.device)
            scales = torch.rand(m, -(-width // 128), device=bench.device)
        else:
            matrix = bench.draw(m, width, dtype=dtype)
        v, c = bench.draw(width, dtype=torch.float32), bench.draw(m, dtype=torch.float32)
        out = torch.zeros(width, device=bench.device)
        ways = {
            "G v": bench.measure(functools.partial(explicit_rows.matvec, matrix, v, scales)),
            "G^T c": bench.measure(functools.partial(explicit_rows.rmatvec, matrix, c, scales, out=out)),
        }
        for result in ways.values():
            if "seconds" in result:
                moved = matrix.numel() * matrix.element_size()
                result["share_of_copy_rate"] = moved / result["seconds"] / bench.copy_rate
        cases.append({"m": m, "columns": width, "dtype": str(dtype)[6:], "ways": ways})
        del matrix
    return cases


def hvp(bench: Bench) -> list[dict]:
    from bench.device.whole_model import hvp as whole

    return whole(bench)


SUBJECTS = {
    "attention": attention, "cross-entropy": cross_entropy, "ghost-gram": gram, "explicit-rows": rows, "hvp": hvp,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=SUBJECTS, action="append")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    bench = Bench(options.device, options.toy, options.rounds)
    torch.manual_seed(0)
    for subject in options.only or SUBJECTS:
        cases = SUBJECTS[subject](bench)
        settings = {"dtype": "bfloat16", "rounds": bench.rounds, "toy": options.toy,
                    "product_operations_per_second": bench.product_rate}  # fmt: skip
        write_json(options.out / f"device-{subject}.json", subject, settings, cases, options.device)
        for case in cases:
            print({k: v for k, v in case.items() if k != "ways"})
            for name, result in case["ways"].items():
                shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in result.items()}
                print("   ", name, shown, flush=True)


if __name__ == "__main__":
    main()
