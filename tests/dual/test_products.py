"""Hessian, Gauss-Newton and directional derivatives of tiny models against float64 double backward."""

import pytest
import torch

from fastunlearn.dual import DualPass

from .oracle import accumulators, chosen, directions, ggn, hessian, model_loss, relative_error, text_batch

TOLERANCE = 1e-12  # float64, small models


@pytest.fixture(params=["llama-sdpa", "llama-eager", "llama-tied", "gpt2-sdpa", "gpt2-eager"])
def model(request, tiny_llama, tiny_gpt2):
    kind, way = request.param.split("-")
    attention = "eager" if way == "eager" else "sdpa"
    if kind == "llama":
        return tiny_llama(attention=attention, tied=way == "tied")
    return tiny_gpt2(attention=attention)


def test_hessian_products_are_exact(model):
    parameters, batch = chosen(model), text_batch()
    v = directions(parameters, 2)
    truth, loss, loss_t = hessian(model, parameters, batch, v)
    out = accumulators(parameters, 2)
    result = DualPass(model, parameters, model_loss).hessian(batch, v, out)
    assert relative_error(out, truth) < TOLERANCE
    torch.testing.assert_close(result.loss, loss)
    torch.testing.assert_close(result.loss_t, loss_t)


def test_the_weight_scales_and_products_add_up(model):
    parameters, batch = chosen(model), text_batch()
    v = directions(parameters, 1)
    truth, _, _ = hessian(model, parameters, batch, v)
    out = {n: torch.ones(1, *p.shape, dtype=torch.float64) for n, p in parameters.items()}
    DualPass(model, parameters, model_loss).hessian(batch, v, out, weight=-0.5)
    assert relative_error({n: o - 1 for n, o in out.items()}, {n: -0.5 * t for n, t in truth.items()}) < 1e-10


def test_ggn_products_are_exact_and_positive(model):
    parameters, batch = chosen(model), text_batch()
    batch["input_ids"] = batch["input_ids"].clamp_min(1)  # torch's own jvp forgets that padding_idx has no gradient
    v = directions(parameters, 2)
    out = accumulators(parameters, 2)
    DualPass(model, parameters, model_loss).ggn(batch, v, out)
    assert relative_error(out, ggn(model, parameters, batch, v)) < TOLERANCE
    assert all(sum((out[n][k] * v[n][k]).sum() for n in v) > 0 for k in range(2))


def test_gradient_and_directional_derivatives(model):
    parameters, batch = chosen(model), text_batch()
    engine, v = DualPass(model, parameters, model_loss), directions(parameters, 3)
    out = accumulators(parameters, 1)
    engine.gradient(batch, out)
    truth = torch.autograd.grad(model_loss(model, batch), list(parameters.values()))
    assert relative_error(out, {n: g[None] for n, g in zip(parameters, truth, strict=True)}) < TOLERANCE
    along = torch.stack([sum((out[n][0] * v[n][k]).sum() for n in v) for k in range(3)])
    torch.testing.assert_close(engine.jvp(batch, v).loss_t, along)


def test_losses_of_single_tokens(model):
    parameters, batch = chosen(model), text_batch()
    engine, v = DualPass(model, parameters, model_loss), directions(parameters, 2)
    nll, nll_t, labels = engine.token_jvp(batch, v)
    weights = torch.randn(labels.shape, dtype=torch.float64)
    out = accumulators(parameters, 1)
    torch.testing.assert_close(engine.weighted_gradient(batch, weights, out).loss, nll.sum())
    along = torch.stack([sum((out[n][0] * v[n][k]).sum() for n in v) for k in range(2)])
    torch.testing.assert_close((nll_t * weights).sum((1, 2)), along)
    assert (nll[labels == -100] == 0).all() and (labels != -100).sum() == (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(nll.sum() / (labels != -100).sum(), model_loss(model, batch).detach())
