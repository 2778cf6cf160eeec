"""The config of any family of transformers with every size made small: by the names of its fields, and a table of what
names do not tell.
"""

import dataclasses
import re
from typing import Any

import transformers as tf

BLOCKS = 4
SIZES = [  # (names of config fields, their largest value); the first that fits counts
    (r"(num_hidden|num|n|encoder|decoder|num_encoder|num_decoder|conf_num_hidden|num_global)_layers?|depth", BLOCKS),
    (r"num_blocks|num_layers_per_stack|num_self_attends_per_block|num_feedforward_networks", BLOCKS),
    (r"qk_head_dim", 16),
    (r"mamba_d_ssm", 64),
    (r"vocab_size_per_layer_input", 64),
    (r"num_kv_shared_layers", 2),
    (r"rotary_dim", 8),
    (r"(.*_)?(head_dim|head_size|headdim|d_head|dim_head|d_kv|kv_channels|adapter_rank|per_layer_input|d_rel)", 8),
    (r"mamba_d_head|(.*_)?d_state|(ssm_)?state_size|(linear|mamba)_head_dim|(.*_)?heads_per_ngram|hc_lowrank", 8),
    (r"(.*_)?(kv|key_value|num_key)_heads|num_kv_heads|kv_n_heads|num_query_groups|index_n_heads", 2),
    (r"(mamba_)?(num|n)_(mamba_)?heads_per_layer", 4),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r"(.*_)?(num_)?(attention_)?(value_)?heads?|n_head", 4),
    (r"(.*_)?(intermediate_size|intermediate_size_mlp|ffn_dim|ffn_hidden_size|mlp_dim|bottleneck_size)", 48),
    (r"(d_ff|dff|dim_ff|d_inner|feed_forward_size|n_inner)", 48),
    (r"(.*_)?(lora_rank|rank|landmarks|num_centroids)", 16),
    (r"(.*_)?(hidden_size|hidden_size_global|hidden_dim|embed_dim|emb_dim|emb_size|embedding_size|d_model)", 32),
    (r"(.*_)?(n_embd|dim|lru_width|d_latents|proj_dim|embedding_dim|output_dim|input_dim|dim_model_base)", 32),
    (r"prediction_head_size|(backbone|lin|out|in)_dim|classifier_proj_size|(.*_)?hidden_size_.*", 32),
    (r"(.*_)?(num|n)_(local_|routed_)?experts|zero_expert_num", 4),
    (r"(.*_)?(experts_per_tok(en)?|moe_top_?k|moe_k)", 2),
    (r"(n_group|topk_group|num_expert_group|n_groups|o_groups|mamba_n_?groups|hash_code_len)", 1),
    (r"(.*_)?vocab(_size)?(_base|_per_layer_input)?|num_hash_buckets|entity_vocab_size", 64),
    (r"(.*_)?(max_position_embeddings|positions|max_seq_len|n_ctx|context_length|model_max_length)", 128),
    (r"(.*_)?(sliding_window|window_size|attention_window|window_len|keep_window_size|local_attention)", 8),
    (r"(.*_)?(chunk_size|block_size|chunk_length|index_topk|num_latents|stride|split_ngram_parts|max_distance)", 16),
]
IDS = re.compile(r"(.*_)?(token_id|token_index|mask_index|unk_index|pad_id|mask_id)")
_SPECIAL = 63  # what a special token above the small vocabulary becomes

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
EXCEPTIONS: dict[str, dict[str, Any]] = {  # what a rule by names cannot know
    "bamba": {"attn_layer_indices": [1, 3]},
    "blenderbot": {"encoder_layers": BLOCKS, "decoder_layers": BLOCKS},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": 64, "pad_token_id": 1, "mask_token_id": 3},
    "funnel": {"block_sizes": [2, 2], "block_repeats": [1, 1]},
    "gpt_neo": {"attention_types": [[["global", "local"], BLOCKS // 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "mellum": {"num_local_experts": 4},
    "ministral": {"head_dim": 8},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "t5": {"decoder_start_token_id": 0},
    "qwen3_moe": {"num_local_experts": 4},
    **dict.fromkeys(
        ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text"),
        {"rope_parameters": _ROPE | {"mrope_section": [2, 1, 1]}},
    ),
    "neomme": {"head_dim": 16},
    "nystromformer": {"num_landmarks": 64, "segment_means_seq_len": 64},
}


def tiny_config(model_type: str, **also: Any) -> tf.PreTrainedConfig:
    """The config of a family with every size made small."""
    return _shrunk(tf.CONFIG_MAPPING[model_type], **also)


def _shrunk(kind: type[tf.PreTrainedConfig], **also: Any) -> tf.PreTrainedConfig:
    default = kind()
    fields = {f.name: f.default for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    depth = next((v for k, v in vars(default).items() if re.fullmatch(SIZES[0][0], k) and isinstance(v, int)), 0)
    small: dict[str, Any] = {}
    for name, value in vars(default).items():
        if isinstance(value, tf.PreTrainedConfig):
            small[name] = _shrunk(type(value))
        elif name in fields and (fields[name] is not None or isinstance(value, list | tuple)):
            small[name] = _smaller(name, value, depth)
    heads = vars(default).get("num_attention_heads")
    if "num_key_value_heads" in small and vars(default)["num_key_value_heads"] == heads:
        small["num_key_value_heads"] = _smaller("num_attention_heads", heads, 0)
    return kind(**small | EXCEPTIONS.get(default.model_type, {}) | also)


def _smaller(name: str, value: Any, depth: int) -> Any:
    """The small value of one field; `depth`: how many layers the default config has."""
    if isinstance(value, list | tuple) and depth and len(value) == depth and value:
        kinds = list(dict.fromkeys(value))  # every kind of layer stays
        whole = [kinds[place % len(kinds)] for place in range(BLOCKS)]
        return type(value)(_smaller(name, one, 0) for one in whole)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if IDS.fullmatch(name):
        return value if value < _SPECIAL else _SPECIAL
    most = next((most for names, most in SIZES if re.fullmatch(names, name)), value)
    return min(value, most)
