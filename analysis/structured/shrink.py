"""Really smaller models: rows and columns of removed structures cut out, head counts put right.

Where all layers keep equally many heads and neurons and the architecture's config has words for them, the result is an
ordinary model of its family, config included. Otherwise (unequal layers, heads of a family whose head width is hidden
size / heads, a bias where the config has none) the config stays that of the full size, and only `uneven.load_shrunk`
reads what is saved.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import Anatomy, Matrix, anatomy, anatomy_of_copy, evaluating
from analysis.models.experts import expert_count, experts_per_token
from analysis.models.replay import last_hidden, tolerance_for
from analysis.models.widths import (
    BIAS_FLAGS,
    NEURONS,
    assign_bias,
    block_widths,
    consumer_of,
    empty_model,
    head_counts,
    set_counts,
    vocabulary_size,
    with_heads,
)
from analysis.structured.find import KINDS
from analysis.structured.pairs import Structures, check_masks, masked, structures_of_copy


@dataclass(frozen=True)
class Footprint:
    """Size of a model: all parameters (tied ones once), those of its blocks' matrices and biases, multiply-adds per
    token at a context of so many keys.
    """

    parameters: int
    in_blocks: int
    multiply_adds: int
    context: int


def shrink(model: nn.Module, structures: Structures, masks: Mapping[str, Tensor]) -> nn.Module:
    """A smaller copy of `model` without the structures that `masks` removes; `model` itself stays as it is.

    structures  of `model`; masks: consumer's name -> (count,) bool, True = kept; consumers left out keep all

    The copy is proven: its last hidden states equal those of the masked model (1e-5 relative in float32). Its config is
    set where it can hold the counts. Raises UsageError for masks that do not fit, UnsupportedModel for an architecture
    that cannot run with fewer heads (slopes per head made elsewhere).
    """
    check_masks(structures.pairs, masks)
    model_type = structures.parts.model_type
    ids = torch.arange(16).view(2, 8) % vocabulary_size(model)
    with evaluating(model), masked(structures, masks):
        expected = last_hidden(model, ids)
    small = copy.deepcopy(model)
    parts = anatomy_of_copy(structures.parts, small)
    counts = [block_widths(block, model.config) for block in structures.parts.blocks]
    for structure in structures_of_copy(structures, parts):
        if structure.name in masks:
            counts[structure.block] = structure.cut(masks[structure.name], counts[structure.block])
    set_counts(parts, counts)
    try:
        with evaluating(small):
            error = float((last_hidden(small, ids) - expected).norm() / expected.norm())
    except (RuntimeError, ValueError) as problem:
        raise UnsupportedModel(
            f"{model_type}: cannot run with these heads and neurons cut out ({problem}); masks work, smaller matrices"
            " do not"
        ) from problem
    allowed = tolerance_for(next(model.parameters()).dtype)
    if not error <= allowed:
        raise UnsupportedModel(
            f"{model_type}: the smaller model differs from the masked one by {error:.3g} (allowed {allowed:.1g}); it"
            " cannot be shrunk"
        )
    adopt_config(small, parts)
    return small


def check_shrinks(model: nn.Module, structures: Structures) -> None:
    """Raise UnsupportedModel before any work where `shrink` would after it: tried with one structure less in every pair
    (one of every group of heads).
    """
    masks = {pair.name: torch.arange(pair.count) % pair.units > 0 for pair in structures if pair.units > 1}
    shrink(model, structures, masks)


def footprint(model: nn.Module, context: int, parts: Anatomy | None = None) -> Footprint:
    """Parameters and multiply-adds per token: every matrix of the blocks once, of experts as many as a token goes to,
    queries with `context` keys and as many values, and the output head.
    """
    parts = anatomy(model) if parts is None else parts
    modules = dict.fromkeys(matrix.module for _, matrix in parts.matrices())
    in_blocks = sum(parameter.numel() for module in modules for parameter in module.parameters(recurse=False))
    products = round(sum(m.rows * m.columns * _share_read(model, m) for _, m in parts.matrices()))
    attended = sum(2 * context * consumer_of(block, "attention").columns for block in parts.blocks)
    head = cast(Any, model).get_output_embeddings()
    return Footprint(
        sum(p.numel() for p in model.parameters()),
        in_blocks,
        products + attended + (head.weight.numel() if head is not None else 0),
        context,
    )


def _share_read(model: nn.Module, matrix: Matrix) -> float:
    """The share of the tokens that a matrix reads: of an expert's, that of a router without preference."""
    if matrix.expert is None:
        return 1
    config: Any = model.config
    return experts_per_token(config.get_text_config()) / expert_count(matrix.module)


def holds_bias(model: nn.Module, kind: str) -> bool:
    """Whether `from_pretrained` of this architecture can give the consumers of a kind (`find.KINDS`) a bias: they
    have one, or a config flag (`attention_bias`, `mlp_bias`) makes one. Where it cannot, a created bias needs
    `load_shrunk`, or the repair is kept to the weights.
    """
    block, half = anatomy(model).blocks[0], KINDS[kind].half
    name = f"{block.name}.{consumer_of(block, half).name}.bias"
    if name in model.state_dict():
        return True
    config: Any = copy.deepcopy(model.config)
    text = config.get_text_config()
    if not hasattr(text, BIAS_FLAGS[half]):
        return False
    setattr(text, BIAS_FLAGS[half], True)
    empty = empty_model(type(model), config)
    return empty is not None and name in empty.state_dict()


# --- configs ---------------------------------------------------------------------------------------------------------


def adopt_config(model: nn.Module, parts: Anatomy) -> None:
    """Give the model a config of its own sizes and biases where there is one, and zeros for the biases that this config
    implies.
    """
    config = _plain_config(model, parts)
    empty = None if config is None else empty_model(type(model), config)
    if empty is None:
        return
    missing = empty.state_dict().keys() - model.state_dict().keys()
    for name, matrix in parts.matrices():
        if f"{name}.bias" in missing:
            assign_bias(matrix, torch.zeros(matrix.rows))
    model.config.__dict__.update(config.__dict__)


def _plain_config(model: nn.Module, parts: Anatomy) -> Any:
    """A config that makes a model of exactly this one's shapes, up to biases that can be zero; None where there is
    none.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    every = {block_widths(block, model.config) for block in parts.blocks}
    if len(every) > 1:
        return None
    new = every.pop()
    config: Any = copy.deepcopy(model.config)
    text = config.get_text_config()
    before = head_counts(text)
    if before != (new.heads, new.key_value_heads):
        with_heads(text, new)
    for name in NEURONS:
        if hasattr(text, name):
            setattr(text, name, new.neurons)
    for half, flag in BIAS_FLAGS.items():
        if hasattr(text, flag) and any(
            f"{block.name}.{consumer_of(block, half).name}.bias" in shapes for block in parts.blocks
        ):
            setattr(text, flag, True)
    empty = empty_model(type(model), config)
    if empty is None:
        return None
    described = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    biases = {f"{name}.bias" for name, _ in parts.matrices()}
    fits = (
        shapes.keys() <= described.keys()
        and described.keys() - shapes.keys() <= biases
        and all(described[name] == shape for name, shape in shapes.items())
    )
    return config if fits else None
