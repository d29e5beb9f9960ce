"""Operators against the dense matrices of a tiny model, in every form that a vector can have."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from tests.operators.conftest import error, make_tiny

EXACT = 1e-10
MAKE = {
    "hessian": fu.Hessian,
    "ggn": fu.GGN,
    "fisher": fu.Fisher,
}


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def parameters(model):
    return dict(model.named_parameters())


def cut(model, flat):
    """A flat vector or matrix as a dict by parameter name."""
    found, start = {}, 0
    for name, p in parameters(model).items():
        found[name] = flat[start : start + p.numel()].reshape(*p.shape, *flat.shape[1:])
        start += p.numel()
    return found


@pytest.mark.parametrize("kind", MAKE)
def test_vector_and_matrix(kind, engine, tiny, batches, dense):
    operator, truth = MAKE[kind](tiny, batches), dense(kind)
    assert operator.shape == truth.shape and operator.dtype == torch.float64 and operator.T is operator
    v = draw(len(truth), 5)
    assert error(operator @ v[:, 0], truth @ v[:, 0]) < EXACT
    assert error(operator @ v, truth @ v) < EXACT
    assert error(MAKE[kind](tiny, batches, vectors_at_once=2) @ v, truth @ v) < EXACT


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("columns", [(), (3,)], ids=["vector", "matrix"])
def test_lists_and_dicts(kind, columns, engine, tiny, batches, dense):
    operator = MAKE[kind](tiny, batches)
    v = draw(operator.shape[0], *columns)
    truth, parts = cut(tiny, dense(kind) @ v), cut(tiny, v)
    shuffled = dict(reversed(parts.items()))
    for answer in (operator @ parts, operator @ shuffled):
        assert isinstance(answer, dict) and list(answer) == list(parts)
    listed, tupled = operator @ list(parts.values()), operator @ tuple(parts.values())
    assert isinstance(listed, list) and isinstance(tupled, tuple)
    for name, a, b, c in zip(truth, listed, tupled, answer.values(), strict=True):
        scale = truth[name].norm() + 1e-9
        assert all(one.shape == truth[name].shape and (one - truth[name]).norm() / scale < 1e-9 for one in (a, b, c))


def test_flat_order_is_that_of_parameters_to_vector(engine, tiny, batches):
    g = fu.gradient(tiny, batches[:1])
    tiny(**batches[0]).loss.backward()
    assert error(g, torch.nn.utils.parameters_to_vector([p.grad for p in tiny.parameters()])) < EXACT


def test_gradient_and_jvp(engine, tiny, batches, dense):
    truth, v = dense("mean_gradient"), draw(dense("mean_gradient").numel(), 3)
    assert error(fu.gradient(tiny, batches), truth) < EXACT
    by_name = fu.gradient(tiny, batches, form="dict")
    assert all(error(by_name[n], part) < 1e-9 for n, part in cut(tiny, truth).items())
    assert error(fu.jvp(tiny, batches, v), truth @ v) < EXACT
    single = fu.jvp(tiny, batches, cut(tiny, v[:, 1]))
    assert single.shape == () and abs(single - truth @ v[:, 1]) < 1e-9


def test_sample_space(engine, tiny, batches, dense):
    g = dense("sample_gradients")
    v, c = draw(g.shape[1], 3), draw(len(g), 4)
    assert error(fu.per_sample_dot(tiny, batches, v), g @ v) < EXACT
    assert error(fu.per_sample_dot(tiny, batches, v[:, 0]), g @ v[:, 0]) < EXACT
    assert error(fu.weighted_gradient(tiny, batches, c), g.T @ c) < EXACT
    assert error(fu.weighted_gradient(tiny, batches, c[:, 2]), g.T @ c[:, 2]) < EXACT
    parts = fu.weighted_gradient(tiny, batches, c, form="list")
    assert error(torch.cat([part.flatten(0, -2) for part in parts]), g.T @ c) < EXACT


@pytest.mark.parametrize("kind", MAKE)
def test_a_choice_of_parameters_is_a_block(kind, engine, tiny, batches, dense):
    chosen = ["*blocks.0.qkv*", "model.norm.bias"]
    operator = MAKE[kind](tiny, batches, params=chosen)
    inside = torch.cat([
        torch.full((p.numel(),), "qkv" in name or name == "model.norm.bias") for name, p in parameters(tiny).items()
    ])  # fmt: skip
    truth = dense(kind)[inside][:, inside]
    assert operator.shape == truth.shape
    v = draw(len(truth), 2)
    assert error(operator @ v, truth @ v) < EXACT


def test_parameters_in_the_order_given(engine, tiny, batches, dense):
    own = parameters(tiny)
    names = list(own)[3:6][::-1]
    v = draw(sum(own[n].numel() for n in names))
    as_list = fu.Hessian(tiny, batches, params=[own[n] for n in names]) @ v
    as_dict = fu.Hessian(tiny, batches, params={n: own[n] for n in names}) @ v
    whole = cut(tiny, dense("hessian"))
    columns = torch.cat([whole[n].flatten(0, -2) for n in names])  # rows of the chosen, all columns
    inside = {n: cut(tiny, columns.T)[n].flatten(0, -2).T for n in names}
    truth = torch.cat([inside[n] for n in names], 1) @ v
    assert error(as_list, truth) < EXACT and torch.equal(as_list, as_dict)


def test_operators_follow_the_models_weights(engine, tiny, batches):
    operator, v = fu.Hessian(tiny, batches), draw(fu.Hessian(tiny, batches).shape[0])
    before = operator @ v
    with torch.no_grad():
        for p in tiny.parameters():
            p.mul_(1.1)
    assert error(operator @ v, before) > 1e-3
    assert error(operator @ v, fu.Hessian(tiny, batches) @ v) < 1e-14


@pytest.mark.parametrize("kind", MAKE)
def test_float32_sums_in_float32_and_bfloat16_too(kind, engine, batches, dense):
    v = draw(len(dense(kind)))
    truth = dense(kind) @ v
    found = MAKE[kind](make_tiny(torch.float32), batches) @ v.float()
    assert found.dtype == torch.float32 and error(found, truth) < 1e-5
    half = MAKE[kind](make_tiny(torch.bfloat16), batches)
    assert half.dtype == torch.float32 and (half @ v.float()).dtype == torch.float32
    assert error(half @ v.bfloat16(), truth) < 0.2


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("form", ["flat", "list", "dict"])
def test_a_vector_in_the_weights_dtype_is_not_widened(kind, form, engine, batches, monkeypatch):
    """A copy in float32 would take more than the weights themselves; the answer is the same to the bit."""
    operator = MAKE[kind](make_tiny(torch.bfloat16), batches)
    flat = draw(operator.shape[0]).bfloat16()
    parts = operator.space.read(flat)[0]
    v = {"flat": flat, "list": [part[0].bfloat16() for part in parts.values()],
         "dict": {name: part[0].bfloat16() for name, part in parts.items()}}[form]  # fmt: skip
    taken = []

    def tangents(vectors, plain=operator.walk.tangents):
        taken.extend(part.dtype for part in vectors.values())
        return plain(vectors)

    wide = operator @ flat.float()
    monkeypatch.setattr(operator.walk, "tangents", tangents)
    found = operator @ v
    monkeypatch.undo()
    assert set(taken) == {torch.bfloat16}
    assert torch.equal(operator.space.write(operator.space.read(found)[0], operator.space.read(flat)[1]), wide)
    twice = (2.0 * operator) @ v  # in algebra the outermost operator widens
    assert torch.equal(operator.space.write(operator.space.read(twice)[0], operator.space.read(flat)[1]), 2.0 * wide)


def test_the_same_call_gives_the_same_bits(engine, tiny, batches):
    v = draw(fu.Hessian(tiny, batches).shape[0])
    assert torch.equal(fu.Hessian(tiny, batches) @ v, fu.Hessian(tiny, batches) @ v)
