"""The cases of ``fastunlearn bench`` under pytest-benchmark: ``pytest bench --benchmark-only [--shape llama-42m ...]``.

Each way is checked against float64 before it is timed; a peer that fails or misses is skipped, ours fails the test.
"""

from __future__ import annotations

import functools
import importlib

import pytest

from fastunlearn.microbench.harness import OURS, relative_error
from fastunlearn.microbench.suite import GATES, Request, make_cases, module_of


def pytest_generate_tests(metafunc):
    get = metafunc.config.getoption
    request = Request(what=get("--what"), shape=get("--shape"), tokens=get("--tokens"), samples=get("--samples"))
    found = []
    for case in make_cases(request):
        ways = importlib.import_module(module_of(case)).ways(case)
        found += [pytest.param(case, way.name, id=f"{case['name']}: {way.name}") for way in ways]
    metafunc.parametrize(("case", "name"), found)


@functools.cache
def _truth(key):
    case = dict(key)
    return importlib.import_module(module_of(case)).truth(case)[1].double()


def test_way(benchmark, case, name):
    way = next(w for w in importlib.import_module(module_of(case)).ways(case) if w.name == name)
    if way.prepare is not None:
        way.prepare()
    try:
        error = relative_error(way.run(), _truth(tuple(case.items())))
    except Exception as failure:
        if name == OURS:
            raise
        pytest.skip(f"{type(failure).__name__}: {str(failure)[:100]}")
    if name != OURS and not error <= GATES[case["dtype"]]:
        pytest.skip(f"error {error:.1e}")
    assert error <= GATES[case["dtype"]]
    benchmark.extra_info |= {"error": error, "case": case["name"], "way": name}
    benchmark(way.run)
