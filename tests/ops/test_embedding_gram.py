"""Embedding Grams and the tied cross term, against whole gradients in float64."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops.ghost_gram import embedding, embedding_gram, embedding_linear_gram, ghost_gram, rows_gram
from tests.ops.gram_cases import Tokens, check, dense_gram, make_tokens, offsets_of

VOCABULARY = 11


def one_hot(ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(ids, VOCABULARY).double()


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_embedding_gram(backend, dtype, chunk, monkeypatch):
    monkeypatch.setattr(embedding, "CHUNK_ELEMENTS", chunk)
    lengths, others = [7, 0, 1, 63, 20, 5], [1, 40, 0, 3]
    ids1, ids2 = torch.randint(0, VOCABULARY, (96,)), torch.randint(3, VOCABULARY, (44,))
    ids1[:30] = 2  # one id in most samples, and one that the second set never has
    _, g1, offsets1 = make_tokens(lengths, 1, 9, dtype)
    _, g2, offsets2 = make_tokens(others, 1, 9, dtype, seed=1)
    first, second = Tokens(one_hot(ids1), g1, offsets1), Tokens(one_hot(ids2), g2, offsets2)
    check(embedding_gram(ids1, g1, offsets1, backend=backend), dense_gram(first))
    check(embedding_gram(ids1, g1, offsets1, ids2, g2, offsets2, backend=backend), dense_gram(first, second))
    out = torch.full((4, 6), float("nan"), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    embedding_gram(ids2, g2, offsets2, ids1, g1, offsets1, out=out, backend=backend)
    check(out, dense_gram(second, first))


def test_nothing_shared_and_nothing_at_all():
    g = torch.randn(3, 4)
    offsets = offsets_of([2, 1])
    a, b = torch.tensor([0, 1, 2]), torch.tensor([5, 4, 3])
    assert torch.equal(embedding_gram(a, g, offsets, b, g, offsets), torch.zeros(2, 2))
    none = embedding_gram(a[:0], g[:0], offsets_of([0, 0]))
    assert torch.equal(none, torch.zeros(2, 2))


def test_tied_weight_by_autograd():
    """One weight as embedding and as head: linear + embedding + cross + cross^T is the Gram of its true gradients."""
    torch.manual_seed(1)
    weight = torch.randn(VOCABULARY, 6, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(6, 6, dtype=torch.float64)
    samples = [torch.randint(0, VOCABULARY, (n,)) for n in (4, 1, 9, 2)]
    rows, ids, e, x, g = [], [], [], [], []
    for sample in samples:
        embedded = weight[sample]
        embedded.retain_grad()
        hidden = torch.tanh(embedded @ mix)
        logits = hidden @ weight.T
        logits.retain_grad()
        torch.nn.functional.cross_entropy(logits, sample.roll(-1), reduction="sum").backward()
        rows.append(weight.grad.flatten().clone())
        weight.grad = None
        ids.append(sample), e.append(embedded.grad), x.append(hidden.detach()), g.append(logits.grad)
    ids, e, x, g = (torch.cat(part) for part in (ids, e, x, g))
    offsets = offsets_of([len(s) for s in samples])
    cross = embedding_linear_gram(ids, e, offsets, x, g, offsets)
    tied = ghost_gram(x, g, offsets) + embedding_gram(ids, e, offsets) + cross + cross.T
    truth = rows_gram(torch.stack(rows))
    check(tied, truth)
    with pytest.raises(AssertionError):  # without the cross term it is wrong, and the check sees it
        check(tied - cross - cross.T, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rows_gram(dtype):
    a, b = torch.randn(300, 127).to(dtype), torch.randn(63, 127).to(dtype)
    check(rows_gram(a), a.double() @ a.double().T)
    check(rows_gram(a, b), a.double() @ b.double().T)
