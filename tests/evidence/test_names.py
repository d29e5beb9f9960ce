"""A model folder from elsewhere, as the Hub has GPT-2: names without a prefix, buffers that no weight is, mixed types.
Its tensors are compared with those after by the names that they have in a saved copy."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from fastunlearn.data import train_tokenizer
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import generate_key, verify, write_evidence
from fastunlearn.evidence import recompute as recompute_module
from fastunlearn.evidence.digests import model_digest
from fastunlearn.storage import save_model
from tests.evidence.forging import edit, read, resign
from tests.evidence.small_run import ARGUMENTS, RECORDS, finish


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A run on such a folder: ``place``, ``key``, ``given`` (what an auditor has)."""
    place = tmp_path_factory.mktemp("foreign")
    tokenizer = train_tokenizer([record.text for found in RECORDS.values() for record in found])
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0,
                        embd_pdrop=0, attn_pdrop=0, bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    save_model(GPT2LMHeadModel(config), tokenizer, place / "before")
    file = place / "before" / "model.safetensors"
    weights = {name.removeprefix("transformer."): weight for name, weight in load_file(file).items()}
    weights |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 16, 16).tril() for layer in range(2)}
    weights["ln_f.weight"] = weights["ln_f.weight"].bfloat16()  # of ones
    save_file(weights, file, metadata={"format": "pt"})
    key = generate_key(place / "keys")
    run = finish(place, ARGUMENTS | {"parameters": ["transformer.h.*.mlp.*"]})
    write_evidence(place / "evidence", run, key=key)
    run.log.close()
    given = {"model": place / "after", "before": place / "before", "records": RECORDS}
    return SimpleNamespace(place=place, key=key, given=given)


@pytest.fixture
def evidence(foreign, tmp_path):
    return shutil.copytree(foreign.place / "evidence", tmp_path / "evidence")


def test_an_honest_run_is_verified_and_its_changed_weights_are_counted(evidence, foreign):
    found = verify(evidence, **foreign.given, recompute=True)
    assert found.passed, found.text()
    assert "8 of 28 tensors differ" in found["weights"].says and "to the bit" in found["update"].says
    before = read(evidence, "models.json")["before"]
    assert "h.0.attn.bias" in before["tensors"] and "transformer.h.0.ln_1.bias" in before["as_saved"]["tensors"]


def test_a_weight_that_was_not_to_change_is_found_by_its_name(evidence, foreign):
    edit(evidence, "procedure.json", "parameters", value=lambda names: names[:3])
    edit(evidence, "procedure.json", "arguments", "parameters", value=["transformer.h.0.*"])
    resign(evidence, foreign.key)
    assert "weights changed that were not to: transformer.h.1" in verify(evidence)["weights"].says


def test_the_stated_saved_form_must_be_that_of_the_folder(evidence, foreign):
    """An owner could state what he likes of it, and so hide which weights changed."""
    after = read(evidence, "models.json")["after"]
    edit(evidence, "models.json", "before", "as_saved", "tensors", value=lambda tensors: tensors | {
        name: after["tensors"][name] for name in tensors if ".1.mlp" in name})  # fmt: skip
    resign(evidence, foreign.key)
    assert "the digest of the weights before as_saved is not that" in verify(evidence)["weights"].says
    from fastunlearn.evidence.digests import weights_digest

    forged = read(evidence, "models.json")["before"]["as_saved"]["tensors"]
    edit(evidence, "models.json", "before", "as_saved", "weights", value=weights_digest(forged))
    resign(evidence, foreign.key)
    assert verify(evidence)["weights"].passed
    said = verify(evidence, before=foreign.given["before"])["model before"]
    assert said.passed is False and "4 of 28 tensors differ (first: transformer.h.1.mlp" in said.says
    for value in (None, 1, {}, {"tensors": 1}):
        edit(evidence, "models.json", "before", "as_saved", value=value)
        resign(evidence, foreign.key)
        assert not verify(evidence, before=foreign.given["before"]).passed


def test_a_folder_made_before_saved_forms_were_stated_is_refused_in_words(evidence, foreign):
    edit(evidence, "models.json", "before", "as_saved", value=...)
    resign(evidence, foreign.key)
    said = verify(evidence)["weights"]
    assert said.passed is False and "other names, such as" in said.says and "must be made again" in said.says


def test_distances_are_between_weights_of_one_name(evidence, foreign, tmp_path, monkeypatch):
    """The model after is nudged by a ten-thousandth of the update: that much is said, whatever the names before."""
    shutil.copytree(foreign.place / "after", tmp_path / "after")
    after = load_file(tmp_path / "after" / "model.safetensors")
    before = load_file(foreign.place / "before" / "model.safetensors")
    update = {name: after[name] - before[name.removeprefix("transformer.")].float() for name in after}
    save_file({name: weight + 1e-3 * update[name] for name, weight in after.items()},
              tmp_path / "after" / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    edit(evidence, "models.json", "after", value=model_digest(tmp_path / "after"))
    resign(evidence, foreign.key)
    monkeypatch.setattr(recompute_module, "differences", lambda *_: ["machine processor: 'A' then, 'B' here"])
    found = verify(evidence, **foreign.given | {"model": tmp_path / "after"}, recompute=True)["update"]
    assert found.passed and "9.99e-04 of the update's length" in found.says
    true = math.sqrt(sum(float(one.double().square().sum()) for one in update.values()))
    with recompute_module.as_saved(foreign.place / "before", foreign.place / "after") as place:
        assert recompute_module._squares(place, foreign.place / "after") == pytest.approx(true**2)
    with pytest.raises(InvalidInputError, match=r"are no pair: one has another h\.0\.attn\.bias"):
        recompute_module._squares(foreign.place / "before", foreign.place / "after")
