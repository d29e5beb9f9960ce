"""Samples as batches again: packed rows are read as the model reads them; labels are drawn without dropout."""

from __future__ import annotations

import torch

import fastunlearn as fu
from fastunlearn.data.encode import Encoded
from fastunlearn.operators.samples import Row, collate_any, to_samples
from fastunlearn.operators.targets import sample_labels


def packed(length: int) -> dict[str, torch.Tensor]:
    """One row of two sequences, of three tokens and the rest, as a collator without padding gives it."""
    ids = torch.randint(3, 37, (1, length), generator=torch.Generator().manual_seed(length))
    labels = ids.clone()
    labels[0, [0, 3]] = -100
    positions = torch.cat([torch.arange(3), torch.arange(length - 3)])[None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def test_packed_sequences_do_not_see_each_other(tiny_llama):
    """The Fisher in sample space is that of the passes over whole batches, and of the sequences one by one."""
    model, batches = tiny_llama(layers=1), [packed(9), packed(7)]
    operator, lowrank = fu.Fisher(model, batches), fu.LowRankFisher(model, batches, 1e-2)
    v = torch.randn(operator.shape[0], dtype=torch.float64)
    truth = operator @ v
    torch.testing.assert_close(lowrank @ v - 1e-2 * v, truth, rtol=1e-5, atol=1e-6 * float(truth.abs().max()))
    whole = fu.gradient(model, packed(9), reduction="sum")
    alone = [{name: packed(9)[name][:, part] for name in ("input_ids", "labels")} for part in (slice(3), slice(3, 9))]
    torch.testing.assert_close(whole, sum(fu.gradient(model, one, reduction="sum") for one in alone))


def test_a_mask_is_kept_where_positions_run_on():
    ids, places = torch.arange(3, 8), torch.arange(5)
    plain = Row(ids, ids, {"position_ids": places})
    assert "attention_mask" in collate_any([plain, plain], pad_token_id=0)
    again = Row(ids, ids, {"position_ids": places % 3})
    assert "attention_mask" not in collate_any([plain, again], pad_token_id=0)
    masked = {"position_ids": places % 3, "attention_mask": torch.ones_like(ids)}
    assert "attention_mask" in collate_any([Row(ids, ids, masked)], pad_token_id=0)


def test_labels_are_drawn_without_dropout_and_with_their_own_seed(tiny_gpt2):
    model = tiny_gpt2(torch.float32, embd_pdrop=0.5, resid_pdrop=0.5)
    ids = torch.randint(3, 37, (40, 9), generator=torch.Generator().manual_seed(0))
    samples = to_samples({"input_ids": ids, "labels": ids})
    assert all(isinstance(one, Encoded) for one in samples)
    settings = {"pad_token_id": 0, "batch_size": 16, "seed": 3}
    still = sample_labels(model, samples, **settings)
    model.train()
    state = torch.random.get_rng_state()
    drawn = sample_labels(model, samples, **settings)
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(drawn, still, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state) and all(one.training for one in model.modules())
