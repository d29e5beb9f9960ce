"""OpenUnlearning's configurations, composed by the real hydra over a folder that stands for the checkout's ``configs``;
and the runner, over a folder that stands for the checkout."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

from fastunlearn.integrations.huggingface import KeepFisherCallback
from fastunlearn.integrations.openunlearning.run import SEARCH_PATH, _with_search_path
from fastunlearn.integrations.openunlearning.trainers import ONE_SHOT
from fastunlearn.unlearn import get_method


@pytest.fixture
def compose(tmp_path):
    hydra = pytest.importorskip("hydra")

    configs = tmp_path / "configs"
    for name, text in {
        "unlearn.yaml": "defaults:\n  - trainer: GradAscent\n  - eval: tofu\n  - _self_\nmode: unlearn\n",
        "trainer/finetune.yaml": "handler: FinetuneTrainer\nargs:\n  learning_rate: 1e-5\n",
        "trainer/GradAscent.yaml": "defaults:\n  - finetune\nhandler: GradAscent\n",
        "eval/tofu.yaml": (
            "# @package eval.tofu\ndefaults:\n  - tofu_metrics:\n    - forget_Q_A_Prob\nhandler: TOFUEvaluator\n"
            "metrics: {}\nbatch_size: 32\nforget_split: forget10\nholdout_split: holdout10\n"
        ),
        "eval/tofu_metrics/forget_Q_A_Prob.yaml": (
            "# @package eval.tofu.metrics.forget_Q_A_Prob\nhandler: probability\n"
        ),
        "data/datasets/TOFU_QA_forget.yaml": "TOFU_QA_forget:\n  args:\n    hf_args:\n      name: x\n",
        "data/datasets/TOFU_MIA.yaml": (
            "TOFU_QA_forget:\n  access_key: forget\n  args:\n    hf_args:\n      name: x\n"
            "TOFU_QA_holdout:\n  access_key: holdout\n  args:\n    hf_args:\n      name: x\n"
        ),
        "collator/DataCollatorForSupervisedDatasetwithIndex.yaml": "C:\n  args:\n    index: index\n",
    }.items():
        path = configs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def make(*overrides):
        with hydra.initialize_config_dir(str(configs), version_base=None):
            path = "hydra.searchpath=[pkg://fastunlearn.integrations.openunlearning]"
            return hydra.compose("unlearn", overrides=[path, *overrides])

    return make


@pytest.mark.parametrize("name", [*ONE_SHOT, "BoundedDifference", "FinetuneKeepFisher"])
def test_every_trainer_has_one_that_names_all_its_settings(compose, name):
    config = compose(f"trainer={name}")
    assert config.trainer.handler == name and config.trainer.args.learning_rate == 1e-5
    arguments = config.trainer.method_args
    given = {key: None if key == "kept_fisher" else arguments[key] for key in arguments}
    if name in ONE_SHOT:
        for ours in ("held_out", "parameters", "memory", "records_per_pass", "kept_fisher"):
            given.pop(ours, None)
        kind = get_method(ONE_SHOT[name]).settings
        wanted = {field.name: field.default for field in dataclasses.fields(kind)}
        wanted |= {"fisher_samples": 512} if "fisher_samples" in wanted else {}
        assert given == wanted
    elif name == "FinetuneKeepFisher":
        wanted = dict(inspect.signature(KeepFisherCallback.__init__).parameters)
        assert given == {key: p.default for key, p in wanted.items() if key != "self"}
    else:
        assert given == {"gamma": 1.0, "alpha": 1.0, "threshold": -3.0}


def test_any_method_by_name(compose):
    chosen = compose("trainer=FastUnlearn", "trainer.method_args.method=npo", "+trainer.method_args.beta=0.2").trainer
    assert chosen.handler == "FastUnlearn" and chosen.method_args.method == "npo" and chosen.method_args.beta == 0.2


def test_metrics_join_its_evaluator(compose):
    ours = "fastunlearn_forget_accuracy,fastunlearn_membership,fastunlearn_kl_forget"
    added = f"+eval/tofu_metrics=[{ours}]"
    metrics = compose("trainer=FisherRemoval", added, "eval.tofu.forget_split=forget05").eval.tofu.metrics
    assert metrics.forget_Q_A_Prob.handler == "probability"
    assert metrics.fastunlearn_forget_accuracy.handler == "fastunlearn_token_accuracy"
    assert metrics.fastunlearn_forget_accuracy.datasets.TOFU_QA_forget.args.hf_args.name == "forget05"
    assert metrics.fastunlearn_membership.datasets.TOFU_QA_holdout.args.hf_args.name == "holdout10"
    assert metrics.fastunlearn_membership.collators.C.args.index == "index"
    instead = "eval/tofu_metrics@eval.tofu.tofu_metrics=[fastunlearn_forget_accuracy]"
    assert list(compose(instead).eval.tofu.metrics) == ["fastunlearn_forget_accuracy"]


def test_held_out_records_by_name(compose):
    config = compose("trainer=FisherRemoval", "+data/datasets@trainer.method_args.held_out=TOFU_QA_holdout")
    assert config.trainer.method_args.held_out.TOFU_QA_holdout.args.hf_args.name == "holdout10"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a=1"], ["a=1", f"hydra.searchpath=[{SEARCH_PATH}]"]),
        (["hydra.searchpath=[file:///mine]", "a=1"], [f"hydra.searchpath=[file:///mine,{SEARCH_PATH}]", "a=1"]),
        ([f"hydra.searchpath=[{SEARCH_PATH}]"], [f"hydra.searchpath=[{SEARCH_PATH}]"]),
    ],
)
def test_the_search_path_is_given_once(given, found):
    assert _with_search_path(given) == found


CHECKOUT = {
    "data/__init__.py": "def get_datasets(configs, **more): return configs\n",
    "trainer/__init__.py": (
        "REGISTRY = {}\n"
        "def _register_trainer(cls): REGISTRY[cls.__name__] = cls\n"
        "def load_trainer_args(args, dataset): return dict(args)\n"
    ),
    "trainer/base.py": (
        "from transformers import Trainer\n"
        "class FinetuneTrainer(Trainer):\n"
        "    def __init__(self, evaluators=None, template_args=None, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
    ),
    "trainer/unlearn/base.py": (
        "from trainer.base import FinetuneTrainer\n"
        "class UnlearnTrainer(FinetuneTrainer): pass\n"
    ),
    "evals/__init__.py": "",
    "evals/metrics/__init__.py": "REGISTRY = {}\ndef _register_metric(metric): REGISTRY[metric.name] = metric\n",
    "evals/metrics/base.py": (
        "class unlearning_metric:\n"
        "    def __init__(self, name): self.name = name\n"
        "    def __call__(self, function): return self\n"
    ),
    "train.py": (
        "import sys, evals.metrics, trainer\n"
        "def main():\n"
        "    print(main.__module__, sorted(trainer.REGISTRY), sorted(evals.metrics.REGISTRY), sys.argv[1:])\n"
        "    print(trainer.load_trainer_args({'seed': 1, 'logging_dir': 'gone', 'warmup_epochs': 1}, None))\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    ),
}


def test_the_runner_registers_and_runs_the_checkouts_script(tmp_path):
    for name, text in CHECKOUT.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [sys.executable, "-m", "fastunlearn.integrations.openunlearning.run", "--checkout", str(tmp_path),
               "--config-name=unlearn.yaml", "trainer=FisherRemoval"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, ran, arguments = done.stdout.splitlines()
    trainers = sorted([*ONE_SHOT, "FastUnlearn", "BoundedDifference", "FinetuneKeepFisher"])
    assert all(name in first for name in trainers)
    overrides = ["--config-name=unlearn.yaml", "trainer=FisherRemoval", f"hydra.searchpath=[{SEARCH_PATH}]"]
    metrics = ["fastunlearn_kl", "fastunlearn_membership_auc", "fastunlearn_token_accuracy"]
    assert ran == f"__main__ {trainers} {metrics} {overrides}"
    assert arguments == str({"seed": 1, "warmup_epochs": 1}) and "logging_dir" in done.stderr
