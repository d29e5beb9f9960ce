"""A real run of OpenUnlearning, from a checkout that FASTUNLEARN_OPENUNLEARNING names: its train.py, its hydra, its
data sets and evaluator, on a random tiny Llama and invented people. Skipped without it.

It fine-tunes (keeping a Fisher), then unlearns with retained data, from the kept Fisher, and in its own loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = os.environ.get("FASTUNLEARN_OPENUNLEARNING")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="FASTUNLEARN_OPENUNLEARNING names no checkout of open-unlearning"),
]
QUESTION, ANSWER = "question", "answer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``model`` (random), and ``forget.json``, ``retain.json``, ``all.json``, ``holdout.json`` with questions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from fastunlearn.data import generate_people, train_tokenizer

    folder = tmp_path_factory.mktemp("openunlearning")
    people = generate_people(8, 3, forget_people=2, held_out_people=4, canaries=0, seed=0)
    sides = {"forget": people.forget, "retain": people.retain, "all": people.forget + people.retain,
             "holdout": people.held_out}  # fmt: skip
    for name, records in sides.items():
        rows = [{QUESTION: r.prompt.strip(), ANSWER: r.completion.strip()} for r in records]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    tokenizer = train_tokenizer([*people.texts(), "Q : A :"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def data(place: str, name: str, file: Path) -> list[str]:
    """The overrides that put a local file in the place of one of TOFU's data sets."""
    args = f"{place}.{name}.args.hf_args"
    return [f"{args}.path=json", f"{args}.name=null", f"+{args}.data_files={file}"]


def run(folder: Path, config: str, trainer: str, model: Path, *more: str) -> Path:
    """One run of its train.py in a process of its own; the output folder."""
    out = folder / "out" / trainer
    metrics = [
        "eval/tofu_metrics@eval.tofu.tofu_metrics=[fastunlearn_forget_accuracy,fastunlearn_membership]",
        *data("eval.tofu.metrics.fastunlearn_forget_accuracy.datasets", "TOFU_QA_forget", folder / "forget.json"),
        *data("eval.tofu.metrics.fastunlearn_membership.datasets", "TOFU_QA_forget", folder / "forget.json"),
        *data("eval.tofu.metrics.fastunlearn_membership.datasets", "TOFU_QA_holdout", folder / "holdout.json"),
    ]
    overrides = [
        f"--config-name={config}", f"trainer={trainer}", f"task_name={trainer}", f"paths.output_dir={out}",
        "model=Llama-3.2-1B-Instruct", f"model.model_args.pretrained_model_name_or_path={model}",
        f"model.tokenizer_args.pretrained_model_name_or_path={model}", "model.model_args.attn_implementation=eager",
        "model.model_args.torch_dtype=float32", "model.template_args.apply_chat_template=False",
        "model.template_args.system_prompt_with_special_tokens=null", "model.template_args.user_start_tag='Q : '",
        "model.template_args.user_end_tag=' '", "model.template_args.asst_start_tag='A : '",
        "model.template_args.asst_end_tag=''", "trainer.args.bf16=False", "trainer.args.bf16_full_eval=False",
        "trainer.args.optim=adamw_torch", "trainer.args.report_to=none", "trainer.args.eval_strategy=no",
        "trainer.args.gradient_accumulation_steps=1", "+trainer.args.use_cpu=True", *metrics, *more,
    ]  # fmt: skip
    command = [sys.executable, "-m", "fastunlearn.integrations.openunlearning.run", "--checkout", CHECKOUT, *overrides]
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HYDRA_FULL_ERROR": "1",
    }  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def metrics(out: Path) -> dict[int, dict]:
    """What its evaluator found, by the step at which it looked."""
    return {
        int(path.parent.parent.name.rpartition("-")[2]): json.loads(path.read_text())
        for path in out.glob("checkpoint-*/evals/TOFU_SUMMARY.json")
    }


@pytest.fixture(scope="module")
def tuned(folder) -> Path:
    return run(
        folder, "train.yaml", "FinetuneKeepFisher", folder / "model",
        *data("data.train", "TOFU_QA_full", folder / "all.json"), "trainer.args.num_train_epochs=60",
        "trainer.args.learning_rate=1e-2", "trainer.args.eval_on_start=False", "trainer.method_args.rank=64",
    )  # fmt: skip


def unlearn(folder: Path, tuned: Path, trainer: str, *more: str) -> dict:
    both = [*data("data.forget", "TOFU_QA_forget", folder / "forget.json"),
            *data("data.retain", "TOFU_QA_retain", folder / "retain.json")]  # fmt: skip
    found = metrics(run(folder, "unlearn.yaml", trainer, tuned, *both, *more))
    print(trainer, found)
    return found


def test_fine_tuning_keeps_a_fisher(folder, tuned):
    assert (tuned / "kept_fisher.safetensors").is_file() and (tuned / "model.safetensors").is_file()
    last = max(found := metrics(tuned))
    assert found[last]["fastunlearn_forget_accuracy"] > 0.9


def test_fisher_removal(folder, tuned):
    held_out = "+data/datasets@trainer.method_args.held_out=TOFU_QA_holdout"
    found = unlearn(folder, tuned, "FisherRemoval", held_out,
                    *data("trainer.method_args.held_out", "TOFU_QA_holdout", folder / "holdout.json"))  # fmt: skip
    assert found[0]["fastunlearn_forget_accuracy"] > 0.9
    assert found[max(found)]["fastunlearn_forget_accuracy"] < 0.7
    assert abs(found[max(found)]["fastunlearn_membership"] - 0.5) < abs(found[0]["fastunlearn_membership"] - 0.5)


def test_from_the_kept_fisher(folder, tuned):
    found = unlearn(folder, tuned, "FisherRemovalRetainFree",
                    f"trainer.method_args.kept_fisher={tuned / 'kept_fisher.safetensors'}")  # fmt: skip
    assert found[max(found)]["fastunlearn_forget_accuracy"] < 0.7


def test_its_own_loop(folder, tuned):
    found = unlearn(folder, tuned, "BoundedDifference", "trainer.args.num_train_epochs=10",
                    "trainer.args.learning_rate=2e-3")  # fmt: skip
    assert found[max(found)]["fastunlearn_forget_accuracy"] < 0.7
