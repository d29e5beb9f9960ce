"""What a dual pass cannot do is said, by name; nothing is dropped in silence."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastunlearn.dual import DualPass, UnsupportedOperationError
from fastunlearn.dual.rules import random
from fastunlearn.errors import InvalidInputError

from .oracle import accumulators, chosen, directions, text_batch


class Small(nn.Module):
    """Two linear layers with a function between them."""

    def __init__(self, between=torch.tanh):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(model, loss, parameters=None):
    parameters = chosen(model) if parameters is None else parameters
    v, out = directions(parameters, 1), accumulators(parameters, 1)
    return DualPass(model, parameters, loss).hessian({"x": X}, v, out), out


def square(model, batch):
    return model(batch["x"]).square().sum()


def test_dropout_in_training_mode_names_the_module(tiny_gpt2):
    model = tiny_gpt2(resid_pdrop=0.1).train()
    parameters = chosen(model)
    with pytest.raises(InvalidInputError, match=r"'transformer\.h\.0\.attn\.resid_dropout' drops out with p=0\.1"):
        DualPass(model, parameters).hessian(text_batch(), directions(parameters, 1), accumulators(parameters, 1))


def test_dropout_functions_are_refused():
    with pytest.raises(InvalidInputError, match=r"dropout drops out with p=0\.5"):
        run(Small(lambda t: F.dropout(t)), square)
    run(Small(lambda t: F.dropout(t, 0.5, False)), square)


@pytest.mark.parametrize(
    ("name", "between"),
    [
        ("rrelu", nn.RReLU()),
        ("bernoulli", lambda t: torch.bernoulli(t.sigmoid()) * t),
        ("multinomial", lambda t: t[:, t.exp().mean(0).multinomial(5)]),
        ("gumbel_softmax", F.gumbel_softmax),
        ("dropout3d", lambda t: F.dropout3d(t[None, None, None])[0, 0, 0]),
        ("normal_", lambda t: (t * 1).normal_() + t),
        ("multi_head_attention_forward", nn.MultiheadAttention(5, 1, dropout=0.5).double()),
        ("lstm", nn.LSTM(5, 5, 2, dropout=0.5).double()),
    ],
)
def test_functions_that_draw_are_refused(name, between):
    def through(t):
        found = between(t, t, t) if name.startswith("multi_head") else between(t)
        return found[0] if isinstance(found, tuple) else found

    with pytest.raises(InvalidInputError, match=f"{name} draws at random, so the loss is random"):
        run(Small(through), square)
    if isinstance(between, nn.Module):
        between.eval()
        run(Small(through), square)


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("rand", lambda t: torch.rand(t.shape)),
        ("randn", lambda t: torch.randn(5)),
        ("randn_like", torch.randn_like),
        ("randn_like", lambda t: torch.randn_like(torch.ones(5))),
        ("uniform_", lambda t: torch.empty(5).uniform_()),
        ("normal", lambda t: torch.normal(0.0, 1.0, (5,))),
        ("bernoulli", lambda t: torch.no_grad()(torch.bernoulli)(t.sigmoid())),
        ("gumbel_softmax", lambda t: F.gumbel_softmax(torch.ones(5))),
        ("dropout", lambda t: F.dropout(torch.ones(5))),
    ],
)
def test_noise_of_constants_is_refused(name, noise):
    """It depends on no parameter, and makes the loss random all the same."""
    with pytest.raises(InvalidInputError, match=f"{name} dr(aws|ops out)"):
        run(Small(lambda t: t * noise(t)), square)


def test_modules_made_in_the_forward():
    """Their first weights are drawn, and written over."""

    def made(t):
        layer = nn.Linear(5, 5, bias=False, dtype=t.dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(5))
        return layer(t).tanh()

    torch.manual_seed(0)
    model = Small(made)
    found = run(model, square)[1]
    model.between = torch.tanh
    for name, value in run(model, square)[1].items():
        torch.testing.assert_close(found[name], value)


def test_noise_with_a_generator_of_its_own():
    def noisy(t):
        return t * torch.rand(5, generator=torch.Generator().manual_seed(1), dtype=t.dtype)

    factor = torch.rand(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(0)
    model = Small(noisy)
    found = run(model, square)[1]
    model.between = lambda t: t * factor
    for name, value in run(model, square)[1].items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize(
    ("name", "between"),
    [("cdist", lambda t: t * torch.cdist(t, t + 1).argmin(-1)[:, None]), ("hardsigmoid", F.hardsigmoid)],
)
def test_functions_that_torch_cannot_differentiate_twice(name, between):
    with pytest.raises(UnsupportedOperationError, match=f"{name} has no second derivative in PyTorch .* detach"):
        run(Small(between), square)


def test_gradients_that_are_none():
    """``scale_grad_by_freq`` divides the gradient by how often a row was used: no derivative of any loss."""
    model = Small()
    model.table = nn.Embedding(6, 4, scale_grad_by_freq=True).double()

    def loss(m, _):
        return m(m.table(torch.tensor([1, 1, 2]))).square().sum()

    with pytest.raises(UnsupportedOperationError, match="set scale_grad_by_freq=False"):
        run(model, loss)
    out = accumulators(chosen(model), 1)
    DualPass(model, chosen(model), loss).gradient({"x": X}, out)
    loss(model, None).backward()
    torch.testing.assert_close(out["table.weight"][0], model.table.weight.grad)


def test_numbers_that_others_draw_are_no_reason_to_refuse():
    """Threads share a generator."""
    before = random.random_state(X)
    torch.rand(1)
    random.refuse_random(torch.sin, lambda tensors: [tensors[0].sin()], [X], before)
    with pytest.raises(InvalidInputError, match="rand_like draws at random"):
        random.refuse_random(torch.rand_like, lambda tensors: [torch.rand_like(tensors[0])], [X], before)


def test_losses_that_are_not_scalars():
    with pytest.raises(InvalidInputError, match=r"loss: expected a scalar, got shape \(6, 3\)"):
        run(Small(), lambda m, b: m(b["x"]))
    with pytest.raises(InvalidInputError, match="loss: expected a scalar tensor, got float"):
        run(Small(), lambda m, b: 3.0)
    with pytest.raises(InvalidInputError, match="does not depend on any of the chosen parameters"):
        run(Small(), lambda m, b: m(b["x"]).detach().sum())


def test_batches_without_a_loss(tiny_llama):
    model = tiny_llama()
    parameters = chosen(model)
    batch = text_batch()
    del batch["labels"]
    with pytest.raises(InvalidInputError, match="returned no loss: add 'labels'"):
        DualPass(model, parameters).hessian(batch, directions(parameters, 1), accumulators(parameters, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("first.weight"), r"'first\.weight' is missing"),
        (
            lambda v: v.update({"first.bias": torch.zeros(1, 4)}),
            r"expected \(K, \(5,\)\), got \(1, 4\)",
        ),
        (lambda v: v.update({"first.bias": torch.zeros(2, 5)}), r"'first\.bias'\]: 2 vectors where others have 1"),
        (lambda v: v.update({"first.bias": torch.zeros(1, 5).long()}), r"'first\.bias'\]: expected a floating dtype"),
    ],
)
def test_wrong_vectors(change, message):
    model = Small()
    v = directions(chosen(model), 1)
    change(v)
    with pytest.raises(InvalidInputError, match=message):
        DualPass(model, chosen(model), square).hessian({"x": X}, v, accumulators(chosen(model), 1))


def test_wrong_accumulators():
    model = Small()
    out = {n: o.bfloat16() for n, o in accumulators(chosen(model), 1).items()}
    with pytest.raises(InvalidInputError, match=r"accumulators are float32 or float64, got torch\.bfloat16"):
        DualPass(model, chosen(model), square).hessian({"x": X}, directions(chosen(model), 1), out)


def test_wrong_parameters():
    model = Small()
    with pytest.raises(InvalidInputError, match="'stranger' is not a parameter of the model"):
        DualPass(model, {"stranger": nn.Parameter(torch.zeros(2))})
    with pytest.raises(InvalidInputError, match="parameters is empty"):
        DualPass(model, {})
    model.codes = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InvalidInputError, match=r"'codes' has dtype torch\.uint8 and no gradient"):
        DualPass(model, dict(model.named_parameters()))
    model.second.weight = nn.Parameter(torch.zeros(3, 5).double())
    twice = {"a": model.second.weight, "b": model.second.weight}
    with pytest.raises(InvalidInputError, match="'b' and 'a' are one tied tensor"):
        DualPass(model, twice)


def test_compiled_models_are_refused():
    with pytest.raises(InvalidInputError, match=r"is compiled.*before torch\.compile"):
        DualPass(torch.compile(Small()), chosen(Small()))


def test_autocast_is_refused():
    def loss(model, batch):
        with torch.autocast("cpu"):
            return square(model, batch)

    with pytest.raises(UnsupportedOperationError, match=r"torch\.autocast"):
        run(Small(), loss)


def test_unused_parameters_are_named():
    model = Small()
    model.spare = nn.Parameter(torch.zeros(2).double())
    result, out = run(model, square)
    assert result.unused == {"spare"} and not out["spare"].any()


def test_ggn_needs_a_loss_of_outputs():
    model = Small()
    parameters = chosen(model)
    with pytest.raises(InvalidInputError, match=r"F\.cross_entropy"):
        DualPass(model, parameters, square).ggn({"x": X}, directions(parameters, 1), accumulators(parameters, 1))


@torch.jit.script
def _scripted(x):
    return x * 2


def test_scripted_code_fails_loudly():
    with pytest.raises(RuntimeError, match="TorchScript"):
        run(Small(_scripted), square)


def test_no_grad_makes_constants():
    def loss(model, batch):
        y = model(batch["x"])
        with torch.no_grad():
            scale = y.square().mean()
        return (y * scale).square().sum()

    def same(model, batch):
        y = model(batch["x"])
        return (y * y.square().mean().detach()).square().sum()

    model = Small()
    torch.testing.assert_close(run(model, loss)[1], run(model, same)[1])
