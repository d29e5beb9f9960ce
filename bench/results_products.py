"""The part of docs/results.md on exact Gauss-Newton products: what they buy Kronecker Removal, and for how much."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from bench.readme_figures import NONE, plain, table

HALF = 0.5
TEXT = f"""Kronecker Removal with its defaults, and the same with exact products for every solve (as in
`gauss-newton-removal`), from the sweeps of [the guide](guide.md). That is beside the comparison above: nothing was
tuned, and nobody was held to the budget. *Ratio*: to the best first-order point above, at most {HALF:g} aimed at. A
star: not at the forgetting of the retrained model."""


def _point(case: dict, products: int) -> dict | None:
    wanted = {"products": products} if products else {}
    return next((one for one in case["points"] if one["settings"] == wanted and one["error"] is None), None)


def _counts(sweeps: dict[str, dict]) -> list[int]:
    points = [point for sweep in sweeps.values() for case in sweep["cases"] for point in case["points"]]
    return sorted({point["settings"]["products"] for point in points if set(point["settings"]) == {"products"}})


def _runs(cases: list[dict], sweeps: dict[str, dict], counts: list[int]) -> list[tuple[dict, float, dict[int, dict]]]:
    """Each case that was swept with all counts: it, the untouched original's distance, and the points by count."""
    found = []
    for case in cases:
        for swept in sweeps.get(case["dataset"], {"cases": []})["cases"]:
            points = {count: _point(swept, count) for count in (0, *counts)}
            if swept["about"]["seed"] == case["seed"] and all(point is not None for point in points.values()):
                found.append((case, swept["about"]["original"]["damage"], points))
    return found


def _ratio(case: dict, point: dict, best: tuple[str, float] | None) -> tuple[str, bool]:
    """As it is shown, and whether it counts as held."""
    if best is None:
        return NONE, False
    ratio, forgot = point["damage"] / best[1], point["forget_accuracy"] <= case["retrained_interval"][2]
    return plain(ratio) + ("" if forgot else "*"), forgot and ratio <= HALF


def products_section(
    cases: list[dict], sweeps: dict[str, dict], best: Callable[[dict], tuple[str, float] | None]
) -> str:
    """A row for each case, and what the products come to; "" where none were swept. ``best(case)``: the first-order
    point to compare with."""
    counts = _counts(sweeps)
    runs = _runs(cases, sweeps, counts)
    if not counts or not runs:
        return ""
    each = [f"{count} products" for count in counts]
    rows = [["Data set", "Seed", "Untouched", "KL retain, no products", *each,
             *(f"Ratio, {words}" for words in ("none", *each)), "Gradients", f"Of the budget, {each[-1]}"]]  # fmt: skip
    for case, untouched, points in runs:
        spent = " / ".join(f"{point['gradients']:,}" for point in points.values())
        rows.append([
            case["dataset"], str(case["seed"]), plain(untouched), *(plain(p["damage"]) for p in points.values()),
            *(_ratio(case, p, best(case))[0] for p in points.values()), spent,
            plain(points[counts[-1]]["gradients"] / case["budget"]),
        ])  # fmt: skip
    said = []
    for count in counts:
        shares = [(p[count]["damage"] - floor) / (p[0]["damage"] - floor) for _, floor, p in runs]
        cost = statistics.median(p[count]["gradients"] / p[0]["gradients"] for _, _, p in runs)
        held = sum(_ratio(case, p[count], best(case))[1] for case, _, p in runs)
        said.append(
            f"With {count}: {plain(statistics.median(shares))} of what Kronecker Removal adds to the untouched "
            f"original's distance (median; at most {plain(max(shares))}), for {plain(cost)} times its gradients; a "
            f"ratio of at most {HALF:g} in {held} of {len(runs)} cases."
        )
    none = sum(_ratio(case, p[0], best(case))[1] for case, _, p in runs)
    far = sum((found := best(case)) is not None and floor > HALF * found[1] for case, floor, _ in runs)
    end = f"Without: in {none}. In {far} the untouched original itself is further away than that."
    return "\n\n".join(["## Exact Gauss-Newton products", TEXT, table(rows), " ".join([*said, end])])
