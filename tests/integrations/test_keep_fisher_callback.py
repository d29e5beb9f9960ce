"""The callback of transformers' Trainer: the Fisher that training leaves serves a request without retained data."""

from __future__ import annotations

import copy
import random

import pytest
import torch

import fastunlearn as fu
from fastunlearn.data.encode import Encoded, collate
from fastunlearn.errors import InvalidInputError
from fastunlearn.integrations._reservoir import Reservoir, rows_of
from fastunlearn.operators.samples import Row, sample_digest
from fastunlearn.solve.kept_fisher import KeptFisher

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
huggingface = pytest.importorskip("fastunlearn.integrations.huggingface")


def record(*tokens: int) -> Encoded:
    ids = torch.tensor(tokens)
    return Encoded(ids, torch.where(torch.arange(len(ids)) < 1, -100, ids))


def train(world, callback, tmp_path, *, steps=4, samples=None, **more):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path / "out"), max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-4, report_to="none",
        save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no", **more,
    )  # fmt: skip
    samples = world.encoded(world.forget + world.retain) if samples is None else samples
    trainer = Trainer(
        world.model, arguments, train_dataset=samples, processing_class=world.tokenizer, callbacks=[callback],
        data_collator=lambda part: collate(part, pad_token_id=0),
    )  # fmt: skip
    trainer.train()
    return trainer


def test_what_training_leaves_serves_a_request_without_retained_data(world, tmp_path, accuracy):
    callback = huggingface.KeepFisherCallback(rank=64)
    train(world, callback, tmp_path, steps=8)
    records = world.encoded(world.forget + world.retain)
    assert callback.complete and callback.kept.samples == len(records)
    direct = fu.keep_fisher(world.model, world.tokenizer, records, rank=64)
    assert torch.allclose(
        callback.kept.core.diagonal(), direct.core.diagonal(), rtol=1e-3, atol=1e-6 * float(direct.core.max())
    )
    forget = world.encoded(world.forget)
    before = accuracy(world.model, forget)
    fu.unlearn(world.model, world.tokenizer, forget=world.forget, method="fisher-removal-retain-free", steps=8,
               kept_fisher=tmp_path / "out" / "kept_fisher.safetensors")  # fmt: skip
    assert accuracy(world.model, forget) < before - 0.3
    assert accuracy(world.model, world.encoded(world.retain)) > accuracy(world.model, forget) + 0.2


def test_it_is_of_the_last_weights_and_of_no_others(world, tmp_path):
    callback = huggingface.KeepFisherCallback(rank=8)
    train(world, callback, tmp_path)
    kept = KeptFisher.load(tmp_path / "out" / "kept_fisher.safetensors")
    kept.check_model(dict(world.model.named_parameters()))
    with torch.no_grad():
        world.model.model.norm.weight.mul_(1.001)
    with pytest.raises(InvalidInputError, match="other weights"):
        kept.check_model(dict(world.model.named_parameters()))


def test_a_record_that_training_never_saw_cannot_be_taken_out(world, tmp_path):
    train(world, huggingface.KeepFisherCallback(rank=64), tmp_path, samples=world.encoded(world.retain))
    with pytest.raises(fu.FastUnlearnError, match="not part of the kept Fisher"):
        fu.unlearn(world.model, world.tokenizer, forget=world.held_out, method="fisher-removal-retain-free",
                   kept_fisher=tmp_path / "out" / "kept_fisher.safetensors")  # fmt: skip


def test_the_trained_model_is_not_lost_to_an_error_of_the_fisher(world, tmp_path, caplog):
    callback = huggingface.KeepFisherCallback(parameters="no.such.weight")
    before = copy.deepcopy(world.model.state_dict())
    train(world, callback, tmp_path)
    assert any(not torch.equal(value, before[name]) for name, value in world.model.state_dict().items())
    assert "matches no parameter" in caplog.text
    with pytest.raises(InvalidInputError, match="matches no parameter"):
        _ = callback.kept
    assert not (tmp_path / "out" / "kept_fisher.safetensors").exists()


def test_a_model_fed_without_labels_is_reported_at_once(world, tmp_path, caplog):
    callback = huggingface.KeepFisherCallback()
    train(world, callback, tmp_path, steps=1, label_smoothing_factor=0.1)
    assert "keep the Fisher after training" in caplog.text
    with pytest.raises(InvalidInputError, match="label smoothing"):
        _ = callback.kept


def test_what_cannot_work_is_refused_before_training():
    with pytest.raises(InvalidInputError, match="samples=0"):
        huggingface.KeepFisherCallback(samples=0)
    with pytest.raises(InvalidInputError, match="safetensors"):
        huggingface.KeepFisherCallback("kept.bin")
    with pytest.raises(InvalidInputError, match="end of training"):
        _ = huggingface.KeepFisherCallback().kept

    class Arguments:
        fsdp, deepspeed = ["full_shard"], None

    with pytest.raises(InvalidInputError, match="FSDP and DeepSpeed"):
        huggingface.KeepFisherCallback().on_train_begin(Arguments(), None, None, model=None)


def test_padding_on_either_side_is_no_part_of_a_record():
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 4, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = rows_of({"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)})
    assert [sample.input_ids.tolist() for sample in found] == [[5, 6, 7], [8, 9, 4]]
    assert not any(isinstance(sample, Row) for sample in found)
    assert rows_of({"input_ids": ids[:1], "labels": torch.full_like(ids[:1], -100)}) == []


def test_sequences_packed_without_padding_are_refused():
    ids, places = torch.arange(3, 11)[None], torch.arange(8)[None]
    batch = {"input_ids": ids, "labels": ids}
    assert len(rows_of({**batch, "position_ids": places})) == 1
    with pytest.raises(InvalidInputError, match="position_ids start again"):
        rows_of({**batch, "position_ids": places % 5})
    mask = (places >= 2).long()  # what stands at padding does not matter
    assert len(rows_of({**batch, "attention_mask": mask, "position_ids": (places - 2).clamp_min(0)})) == 1


def digests(reservoir: Reservoir) -> list[str]:
    return [sample_digest(sample) for sample in reservoir.samples()]


def test_the_draw_counts_a_record_once_and_does_not_depend_on_the_order():
    records = [record(1, i, i + 1) for i in range(3, 60)]
    one, other = Reservoir(10, 0), Reservoir(10, 0)
    one.add(records)
    random.Random(0).shuffle(records)
    other.add(records + records)
    assert len(one) == 10 and digests(one) == digests(other) and not one.complete
    everything = Reservoir(None, 0)
    everything.add(records + records)
    assert len(everything) == len(records) and everything.complete
    assert digests(Reservoir(10, 0)) == []


def test_draws_of_processes_join_into_the_draw_of_all():
    records = [record(1, i, i + 1) for i in range(3, 60)]
    whole, halves = Reservoir(12, 7), [Reservoir(12, 7), Reservoir(12, 7)]
    whole.add(records)
    for half, part in zip(halves, (records[:20], records[15:]), strict=True):
        half.add(part)
    halves[0].join(halves[1])
    assert digests(halves[0]) == digests(whole)


def test_the_draw_is_fair():
    """Over many seeds each of 20 records is drawn about as often: 400 draws of 5, expected 100, sd 8.7."""
    records = [record(1, i, i + 1) for i in range(3, 23)]
    counts = dict.fromkeys(map(sample_digest, records), 0)
    for seed in range(400):
        reservoir = Reservoir(5, seed)
        reservoir.add(records)
        for digest in digests(reservoir):
            counts[digest] += 1
    assert min(counts.values()) > 65 and max(counts.values()) < 135
