"""The Triton kernels of attention in Triton's interpreter (see test_triton_interpreter.py)."""

from __future__ import annotations

import pytest

from tests.ops.interpreter import FOLDER, run, why_not


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_attention_in_the_interpreter():
    run(FOLDER / "check_attention.py")
