"""The parts of a decoder, found by structure: blocks, attention and MLP halves, matrices, norms.

No list of families. The blocks are the `ModuleList` the decoder runs; a block's attention half is its one child called
attention (by attribute or class name), its MLP half whatever else in it holds matrices; norms are `nn.LayerNorm` or
modules with "norm" in their class name. Each expert of a mixture has its own matrices, slices of the parameters that
all of them share (`experts.py`); what routes tokens to them is no matrix. Which norm serves which half, the order in
which matrices run, and whether the two halves run in parallel are read off one forward of two tokens. Embeddings, head
and norms are not matrices.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import UnsupportedModel
from analysis.models.experts import find_experts, find_routers, keys, proven_experts, refuse_changed_experts
from analysis.models.held import held
from analysis.models.hooks import hooked
from analysis.models.linear import is_matrix, proven_linear, refuse_adapters, refuse_changed, refuse_tied, tensor_given
from analysis.models.other_blocks import (
    is_map_of_its_own,
    kind_of_part,
    looks_like_blocks,
    refuse_experts,
    refuse_shared,
    why_no_halves,
)
from analysis.models.quiet import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION = re.compile("attn|attention", re.IGNORECASE)
_TOKENS = 2  # of the forward that order is read off


@dataclass(frozen=True, eq=False)
class Matrix:
    """One linear map y = W x + b of a block. `name` is relative to its block; `half` is "attention" or "mlp".

    `transposed`: the module is GPT-2's `Conv1D`, which stores W as (in, out). Everything here speaks (out, in).
    `reads`: the first matrix of the block that reads the same tensor, itself where none does (key and value: the query
    matrix).
    `expert`: the matrix is that of one expert of a mixture, ("mlp.experts.3.down_proj"); `module` holds them all, and W
    is a slice of its parameter `key` (experts, out, in). It reads only the tokens that go to its expert.
    """

    name: str
    module: nn.Linear | Conv1D
    transposed: bool
    half: str
    reads: str = ""
    key: str = "weight"
    expert: int | None = None

    @property
    def owner(self) -> str:
        """Name of `module`, relative to the block."""
        return self.name if self.expert is None else self.name.rsplit(".", 2)[0]

    @property
    def parameter_name(self) -> str:
        """Name of the parameter that W is, or is a slice of, relative to the block."""
        return f"{self.owner}.{self.key}"

    @property
    def parameter(self) -> nn.Parameter:
        """That parameter."""
        return self.module.get_parameter(self.key)

    @property
    def biases(self) -> nn.Parameter | None:
        """The parameter that the bias is, or is a row of; None where there is none."""
        return getattr(self.module, "bias" if self.expert is None else f"{self.key}_bias", None)

    def part(self, stored: Tensor) -> Tensor:
        """What belongs to the matrix of something laid out as its parameter: a view (out, in)."""
        stored = stored if self.expert is None else stored[self.expert]
        return stored.T if self.transposed else stored

    def weight(self) -> Tensor:
        """W (out, in), a view of the parameter's data: writing into it changes the model, without autograd."""
        return self.part(self.parameter.data)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Copy `weight` (out, in) into the model, in the model's dtype and on its device."""
        self.weight().copy_(weight)

    @property
    def rows(self) -> int:
        """Output features."""
        return self.weight().shape[0]

    @property
    def columns(self) -> int:
        """Input features."""
        return self.weight().shape[1]


@dataclass(frozen=True)
class SubBlock:
    """Half of a block: the children that hold its matrices and every norm that serves it, in the order they run.

    Names are relative to the block. Norms inside the children (query and key norms) are included.
    """

    modules: tuple[str, ...]
    norms: tuple[str, ...]


@dataclass(frozen=True)
class Child:
    """A module that the block's own forward calls: it holds matrices, or is a norm outside those that do. `name` is
    relative to its block.

    width    features of the tensor it returns; 0 where it returns none
    returns  length of the tuple it returns, that tensor first; 0: the tensor alone
    handed   the MLP half reads that very tensor. So it is the stream between the halves (a norm that closes the
             attention half after the residual sum, an attention module that adds the residual itself) or comes from a
             norm that both of two parallel halves read
    """

    name: str
    half: str
    width: int
    returns: int
    handed: bool


@dataclass(frozen=True, eq=False)
class Block:
    """One transformer layer. `matrices` and `children` in the order they run; `parallel`: the MLP does not see the
    attention's output.
    """

    index: int
    name: str
    module: nn.Module
    matrices: tuple[Matrix, ...]
    attention: SubBlock
    mlp: SubBlock
    parallel: bool
    children: tuple[Child, ...]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A decoder's blocks in the order they run; `path` is the name of their `ModuleList` in the model."""

    model_type: str
    path: str
    blocks: tuple[Block, ...]

    def matrices(self) -> Iterator[tuple[str, Matrix]]:
        """Every matrix with its full name ("model.layers.0.self_attn.q_proj"), the key masks go by."""
        for block in self.blocks:
            for matrix in block.matrices:
                yield f"{block.name}.{matrix.name}", matrix


def anatomy(model: nn.Module) -> Anatomy:
    """Take `model` (a transformers decoder) apart. For a deep copy of it there is `anatomy_of_copy`.

    Raises UnsupportedModel, saying what was found, for encoder-decoders, experts of a layout of their own, linear maps
    changed by adapters, parametrisations, quantisation or ties (`linear.py`), blocks without an attention or an MLP
    half, parameters that are neither matrix, norm nor embedding, and blocks that do not run once each in order.
    """
    network = cast("PreTrainedModel", model)
    config = network.config
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{config.model_type}: an encoder-decoder; only decoders with one stack of blocks can be pruned block by"
            " block"
        )
    refuse_adapters(network)
    path, modules = find_blocks(network)
    refuse_shared(network, path, modules)
    parts: list[_Parts] = []
    for index, module in enumerate(modules):
        with held(module):
            parts.append(_parts(f"{path}.{index}", module))
    matrices = {
        f"{path}.{index}.{key}": matrix for index, part in enumerate(parts) for key, matrix in part.matrices.items()
    }
    refuse_tied(network, matrices)
    experts = {
        f"{path}.{index}.{key}": module for index, part in enumerate(parts) for key, module in part.experts.items()
    }
    with proven_linear(matrices), proven_experts(experts):
        traces = _trace(network, path, modules, parts)
    blocks = tuple(
        _assemble(index, f"{path}.{index}", *row) for index, row in enumerate(zip(modules, parts, traces, strict=True))
    )
    return Anatomy(config.model_type, path, blocks)


def structure(model: nn.Module) -> list[tuple[nn.Module, list[Matrix]]]:
    """Every block with its matrices, as the modules alone show them: nothing is run, so that a model without weights
    (on the meta device) will do, and what they read is not known. Raises UnsupportedModel.
    """
    path, modules = find_blocks(cast("PreTrainedModel", model))
    parts = [_parts(f"{path}.{index}", module, loaded=False) for index, module in enumerate(modules)]
    return [
        (module, [matrix for name in part.maps for matrix in part.matrices_of(name)])
        for module, part in zip(modules, parts, strict=True)
    ]


def anatomy_of_copy(original: Anatomy, model: nn.Module) -> Anatomy:
    """The anatomy of a deep copy of the model that `original` was taken of, without running it again."""

    def block_of_copy(block: Block) -> Block:
        module = model.get_submodule(block.name)
        return replace(
            block,
            module=module,
            matrices=tuple(
                replace(matrix, module=cast("nn.Linear | Conv1D", module.get_submodule(matrix.owner)))
                for matrix in block.matrices
            ),
        )

    return replace(original, blocks=tuple(block_of_copy(block) for block in original.blocks))


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer."""
    return isinstance(module, nn.LayerNorm) or "norm" in type(module).__name__.lower()


@contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode (no dropout) and no gradients while open; every module's own mode is restored afterwards."""
    with evaluation_mode(model), torch.no_grad():
        yield


def run_body(model: nn.Module, arguments: Mapping[str, Tensor]) -> None:
    """The model's own forward without its head and without a cache, given these arguments (`Windows.arguments`)."""
    device = next(model.parameters()).device
    placed = {name: value.to(device) for name, value in arguments.items()}
    cast("PreTrainedModel", model).base_model(**placed, use_cache=False)


def some_tokens(count: int) -> dict[str, Tensor]:
    """A window of so many tokens for `run_body`, whatever they mean."""
    return {"input_ids": torch.zeros(1, count, dtype=torch.long), "attention_mask": torch.ones(1, count).long()}


def _child(name: str) -> str:
    """The direct child of a block in which the module `name` lies."""
    return name.split(".")[0]


# --- structure -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Parts:
    """What a block holds, before it has run: named matrices and norms, and which half each direct child belongs to;
    experts: modules that hold many matrices each.
    """

    matrices: dict[str, nn.Linear | Conv1D]
    norms: dict[str, nn.Module]
    halves: dict[str, str]
    experts: dict[str, nn.Module]

    @property
    def maps(self) -> tuple[str, ...]:
        """The modules that are matrices or hold those of experts, by name."""
        return (*self.matrices, *self.experts)

    def matrices_of(self, name: str, reads: str = "") -> list[Matrix]:
        """The matrices of one of `maps`; reads: of a matrix alone."""
        half = self.halves[_child(name)]
        if name in self.matrices:
            module = self.matrices[name]
            return [Matrix(name, module, isinstance(module, Conv1D), half, reads)]
        holder = cast("nn.Linear", self.experts[name])
        return [
            Matrix(full, holder, bool(holder.is_transposed), half, full, key, expert)
            for expert in range(holder.get_parameter("down_proj").shape[0])
            for key in keys(holder) or ()
            for full in (f"{name}.{expert}.{key}",)
        ]

    def half(self, name: str) -> str | None:
        """The half a module belongs to by its place; None for the norms that stand between the halves."""
        return self.halves.get(_child(name))

    def carriers(self) -> list[str]:
        """Every matrix and norm, and every module that holds a matrix."""
        holders = [name.rsplit(".", depth)[0] for name in self.maps for depth in range(1, name.count(".") + 1)]
        return list(dict.fromkeys([*self.maps, *self.norms, *holders]))


def find_blocks(model: "PreTrainedModel") -> tuple[str, nn.ModuleList]:
    """The one list of blocks that a decoder runs, and its name in the model. Raises UnsupportedModel for another number
    of them.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if is_matrix(decoder):  # some call their head so
        decoder = model.base_model
    inside = {id(module) for module in decoder.modules()}
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer in stacks)
        if id(module) in inside and isinstance(module, nn.ModuleList) and not nested and looks_like_blocks(module):
            stacks[name] = module
    if not stacks:
        refuse_changed("", decoder)
    if len(stacks) != 1:
        own = {type(module).__name__ for module in decoder.modules() if is_map_of_its_own(module)}
        description = (
            f"{len(stacks)} stacks of blocks ({', '.join(stacks)})"
            if stacks
            else "no list of blocks that hold linear maps"
            + (f" (what holds its weights is no nn.Linear: {', '.join(sorted(own))})" if own else "")
        )
        raise UnsupportedModel(
            f"{model.config.model_type}: found {description} in its decoder {type(decoder).__name__}; exactly one is"
            " needed"
        )
    return stacks.popitem()


def _parts(name: str, block: nn.Module, *, loaded: bool = True) -> _Parts:
    refuse_experts(name, block)
    if loaded:
        refuse_changed(name, block)
    experts, routers = find_experts(block), find_routers(block)
    routing = {f"{key}.{part}".rstrip(".") for key, module in routers.items() for part, _ in module.named_modules()}
    for key, module in experts.items() if loaded else ():
        refuse_changed_experts(f"{name}.{key}", module)
    matrices = {key: module for key, module in block.named_modules() if is_matrix(module) and key not in routing}
    norms = {key: module for key, module in block.named_modules() if is_norm(module) and key not in routing}
    for key, module in block.named_modules():
        if key in (*matrices, *norms, *experts, *routing) or isinstance(module, nn.Embedding):
            continue
        for parameter, value in module.named_parameters(recurse=False):
            if value.ndim > 1:
                raise UnsupportedModel(
                    f"{name} ({type(block).__name__}): parameter {f'{key}.{parameter}'.lstrip('.')}"
                    f" {tuple(value.shape)} of a {type(module).__name__} {kind_of_part(parameter, module)}"
                )
    holders = list(dict.fromkeys(key.split(".")[0] for key in (*matrices, *experts)))
    attention = [
        key for key in holders if _ATTENTION.search(key) or _ATTENTION.search(type(getattr(block, key)).__name__)
    ]
    if len(attention) != 1 or len(holders) < 2:
        raise UnsupportedModel(
            f"{name} ({type(block).__name__}): {why_no_halves(holders, attention)}; needed are exactly one attention"
            " module and at least one other (the MLP)"
        )
    return _Parts(matrices, norms, {key: "attention" if key in attention else "mlp" for key in holders}, experts)


# --- order -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Trace:
    """What ran in one block, and the storage each module read and wrote (tensors kept alive meanwhile).

    order: matrices and norms in the order they finished. entered: these and the modules that hold matrices, in the
    order they started.
    read, wrote: `_state` of a module's input when it started and of its output when it finished. returns: as in
    `Child`.
    """

    order: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    read: dict[str, tuple[int, int]] = field(default_factory=dict)
    wrote: dict[str, tuple[int, int]] = field(default_factory=dict)
    returns: dict[str, int] = field(default_factory=dict)
    hidden: Tensor | None = None


def _state(tensor: Tensor) -> tuple[int, int]:
    """Equal for two living tensors that start at the same memory, with nothing written into it in between."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _trace(model: "PreTrainedModel", path: str, blocks: nn.ModuleList, parts: list[_Parts]) -> list[_Trace]:
    traces = [_Trace() for _ in blocks]
    ran: list[int] = []

    def enter(index: int):
        def hook(module, args, kwargs):
            ran.append(index)
            traces[index].hidden = args[0] if args else kwargs.get("hidden_states")

        return hook

    def start(trace: _Trace, name: str):
        def hook(module, args, kwargs):
            trace.entered.append(name)
            given = tensor_given(args, kwargs)
            if given is not None:
                trace.inputs[name], trace.read[name] = given, _state(given)

        return hook

    def finish(trace: _Trace, name: str, ordered: bool):
        def hook(module, args, output):
            first, trace.returns[name] = (output[0], len(output)) if isinstance(output, tuple | list) else (output, 0)
            if isinstance(first, Tensor):
                trace.outputs[name], trace.wrote[name] = first, _state(first)
            if ordered:
                trace.order.append(name)

        return hook

    before, after = [], []
    for index, (block, part) in enumerate(zip(blocks, parts, strict=True)):
        before.append((block, enter(index)))
        for name in part.carriers():
            module = block.get_submodule(name)
            before.append((module, start(traces[index], name)))
            after.append((module, finish(traces[index], name, name in part.maps or name in part.norms)))
    with hooked(before, after), evaluating(model):
        run_body(model, some_tokens(_TOKENS))
    require_each_once(model.config.model_type, path, ran, len(blocks))
    return traces


def require_each_once(model_type: str, path: str, ran: list[int], count: int) -> None:
    """Raise UnsupportedModel unless the blocks of `path` ran once each, in order."""
    if ran != list(range(count)):
        raise UnsupportedModel(
            f"{model_type}: the {count} blocks of {path} ran in the order {ran}; they must run once each, in order"
        )


def _assemble(index: int, name: str, module: nn.Module, parts: _Parts, trace: _Trace) -> Block:
    irregular = [key for key in parts.maps if trace.order.count(key) != 1]
    if irregular:
        never = all(key not in trace.order for key in irregular)
        raise UnsupportedModel(
            f"{name} ({type(module).__name__}): {', '.join(irregular)}"
            f" {'do not run on plain text' if never else 'did not run exactly once in a forward'}; such blocks cannot"
            " be pruned"
        )
    rows = _TOKENS if trace.hidden is None else trace.hidden.shape[:-1].numel()
    other = [key for key in parts.maps if trace.inputs[key].shape[:-1].numel() != rows]
    if other:
        raise UnsupportedModel(
            f"{name} ({type(module).__name__}): {', '.join(other)} read {tuple(trace.inputs[other[0]].shape)} in a"
            f" forward of {rows} tokens, something else than one row per token; such blocks cannot be pruned"
        )
    halves = _norm_halves(name, parts, trace)
    order = [key for key in trace.order if key in parts.maps]
    reads = {key: next(first for first in order if trace.read[first] == trace.read[key]) for key in order}
    matrices = tuple(matrix for key in order for matrix in parts.matrices_of(key, reads[key]))
    attention, mlp = (
        SubBlock(
            tuple(key for key, which in parts.halves.items() if which == half),
            tuple(key for key, which in halves.items() if which == half),
        )
        for half in ("attention", "mlp")
    )
    return Block(
        index, name, module, matrices, attention, mlp, _is_parallel(parts, trace), _children(parts, halves, trace)
    )


def _children(parts: _Parts, halves: dict[str, str], trace: _Trace) -> tuple[Child, ...]:
    """What the block's own forward calls. A container that is never called itself (a ModuleDict) stands aside for what
    it holds.
    """
    entered = list(dict.fromkeys(trace.entered))
    names = [key for key in entered if not any(key.startswith(f"{other}.") for other in entered)]
    half = {key: parts.half(key) or halves[key] for key in names}
    first = next(key for key in names if half[key] == "mlp")
    handed = {
        key
        for key in names
        if half[key] == "attention" and key in trace.wrote and trace.wrote[key] == trace.read.get(first)
    }
    widths = {key: trace.outputs[key].shape[-1] if key in trace.outputs else 0 for key in names}
    return tuple(Child(key, half[key], widths[key], trace.returns[key], key in handed) for key in names)


def _norm_halves(name: str, parts: _Parts, trace: _Trace) -> dict[str, str]:
    """Which half each norm serves, in the order they run.

    Norms that stand between the halves are told apart by when they run. One that runs first belongs to the attention,
    one that runs last to the MLP. Between the two: a single norm prepares the MLP (pre-norm), unless none ran before
    the attention and one closes the MLP (post-norm); of two, the first closes the attention and the second prepares the
    MLP (sandwich).
    """
    order = list(dict.fromkeys(trace.order))
    first = {
        half: min(order.index(key) for key in parts.maps if parts.half(key) == half) for half in ("attention", "mlp")
    }
    loose = [key for key in order if key in parts.norms and parts.half(key) is None]
    before = [key for key in loose if order.index(key) < min(first.values())]
    last = max(order.index(key) for key in parts.maps if parts.half(key) == "mlp")
    closed = any(order.index(key) > last for key in loose)
    between = [key for key in loose if min(first.values()) < order.index(key) < max(first.values())]
    if first["mlp"] < first["attention"] or len(between) > 2 or len(before) > 2:
        raise UnsupportedModel(
            f"{name}: ran {order}; cannot tell which of the norms {loose} serve the attention and which the MLP"
        )
    halves = {
        key: parts.half(key) or ("attention" if order.index(key) < first["attention"] else "mlp")
        for key in order
        if key in parts.norms
    }
    if len(before) == 2:  # parallel halves with a norm each, both run at the start: told apart by who reads them
        readers = trace.inputs[next(key for key in order if parts.half(key) == "mlp")].data_ptr()
        halves |= {key: "mlp" if trace.outputs[key].data_ptr() == readers else "attention" for key in before}
    elif len(between) == 2 or (between and not before and closed):
        halves[between[0]] = "attention"
    return halves


def _is_parallel(parts: _Parts, trace: _Trace) -> bool:
    """Whether the MLP half reads the block's input, or a norm that ran before the attention."""
    order = list(dict.fromkeys(trace.order))
    attention = min(order.index(key) for key in parts.maps if parts.half(key) == "attention")
    early = [trace.outputs[key] for key in order[:attention]]
    if trace.hidden is not None:
        early.append(trace.hidden)
    start = min(order.index(key) for key in parts.maps if parts.half(key) == "mlp")
    readers = [
        key
        for key in order[attention:]
        if parts.half(key) == "mlp" or (parts.half(key) is None and order.index(key) < start)
    ]
    pointers = {tensor.data_ptr() for tensor in early}
    return any(trace.inputs[key].data_ptr() in pointers for key in readers)
