"""What docs/plan.md says of the plan is what bench/results/cpu-plan.json holds."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_ranges_are_those_measured():
    record = json.loads((ROOT / "bench" / "results" / "cpu-plan.json").read_text(encoding="utf-8"))
    found = [case["plan_over_happened"] for case in record["cases"]]

    def spread(*keys: str) -> str:
        values = [ratios[key] for ratios in found for key in keys]
        return f"{min(values):.2f} to {max(values):.2f}"

    said = " ".join((ROOT / "docs" / "plan.md").read_text(encoding="utf-8").split())
    disk = spread("disk_most", "disk_end")
    assert f"time {spread('seconds')} times, memory {spread('peak_bytes')}, disk {disk} (" in said
    assert len(found) == 6 and all(case["within_goal"] for case in record["cases"])
