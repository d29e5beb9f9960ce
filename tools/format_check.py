"""Whether csrc is in the style of .clang-format: ``python tools/format_check.py [--write] [FILE ...]``.

Files that were there before the style was written down stand in PENDING; each leaves the list when it is next changed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Below csrc; not yet in the style.
_PENDING = """
    cpu/attention_backward.cpp cpu/attention_forward.cpp cpu/attention_tiles.cpp cpu/bind_attention.cpp
    cpu/bind_gated_mlp.cpp cpu/bind_ghost_gram.cpp cpu/bind_linear.cpp cpu/bind_linear_cross_entropy.cpp
    cpu/bind_low_rank_apply.cpp cpu/bind_norm.cpp cpu/bind_rope.cpp cpu/gated_mlp.cpp cpu/gemm.cpp
    cpu/ghost_gram.cpp cpu/head_adjoints.cpp cpu/head_chunk.cpp cpu/linear_cross_entropy.cpp
    cpu/low_rank_apply.cpp cpu/attention.h cpu/attention_tiles.h cpu/cross_entropy_kernels.h
    cpu/gated_mlp_kernels.h cpu/gemm_kernels.h cpu/head_chunk.h cpu/isa.h cpu/linear_cross_entropy.h
    cpu/simd_math.h cpu/isa/attention_softmax.cpp cpu/isa/cross_entropy_tiles.cpp cpu/isa/gated_mlp_kernels.cpp
    cpu/isa/gemm_bfloat16.cpp cpu/isa/low_rank_apply_kernels.cpp cuda/bindings.cpp cuda/explicit_rows.cu
    cuda/ghost_gram.cu cuda/ghost_gram_tensor.cu cuda/numbers.h cuda/sample_sums.h cuda/small_cholesky.cu
    cuda/weighted_gradient.cu
"""
PENDING = frozenset(_PENDING.split())


def sources() -> list[Path]:
    return sorted(p for kind in ("*.cpp", "*.h", "*.cu") for p in (ROOT / "csrc").rglob(kind))


def formatted(path: Path) -> str:
    beside = Path(sys.executable).parent / "clang-format"  # that of this environment, before any other
    command = [str(beside) if beside.exists() else "clang-format", "--style=file", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="rewrite what differs")
    options = parser.parse_args()
    every = [path.resolve() for path in options.files] or sources()
    wrong = []
    for path in every:
        name = path.relative_to(ROOT / "csrc").as_posix()
        if name in PENDING and not options.files:
            continue
        found = formatted(path)
        if found != path.read_text(encoding="utf-8"):
            wrong.append(name)
            if options.write:
                path.write_text(found, encoding="utf-8")
    done = "rewritten" if options.write else "not in the style of .clang-format"
    for name in wrong:
        print(f"csrc/{name}: {done}")
    if not wrong:
        print(f"csrc: {len(every)} files, {len(PENDING)} of them pending, the others in style")
    return 1 if wrong and not options.write else 0


if __name__ == "__main__":
    raise SystemExit(main())
