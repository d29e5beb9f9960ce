"""Bad arguments: the message names the argument and the mend."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops.ghost_gram import embedding_gram, embedding_linear_gram, formed_gram, ghost_gram, gram, rows_gram
from tests.ops.gram_cases import make_tokens

x, g, offsets = make_tokens([2, 3], 4, 3, torch.float32)
T = torch.tensor


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((x[0], g, offsets), "x1 must be a 2-D"),
        ((x.int(), g, offsets), "x1 has dtype"),
        ((x, g.double(), offsets), "g1 is torch.float64"),
        ((x, g[:4], offsets), "x1 has 5 rows and g1 has 4"),
        ((x[:, :0], g, offsets), "x1 and g1 need at least one column"),
        ((x, g[:, :0], offsets), "x1 and g1 need at least one column"),
        ((x, g, offsets.int()), "offsets1 must be a 1-D int64"),
        ((x, g, T([0, 4])), "end with the number of tokens, 5"),
        ((x, g, T([1, 5])), "start with 0"),
        ((x, g, T([0, 4, 2, 5])), "must not decrease"),
        ((x, g, T([], dtype=torch.int64)), "offsets1 is empty"),
        ((x, g, offsets, x), "go together"),
        ((x, g, offsets, x[:, :3], g, offsets), "x2 has 3 columns where 4"),
        ((x, g, offsets, x, g[:, :2], offsets), "g2 has 2 columns where 3"),
        ((x, g, offsets, x.double(), g.double(), offsets), "x2 is torch.float64"),
    ],
)
def test_ghost_gram(arguments, words):
    for function in (ghost_gram, formed_gram, gram):
        with pytest.raises(InvalidInputError, match=words):
            function(*arguments)


@pytest.mark.parametrize("out", [torch.empty(2, 3), torch.empty(2, 2, dtype=torch.float64)])
def test_out(out):
    with pytest.raises(InvalidInputError, match="out is"):
        ghost_gram(x, g, offsets, out=out)


def test_embedding():
    ids = T([0, 1, 2, 1, 0])
    with pytest.raises(InvalidInputError, match="ids1 must be"):
        embedding_gram(ids.int(), g, offsets)
    with pytest.raises(InvalidInputError, match="one id per row"):
        embedding_gram(ids[:4], g, offsets)
    with pytest.raises(InvalidInputError, match="negative"):
        embedding_gram(ids - 1, g, offsets)
    with pytest.raises(InvalidInputError, match="go together"):
        embedding_gram(ids, g, offsets, ids)
    with pytest.raises(InvalidInputError, match="the vocabulary"):
        embedding_linear_gram(ids, x, offsets, x, g[:, :2], offsets)


def test_rows():
    with pytest.raises(InvalidInputError, match="a2 has 3 columns"):
        rows_gram(x, g)
