"""A small stand-in of what OpenUnlearning offers to plug into, on transformers' real Trainer.

Written from its interfaces (snapshot of December 2025, and the signature of compute_loss that came after it); only what
fastunlearn meets is here. ``Old`` calls compute_loss as before ``num_items_in_batch``, ``New`` as after.
"""

from __future__ import annotations

import random
from types import ModuleType, SimpleNamespace

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from fastunlearn.data.encode import Encoded, collate
from fastunlearn.integrations.openunlearning import Sockets


class Questions(Dataset):
    """As its QADataset: unpadded tensors, labels -100 on the question, an index."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, place):
        ids, labels = self.samples[place]
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "index": 100 + place}


class ForgetRetain(Dataset):
    def __init__(self, forget, retain):
        self.forget, self.retain = forget, retain

    def __len__(self):
        return len(self.forget)

    def __getitem__(self, place):
        return {"forget": self.forget[place], "retain": self.retain[random.Random(place).randrange(len(self.retain))]}


class Collator:
    def __call__(self, items):
        if "input_ids" not in items[0]:
            return {name: self([item[name] for item in items]) for name in items[0]}
        return collate([Encoded(one["input_ids"], one["labels"]) for one in items], pad_token_id=0)


class Metric:
    def __init__(self, name, function):
        self.name, self.function = name, function

    def __call__(self, model, metric_name, cache, **kwargs):
        cache[metric_name] = self.function(model, **kwargs)
        return cache[metric_name]


def make_sockets(kind: str = "New") -> SimpleNamespace:
    """``sockets``, and the registries that they fill: ``trainers``, ``metrics`` by name; ``load_trainer``."""
    trainers, metrics = {}, {}

    class FinetuneTrainer(Trainer):
        def __init__(self, evaluators=None, template_args=None, *args, **kwargs):
            self.evaluators, self.template_args, self.evaluated = evaluators, template_args, []
            super().__init__(*args, **kwargs)

        def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval", trial=None):
            self.evaluated.append((metric_key_prefix, self.state.global_step))
            return {}

    class UnlearnTrainer(FinetuneTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            model.train()
            inputs = self._prepare_inputs(inputs)
            more = {} if kind == "Old" else {"num_items_in_batch": num_items_in_batch}
            loss = self.compute_loss(model, inputs, **more) / self.args.gradient_accumulation_steps
            self.accelerator.backward(loss)
            return loss.detach()

    module = ModuleType("trainer")
    module.load_trainer_args = lambda given, dataset: TrainingArguments(**given)

    def load_trainer(config, **parts):
        args = module.load_trainer_args(config["args"], parts["train_dataset"])
        made = trainers[config["handler"]](**parts, args=args, **config.get("method_args", {}))
        return made, args

    def decorator(name):
        return lambda function: Metric(name, function)

    sockets = Sockets(
        unlearn_trainer=UnlearnTrainer, finetune_trainer=FinetuneTrainer, trainer=module,
        register_trainer=lambda cls: trainers.__setitem__(cls.__name__, cls),
        register_metric=lambda metric: metrics.__setitem__(metric.name, metric), unlearning_metric=decorator,
        get_datasets=lambda configs, tokenizer, template_args: configs.made,
    )  # fmt: skip
    return SimpleNamespace(sockets=sockets, trainers=trainers, metrics=metrics, load_trainer=load_trainer)
