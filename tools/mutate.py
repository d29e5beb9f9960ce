"""Mutation testing of the curvature algebra: small errors in a file, one at a time, must be seen by its tests.

    python tools/mutate.py                          the files and tests below; writes docs/mutation.md
    python tools/mutate.py --most 10 --seed 1       fewer mutants, another draw

A mutant changes one operator, number, comparison or sign of a function's body (docstrings and messages are left alone).
It runs in a child process, with the tests of that file, until the first failure. Mutants that survive are listed:
each is either a change that makes no difference, or a test that is missing.
"""

from __future__ import annotations

import argparse
import ast
import copy
import datetime
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mutation.md"
#: File -> the tests that must see an error in it.
TARGETS = {
    "fastunlearn/solve/sample_space.py": ["tests/solve/test_signed_rows.py", "tests/solve/test_sample_space.py",
                                          "tests/solve/test_low_rank_fisher.py"],
    "fastunlearn/solve/low_rank_fisher.py": ["tests/solve/test_low_rank_fisher.py"],
}
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """``code``: the file with the error. ``line`` and ``change`` say where and what."""

    path: str
    line: int
    change: str
    code: str


def _places(tree: ast.Module) -> list[tuple[int, str]]:
    """(number of the node in walking order, kind of change) of everything that can be changed."""
    quiet: set[int] = set()
    for node in ast.walk(tree):  # messages, annotations and defaults' documentation change no numbers
        inside: list[ast.AST] = []
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
            inside = [node]
        elif isinstance(node, ast.FunctionDef):
            inside = [a for a in (node.returns, *(arg.annotation for arg in ast.walk(node.args)
                                                  if isinstance(arg, ast.arg))) if a is not None]  # fmt: skip
        elif isinstance(node, ast.AnnAssign):
            inside = [node.annotation]
        quiet |= {id(child) for one in inside for child in ast.walk(one)}
    found = []
    functions = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in quiet or id(node) not in functions:
            continue
        if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
            found.append((number, "operator"))
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
            found.append((number, "comparison"))
        elif isinstance(node, ast.BoolOp):
            found.append((number, "logic"))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            found.append((number, "sign"))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            found.append((number, "number"))
    return found


def _change(node: ast.AST, kind: str) -> tuple[ast.AST, str]:
    before = ast.unparse(node)
    if kind == "operator":
        assert isinstance(node, ast.BinOp)
        node.op = SWAPS[type(node.op)]()
    elif kind == "comparison":
        assert isinstance(node, ast.Compare)
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif kind == "logic":
        assert isinstance(node, ast.BoolOp)
        node.op = SWAPS[type(node.op)]()
    elif kind == "number":
        assert isinstance(node, ast.Constant)
        node.value = node.value + 1
    else:
        assert isinstance(node, ast.UnaryOp)
        return node.operand, f"`{before}` -> `{ast.unparse(node.operand)}`"
    return node, f"`{before}` -> `{ast.unparse(node)}`"


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


def mutants(path: str, most: int, seed: int) -> list[Mutant]:
    """At most so many mutants of a file, drawn at random among all places."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    places = _places(tree)
    random.Random(seed).shuffle(places)
    made = []
    for number, kind in places[:most]:
        fresh = copy.deepcopy(tree)
        node = list(ast.walk(fresh))[number]
        line = getattr(node, "lineno", 0)
        new, change = _change(node, kind)
        if new is not node:
            fresh = _Replace(node, new).visit(fresh)
        code = ast.unparse(ast.fix_missing_locations(fresh))
        made.append(Mutant(path, line, change.replace("\n", " "), code))
    return sorted(made, key=lambda one: one.line)


def killed(mutant: Mutant, folder: Path, seconds: float) -> bool:
    """Whether the file's tests fail, or do not end, with the mutant in the copied tree."""
    target = folder / mutant.path
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.code, encoding="utf-8")
    child = os.fork()  # so that PyTorch and transformers are imported once, by the parent
    if child == 0:
        _run_tests(folder, TARGETS[mutant.path])
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status) != 0
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return True
    finally:
        target.write_text(original, encoding="utf-8")


def _run_tests(folder: Path, tests: list[str]) -> None:
    """In a child process: the tests of the copied tree; does not come back."""
    import pytest

    os.chdir(folder)
    sys.path.insert(0, str(folder))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    code = 3
    try:
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(code)


def page(results: list[tuple[Mutant, bool]]) -> str:
    """What came out, as Markdown."""
    lines = [
        "# Mutation testing of the curvature algebra", "",
        f"By `python tools/mutate.py`, {datetime.date.today().isoformat()}: small errors put into the code one at a "
        "time, each of which the file's own tests must see.", "",
        "| File | Mutants | Seen |", "| :-- | --: | --: |",
    ]  # fmt: skip
    for path in TARGETS:
        mine = [dead for mutant, dead in results if mutant.path == path]
        if mine:
            lines.append(f"| `{path.removeprefix('fastunlearn/')}` | {len(mine)} | {sum(mine)} |")
    alive = [mutant for mutant, dead in results if not dead]
    if alive:
        lines += ["", "Not seen:", ""]
        lines += [f"- `{one.path.removeprefix('fastunlearn/')}`, line {one.line}: {one.change}" for one in alive]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=20, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120, help="after which a mutant counts as seen")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    import torch  # noqa: F401  before the children; the package itself is each child's own
    import transformers  # noqa: F401

    assert "fastunlearn" not in sys.modules
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("fastunlearn", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for path in TARGETS:
            untouched = Mutant(path, 0, "", (ROOT / path).read_text(encoding="utf-8"))
            if killed(untouched, folder, 10 * options.seconds):
                raise SystemExit(f"the tests of {path} fail without any mutant")
            for mutant in mutants(path, options.most, options.seed):
                dead = killed(mutant, folder, options.seconds)
                results.append((mutant, dead))
                print(f"{'seen    ' if dead else 'NOT SEEN'} {path}:{mutant.line} {mutant.change}", flush=True)
    options.out.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
