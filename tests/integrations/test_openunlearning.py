"""OpenUnlearning: trainers and metrics against stand-ins of its interfaces."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

from fastunlearn.audit.membership import auc
from fastunlearn.audit.scores import token_scores
from fastunlearn.errors import InvalidInputError
from fastunlearn.integrations.openunlearning import load_sockets, register
from fastunlearn.integrations.openunlearning.records import encoded, indexed
from fastunlearn.integrations.openunlearning.trainers import ONE_SHOT
from tests.integrations.standin_openunlearning import Collator, ForgetRetain, Questions, make_sockets


@pytest.fixture(params=["Old", "New"])
def stack(request, world):
    """A stand-in with everything registered, and ``run(handler, method_args, **args)`` as its train.py does it."""
    found = make_sockets(request.param)
    found.names = register(found.sockets)
    found.data = {name: Questions(world.encoded(getattr(world, name))) for name in ("forget", "retain", "held_out")}

    def run(handler, method_args=None, tmp_path=None, data=None, model=None, **args):
        settings = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 0,
                    "save_strategy": "no", "eval_on_start": False, "remove_unused_columns": False,
                    "logging_dir": "gone/in/transformers/5", **args}  # fmt: skip
        config = {"handler": handler, "args": settings, "method_args": method_args or {}}
        data = ForgetRetain(found.data["forget"], found.data["retain"]) if data is None else data
        trainer, args = found.load_trainer(
            config, model=world.model if model is None else model, train_dataset=data, eval_dataset=None,
            tokenizer=world.tokenizer, data_collator=Collator(), evaluators={"tofu": None}, template_args={},
        )  # fmt: skip
        output = trainer.train()
        trainer.save_state()
        trainer.save_model(args.output_dir)
        trainer.evaluate(metric_key_prefix="eval")
        return SimpleNamespace(trainer=trainer, output=output)

    found.run = run
    return found


REMOVAL = {"steps": 16}


def test_names_are_registered(stack):
    assert set(stack.trainers) == {*ONE_SHOT, "FastUnlearn", "BoundedDifference", "FinetuneKeepFisher"}
    assert {*stack.trainers, *stack.metrics} == set(stack.names)


def test_a_one_shot_method_runs_through_train(stack, world, tmp_path, accuracy):
    forget, retain = world.encoded(world.forget), world.encoded(world.retain)
    before = accuracy(world.model, forget)
    run = stack.run("FisherRemoval", REMOVAL | {"held_out": SimpleNamespace(made=stack.data["held_out"])}, tmp_path,
                    eval_on_start=True)  # fmt: skip
    assert accuracy(world.model, forget) < before - 0.3 and accuracy(world.model, retain) > 0.8
    assert run.trainer.evaluated == [("eval", 0), ("eval", run.output.global_step)] and run.output.global_step > 0
    account = json.loads((tmp_path / "unlearning.json").read_text())
    assert account["method"] == "fisher-removal" and account["records"]["held_out"] == len(stack.data["held_out"])
    assert (tmp_path / "model.safetensors").is_file() and (tmp_path / "trainer_state.json").is_file()
    assert run.output.metrics["gradients"] == account["gradients"] > 0


def test_it_is_the_same_as_the_library(stack, world, tmp_path):
    import copy

    import fastunlearn as fu

    alone = copy.deepcopy(world.model)
    stack.run("NewtonRemoval", {"damping": 1e-2}, tmp_path)
    fu.unlearn(alone, world.tokenizer, forget=world.forget, retain=world.retain, method="newton", damping=1e-2)
    for name, p in alone.named_parameters():
        assert torch.equal(p, world.model.get_parameter(name)), name


def test_any_method_by_name(stack, world, tmp_path):
    everything = {"method": "gradient-difference", "learning_rate": 1e-3, "gradients": 64}
    account = stack.run("FastUnlearn", everything, tmp_path).trainer.result
    assert account.method == "gradient-difference" and account.settings["gradients"] == 64 and account.gradients > 0
    with pytest.raises(InvalidInputError, match="is unknown"):
        stack.run("FastUnlearn", {"method": "gradient-descent"}, tmp_path)
    with pytest.raises(InvalidInputError, match="use trainer=FastUnlearn"):
        stack.run("FisherRemoval", {"method": "newton"}, tmp_path)


def test_keep_then_remove_without_retained_data(stack, world, tmp_path, accuracy):
    everything = Questions(world.encoded(world.forget + world.retain))
    stack.run("FinetuneKeepFisher", {"rank": 64, "samples": None}, tmp_path / "one", data=everything, max_steps=6,
              learning_rate=1e-4)  # fmt: skip
    kept = tmp_path / "one" / "kept_fisher.safetensors"
    before = accuracy(world.model, world.encoded(world.forget))
    data = ForgetRetain(stack.data["forget"], None)
    stack.run("FisherRemovalRetainFree", {"kept_fisher": str(kept), "steps": 8}, tmp_path / "two", data=data)
    assert accuracy(world.model, world.encoded(world.forget)) < before - 0.3


def test_a_loss_for_its_loop(stack, world, tmp_path, accuracy):
    forget, retain = world.encoded(world.forget), world.encoded(world.retain)
    before = accuracy(world.model, forget)
    stack.run("BoundedDifference", {"alpha": 1.0}, tmp_path, max_steps=25, learning_rate=2e-3,
              per_device_train_batch_size=4)  # fmt: skip
    assert accuracy(world.model, forget) < before - 0.3 and accuracy(world.model, retain) > 0.7


def test_both_signatures_of_compute_loss(stack, world, tmp_path):
    batch = Collator()([ForgetRetain(stack.data["forget"], stack.data["retain"])[i] for i in range(3)])
    trainer = stack.run("BoundedDifference", {"gamma": 2.0, "alpha": 0.5}, tmp_path, max_steps=1).trainer
    model = world.model.eval()
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True, num_items_in_batch=torch.tensor(17))
    assert torch.equal(loss, trainer.compute_loss(model, batch)) and outputs.logits.shape[0] == 3
    labels = batch["forget"]["labels"][:, 1:]
    log_p = outputs.logits[:, :-1].log_softmax(-1)
    picked = log_p.gather(2, labels.clamp_min(0)[..., None]).squeeze(2)[labels != -100]
    odds = picked - torch.log1p(-picked.exp())
    retained = model(**batch["retain"]).loss
    assert torch.allclose(loss, 2 * torch.log1p((odds + 3).exp()).mean() + 0.5 * retained, rtol=1e-4)


def test_wrong_settings_are_found_before_any_computing(stack, world, tmp_path):
    with pytest.raises(InvalidInputError, match="has no setting 'step_nrom'"):
        stack.run("FisherRemoval", {"step_nrom": 1.0}, tmp_path)
    with pytest.raises(InvalidInputError, match="damping=0"):
        stack.run("FisherRemoval", {"damping": 0}, tmp_path)
    with pytest.raises(InvalidInputError, match="no forget set"):
        stack.run("FisherRemoval", {}, tmp_path, data=stack.data["retain"])


def test_several_processes_are_refused(stack, world, tmp_path, monkeypatch):
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(InvalidInputError, match="one process"):
        stack.run("FisherRemoval", {}, tmp_path)


def call(stack, world, name, **kwargs):
    cache = {}
    given = {"metric_name": "m", "cache": cache, "tokenizer": world.tokenizer, "batch_size": 3, **kwargs}
    found = stack.metrics[name](world.model, **given)
    json.dumps(cache)  # as its evaluator writes it
    return found


def test_metrics(stack, world, tmp_path):
    forget, held_out = (world.encoded(getattr(world, name)) for name in ("forget", "held_out"))
    found = call(stack, world, "fastunlearn_token_accuracy", data=stack.data["forget"])
    scores = token_scores(world.model, forget, pad_token_id=0)
    assert found["agg_value"] == pytest.approx(scores.accuracy)
    assert list(found["value_by_index"]) == [100 + i for i in range(len(forget))]
    assert found["value_by_index"][101]["avg_loss"] == pytest.approx(float(scores.sample_losses[1]))

    pair = {"forget": stack.data["forget"], "holdout": stack.data["held_out"]}
    found = call(stack, world, "fastunlearn_membership_auc", data=pair)
    losses = [token_scores(world.model, side, pad_token_id=0).sample_losses.numpy() for side in (forget, held_out)]
    assert found["agg_value"] == pytest.approx(auc(*losses)) and found["agg_value"] > 0.9
    assert found["low"] <= found["agg_value"] <= found["high"]

    world.model.save_pretrained(tmp_path / "same")
    found = call(stack, world, "fastunlearn_kl", data=stack.data["forget"], reference_model_path=str(tmp_path / "same"))
    assert found["agg_value"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(InvalidInputError, match="reference_model_path"):
        call(stack, world, "fastunlearn_kl", data=stack.data["forget"])
    with pytest.raises(InvalidInputError, match="access keys"):
        call(stack, world, "fastunlearn_membership_auc", data=stack.data["forget"])


def test_kinds_of_items(caplog):
    one = {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([-100, 2, 3]), "index": 7}
    other = {"input_ids": torch.tensor([1, 4]), "labels": torch.tensor([-100, 4])}
    nothing = {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([-100, -100])}
    samples, places = indexed([one, {"original": other, "alternate": one}, {0: one, 1: other}, nothing], "forget")
    assert [s.input_ids.tolist() for s in samples] == [[1, 2, 3], [1, 4], [1, 2, 3], [1, 4]] and places == [7, 1, 7, 2]
    assert "1 of 5 records have no token to score" in caplog.text
    with pytest.raises(InvalidInputError, match="no record"):
        encoded([nothing], "forget")
    with pytest.raises(InvalidInputError, match="no input_ids"):
        encoded([{"text": "x"}], "forget")


def test_without_a_checkout_the_error_says_what_to_do(monkeypatch, capsys, tmp_path):
    from fastunlearn.integrations.openunlearning.run import main

    monkeypatch.setattr(sys, "path", [p for p in sys.path if "open-unlearning" not in p])
    monkeypatch.delitem(sys.modules, "trainer", raising=False)
    with pytest.raises(InvalidInputError, match="--checkout DIR"):
        load_sockets()
    assert main(["--checkout", str(tmp_path), "trainer=FisherRemoval"]) == 2
    assert "has no src/train.py" in capsys.readouterr().err
