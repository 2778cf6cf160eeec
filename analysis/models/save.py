"""Saving a pruned model so that others can load it, with its sparsity proven before and after."""

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from analysis import paths, storage
from analysis.errors import ModelError, SparsityError, UsageError
from analysis.models.anatomy import Anatomy, Matrix, anatomy, evaluating
from analysis.models.dtypes import dtype_word
from analysis.models.format import Format, format_of
from analysis.models.held import held
from analysis.models.hub import is_shrunk, weight_files
from analysis.models.load import embedding_rows, load_model, unwrapped
from analysis.models.placement import skeleton
from analysis.models.quiet import caching, quiet
from analysis.models.replay import last_hidden, tolerance_for
from analysis.models.save_parts import differing_parts, write_parts
from analysis.models.uneven import MANIFEST, VERSION, WEIGHTS, load_shrunk
from analysis.models.widths import empty_model, widths

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def assert_sparsity(model: nn.Module | Anatomy, masks: Mapping[str, Tensor]) -> None:
    """Raise SparsityError unless every weight outside its mask is exactly zero.

    model: a model, or its anatomy where that is at hand (taking a model apart runs it once).
    masks: full matrix name ("model.layers.0.self_attn.q_proj") -> (out, in) bool, True = kept. Kept weights may be zero
    by themselves. Also raised for an empty `masks`, a name that is no prunable matrix of the model, and a mask of
    another shape or dtype.
    """
    if not masks:
        raise SparsityError("assert_sparsity: no masks given, so there is nothing pruned to check")
    parts = model if isinstance(model, Anatomy) else anatomy(model)
    matrices = dict(parts.matrices())
    for name in masks:
        if name not in matrices:
            raise SparsityError(
                f"assert_sparsity: {name!r} is no prunable matrix of this {parts.model_type}; it has"
                f" {', '.join(list(matrices)[:3])}, ..."
            )
    for block in parts.blocks:
        full = {f"{block.name}.{matrix.name}": matrix for matrix in block.matrices}
        if masked := full.keys() & masks.keys():
            with held(block.module):
                for name in sorted(masked):
                    _assert_masked(name, full[name].weight(), masks[name])


def _assert_masked(name: str, weight: Tensor, mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise SparsityError(
            f"assert_sparsity: the mask of {name} is {mask.dtype} {tuple(mask.shape)}, its weight is"
            f" {tuple(weight.shape)}; needed is a bool mask (out, in)"
        )
    wrong = int(((weight != 0) & ~mask.to(weight.device)).sum())
    if wrong:
        raise SparsityError(f"assert_sparsity: {name}: {wrong} of {int((~mask).sum())} pruned weights are not zero")


def save_model(
    model: nn.Module, tokenizer, folder: Path | str, masks: Mapping[str, Tensor], written: Format | None = None
) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, and prove it: masks hold in `model`, hold again
    in what is read back, and every tensor read back is bit-equal to the one written, in the dtype it is stored in.

    masks: as in `assert_sparsity`. written: the dtypes of its tensors and the files beside them (`format_of`; None: as
    in memory, none). The folder appears only once all is proven; an earlier model in its place is replaced. Raises
    SparsityError where a promise is broken, NumericalError for a weight that the stored dtype cannot hold, UsageError
    for a path that is none, a file or a folder that holds something else, StoreError where the disk refuses.
    """
    network = unwrapped(model)
    written = written or format_of(network)
    parts = anatomy(network)
    assert_sparsity(parts, masks)

    def prove(folder: Path) -> None:
        for block in parts.blocks:
            for matrix in block.matrices:
                stored.setdefault(f"{block.name}.{matrix.parameter_name}", []).append((block.name, matrix))
        for parameter, parted in stored.items():
            if any(f"{block}.{matrix.name}" in masks for block, matrix in parted):
                proven[parameter] = partial(_stored_mask, masks, parted)
        if different := _differing(network, written, folder, proven):
            raise SparsityError(f"save_model: {different}")

    stored: dict[str, list[tuple[str, Matrix]]] = {}
    proven: dict[str, Callable[[], Tensor]] = {}
    return _save("save_model", network, tokenizer, folder, written, prove)


def _stored_mask(masks: Mapping[str, Tensor], parted: list[tuple[str, Matrix]]) -> Tensor:
    """The mask of a parameter as it lies in the model: of the one matrix that it is, or of those (block name, matrix)
    that are slices of it; a slice without a mask is kept whole.
    """
    first = parted[0][1]
    if first.expert is None:
        mask = masks[f"{parted[0][0]}.{first.name}"].cpu()
        return mask.T if first.transposed else mask
    whole = torch.ones(first.parameter.shape, dtype=torch.bool)
    for block, matrix in parted:
        if (name := f"{block}.{matrix.name}") in masks:
            matrix.part(whole).copy_(masks[name])
    return whole


def save_shrunk(model: nn.Module, tokenizer, folder: Path | str, written: Format | None = None) -> Path:
    """Write a shrunk model: as an ordinary model where its config describes it, else with the manifest that
    `load_shrunk` reads.

    written: as in `save_model`. Proven before the folder appears: every tensor read back is bit-equal to the one
    written, and the model built from the folder gives the same last hidden states on the same weights. An earlier model
    in its place is replaced. Raises as `save_model`, and ModelError where what is read back differs.
    """
    network = unwrapped(model)
    written = written or format_of(network)

    def prove(folder: Path) -> None:
        if different := _differing(network, written, folder, {}):
            raise ModelError(f"save_shrunk: {different}")
        _prove_build(network, folder)

    return _save("save_shrunk", network, tokenizer, folder, written, prove, is_plain(network))


def is_plain(model: nn.Module) -> bool:
    """Whether the model's config describes it, so that `from_pretrained` loads what `save_pretrained` writes."""
    return _describes(model.config, model)


def _describes(config: Any, model: nn.Module) -> bool:
    empty = empty_model(type(model), config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return empty is not None and {name: value.shape for name, value in empty.state_dict().items()} == shapes


def _save(
    verb: str,
    model: "PreTrainedModel",
    tokenizer,
    folder: Path | str,
    written: Format,
    prove: Callable[[Path], None],
    plain: bool = True,
) -> Path:
    """Write a model into a temporary folder, `prove` what is read back from it, and put it in place.

    plain: as `from_pretrained` reads it, else with a manifest. Raises UsageError for what is no path, a file or a
    folder that holds something else, StoreError where the disk refuses.
    """
    folder = paths.expanded(folder)
    with storage.explained(f"{verb} {folder}"):
        if os.path.lexists(folder) and not folder.is_dir():
            raise UsageError(f"{verb}: {folder} is a file, or a link that leads nowhere; give a folder")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
            raise UsageError(f"{verb}: {folder} is not empty and holds no model; give a new folder")
        with storage.replacing_folder(folder) as fresh:
            _write(model, tokenizer, fresh, written, plain)
            prove(fresh)
            _prove_tokenizer(verb, tokenizer, fresh)
    return folder


def _write(model: "PreTrainedModel", tokenizer, folder: Path, written: Format, plain: bool) -> None:
    with quiet(), caching(model):
        if skeleton(model) is not None:
            write_parts(model, folder, written)
        elif plain:
            model.save_pretrained(folder, state_dict=written.state(model))
        else:
            _write_shrunk(model, written, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    written.finish(folder)


def _write_shrunk(model: "PreTrainedModel", written: Format, folder: Path) -> None:
    from safetensors.torch import save_model

    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = written.stored
    config.save_pretrained(folder)
    state: Any = SimpleNamespace(state_dict=lambda: written.state(model))  # all that safetensors asks of a model
    save_model(state, str(folder / WEIGHTS), metadata={"format": "pt"})
    blocks = [asdict(block) for block in widths(model)]
    (folder / MANIFEST).write_text(
        json.dumps({"version": VERSION, "blocks": blocks}, indent=1) + "\n", encoding="utf-8"
    )


def _differing(
    model: "PreTrainedModel", written: Format, folder: Path, masks: Mapping[str, Callable[[], Tensor]]
) -> str:
    """What a folder gives back otherwise than it was written, as words; empty where nothing is.

    masks: by tensor, what gives a mask of the tensor's own shape, True = kept.
    """
    if skeleton(model) is not None:
        return differing_parts(model, written, folder, masks)
    state, different, seen = model.state_dict(), [], set()
    for name, read in _read_back(model, written, folder):
        if name not in state:
            different.append(name)
            continue
        seen.add(state[name].data_ptr())
        if name in masks and (wrong := int(((read != 0) & ~(mask := masks[name]())).sum())):
            return f"{name}: {wrong} of {int((~mask).sum())} pruned weights are not zero after reading back"
        value = state[name].cpu()
        if read.shape != value.shape or not torch.equal(written.cast(name, value).to(read.dtype), read):
            different.append(name)
    different += [name for name, value in state.items() if value.numel() and value.data_ptr() not in seen]
    return f"{len(different)} tensors differ after reading back: {', '.join(different[:5])}" if different else ""


def _read_back(model: "PreTrainedModel", written: Format, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a saved model by its name in the model, one at a time from the files where they go by the same
    names there and the config describes the model; else from the model that the loader makes of them.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    files = weight_files(folder, str(folder))
    names: set[str] = set()
    for path in files:
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if names <= model.state_dict().keys() and (is_shrunk(folder) or _describes(config, model)):
        for path in files:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    yield name, file.get_tensor(name)
    else:
        dtype = dtype_word(written.stored)
        yield from load_model(str(folder), device="cpu", dtype=dtype).model.state_dict().items()


def _prove_tokenizer(verb: str, tokenizer, folder: Path) -> None:
    """Raise ModelError unless the folder gives back the same tokens."""
    from transformers import AutoTokenizer

    if tokenizer is None:
        return
    with quiet():
        again = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if again.get_vocab() != tokenizer.get_vocab():
        raise ModelError(f"{verb}: the tokenizer read back has other tokens than the one written")


def _prove_build(model: "PreTrainedModel", folder: Path) -> None:
    """Raise ModelError unless the model that is built from the folder computes what `model` does, both on the weights
    in memory: its counts of heads and all that no tensor shows are right.
    """
    if is_shrunk(folder):
        again = load_shrunk(folder)
    else:
        with quiet():
            again = type(model).from_pretrained(folder, local_files_only=True, use_safetensors=True)
    again.load_state_dict(model.state_dict(), assign=True)
    again.to(next(model.parameters()))
    ids = torch.arange(16).view(2, 8) % embedding_rows(model)
    with evaluating(model), evaluating(again):
        hidden, read_back = last_hidden(model, ids), last_hidden(again, ids)
    allowed = tolerance_for(next(model.parameters()).dtype)
    if not (error := float((hidden - read_back).norm() / hidden.norm())) <= allowed:
        raise ModelError(
            f"save_shrunk: the model read back differs from the one written by {error:.3g} (allowed {allowed:.1g})"
        )
