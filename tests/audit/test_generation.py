"""Continuations against one forward pass per token, without a cache."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.audit.generation import generate, prompt_and_answer
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError

PROMPTS = [torch.tensor([1, 5, 9]), torch.tensor([7]), torch.tensor([1, 4, 4])]


def slowly(model, prompt: torch.Tensor, steps: int) -> list[int]:
    ids = prompt.tolist()
    for _ in range(steps):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
def test_greedy_equals_one_pass_per_token(kind, request, recwarn):
    model = request.getfixturevalue(kind)()
    found = generate(model, PROMPTS, [6, 3, 5], batch_size=2)
    assert [one[0].tolist() for one in found] == [slowly(model, p, n) for p, n in zip(PROMPTS, (6, 3, 5), strict=True)]
    assert not [warning for warning in recwarn if "past_key_values" in str(warning.message)]


def test_a_model_that_keeps_nothing_is_run_whole(tiny_llama):
    model = tiny_llama()

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids):
            return self.inner(input_ids)

    assert generate(Plain(), PROMPTS, [4] * 3)[0][0].tolist() == slowly(model, PROMPTS[0], 4)


def test_an_end_token_cuts(tiny_llama):
    model = tiny_llama()
    written = slowly(model, PROMPTS[0], 6)
    eos = written[2]
    found = generate(model, PROMPTS[:1], [6], eos_token_id=eos)[0][0].tolist()
    assert found == written[: written.index(eos)]


def test_draws_follow_the_distribution_and_the_seed(tiny_llama):
    model = tiny_llama()
    state = torch.random.get_rng_state()
    found = generate(model, [torch.tensor([5])], [1], temperature=0.5, draws=4000, seed=1, batch_size=4000)[0]
    assert torch.equal(state, torch.random.get_rng_state())
    counts = torch.bincount(torch.cat(found), minlength=37) / 4000
    expected = (model(torch.tensor([[5]])).logits[0, -1].detach() / 0.5).softmax(0)
    assert float((counts - expected).abs().max()) < 4 * (0.25 / 4000) ** 0.5
    drawn = [generate(model, PROMPTS, [4] * 3, temperature=1, draws=3, seed=seed) for seed in (2, 2, 3)]
    first, second, other = ([[draw.tolist() for draw in one] for one in found] for found in drawn)
    assert first == second != other and [len(one) for one in first] == [3, 3, 3]


def test_where_a_record_is_cut():
    ids = torch.arange(1, 8)
    asked = Encoded(ids, torch.where(ids < 4, -100, ids))
    assert [part.tolist() for part in prompt_and_answer(asked)] == [[1, 2, 3], [4, 5, 6, 7]]
    assert [part.tolist() for part in prompt_and_answer(Encoded(ids, ids))] == [[1, 2, 3], [4, 5, 6, 7]]  # free text
    short = Encoded(ids[:2], torch.tensor([-100, 2]))
    assert [part.tolist() for part in prompt_and_answer(short)] == [[1], [2]]
    with pytest.raises(InvalidInputError, match="no target"):
        prompt_and_answer(Encoded(ids, torch.full_like(ids, -100)))


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"draws": 0}, {"lengths": [1, 0, 1]}, {"lengths": [1]}])
def test_bad_arguments(tiny_llama, bad):
    with pytest.raises(InvalidInputError):
        generate(**{"model": tiny_llama(), "prompts": PROMPTS, "lengths": [1, 1, 1], **bad})
