"""G, G^T c, G v and the Gram against per-sample autograd in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.blocks import make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.losses import log_odds, ranked_log_odds, softplus_log_odds
from fastunlearn.operators.model_state import select_parameters
from fastunlearn.operators.sample_gradients import SampleGradients
from tests.operators.sampling import flat, make_samples, true_gradients

FLOAT32 = 2e-5

# transformers' RMSNorm computes in float32 even in a float64 model, so weighted sums of a Llama's gradients agree
# to float32's last digits only; GPT-2 and our own model are float64 throughout.
LLAMA, EXACT = 1e-6, 1e-11


def close(got, truth, tolerance=LLAMA):
    assert got.shape == truth.shape
    assert (got.double() - truth.double()).norm() <= tolerance * truth.double().norm()


@pytest.fixture(params=["llama", "llama-tied", "gpt2", "gpt2-untied", "llama-bias"])
def model(request, tiny_llama, tiny_gpt2):
    return {
        "llama": lambda: tiny_llama(),
        "llama-tied": lambda: tiny_llama(tied=True),
        "llama-bias": lambda: tiny_llama(attention_bias=True, mlp_bias=True),
        "gpt2": lambda: tiny_gpt2(),
        "gpt2-untied": lambda: tiny_gpt2(tied=False),
    }[request.param]()


def operator(model, samples=None, **options) -> SampleGradients:
    return SampleGradients(model, samples or make_samples(), pad_token_id=0, **{"batch_size": 3, **options})


def test_every_parameter_has_a_rule_and_its_true_gradient(model):
    g = operator(model)
    assert g.plan.generic == []
    close(g.dense(), true_gradients(model, make_samples()))


def test_a_part_that_the_loss_does_not_see_has_gradients_of_zero(tiny_gpt2):
    """As a vision tower on text: by a rule or without one, beside others or alone."""
    model = tiny_gpt2(layers=1)
    model.tower, model.scale = nn.Linear(3, 2).double(), nn.Parameter(torch.ones(4, dtype=torch.float64))
    g, c = operator(model), torch.ones(len(make_samples()))
    assert {"tower.weight", "tower.bias", "scale"} == set(g.plan.generic)
    dense = g.dense()
    close(dense[:, 4:-8], true_gradients(tiny_gpt2(layers=1), make_samples()), EXACT)
    assert not dense[:, :4].any() and not dense[:, -8:].any()  # a module's own parameters come before its children's
    for names in (["tower.weight"], ["scale"], ["tower.bias", "scale"]):
        alone = operator(model, parameters={name: model.get_parameter(name) for name in names})
        assert not any(one.any() for one in alone.weighted_gradient(c).values()) and not alone.dense().any()


def test_gram_is_the_gram_of_the_true_gradients(model):
    truth = true_gradients(model, make_samples())
    other = make_samples((4, 8, 5), seed=1)
    blocks = make_blocks(list(dict(model.named_parameters())), "model")
    first, second = operator(model), operator(model, other)
    grams = gram_blocks([first, second], [(0, 0), (0, 1)], blocks)
    close(grams[0, 0][0], truth @ truth.T)
    close(grams[0, 1][0], truth @ true_gradients(model, other).T)


@pytest.mark.parametrize("kind", ["layer", "tensor"])
def test_blocks_add_up_to_the_whole(model, kind):
    names = list(dict(model.named_parameters()))
    blocks = make_blocks(names, kind)
    assert len(blocks) > 1
    parts = gram_blocks([operator(model)], [(0, 0)], blocks)[0, 0]
    truth, start = true_gradients(model, make_samples()), 0
    expected = torch.zeros_like(parts)
    for name, parameter in model.named_parameters():
        columns = truth[:, start : start + parameter.numel()]
        expected[blocks.of[name]] += columns @ columns.T
        start += parameter.numel()
    close(parts, expected)


def test_float64_is_float64(tiny_gpt2):
    model = tiny_gpt2()
    truth = true_gradients(model, make_samples())
    close(operator(model).dense(), truth, EXACT)
    blocks = make_blocks(list(dict(model.named_parameters())), "model")
    close(gram_blocks([operator(model)], [(0, 0)], blocks)[0, 0][0], truth @ truth.T, EXACT)


def test_weighted_gradient_by_backward_and_from_factors(model):
    truth = true_gradients(model, make_samples())
    c = torch.randn(5, dtype=torch.float64)
    g = operator(model)
    close(flat(g.weighted_gradient(c)), c @ truth)
    spent = g.evaluations
    list(g.passes())
    assert g.evaluations == spent + 5
    close(flat(g.weighted_gradient(c)), c @ truth)
    assert g.evaluations == spent + 5  # the kept factors were used


def test_weights_by_block(model):
    names = list(dict(model.named_parameters()))
    blocks = make_blocks(names, "layer")
    c = torch.randn(len(blocks), 5, dtype=torch.float64)
    truth = true_gradients(model, make_samples())
    got = operator(model).weighted_gradient(c, blocks.of)
    start = 0
    for name, parameter in model.named_parameters():
        expected = c[blocks.of[name]] @ truth[:, start : start + parameter.numel()]
        close(got[name].flatten(), expected)
        start += parameter.numel()


def test_dot_and_combine(model):
    truth = true_gradients(model, make_samples())
    g = operator(model)
    flat_vectors = torch.randn(2, truth.shape[1], dtype=torch.float64)
    vectors, start = {}, 0
    for name, parameter in model.named_parameters():
        vectors[name] = flat_vectors[:, start : start + parameter.numel()].view(2, *parameter.shape)
        start += parameter.numel()
    close(g.dot(vectors), truth @ flat_vectors.T)
    weights = torch.randn(3, 5, dtype=torch.float64)
    combined = torch.cat([value.flatten(1) for value in g.combine(weights).values()], 1)
    close(combined, weights @ truth)


def test_little_memory_gives_the_same_in_more_passes(tiny_llama):
    model = tiny_llama(tied=True)
    names = list(dict(model.named_parameters()))
    blocks = make_blocks(names, "layer")
    much, little = operator(model), operator(model, memory="190KB")
    a = gram_blocks([much], [(0, 0)], blocks)[0, 0]
    b = gram_blocks([little], [(0, 0)], blocks)[0, 0]
    assert little.evaluations == much.evaluations  # layer by layer: each sample's gradient is taken once
    close(b, a)
    c = torch.randn(len(blocks), 5, dtype=torch.float64)
    close(flat(little.weighted_gradient(c, blocks.of)), flat(much.weighted_gradient(c, blocks.of)))


def test_memory_too_small_names_the_parameter(tiny_llama):
    with pytest.raises(InvalidInputError, match=r"memory: the factors of 'model\.embed_tokens\.weight'"):
        list(operator(tiny_llama(), memory=1000).passes())


def test_float32_stays_near_float64(tiny_llama):
    wide = tiny_llama(tied=True)
    truth = true_gradients(wide, make_samples())
    narrow = tiny_llama(torch.float32, tied=True)
    narrow.load_state_dict(wide.state_dict())
    close(operator(narrow).dense(), truth, FLOAT32)


@pytest.mark.parametrize("loss", [log_odds, softplus_log_odds(-3.0)])
def test_other_losses(tiny_llama, loss):
    model = tiny_llama()
    close(operator(model, loss=loss).dense(), true_gradients(model, make_samples(), loss=loss))


def test_a_ranked_pull_ends_where_the_counterpart_lies():
    """Two words, so that the log-odds are the difference of the logits."""
    own, wanted = torch.tensor([5.0, -1.0, 2.0]), torch.tensor([4.0, -30.0, -3.0])
    z = torch.tensor([-1.0, 2.0, 5.0, 7.0, 1.0], requires_grad=True)  # the last two lie beside the ranks
    pull = ranked_log_odds(own, wanted)(torch.stack([z, torch.zeros(5)], 1), torch.zeros(5, dtype=torch.long))
    gap = torch.tensor([-1.0 + 30, 2.0 + 3, 5.0 - 4, 7.0 - 4, 1.0 + 3])
    assert torch.allclose(pull, (1 + gap.exp()).log())
    (slope,) = torch.autograd.grad(pull.sum(), z)
    assert torch.allclose(slope, torch.sigmoid(gap))


def test_log_odds_keeps_its_digits_near_certainty():
    logits = torch.tensor([[30.0, 0.0, 0.0]])
    got = log_odds(logits, torch.tensor([0]))
    assert torch.allclose(got, torch.tensor([30.0 - torch.tensor(2.0).log()]), rtol=1e-6)


def test_chosen_parameters_only(tiny_llama):
    model = tiny_llama()
    chosen = select_parameters(model, ["*layers.1.*"])
    g = operator(model, parameters=chosen)
    close(g.dense(), true_gradients(model, make_samples(), list(chosen)))
    close(flat(g.weighted_gradient(torch.ones(5, dtype=torch.float64))), g.dense().sum(0))


def test_flags_and_mode_come_back(tiny_llama):
    model = tiny_llama()
    model.train()
    model.model.norm.weight.requires_grad_(False)
    operator(model).dense()
    assert model.training and not model.model.norm.weight.requires_grad
    assert model.lm_head.weight.requires_grad
    assert all(not module._forward_hooks for module in model.modules())


class _Odd(nn.Module):
    """A model whose parameters defeat the rules: used outside their module, shared over samples, in no module."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(37, 6)
        self.linear = nn.Linear(6, 6)
        self.head = nn.Linear(6, 37, bias=False)
        self.gate = nn.Parameter(torch.randn(6))

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        hidden = self.linear(self.embed(input_ids)).tanh() * self.gate
        hidden = hidden + hidden @ self.linear.weight  # a second use, not through the module

        class Output:
            logits = self.head(hidden)

        return Output

    def get_output_embeddings(self):
        return self.head


def test_parameters_without_a_rule_are_exact_all_the_same():
    model = _Odd().double()
    g = operator(model)
    assert set(g.plan.generic) == {"linear.weight", "gate"}
    close(g.dense(), true_gradients(model, make_samples()), EXACT)


def test_sampled_labels_differ_and_repeat(tiny_llama):
    model = tiny_llama()
    one, again = (operator(model, kind="sampled", seed=3).samples for _ in range(2))
    other = operator(model, kind="sampled", seed=4).samples
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(one, again, strict=True))
    assert any(not torch.equal(a.labels, b.labels) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(a.labels == -100, b.labels == -100) for a, b in zip(one, make_samples(), strict=True))


def test_bad_input(tiny_llama):
    model = tiny_llama()
    with pytest.raises(InvalidInputError, match="samples is empty"):
        SampleGradients(model, [], pad_token_id=0)
    with pytest.raises(InvalidInputError, match="kind='exact' is unknown"):
        operator(model, kind="exact")
    with pytest.raises(InvalidInputError, match="c has shape"):
        operator(model).weighted_gradient(torch.ones(4))
    with pytest.raises(InvalidInputError, match="blocks='rows' is unknown"):
        make_blocks(["a"], "rows")
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        operator(model).dense()


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=6), batch=st.integers(1, 7), prompt=st.integers(0, 3))
def test_ragged_samples_in_any_batches(lengths, batch, prompt):
    torch.manual_seed(0)
    model = _Odd().double()
    samples = make_samples(lengths, prompt)
    g = operator(model, samples, batch_size=batch)
    truth = true_gradients(model, samples)
    close(g.dense(), truth, EXACT)
    assert g.losses.shape == (len(samples),)


def test_layer_by_layer_is_the_same(model):
    """With too little memory for all factors the model is walked layer by layer (tied weights and biases too)."""
    g = operator(model, memory="190KB")
    assert g.walk(190_000) is not None
    truth = true_gradients(model, make_samples())
    names = list(dict(model.named_parameters()))
    close(gram_blocks([g], [(0, 0)], make_blocks(names, "model"))[0, 0][0], truth @ truth.T)
    sides = operator(model, memory="340KB"), operator(model, make_samples((4, 8, 5), seed=1), memory="340KB")
    cross = gram_blocks(sides, [(0, 1)], make_blocks(names, "model"))[0, 1][0]
    close(cross, truth @ true_gradients(model, make_samples((4, 8, 5), seed=1)).T)
    c, g = torch.randn(5, dtype=torch.float64), operator(model, memory="190KB")
    by_block = g.weighted_gradient(c.expand(len(names), -1), {name: i for i, name in enumerate(names)})
    close(flat({name: by_block[name] for name in names}), truth.T @ c)
    close(g.dot({n: p[None].detach() for n, p in model.named_parameters()})[:, 0],
          truth @ flat(dict(model.named_parameters())).detach())  # fmt: skip
