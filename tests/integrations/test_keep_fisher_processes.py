"""Two gloo processes of one Trainer draw records together, and one of them keeps the Fisher."""

from __future__ import annotations

import socket

import pytest

from tests.forks import start

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

SCRIPT = """
import os, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from fastunlearn.data.encode import Encoded, collate
from fastunlearn.errors import InvalidInputError
from fastunlearn.integrations.huggingface import KeepFisherCallback

torch.set_num_threads(1)
torch.manual_seed(0)
config = LlamaConfig(vocab_size=37, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                     max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2)
samples = [Encoded(row, row) for row in torch.randint(3, 37, (12, 6))]
arguments = TrainingArguments(sys.argv[1], num_train_epochs=2, per_device_train_batch_size=3, report_to="none",
                              save_strategy="no", use_cpu=True, disable_tqdm=True, ddp_backend="gloo")
callback = KeepFisherCallback(samples=None, rank=12)
trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=samples, callbacks=[callback],
                  data_collator=lambda part: collate(part, pad_token_id=0))
trainer.train()
assert trainer.accelerator.num_processes == 2 and callback.complete
if trainer.is_world_process_zero():
    assert callback.kept.samples == 12, callback.kept.samples
    callback.kept.check_model(dict(trainer.model.named_parameters()))
else:
    try:
        callback.kept
        raise SystemExit("the other process keeps one, too")
    except InvalidInputError:
        assert len(callback.reservoir) == 12
torch.distributed.barrier()
torch.distributed.destroy_process_group()
sys.stderr.flush()
os._exit(0)  # gloo's threads may abort in the destructors at the end of a process, when all work is done
"""


@pytest.mark.slow
def test_processes_draw_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}  # fmt: skip
        running.append(start(SCRIPT, str(tmp_path / "out"), environment=place, fork=rank > 0))
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    assert (tmp_path / "out" / "kept_fisher.safetensors").is_file()
