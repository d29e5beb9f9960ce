"""transformers' pipelines and the datasets package, before and after unlearning."""

from __future__ import annotations

import copy

import pytest
import torch

import fastunlearn as fu
from fastunlearn.storage import load_model, save_model


def rows(records):
    return [{"prompt": record.prompt, "completion": record.completion} for record in records]


def test_the_changed_model_answers_in_a_pipeline(world, tmp_path):
    from transformers import pipeline

    prompts = [record.prompt for record in world.forget]

    def answers(model):
        ask = pipeline("text-generation", model=model, tokenizer=world.tokenizer, device="cpu")
        # bos is what fastunlearn's encoding puts first, and what the model was trained with
        found = ask([world.tokenizer.bos_token + prompt for prompt in prompts], max_new_tokens=3, do_sample=False,
                    return_full_text=False, add_special_tokens=False)  # fmt: skip
        return [one[0]["generated_text"] for one in found]

    before = answers(world.model)
    result = fu.unlearn(world.model, world.tokenizer, forget=world.forget, retain=world.retain, held_out=world.held_out)
    after = answers(result.model)
    assert sum(a != b for a, b in zip(before, after, strict=True)) >= len(prompts) // 2
    save_model(result.model, world.tokenizer, tmp_path / "after")
    loaded, _ = load_model(tmp_path / "after")
    assert answers(loaded) == after


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_are_records(world, streaming):
    datasets = pytest.importorskip("datasets")
    plain = copy.deepcopy(world.model)
    fu.unlearn(plain, world.tokenizer, forget=world.forget, retain=world.retain, method="newton", damping=1e-2)

    def dataset(records):
        made = datasets.Dataset.from_list(rows(records))
        return made.to_iterable_dataset() if streaming else made

    fu.unlearn(world.model, world.tokenizer, forget=dataset(world.forget), retain=dataset(world.retain),
               method="newton", damping=1e-2)  # fmt: skip
    for name, p in plain.named_parameters():
        assert torch.equal(p, world.model.get_parameter(name)), name


def test_a_split_of_a_saved_dataset(world, tmp_path):
    datasets = pytest.importorskip("datasets")
    sides = {"forget": world.forget, "retain": world.retain}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(rows(side)) for name, side in sides.items()})
    saved.save_to_disk(tmp_path / "people")
    from fastunlearn.data import load_records

    assert load_records(tmp_path / "people", split="forget") == world.forget


def test_batches_of_a_tokenised_dataset_in_torch_format(world):
    datasets = pytest.importorskip("datasets")
    samples = world.encoded(world.retain[:6])
    length = min(len(sample.input_ids) for sample in samples)
    table = {"input_ids": [sample.input_ids[:length].tolist() for sample in samples]}
    tokenised = datasets.Dataset.from_dict(table).with_format("torch")
    batches = [{"input_ids": part["input_ids"], "labels": part["input_ids"]} for part in tokenised.iter(batch_size=4)]
    hessian = fu.Hessian(world.model, batches)
    ids = torch.stack([sample.input_ids[:length] for sample in samples])
    v = torch.randn(hessian.shape[0])
    whole = fu.Hessian(world.model, {"input_ids": ids, "labels": ids}) @ v
    assert (hessian @ v - whole).norm() < 1e-5 * whole.norm()
