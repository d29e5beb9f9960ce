"""What may be a batch, how batches weigh, and the user's own loss."""

from __future__ import annotations

import collections
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from tests.operators.conftest import error
from tests.oracles.exact import Exact

EXACT = 1e-10


def vector(operator):
    return torch.randn(operator.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_one_batch_equals_the_models_own_loss(engine, tiny, batches):
    (loss, own) = (fu.gradient(tiny, [batches[0]]), tiny(**batches[0]).loss)
    own.backward()
    assert error(loss, torch.cat([p.grad.flatten() for p in tiny.parameters()])) < EXACT


def test_how_tokens_are_cut_into_batches_does_not_matter(engine, tiny, batches):
    rows = [{n: t[i : i + 1] for n, t in batches[0].items()} for i in range(3)]
    hessian = fu.Hessian(tiny, [batches[0]])
    v = vector(hessian)
    assert error(fu.Hessian(tiny, rows) @ v, hessian @ v) < EXACT


def test_forms_of_batches(engine, tiny, batches):
    expected = fu.gradient(tiny, [batches[0]])
    rows = [{n: t[i] for n, t in batches[0].items()} for i in range(3)]  # samples without a batch axis
    lists = [{n: t.tolist() for n, t in row.items()} for row in rows]
    user = collections.UserDict(batches[0])
    for given in (batches[0], [user], rows, lists, DataLoader(rows, batch_size=3), DataLoader(rows, batch_size=2)):
        assert error(fu.gradient(tiny, given), expected) < EXACT


def test_batches_and_samples_without_targets_count_for_nothing(engine, tiny, batches):
    silent = {**batches[1], "labels": torch.full_like(batches[1]["labels"], -100)}
    hessian = fu.Hessian(tiny, batches)
    v = vector(hessian)
    with_silent = [*batches, silent]
    assert error(fu.Hessian(tiny, with_silent) @ v, hessian @ v) < EXACT
    dots, c = fu.per_sample_dot(tiny, with_silent, v), torch.ones(7, dtype=torch.float64)
    assert dots.shape == (7,) and dots[6] == 0
    assert error(fu.weighted_gradient(tiny, with_silent, c), fu.weighted_gradient(tiny, batches, c[:6])) < EXACT


def squared(model, batch):
    """A loss that is no likelihood: the mean square of the logits over the places that are not padding."""
    logits = model(batch["input_ids"]).logits
    return (logits.square().sum(-1) * batch["attention_mask"]).sum() / batch["input_ids"].shape[0]


def test_own_loss_weighs_batches_by_samples(engine, tiny, batches):
    summed = sum(squared(tiny, batch) * len(batch["input_ids"]) for batch in batches) / 6
    summed.backward()
    expected = torch.cat([p.grad.flatten() for p in tiny.parameters()])
    assert error(fu.gradient(tiny, batches, squared), expected) < EXACT
    assert (
        error(fu.gradient(tiny, batches, loss=squared, batch_weight=lambda b: 2 * len(b["labels"])), expected) < EXACT
    )


def test_own_loss_and_own_weights(engine, tiny, batches):
    weights = {3: 0.5, 1: 2.0, 2: 1.5}
    total = sum(squared(tiny, batch) * weights[len(batch["labels"])] for batch in batches) / 4.0
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in tiny.parameters()])
    found = fu.gradient(tiny, batches, loss=squared, batch_weight=lambda b: weights[len(b["labels"])])
    assert error(found, expected) < EXACT


def test_own_loss_summed(engine, tiny, batches):
    hessians = [fu.Hessian(tiny, [batch], squared) for batch in batches]
    v = vector(hessians[0])
    found = fu.Hessian(tiny, batches, squared, reduction="sum") @ v
    assert error(found, sum(h @ v for h in hessians)) < EXACT
    assert (
        abs(
            fu.jvp(tiny, batches, v, squared, reduction="sum")
            - fu.gradient(tiny, batches, squared, reduction="sum") @ v
        )
        < 1e-9
    )


def test_hessian_of_an_own_loss_against_differences(engine, tiny, batches):
    hessian = fu.Hessian(tiny, batches, squared)
    v = vector(hessian)
    start = torch.nn.utils.parameters_to_vector(tiny.parameters()).detach()
    ends = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(start + sign * 1e-5 * v, tiny.parameters())
        ends.append(fu.gradient(tiny, batches, squared))
    torch.nn.utils.vector_to_parameters(start, tiny.parameters())
    assert error((ends[0] - ends[1]) / 2e-5, hessian @ v) < 1e-6


class LowRank(torch.nn.Module):
    """A LoRA adapter round a frozen linear layer, as adapters are written by hand."""

    def __init__(self, base, rank):
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(torch.randn(rank, base.in_features, dtype=torch.float64) / 3)
        self.b = torch.nn.Parameter(torch.randn(base.out_features, rank, dtype=torch.float64) / 3)

    def forward(self, x):
        return self.base(x) + (x @ self.a.T) @ self.b.T * 2.0


def test_adapters_only(engine, tiny, batches):
    from tests.oracles import dense

    tiny.requires_grad_(False)
    block = tiny.model.blocks[0]
    block.qkv, block.down = LowRank(block.qkv, 2), LowRank(block.down, 2)
    hessian, ggn, fisher = (make(tiny, batches) for make in (fu.Hessian, fu.GGN, fu.Fisher))
    assert [n.rpartition(".")[2] for n in hessian.walk.parameters] == ["a", "b", "a", "b"]
    v = vector(hessian)
    for operator, kind in ((hessian, "hessian"), (ggn, "ggn"), (fisher, "fisher")):
        assert error(operator @ v, getattr(dense, kind)(tiny, batches) @ v) < EXACT


@pytest.mark.parametrize("name", ["model.tokens.weight", "model.head.weight"])
def test_a_frozen_or_tied_parameter_may_be_named(name, engine, tiny, batches):
    tiny.requires_grad_(False)
    hessian = fu.Hessian(tiny, batches, params=name)
    assert list(hessian.walk.parameters) == ["model.tokens.weight"] and hessian.shape[0] == 88
    v = vector(hessian)
    found = hessian @ v
    tiny.requires_grad_(True)
    assert error(found, fu.Hessian(tiny, batches, params=name) @ v) < EXACT
    assert not any(p.grad is not None for p in tiny.parameters())


class Sharper(torch.nn.Module):
    """A model whose logits go through a function that the output layer's rule does not know."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = torch.sinh(self.base.model(input_ids))
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": losses, "logits": logits}


def of_samples(model, batches):
    """The losses of all samples that have targets, each the mean over its own."""
    found = []
    for batch in batches:
        output = model(**batch)
        logits = output["logits"] if isinstance(output, dict) else output.logits
        for row, labels in zip(logits[:, :-1], batch["labels"][:, 1:], strict=True):
            if bool((labels != -100).any()):
                found.append(torch.nn.functional.cross_entropy(row, labels))
    return torch.stack(found)


@pytest.mark.parametrize("known", [True, False])
def test_mean_over_samples_of_their_own_means(known, engine, tiny, batches):
    """Samples of 1 to 5 targets, some without any: against double backward of the definition."""
    if not known and engine == "oracle":
        pytest.skip("the oracle calls the logits of the output layer alone")
    model = tiny if known else Sharper(tiny)
    batches[0]["labels"][0, :5] = -100  # one target is left
    batches[2]["labels"][1] = -100
    batches.append({name: value[:1] for name, value in batches[2].items()})
    batches[3]["labels"] = torch.full_like(batches[3]["labels"], -100)
    parameters = [p for p in model.parameters() if p.requires_grad]
    hessian = fu.Hessian(model, batches, reduction="sample-mean")
    v = vector(hessian)
    with Exact():  # PyTorch's fused attention has no second derivative
        losses = of_samples(model, batches)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), parameters, create_graph=True)])
        product = torch.cat([g.flatten() for g in torch.autograd.grad(gradient @ v, parameters)])
    assert len(losses) == 5
    assert error(hessian @ v, product) < EXACT
    assert error(fu.gradient(model, batches, reduction="sample-mean"), gradient.detach()) < EXACT
    assert abs(fu.jvp(model, batches, v, reduction="sample-mean") - (gradient @ v).detach()) < 1e-10
    rows = [{n: t[i : i + 1] for n, t in batch.items()} for batch in batches[:3] for i in range(len(batch["labels"]))]
    rows = [row for row in rows if bool((row["labels"][:, 1:] != -100).any())]
    ggn = sum(fu.GGN(model, [row]) @ v for row in rows) / 5
    assert error(fu.GGN(model, batches, reduction="sample-mean") @ v, ggn) < EXACT
    walked = DataLoader(batches, batch_size=None)
    assert error(fu.Hessian(model, walked, reduction="sample-mean") @ v, product) < EXACT
    other = fu.Hessian(model, batches) @ v  # the mean over tokens is another matrix
    assert error(other, product) > 1e-2


def test_sample_mean_goes_with_the_usual_loss_only(tiny, batches):
    with pytest.raises(InvalidInputError, match="reduction"):
        fu.Hessian(tiny, batches, squared, reduction="sample-mean")
    with pytest.raises(InvalidInputError, match="sample-mean"):
        fu.Fisher(tiny, batches, reduction="sample-mean")


class Unshifted(torch.nn.Module):
    """A model whose loss compares place by place, as the decoders of BART and Whisper do."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.model(input_ids, attention_mask=attention_mask).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def test_models_that_do_not_shift_labels(tiny, batches):
    """Their batches have other numbers of targets than are counted here: no sum of several, but one is as it is."""
    model = Unshifted(tiny)

    def own(m, batch):
        return m(**batch).loss

    one = fu.Hessian(model, batches[:1])
    v = vector(one)
    torch.testing.assert_close(one @ v, fu.Hessian(model, batches[:1], own) @ v)
    for several in (batches, DataLoader([{n: t[0] for n, t in b.items()} for b in batches], batch_size=1)):
        with pytest.raises(InvalidInputError, match=r"batches\[1\]: the model's own loss has \d+ target tokens"):
            fu.Hessian(model, several) @ v
    with pytest.raises(InvalidInputError, match=r"batches\[0\]: the model's own loss has \d+ .* batch_weight="):
        fu.gradient(model, batches[:1], reduction="sum")
    counted = fu.Hessian(model, batches, own, batch_weight=lambda b: float((b["labels"] != -100).sum()))
    counts = [float((b["labels"] != -100).sum()) for b in batches]
    parts = [n * (fu.Hessian(model, [b], own) @ v) for n, b in zip(counts, batches, strict=True)]
    assert error(counted @ v, sum(parts) / sum(counts)) < EXACT
