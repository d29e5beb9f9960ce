"""Each mistake gets an error that names the culprit and the mend, before any work is done."""

from __future__ import annotations

import re

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError

P = 896


def refused(message):
    """The InvalidInputError whose text matches, in order, all parts of ``message`` (parted by ``...``)."""
    return pytest.raises(InvalidInputError, match=".*".join(re.escape(part) for part in message.split("...")))


@pytest.fixture
def hessian(tiny, batches):
    return fu.Hessian(tiny, batches)


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (torch.zeros(P - 1), f"v has shape ({P - 1},)...({P},)...({P}, k)"),
        (torch.zeros(P, 2, 2), f"v has shape ({P}, 2, 2)"),
        (torch.zeros(P, 0), f"v has shape ({P}, 0)"),
        (torch.zeros(()), "v has shape ()"),
        (torch.zeros(P), "v has dtype torch.float32: use v.to(torch.float64)"),
        (torch.zeros(P, dtype=torch.int64), "v has dtype torch.int64"),
        (torch.zeros(P, dtype=torch.float64, device="meta"), "v is on meta, the parameters are on cpu"),
        ([torch.zeros(P)], "v has 1 tensors; the operator has 15 parameters"),
        ("abc", "v is a str"),
        (3.0, "v is a float"),
    ],
    ids=str,
)
def test_flat_vectors(hessian, v, message):
    with refused(message):
        hessian @ v


def test_lists_and_dicts(hessian, tiny):
    parts = {name: torch.zeros_like(p) for name, p in tiny.named_parameters()}
    wrong = list(parts.values())
    wrong[2] = torch.zeros(7, dtype=torch.float64)
    name = list(parts)[2]
    with refused(f"v[2] ({name}) has shape (7,); it must be {tuple(parts[name].shape)}"):
        hessian @ wrong
    with refused("v[0] (model.tokens.weight) is a NoneType, not a tensor"):
        hessian @ [None, *wrong[1:]]
    columns = [torch.zeros(*part.shape, 2, dtype=torch.float64) for part in parts.values()]
    columns[5] = columns[5][..., :1]
    with refused("v[5] (...with the same k everywhere"):
        hessian @ columns
    with refused(f"v[{name!r}] has dtype torch.float32: use v[{name!r}].to(torch.float64)"):
        hessian @ {**parts, name: parts[name].float()}
    with refused("v has 'model.nose', which is no chosen parameter"):
        hessian @ {**parts, "model.nose": parts[name]}
    del parts[name]
    with refused(f"v lacks {name!r}: give one tensor for each of the 15 parameters"):
        hessian @ parts


def make(tiny, batches, **options):
    return fu.Hessian(tiny, batches, **options)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("*nose*", "no parameter of the model is called '*nose*'; it has model.tokens.weight"),
        ([], "params is empty"),
        (torch.nn.Parameter(torch.zeros(3)), "params[0] is a tensor of shape (3,), which is no parameter of the model"),
        ([3], "params[0] is 3"),
        ({"model.norm.bias": torch.nn.Parameter(torch.zeros(8))}, "params['model.norm.bias'] is not the parameter"),
    ],
    ids=str,
)
def test_choice_of_parameters(tiny, batches, params, message):
    with refused(message):
        make(tiny, batches, params=params)


def test_parameter_twice(tiny, batches):
    norm = tiny.model.norm.bias
    with refused("params[1] is 'model.norm.bias' for the second time"):
        make(tiny, batches, params=[norm, norm])


def test_nothing_to_differentiate(tiny, batches):
    with refused("model has no parameter with requires_grad"):
        make(tiny.requires_grad_(False), batches)


def test_quantised_weights(tiny, batches):
    norm = tiny.model.norm
    norm.weight = torch.nn.Parameter(torch.ones(8, dtype=torch.uint8), requires_grad=False)
    with refused("params: 'model.norm.weight' is quantised (torch.uint8) and has no gradient; ...LoRA"):
        make(tiny, batches, params=["*norm.weight"])


def test_weights_not_loaded(tiny, batches):
    with refused("'model.tokens.weight' has no data (it is on the meta device)"):
        make(tiny.to("meta"), batches)


def test_a_parameter_that_takes_no_part(engine, tiny, batches):
    tiny.model.spare = torch.nn.Linear(3, 2).double()
    hessian, v = fu.Hessian(tiny, batches), torch.zeros(P + 8, dtype=torch.float64)
    with refused("'model.spare.weight' takes no part in the loss of any batch (2 such of 17)...allow_unused=True"):
        hessian @ v
    with refused("'model.spare.weight' takes no part"):
        fu.gradient(tiny, batches)
    v[-8:] = 1
    assert (fu.Hessian(tiny, batches, allow_unused=True) @ v).abs().max() == 0


def test_dropout_in_train_mode(tiny, batches):
    tiny.model.blocks[0].drop = torch.nn.Dropout(0.1).eval()
    hessian = fu.Hessian(tiny, batches)
    tiny.train()
    for attempt in (lambda: fu.Hessian(tiny, batches), lambda: hessian @ torch.zeros(P, dtype=torch.float64)):
        with refused("model is in train mode, and its module 'model.blocks.0.drop' has dropout: call model.eval()"):
            attempt()
    tiny.model.blocks[0].drop.p = 0.0
    fu.Hessian(tiny, batches)  # train mode without dropout is as good as evaluation mode


def test_attention_dropout_of_transformers(tiny_llama, batches):
    model = tiny_llama(attention_dropout=0.1).train()
    with refused("module 'model.layers.0.self_attn' has dropout"):
        fu.Hessian(model, batches)


def test_batch_norm_in_train_mode(tiny, batches):
    tiny.model.batch_norm = torch.nn.BatchNorm1d(8).double()
    with refused("module 'model.batch_norm' is a batch norm"):
        fu.Hessian(tiny.train(), batches)


def test_model_must_be_a_module(batches):
    with refused("model is a function; it must be a torch.nn.Module"):
        fu.Hessian(lambda: 0, batches)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: (one for one in b), "batches is a generator, which can be walked only once...list(batches)"),
        (lambda b: [], "batches is empty"),
        (lambda b: 3, "batches is a int: give a list or DataLoader"),
        (lambda b: b[0]["input_ids"], "batches is a Tensor"),
        (lambda b: [b[0]["input_ids"]], "batches[0] is a Tensor; it must be a mapping"),
        (lambda b: [{"text": "a"}], "batches[0] holds no tensor; it has 'text'"),
        (lambda b: [{"input_ids": b[0]["input_ids"]}], "batches[0] has no 'labels': add them...or give loss="),
        (lambda b: [{**b[0], "labels": b[0]["labels"].double()}], "batches[0]['labels'] has shape...torch.float64"),
    ],
    ids=range(8),
)
def test_bad_batches(tiny, batches, change, message):
    with refused(message):
        fu.Hessian(tiny, change(batches))


def test_no_target_at_all(engine, tiny, batches):
    silent = {**batches[0], "labels": torch.full_like(batches[0]["labels"], -100)}
    silent["labels"][:, 0] = 3  # the first place is never predicted
    hessian = fu.Hessian(tiny, [silent])
    with refused("batches hold no target token: every label is -100, or stands in the first place"):
        hessian @ torch.zeros(P, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "median"}, "reduction='median': use one of mean, samples, sum"),
        ({"reduction": "samples", "loss": lambda m, b: 0}, "reduction='samples': use one of mean, sum"),
        ({"loss": 3}, "loss is a int; it must be a function loss(model, batch)"),
        ({"batch_weight": len}, "batch_weight goes with loss="),
        ({"vectors_at_once": 0}, "vectors_at_once=0: it must be at least 1"),
    ],
    ids=range(5),
)
def test_options(tiny, batches, options, message):
    with refused(message):
        fu.Hessian(tiny, batches, **options)


def test_fisher_kind(tiny, batches):
    with refused("kind='true': use one of empirical, sampled"):
        fu.Fisher(tiny, batches, kind="true")


@pytest.mark.parametrize("loss", [lambda m, b: m(**b).logits, lambda m, b: m(**b).logits.sum(-1).mean(1)])
def test_a_loss_that_is_not_a_scalar(tiny, batches, loss):
    hessian = fu.Hessian(tiny, batches, loss)
    with refused("loss...scalar"):
        hessian @ torch.zeros(P, dtype=torch.float64)


def test_a_loss_that_is_no_tensor(tiny, batches):
    hessian = fu.Hessian(tiny, batches, lambda m, b: 3.0)
    with refused("loss...float"):
        hessian @ torch.zeros(P, dtype=torch.float64)


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (torch.ones(5), "c has 5 weights, but the batches hold 6 sequences"),
        (torch.ones(7), "c has 7 weights, but the batches hold 6 sequences"),
        (torch.ones(6, dtype=torch.int64), "c must be a floating-point tensor (m,) or (m, k)"),
        ([1.0], "c must be a floating-point tensor"),
    ],
    ids=range(4),
)
def test_weights_of_samples(engine, tiny, batches, c, message):
    with refused(message):
        fu.weighted_gradient(tiny, batches, c)


def test_form(tiny, batches):
    with refused("form='vector': use one of flat, list, tuple, dict"):
        fu.gradient(tiny, batches, form="vector")
