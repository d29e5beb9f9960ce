"""Times of the GPU kernels beside what else computes the same: what ``bench/device.sh`` runs for its timed parts.

    python -m bench.device.timings --out FOLDER [--only attention ...]
    python -m bench.device.timings --out FOLDER --device cpu --toy     a dry run on tiny shapes; its times mean nothing

Writes <gpu>-<subject>.json, such as h200-attention.json. Medians of CUDA events after warm-up; peak memory is the
allocator's, above what was there before. A way that runs out of memory or raises is recorded with its message. Rates
are shares of what a plain matrix product (or copy) reached in the same run, not of a data sheet. Whether results are
right is ``bench.device.check``'s to say; here errors stand beside PyTorch's own where float64 fits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.device import attention, newton, output_layer, pointwise, sample_space, whole_model
from bench.device.measure import Bench, prefix
from fastunlearn.microbench.harness import write_json

SUBJECTS = {
    "attention": attention.attention, "cross-entropy": output_layer.cross_entropy, "ghost-gram": sample_space.gram,
    "explicit-rows": sample_space.rows, "weighted-gradient": sample_space.weighted, "systems": sample_space.systems,
    "pointwise": pointwise.pointwise, "accuracy": whole_model.accuracy, "hvp": whole_model.hvp,
    "hvp-large": whole_model.large_hvp, "newton": newton.newton,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny shapes")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=SUBJECTS, action="append")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    options = parser.parse_args()
    bench = Bench(options.device, options.toy, options.rounds)
    for subject in options.only or SUBJECTS:
        torch.manual_seed(0)
        cases = SUBJECTS[subject](bench)
        settings = {"dtype": "bfloat16", "rounds": bench.rounds, "toy": options.toy,
                    "product_operations_per_second": bench.product_rate}  # fmt: skip
        path = options.out / f"{prefix(options.device)}-{subject}.json"
        write_json(path, f"GPU: {subject}", settings, cases, options.device)
        for case in cases:
            print({k: v for k, v in case.items() if k != "ways"})
            for name, result in case["ways"].items():
                shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in result.items()}
                print("   ", name, shown, flush=True)


if __name__ == "__main__":
    main()
