"""``import fastunlearn`` is light, and a public name never turns into the submodule of the same name."""

from __future__ import annotations

import os
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


_BLOCKED = """
import shutil, sys
for name in {blocked}:
    sys.modules[name] = None  # to import it is a ModuleNotFoundError now
import torch
torch.cuda.is_available = lambda: False
"""


def test_no_cuda_no_triton_no_nvcc_is_needed():
    """With Triton, CuPy and CUDA's Python packages blocked, no nvcc and no GPU: a product comes out all the same."""
    blocked = {"triton", "cupy", "cuda", "pynvml", "nvidia", "numba", "scipy", "transformers", "accelerate"}
    script = _BLOCKED.format(blocked=blocked) + """
import fastunlearn as fu
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)
    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))
for name in fu.__all__:
    try:
        getattr(fu, name)
    except ModuleNotFoundError as error:  # unlearn takes transformers' models, and says so
        assert "transformers" in str(error), error
hessian = fu.Hessian(Net(), [{"x": torch.ones(2, 3)}], lambda model, batch: model(batch["x"]).square().sum())
product = hessian @ torch.ones(hessian.shape[0])
print(bool(product.isfinite().all() and product.abs().max() > 0), fu.info()["triton"])
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "CUDA_HOME": "/nowhere", "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize("order", ["", "import fastunlearn.unlearn, fastunlearn.info; "])
def test_functions_win_over_submodules_of_the_same_name(order):
    script = (
        f"{order}import fastunlearn as fu; from fastunlearn.unlearn import METHODS; from fastunlearn.info import info;"
        "from fastunlearn import unlearn; print(type(fu.unlearn).__name__, type(unlearn).__name__, fu.info is info)"
    )
    assert _python(script) == "function function True\n"


def test_subpackages_are_reached_without_an_import_of_their_own():
    found = "len(fu.audit.metrics.METRICS) > 20, 'relearn' in fu.audit.attacks.ATTACKS"
    assert _python(f"import fastunlearn as fu; print({found})") == "True True\n"
    with pytest.raises(AttributeError, match="has no attribute 'metric'"):
        fu.audit.metric  # noqa: B018


def test_every_public_name_is_there():
    assert set(fu.__all__) <= set(dir(fu))
    for name in fu.__all__:
        assert getattr(fu, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Hessain'"):
        fu.Hessain  # noqa: B018
