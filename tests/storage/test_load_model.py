"""Good folders load as they are; each kind of damage is named with its mend."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from fastunlearn.errors import InvalidInputError, ModelFolderError
from fastunlearn.storage import load_model


def edit(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_dtype_and_tokenizer_are_those_of_the_folder(folder, tiny_llama, tokenizer, capfd):
    model, loaded = load_model(folder)
    assert isinstance(model, LlamaForCausalLM) and not model.training
    expected = tiny_llama().state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float64 and torch.equal(weight, expected[name])
    assert loaded("the cat sat 42").input_ids == tokenizer("the cat sat 42").input_ids
    assert capfd.readouterr() == ("", "")  # library code never prints


def test_dtype_can_be_chosen(folder):
    assert load_model(folder, dtype=torch.float32)[0].dtype == torch.float32


def test_sharded_folder_loads(folder, tiny_llama):
    (folder / "model.safetensors").unlink()
    tiny_llama().save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    model, _ = load_model(str(folder))
    assert torch.equal(model.lm_head.weight, tiny_llama().lm_head.weight)


def test_missing_folder(tmp_path):
    with pytest.raises(ModelFolderError, match="does not exist"):
        load_model(tmp_path / "none")


def test_file_in_place_of_the_folder(folder):
    with pytest.raises(ModelFolderError, match="is a file"):
        load_model(folder / "model.safetensors")


def test_missing_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"no config\.json"):
        load_model(folder)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_broken_config(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        load_model(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_file_cut_short(folder, share):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is cut short or damaged"):
        load_model(folder)


def test_index_that_names_a_missing_shard(folder, tiny_llama):
    (folder / "model.safetensors").unlink()
    tiny_llama().save_pretrained(folder, max_shard_size="8KB")
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelFolderError, match=f"{lost.name}, which is missing"):
        load_model(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": {"a": "../model.safetensors"}}])
def test_broken_index(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match=r"index\.json"):
        load_model(folder)


def test_pickle_only_is_refused_with_the_mend(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"pytorch_model\.bin.*save_pretrained"):
        load_model(folder)


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"neither model\.safetensors nor"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weight_that_is_not_a_number(folder, value):
    name = "model.layers.1.mlp.up_proj.weight"

    def change(weights):
        weights[name][2, 3] = value

    edit(folder, change)
    with pytest.raises(InvalidInputError, match=f"{name} .* 1 values"):
        load_model(folder)


def test_missing_weight_is_not_filled_at_random(folder):
    edit(folder, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ModelFolderError, match=r"lacks 1 weights .* model\.norm\.weight"):
        load_model(folder)


def test_weight_of_another_shape(folder):
    edit(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        load_model(folder)


def test_weight_without_a_place_warns(folder):
    edit(folder, lambda weights: weights.update({"value_head.weight": torch.ones(3)}))
    with pytest.warns(UserWarning, match=r"value_head\.weight"):
        load_model(folder)


@pytest.mark.parametrize("kind", ["no-such-architecture", "t5"])
def test_not_a_causal_language_model(folder, kind):
    edit_json(folder / "config.json", model_type=kind)
    with pytest.raises(ModelFolderError, match="cannot be loaded as a causal language model"):
        load_model(folder)


def test_code_of_the_folder_is_not_run(folder, tmp_path):
    proof = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    edit_json(
        folder / "config.json",
        model_type="own-kind",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    with pytest.raises(ModelFolderError, match="trust_remote_code=True"):
        load_model(folder)
    assert not proof.exists()


def test_quantised_model_is_refused(folder):
    edit_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelFolderError, match="quantised"):
        load_model(folder)


def test_no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelFolderError, match=r"no tokenizer .*tokenizer\.json"):
        load_model(folder)


def test_tokenizer_of_another_model(folder, tmp_path, tokenizer):
    tokenizer.add_tokens([f"extra{i}" for i in range(40)])
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelFolderError, match="do not belong together"):
        load_model(folder)


@pytest.mark.parametrize("device", ["no-such-device", "meta:7:8"])
def test_unknown_device(folder, device):
    with pytest.raises(InvalidInputError, match="device="):
        load_model(folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_device_that_is_not_there(folder):
    with pytest.raises(InvalidInputError, match="device='cuda'"):
        load_model(folder, device="cuda")
