"""Models without some of their blocks: modules that hand hidden states on in the place of blocks, or blocks cut out."""

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModel, first_line
from analysis.models.anatomy import Anatomy, evaluating, run_body, some_tokens
from analysis.models.hooks import hooked
from analysis.models.replay import last_hidden, random_windows, tolerance_for
from analysis.models.widths import empty_model

NUMBERS = ("layer_idx", "layer_id", "layer_number")  # what modules call the place of their block
_SAID = (bool, int, float, str, type(None))


class Passing(nn.Module):
    """Stands in a model where a block was: hands the hidden states on as they are, and has no weights; with a `ghost`,
    a linear map of the residual stream, it hands on what that makes of them.

    form: what the block returned, the length of a tuple or 0 for a tensor. What a model asks its blocks beside (the
    kind of their attention) is answered as `block` would.
    """

    def __init__(self, block: nn.Module, form: int):
        super().__init__()
        self.__dict__["block"] = block  # no submodule: its weights are none of the model's
        self.form = form
        self.ghost: nn.Linear | None = None
        self.eval()

    def haunt(self, width: int, like: Tensor) -> None:
        """Give it a ghost, the identity of `width` hidden units so far, in the dtype and on the device of a tensor."""
        self.ghost = nn.Linear(width, width, bias=False, dtype=like.dtype, device=like.device).requires_grad_(False)
        nn.init.eye_(self.ghost.weight)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden = hidden if self.ghost is None else self.ghost(hidden)
        return (hidden, *[None] * (self.form - 1)) if self.form else hidden

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "block" not in self.__dict__:
                raise
            return getattr(self.__dict__["block"], name)


def take_out(model: nn.Module, parts: Anatomy, gone: Collection[int]) -> Anatomy:
    """Put a `Passing` in the place of the blocks `gone`, in the model and in what is given back of its anatomy. The
    matrices that this names are still those of the blocks, which `put_back` returns to their places.
    """
    layers, forms = _layers(model, parts.path), _forms(model, parts) if gone else []
    blocks = list(parts.blocks)
    for index in gone:
        layers[index] = Passing(layers[index], forms[index])
        blocks[index] = replace(blocks[index], module=layers[index])
    return replace(parts, blocks=tuple(blocks))


def put_back(model: nn.Module, parts: Anatomy, gone: Collection[int]) -> Anatomy:
    """Undo `take_out`."""
    layers, blocks = _layers(model, parts.path), list(parts.blocks)
    for index in gone:
        layers[index] = cast(Passing, layers[index]).__dict__["block"]
        blocks[index] = replace(blocks[index], module=layers[index])
    return replace(parts, blocks=tuple(blocks))


@contextmanager
def without_blocks(model: nn.Module, parts: Anatomy, gone: Collection[int]) -> Iterator[None]:
    """While open the model runs without the blocks `gone`; no weight is touched."""
    taken = take_out(model, parts, gone)
    try:
        yield
    finally:
        put_back(model, taken, gone)


def _layers(model: nn.Module, path: str) -> nn.ModuleList:
    return cast(nn.ModuleList, model.get_submodule(path))


def _forms(model: nn.Module, parts: Anatomy) -> list[int]:
    """What each block returns: the length of a tuple, 0 for a tensor."""
    forms: list[int] = []
    see = lambda module, args, output: forms.append(len(output) if isinstance(output, tuple | list) else 0)
    with hooked(after=[(block.module, see) for block in parts.blocks]), evaluating(model):
        run_body(model, some_tokens(2))
    return forms


# --- cut out ---------------------------------------------------------------------------------------------------------


def cut_blocks(model: nn.Module, path: str, gone: Collection[int], *, shared: bool = False) -> nn.Module:
    """A copy of a model without the blocks `gone` of the list `path`, as its config then says: those that stay are
    numbered anew, the number of layers and the lists that its config has one entry a layer of are as long as they are.

    Where a model runs with a `Passing` in the place of a block, or with one whose halves add nothing, the copy computes
    the same; `check_cut` proves it. shared: its weights are those of `model` itself.
    """
    layers = _layers(model, path)
    left_out = set(gone)
    share = [model] if shared else [vars(layers[index]).get("block", layers[index]) for index in left_out]
    memo: dict[int, Any] = {id(t): t for m in share for t in (*m.parameters(), *m.buffers())}
    small = copy.deepcopy(model, memo)
    kept = [block for index, block in enumerate(_layers(small, path)) if index not in left_out]
    holder, _, name = path.rpartition(".")
    setattr(small.get_submodule(holder), name, nn.ModuleList(kept))
    for number, block in enumerate(kept):
        for module in block.modules():
            for word in NUMBERS:
                if isinstance(vars(module).get(word), int):
                    setattr(module, word, number)
    _cut_config(cast(Any, small).config.get_text_config(), len(layers), left_out)
    return small


def _cut_config(config: Any, blocks: int, gone: Collection[int]) -> None:
    """Shorten what a config says layer by layer: lists of `blocks` entries under a name with "layer" in it."""
    for key, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == blocks and "layer" in key:
            left = [entry for index, entry in enumerate(value) if index not in gone]
            vars(config)[key] = type(value)(left)
    if isinstance(getattr(config, "attention_types", None), list):  # GPT-Neo's, from which its list of layers is made
        config.attention_types = [[list(config.attention_layers), 1]]
    config.num_hidden_layers = blocks - len(gone)


def check_cut(model: nn.Module, parts: Anatomy, gone: Collection[int]) -> None:
    """Raise UnsupportedModel where a model without the blocks `gone` is none that its config can describe, or computes
    something else than `model` with these blocks handing their input on. No weight is copied.
    """
    said = f"{parts.model_type}: without the blocks {', '.join(map(str, sorted(gone)))}"
    remedy = "; keep others (skip=...), or remove heads, neurons or halves"
    ids = random_windows(model, count=1).ids
    try:
        small = cut_blocks(model, parts.path, gone, shared=True)
        with evaluating(model), without_blocks(model, parts, gone):
            expected = last_hidden(model, ids)
        with evaluating(small):
            error = float((last_hidden(small, ids) - expected).norm() / expected.norm())
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # whatever the family's forward makes of fewer blocks
        raise UnsupportedModel(f"{said} it cannot run ({first_line(problem)}){remedy}") from problem
    if not error <= (allowed := tolerance_for(next(model.parameters()).dtype)):
        raise UnsupportedModel(
            f"{said} a smaller model differs from this one by {error:.3g} (allowed {allowed:.1g}): what a block"
            f" computes depends on its number{remedy}"
        )
    if different := _undescribed(small, parts.path):
        raise UnsupportedModel(f"{said} its config describes another model: {different}{remedy}")


def _undescribed(model: nn.Module, path: str) -> str:
    """The first thing in which a model's blocks are not those that its config makes; nothing where they are."""
    built = empty_model(type(model), model.config)
    if built is None:
        return f"no {type(model).__name__} can be made of it"
    ours, theirs = (list(_layers(one, path)) for one in (model, built))
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        names = [dict(block.named_modules()) for block in (one, other)]
        if names[0].keys() != names[1].keys():
            return f"{path}.{place} has {', '.join(sorted(names[0].keys() ^ names[1].keys()))} in one of them alone"
        for name, module in names[0].items():
            mine, made = _told(module), _told(names[1][name])
            for key in sorted(mine.keys() | made.keys()):
                if mine.get(key) != made.get(key):
                    where = f"{path}.{place}.{name}".rstrip(".")
                    return f"{key} of {where} is {mine.get(key)}, by the config {made.get(key)}"
    return ""


def _told(module: nn.Module) -> Mapping[str, Any]:
    """What decides how a module runs, as far as it is a number or a word, and the shapes of its own tensors."""
    said = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and isinstance(value, _SAID)
    }
    tensors: list[tuple[str, Tensor]] = list(module.named_parameters(recurse=False))
    return said | {"kind": type(module).__name__} | {name: tuple(tensor.shape) for name, tensor in tensors}
