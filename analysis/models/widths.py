"""How many heads and neurons each block has, read and set in its modules and its config."""

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import Anatomy, Block, Matrix, anatomy
from analysis.models.quiet import quiet

BIAS_FLAGS = {"attention": "attention_bias", "mlp": "mlp_bias"}  # of a config: biases in a half's matrices

# what attention and MLP modules, and configs, call their counts
QUERY_HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")
HEADS_PER_GROUP = ("num_key_value_groups",)
HEAD_FEATURES = ("all_head_size", "split_size")
HEAD_SIZES = ("head_dim", "head_size", "attention_head_size")  # the width of a head
NEURONS = ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "ffn_hidden_size")


@dataclass(frozen=True)
class Widths:
    """What one block has left: query heads, KV heads, width of a head, MLP neurons."""

    heads: int
    key_value_heads: int
    head_size: int
    neurons: int


def widths(model: nn.Module, parts: Anatomy | None = None) -> list[Widths]:
    """What each block of a model has, shrunk or not."""
    return [block_widths(block, model.config) for block in (anatomy(model) if parts is None else parts).blocks]


@torch.no_grad()
def assign_bias(matrix: Matrix, bias: Tensor) -> None:
    """Give a matrix the bias (out,), in its weight's dtype; made where it has none. Whether its family's config can
    hold it says `holds_bias`.
    """
    like: nn.Parameter = matrix.module.get_parameter("weight")
    if matrix.module.bias is None:
        matrix.module.bias = nn.Parameter(bias.to(like), requires_grad=like.requires_grad)
    else:
        matrix.module.get_parameter("bias").copy_(bias)


def vocabulary_size(model: nn.Module) -> int:
    """How many ids a transformers model has an embedding for."""
    embeddings = cast(Any, model).get_input_embeddings()  # every attribute of an nn.Module is a Tensor to type checkers
    return embeddings.weight.shape[0]


def consumer_of(block: Block, half: str) -> Matrix:
    """The matrix of a half ("attention", "mlp") that runs last: it reads what the others make."""
    return [matrix for matrix in block.matrices if matrix.half == half][-1]


def block_widths(block: Block, config: Any) -> Widths:
    """What one block of a model with this config has."""
    return Widths(*head_shape(block, config), consumer_of(block, "mlp").columns)


def set_weight(module: nn.Linear | Conv1D, weight: Tensor) -> None:
    """Replace the weight as the module stores it, and the sizes that the module states."""
    module.weight = nn.Parameter(weight.clone(), requires_grad=module.get_parameter("weight").requires_grad)
    names = ("nx", "nf") if isinstance(module, Conv1D) else ("out_features", "in_features")
    for name, size in zip(names, weight.shape, strict=True):
        setattr(module, name, size)


def set_counts(parts: Anatomy, counts: list[Widths]) -> None:
    """Put the head and neuron counts that modules keep for themselves right. Attention modules that read counts off
    their config get one of their own.
    """
    for block, new in zip(parts.blocks, counts, strict=True):
        attention = holder(block, next(m for m in block.matrices if m.half == "attention"))
        first = next(m for m in block.matrices if m.half == "mlp")
        mlp = (
            holder(block, first) if all(m.expert is None for m in block.matrices) else nn.Module()
        )  # keeps its neurons
        values = dict.fromkeys(QUERY_HEADS, new.heads) | dict.fromkeys(KEY_VALUE_HEADS, new.key_value_heads)
        values |= dict.fromkeys(HEADS_PER_GROUP, new.heads // new.key_value_heads) | dict.fromkeys(
            HEAD_FEATURES, new.heads * new.head_size
        )
        for name in values.keys() & vars(attention).keys():
            setattr(attention, name, values[name])
        for name in vars(mlp).keys() & set(NEURONS):
            setattr(mlp, name, new.neurons)
        if "config" in vars(attention):
            attention.config = with_heads(copy.copy(attention.config), new)


def with_heads(config: Any, new: Widths) -> Any:
    """The config with the head counts that it has words for, and the width of a head, which it would otherwise derive
    from them.
    """
    for names, value in ((QUERY_HEADS, new.heads), (KEY_VALUE_HEADS, new.key_value_heads)):
        for name in names:
            if isinstance(getattr(config, name, None), int):
                setattr(config, name, value)
    if not isinstance(getattr(type(config), "head_dim", None), property):
        config.head_dim = new.head_size
    return config


def head_counts(config: Any) -> tuple[int, int]:
    """Query and KV heads as a config states them."""
    query = next(getattr(config, name) for name in QUERY_HEADS if isinstance(getattr(config, name, None), int))
    return query, next(
        (getattr(config, name) for name in KEY_VALUE_HEADS if isinstance(getattr(config, name, None), int)), query
    )


def empty_model(kind: type, config: Any) -> nn.Module | None:
    """A model of the config without memory for its weights; None where the architecture refuses the config."""
    try:
        with quiet(), torch.device("meta"):
            return kind(copy.deepcopy(config))
    except Exception:  # transformers raises every kind of error for counts that do not divide
        return None


def head_shape(block: Block, config: Any) -> tuple[int, int, int]:
    """Query heads, KV heads and width of a head of a block's attention.

    The width is the attention module's own, so that it holds for models whose layers have lost different numbers of
    heads; where the module states none, its number of heads tells, or else the config's. Raises UnsupportedModel where
    they do not divide the matrices.
    """
    consumer, producers = attention_matrices(block)
    module = holder(block, producers[0])
    size = next((getattr(module, name) for name in HEAD_SIZES if isinstance(getattr(module, name, None), int)), 0)
    stated = next((getattr(module, name) for name in QUERY_HEADS if isinstance(getattr(module, name, None), int)), 0)
    size = size or consumer.columns // (stated or config.get_text_config().num_attention_heads)
    heads, rest = divmod(consumer.columns, size)
    rows = sum(matrix.rows for matrix in producers)
    groups, odd = divmod(rows - consumer.columns, 2 * size)
    if rest or odd or groups < 1 or heads % groups:
        raise UnsupportedModel(
            f"{block.name}: {consumer.name} reads {consumer.columns} features, {', '.join(m.name for m in producers)}"
            f" make {rows}; with heads of {size} these are no whole query and KV heads, so heads cannot be told apart"
        )
    return heads, groups, size


def holder(block: Block, matrix: Matrix) -> nn.Module:
    """The module that a matrix is an attribute of: its forward knows the number of heads."""
    return block.module.get_submodule(matrix.owner.rpartition(".")[0])


def attention_matrices(block: Block) -> tuple[Matrix, list[Matrix]]:
    """The matrix that reads the heads' features and those that make them: query, key and value, or one of all three.

    Raises UnsupportedModel where the attention has another build.
    """
    return _split(block, "attention", (1, 3), "heads")


def mlp_matrices(block: Block) -> tuple[Matrix, list[Matrix]]:
    """The matrix that reads the neurons and those that make them: one, or gate and up. Raises as for the attention."""
    return _split(block, "mlp", (1, 2), "neurons")


def _split(block: Block, half: str, allowed: tuple[int, int], parts: str) -> tuple[Matrix, list[Matrix]]:
    if any(matrix.expert is not None for matrix in block.matrices if matrix.half == half):
        raise UnsupportedModel(
            f"{block.name}: its {half} half is a mixture of experts, whose {parts} cannot be removed; single weights,"
            " heads and whole experts can"
        )
    *producers, consumer = (matrix for matrix in block.matrices if matrix.half == half)
    if (
        len(producers) not in allowed
        or len({matrix.reads for matrix in producers}) != 1
        or consumer.reads != consumer.name
    ):
        names = ", ".join(f"{matrix.name} (reads with {matrix.reads})" for matrix in producers)
        raise UnsupportedModel(
            f"{block.name}: its {half} half has {names or 'no matrix'} before {consumer.name}; needed are"
            f" {' or '.join(map(str, allowed))} that read one tensor. Its {parts} cannot be told apart"
        )
    return consumer, producers
