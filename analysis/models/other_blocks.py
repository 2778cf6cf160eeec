"""Blocks that are not one attention and one MLP: what they are, for the refusal to say."""

import re
from typing import Any, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import UnsupportedModel
from analysis.models.experts import keys

_EXPERTS = re.compile("expert|moe", re.IGNORECASE)
_CROSS = re.compile("encoder_attn|cross", re.IGNORECASE)  # attention to what another network has read
_MIXERS = re.compile("conv|mamba|recurrent|lstm", re.IGNORECASE)  # classes that mix tokens otherwise than attention
_RECURRENT = re.compile("A_log|dt_|time_|recurrent", re.IGNORECASE)  # parameters that carry a state from token to token


def looks_like_blocks(modules: nn.ModuleList) -> bool:
    """Whether every module of a list holds a linear map."""
    return len(modules) > 0 and all(
        any(isinstance(part, nn.Linear | Conv1D) for part in module.modules()) for module in modules
    )


def refuse_shared(model: nn.Module, path: str, modules: nn.ModuleList) -> None:
    """Raise UnsupportedModel where each block of the list `path` is a group of blocks that runs for several layers, as
    in ALBERT.
    """
    config, group = cast(Any, model).config, modules[0]
    layers = getattr(config, "num_hidden_layers", None)
    nested = any(isinstance(child, nn.ModuleList) and looks_like_blocks(child) for child in group.children())
    if nested and isinstance(layers, int) and layers > len(modules):
        raise UnsupportedModel(
            f"{config.model_type}: its {layers} layers share the weights of {len(modules)} ({path}, each a"
            f" {type(group).__name__}); a block that runs for several layers cannot be pruned block by block"
        )


def refuse_experts(name: str, block: nn.Module) -> None:
    """Raise UnsupportedModel for a block (`name`: its own, for the message) with several maps of one kind side by side,
    stacked in one parameter or in a list: experts, where they are called so and are not laid out as `experts.py` knows.
    """
    for key, module in block.named_modules():
        if keys(module) is not None:
            continue
        cubes = [parameter for parameter, value in module.named_parameters(recurse=False) if value.ndim == 3]
        maps = module if isinstance(module, nn.ModuleList) and len(module) > 1 and looks_like_blocks(module) else ()
        words = (key, type(module).__name__, *cubes, *(type(one).__name__ for one in maps))
        where = f"{f'{name}.{key}'.rstrip('.')} ({type(module).__name__})"
        if (cubes or maps) and any(_EXPERTS.search(word) for word in words):
            raise UnsupportedModel(
                f"{where}: a mixture of experts with a layout of its own; only those laid out as most families of"
                " transformers lay them out can be pruned"
            )
        if maps:
            raise UnsupportedModel(
                f"{where}: {len(maps)} modules of one kind in a list; a block with several MLPs cannot be pruned"
            )


def kind_of_part(parameter: str, module: nn.Module) -> str:
    """What a parameter of several dimensions is that is no linear map, norm or embedding."""
    if _MIXERS.search(type(module).__name__) or _RECURRENT.search(parameter):
        return (
            "belongs to a convolution or state space that mixes tokens; state-space and hybrid blocks cannot be pruned,"
            " only blocks of attention and MLP"
        )
    return "is no linear map, norm or embedding; such blocks cannot be pruned yet"


def why_no_halves(holders: list[str], attention: list[str]) -> str:
    """What the children that hold a block's linear maps are, where they are no attention and MLP."""
    if len(attention) > 1 and any(_CROSS.search(key) for key in attention):
        return f"attends to a second text ({', '.join(attention)}), as the decoder of an encoder-decoder does"
    if len(attention) == 1:
        return f"has attention ({attention[0]}) and no MLP beside it"
    found = f"of which attention: {', '.join(attention) or 'none'}"
    return f"its linear maps are in {', '.join(holders) or 'nothing'}, {found}"


def is_map_of_its_own(module: nn.Module) -> bool:
    """Whether a module holds a matrix of weights and is neither a linear map nor an embedding."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim > 1 and not isinstance(module, nn.Linear | Conv1D | nn.Embedding)
