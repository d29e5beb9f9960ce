"""kronfluence: its scores ``g_query^T F^-1 g_train`` against ours, on one tiny Llama.

The definitions are the same for EK-FAC and for no preconditioner. Two things differ and are set right here. Our A and B
leave out tokens whose output has no gradient: the last of each sequence, so theirs are masked; and for q_proj the
first, which attends to itself alone, so that layer is left out. Their K-FAC divides B by the number of tokens, ours by
that of samples (``F`` is a mean over samples), so that theirs is m / N times ours.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import Dataset

from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.solve.kfac import KFAC

pytest.importorskip("accelerate")
kronfluence = pytest.importorskip("kronfluence", exc_type=ImportError)

DAMPING = 1e-3
LINEAR = "*[kvopen]_proj.weight"  # all but q_proj


def make_task(kronfluence_task):
    class Task(kronfluence_task):
        def compute_train_loss(self, batch, model, sample=False):
            assert not sample
            ids = batch["input_ids"]
            logits = model(input_ids=ids, use_cache=False).logits
            return torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
            )

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            attention = [f"self_attn.{name}_proj" for name in "kvo"]
            mlp = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
            return [f"model.layers.{i}.{name}" for i in range(2) for name in (*attention, *mlp)]

        def get_attention_mask(self, batch):
            mask = torch.ones_like(batch["input_ids"])
            mask[:, -1] = 0
            return mask

    return Task()


class Sequences(Dataset):
    def __init__(self, ids: torch.Tensor):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict:
        return {"input_ids": self.ids[i]}


@pytest.fixture
def case(tiny_llama):
    model = tiny_llama(torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    generator = torch.Generator().manual_seed(0)
    train, query = (torch.randint(3, 37, (count, 9), generator=generator) for count in (12, 3))
    return model, train, query


def their_scores(case, strategy: str, folder) -> torch.Tensor:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    model, train, query = case
    task = make_task(Task)
    prepared = prepare_model(copy.deepcopy(model), task)
    analyzer = Analyzer("case", prepared, task, cpu=True, output_dir=str(folder), disable_tqdm=True,
                        disable_model_save=True)  # fmt: skip
    wide = {"activation_covariance_dtype": torch.float64, "gradient_covariance_dtype": torch.float64}
    arguments = FactorArguments(strategy=strategy, use_empirical_fisher=True, **wide)
    analyzer.fit_all_factors("factors", dataset=Sequences(train), per_device_batch_size=4, factor_args=arguments)
    analyzer.compute_pairwise_scores(
        "scores", "factors", query_dataset=Sequences(query), train_dataset=Sequences(train),
        per_device_query_batch_size=3, per_device_train_batch_size=4, score_args=ScoreArguments(damping_factor=DAMPING),
    )  # fmt: skip
    return analyzer.load_pairwise_scores("scores")["all_modules"]


def our_scores(case, kind: str) -> torch.Tensor:
    import fnmatch

    from fastunlearn.data.encode import Encoded

    model, train, query = case
    chosen = {n: p for n, p in model.named_parameters() if fnmatch.fnmatchcase(n, LINEAR)}
    sides = [
        SampleGradients(model, [Encoded(ids, ids) for ids in side], pad_token_id=0, parameters=chosen)
        for side in (train, query)
    ]
    if kind == "identity":
        return sides[1].dense() @ sides[0].dense().T
    damping = DAMPING
    if kind == "kfac":  # theirs is m / N times ours, and their damping is added to theirs
        tokens = train.shape[0] * (train.shape[1] - 1)
        damping = DAMPING * tokens / train.shape[0]
    factors = KFAC(sides[0], damping, corrected=kind == "ekfac")
    rows = []
    for row in sides[1].dense():
        parts = row.split([p.numel() for p in chosen.values()])
        v = {name: part.view(p.shape) for (name, p), part in zip(chosen.items(), parts, strict=True)}
        rows.append(torch.cat([part.flatten() for part in factors.solve(v).values()]))
    scores = torch.stack(rows) @ sides[0].dense().T
    return scores * (damping / DAMPING) if kind == "kfac" else scores


@pytest.mark.parametrize(("kind", "tolerance"), [("identity", 1e-5), ("ekfac", 1e-4), ("kfac", 1e-4)])
def test_the_same_scores(case, kind, tolerance, tmp_path):
    ours, theirs = our_scores(case, kind), their_scores(case, kind, tmp_path)
    assert ours.shape == theirs.shape == (3, 12)
    assert (ours - theirs).norm() < tolerance * theirs.norm()


def test_the_preconditioner_matters(case, tmp_path):
    """The control: without it, or with another damping, the scores are others."""
    plain, corrected = our_scores(case, "identity"), their_scores(case, "ekfac", tmp_path)
    cosine = torch.nn.functional.cosine_similarity(plain.flatten(), corrected.flatten(), 0)
    assert cosine < 0.99
