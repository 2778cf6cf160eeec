"""Tiny random models of many families, for tests of every room.

`tiny(name)` builds one in evaluation mode, float32, from a fixed seed. Weights are larger than transformers' default so
that blocks
matter: with 0.02 a wrong mask would hide in the residual stream.
"""

import torch
import transformers as tf
from torch import Tensor, nn

VOCABULARY = 64
LENGTH = 24
_SIZE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_GQA = _SIZE | dict(intermediate_size=48, num_key_value_heads=2, head_dim=8)
_TWO = dict(num_hidden_layers=2)
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MIXED = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]

CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**_GQA),
    "qwen2": lambda: tf.Qwen2Config(**_GQA, use_sliding_window=True, sliding_window=6, max_window_layers=2),
    "qwen3": lambda: tf.Qwen3Config(**_GQA),
    "mistral": lambda: tf.MistralConfig(**_GQA, sliding_window=6),
    "gemma2": lambda: tf.Gemma2Config(**_GQA, sliding_window=6, query_pre_attn_scalar=8),
    "gemma3": lambda: tf.Gemma3TextConfig(**_GQA, sliding_window=6, query_pre_attn_scalar=8, layer_types=_MIXED),
    "opt": lambda: tf.OPTConfig(**_SIZE, ffn_dim=48, word_embed_proj_dim=32),
    "opt_post_norm": lambda: tf.OPTConfig(**_SIZE, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=64,
        n_inner=48,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neo": lambda: tf.GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        max_position_embeddings=64,
        intermediate_size=48,
        attention_types=[[["global", "local"], 2]],
        window_size=6,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**_SIZE, intermediate_size=48, use_parallel_residual=True),
    "phi3": lambda: tf.Phi3Config(**{k: v for k, v in _GQA.items() if k != "head_dim"}),
    "phi": lambda: tf.PhiConfig(**_SIZE, intermediate_size=48),
    "olmo2": lambda: tf.Olmo2Config(**{k: v for k, v in _GQA.items() if k != "head_dim"}),
    "glm4": lambda: tf.Glm4Config(**_GQA),
    "bloom": lambda: tf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=4, n_head=4, pad_token_id=0, bos_token_id=1, eos_token_id=2
    ),
    "falcon": lambda: tf.FalconConfig(
        **_SIZE, new_decoder_architecture=True, num_kv_heads=2, alibi=False, num_ln_in_parallel_attn=2
    ),
}

FAMILIES = tuple(CONFIGS)
QUICK = ("llama", "gpt2", "opt", "gemma3")  # the families of quick tests; with the others a test is marked slow
MIXED = ("qwen2", "gemma2", "gemma3")  # blocks are called with different arguments

EXPERTS = {  # mixtures of experts: one matrix each for gate and up, shared experts, biases and transposed, groups
    "mixtral": lambda: tf.MixtralConfig(**_GQA | _TWO, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: tf.Qwen2MoeConfig(
        **_GQA | _TWO,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "gpt_oss": lambda: tf.GptOssConfig(
        **_GQA | _TWO, num_local_experts=4, num_experts_per_tok=2, sliding_window=6, rope_parameters=_ROPE
    ),
    "deepseek_v3": lambda: tf.DeepseekV3Config(
        **{k: v for k, v in _GQA.items() if k != "head_dim"} | _TWO | dict(num_key_value_heads=4),
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        moe_intermediate_size=16,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
}

REFUSED = {
    "jetmoe": lambda: tf.JetMoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_key_value_heads=2,
        kv_channels=8,
        intermediate_size=48,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "t5": lambda: tf.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
}


def tiny(name: str, seed: int = 0, attention: str | None = None) -> nn.Module:
    """A random model of family `name`; attention: "sdpa", "eager" or None for the family's own choice."""
    config = (CONFIGS | EXPERTS | REFUSED)[name]()
    if attention:
        config._attn_implementation = attention
    kind = tf.AutoModelForSeq2SeqLM if name == "t5" else tf.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
            else:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().requires_grad_(False)


def tokens(count: int, length: int = LENGTH, seed: int = 0, padding: str | None = None) -> tuple[Tensor, Tensor]:
    """Random ids (count, length) and their token mask; padding "left", "right" or "both" pads every second window, the
    first included.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (count, length), generator=generator)
    mask = torch.ones(count, length, dtype=torch.bool)
    for row in range(0, count, 2):
        if padding == "left" or (padding == "both" and row % 4 == 0):
            mask[row, : 5 + row] = False
        elif padding in ("right", "both"):
            mask[row, length - 5 - row :] = False
    return ids.masked_fill(~mask, 0), mask
