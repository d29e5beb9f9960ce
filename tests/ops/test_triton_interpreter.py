"""Every Triton kernel in Triton's interpreter, float32, against the reference in float64; attention's have a file of
their own (test_attention_interpreter.py), as two processes share the tests by files.

Products of bfloat16 are wrong in the interpreter: half precision is compiled ahead of time here
(test_triton_compiles.py), and runs on a GPU (bench/device.sh check).
"""

from __future__ import annotations

import pytest

from tests.ops.interpreter import FOLDER, run, why_not

FILES = sorted(set(FOLDER.glob("check_*.py")) - {FOLDER / "check_attention.py"})
assert len(FILES) >= 4


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_kernels_in_the_interpreter(file, emulated_cuda):
    run(file)
