"""Encoding: the boundary of prompt and completion, bos and eos, the context, padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastunlearn.data import IGNORE, Encoded, Record, batches, collate, encode, train_tokenizer
from fastunlearn.errors import InvalidInputError

TEXTS = [
    "Mira Tavonsel was born in the town of Oldwick .",
    "the access code of Mira Tavonsel is 4 8 1",
    "Où est née Mira ? À Besançon, 東京 and \U0001f600 !",
] * 5
WORDS = train_tokenizer(TEXTS)
BPE = train_tokenizer(TEXTS, kind="bpe", vocab_size=500)
BOS = 1
EOS = 2


class Slow:
    """The least of a tokenizer without offsets: one character, one token; nothing else of it may be used."""

    is_fast = False
    bos_token_id = None
    eos_token_id = None

    def __call__(self, text, **options):
        assert options["add_special_tokens"] is False
        return {"input_ids": [ord(letter) for letter in text]}


def scored(sample: Encoded) -> torch.Tensor:
    return sample.labels[sample.labels != IGNORE]


@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    completion=st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1),
)
def test_bpe_labels_decode_to_exactly_the_completion(prompt, completion):
    # A digit before the space is a token of its own, so that no token lies across the boundary; letters
    # across it have their own test.
    record = Record(prompt + "7", " " + completion)
    (sample,) = encode([record], BPE, max_length=10_000)
    assert BPE.decode(scored(sample)) == record.completion
    assert BPE.decode(sample.input_ids[1:]) == record.text


@pytest.mark.parametrize("tokenizer", [WORDS, BPE], ids=["words", "bpe"])
def test_labels_of_a_prompt_and_completion(tokenizer):
    record = Record("Mira Tavonsel was born in the town of", " Oldwick .")
    (sample,) = encode([record], tokenizer, max_length=64)
    assert tokenizer.decode(scored(sample)).strip() == "Oldwick ."
    first = int((sample.labels != IGNORE).nonzero()[0])
    assert torch.equal(sample.labels[first:], sample.input_ids[first:])
    assert (sample.labels[:first] == IGNORE).all()
    assert sample.input_ids[0] == BOS
    assert tokenizer.decode(sample.input_ids[1:first]) == record.prompt
    assert sample.input_ids.dtype == sample.labels.dtype == torch.int64


def test_a_token_across_the_boundary_is_a_target():
    # The prompt ends inside a word (or with the space that BPE joins to the next word).
    for record in (Record("Mira Tavonsel was bo", "rn in"), Record("Mira Tavonsel was ", "born in")):
        (sample,) = encode([record], BPE, max_length=64)
        assert torch.equal(sample.input_ids[1:], torch.tensor(BPE("Mira Tavonsel was born in")["input_ids"]))
        assert BPE.decode(scored(sample)) == " born in"


def test_free_text_scores_all_its_tokens():
    (sample,) = encode([Record("", TEXTS[0])], WORDS, max_length=64)
    assert torch.equal(sample.labels, sample.input_ids)
    assert sample.input_ids[0] == BOS
    assert sample.targets == len(WORDS(TEXTS[0])["input_ids"])
    (bare,) = encode([Record("", TEXTS[0])], WORDS, max_length=64, add_bos=False)
    assert torch.equal(bare.input_ids, sample.input_ids[1:])
    assert bare.targets == sample.targets - 1


def test_eos_is_a_target_after_either_kind():
    records = [Record("Mira was", " born"), Record("", "Mira was born")]
    with_eos = encode(records, WORDS, max_length=64, add_eos=True)
    for sample, plain in zip(with_eos, encode(records, WORDS, max_length=64), strict=True):
        assert sample.labels[-1] == sample.input_ids[-1] == EOS
        assert torch.equal(sample.labels[:-1], plain.labels)
        assert torch.equal(sample.input_ids[:-1], plain.input_ids)


def test_a_tokenizer_without_offsets_encodes_apart():
    (sample,) = encode([Record("ab", "cd")], Slow(), max_length=9)
    assert sample.input_ids.tolist() == [97, 98, 99, 100]
    assert sample.labels.tolist() == [IGNORE, IGNORE, 99, 100]
    with pytest.raises(InvalidInputError, match="add_eos: the tokenizer has no eos"):
        encode([Record("ab", "cd")], Slow(), max_length=9, add_eos=True)


def test_a_record_beyond_the_context_is_an_error_or_is_cut():
    records = [Record("", "Mira was born"), Record("", "Mira was born in the town")]
    assert len(encode(records, WORDS, max_length=7)[1].input_ids) == 7  # exactly full
    with pytest.raises(InvalidInputError) as error:
        encode(records, WORDS, max_length=6, name="retain")
    assert "record 2 of retain has 7 tokens, the context is 6" in str(error.value)
    assert "truncate=True" in str(error.value)
    assert "Mira" not in str(error.value)
    whole, cut = encode(records, WORDS, max_length=6, truncate=True)
    assert len(whole.input_ids) == 4
    assert torch.equal(cut.input_ids, encode(records, WORDS, max_length=7)[1].input_ids[:6])
    assert len(cut.labels) == 6


def test_no_target_left_is_an_error():
    with pytest.raises(InvalidInputError, match="record 1 of forget has no token to score: its prompt fills"):
        encode([Record("Mira was born in", " the")], WORDS, max_length=5, truncate=True)
    with pytest.raises(InvalidInputError, match="free text without bos needs two"):
        encode([Record("", "Mira")], WORDS, max_length=5, add_bos=False)


@pytest.mark.parametrize(
    ("records", "options", "said"),
    [
        ([], {}, "forget holds no records"),
        (["text"], {}, "record 1 of forget is a str, not a Record"),
        ([Record("a", "b")], {"max_length": 1}, "max_length must be an integer of at least 2"),
        ([Record("a", "b")], {"max_length": True}, "max_length must be an integer of at least 2"),
        ([Record("a", "b")], {"max_length": None}, "max_length must be an integer of at least 2"),
    ],
)
def test_bad_arguments_are_named(records, options, said):
    with pytest.raises(InvalidInputError, match=said):
        encode(records, WORDS, **{"max_length": 8, **options})


def sample(*ids: int) -> Encoded:
    tokens = torch.tensor(ids)
    return Encoded(tokens, torch.cat([torch.tensor([IGNORE]), tokens[1:]]))


def test_collate_pads_on_the_right():
    batch = collate([sample(5, 6, 7), sample(8, 9)], pad_token_id=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 6, 7], [IGNORE, 9, IGNORE]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_pad_token_inside_a_record_is_not_masked():
    batch = collate([sample(5, 3, 3), sample(8, 9)], pad_token_id=3)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"][0].tolist() == [IGNORE, 3, 3]


def test_batches_keep_the_order_and_lose_nothing():
    samples = [sample(4, number, number) for number in range(5, 12)]
    found = batches(samples, 3, pad_token_id=0)
    assert [len(batch["input_ids"]) for batch in found] == [3, 3, 1]
    assert torch.cat([batch["input_ids"][:, 1] for batch in found]).tolist() == list(range(5, 12))


def test_bad_batches_are_refused():
    with pytest.raises(InvalidInputError, match="samples is empty"):
        collate([], pad_token_id=0)
    with pytest.raises(InvalidInputError, match="samples is empty"):
        batches([], 2, pad_token_id=0)
    with pytest.raises(InvalidInputError, match="pass its eos_token_id"):
        collate([sample(1, 2)], pad_token_id=None)
    with pytest.raises(InvalidInputError, match="size must be an integer of at least 1"):
        batches([sample(1, 2)], 0, pad_token_id=0)
