"""``fu.accelerate``, ``fu.accelerated``: exact second derivatives by every route; the model is as it was after."""

from __future__ import annotations

import copy
import inspect
import threading

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastunlearn as fu
from fastunlearn.errors import DerivativeOrderError, InvalidInputError
from tests.accelerate import nano
from tests.accelerate.routes import ROUTES, double_backward, error, loss_of, vector_for

EACH = pytest.mark.parametrize("route", ROUTES)
EXACT = 1e-10  # float64


def truth_of(model, *args, **kwargs):
    """Double backward through PyTorch's unfused attention, in float64."""
    f, x = loss_of(copy.deepcopy(model).double(), *args, **kwargs)
    with sdpa_kernel(SDPBackend.MATH):
        return double_backward(f, x, tuple(v.double() for v in vector_for(tuple(model.parameters()))))


@EACH
@pytest.mark.parametrize("loss", ["cross_entropy", "log_softmax"])
def test_exact_in_float64(route, loss):
    model = nano.make(loss)
    f, x = loss_of(model, *nano.batch())
    t, truth = vector_for(x), truth_of(model, *nano.batch())
    with fu.accelerated():
        assert error(ROUTES[route](f, x, t), truth) <= EXACT
    with fu.accelerate(model):
        assert error(ROUTES[route](f, x, t), truth) <= EXACT


@EACH
def test_the_same_fails_without(route):
    """The reason to be: PyTorch's fused attention has no second derivative."""
    f, x = loss_of(nano.make(), *nano.batch())
    with pytest.raises((RuntimeError, NotImplementedError)):
        ROUTES[route](f, x, vector_for(x))


@EACH
def test_float32(route):
    model = nano.make(dtype=torch.float32)
    f, x = loss_of(model, *nano.batch())
    with fu.accelerate(model):
        assert error(ROUTES[route](f, x, vector_for(x)), truth_of(model, *nano.batch())) <= 1e-5


def padded(vocabulary):
    ids = torch.randint(vocabulary, (2, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100), "use_cache": False}


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_hugging_face_models(family, request):
    """Padding, -100 labels, SDPA; float32, because these models compute in float32 inside whatever their dtype."""
    make = request.getfixturevalue(family)
    model = make(torch.float32, attention="sdpa")
    given = padded(model.config.vocab_size)
    f, x = loss_of(make(torch.float32, attention="eager"), **given)
    truth = double_backward(f, x, vector_for(x))
    f, x = loss_of(model, **given)
    before = f(*x), torch.func.grad(f)(*x)
    with fu.accelerate(model) as handle:
        assert len(handle.replaced) > 1  # the norms (Llama) or GELUs (GPT-2) as well
        torch.testing.assert_close((f(*x), torch.func.grad(f)(*x)), before)
        for name, route in ROUTES.items():
            assert error(route(f, x, vector_for(x)), truth) <= 1e-5, name


def test_undone_at_the_end(tiny_llama):
    model = tiny_llama(torch.float32, attention="sdpa")
    given = padded(model.config.vocab_size)
    before, state = model(**given).loss, {name: list(m.__dict__) for name, m in model.named_modules()}
    handle = fu.accelerate(model)
    with pytest.raises(InvalidInputError, match="already"):
        fu.accelerate(model)
    assert inspect.signature(model.forward) == inspect.signature(type(model).forward.__get__(model))
    handle.undo()
    handle.undo()
    assert {name: list(m.__dict__) for name, m in model.named_modules()} == state
    with pytest.raises(ZeroDivisionError), fu.accelerate(model):
        raise ZeroDivisionError
    assert {name: list(m.__dict__) for name, m in model.named_modules()} == state
    assert torch.equal(model(**given).loss, before)


def test_a_deep_copy_has_its_own_forward():
    model = nano.make()
    with fu.accelerate(model):
        twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.head.weight.zero_(), twin.head.bias.zero_()
    assert twin(*nano.batch()).item() == pytest.approx(torch.log(torch.tensor(float(nano.VOCABULARY))).item())


def test_other_threads_are_left_alone():
    """The mode is this thread's: elsewhere PyTorch's own attention runs, with no second derivative."""
    f, x = loss_of(nano.make(), *nano.batch())
    failed = []

    def elsewhere():
        try:
            double_backward(f, x, vector_for(x))
        except RuntimeError as error:
            failed.append(str(error))

    with fu.accelerated():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert failed and "not implemented" in failed[0]


def test_values_are_the_same_for_every_argument():
    """All arguments of the replaced functions, known or not: PyTorch's result."""
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    x, labels = torch.randn(5, 7), torch.tensor([0, 6, -100, 2, 2])
    bias = torch.randn(2, 1, 6, 6)
    calls = [
        lambda: F.scaled_dot_product_attention(q, q, q),
        lambda: F.scaled_dot_product_attention(q, k, k, is_causal=True, scale=0.3, enable_gqa=True),
        lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=bias),
        lambda: F.scaled_dot_product_attention(query=q, key=q, value=q, attn_mask=bias > 0),
        lambda: F.scaled_dot_product_attention(q[0], q[0], q[0]),
        lambda: F.scaled_dot_product_attention(q, q, q, bias.requires_grad_()),
        lambda: F.cross_entropy(x, labels),
        lambda: F.cross_entropy(x, labels.clamp_min(0), reduction="sum", ignore_index=2),
        lambda: F.cross_entropy(x, labels, reduction="none"),
        lambda: F.cross_entropy(x, labels, label_smoothing=0.1),
        lambda: F.cross_entropy(x, labels, torch.rand(7, generator=torch.Generator().manual_seed(0))),
        lambda: F.cross_entropy(x, x.softmax(-1)),
        lambda: F.log_softmax(x, 0),
        lambda: torch.log_softmax(x, dim=-1),
        lambda: x.log_softmax(1),
        lambda: F.log_softmax(x, -1, dtype=torch.float64),
        lambda: F.silu(x.clone(), inplace=True),
        lambda: F.gelu(x),
        lambda: F.gelu(x, approximate="tanh"),
        lambda: F.layer_norm(x, (7,)),
        lambda: F.layer_norm(x, (5, 7)),
        lambda: F.embedding(labels.clamp_min(0), x.T, padding_idx=-1),
        lambda: F.rms_norm(x, (7,)),
        lambda: F.rms_norm(x, (7,), torch.ones(7), 1e-3),
    ]
    for call in calls:
        want = call()
        with fu.accelerated():
            got = call()
        torch.testing.assert_close(got, want)
    with fu.accelerated(), pytest.raises(RuntimeError):
        F.layer_norm(x, (6,))


def test_dropout_is_left_to_pytorch():
    q = torch.randn(1, 2, 64, 8)
    with fu.accelerated():
        one, other = (F.scaled_dot_product_attention(q, q, q, dropout_p=0.5) for _ in range(2))
    assert not torch.equal(one, other)


def test_third_order_is_refused():
    f, x = loss_of(nano.make(), *nano.batch())
    leaves = tuple(v.requires_grad_() for v in x)
    with fu.accelerated(), pytest.raises(DerivativeOrderError):
        first = torch.autograd.grad(f(*leaves), leaves, create_graph=True)
        second = torch.autograd.grad(sum(v.square().sum() for v in first), leaves, create_graph=True)
        torch.autograd.grad(sum(v.square().sum() for v in second), leaves)


def test_what_is_no_model():
    with pytest.raises(InvalidInputError, match="Module"):
        fu.accelerate(torch.nn.functional.silu)
