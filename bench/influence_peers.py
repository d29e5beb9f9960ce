"""Influence scores by kronfluence and TRAK, as they come: (queries, training rows), above 0 for what helped."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["kronfluence_scores", "trak_scores"]


def _token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


def kronfluence_scores(
    model: nn.Module, rows: Tensor, queries: Tensor, *, folder: str, kind: str, damping: float | None
) -> Tensor:
    """EK-FAC over all linear layers of the model; the package's defaults are kind="sampled" and damping=1e-8. None:
    a tenth of the mean eigenvalue of each layer."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch.utils.data import Dataset

    class Rows(Dataset):
        def __init__(self, ids: Tensor):
            self.ids = ids

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, i: int) -> Tensor:
            return self.ids[i]

    class LanguageModelling(Task):
        def compute_train_loss(self, batch, model, sample=False):
            logits = model(input_ids=batch).logits.float()
            if not sample:
                return _token_losses(logits, batch).sum()
            with torch.no_grad():
                flat = logits[:, :-1].flatten(0, 1).softmax(-1)
                drawn = torch.multinomial(flat, 1).flatten()
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), drawn, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]

        def get_attention_mask(self, batch):
            return None

    task = LanguageModelling()
    task.model = model
    torch.manual_seed(1)
    analyzer = Analyzer("lds", prepare_model(model, task), task, cpu=True, output_dir=folder, disable_tqdm=True)
    arguments = FactorArguments(strategy="ekfac", use_empirical_fisher=kind == "empirical")
    analyzer.fit_all_factors("ekfac", Rows(rows), per_device_batch_size=16, factor_args=arguments)
    analyzer.compute_pairwise_scores(
        "scores", "ekfac", query_dataset=Rows(queries), train_dataset=Rows(rows),
        per_device_query_batch_size=len(queries), per_device_train_batch_size=16,
        score_args=ScoreArguments(damping_factor=damping),
    )  # fmt: skip
    return analyzer.load_pairwise_scores("scores")["all_modules"]


def trak_scores(model: nn.Module, rows: Tensor, queries: Tensor, *, folder: str) -> Tensor:
    """One checkpoint; the output is the sum over tokens of log p - log(1 - p), as TRAK has it for classification."""
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import BasicProjector, ProjectionType

    class Margin(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model, weights, buffers, ids):
            logits = torch.func.functional_call(model, (weights, buffers), (ids[None],)).logits
            log_p = -_token_losses(logits, ids[None])
            return (log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))).sum()

        @staticmethod
        def get_out_to_loss_grad(model, weights, buffers, batch):
            (ids,) = batch
            logits = torch.func.functional_call(model, (weights, buffers), (ids,)).logits
            p = (-_token_losses(logits, ids)).exp().view(len(ids), -1)
            return (1 - p).mean(1, keepdim=True).detach()

    size = sum(p.numel() for p in model.parameters())
    projector = BasicProjector(  # two blocks: with one, it frees its matrix and does not make it again
        grad_dim=size, proj_dim=64, block_size=32, seed=0, proj_type=ProjectionType.rademacher, device="cpu"
    )
    tracer = TRAKer(
        model, Margin(), train_set_size=len(rows), save_dir=str(Path(folder) / "trak"), device="cpu",
        projector=projector, proj_dim=64, use_half_precision=False, logging_level=40,
    )  # fmt: skip
    tracer.load_checkpoint(model.state_dict(), model_id=0)
    for start in range(0, len(rows), 16):
        tracer.featurize(batch=(rows[start : start + 16],), num_samples=len(rows[start : start + 16]))
    tracer.finalize_features()
    tracer.start_scoring_checkpoint("lds", model.state_dict(), model_id=0, num_targets=len(queries))
    tracer.score(batch=(queries,), num_samples=len(queries))
    return torch.as_tensor(tracer.finalize_scores("lds")).T
