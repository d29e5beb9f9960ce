"""Influence scores against a dense solve in float64, and against leaving records out of a convex fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.head import HeadSource
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.samples import to_samples
from fastunlearn.operators.sources import LinearSource
from fastunlearn.operators.targets import sample_labels
from tests.oracles.dense import plain_rows

DAMPING = 1e-2


@pytest.mark.parametrize("kind", ["empirical", "sampled"])
def test_it_is_the_dense_solve(kind, tiny_llama, batch):
    model = tiny_llama(layers=1)
    train, query = to_samples(batch)[:4], to_samples(batch)[4:]
    g, q = plain_rows(model, train), plain_rows(model, query)
    h = (
        g
        if kind == "empirical"
        else plain_rows(model, sample_labels(model, train, pad_token_id=0, batch_size=4, seed=3))
    )
    dense = DAMPING * torch.eye(g.shape[1], dtype=torch.float64) + h.T @ h / len(h)
    found = fu.influence(model, train, query, damping=DAMPING, kind=kind, seed=3)
    solved = torch.linalg.solve(dense, g.T)
    torch.testing.assert_close(found.scores, q @ solved / len(g), rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(found.self_influence, (g @ solved).diagonal() / len(g), rtol=1e-8, atol=1e-11)


def test_blocks_are_solved_apart(tiny_llama, batch):
    model = tiny_llama(layers=1)
    train, query = to_samples(batch)[:4], to_samples(batch)[4:]
    g, q, truth, at = plain_rows(model, train), plain_rows(model, query), 0, 0
    for p in model.parameters():
        some = slice(at, at + p.numel())
        at += p.numel()
        dense = DAMPING * torch.eye(p.numel(), dtype=torch.float64) + g[:, some].T @ g[:, some] / len(g)
        truth = truth + q[:, some] @ torch.linalg.solve(dense, g[:, some].T) / len(g)
    found = fu.influence(model, train, query, damping=DAMPING, blocks="tensor")
    torch.testing.assert_close(found.scores, truth, rtol=1e-8, atol=1e-11)


def kronecker_fishers(model, samples, rows, corrected, damping):
    """The dense blocks of F with (E)K-FAC's matrices, by parameter; ``rows`` (m, P): the gradients of its labels."""
    own, at = SampleGradients(model, samples, pad_token_id=0), 0
    for name, sources in own.passes():
        size = own.parameters[name].numel()
        g, at = rows[:, at : at + size], at + size
        if isinstance(sources[0], LinearSource):
            a, b = sources[0].x.T @ sources[0].x / len(sources[0].x), sources[0].g.T @ sources[0].g / len(samples)
            halves = (a, b) if sources[0].transposed else (b, a)
            block = torch.kron(*halves)
            if corrected:
                q = torch.kron(*(torch.linalg.eigh(one)[1] for one in halves))
                block = q @ torch.diag((g @ q).square().mean(0)) @ q.T
        else:
            block = torch.diag(g.square().mean(0))
        own_damping = 0.1 * block.trace() / size if damping is None else damping
        yield block + own_damping * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("damping", [DAMPING, None])
@pytest.mark.parametrize("kind", ["empirical", "sampled"])
@pytest.mark.parametrize(("curvature", "family"), [("kfac", "llama"), ("ekfac", "llama"), ("ekfac", "gpt2")])
def test_kronecker_factors_are_the_dense_solve(curvature, family, kind, damping, tiny_llama, tiny_gpt2, batch):
    model = tiny_llama(layers=1) if family == "llama" else tiny_gpt2(layers=1, tied=False)
    train, query = to_samples(batch)[:4], to_samples(batch)[4:]
    g, q = plain_rows(model, train), plain_rows(model, query)
    drawn = train if kind == "empirical" else sample_labels(model, train, pad_token_id=0, batch_size=4, seed=3)
    scores, own, at = torch.zeros(len(q), len(g), dtype=torch.float64), torch.zeros(len(g), dtype=torch.float64), 0
    fishers = kronecker_fishers(model, drawn, plain_rows(model, drawn), curvature == "ekfac", damping)
    for dense in fishers:
        some = slice(at, at + len(dense))
        at += len(dense)
        solved = torch.linalg.solve(dense, g[:, some].T)
        scores += q[:, some] @ solved / len(g)
        own += (g[:, some] @ solved).diagonal() / len(g)
    found = fu.influence(model, train, query, damping=damping, kind=kind, curvature=curvature, seed=3)
    torch.testing.assert_close(found.scores, scores, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found.self_influence, own, rtol=1e-7, atol=1e-10)
    assert found.damping == damping and at == g.shape[1]


def test_kronecker_factors_do_not_depend_on_the_memory(tiny_llama):
    """With little memory the layers come one by one, the output layer without its gradients, and tiles of few rows."""
    model, rows = tiny_llama(layers=3), torch.randint(3, 37, (40, 4), generator=torch.Generator().manual_seed(0))
    little, batch = "0.0006GB", {"input_ids": rows, "labels": rows}
    taken = SampleGradients(model, to_samples(batch), pad_token_id=0, batch_size=4, memory=little)
    assert HeadSource in {type(sources[0]) for _, sources in taken.passes()}
    shared = {"damping": DAMPING, "curvature": "ekfac", "batch_size": 4}
    found, truth = (fu.influence(model, batch, batch, memory=memory, **shared) for memory in (little, "1GB"))
    torch.testing.assert_close(found.scores, truth.scores, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(found.self_influence, truth.self_influence, rtol=1e-8, atol=1e-11)


def test_it_foretells_what_leaving_a_record_out_does(tiny_llama, batch):
    """Only the output layer is trained, with weight decay: a convex problem, brought to its minimum by Newton steps."""
    model = tiny_llama(layers=1)
    head, decay = model.lm_head.weight, 2.0
    samples = to_samples(batch)
    hidden = [model.model(input_ids=s.input_ids[None]).last_hidden_state[0, :-1].detach() for s in samples]

    def losses(weight):
        return torch.stack([F.cross_entropy(x @ weight.T, s.labels[1:], reduction="sum", ignore_index=-100)
                            for x, s in zip(hidden, samples, strict=True)])  # fmt: skip

    def fit(shares):
        weight = head.detach().clone()

        def objective(flat):
            weight = flat.view_as(head)
            return (shares * losses(weight)).sum() / 5 + decay / 2 * weight.square().sum()

        flat = weight.flatten()
        for _ in range(8):
            g = torch.func.grad(objective)(flat)
            flat = flat - torch.linalg.solve(torch.func.hessian(objective)(flat), g)
        assert torch.func.grad(objective)(flat).norm() < 1e-8
        return flat.view_as(head)

    train, all_ = [0, 1, 2, 3, 4], torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=torch.float64)
    whole = fit(all_)
    with torch.no_grad():
        head.copy_(whole)
    # each record forty times, with labels drawn anew each time: F is then close to the Hessian, its mean
    copies = [samples[i] for _ in range(40) for i in train]
    found = fu.influence(model, copies, [samples[5]], damping=decay, kind="sampled", params=["lm_head.weight"], seed=1)
    found = found.scores[0].view(40, len(train)).sum(0)
    part = 0.05  # of a record is left out: the prediction is of first order
    truth = torch.stack([
        (losses(fit(all_ - part * F.one_hot(torch.tensor(i), 6)))[5] - losses(whole)[5]) / part for i in train
    ]).detach()  # fmt: skip
    assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.95
    assert 0.6 < found.norm() / truth.norm() < 1.6  # not only in order, but in nats


def test_the_strongest_come_first_and_are_drawn(tiny_llama, batch):
    samples = to_samples(batch)
    found = fu.influence(tiny_llama(layers=1), samples, samples[2:3], damping=DAMPING)
    top = found.top(0, 3)
    assert top[0][0] == 2  # a record matters most to itself
    assert top[0][1] == pytest.approx(float(found.self_influence[2]))
    assert [abs(score) for _, score in top] == sorted((abs(score) for _, score in top), reverse=True)
    assert "sample 2" in found.svg(0, k=3) and "sample" in found.svg()


def test_bad_arguments_are_named(tiny_llama, batch):
    with pytest.raises(InvalidInputError, match="kind"):
        fu.influence(tiny_llama(), batch, batch, damping=1.0, kind="exact")
    with pytest.raises(InvalidInputError, match="damping"):
        fu.influence(tiny_llama(), batch, batch, damping=0.0)
    with pytest.raises(InvalidInputError, match="damping=0"):
        fu.influence(tiny_llama(), batch, batch, damping=0, curvature="ekfac")
    with pytest.raises(InvalidInputError, match=r"damping=None is for curvature='kfac' and 'ekfac'"):
        fu.influence(tiny_llama(), batch, batch, damping=None)
    with pytest.raises(InvalidInputError, match="curvature='woodbury' is unknown; use one of exact, kfac, ekfac"):
        fu.influence(tiny_llama(), batch, batch, damping=1.0, curvature="woodbury")
    with pytest.raises(InvalidInputError, match="leave blocks out"):
        fu.influence(tiny_llama(), batch, batch, damping=1.0, curvature="kfac", blocks="layer")
    with pytest.raises(InvalidInputError, match="blocks='row'"):
        fu.influence(tiny_llama(), batch, batch, damping=1.0, curvature="kfac", blocks="row")


def test_a_weight_without_gradients_has_no_damping_of_its_own(tiny_llama, batch):
    """All heads' outputs are cut off, so that no sample has a gradient in the value projection."""
    model = tiny_llama(layers=1)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    with pytest.raises(InvalidInputError, match=r"damping=None.*_proj\.weight' is 0"):
        fu.influence(model, batch, batch, damping=None, curvature="ekfac")
    assert fu.influence(model, batch, batch, damping=DAMPING, curvature="ekfac").scores.isfinite().all()
