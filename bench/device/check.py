"""Every GPU kernel in every dtype against float64: what ``bench/device.sh check`` runs. Needs no test packages.

    python -m bench.device.check --out FOLDER                  on a GPU: backends triton and cuda
    python -m bench.device.check --out FOLDER --device cpu     a dry run of this script on the reference

Writes check.json: one row per case and result, with its error relative to the largest element of the truth, and the
limit. Exits non-zero where a limit is passed, or where the comparison itself does not see a wrong result.

Most of the time goes into compiling kernels: ``--processes 12`` shares the cases out (0: one in this process). Nothing
is timed: each candidate of the kernels with products is checked in its turn, of the others the first.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

if importlib.util.find_spec("pytest") is None:  # the files of cases use it to mark tests, which do not run here
    sys.modules["pytest"] = mock.MagicMock()

from bench.device.choices import attention_choices, choices, forced
from bench.device.record import DTYPES, Record, relative
from bench.device.runtime import check_runtime
from fastunlearn.microbench.harness import write_json
from fastunlearn.ops import activation, gated_mlp, linear, linear_cross_entropy, norm, rope
from fastunlearn.ops.ghost_gram import ghost_gram
from tests.ops import sample_space_cases
from tests.ops.attention_cases import make_case, run_dual, run_single
from tests.ops.dual_cases import draw
from tests.ops.gram_cases import dense_gram, make_tokens
from tests.ops.linear_cases import head_case


def moved(value, device: str):
    return value.to(device) if isinstance(value, torch.Tensor) else value


def wide(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def check_attention(record: Record, device: str, backend: str, toy: bool) -> None:
    length = 24 if toy else 301
    mask = torch.rand(length, length, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[5] = False
    variants = {
        "causal": {"causal": True}, "plain, shared heads": {"heads": 8, "groups": 2, "count": 2},
        "window, softcap": {"causal": True, "window": length // 3, "softcap": 20.0, "logits": 2.0},
        "bool mask, alibi": {"mask": mask, "alibi": torch.tensor([0.1, 0.2])}, "float mask": {"mask": torch.where(
            mask, 0.0, -3.0).double()},
    }  # fmt: skip
    sizes = (16,) if toy else (64, 80, 128, 256)
    chosen = [(size, dtype, *choice) for size, dtype in itertools.product(sizes, DTYPES)
              for choice in attention_choices(backend, dtype, size)]  # fmt: skip
    for (size, dtype, way, number), (name, spec) in itertools.product(chosen, variants.items()):
        if size not in (16, 64) and name not in ("causal", "window, softcap"):
            continue
        if toy and way not in ("", "apart") and name != "causal":  # the interpreter's tests have the others
            continue
        if not record.takes():
            continue
        case = make_case(queries=length, keys=length, size=size, dtype=dtype, transposed=True, **spec)
        there = case.map(lambda x: x.to(device))
        if there.spec.mask is not None and there.spec.mask.dtype == torch.bool:
            object.__setattr__(there.spec, "mask", there.spec.mask.to(device))
        for kind, run in (("dual", run_dual), ("single", run_single)):
            truth = run(case.wide(), "reference")
            with forced(number, backend, way):
                got = run(there, backend)
            names = list(got)
            title = f"attention {kind}, head {size}, {name}, {way} candidate {number}"
            record.compare(title, dtype, got.values(), [truth[n] for n in names], names)


def check_pointwise(record: Record, device: str, backend: str, toy: bool) -> None:
    rows, width, k = (5, 33, 2) if toy else (301, 4097, 2)
    for dtype in DTYPES:
        def make(*shapes, dtype=dtype):
            return [draw(shape, dtype, seed) for seed, shape in enumerate(shapes)]

        def both(case, names, function, *values, dtype=dtype):
            if not record.takes():
                return
            truth = function(*map(wide, values), backend="reference")
            got = function(*(moved(v, device) for v in values), backend=backend)
            alone = isinstance(got, torch.Tensor)
            record.compare(case, dtype, [got] if alone else got, [truth] if alone else truth, names)

        x, xt, w, wt, b, bt, g, h = make((rows, width), (k, rows, width), (width,), (k, width), (width,), (k, width),
                                         (rows, width), (k, rows, width))  # fmt: skip
        both("rms norm", ("y", "yt"), norm.rms_norm_dual_forward, x, xt, w, wt, 1e-6)
        both("rms norm", ("gx", "hx", "weight_h"), norm.rms_norm_dual_backward, x, xt, w, wt, g, h, 1e-6)
        both("layer norm", ("y", "yt"), norm.layer_norm_dual_forward, x, xt, w, wt, b, bt, 1e-5)
        names = ("gx", "hx", "weight_h", "bias_h")
        both("layer norm", names, norm.layer_norm_dual_backward, x, xt, w, wt, g, h, 1e-5)
        up, up_t = draw((rows, width), dtype, 20), draw((k, rows, width), dtype, 21)
        for kind in activation.KINDS:
            both(f"{kind}", ("y", "yt"), activation.dual_forward, x, xt, kind)
            both(f"{kind}", ("gx", "hx"), activation.dual_backward, x, xt, g, h, kind)
            both(f"gated {kind}", ("y", "yt"), gated_mlp.dual_forward, x, up, xt, up_t, kind)
            names = ("g_gate", "g_up", "h_gate", "h_up")
            both(f"gated {kind}", names, gated_mlp.dual_backward, x, up, xt, up_t, g, h, kind)
        heads = draw((2, 4, 63, 64), dtype, 30)
        table = draw((63, 48), torch.float32, 31), draw((63, 48), torch.float32, 32)
        for interleaved, inverse in itertools.product((False, True), repeat=2):
            both("rotary", ("y",), rope.apply, heads, *table, interleaved, inverse)


def check_linear(record: Record, device: str, backend: str, toy: bool) -> None:
    sizes = (9, 17, 63) if toy else (301, 513, 5003)
    extras, numbers = ({}, {"bias": True, "softcap": 20.0, "logit_scale": 0.5}), choices("products", backend)
    for dtype, extra, number in itertools.product(DTYPES, extras, numbers):
        if not record.takes():
            continue
        case = head_case(*sizes, 2, dtype=dtype, **extra)
        full = case.to(torch.float64)
        for name, count in (("hessian_product", 4), ("ggn_product", 3)):
            results = []
            for one, where, which in ((full, "cpu", "reference"), (case, device, backend)):
                tensors = [moved(t, where) for t in (*one.tangents(), one.token_weights)]
                layer = {n: moved(v, where) for n, v in {**one.layer(), "bias_t": one.bias_t}.items()}
                sums = torch.float64 if one is full else torch.float32
                weight = torch.zeros(2, *one.weight.shape, dtype=sums, device=where)
                with forced(number, which):
                    found = getattr(linear_cross_entropy, name)(*tensors, True, weight, None, **layer, backend=which)
                results.append((*found, weight))
            names = ("nll", "nll_t", "gx", "hx", "weight_out")
            names = names if count == 4 else ("nll", "nll_t", "hx", "weight_out")
            title = f"cross-entropy {name}{', capped' if extra else ''}, candidate {number}"
            record.compare(title, dtype, results[1], results[0], names)
    n, width, height = sizes
    for dtype, number in itertools.product(DTYPES, numbers):
        if not record.takes():
            continue
        shapes = {"x": (n, width), "xt": (2, n, width), "g": (n, height), "h": (2, n, height)}
        x, xt, g, h = (draw(s, dtype, seed) for seed, s in enumerate(shapes.values()))
        truth = linear.weight_product(*map(wide, (x, xt, g, h)), torch.zeros(2, height, width, dtype=torch.float64))
        out = torch.zeros(2, height, width, device=device)
        with forced(number, backend):
            got = linear.weight_product(*(moved(t, device) for t in (x, xt, g, h)), out, backend=backend)
        record.compare(f"weight product, candidate {number}", dtype, [got], [truth], ["out"])


def check_sample_space(record: Record, device: str, backend: str, toy: bool) -> None:
    lengths = [3, 1, 0, 20] if toy else [63, 1, 0, 127, 210, 5, 300]
    for dtype in (*DTYPES, torch.float64):
        tokens = make_tokens(lengths, 65, 130, dtype)
        for one in (backend, "triton") if device == "cuda" and dtype in DTYPES else (backend,):
            for number in choices("gram", one):
                if not record.takes():
                    continue
                with forced(number, one):
                    got = ghost_gram(tokens.x.to(device), tokens.g.to(device), tokens.offsets, bias=True, backend=one)
                title, truth = f"ghost gram, {one}, candidate {number}", dense_gram(tokens, bias=True)
                record.compare(title, dtype, [got], [truth], ["K"], 1e-5)
    cases: list[tuple[str, Callable[[], None]]] = []
    for size, dtype, strided in itertools.product(
        sample_space_cases.ROWS, (torch.float32, torch.bfloat16, torch.int8), (False, True)
    ):
        arguments = (dtype, size, strided, backend, device)
        cases.append((f"explicit rows {size} {dtype}", lambda a=arguments: sample_space_cases.check_explicit_rows(*a)))
    for size, dtype in itertools.product(sample_space_cases.BLOCKS, (torch.float32, torch.bfloat16, torch.int8)):
        arguments = (dtype, size, backend, device)
        run = sample_space_cases.check_low_rank_apply
        cases.append((f"low-rank apply {size} {dtype}", lambda a=arguments, run=run: run(*a)))
    for size, dtype, weighted in itertools.product(sample_space_cases.GRADIENTS, DTYPES, (True, False)):
        arguments = (dtype, size, weighted, True, backend, device)
        run = sample_space_cases.check_weighted_gradient
        cases.append((f"weighted gradient {size} {dtype}", lambda a=arguments, run=run: run(*a)))
    for size, dtype in itertools.product(sample_space_cases.SYSTEMS, (torch.float32, torch.float64)):
        arguments = (dtype, size, backend, device)
        run = sample_space_cases.check_small_cholesky
        cases.append((f"small Cholesky {size} {dtype}", lambda a=arguments, run=run: run(*a)))
    for name, run in cases:
        if not record.takes():
            continue
        try:
            run()
            passed = True
        except AssertionError:
            passed = False
        record.rows.append({"case": name, "passed": passed})


CHECKS = (check_attention, check_pointwise, check_linear, check_sample_space, check_runtime)


def check_all(record: Record, device: str, toy: bool) -> None:
    kernels, rows = backends(device)
    for check in CHECKS:
        before = len(record.rows)
        check(record, device, rows if check is check_sample_space else kernels, toy)
        bad = [row for row in record.rows[before:] if not row["passed"]]
        print(f"{check.__name__}: {len(record.rows) - before} results, {len(bad)} beyond their limits", flush=True)


def backends(device: str) -> tuple[str, str]:
    """Of the kernels of the dual pass, and of those of the sample space."""
    return ("triton", "cuda") if device == "cuda" else ("reference", "reference")


def check_in_processes(record: Record, options: argparse.Namespace) -> None:
    """The same, a share of the cases in each of several processes; all rows end up in ``record``."""
    running = []
    for number in range(options.processes):
        out = options.out / f"check-{number}"
        (out / "check.json").unlink(missing_ok=True)  # of a run that was stopped
        command = [sys.executable, "-m", "bench.device.check", "--device", options.device, "--out", str(out),
                   "--share", str(number), str(options.processes), *(["--toy"] if options.toy else [])]  # fmt: skip
        running.append((out, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
    for out, process in running:
        words, _ = process.communicate()
        path = out / "check.json"
        if not path.exists():  # it did not get to its end
            print(words[-4000:])
            record.rows.append({"case": f"process {out.name}", "passed": False})
            continue
        record.rows += json.loads(path.read_text(encoding="utf-8"))["cases"]
        path.unlink()
        out.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny shapes")
    parser.add_argument("--processes", type=int, default=0, help="share the cases out to so many")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), help="only every n-th case, from the i-th on")
    parser.add_argument("--out", type=Path, required=True, help="folder of check.json")
    options = parser.parse_args()
    os.environ.setdefault("FASTUNLEARN_TUNE", "0")
    record = Record(tuple(options.share))
    if options.processes:
        check_in_processes(record, options)
    else:
        check_all(record, options.device, options.toy)
    truth = torch.ones(3, dtype=torch.float64)
    if any(relative(torch.tensor([1.0, wrong, 1.0]), truth) < 0.09 for wrong in (float("nan"), 1.1)):
        raise SystemExit("the comparison does not see a wrong result")
    settings = {"device": options.device, "backends": backends(options.device), "toy": options.toy}
    write_json(options.out / "check.json", "kernels against float64", settings, record.rows, options.device)
    print(f"{len(record.rows)} results, {len(record.failures())} beyond their limits")
    for row in record.failures():
        print("FAILED", row)
    raise SystemExit(1 if record.failures() else 0)


if __name__ == "__main__":
    main()
