"""Tiny random models that read pictures, of every kind of build, and windows for them: `pictured(name)` gives both."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

from analysis.windows import Pictures, Windows

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
IMAGE, START, END, VIDEO = 60, 61, 62, 63  # token ids
Made = tuple[tf.PreTrainedModel, dict[str, torch.Tensor], int, int]  # model, arguments, windows, image tokens of each


def _pixels(windows: int, *shape: int) -> torch.Tensor:
    return torch.randn(windows, *shape, generator=torch.Generator().manual_seed(1))


def _llava(windows: int) -> Made:
    vision = tf.SiglipVisionConfig(**VISION, vision_use_head=False)
    config = tf.LlavaConfig(
        vision_config=vision,
        text_config=tf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return tf.LlavaForConditionalGeneration(config), {"pixel_values": _pixels(windows, 3, 8, 8)}, windows, 4


def _clip_llava(windows: int) -> Made:
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**VISION),
        text_config=tf.MistralConfig(**TEXT, sliding_window=4),
        image_token_index=IMAGE,
    )
    return tf.LlavaForConditionalGeneration(config), {"pixel_values": _pixels(windows, 3, 8, 8)}, windows, 4


def _onevision(windows: int) -> Made:
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=tf.Qwen2Config(**{key: value for key, value in TEXT.items() if key != "head_dim"}),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[8, 8]],
    )
    more = {"pixel_values": _pixels(windows, 2, 3, 8, 8), "image_sizes": torch.tensor([[8, 8]] * windows)}
    return tf.LlavaOnevisionForConditionalGeneration(config), more, windows, 4 + 4 + 2  # a new line for each row


def _idefics3(windows: int) -> Made:
    config = tf.Idefics3Config(
        vision_config={**VISION},
        text_config=tf.LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return tf.Idefics3ForConditionalGeneration(config), {"pixel_values": _pixels(windows, 1, 3, 8, 8)}, windows, 1


def _smolvlm(windows: int) -> Made:
    config = tf.SmolVLMConfig(
        vision_config={**VISION},
        text_config=tf.LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return tf.SmolVLMForConditionalGeneration(config), {"pixel_values": _pixels(windows, 1, 3, 8, 8)}, windows, 1


def _gemma3(windows: int) -> Made:
    text = tf.Gemma3TextConfig(**TEXT, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
    config = tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=text,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        mm_tokens_per_image=4,
    )
    return tf.Gemma3ForConditionalGeneration(config), {"pixel_values": _pixels(windows, 3, 8, 8)}, windows, 4


def _mistral3(windows: int) -> Made:
    config = tf.Mistral3Config(
        vision_config=tf.PixtralVisionConfig(**VISION, head_dim=8),
        text_config=tf.MistralConfig(**TEXT, sliding_window=None),
        image_token_index=IMAGE,
        spatial_merge_size=1,
        vision_feature_layer=-1,
    )
    more = {"pixel_values": _pixels(windows, 3, 8, 8), "image_sizes": torch.tensor([[8, 8]] * windows)}
    return tf.Mistral3ForConditionalGeneration(config), more, windows, 4


def _internvl(windows: int) -> Made:
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**VISION | {"image_size": [8, 8], "patch_size": [4, 4]}),
        text_config=tf.Qwen2Config(**{key: value for key, value in TEXT.items() if key != "head_dim"}),
        image_token_id=IMAGE,
        image_seq_length=1,
        downsample_ratio=0.5,
    )
    return tf.InternVLForConditionalGeneration(config), {"pixel_values": _pixels(windows, 3, 8, 8)}, windows, 1


def _qwen(config: Any, kind: Any, vision: dict[str, Any], text: dict[str, Any], windows: int) -> Made:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": False}
    whole = config(
        vision_config={
            "depth": 2,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "in_channels": 3,
            **vision,
        },
        text_config={**TEXT, "rope_parameters": rope, **text},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    patches = _pixels(windows * 16, 3 * 2 * 4 * 4)  # a grid of 4 by 4 patches, merged to 4 tokens
    return kind(whole), {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]] * windows)}, windows, 4


def _qwen2_vl(windows: int) -> Made:
    vision = {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    return _qwen(tf.Qwen2VLConfig, tf.Qwen2VLForConditionalGeneration, vision, {}, windows)


def _qwen2_5_vl(windows: int) -> Made:
    vision = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "fullatt_block_indexes": [1]}
    return _qwen(tf.Qwen2_5_VLConfig, tf.Qwen2_5_VLForConditionalGeneration, vision, {}, windows)


def _qwen3_vl(windows: int) -> Made:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    return _qwen(tf.Qwen3VLConfig, tf.Qwen3VLForConditionalGeneration, vision, {}, windows)


def _paligemma2(windows: int) -> Made:
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=tf.Gemma2Config(**TEXT, sliding_window=4),
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    return tf.PaliGemmaForConditionalGeneration(config), {"pixel_values": _pixels(windows, 3, 8, 8)}, windows, 4


KINDS: dict[str, Callable[[int], Made]] = {
    "llava": _llava,
    "llava of clip and mistral": _clip_llava,
    "llava_onevision": _onevision,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
    "mistral3": _mistral3,
    "internvl": _internvl,
    "paligemma 2": _paligemma2,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}
INJECTS = ("qwen3_vl",)
"""Models that add what they see between blocks."""


def pictured(name: str, windows: int = 3, *, length: int = 20, padded: bool = False) -> tuple[Any, Windows]:
    """A model and windows with one picture each, behind two tokens of text; padded: the last one ends early."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, more, windows, tokens = KINDS[name](windows)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.eval().requires_grad_(False)
    model.config.use_cache = False
    ids = torch.randint(3, 59, (windows, length), generator=torch.Generator().manual_seed(2))
    at = torch.zeros(windows, length, dtype=torch.bool)
    at[:, 3 : 3 + tokens] = True
    ids[:, 2], ids[at], ids[:, 3 + tokens] = START, IMAGE, END
    mask = torch.ones_like(at)
    if padded:
        mask[-1, -5:] = False
    more = dict(more)
    if name.startswith("qwen"):
        more["mm_token_type_ids"] = at.long()
    types = at.long() if name == "gemma3" else (~at).long() if name == "paligemma 2" else None  # 1 is read causally
    return model, Windows(
        ids, mask, "pictures", {"source": "random pictures"}, types=types, pictures=Pictures(more, at)
    )
