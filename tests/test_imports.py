"""``import fastunlearn`` is light, and a public name never turns into the submodule of the same name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastunlearn as fu


def _python(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'triton', 'numpy', 'scipy'}"
    assert _python(f"import sys, fastunlearn; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


def test_operators_import_neither_transformers_nor_triton_nor_scipy():
    heavy = "{'transformers', 'triton', 'scipy'}"
    assert _python(f"import sys, fastunlearn as fu; fu.Hessian; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


@pytest.mark.parametrize("order", ["", "import fastunlearn.unlearn, fastunlearn.info; "])
def test_functions_win_over_submodules_of_the_same_name(order):
    script = (
        f"{order}import fastunlearn as fu; from fastunlearn.unlearn import METHODS; from fastunlearn.info import info;"
        "from fastunlearn import unlearn; print(type(fu.unlearn).__name__, type(unlearn).__name__, fu.info is info)"
    )
    assert _python(script) == "function function True\n"


def test_every_public_name_is_there():
    assert set(fu.__all__) <= set(dir(fu))
    for name in fu.__all__:
        assert getattr(fu, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Hessain'"):
        fu.Hessain  # noqa: B018
