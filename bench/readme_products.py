"""The README's part on products with the whole model, written from ``bench/results/cpu-*.json``."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["growth_section", "products_section"]

OURS, GRADIENT = "fastunlearn", "PyTorch gradient, SDPA"
#: File name (without cpu-, .json) -> what a reader calls it.
PRODUCTS = {
    "hvp-512": "Hessian, 1 x 512 tokens",
    "hvp-512-medium": "the same, peers under `medium` precision (bf16 products)",
    "ggn-512": "Gauss-Newton, 1 x 512",
    "hvp-2048": "Hessian, 1 x 2048",
    "hvp-8192": "Hessian, 1 x 8192",
    "gpt2-512": "Hessian, GPT-2 124M, 1 x 512",
    "qwen3-512": "Hessian, Qwen3-0.6B, 1 x 512",
    "gpt2-512-bf16": "Hessian, GPT-2 124M in bf16, 1 x 512",
    "qwen3-512-bf16": "Hessian, Qwen3-0.6B in bf16, 1 x 512",
}
AXES = {"tokens": "tokens", "layers": "layers", "vectors": "vectors at once", "threads": "threads"}
NONE = "–"


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "| :-- " + "| --: " * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def _gigabytes(count: int | None) -> str:
    return NONE if count is None else f"{count / 1e9:.2f} GB"


def _row(label: str, case: dict) -> list[str]:
    mine, summary = case["results"][OURS], case["summary"]
    peer = summary.get("fastest_peer")
    found = case["results"].get(peer)
    held_to = case["case"]["truth"]
    error = f"{mine['error']:.0e}" + ("" if "float64" in held_to else f" (against {held_to})")
    exact = [one["peak_bytes"] for name, one in case["results"].items() if name != OURS and one.get("peak_bytes")]
    return [
        label, f"{mine['seconds']:.2f} s, {_gigabytes(mine['peak_bytes'])}", error,
        f"{summary['seconds_over_gradient']:.2f}",
        NONE if found is None else f"{found['seconds']:.2f} s, {_gigabytes(found['peak_bytes'])} ({peer})",
        NONE if found is None else f"{summary['times_faster_than_fastest_peer']:.1f} x",
        f"1/{min(exact) / mine['peak_bytes']:.1f}" if exact and mine["peak_bytes"] else NONE,
        f"{100 * summary['share_of_gemm_peak']:.0f} %",
    ]  # fmt: skip


def _failures(found: dict) -> str:
    """Which peers failed, and why; and on which products which ones asked for more memory than there was."""
    failed, memory = set(), []
    for product, record in found.items():
        peers = {name: one for name, one in record["cases"][0]["results"].items() if name != OURS}
        large = [name for name, one in peers.items() if "allocate memory" in one.get("reason", "")]
        failed |= {
            f"{name} ({one['reason'].partition(':')[2].strip().rstrip('.')[:70]})"
            for name, one in peers.items() if one["gate"] == "failed" and name not in large
        }  # fmt: skip
        if large:
            able = [name for name, one in peers.items() if one["gate"] == "passed"]
            memory.append(f"{PRODUCTS[product]} ({', '.join(sorted(large)) if able else 'no peer fits'})")
    return " ".join(filter(None, [
        "Peers that failed: " + "; ".join(sorted(failed)) + "." if failed else "",
        "Out of memory: " + "; ".join(memory) + "." if memory else "",
    ]))  # fmt: skip


def _apart(found: dict) -> str:
    """Which products were not timed in turn."""
    apart = [
        f"{PRODUCTS[name]} ({record['cases'][0]['results'][OURS]['rounds']} rounds)"
        for name, record in found.items() if record["cases"][0]["case"].get("apart")
    ]  # fmt: skip
    return f"Each way in a process of its own, one after another: {', '.join(apart)}." if apart else ""


def products_section(results: Path) -> str:
    """Ours beside the peers, one row per case measured; "" where none was."""
    found = {name: _read(results / f"cpu-{name}.json") for name in PRODUCTS}
    found = {name: record for name, record in found.items() if record is not None}
    if not found:
        return ""
    rows = [["Product", "fastunlearn", "Error", "Over one gradient", "Fastest exact peer", "Faster by",
             "Memory, of the leanest peer's", "Share of GEMM peak"]]  # fmt: skip
    rows += [_row(PRODUCTS[name], record["cases"][0]) for name, record in found.items()]
    record = next(iter(found.values()))
    notes = " ".join(filter(None, (_failures(found), _apart(found))))
    return "\n\n".join(part for part in [
        "### Products with the whole model, CPU\n\nA Llama of 42 M weights in its products (hidden 512, 8 layers, "
        f"vocabulary 32000) unless named otherwise. {record['machine']['cpu']}, {record['machine']['threads']} "
        f"threads, PyTorch {record['versions']['torch']}, {record['date']}; medians of "
        f"{record['cases'][0]['results'][OURS]['rounds']} rounds in turn. Memory is the peak above model, vector and "
        "result. Error is relative to float64, largest entry over largest entry.",
        _table(rows), notes,
    ] if part)  # fmt: skip


def growth_section(results: Path) -> str:
    """How the cost grows along each axis that was measured; "" where none was."""
    lines = []
    for axis, label in AXES.items():
        record = _read(results / f"cpu-scaling-{axis}.json")
        if record is None:
            continue
        for kind in dict.fromkeys(case["case"]["kind"] for case in record["cases"]):
            every = [case for case in record["cases"] if case["case"]["kind"] == kind]
            cases = [case for case in every if not case["case"].get("one_by_one")]
            points = ", ".join(f"{one['case'][axis]}: {one['seconds']:.2f} s" for one in cases)
            turns = [f"; {one['case'][axis]} at once take {one['ratio']:.2f} of the time of that many single products"
                     for one in every if one["case"].get("one_by_one")]  # fmt: skip
            lines.append(f"- {kind}, {label}: {points}{''.join(turns)}")
    return "How it grows (otherwise 1 x 512 tokens, 8 layers, one vector):\n\n" + "\n".join(lines) if lines else ""
