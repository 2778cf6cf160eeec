"""Where the weights of a model are: in memory (`resident`), or in its files while nobody needs them (`streamed`).

A streamed model is a skeleton, its parameters on the meta device. Its parts, each block and all that lies outside of
the blocks, are in memory only while somebody holds them:

    with held(block.module):
        ...

Of a resident model there is nothing to hold, so whoever works on blocks need not know which it is. A block that nobody
holds takes its weights for the time of one forward: the whole model still runs, one block in memory at a time. What
lies outside of the blocks is in memory but for `away`.

Tensors come through transformers' own conversion: names and shapes in memory may differ from those in the files.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.models.anatomy import find_blocks
from analysis.models.held import lend
from analysis.models.hooks import replace_forward
from analysis.models.quiet import quiet
from analysis.models.tensor_file import Stored, TensorFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_utils import LoadStateDictConfig

Check = Callable[[Mapping[str, Tensor], str], None]
"""check(tensors by name in the model, what is wrong with them or ""): raises ModelError for weights that are none."""

_SKELETON = "streamed_from"


class Part:
    """Some weights of a streamed model: those of one block, or all outside of the blocks.

    model   the skeleton they belong to; `shared`: more models that have the very same tensors
    names   of parameters and buffers, in the model
    plain   where they lie, by their names in the model
    mixed   where those lie that transformers makes of others, by the others' names in the files
    next    the part that is needed after this one, whose bytes are called for while this one is in memory
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        names: Sequence[str],
        plain: Mapping[str, Stored],
        mixed: Mapping[str, Stored],
        load: "LoadStateDictConfig",
        check: Check | None = None,
    ):
        self.model, self.names, self.plain, self.mixed = model, tuple(names), dict(plain), dict(mixed)
        self.load, self.check = load, check
        self.shared: list[PreTrainedModel] = []
        self.next: Part | None = None
        self._absent = {name: _tensor(model, name) for name in self.names}
        self._holders = 0

    def __deepcopy__(self, memo: dict) -> "Part":
        raise UsageError("copy.deepcopy: a streamed model cannot be copied; load it resident (placement=)")

    @contextmanager
    def held(self) -> Iterator[None]:
        """While open, the weights are in memory."""
        self.take()
        try:
            yield
        finally:
            self.drop()

    def take(self) -> None:
        """Hold the weights until `drop`."""
        if not self._holders:
            try:
                self._read()
            except BaseException:
                self._put(self._absent)
                raise
        self._holders += 1

    def drop(self) -> None:
        """Hold them no more; what was changed and not kept is lost."""
        self._holders -= 1
        if not self._holders:
            self._put(self._absent)

    def state(self) -> dict[str, Tensor]:
        """The tensors as they are in the model."""
        return {name: _tensor(self.model, name) for name in self.names}

    def keep(self, written: Mapping[str, Stored]) -> None:
        """From now on read these tensors, by their names in the model, from where they were written."""
        self.plain |= {name: written[name] for name in self.names if name in written}
        if len(self.plain) == len(self.names):
            self.mixed = {}

    def expect(self) -> None:
        """Call for the bytes on the disk."""
        for stored in (*self.mixed.values(), *self.plain.values()):
            stored.file.expect(stored.name)

    def copied(self, model: "PreTrainedModel") -> "Part":
        """The same weights for a copy of the skeleton."""
        return Part(model, self.names, self.plain, self.mixed, self.load)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _read(self) -> None:
        problems = self._convert() if self.mixed else []
        for name, stored in self.plain.items():
            like, value = self._absent[name], stored[...].to(self.load.device_map[""], self._absent[name].dtype)  # type: ignore[index]
            if value.shape != like.shape:
                problems.append(f"{name}: {tuple(value.shape)}, not {tuple(like.shape)}")
            _put(
                self.model, name, nn.Parameter(value, requires_grad=False) if isinstance(like, nn.Parameter) else value
            )
        problems += self._tie()
        for tensor in self.state().values():
            tensor.requires_grad_(False)
        if self.check is not None:
            self.check(self.state(), ", ".join(problems))
            self.check = None
        self._put(self.state(), self.shared)
        if self.next is not None:
            self.next.expect()

    def _convert(self) -> list[str]:
        """Let transformers make what it makes of several tensors; returns what went wrong."""
        from transformers.core_model_loading import convert_and_load_state_dict_in_model

        with quiet():
            report, _ = convert_and_load_state_dict_in_model(self.model, cast(Any, self.mixed), self.load)
        return [*map(str, report.conversion_errors.values()), *map(str, report.mismatched_keys)]

    def _tie(self) -> list[str]:
        """Tie what the config says is one tensor, as transformers does, by what the files lack; returns the names that
        are left without a tensor.
        """
        tied = self.model.all_tied_weights_keys
        if set(self.names) & {*tied.keys(), *tied.values()}:
            with quiet():
                self.model.tie_weights(missing_keys=set(self._lacking()), recompute_mapping=False)
        return self._lacking()

    def _lacking(self) -> list[str]:
        return [name for name, tensor in self.state().items() if tensor.is_meta]

    def _put(self, tensors: Mapping[str, Tensor], models: "Iterable[PreTrainedModel] | None" = None) -> None:
        for model in (self.model, *self.shared) if models is None else models:
            for name, tensor in tensors.items():
                _put(model, name, tensor)


@dataclass(frozen=True, eq=False)
class Skeleton:
    """The parts of a streamed model: its blocks in order, and what lies outside of them."""

    blocks: tuple[Part, ...]
    outside: Part

    def __deepcopy__(self, memo: dict) -> "Skeleton":
        return copy.deepcopy(self.outside, memo)  # type: ignore[return-value]  # raises


def skeleton(model: nn.Module) -> Skeleton | None:
    """The parts of a streamed model; None of a resident one."""
    return model.__dict__.get(_SKELETON)


def placement(model: nn.Module) -> str:
    """One of `load.PLACEMENTS`."""
    return "resident" if skeleton(model) is None else "streamed"


@contextmanager
def away(model: nn.Module) -> Iterator[None]:
    """While open, what lies outside of a streamed model's blocks is in its files too."""
    if (parts := skeleton(model)) is None:
        yield
        return
    parts.outside.drop()
    try:
        yield
    finally:
        parts.outside.take()


def stream_model(
    kind: Any,
    files: Sequence[Path],
    folder: Path,
    config: "PreTrainedConfig",
    dtype: torch.dtype,
    device: str,
    *,
    judge: Callable[["PreTrainedModel", Mapping[str, Any]], None],
    check: Check,
) -> "PreTrainedModel":
    """A model of the config whose weights stay in its files: transformers makes it as it would any other, given shapes
    in the place of tensors.

    kind: the auto class that reads it. judge: is given the model and what `from_pretrained` says of the names in the
    files. check: is given the weights of each part when it is first in memory. Errors are those of these two and of
    `from_pretrained`; UnsupportedModel where no one stack of blocks is found.
    """
    from transformers.modeling_utils import LoadStateDictConfig

    opened = [TensorFile(path) for path in files]
    stored = {name: Stored(file, name) for file in opened for name in file}
    with torch.device("meta"):
        made = type(kind.from_config(config))
    shapes = {name: _Shape(value.file.shape(name)) for name, value in stored.items()}
    model, report = made.from_pretrained(
        None,
        config=config,
        dtype=dtype,
        state_dict=shapes,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    judge(model, report)
    model.config.name_or_path = str(folder)
    if model.can_generate():
        with suppress(OSError):  # it has none of its own
            model.generation_config = type(model.generation_config).from_pretrained(folder, local_files_only=True)
    for name, buffer in model.named_non_persistent_buffers():
        _put(model, name, buffer.to(device))
    load = LoadStateDictConfig(
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),
        device_map={"": torch.device(device)},
        weight_mapping=model._weight_conversions,
    )
    path, modules = find_blocks(model)
    prefixes = [f"{path}.{index}." for index in range(len(modules))]
    part_of = lambda name: next((index for index, prefix in enumerate(prefixes) if name.startswith(prefix)), -1)
    names: dict[int, list[str]] = {index: [] for index in range(-1, len(modules))}
    for name in model.state_dict():
        names[part_of(name)].append(name)
    plain: dict[int, dict[str, Stored]] = {index: {} for index in names}
    mixed: dict[int, dict[str, Stored]] = {index: {} for index in names}
    for name, (target, converted) in places_of(model, stored).items():
        (mixed if converted else plain)[part_of(target)][name if converted else target] = stored[name]
    parts = {index: Part(model, names[index], plain[index], mixed[index], load, check) for index in names}
    _attach(model, modules, Skeleton(tuple(parts[index] for index in range(len(modules))), parts[-1]))
    parts[-1].take()
    return model


def copy_model(model: nn.Module) -> nn.Module:
    """A copy of a model, without gradients: a deep one of a resident model; of a streamed one another skeleton, whose
    blocks are read from the same files until they are written elsewhere, and which shares what lies outside of them.
    """
    if (parts := skeleton(model)) is None:
        copied = copy.deepcopy(model)
    else:
        network = cast("PreTrainedModel", model)
        path, modules = find_blocks(network)
        shared = {id(tensor): tensor for tensor in (*parts.outside.state().values(), *network.buffers())}
        _detach(network, modules)
        try:
            copied = copy.deepcopy(network, shared)
        finally:
            _attach(network, modules, parts)
        parts.outside.shared.append(copied)
        blocks = tuple(part.copied(copied) for part in parts.blocks)
        _attach(copied, cast(nn.ModuleList, copied.get_submodule(path)), Skeleton(blocks, parts.outside))
    copied.requires_grad_(False).zero_grad(set_to_none=True)
    return copied


def _attach(model: nn.Module, modules: Iterable[nn.Module], parts: Skeleton) -> None:
    model.__dict__[_SKELETON] = parts
    for one, other in pairwise(parts.blocks):
        one.next = other
    for module, part in zip(modules, parts.blocks, strict=True):
        lend(module, part)
        replace_forward(module, _on_demand(module.forward, part))


def _detach(model: nn.Module, modules: Iterable[nn.Module]) -> None:
    del model.__dict__[_SKELETON]
    for module in modules:
        lend(module, None)
        replace_forward(module, None)


def _on_demand(run: Callable[..., Any], part: Part) -> Callable[..., Any]:
    @wraps(run)
    def forward(*args, **kwargs):
        with part.held():
            return run(*args, **kwargs)

    return forward


def places_of(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """What tensors of the files become in the model, by their name in the files (the first, of those that become
    several), and whether that takes more than another name.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    known, prefix = cast("dict[str, Tensor]", model.state_dict()), model.base_model_prefix
    conversions = cast("list[Any]", getattr(model, "_weight_conversions", None) or [])
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    places = {}
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        if target in known:
            places[name] = target, pattern is not None
    return places


class _Shape:
    """Stands for a tensor of a file where transformers asks for it: one of that shape without memory."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def __getitem__(self, index: object) -> "_Shape":
        return self

    def to(self, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(self.shape, dtype=dtype, device="meta")


def _owner(model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a module keeps a parameter or buffer, and by what name."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    return (module._parameters if leaf in module._parameters else module._buffers), leaf


def _tensor(model: nn.Module, name: str) -> Tensor:
    kept, leaf = _owner(model, name)
    return kept[leaf]


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    kept, leaf = _owner(model, name)
    kept[leaf] = tensor
