"""Hessian tools of others on models with fused attention: they fail without ``accelerate`` and are exact with it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import fastunlearn as fu
from tests.accelerate.routes import double_backward, error, loss_of, vector_for

LIMIT = 1e-5


class Logits(nn.Module):
    """Token ids to logits, as tools for classifiers want it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)


@pytest.fixture
def setting(tiny_llama):
    """(model with SDPA, ids, labels, vector, the true product)."""
    ids = torch.randint(30, (2, 9), generator=torch.Generator().manual_seed(3))
    eager, model = (Logits(tiny_llama(torch.float32, attention=kind)) for kind in ("eager", "sdpa"))
    labels = ids[:, 1:].flatten()
    x = loss_of(eager, ids[:, :-1])[1]
    vector = vector_for(x)
    truth = double_backward(lambda *p: nn.functional.cross_entropy(f_logits(eager, p, ids), labels), x, vector)
    return model, ids[:, :-1], labels, vector, parameters_to_vector(truth)


def f_logits(model, values, ids):
    names = [name for name, _ in model.named_parameters()]
    return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (ids[:, :-1],))


def test_curvlinops(setting):
    curvlinops = pytest.importorskip("curvlinops")
    model, ids, labels, vector, truth = setting

    def product():
        operator = curvlinops.HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), [(ids, labels)], check_deterministic=False
        )
        return operator @ parameters_to_vector(vector)

    with pytest.raises((RuntimeError, NotImplementedError)):
        product()
    with fu.accelerate(model):
        assert error([product()], [truth]) <= LIMIT


def test_hessian_eigenthings(setting):
    tool = pytest.importorskip("hessian_eigenthings")
    model, ids, labels, vector, truth = setting
    batch = {"input_ids": torch.cat([ids, labels.view(2, -1)[:, -1:]], 1)}
    batch["labels"] = batch["input_ids"]

    def product():
        return tool.HessianOperator(model.model, [batch], tool.hf_lm_loss()).matvec(parameters_to_vector(vector))

    with pytest.raises((RuntimeError, NotImplementedError)):
        product()
    with fu.accelerate(model.model):
        assert error([product()], [truth]) <= LIMIT


def test_pyhessian(setting):
    tool = pytest.importorskip("pyhessian")
    model, ids, labels, vector, truth = setting

    def product():
        from pyhessian.utils import hessian_vector_product

        found = tool.hessian(model, nn.CrossEntropyLoss(), data=(ids, labels), cuda=False)
        pieces = hessian_vector_product(found.gradsH, found.params, vector)
        return parameters_to_vector([piece.contiguous() for piece in pieces])

    with pytest.raises((RuntimeError, NotImplementedError)):
        product()
    model.zero_grad()
    with fu.accelerate(model):
        assert error([product()], [truth]) <= LIMIT
