"""Tiny random models of many architectures, made from their configurations: two layers, width 16 to 32.

The weights are drawn large enough that activations, attention and probabilities are far from uniform; at the usual
initialisation (0.02) most of a tiny model's Hessian would be too small to tell right from wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCABULARY = 53
TOKENS = 11  # odd, and longer than the sliding windows below

_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "decoder_sparse_step": 1}

#: name -> (the model type of transformers, what differs from the common settings; None takes a setting out)
CONFIGURATIONS: dict[str, tuple[str, dict]] = {
    "gpt2": ("gpt2", {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32, "resid_pdrop": 0.0,
                      "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": True}),
    "opt": ("opt", {"ffn_dim": 40, "word_embed_proj_dim": 16, "dropout": 0.0, "tie_word_embeddings": True}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.5, "use_parallel_residual": True}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "falcon": ("falcon", {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}),
    "falcon_alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": False, "bias": True,
                                "parallel_attn": False}),
    "mpt": ("mpt", {"d_model": 24, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "expansion_ratio": 2}),
    "llama": ("llama", {}),
    "llama_tied": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": 4}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3_moe": ("qwen3_moe", {"head_dim": 8, **_MOE}),
    "gemma2": ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4,
                          "attn_logit_softcapping": 5.0, "final_logit_softcapping": 7.0, "tie_word_embeddings": True}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4,
                               "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": True}),
    "gemma3n": ("gemma3n_text", {"head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 53,
                                 "num_kv_shared_layers": 0, "laurel_rank": 4, "altup_num_inputs": 2,
                                 "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"],
                                 "activation_sparsity_pattern": [0.5, 0.0], "intermediate_size": [40, 40]}),
    "phi3": ("phi3", {}),
    "stablelm": ("stablelm", {"partial_rotary_factor": 0.7, "use_qkv_bias": True}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {"embedding_multiplier": 1.5, "residual_multiplier": 0.7, "attention_multiplier": 0.3,
                            "logits_scaling": 1.7}),
    "cohere": ("cohere", {}),
    "deepseek_v3": ("deepseek_v3", {"q_lora_rank": 12, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
                                    "v_head_dim": 6, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
                                    "topk_group": 1, "n_shared_experts": 1, "moe_intermediate_size": 20,
                                    "first_k_dense_replace": 1, "num_key_value_heads": 4}),
    "mamba": ("mamba", {"state_size": 4, "time_step_rank": 3, "conv_kernel": 3, "expand": 2}),
}  # fmt: skip


class NanoBlock(nn.Module):
    """A GPT block as people write it by hand: fused qkv, SDPA, GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width, bias=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(c, dim=2)
        q, k, v = (a.view(b, t, self.heads, c // self.heads).transpose(1, 2) for a in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class NanoGPT(nn.Module):
    """A causal language model with no transformers code: ``model(input_ids)`` is the logits, a plain tensor."""

    def __init__(
        self, width: int = 24, heads: int = 4, layers: int = 2, vocabulary: int = VOCABULARY, context: int = 32
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(NanoBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.tokens(input_ids) + self.places(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class InventedLayer(nn.Module):
    """Nothing that any rule could know: a gated running mean over the past, mixed with products of features, sines,
    a depth-wise convolution, an in-place update, a sorted feature, einsum and a norm by the largest entry."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.zeros(width))
        self.mix = nn.Parameter(torch.zeros(3, width, width))
        self.conv = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        gap = (steps[:, None] - steps[None, :]).clamp_min(0)
        weights = torch.tril(torch.ones_like(gap))[..., None] * torch.exp(-gap[..., None] * torch.sigmoid(self.decay))
        past = torch.einsum("tsd,bsd->btd", weights / weights.sum(1, keepdim=True), x)
        local = self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        y = torch.sin(x @ self.mix[0]) * torch.cosh(torch.tanh(past @ self.mix[1])) + (local @ self.mix[2]).atan()
        y[..., ::2] *= 1.5
        ordered = torch.sort(y, dim=-1).values.cumsum(-1)
        y = torch.cat([y[..., 1:], ordered[..., :1]], -1) / (1 + y.abs().amax(-1, keepdim=True))
        return x + self.scale * y


class Invented(nn.Module):
    """A language model made of InventedLayer, with a log-sum-exp of the past in its head."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(VOCABULARY, width))
        self.layers = nn.ModuleList(InventedLayer(width) for _ in range(layers))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.table[input_ids]
        for layer in self.layers:
            x = layer(x)
        return self.head(torch.cumsum(x.exp(), 1).log() + torch.where(x > 0, x, x.exp() - 1))


class WithLoss(nn.Module):
    """Hand-written models under the calling convention of transformers: ``.loss`` and ``.logits``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None):
        from transformers.modeling_outputs import CausalLMOutput

        logits = self.model(input_ids, attention_mask)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


HAND_WRITTEN: dict[str, Callable[[], nn.Module]] = {
    "nanogpt": lambda: WithLoss(NanoGPT()),
    "invented": lambda: WithLoss(Invented()),
}
NAMES = [*CONFIGURATIONS, *HAND_WRITTEN]
#: Those for which transformers has no SDPA attention.
EAGER_ONLY = {"bloom", "mpt", "gemma2", "mamba"}
#: Those that take no notice of an attention mask.
WITHOUT_MASK = {"nanogpt", "invented", "mamba"}


def draw_weights(model: nn.Module) -> None:
    """Weights of the size that the module's docstring speaks of, from the current random state."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2 and "A_log" not in name and "conv" not in name:
                p.normal_(0, p.shape[-1] ** -0.5)
            else:
                p.add_(0.2 * torch.randn_like(p))


def build(name: str, dtype: torch.dtype = torch.float64, *, seed: int = 0, attention: str = "sdpa") -> nn.Module:
    """A model of the catalogue in evaluation mode. Its weights depend on the name and the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HAND_WRITTEN[name]() if name in HAND_WRITTEN else _from_configuration(name, dtype, attention)
        draw_weights(model)
    return model.to(dtype).eval()


def _from_configuration(name: str, dtype: torch.dtype, attention: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = CONFIGURATIONS[name]
    config = AutoConfig.for_model(kind, **{**_COMMON, **settings}, use_cache=False)
    if dtype == torch.float64:  # the grouped products that transformers takes for experts have no float64
        config._experts_implementation = "eager"
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager" if name in EAGER_ONLY else attention)


def make_batch(*, samples: int = 2, tokens: int = TOKENS, padded: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens. ``padded``: right padding in the last row, and -100 also for some tokens that are there."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (samples, tokens), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    if padded:
        ids[-1, tokens - 4 :], mask[-1, tokens - 4 :], labels[-1, tokens - 4 :] = 0, 0, -100
        labels[0, 2:4] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
