"""Decoders inside models that read pictures: which part is the language model, which the projector; by structure."""

from typing import TYPE_CHECKING, Any, cast

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROJECTORS = ("multi_modal_projector", "connector", "merger", "mm_projector", "aligner", "embed_vision")
"""What models call the modules between their vision tower and their language part."""


def reads_pictures(config: "PreTrainedConfig") -> bool:
    """Whether a config is of a model that transformers makes of pictures and text, with a decoder inside."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    known = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return known and not config.is_encoder_decoder and config.get_text_config() is not config


def is_wrapped(model: nn.Module) -> bool:
    """Whether a model is more than its language part."""
    config = cast(Any, model).config
    return config.get_text_config() is not config


def image_tokens(model: nn.Module) -> set[int]:
    """The ids that stand for pictures and what frames them; empty for a model of text alone."""
    if not is_wrapped(model):
        return set()
    config = cast(Any, model).config
    named = (value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index")))
    text = vars(config.get_text_config())
    own = {value for name, value in text.items() if name.endswith("_token_id")}
    return {value for value in named if isinstance(value, int)} - {value for value in own if isinstance(value, int)}


def language_part(model: nn.Module) -> list[nn.Module]:
    """The modules that make the language model of a wrapped one, its head among them; the model itself where it is no
    more than that.
    """
    if not is_wrapped(model):
        return [model]
    network = cast(Any, model)
    head = network.get_output_embeddings()
    return [network.get_decoder(), *([] if head is None else [head])]


def projector(model: nn.Module) -> list[nn.Module]:
    """The modules between a vision tower and the language part; none in a model of text alone."""
    inside = {id(module) for part in language_part(model) for module in part.modules()}
    return [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in PROJECTORS and id(module) not in inside
    ]
