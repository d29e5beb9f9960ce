"""The README's table of products says what the result files say."""

import json

import pytest

from bench.readme_products import growth_section, products_section


def write(folder, name, cases):
    record = {"date": "2026-01-02", "machine": {"cpu": "A", "threads": 2}, "versions": {"torch": "9"}, "cases": cases}
    (folder / f"cpu-{name}.json").write_text(json.dumps(record))


@pytest.fixture
def case():
    def passed(seconds, peak):
        return {"gate": "passed", "error": 2e-6, "seconds": seconds, "peak_bytes": peak, "rounds": 3}

    return {
        "case": {"truth": "double backward, float64"},
        "results": {
            "fastunlearn": passed(0.5, 10**8), "slow": passed(3.0, 4 * 10**8), "quick": passed(1.25, 10**9),
            "broken": {"gate": "failed", "reason": "RuntimeError: no derivative."},
        },
        "summary": {"seconds_over_gradient": 1.25, "fastest_peer": "quick", "times_faster_than_fastest_peer": 2.5,
                    "share_of_gemm_peak": 0.7},
    }  # fmt: skip


def test_a_row_names_time_memory_and_the_fastest_peer(tmp_path, case):
    write(tmp_path, "hvp-512", [case])
    text = products_section(tmp_path)
    row = "| 0.50 s, 0.10 GB | 2e-06 | 1.25 | 1.25 s, 1.00 GB (quick) | 2.5 x | 1/4.0 | 70 % |"
    assert row in text and "broken (no derivative)" in text and "medians of 3 rounds" in text


def test_without_a_peer_its_cells_are_empty(tmp_path, case):
    case["results"] = {"fastunlearn": case["results"]["fastunlearn"]}
    del case["summary"]["fastest_peer"], case["summary"]["times_faster_than_fastest_peer"]
    case["case"]["truth"] = "central differences"
    write(tmp_path, "hvp-8192", [case])
    assert "| 2e-06 (against central differences) | 1.25 | – | – | – | 70 % |" in products_section(tmp_path)


def test_it_is_said_which_peers_ran_out_of_memory(tmp_path, case):
    large = {"gate": "failed", "reason": "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried"}
    case["results"]["slow"] = large
    write(tmp_path, "hvp-512", [case])
    case["results"] = {"fastunlearn": case["results"]["fastunlearn"], "slow": large, "quick": large}
    del case["summary"]["fastest_peer"], case["summary"]["times_faster_than_fastest_peer"]
    write(tmp_path, "hvp-2048", [case])
    text = products_section(tmp_path)
    wanted = "Out of memory: Hessian, 1 x 512 tokens (slow); Hessian, 1 x 2048 (no peer fits)."
    assert f"broken (no derivative). {wanted}" in text


def test_nothing_measured_nothing_said(tmp_path):
    assert products_section(tmp_path) == "" and growth_section(tmp_path) == ""


def test_growth_lists_each_kind(tmp_path):
    cases = [{"case": {"kind": kind, "vectors": n}, "seconds": n / 4} for kind in ("Hessian", "GGN") for n in (1, 8)]
    write(tmp_path, "scaling-vectors", cases)
    text = growth_section(tmp_path)
    assert "- Hessian, vectors at once: 1: 0.25 s, 8: 2.00 s" in text and "- GGN" in text
