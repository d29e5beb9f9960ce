"""The project's own tools: mutants differ from the code in one place; the site's links lead to pages."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_mutant_is_one_change_of_the_code():
    mutate = tool("mutate")
    for path in mutate.TARGETS:
        plain = ast.unparse(ast.parse((ROOT / path).read_text(encoding="utf-8"))).splitlines()
        found = mutate.mutants(path, 12, seed=3)
        assert len(found) == 12 and found == mutate.mutants(path, 12, seed=3)
        for mutant in found:
            lines = mutant.code.splitlines()
            assert len(lines) == len(plain) and sum(a != b for a, b in zip(lines, plain, strict=True)) == 1
            assert not any(a != b and '"' in a and "raise" in a for a, b in zip(lines, plain, strict=True))


def test_the_page_of_mutants_counts_them():
    mutate = tool("mutate")
    path = next(iter(mutate.TARGETS))
    alive, dead = (mutate.Mutant(path, n, f"`a` -> `b{n}`", "") for n in (7, 9))
    text = mutate.page([(alive, False), (dead, True)])
    assert "| 2 | 1 |" in text and "line 7" in text and "line 9" not in text


def test_a_file_out_of_style_is_named(tmp_path):
    pytest.importorskip("clang_format", reason="make lint installs it")
    wrong = ROOT / "csrc" / "cpu" / "_style_probe.h"
    try:
        wrong.write_text("inline int  f( ){return 1;}\n")
        command = [sys.executable, str(ROOT / "tools" / "format_check.py"), str(wrong)]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 1 and b"_style_probe.h" in done.stdout
    finally:
        wrong.unlink()


def test_every_native_source_is_in_style():
    pytest.importorskip("clang_format", reason="make lint installs it")
    format_check = tool("format_check")
    assert len(format_check.sources()) > 80
    wrong = [p for p in format_check.sources() if format_check.formatted(p) != p.read_text(encoding="utf-8")]
    assert not wrong, "python tools/format_check.py --write"


def test_clang_tidy_reads_what_the_build_compiles():
    """The instruction sets of tools/tidy_check.py are those of setup.py, which cannot be imported."""
    tidy_check = tool("tidy_check")
    module = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    built = []
    for node in ast.walk(module):
        targets = [node.target] if isinstance(node, ast.AugAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "ISAS" for target in targets):
            built += ast.literal_eval(node.value)
    assert len(built) == 3 and built[: len(tidy_check.ISAS)] == tidy_check.ISAS
    kernel, driver = ROOT / "csrc/cpu/isa/norm_kernels.cpp", ROOT / "csrc/cpu/norm.cpp"
    assert {kernel, driver} <= set(tidy_check.sources())
    assert len(tidy_check.flags_of(kernel)) == len(tidy_check.ISAS)


def test_a_finding_of_clang_tidy_fails(tmp_path, monkeypatch):
    tidy_check = tool("tidy_check")
    fake = tmp_path / "clang-tidy"
    fake.write_text("#!/bin/sh\necho '/x/../y.h:3:5: warning: wrong [a-check]'\necho '   3 | int'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(tidy_check, "tidy", lambda: str(fake))
    assert tidy_check.findings(ROOT / "csrc/cpu/norm.cpp", []) == ["/y.h:3: wrong [a-check]"]
    fake.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 2\n")
    (found,) = tidy_check.findings(ROOT / "csrc/cpu/norm.cpp", [])
    assert "no such option" in found


def test_links_of_the_site():
    pytest.importorskip("mkdocs", reason="make docs installs it")
    turned = tool("mkdocs_hooks").turned
    assert turned("[a](docs/dual.md)", "README.md", "index.md") == "[a](dual.md)"
    assert turned("[a](../csrc/README.md)", "docs/architecture.md", "architecture.md") == "[a](csrc.md)"
    assert turned("[a](../../csrc/README.md#x)", "docs/extend/op.md", "extend/op.md") == "[a](../csrc.md#x)"
    assert turned("[a](LICENSE)", "README.md", "index.md") == "a"  # no page: words alone
    assert turned("[a](../activation/README.md)", "fastunlearn/ops/gated_mlp/README.md",
                  "internals/ops/gated_mlp.md") == "[a](activation.md)"  # fmt: skip
