"""These checks run in Triton's interpreter (see tests/ops/interpreter.py)."""

from __future__ import annotations

from tests.ops.interpreter import patch_once

patch_once()
