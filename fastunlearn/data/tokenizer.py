"""Small tokenizers trained on the user's own texts: by words, or byte-level BPE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["KINDS", "SPECIAL_TOKENS", "train_tokenizer"]

KINDS = ("words", "bpe")
#: In the order of their ids: pad 0, bos 1, eos 2, unk 3.
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
_DIGITS = "0123456789"
_BYTES = 256


def _words(texts: list[str], vocab_size: int):
    """A word-level tokenizer with the ``vocab_size`` most frequent words (ties: in code-point order)."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in split.pre_tokenize_str(text))
    fixed = [*SPECIAL_TOKENS, *_DIGITS]  # all digits are known, whether or not the texts hold them
    words = sorted(counts.keys() - set(fixed), key=lambda word: (-counts[word], word))
    vocabulary = [*fixed, *words][:vocab_size]
    model = models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    return tokenizer


def _bpe(texts: list[str], vocab_size: int):
    """A byte-level BPE tokenizer that never merges a digit with anything."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_tokenizer(
    texts: Iterable[str], *, kind: str = "words", vocab_size: int = 8000
) -> PreTrainedTokenizerFast:
    """A tokenizer for these texts, with the special tokens <pad>, <bos>, <eos> and <unk> (ids 0 to 3).

    ``kind``: "words" has one token per word and per run of punctuation; white space is not kept, so decoding
    gives back a text whose tokens stand apart by single spaces; a word that the texts do not hold is <unk>.
    "bpe" is byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), which gives back any text. In both
    kinds each digit is one token. ``vocab_size``: the most tokens that the vocabulary may have, special
    tokens included. The same texts give the same tokenizer. No special token is added to a text on its own
    (:func:`~fastunlearn.data.encode` adds bos). ``save_pretrained`` and
    ``AutoTokenizer.from_pretrained`` work.

    Raises InvalidInputError for no texts, for one that is no string, for an unknown kind, and for a
    ``vocab_size`` that does not hold the special tokens and the digits (words) or all bytes (bpe).
    """
    from transformers import PreTrainedTokenizerFast

    if kind not in KINDS:
        raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
    least = len(SPECIAL_TOKENS) + (len(_DIGITS) if kind == "words" else _BYTES)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < least:
        raise InvalidInputError(
            f"vocab_size must be an integer of at least {least} for kind={kind!r}, got {vocab_size!r}"
        )
    if isinstance(texts, str):
        raise InvalidInputError("texts is one string: give a list of strings")
    texts = list(texts)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise InvalidInputError(f"text {number} of texts is a {type(text).__name__}, not a string")
    if not any(text.strip() for text in texts):
        raise InvalidInputError("texts holds no text: give at least one string that is not blank")
    tokenizer = (_words if kind == "words" else _bpe)(texts, vocab_size)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
