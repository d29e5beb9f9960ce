"""Hessian- and Gauss-Newton-vector products of whole models: ours, and the peers as they come."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from . import peers
from .harness import OURS, Peaks, Way
from .shapes import empty_model, make_batch, make_model, make_vector

__all__ = ["GRADIENT", "UNITS", "Setting", "cases", "limit", "ours", "truth", "ways", "weights_in_products"]

GRADIENT = "PyTorch gradient, SDPA"
#: Multiplications by all weights that a product takes at least.
UNITS = {"hessian": 8, "ggn": 5}
#: The largest problem, in weights x tokens, that double backward in float64 checks; above, the dual pass in float64.
CHECKED = 42e6 * 512 * 2


class Setting:
    """Models and inputs of one case, each made when first asked for, so that a way's memory is its own.

    ``case``: "shape" or "model" (a folder), "tokens", and where wanted "batch", "dtype", "kind"."""

    def __init__(self, case: dict, device: str = "cpu"):
        self.case, self.device = case, device
        self.dtype = getattr(torch, case.get("dtype", "float32"))

    @functools.cache  # noqa: B019  lives as long as the process
    def model(self, attention: str) -> nn.Module:
        if self.case.get("model") is None:
            return make_model(self.case["shape"], attention=attention, dtype=self.dtype, device=self.device)
        from fastunlearn.storage import load_model

        model = load_model(self.case["model"], dtype=self.dtype, device=self.device)[0]
        model.set_attn_implementation(attention)
        model.config.use_cache = False
        return model

    @functools.cached_property
    def batch(self) -> dict[str, Tensor]:
        return make_batch(self.model("sdpa"), self.case["tokens"], self.case.get("batch", 1))

    @functools.cached_property
    def vector(self) -> Tensor:
        return make_vector(self.model("sdpa"))

    def prepare(self, attention: str, precision: str) -> None:
        self.model(attention)
        self.batch, self.vector  # noqa: B018
        torch.set_float32_matmul_precision(precision)


def ours(setting: Setting) -> Tensor:
    import fastunlearn as fu

    operator = fu.Hessian if setting.case["kind"] == "hessian" else fu.GGN
    return operator(setting.model("sdpa"), [setting.batch]) @ setting.vector


def cases(common: dict) -> list[dict]:
    return [{"kind": kind, "name": f"{label}-vector product", **common}
            for kind, label in (("hessian", "Hessian"), ("ggn", "Gauss-Newton"))]  # fmt: skip


def ways(case: dict, device: str = "cpu") -> list[Way]:
    """Ours first; then the peers that are installed, unless ``case["peers"]`` says no."""
    setting, precision = Setting(case, device), case.get("precision", "highest")

    def peer(name: str, attention: str, product) -> Way:
        def run() -> Tensor:
            torch.set_float32_matmul_precision(precision)
            try:
                return product(setting.model(attention), setting.batch, setting.vector)
            finally:
                torch.set_float32_matmul_precision("highest")

        return Way(name, run, functools.partial(setting.prepare, attention, precision), ours=False)

    found = [Way(OURS, functools.partial(ours, setting), functools.partial(setting.prepare, "sdpa", "highest"))]
    if case.get("peers", True):
        table = peers.HESSIAN if case["kind"] == "hessian" else peers.GGN
        found += [peer(name, *one) for name, one in table.items() if peers.installed(name)]
    return found


def truth(case: dict, device: str = "cpu") -> tuple[str, Tensor]:
    """What the results are held to, and its name: double backward in float64 where that fits and the product is a
    Hessian's; else the dual pass in float64, which tests hold to dense matrices."""
    torch.set_float32_matmul_precision("highest")
    exact = Setting({**case, "dtype": "float64"}, device)
    size = sum(p.numel() for p in exact.model("eager").parameters())
    if case["kind"] == "hessian" and size * case["tokens"] * case.get("batch", 1) <= CHECKED:
        product = peers.HESSIAN["double backward"][1]
        return "double backward, float64", product(exact.model("eager"), exact.batch, exact.vector)
    return "dual pass, float64", ours(exact)


def weights_in_products(model: nn.Module) -> int:
    """How many weights each token is multiplied with."""
    count = sum(p.numel() for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name)
    tied = model.config.tie_word_embeddings
    return count + (model.get_input_embeddings().weight.numel() if tied else 0)


def limit(case: dict, peaks: Peaks) -> float:
    """Seconds at the GEMM peak, attention's own products left out."""
    count = weights_in_products(empty_model(case["shape"], case.get("model")))
    flop = 2 * UNITS[case["kind"]] * count * case["tokens"] * case.get("batch", 1)
    return flop / (peaks.gflop_per_s * 1e9)
