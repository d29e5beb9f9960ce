"""The package on a GPU, pretended (tests/emulated_cuda/device.py): no tensor is left on the CPU, and values are those
of the CPU. CUDA kernels run emulated; with Triton's, in the interpreter: tests/ops/interpreted/check_on_a_gpu.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

import fastunlearn as fu
from fastunlearn.audit.attacks import ATTACKS, run_attacks
from fastunlearn.audit.measure import measure
from fastunlearn.audit.metrics import evaluate_metrics
from fastunlearn.data.encode import encode
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.optim import NaturalGradient, Sophia
from fastunlearn.private_training import train_private
from fastunlearn.solve import KFAC, cg, lanczos, minres, nystrom, sketched_gram, solve_in_sample_space
from fastunlearn.training import train
from fastunlearn.unlearn import METHODS
from tests.unlearn.conftest import trained, world  # noqa: F401
from tests.unlearn.running import DESCENTS, run

PAD = {"pad_token_id": 0}
DEVICES = ("cpu", "cuda")


def flat(found) -> list[torch.Tensor]:
    """The tensors and numbers of a result, on the CPU."""
    if isinstance(found, torch.Tensor):
        return [found.detach().cpu().double()]
    if isinstance(found, bool | str) or found is None:
        return []
    if isinstance(found, int | float):
        return [torch.tensor(float(found), dtype=torch.float64)]
    values = found.values() if isinstance(found, dict) else found
    return [tensor for value in values for tensor in flat(value)]


def same(some, others, limit: float) -> None:
    some, others = flat(some), flat(others)
    assert len(some) == len(others) and some
    for one, other in zip(some, others, strict=True):
        scale = one.abs().max().clamp_min(1e-6) if one.numel() else 1.0
        assert one.shape == other.shape and bool(((one - other).abs() <= limit * scale).all())


@pytest.fixture
def subject(world, tmp_path):  # noqa: F811
    """A trained model, and its records as samples."""
    sets = {name: encode(records, world.tokenizer, max_length=32) for name, records in world.data.items()}
    return SimpleNamespace(model=world.model, tokenizer=world.tokenizer, folder=tmp_path, **sets)


def batch(samples, device: str) -> dict[str, torch.Tensor]:
    width = max(len(sample.input_ids) for sample in samples)
    rows = [list(sample.input_ids) + [0] * (width - len(sample.input_ids)) for sample in samples]
    ids = torch.tensor(rows, device=device)
    labels = torch.where(ids == 0, -100, ids)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def vector(matrix, device: str, *columns: int) -> torch.Tensor:
    return torch.randn(matrix.shape[0], *columns, generator=torch.Generator().manual_seed(5)).to(device)


def products(kind: str):
    def job(s, device):
        matrix = getattr(fu, kind)(s.model, batch(s.retain[:5], device))
        found = matrix @ vector(matrix, device), matrix @ vector(matrix, device, 2)
        assert all(one.device.type == device for one in found)
        return found

    return job


def first_order(s, device):
    data = batch(s.retain[:5], device)
    v = vector(fu.GGN(s.model, data), device)
    own = fu.per_sample_dot(s.model, data, v)
    return fu.gradient(s.model, data), fu.jvp(s.model, data, v), own, fu.weighted_gradient(s.model, data, own)


def low_rank(file: bool = False, records: int = 12, **options):
    def job(s, device):
        where = {"path": str(s.folder / device)} if file else {}
        fisher = fu.LowRankFisher(s.model, s.retain[:records], 1e-2, batch_size=5, **PAD, **options, **where)
        v = vector(fisher, device)
        found = [fisher.solve(v), fisher @ v, fisher.power(-0.25, v), fisher.diag(), fisher.logdet()]
        if options.get("kind") != "ggn":
            found.append(fisher.solve_samples(torch.ones(fisher.samples, device=device)))
        return found

    return job


def kronecker(s, device):
    gradients = SampleGradients(s.model, s.retain[:9], **PAD)
    factors = KFAC(gradients, 1e-2, corrected=True, own_gram=True)
    other = SampleGradients(s.model, s.forget[:4], **PAD)
    v = {name: torch.ones_like(p) for name, p in s.model.named_parameters()}
    return factors.own_gram, factors.products(gradients, other), factors.solve(v), factors.logdet()


def solves(s, device):
    ggn = fu.GGN(s.model, batch(s.retain[:5], device)).damped(1e-1)
    v = vector(ggn, device)
    return cg(ggn, v, max_iterations=5).value, minres(ggn, v, max_iterations=5).value


def eigenpairs(s, device):
    ggn = fu.GGN(s.model, batch(s.retain[:5], device))
    return nystrom(ggn, 4, damping=1e-2).values, lanczos(ggn, 2, tolerance=1e-2).values


def analysis(s, device):
    hessian = fu.Hessian(s.model, batch(s.retain[:5], device))
    found = fu.spectrum(hessian, probes=1, steps=4)
    sharpness = fu.sharpness(s.model, batch(s.retain[:5], device), steps=4)
    return found.largest.value, fu.trace(hessian, products=6).value, sharpness.value


def influences(curvature: str):
    def job(s, device):
        return fu.influence(s.model, s.retain[:9], s.forget[:3], damping=1e-2, curvature=curvature, **PAD).scores

    return job


def sample_space(s, device):
    gradients = SampleGradients(s.model, s.retain[:9], **PAD)
    gram = sketched_gram(gradients, 4)
    weights, _ = solve_in_sample_space(gradients, torch.ones(9, device=device), 1e-1, gram=gram, max_iterations=4)
    return gram, weights


def sophia(s, device):
    optimizer = Sophia(s.model.parameters(), 1e-3)
    for _ in range(2):
        data = batch(s.retain[:5], device)
        s.model(**data).loss.backward()
        if optimizer.curvature_due:
            optimizer.update_curvature(s.model, data)
        optimizer.step()
        optimizer.zero_grad()
    return list(s.model.parameters())


def natural(s, device):
    optimizer = NaturalGradient(s.model.parameters())
    for _ in range(2):
        optimizer.backward(s.model, batch(s.retain[:5], device))
        optimizer.step()
        optimizer.zero_grad()
    return list(s.model.parameters())


def changed(s, device):
    fisher = fu.LowRankFisher(s.model, s.retain[:12], 1e-2, batch_size=5, **PAD)
    fisher.remove(s.retain[:3])
    fisher.add(s.forget[:2])
    path = s.folder / f"{device}.safetensors"
    fisher.save(path)
    v = vector(fisher, device)
    return fisher.solve(v), fu.LowRankFisher.load(path, s.model).solve(v)


def accelerated(s, device):
    data = batch(s.retain[:3], device)
    weights = list(s.model.parameters())
    with fu.accelerated():
        first = torch.autograd.grad(s.model(**data).loss, weights, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), weights)


def training(s, device):
    train(s.model, s.retain[:9], steps=3, learning_rate=1e-3, seed=0, **PAD)
    return list(s.model.parameters())


def private(s, device):
    train_private(s.model, s.retain[:9], steps=2, batch_size=3, noise=1.0, seed=0, **PAD)
    return list(s.model.parameters())


def report(s, device):
    reference = copy.deepcopy(s.model)
    return measure(
        s.model, forget=s.forget, retain=s.retain, held_out=s.held_out, reference=reference, resamples=20, **PAD
    )  # fmt: skip


def attacks(s, device):
    sets = {"forget": s.forget, "retain": s.retain, "held_out": s.held_out}
    names = [name for name in ATTACKS if name != "paraphrase"]
    found = run_attacks(s.model, s.tokenizer, sets, names, settings={"relearn": {"steps": 2}}, resamples=20, **PAD)
    return {name: attack["measures"] for name, attack in found.items()}


def metrics(s, device):
    sets = {"forget": s.forget, "retain": s.retain, "held_out": s.held_out}
    return evaluate_metrics(s.model, s.tokenizer, sets, reference=copy.deepcopy(s.model), resamples=20, **PAD)


JOBS: dict[str, Callable] = {
    "Hessian": products("Hessian"), "GGN": products("GGN"), "Fisher": products("Fisher"), "first order": first_order,
    "low rank": low_rank(), "low rank, sampled, by tensor": low_rank(kind="sampled", blocks="tensor"),
    "low rank, streamed": low_rank(memory="1MB"), "low rank, bfloat16": low_rank(precision="bfloat16"),
    "low rank, float64": low_rank(precision="float64", params=["*norm*"]),
    "low rank, stored": low_rank(blocks=4000, storage="int8"),
    "low rank, in a file": low_rank(blocks=4000, storage="bfloat16", file=True),
    "low rank, exact GGN": low_rank(kind="ggn", records=1),
    "low rank, changed and kept": changed, "sample space": sample_space, "Sophia": sophia, "natural gradient": natural,
    "Kronecker": kronecker, "solves": solves, "eigenpairs": eigenpairs, "analysis": analysis,
    "influence": influences("exact"), "influence, EK-FAC": influences("ekfac"), "accelerated": accelerated,
    "training": training, "private training": private, "report": report, "attacks": attacks, "metrics": metrics,
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_values_are_those_of_the_cpu(name, subject, gpu):
    found = []
    for device in DEVICES:
        with gpu(device):
            mine = SimpleNamespace(**vars(subject))
            mine.model = copy.deepcopy(subject.model).to(device)
            found.append(flat(JOBS[name](mine, device)))
    # On matrix units a factor kept in bfloat16 is rounded once more, times its sample's weight: by 2^-9 at most.
    same(*found, limit=2.0**-9 if name == "low rank, bfloat16" else 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_unlearning(method, world, gpu):  # noqa: F811
    options: dict = {"gradients": 60} if method in DESCENTS else {}
    if hasattr(METHODS[method].settings(), "steps") and method not in DESCENTS:
        options["steps"] = 2 if method in ("fisher-removal", "kronecker-removal") else 1
    options |= {"rehearsals": 1} if "rehearsed" in method else {}
    after = []
    for device in DEVICES:
        with gpu(device):
            mine = SimpleNamespace(**vars(world))
            mine.model = copy.deepcopy(world.model).to(device)
            run(mine, method, **options)
            assert all(p.device.type == device for p in mine.model.parameters())
            after.append(flat(list(mine.model.parameters())))
    same(*after, limit=1e-3)
    assert any(
        not torch.equal(one, old) for one, old in zip(after[1], flat(list(world.model.parameters())), strict=True)
    )


def test_a_tensor_that_was_left_behind_is_found(gpu):
    with gpu("cuda"):
        there = torch.ones(3, device="cuda")
        assert there.is_cuda and (there * 2 + torch.tensor(1.0)).device.type == "cuda"
        assert there.cpu().device.type == "cpu" and torch.zeros(3).device.type == "cpu"
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        left = torch.ones(3, requires_grad=True)
        moved = left.to("cuda")
        (moved * there).sum().backward()
        assert not left.grad.is_cuda
    assert torch.ones(3).device.type == "cpu"
