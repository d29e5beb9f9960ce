"""Two and four gloo processes give the answer of one."""

from __future__ import annotations

import socket

import pytest
import torch

import fastunlearn as fu
from tests.forks import start
from tests.operators.sampling import make_samples

SCRIPT = """
import os, sys, torch, torch.distributed as dist
from safetensors.torch import save_file
import fastunlearn as fu
from tests.operators.sampling import make_samples
from tests.solve.test_spread import LENGTHS, make_model

rank, world, port, folder, memory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
samples = make_samples(LENGTHS)
cuts = [0, 5, 8, 9, 11] if world == 4 else [0, 4, 11]  # shares of different sizes
own = samples[cuts[rank]:cuts[rank + 1]]
found = {}
for blocks in ("model", "tensor"):
    fisher = fu.LowRankFisher(make_model(), own, 1e-3, blocks=blocks, memory=memory, batch_size=2,
                              group=dist.group.WORLD)
    v = torch.linspace(-1, 1, fisher.shape[0])
    found |= {f"{blocks} gram": fisher.gram, f"{blocks} solve": fisher.solve(v), f"{blocks} diag": fisher.diag(),
              f"{blocks} samples": fisher.solve_samples(torch.linspace(-1, 1, 11)),
              f"{blocks} power": fisher.power(-0.25, v)}
    assert fisher.samples == 11
save_file({name: tensor.contiguous() for name, tensor in found.items()}, f"{folder}/{rank}")
dist.barrier()
dist.destroy_process_group()
sys.stderr.flush()
os._exit(0)  # gloo's threads may abort in the destructors at the end of a process, when all work is done
"""
LENGTHS = (5, 9, 3, 7, 6, 8, 4, 10, 5, 6, 7)


def make_model():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=37, n_embd=16, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, bos_token_id=1, eos_token_id=2)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.mark.slow
@pytest.mark.parametrize("world, memory", [(2, "1GB"), (4, "2MB")])
def test_the_same_answer_as_one_process(tmp_path, world, memory):
    from safetensors.torch import load_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = [str(world), port, str(tmp_path), memory]
    running = [start(SCRIPT, str(rank), *settings, fork=rank > 0) for rank in range(world)]
    for process in running:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
    answers = [load_file(tmp_path / str(rank)) for rank in range(world)]
    for blocks in ("model", "tensor"):
        fisher = fu.LowRankFisher(make_model(), make_samples(LENGTHS), 1e-3, blocks=blocks)
        v = torch.linspace(-1, 1, fisher.shape[0])
        truth = {"gram": fisher.gram, "solve": fisher.solve(v), "diag": fisher.diag(), "power": fisher.power(-0.25, v),
                 "samples": fisher.solve_samples(torch.linspace(-1, 1, 11))}  # fmt: skip
        for name, expected in truth.items():
            for answer in answers:
                got = answer[f"{blocks} {name}"]
                # A bias with fewer weights than samples is ill-conditioned as a block of its own.
                tolerance = 1e-4 if (blocks, name) == ("tensor", "samples") else 1e-6
                assert (got - expected).norm() <= tolerance * expected.norm(), (blocks, name)
