"""A pass killed by SIGKILL at any write, and started again, ends with the bits of an unbroken run."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.state import PassState
from tests.forks import start

SCRIPT = """
import os, signal, sys, torch
from safetensors.torch import save_file
import fastunlearn as fu
import fastunlearn.operators.state as states
from transformers import GPT2Config, GPT2LMHeadModel
from tests.operators.sampling import make_samples

folder, kill_at, late = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "late"
torch.set_num_threads(1)
torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=37, n_embd=16, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0.0,
                                   embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2)).eval()
writes = 0
write = states.write_tensors

def counting(*args, **options):
    global writes
    writes += 1
    if writes == kill_at and not late:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*args, **options)
    if writes == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

states.write_tensors = counting
samples = make_samples((5, 9, 3, 7, 6, 8, 4, 10))
fisher = fu.LowRankFisher(model, samples, 1e-3, batch_size=2, memory=sys.argv[4], state=folder + "/state",
                          state_interval=0)
fisher._fisher.gradients.forget_factors()
step = fisher.solve_samples(torch.linspace(-1, 1, 8))
save_file({"step": step, "gram": fisher.gram}, folder + "/result")
print("writes", writes)
"""


def run(folder, kill_at, late, memory, fork=True):
    """Exit status, output and errors."""
    process = start(SCRIPT, str(folder), str(kill_at), "late" if late else "early", memory, fork=fork)
    out, errors = process.communicate(timeout=900)
    return process.returncode, out, errors


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["1GB", "2MB"])
def test_killed_and_started_again(tmp_path, memory):
    whole = tmp_path / "whole"
    whole.mkdir()
    status, out, errors = run(whole, 0, False, memory)
    assert status == 0, errors
    writes = int(out.split()[-1])
    assert writes > 20  # every tensor of the Gram, every batch of the weighted gradient
    truth = load_file(whole / "result")
    broken = tmp_path / "broken"
    broken.mkdir()
    for kill_at, late in ((3, False), (12, True), (1, True)):
        status, _, _ = run(broken, kill_at, late, memory)
        if status == 0:
            break  # so much was done by the runs before that there was no such write
        assert status == -9 and not (broken / "result").exists()
    status, out, errors = run(broken, 0, False, memory, fork=False)
    assert status == 0, errors
    assert int(out.split()[-1]) < writes  # something was taken up
    found = load_file(broken / "result")
    assert torch.equal(found["gram"], truth["gram"]) and torch.equal(found["step"], truth["step"])


def test_a_file_that_is_no_state_is_refused_and_stays(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.ones(3)}, path)
    for content in (path.read_bytes(), path.read_bytes()[:-3], b"", b"a text"):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match="state"):
            PassState(path, 0, ["a"])
        assert path.read_bytes() == content


def test_a_state_of_another_computation_is_not_used(tmp_path):
    state = PassState(tmp_path / "s", 0, ["a"])
    state.step({"x": torch.ones(3)}, {"done": ["n"]})
    assert PassState(tmp_path / "s", 0, ["a"]).load()[1] == {"done": ["n"]}
    assert PassState(tmp_path / "s", 0, ["b"]).load() == ({}, {})
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-3])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        PassState(tmp_path / "s", 0, ["a"])
    waiting = PassState(tmp_path / "t", 1000, ["a"])
    waiting.step({"x": torch.ones(3)}, {})
    assert not (tmp_path / "t").exists()
    waiting.step({"x": torch.ones(3)}, {}, last=True)
    assert (tmp_path / "t").exists()
