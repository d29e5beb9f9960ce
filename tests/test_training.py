"""Training: it memorises, it repeats, it refuses, it stops on NaN."""

import math
from collections import Counter

import pytest
import torch

from fastunlearn.data import IGNORE, Encoded, collate
from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import Progress, Task
from fastunlearn.training import _index_batches, _rate, train


@pytest.fixture
def samples() -> list[Encoded]:
    """Twenty records of 4 to 6 tokens: the second names the record, the last is the answer."""
    draw = torch.Generator().manual_seed(3)
    made = []
    for number in range(20):
        rest = torch.randint(4, 37, (2 + number % 3,), generator=draw)
        ids = torch.cat([torch.tensor([1, 4 + number]), rest])
        labels = torch.full_like(ids, IGNORE)
        labels[-1] = ids[-1]
        made.append(Encoded(ids, labels))
    return made


def accuracy(model, samples) -> float:
    batch = collate(samples, pad_token_id=0)
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        guess = model(**batch).logits[:, :-1].argmax(-1)
    return (guess == labels)[labels != IGNORE].double().mean().item()


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_small_model_memorises_twenty_records(tiny_llama, samples):
    model = tiny_llama(torch.float32)
    assert accuracy(model, samples) < 0.5
    log = train(model, samples, steps=150, batch_size=10, learning_rate=1e-2, seed=0, pad_token_id=0)
    assert accuracy(model, samples) == 1.0
    assert (log.steps, log.gradients, len(log.losses)) == (150, 1500, 150)
    assert log.losses[0] == pytest.approx(math.log(37), rel=0.2)
    assert max(log.losses[-10:]) < 0.1
    assert log.seconds > 0
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_first_loss_is_that_of_transformers(tiny_gpt2, samples):
    model = tiny_gpt2()
    batch = collate(samples, pad_token_id=0)
    expected = model(**batch).loss.item()
    log = train(model, samples, steps=1, batch_size=20, seed=0, pad_token_id=0)
    assert log.losses == [pytest.approx(expected, rel=1e-6)]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state(tiny_gpt2, samples):
    def run(seed):
        model = tiny_gpt2(torch.float32, resid_pdrop=0.1)
        train(model, samples, steps=4, batch_size=6, seed=seed, pad_token_id=0)
        return weights(model)

    before = torch.random.get_rng_state()
    first = run(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(run(5), first)
    assert not torch.equal(run(6), first)


def test_dropout_is_on_while_training(tiny_gpt2, samples):
    dropped, plain = (
        train(tiny_gpt2(resid_pdrop=p), samples, steps=1, batch_size=20, seed=0, pad_token_id=0).losses[0]
        for p in (0.5, 0.0)
    )
    assert dropped != plain


def test_padding_changes_nothing(tiny_llama, samples):
    """One batch of records of all lengths has the loss of each record on its own, averaged."""
    model = tiny_llama()
    one_step = {"steps": 1, "seed": 0}
    alone = [
        train(tiny_llama(), [sample], batch_size=1, pad_token_id=0, **one_step).losses[0]
        for sample in samples
    ]
    together = train(model, samples, batch_size=20, pad_token_id=5, **one_step).losses[0]
    assert together == pytest.approx(sum(alone) / len(alone), rel=1e-6)


def test_frozen_parameters_stay(tiny_llama, samples):
    model = tiny_llama(torch.float32)
    model.model.embed_tokens.weight.requires_grad_(False)
    before = model.model.embed_tokens.weight.clone()
    head = model.lm_head.weight.detach().clone()
    train(model, samples, steps=2, batch_size=4, seed=0, pad_token_id=0)
    assert torch.equal(model.model.embed_tokens.weight, before)
    assert not torch.equal(model.lm_head.weight, head)


@pytest.mark.parametrize(("count", "size"), [(20, 6), (20, 20), (5, 12)])
def test_each_record_is_drawn_as_often_as_any_other(count, size):
    drawn = torch.cat(list(_index_batches(count, size, 15, seed=2)))
    assert len(drawn) == 15 * size
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count].tolist()) == list(range(count))
    counts = Counter(drawn.tolist())
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (10, 1), (10, 9), (1000, 100), (10, 0)])
def test_the_learning_rate_rises_to_one_and_falls_without_reaching_zero(steps, warmup):
    rates = [_rate(step, steps, warmup) for step in range(steps)]
    assert max(rates) == rates[warmup] == 1
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert min(rates) > 0


def test_a_loss_that_is_not_finite_stops_before_the_step(tiny_llama, samples):
    model = tiny_llama(torch.float32)
    with torch.no_grad():
        model.lm_head.weight[7, 3] = math.nan
    before = weights(model)
    with pytest.raises(InvalidInputError, match="the loss of step 1 is nan; lower learning_rate"):
        train(model, samples, steps=3, seed=0, pad_token_id=0)
    assert torch.equal(weights(model).nan_to_num(9), before.nan_to_num(9))
    assert not model.training


def test_progress_counts_the_steps(tiny_llama, samples):
    seen = []

    class Counting(Progress):
        def task(self, description, total, unit="sample"):
            seen.append((description, total, unit))

            class Counted(Task):
                def advance(self, n=1):
                    seen.append(n)

            return Counted()

    train(tiny_llama(), samples, steps=3, batch_size=2, seed=0, pad_token_id=0, progress=Counting())
    assert seen == [("Training", 3, "step"), 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be an integer of at least 1"),
        ({"seed": None}, "seed must be an integer"),
        ({"learning_rate": -1}, "learning_rate must be a number from 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a number"),
        ({"weight_decay": "x"}, "weight_decay must be a number"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be a number from 0 to below 1"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"warmup": 1}, "warmup must be a number from 0 to below 1"),
        ({"pad_token_id": None}, "pad_token_id must be a token id"),
        ({"samples": []}, "samples is empty"),
        ({"samples": ["text"]}, "sample 1 of samples is no Encoded"),
    ],
)
def test_bad_arguments_are_named_and_the_model_stays(tiny_llama, samples, options, said):
    model = tiny_llama()
    before = weights(model)
    arguments = {"samples": samples, "steps": 2, "seed": 0, "pad_token_id": 0, **options}
    with pytest.raises(InvalidInputError, match=said):
        train(model, arguments.pop("samples"), **arguments)
    assert torch.equal(weights(model), before)


def test_nothing_to_train_or_to_learn_is_refused(tiny_llama, samples):
    blank = Encoded(samples[0].input_ids, torch.full_like(samples[0].labels, IGNORE))
    with pytest.raises(InvalidInputError, match="sample 2 of samples has no target token"):
        train(tiny_llama(), [samples[0], blank], steps=1, seed=0, pad_token_id=0)
    with pytest.raises(InvalidInputError, match="no parameter with requires_grad"):
        train(tiny_llama().requires_grad_(False), samples, steps=1, seed=0, pad_token_id=0)
