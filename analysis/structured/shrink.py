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

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import Anatomy, Block, Matrix, anatomy, anatomy_of_copy, evaluating
from analysis.models.replay import last_hidden, tolerance_for
from analysis.models.widths import (
    _NEURONS,
    BIAS_FLAGS,
    Widths,
    _consumer,
    _widths,
    _with_heads,
    assign_bias,
    empty_model,
    head_counts,
    head_shape,
    set_counts,
    set_weight,
)
from analysis.structured.find import Pair, Structures, check_masks, column_mask, masked, row_mask, structures_of_copy


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
