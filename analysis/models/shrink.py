"""Really smaller models: rows and columns of removed structures cut out, head counts put right.

Where all layers keep equally many heads and neurons and the architecture's config has words for them, the result is an
ordinary model of its family, config included. Otherwise (unequal layers, heads of a family whose head width is hidden
size / heads, a bias where the config has none) the config stays that of the full size, and only `shrunk.load_shrunk`
reads what is saved.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import Anatomy, Block, Matrix, anatomy, anatomy_of_copy, evaluating
from analysis.models.load import quiet
from analysis.models.replay import tolerance_for
from analysis.models.structures import (
    HALF,
    Pair,
    Structures,
    check_masks,
    column_mask,
    head_shape,
    holder,
    last_hidden,
    masked,
    row_mask,
    structures_of_copy,
)

BIAS_FLAGS = {"heads": "attention_bias", "neurons": "mlp_bias"}
# what attention and MLP modules, and configs, call their counts
_QUERY = ("num_heads", "num_attention_heads", "n_head", "n_heads")
_KEY_VALUE = ("num_key_value_heads", "num_kv_heads")
_PER_GROUP = ("num_key_value_groups",)
_FEATURES = ("all_head_size", "split_size")
_NEURONS = ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "ffn_hidden_size")


@dataclass(frozen=True)
class Widths:
    """What one block has left: query heads, KV heads, width of a head, MLP neurons."""

    heads: int
    key_value_heads: int
    head_size: int
    neurons: int


@dataclass(frozen=True)
class Footprint:
    """Size of a model: all parameters (tied ones once), those of its blocks' matrices and biases, multiply-adds per
    token at a context of so many keys.
    """

    parameters: int
    in_blocks: int
    multiply_adds: int
    context: int


def shrink(model: nn.Module, found: Structures, masks: Mapping[str, Tensor]) -> nn.Module:
    """A smaller copy of `model` without the structures that `masks` removes; `model` itself stays as it is.

    found  the structures of `model`; masks: consumer's name -> (count,) bool, True = kept; consumers left out keep all

    The copy is proven: its last hidden states equal those of the masked model (1e-5 relative in float32). Its config is
    set where it can hold the counts. Raises UsageError for masks that do not fit, UnsupportedModel for an architecture
    that cannot run with fewer heads (slopes per head made elsewhere).
    """
    check_masks(found.pairs, masks)
    ids = torch.arange(16).view(2, 8) % model.get_input_embeddings().weight.shape[0]
    with evaluating(model), masked(found, masks):
        expected = last_hidden(model, ids)
    small = copy.deepcopy(model)
    parts = anatomy_of_copy(found.parts, small)
    with torch.no_grad():
        for pair in structures_of_copy(found, parts):
            if pair.name in masks:
                _cut_pair(pair, masks[pair.name])
    set_counts(parts, [_reduced(block, found, masks, model.config) for block in found.parts.blocks])
    try:
        with evaluating(small):
            error = float((last_hidden(small, ids) - expected).norm() / expected.norm())
    except (RuntimeError, ValueError) as problem:
        raise UnsupportedModel(
            f"{found.parts.model_type}: cannot run with these heads and neurons cut out ({problem}); masks work,"
            " smaller matrices do not"
        ) from problem
    allowed = tolerance_for(next(model.parameters()).dtype)
    if not error <= allowed:
        raise UnsupportedModel(
            f"{found.parts.model_type}: the smaller model differs from the masked one by {error:.3g} (allowed"
            f" {allowed:.1g}); it cannot be shrunk"
        )
    adopt_config(small, parts)
    return small


def check_shrinks(model: nn.Module, found: Structures) -> None:
    """Raise UnsupportedModel before any work where `shrink` would after it: tried with one structure less in every pair
    (one of every group of heads).
    """
    shrink(model, found, {pair.name: torch.arange(pair.count) % pair.units > 0 for pair in found if pair.units > 1})


def widths(model: nn.Module, parts: Anatomy | None = None) -> list[Widths]:
    """What each block of a model has, shrunk or not."""
    return [_widths(block, model.config) for block in (anatomy(model) if parts is None else parts).blocks]


def footprint(model: nn.Module, context: int, parts: Anatomy | None = None) -> Footprint:
    """Parameters and multiply-adds per token: every matrix of the blocks once, queries with `context` keys and as many
    values, and the output head.
    """
    parts = anatomy(model) if parts is None else parts
    in_blocks = sum(
        m.module.weight.numel() + (m.module.bias.numel() if m.module.bias is not None else 0)
        for _, m in parts.matrices()
    )
    products = sum(m.rows * m.columns for _, m in parts.matrices())
    attended = sum(2 * context * _consumer(block, "heads").columns for block in parts.blocks)
    head = model.get_output_embeddings()
    return Footprint(
        sum(p.numel() for p in model.parameters()),
        in_blocks,
        products + attended + (head.weight.numel() if head is not None else 0),
        context,
    )


@torch.no_grad()
def assign_bias(matrix: Matrix, bias: Tensor) -> None:
    """Give a matrix the bias (out,), in its weight's dtype; made where it has none. Whether its family's config can
    hold it says `holds_bias`.
    """
    like = matrix.module.weight
    if matrix.module.bias is None:
        matrix.module.bias = nn.Parameter(bias.to(like), requires_grad=like.requires_grad)
    else:
        matrix.module.bias.copy_(bias)


def holds_bias(model: nn.Module, kind: str) -> bool:
    """Whether `from_pretrained` of this architecture can give the consumers of a kind ("heads", "neurons") a bias: they
    have one, or a config flag (`attention_bias`, `mlp_bias`) makes one. Where it cannot, a created bias needs
    `load_shrunk`, or the repair is kept to the weights.
    """
    parts = anatomy(model)
    name = f"{parts.blocks[0].name}.{_consumer(parts.blocks[0], kind).name}.bias"
    if name in model.state_dict():
        return True
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    if not hasattr(text, BIAS_FLAGS[kind]):
        return False
    setattr(text, BIAS_FLAGS[kind], True)
    empty = empty_model(type(model), config)
    return empty is not None and name in empty.state_dict()


# --- cutting ---------------------------------------------------------------------------------------------------------


def _consumer(block: Block, kind: str) -> Matrix:
    return [matrix for matrix in block.matrices if matrix.half == HALF[kind]][-1]


def _widths(block: Block, config) -> Widths:
    return Widths(*head_shape(block, config), _consumer(block, "neurons").columns)


def _reduced(block: Block, found: Structures, masks: Mapping[str, Tensor], config) -> Widths:
    """The widths of a block once its masks are cut."""
    heads, groups, size = head_shape(block, config)
    neurons = _consumer(block, "neurons").columns
    for pair in found:
        if pair.block == block.index and pair.name in masks:
            columns = int(column_mask(pair, masks[pair.name]).sum())
            if pair.kind == "neurons":
                neurons = columns
            else:
                whole_groups = pair.count == pair.heads[1]  # not queries within groups
                heads, groups = columns // size, int(masks[pair.name].sum()) if whole_groups else groups
    return Widths(heads, groups, size, neurons)


def _cut_pair(pair: Pair, mask: Tensor) -> None:
    for producer in pair.producers:
        _resize(producer.matrix, rows=row_mask(producer, mask))
    _resize(pair.consumer, columns=column_mask(pair, mask))


def _resize(matrix: Matrix, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    module, weight = matrix.module, matrix.weight()
    weight = weight[rows.to(weight.device)] if rows is not None else weight
    weight = weight[:, columns.to(weight.device)] if columns is not None else weight
    set_weight(module, weight.T.contiguous() if matrix.transposed else weight.contiguous())
    if rows is not None and module.bias is not None:
        module.bias = nn.Parameter(
            module.bias.data[rows.to(weight.device)].clone(), requires_grad=module.bias.requires_grad
        )


def set_weight(module: nn.Module, weight: Tensor) -> None:
    """Replace the weight as the module stores it, and the sizes that the module states."""
    module.weight = nn.Parameter(weight.clone(), requires_grad=module.weight.requires_grad)
    if isinstance(module, Conv1D):
        module.nx, module.nf = weight.shape
    else:
        module.out_features, module.in_features = weight.shape


def set_counts(parts: Anatomy, counts: list[Widths]) -> None:
    """Put the head and neuron counts that modules keep for themselves right. Attention modules that read counts off
    their config get one of their own.
    """
    for block, new in zip(parts.blocks, counts, strict=True):
        attention = holder(block, next(m for m in block.matrices if m.half == "attention"))
        mlp = holder(block, next(m for m in block.matrices if m.half == "mlp"))
        values = dict.fromkeys(_QUERY, new.heads) | dict.fromkeys(_KEY_VALUE, new.key_value_heads)
        values |= dict.fromkeys(_PER_GROUP, new.heads // new.key_value_heads) | dict.fromkeys(
            _FEATURES, new.heads * new.head_size
        )
        for name in values.keys() & vars(attention).keys():
            setattr(attention, name, values[name])
        for name in vars(mlp).keys() & set(_NEURONS):
            setattr(mlp, name, new.neurons)
        if "config" in vars(attention):
            attention.config = _with_heads(copy.copy(attention.config), new)


def _with_heads(config, new: Widths):
    """The config with the head counts that it has words for, and the width of a head, which it would otherwise derive
    from them.
    """
    for names, value in ((_QUERY, new.heads), (_KEY_VALUE, new.key_value_heads)):
        for name in names:
            if isinstance(getattr(config, name, None), int):
                setattr(config, name, value)
    if not isinstance(getattr(type(config), "head_dim", None), property):
        config.head_dim = new.head_size
    return config


# --- configs ---------------------------------------------------------------------------------------------------------


def adopt_config(model: nn.Module, parts: Anatomy) -> None:
    """Give the model a config of its own sizes and biases where there is one, and zeros for the biases that this config
    implies.
    """
    config = _plain_config(model, parts)
    if config is None:
        return
    missing = empty_model(type(model), config).state_dict().keys() - model.state_dict().keys()
    for name, matrix in parts.matrices():
        if f"{name}.bias" in missing:
            assign_bias(matrix, torch.zeros(matrix.rows))
    model.config.__dict__.update(config.__dict__)


def _plain_config(model: nn.Module, parts: Anatomy):
    """A config that makes a model of exactly this one's shapes, up to biases that can be zero; None where there is
    none.
    """
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    every = {_widths(block, model.config) for block in parts.blocks}
    if len(every) > 1:
        return None
    new = every.pop()
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    before = head_counts(text)
    if before != (new.heads, new.key_value_heads):
        _with_heads(text, new)
    for name in _NEURONS:
        if hasattr(text, name):
            setattr(text, name, new.neurons)
    for kind, flag in BIAS_FLAGS.items():
        if hasattr(text, flag) and any(
            f"{block.name}.{_consumer(block, kind).name}.bias" in ours for block in parts.blocks
        ):
            setattr(text, flag, True)
    empty = empty_model(type(model), config)
    if empty is None:
        return None
    theirs = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    biases = {f"{name}.bias" for name, _ in parts.matrices()}
    fits = (
        ours.keys() <= theirs.keys()
        and theirs.keys() - ours.keys() <= biases
        and all(theirs[name] == shape for name, shape in ours.items())
    )
    return config if fits else None


def head_counts(config) -> tuple[int, int]:
    """Query and KV heads as a config states them."""
    query = next(getattr(config, name) for name in _QUERY if isinstance(getattr(config, name, None), int))
    return query, next(
        (getattr(config, name) for name in _KEY_VALUE if isinstance(getattr(config, name, None), int)), query
    )


def empty_model(kind: type, config) -> nn.Module | None:
    """A model of the config without memory for its weights; None where the architecture refuses the config."""
    try:
        with quiet(), torch.device("meta"):
            return kind(copy.deepcopy(config))
    except Exception:  # transformers raises every kind of error for counts that do not divide
        return None
