"""Hessian-vector products of whole models on a GPU, beside the model's own gradient and what else gives them.

Shapes are those of the published configurations of Llama 3.2 1B and Llama 3.1 8B, weights are random: nothing is
downloaded, and the values of the weights do not change the work.
"""

from __future__ import annotations

import functools

import torch

from fastunlearn.dual import DualPass
from fastunlearn.microbench import peers
from fastunlearn.microbench.shapes import make_batch

#: name -> the numbers of the configuration, tokens of one sequence.
SHAPES = {
    "llama-3.2-1b": ({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                      "tie_word_embeddings": True, "rope_theta": 500000.0}, 4096),
    "llama-3.1-8b": ({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                      "tie_word_embeddings": False, "rope_theta": 500000.0}, 8192),
    "toy": ({"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
             "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 61, "tie_word_embeddings": True}, 16),
}  # fmt: skip


def build(name: str, attention: str, device: str):
    """The model in bfloat16, made on its device, and the number of tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes, tokens = SHAPES[name]
    config = LlamaConfig(**sizes, max_position_embeddings=max(8192, tokens), attn_implementation=attention)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.config.use_cache = False
    return model.eval(), tokens


def hvp(bench) -> list[dict]:
    cases = []
    for name in ("toy",) if bench.toy else ("llama-3.2-1b", "llama-3.1-8b"):
        model, tokens = build(name, "sdpa", bench.device)
        batch = make_batch(model, tokens)
        parameters = dict(model.named_parameters())
        tangents = {n: 0.01 * torch.randn_like(p).unsqueeze(0) for n, p in parameters.items()}
        out = {n: torch.zeros(1, *p.shape, dtype=torch.float32, device=p.device) for n, p in parameters.items()}
        dual = DualPass(model, parameters)
        vector = torch.cat([t.flatten() for t in tangents.values()])
        ways = {
            "gradient, sdpa": bench.measure(functools.partial(peers.gradient, model, batch, vector)),
            "fastunlearn": bench.measure(functools.partial(dual.hessian, batch, tangents, out)),
        }
        model.set_attn_implementation("eager")
        ways |= {
            "torch: double backward": bench.measure(functools.partial(peers.double_backward, model, batch, vector)),
            "torch: jvp of grad": bench.measure(functools.partial(peers.jvp_of_grad, model, batch, vector)),
        }
        gradient = ways["gradient, sdpa"].get("seconds")
        for result in ways.values():
            if gradient and "seconds" in result:
                result["gradients"] = result["seconds"] / gradient
        case = {"model": name, "tokens": tokens, "ways": ways}
        if bench.toy and "seconds" in ways["torch: double backward"]:
            for total in out.values():
                total.zero_()
            dual.hessian(batch, tangents, out)
            ours = torch.cat([t.flatten() for t in out.values()])
            truth = peers.double_backward(model.float(), batch, vector.float())
            case["error"] = ((ours - truth).norm() / truth.norm()).item()
        cases.append(case)
        del model, dual, out, tangents, vector
    return cases
