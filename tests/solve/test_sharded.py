"""Models of FSDP2 over two and four gloo processes give the answers of one process with all batches."""

from __future__ import annotations

import socket

import pytest
import torch

import fastunlearn as fu
from tests.forks import start

SCRIPT = """
import os, sys, torch, torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
import fastunlearn as fu
from fastunlearn.operators.shards import Shards
from tests.solve.test_sharded import CUTS, answers, batches_of, make_model

rank, world, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
model = make_model()
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
whole, gather, release = [0, 0], Shards.gather, Shards.release  # blocks that are whole now, and at most

def counted(self, names, reverse=False):
    whole[0] += names is not self.rest
    whole[1] = max(whole)
    gather(self, names, reverse)

def let_go(self, names, reverse=False):
    whole[0] -= names is not self.rest
    release(self, names, reverse)

Shards.gather, Shards.release = counted, let_go
found = answers(model, batches_of(CUTS[world][rank]), few=world == 4)
before = [p.to_local().clone() for p in model.parameters()]
v = {n: torch.zeros_like(p).add_(0.01) for n, p in model.named_parameters()}  # DTensors
product = fu.Hessian(model, batches_of(CUTS[world][rank])) @ v
assert all(isinstance(t, DTensor) and t.placements == p.placements and t.to_local().shape == p.to_local().shape
           for t, p in zip(product.values(), model.parameters()))
found["as shards"] = torch.cat([t.full_tensor().flatten() for t in product.values()])
assert all(torch.equal(a, p.to_local()) for a, p in zip(before, model.parameters()))
assert whole == [0, 1], whole  # never two blocks at a time
if rank == 0:
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, f"{folder}/answers")
for call, message in [
    (lambda: fu.LowRankFisher(model, batches_of(CUTS[world][rank]), 1e-3, blocks=64), "model is sharded"),
    (lambda: fu.Hessian(model, batches_of([0])) @ [torch.zeros(p.shape).double() for p in model.parameters()],
     "laid out"),
]:
    try:
        call()
    except fu.errors.InvalidInputError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
dist.barrier()
dist.destroy_process_group()
sys.stderr.flush()
os._exit(0)  # gloo's threads may abort in the destructors at the end of a process, when all work is done
"""
LENGTHS = [(5, 9), (3,), (7, 6, 8), (4, 10), (5,)]  # of the rows of each batch
CUTS = {2: [[0, 1, 2], [3, 4]], 4: [[0, 1], [2], [3], [4]]}  # batches by process: not equally many


def batches_of(numbers):
    found = []
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        longest = max(LENGTHS[number])
        ids = torch.randint(3, 37, (len(LENGTHS[number]), longest), generator=generator)
        mask = torch.tensor([[int(t < length) for t in range(longest)] for length in LENGTHS[number]])
        found.append({"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)})
    return found


def make_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=37, hidden_size=12, intermediate_size=22, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, attention_bias=True,
    )  # fmt: skip
    config.use_cache = False
    return LlamaForCausalLM(config).double().eval()


def answers(model, batches, few=False):
    """Everything that is supported, as flat vectors; ``few``: one of each kind."""
    size = sum(p.numel() for p in model.parameters())
    v = torch.stack([torch.linspace(-1, 1, size).double(), torch.linspace(0, 1, size).double().sin()], 1)
    found = {"ggn": fu.GGN(model, batches) @ v}
    if not few:
        found |= {
            "hessian": fu.Hessian(model, batches) @ v, "fisher": fu.Fisher(model, batches) @ v[:, 0],
            "gradient": fu.gradient(model, batches), "jvp": fu.jvp(model, batches, v),
        }  # fmt: skip
    c = torch.linspace(-1, 1, 9).double()
    for blocks in ("layer",) if few else ("model", "layer"):
        for memory in ("1GB", "250KB") if blocks == "model" else ("1GB",):
            fisher = fu.LowRankFisher(model, batches, 1e-2, blocks=blocks, batch_size=2, memory=memory)
            assert fisher.samples == 9
            found |= {
                f"{blocks} {memory} gram": fisher.gram, f"{blocks} {memory} solve": fisher.solve(v),
                f"{blocks} {memory} samples": fisher.solve_samples(c), f"{blocks} {memory} diag": fisher.diag(),
                f"{blocks} {memory} power": fisher.power(-0.25, v[:, 0]),
                f"{blocks} {memory} logdet": torch.tensor(fisher.logdet()),
            }  # fmt: skip
    return found


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_the_same_answer_as_one_process(tmp_path, world):
    from safetensors.torch import load_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = [str(world), port, str(tmp_path)]
    running = [start(SCRIPT, str(rank), *settings, fork=rank > 0) for rank in range(world)]
    model = make_model()
    truth = answers(model, batches_of(range(5)), few=world == 4)
    v = {n: torch.full_like(p, 0.01) for n, p in model.named_parameters()}
    product = fu.Hessian(model, batches_of(range(5))) @ v
    truth["as shards"] = torch.cat([t.flatten() for t in product.values()])
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert not any(process.returncode for process in running), "\n".join(text[-2500:] for text in errors)
    found = load_file(tmp_path / "answers")
    assert found.keys() == truth.keys()
    for name, expected in truth.items():
        assert (found[name] - expected).norm() <= 1e-6 * expected.norm(), name
