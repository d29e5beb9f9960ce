"""Bad input: a clear error that names the argument, and a model that has not changed by a bit."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fastunlearn.data import Record
from fastunlearn.errors import FastUnlearnError, InvalidInputError, NotPositiveDefiniteError, UnknownMethodError
from fastunlearn.unlearn import METHODS, keep_fisher, unlearn
from tests.unlearn.unchanged import unchanged

NEEDS_RETAIN = [name for name, method in METHODS.items() if method.uses_retain]


@pytest.fixture
def refused(world, tmp_path):
    """``refused(words, ..., error=InvalidInputError, **arguments)``: that this call is refused with an error that
    holds all the words and no text of a record, and changes nothing. Returns the message."""

    def check(*words, error=InvalidInputError, **arguments):
        arguments = {**world.data, **arguments}
        with unchanged(world.model, tmp_path), pytest.raises(error) as caught:
            unlearn(world.model, world.tokenizer, **arguments)
        message = str(caught.value)
        assert all(word in message for word in words), message
        assert not any(record.prompt in message for record in world.data["forget"])
        return message

    return check


def write(path, records):
    path.write_text("".join(json.dumps({"prompt": r.prompt, "completion": r.completion}) + "\n" for r in records))
    return path


@pytest.mark.parametrize("empty", [[], (), None])
def test_nothing_to_forget(refused, empty):
    refused("forget", "give", forget=empty)


@pytest.mark.parametrize("name", ["forget.jsonl", "forget.json", "forget.csv", "forget.txt"])
def test_an_empty_file(refused, tmp_path, name):
    path = tmp_path / name
    path.write_text("")
    refused("forget", name, forget=path)


def test_an_empty_retain_file_or_list(refused, tmp_path):
    refused("retain is empty", retain=[])
    refused("retain", "r.jsonl", retain=write(tmp_path / "r.jsonl", []))


@pytest.mark.parametrize("name", ["retain", "held_out"])
def test_overlap(refused, world, name):
    """Also where spaces differ that the tokens do not show."""
    again = world.data["forget"][2]
    others = world.data[name]
    refused("overlap", "1 records", f"record 3 of forget is record {len(others) + 1} of {name}",
            f"remove them from {name}", **{name: [*others, again]})  # fmt: skip
    refused("overlap", **{name: [*others, Record(again.prompt, again.completion + " ")]})


@pytest.mark.parametrize("name", ["forget", "retain", "held_out"])
def test_a_record_longer_than_the_context(refused, world, name):
    long = Record("one two", " three" * 40)
    refused("record 2 of " + name, "43", "32", "truncate", **{name: [world.data[name][0], long]})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite(refused, world, method, value):
    with torch.no_grad():
        world.model.lm_head.weight[3, 3] = value
    refused("lm_head.weight", "NaN", method=method)


@pytest.mark.parametrize("damping", [0, 0.0, -1e-3, math.nan, math.inf, "1e-4", None, True])
@pytest.mark.parametrize("method", ["fisher-removal", "fisher-forgetting", "newton"])
def test_damping(refused, method, damping):
    refused("damping=", "above 0", method=method, damping=damping)


@pytest.mark.parametrize("damping", [0, -1.0, math.nan])
def test_damping_of_a_kept_fisher(world, damping):
    with unchanged(world.model), pytest.raises(InvalidInputError, match="damping="):
        keep_fisher(world.model, world.tokenizer, world.data["retain"], damping=damping)


@pytest.mark.parametrize("length", [1, 33, True])
def test_a_kept_fisher_takes_no_longer_records_than_the_model(world, length):
    """Learnt positions beyond the context are an IndexError of PyTorch's, others are silently wrong."""
    with pytest.raises(InvalidInputError, match=r"max_length=.* from 2 to the model's 32"):
        keep_fisher(world.model, world.tokenizer, world.data["retain"], max_length=length)


@pytest.mark.parametrize("method", ["magic", "", "Fisher-Removal", None, ["npo"]])
def test_unknown_method(refused, method):
    message = refused("method=", error=UnknownMethodError, method=method)
    assert all(name in message for name in METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_setting(refused, method):
    import dataclasses

    message = refused("dampnig", method, method=method, dampnig=1e-3)
    assert all(field.name in message for field in dataclasses.fields(METHODS[method].settings))


@pytest.mark.parametrize(
    ("method", "setting", "value"),
    [("fisher-removal", "steps", 0), ("fisher-removal", "steps", 2.0), ("fisher-removal", "steps", True),
     ("fisher-removal", "step_norm", -1.0), ("fisher-removal", "blocks", "head"), ("fisher-removal", "kind", []),
     ("fisher-removal", "fisher_samples", 0), ("fisher-removal", "kl_budget", 0.0),
     ("fisher-removal", "pull", "hard"), ("fisher-removal", "target_accuracy", 1.5),
     ("fisher-removal", "threshold", math.nan), ("fisher-forgetting", "noise", -1e-4),
     ("fisher-forgetting", "noise_floor", 0), ("npo", "beta", 0), ("npo", "retain_weight", -1),
     ("gradient-ascent", "learning_rate", math.nan), ("gradient-ascent", "batch", 0),
     ("finetune", "gradients", 0), ("gradient-difference", "check_every", "often")],
)  # fmt: skip
def test_settings_out_of_range(refused, method, setting, value):
    refused(f"{setting}=", "must be", method=method, **{setting: value})


@pytest.mark.parametrize("patterns", ["*.mpl.*", ["*.mlp.*", "lm_haed*"], "lm_head"])
def test_unknown_parameter_pattern(refused, patterns):
    refused("parameters", "matches no parameter", "model.embed_tokens.weight", parameters=patterns)


def test_no_parameter_at_all(refused):
    refused("parameters is empty", parameters=[])


@pytest.mark.parametrize("method", NEEDS_RETAIN)
def test_retain_missing(refused, method):
    refused("retain is needed by", method, method=method, retain=None)


def test_retain_missing_for_a_setting_that_needs_it(refused):
    refused("retain is needed by npo", method="npo", retain_weight=0.5, retain=None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", 1.0), ("seed", True), ("seed", 2**63), ("batch_size", 0), ("max_length", 1),
     ("max_length", 33), ("memory", "lots"), ("memory", 0)],
)  # fmt: skip
def test_other_arguments(refused, name, value):
    refused(name, **{name: value})


def test_records_without_a_tokenizer(world):
    with unchanged(world.model), pytest.raises(InvalidInputError, match="tokenizer is needed to encode forget"):
        unlearn(world.model, None, forget=world.data["forget"], method="gradient-ascent")


# The kept Fisher. -----------------------------------------------------------------------------------------------

RETAIN_FREE = {"method": "fisher-removal-retain-free", "retain": None}


@pytest.fixture
def fisher_file(world, tmp_path):
    path = tmp_path / "fisher.safetensors"
    keep_fisher(world.model, world.tokenizer, world.data["forget"] + world.data["retain"]).save(path)
    return path


def kept_refused(world, kept, tmp_path, match, error=InvalidInputError, **options):
    """As ``refused``, with no parameter frozen, which would choose other parameters than were kept."""
    with unchanged(world.model, tmp_path), pytest.raises(error, match=match):
        unlearn(world.model, world.tokenizer, forget=world.data["forget"], kept_fisher=kept,
                parameters=options.pop("parameters", "*"), **RETAIN_FREE, **options)  # fmt: skip


def test_kept_fisher_missing(refused, tmp_path):
    refused("kept_fisher is needed", "keep-fisher", **RETAIN_FREE)
    refused("there is no file", kept_fisher=tmp_path / "none.safetensors", **RETAIN_FREE)
    refused("must be a KeptFisher or a path", kept_fisher=7, **RETAIN_FREE)


def test_kept_fisher_for_a_method_without_use_for_it(refused, fisher_file):
    refused("kept_fisher", "leave it out", kept_fisher=fisher_file)


def test_kept_fisher_of_other_weights(world, fisher_file, tmp_path):
    with torch.no_grad():
        world.model.lm_head.weight[0, 0] += 1e-4
    kept_refused(world, fisher_file, tmp_path, "other weights")


def test_kept_fisher_of_other_parameters(world, fisher_file, tmp_path):
    kept_refused(world, fisher_file, tmp_path, "other parameters", parameters="*.mlp.*")


@pytest.mark.parametrize("left", [0, 4, 100, -1000, -1])
def test_kept_fisher_cut_short(world, fisher_file, tmp_path, left):
    fisher_file.write_bytes(fisher_file.read_bytes()[:left])
    kept_refused(world, fisher_file, tmp_path, "damaged")


def test_a_file_that_is_no_kept_fisher(world, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"core": torch.eye(2)}, path)
    kept_refused(world, path, tmp_path, "not a Fisher that fastunlearn kept")
    about = {"format": "fastunlearn-kept-fisher-1", "parameters": []}
    save_file({"core": torch.eye(2)}, path, {"fastunlearn": json.dumps(about)})
    kept_refused(world, path, tmp_path, "damaged")


def test_records_that_the_kept_fisher_never_had(world, tmp_path):
    """Noticed where their curvature is more than the damping, which a small one makes sure of."""
    kept = keep_fisher(world.model, world.tokenizer, world.data["retain"], damping=1e-8)
    kept_refused(world, kept, tmp_path, "not part of the kept Fisher", error=NotPositiveDefiniteError)


def test_every_error_is_one_of_ours():
    for error in (InvalidInputError, UnknownMethodError, NotPositiveDefiniteError):
        assert issubclass(error, FastUnlearnError)
