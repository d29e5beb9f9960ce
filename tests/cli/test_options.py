"""The values of --set and --model, as they are typed."""

from __future__ import annotations

import argparse

import pytest

from fastunlearn.cli._options import named_value
from fastunlearn.cli.evaluate import name_models
from fastunlearn.cli.main import main
from fastunlearn.cli.unlearn import settings_of
from fastunlearn.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "pair"),
    [("damping=1e-4", ("damping", 1e-4)), ("steps=3", ("steps", 3)), ("on=true", ("on", True)),
     ("x=null", ("x", None)), ("kind=block", ("kind", "block")), ("list=[1, 2]", ("list", [1, 2])),
     ("a=b=c", ("a", "b=c")), ("empty=", ("empty", "")), ("x=NaN", ("x", "NaN")), ("s=\"5\"", ("s", "5"))],
)  # fmt: skip
def test_named_value(text, pair):
    assert named_value(text) == pair and type(named_value(text)[1]) is type(pair[1])


@pytest.mark.parametrize("text", ["damping", "=3", "two words=3", "a-b=1", ""])
def test_named_value_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError, match="key=value"):
        named_value(text)


def test_settings_given_twice_or_with_an_option_of_their_own():
    assert settings_of([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(InvalidInputError, match="a is given twice"):
        settings_of([("a", 1), ("a", 2)])
    with pytest.raises(InvalidInputError, match="seed"):
        settings_of([("seed", 1)])


def test_models_are_named_by_folder_or_by_hand(tmp_path):
    odd = tmp_path / "lr=3"
    odd.mkdir()
    found = name_models(["a/one", "two=b/one", str(odd)])
    assert {name: str(path) for name, path in found.items()} == {
        "one": "a/one", "two": "b/one", "lr=3": str(odd)
    }  # fmt: skip


@pytest.mark.parametrize("texts", [["=x"], ["x="], ["a/one", "b/one"]])
def test_models_without_a_name_or_of_one_name(texts):
    with pytest.raises(InvalidInputError, match="--model"):
        name_models(texts)


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "٣", "many"])
@pytest.mark.parametrize("command", ["evaluate", "demo", "train"])
def test_seeds_that_a_part_of_the_package_would_refuse_in_the_end(seed, command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--seed", seed])
    assert caught.value.code == 2 and "2**32 - 1" in capsys.readouterr().err
