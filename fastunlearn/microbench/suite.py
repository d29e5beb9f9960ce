"""Runs kinds of cases and says what came out: a record for JSON, a table, a chart, a comparison with an older one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fastunlearn.audit.charts import Bars, bar_chart
from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import NO_PROGRESS, Progress

from .gemm_peak import copy_bandwidth, gemm_peak
from .harness import OURS, Peaks, compare, machine, peak_bytes
from .shapes import configuration, empty_model

__all__ = ["KINDS", "Request", "chart", "comparison", "make_cases", "module_of", "read_record", "run", "table"]

#: What can be asked for -> the module of its cases.
KINDS = {"op": "op_cases", "hvp": "product_cases", "lowrank": "lowrank_cases"}
#: The largest relative error that is let through to the clock, by dtype of the weights.
GATES = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 0.5}
NONE = "–"


@dataclass(frozen=True)
class Request:
    """What to measure. ``shape``: one of shapes.SHAPES; or ``model``: a folder. ``tokens`` of a sequence, ``batch``
    sequences; the Fisher has ``samples`` sequences of ``tokens``. ``memory``: measure it, a process for each way."""

    what: str = "all"
    shape: str = "llama-5m"
    model: str | None = None
    tokens: int = 128
    batch: int = 1
    samples: int = 16
    dtype: str = "float32"
    device: str = "cpu"
    rounds: int = 5
    peers: bool = True
    memory: bool = False

    def __post_init__(self) -> None:
        if self.what not in (*KINDS, "all"):
            raise InvalidInputError(f"{self.what!r} is no benchmark; use one of {', '.join(KINDS)}, all")
        for name in ("tokens", "batch", "samples", "rounds"):
            if getattr(self, name) < (2 if name == "tokens" else 1):
                raise InvalidInputError(f"{name}={getattr(self, name)} is too small")
        if self.dtype not in GATES:
            raise InvalidInputError(f"dtype={self.dtype!r} is unknown; use one of {', '.join(GATES)}")


def module_of(case: dict) -> str:
    """The module of a case."""
    kind = {"hessian": "hvp", "ggn": "hvp"}.get(case["kind"], case["kind"])
    return f"fastunlearn.microbench.{KINDS[kind]}"


def make_cases(request: Request) -> list[dict]:
    """All cases that were asked for, ready for JSON."""
    names = ("shape", "model", "tokens", "batch", "samples", "dtype", "peers")
    common = {name: value for name, value in asdict(request).items() if name in names}
    longest = getattr(configuration(request.shape, request.model), "max_position_embeddings", None)
    if longest is not None and request.tokens > longest:
        raise InvalidInputError(f"tokens={request.tokens} is above the model's context of {longest}")
    kinds = KINDS if request.what == "all" else [request.what]
    modules = [importlib.import_module(f"fastunlearn.microbench.{KINDS[kind]}") for kind in kinds]
    return [case for module in modules for case in module.cases(common)]


def measure(case: dict, request: Request, peaks: Peaks) -> dict:
    """One case: correct first, then in turn, then the memory."""
    module = importlib.import_module(module_of(case))
    held_to, exact = module.truth(case, request.device)
    found = [way for way in module.ways(case, request.device) if request.peers or way.ours]
    results = compare(found, exact.double(), GATES[case["dtype"]], OURS, rounds=request.rounds, device=request.device)
    if request.memory:
        for way in found:
            if results[way.name]["gate"] == "passed":
                results[way.name]["peak_bytes"] = peak_bytes(module_of(case), case, way.name, request.device)
    limit = module.limit(case, peaks)
    public = dict(case)
    if case["model"] is not None:  # its path is nobody's business; its size keeps records of two models apart
        size = sum(p.numel() for p in empty_model(case["shape"], case["model"]).parameters())
        public |= {"model": "a model of the user's", "weights": size}
    return {"case": {**public, "truth": held_to}, "results": results, "limit_seconds": limit}


def run(request: Request, progress: Progress = NO_PROGRESS) -> tuple[dict, list[dict]]:
    """The settings and the measured cases, as :func:`~fastunlearn.microbench.harness.write_json` takes them."""
    dtype = getattr(torch, request.dtype)
    cases = make_cases(request)
    peaks = Peaks(gemm_peak(dtype, device=request.device), copy_bandwidth(dtype, device=request.device))
    done = []
    with progress.task("Benchmarks", total=len(cases), unit="case") as task:
        for case in cases:
            task.note(case["name"])
            done.append(measure(case, request, peaks))
            task.advance()
    settings = {"gate": GATES[request.dtype], "gemm_peak_gflop_per_s": peaks.gflop_per_s,
                "copy_gb_per_s": peaks.gb_per_s}  # fmt: skip
    return settings, done


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{1e3 * value:.3g} ms"


def _head(case: dict) -> str:
    size = case["shape"] if case["model"] is None else case["model"]
    many = case["samples"] if case["kind"] == "lowrank" else case["batch"]
    return f"{case['name']}: {size}, {many} x {case['tokens']} tokens, {case['dtype']} (held to {case['truth']})"


def table(settings: dict, cases: Sequence[dict], device: str = "cpu") -> str:
    """For a terminal: every way of every case with its time, error, memory, and share of the machine's limit."""
    where = machine(device)
    lines = [
        f"{where.get('gpu', where['cpu'])}, {where['threads']} threads: at most "
        f"{settings['gemm_peak_gflop_per_s']:.0f} GFLOP/s in matrix products and "
        f"{settings['copy_gb_per_s']:.0f} GB/s in copies"
    ]
    for item in cases:
        lines += ["", _head(item["case"])]
        ours = item["results"][OURS].get("seconds")
        for name, one in item["results"].items():
            if "seconds" not in one:
                error = f"error {one['error']:.1e}" if one.get("error") is not None else one.get("reason", "not finite")
                lines.append(f"  {name:32} {one['gate']}: {error}")
                continue
            against = NONE if ours is None else f"{one['seconds'] / ours:.2f} x"
            memory = f"{one['peak_bytes'] / 1e9:.2f} GB" if one.get("peak_bytes") is not None else NONE
            share = f"{100 * item['limit_seconds'] / one['seconds']:.0f} %"
            lines.append(
                f"  {name:32} {_seconds(one['seconds']):>9}  {against:>8} ours  error {one['error']:.1e}  "
                f"memory {memory:>8}  {share:>5} of the limit"
            )
    return "\n".join(lines)


def chart(cases: Sequence[dict]) -> str:
    """How many times ours every way takes, a whole SVG file."""
    names, values = [], []
    for item in cases:
        ours = item["results"][OURS].get("seconds")
        for name, one in item["results"].items():
            if ours and "seconds" in one:
                names.append(f"{item['case']['name'].partition(':')[0]}: {name}")
                values.append(one["seconds"] / ours)
    if not names:
        raise InvalidInputError("no case was measured, so there is nothing to draw")
    return bar_chart(Bars(names, values), title="Time, of fastunlearn's", axis="shorter is faster")


def read_record(path: str | Path) -> dict:
    """An older record. Raises InvalidInputError where it is none."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(record["cases"], list) or not isinstance(record["machine"], dict):
            raise TypeError
        for item in record["cases"]:
            if not isinstance(item["case"], dict) or not isinstance(item["results"], dict):
                raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{path} is no record of fastunlearn bench ({type(error).__name__})") from error
    return record


def comparison(old: dict, cases: Sequence[dict], device: str = "cpu") -> str:
    """Every way that both records measured, old against new."""
    def key(item: dict) -> str:
        return json.dumps({name: value for name, value in item["case"].items() if name != "truth"}, sort_keys=True)

    before = {key(item): item["results"] for item in old["cases"]}
    lines = ["Against the older record:"]
    if old["machine"] != machine(device):
        lines.append("  (another machine, or other threads: times do not compare)")
    for item in cases:
        for name, one in item["results"].items():
            then = before.get(key(item), {}).get(name, {}).get("seconds")
            if then is not None and "seconds" in one:
                lines.append(f"  {item['case']['name']}: {name}: {_seconds(then)} -> {_seconds(one['seconds'])} "
                             f"({one['seconds'] / then:.2f} x)")  # fmt: skip
    if len(lines) == 1:
        lines.append("  it has none of these cases")
    return "\n".join(lines)
