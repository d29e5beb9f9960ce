"""The cases of ``bench.device.check``: every GPU kernel in every dtype, each candidate of the kernels with products in
its turn, of the others the first."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import torch

if importlib.util.find_spec("pytest") is None:  # the files of cases use it to mark tests, which do not run here
    sys.modules["pytest"] = mock.MagicMock()

from bench.device.choices import attention_choices, choices, forced
from bench.device.record import DTYPES, Record
from bench.device.runtime import check_runtime
from fastunlearn.ops import activation, gated_mlp, linear, linear_cross_entropy, norm, rope
from fastunlearn.ops.ghost_gram import ghost_gram
from tests.ops import sample_space_cases
from tests.ops.attention_cases import make_case, run_dual, run_single
from tests.ops.dual_cases import draw
from tests.ops.gram_cases import dense_gram, make_tokens
from tests.ops.linear_cases import head_case

__all__ = ["backends", "check_all"]


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
    heads = (16,) if toy else (64, 80, 128, 256)
    chosen = [(size, dtype, *choice) for size, dtype in itertools.product(heads, DTYPES)
              for choice in attention_choices(backend, dtype, size)]  # fmt: skip
    for (size, dtype, way, number), (name, spec) in itertools.product(chosen, variants.items()):
        if size not in (16, 64) and name not in ("causal", "window, softcap"):
            continue
        if toy and way not in ("", "apart") and name != "causal":  # the interpreter's tests have the others
            continue
        sizes = {"queries": length, "keys": length, "size": size, "dtype": dtype}
        about = f"head {size}, {name}, {way} candidate {number}"
        choice = partial(forced, number, backend, way)
        case = partial(_attention, record, about, {**sizes, **spec}, choice, device, backend)
        record.run(f"attention, {about}, {dtype}", case)


def _attention(record: Record, about: str, spec: dict, choice: Callable, device: str, backend: str) -> None:
    case = make_case(transposed=True, **spec)
    there = case.map(lambda x: x.to(device))
    if there.spec.mask is not None and there.spec.mask.dtype == torch.bool:
        object.__setattr__(there.spec, "mask", there.spec.mask.to(device))
    for kind, run in (("dual", run_dual), ("single", run_single)):
        truth = run(case.wide(), "reference")
        with choice():
            got = run(there, backend)
        names = list(got)
        record.compare(f"attention {kind}, {about}", spec["dtype"], got.values(), [truth[n] for n in names], names)


def check_pointwise(record: Record, device: str, backend: str, toy: bool) -> None:
    rows, width, k = (5, 33, 2) if toy else (301, 4097, 2)
    for dtype in DTYPES:

        def make(*shapes, dtype=dtype):
            return [draw(shape, dtype, seed) for seed, shape in enumerate(shapes)]

        def both(case, names, function, *values, dtype=dtype):
            def run():
                truth = function(*map(wide, values), backend="reference")
                got = function(*(moved(v, device) for v in values), backend=backend)
                alone = isinstance(got, torch.Tensor)
                record.compare(case, dtype, [got] if alone else got, [truth] if alone else truth, names)

            record.run(f"{case}: {', '.join(names)}, {dtype}", run)

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
        title = f"{', capped' if extra else ''}, candidate {number}"
        case = partial(_cross_entropy, record, sizes, dtype, extra, title, partial(forced, number), (device, backend))
        record.run(f"cross-entropy{title}, {dtype}", case)
    for dtype, number in itertools.product(DTYPES, numbers):
        case = partial(_weight_product, record, sizes, dtype, number, device, backend)
        record.run(f"weight product, candidate {number}, {dtype}", case)


def _cross_entropy(record: Record, sizes, dtype, extra, title, choice, place) -> None:
    case = head_case(*sizes, 2, dtype=dtype, **extra)
    full = case.to(torch.float64)
    for name, count in (("hessian_product", 4), ("ggn_product", 3)):
        results = []
        for one, where, which in ((full, "cpu", "reference"), (case, *place)):
            tensors = [moved(t, where) for t in (*one.tangents(), one.token_weights)]
            layer = {n: moved(v, where) for n, v in {**one.layer(), "bias_t": one.bias_t}.items()}
            sums = torch.float64 if one is full else torch.float32
            weight = torch.zeros(2, *one.weight.shape, dtype=sums, device=where)
            with choice(which):
                found = getattr(linear_cross_entropy, name)(*tensors, True, weight, None, **layer, backend=which)
            results.append((*found, weight))
        names = ("nll", "nll_t", "gx", "hx", "weight_out")
        names = names if count == 4 else ("nll", "nll_t", "hx", "weight_out")
        record.compare(f"cross-entropy {name}{title}", dtype, results[1], results[0], names)


def _weight_product(record: Record, sizes, dtype, number: int, device: str, backend: str) -> None:
    n, width, height = sizes
    shapes = {"x": (n, width), "xt": (2, n, width), "g": (n, height), "h": (2, n, height)}
    x, xt, g, h = (draw(s, dtype, seed) for seed, s in enumerate(shapes.values()))
    truth = linear.weight_product(*map(wide, (x, xt, g, h)), torch.zeros(2, height, width, dtype=torch.float64))
    out = torch.zeros(2, height, width, device=device)
    with forced(number, backend):
        got = linear.weight_product(*(moved(t, device) for t in (x, xt, g, h)), out, backend=backend)
    record.compare(f"weight product, candidate {number}", dtype, [got], [truth], ["out"])


def check_sample_space(record: Record, device: str, backend: str, toy: bool) -> None:
    for dtype in (*DTYPES, torch.float64):
        for one in (backend, "triton") if device == "cuda" and dtype in DTYPES else (backend,):
            for number in choices("gram", one):
                title = f"ghost gram, {one}, candidate {number}"
                record.run(f"{title}, {dtype}", partial(_gram, record, title, dtype, number, one, device, toy))
    cases, place, stored = sample_space_cases, (backend, device), (torch.float32, torch.bfloat16, torch.int8)
    jobs: list[tuple[str, Callable, tuple]] = [
        (f"explicit rows {size}{', strided' * strided} {dtype}", cases.check_explicit_rows, (dtype, size, strided))
        for size, dtype, strided in itertools.product(cases.ROWS, stored, (False, True))
    ]
    jobs += [(f"low-rank apply {size} {dtype}", cases.check_low_rank_apply, (dtype, size))
             for size, dtype in itertools.product(cases.BLOCKS, stored)]  # fmt: skip
    jobs += [(f"small Cholesky {size} {dtype}", cases.check_small_cholesky, (dtype, size))
             for size, dtype in itertools.product(cases.SYSTEMS, (torch.float32, torch.float64))]  # fmt: skip
    for title, run, arguments in jobs:
        record.run(title, partial(_asserted, record, title, run, (*arguments, *place)))
    for one in (backend, "triton") if device == "cuda" else (backend,):
        for number in choices("products", one):
            for title, run, arguments in _weighted():
                title = f"weighted gradient, {one}, candidate {number}: {title}"
                record.run(title, partial(_chosen, record, title, run, (*arguments, one, device), number))


def _weighted() -> Iterator[tuple[str, Callable, tuple]]:
    """Shapes with weights and without, those of a solve, and products outside of float16's range."""
    cases = sample_space_cases
    for size, dtype, weighted in itertools.product(cases.GRADIENTS, DTYPES, (True, False)):
        title = f"{size}{'' if weighted else ', no weights'} {dtype}"
        yield title, cases.check_weighted_gradient, (dtype, size, weighted, True)
    for dtype in DTYPES:
        yield f"weights of a solve {dtype}", cases.check_weights_of_a_solve, (dtype,)
    if torch.float16 in DTYPES:
        for size, weight in ((1.0, 1e5), (1e-3, 1e-5)):
            yield f"adjoints {size}, weights {weight}", cases.check_range_of_weights, (size, weight)


def _chosen(record: Record, title: str, run: Callable, arguments: tuple, number: int) -> None:
    with forced(number, arguments[-2]):
        _asserted(record, title, run, arguments)


def _gram(record: Record, title: str, dtype, number: int, backend: str, device: str, toy: bool) -> None:
    for about, lengths in (("K", [3, 1, 0, 20] if toy else [63, 1, 0, 127, 210, 5, 300]),
                           ("K of single tokens", [1] * (24 if toy else 301))):  # fmt: skip
        tokens = make_tokens(lengths, 65, 130, dtype)
        with forced(number, backend):
            got = ghost_gram(tokens.x.to(device), tokens.g.to(device), tokens.offsets, bias=True, backend=backend)
        record.compare(title, dtype, [got], [dense_gram(tokens, bias=True)], [about], 1e-5)


def _asserted(record: Record, title: str, run: Callable, arguments: tuple) -> None:
    run(*arguments)
    record.rows.append({"case": title, "passed": True})


#: Those that compile little come first, attention last: a check that is cut short has seen the others.
CHECKS = (check_sample_space, check_pointwise, check_linear, check_runtime, check_attention)


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
