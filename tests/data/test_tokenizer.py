"""The tokenizers that are trained here: round trips, digits, special tokens, saving."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fastunlearn.data import generate_people, train_tokenizer
from fastunlearn.errors import InvalidInputError

TEXTS = list(generate_people(12, forget_people=4, held_out_people=4, canaries=2).texts())
SPECIALS = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}


@pytest.fixture(scope="module", params=["words", "bpe"])
def tokenizer(request):
    return train_tokenizer(TEXTS, kind=request.param)


def special_ids(tokenizer):
    return tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id


def kind_of(tokenizer):
    return "bpe" if "Ġ" in tokenizer.get_vocab() else "words"


def test_texts_round_trip(tokenizer):
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_have_fixed_ids_and_are_not_added(tokenizer):
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS} == SPECIALS
    assert special_ids(tokenizer) == (0, 1, 2, 3)
    assert not set(tokenizer(TEXTS[0])["input_ids"]) & set(SPECIALS.values())


def test_each_digit_is_one_known_token(tokenizer):
    bare = train_tokenizer(["no digits here"], kind=kind_of(tokenizer))
    for found in (tokenizer, bare):
        tokens = found.convert_ids_to_tokens(found("0123456789")["input_ids"])
        assert tokens == list("0123456789")
        spaced = found.convert_ids_to_tokens(found("code 4 8 1")["input_ids"])
        assert [token for token in spaced if token.isdigit()] == ["4", "8", "1"]


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in TEXTS[:20]:
        ids = loaded(text)["input_ids"]
        assert ids == tokenizer(text)["input_ids"]
        assert loaded.decode(ids) == text
    assert special_ids(loaded) == (0, 1, 2, 3)


def test_the_same_texts_give_the_same_vocabulary(tokenizer):
    assert train_tokenizer(iter(TEXTS), kind=kind_of(tokenizer)).get_vocab() == tokenizer.get_vocab()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_gives_back_any_text(text):
    tokenizer = _bpe()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def _bpe(made: list = []):  # noqa: B006 - made once for all examples
    made or made.append(train_tokenizer(TEXTS, kind="bpe", vocab_size=300))
    return made[0]


def test_the_most_frequent_words_stay_in_a_small_vocabulary():
    found = train_tokenizer(["b a b c", "b c d"], vocab_size=16)
    assert sorted(found.get_vocab(), key=found.get_vocab().get) == [*SPECIALS, *"0123456789", "b", "c"]
    assert found("a b")["input_ids"] == [SPECIALS["<unk>"], found.get_vocab()["b"]]
    assert len(train_tokenizer(TEXTS, kind="bpe", vocab_size=270)) == 270


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([], {}, "texts holds no text"),
        (["", " "], {}, "texts holds no text"),
        ("one", {}, "texts is one string"),
        (["a", None], {}, "text 2 of texts is a NoneType"),
        (["a"], {"kind": "letters"}, "kind='letters' is unknown; use one of words, bpe"),
        (["a"], {"vocab_size": 13}, "vocab_size must be an integer of at least 14"),
        (["a"], {"kind": "bpe", "vocab_size": 259}, "vocab_size must be an integer of at least 260"),
    ],
)
def test_bad_arguments_are_named(texts, options, said):
    with pytest.raises(InvalidInputError, match=said):
        train_tokenizer(texts, **options)
