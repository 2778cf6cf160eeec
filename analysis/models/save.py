"""Saving a pruned model so that others can load it, with its sparsity proven before and after."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from analysis import storage
from analysis.errors import ModelError, SparsityError, UsageError
from analysis.models.anatomy import Anatomy, anatomy, evaluating
from analysis.models.hub import is_shrunk
from analysis.models.load import embedding_rows, load_model, unwrapped
from analysis.models.quiet import caching, quiet
from analysis.models.replay import last_hidden, tolerance_for
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
    for name, mask in masks.items():
        if name not in matrices:
            raise SparsityError(
                f"assert_sparsity: {name!r} is no prunable matrix of this {parts.model_type}; it has"
                f" {', '.join(list(matrices)[:3])}, ..."
            )
        weight = matrices[name].weight()
        if mask.dtype != torch.bool or mask.shape != weight.shape:
            raise SparsityError(
                f"assert_sparsity: the mask of {name} is {mask.dtype} {tuple(mask.shape)}, its weight is"
                f" {tuple(weight.shape)}; needed is a bool mask (out, in)"
            )
        wrong = int(((weight != 0) & ~mask.to(weight.device)).sum())
        if wrong:
            raise SparsityError(f"assert_sparsity: {name}: {wrong} of {int((~mask).sum())} pruned weights are not zero")


def save_model(model: nn.Module, tokenizer, folder: Path | str, masks: Mapping[str, Tensor]) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, and prove it: masks hold in `model`, hold again
    in the model read back, and every tensor read back is bit-equal to the one written.

    masks: as in `assert_sparsity`. The folder appears only once all is proven; an earlier model in its place is
    replaced. Raises SparsityError where a promise is broken, UsageError for a path that is a file or a folder that
    holds something else.
    """

    def prove(folder: Path) -> None:
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        again = load_model(str(folder), device="cpu", dtype=dtype).model
        assert_sparsity(again, masks)
        if different := _differing(model, again):
            raise SparsityError(f"save_model: {different}")

    assert_sparsity(model, masks)
    return _save("save_model", unwrapped(model), tokenizer, Path(folder), prove)


def _save(
    verb: str, model: "PreTrainedModel", tokenizer, folder: Path, prove: Callable[[Path], None], plain: bool = True
) -> Path:
    """Write a model into a temporary folder, `prove` what is read back from it, and put it in place.

    plain: as `from_pretrained` reads it, else with a manifest. Raises UsageError for a path that is a file or holds
    something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{verb}: {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UsageError(f"{verb}: {folder} is not empty and holds no model; give a new folder")
    with storage.replacing_folder(folder) as fresh:
        _write(model, tokenizer, fresh, plain)
        prove(fresh)
    return folder


def _write(model: "PreTrainedModel", tokenizer, folder: Path, plain: bool) -> None:
    with quiet(), caching(model):
        if plain:
            model.save_pretrained(folder)
        else:
            _write_shrunk(model, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def _differing(model: nn.Module, again: nn.Module) -> str:
    """Which tensors of a model read back are not those of `model`, as words; empty where all are."""
    written, read = model.state_dict(), again.state_dict()
    different = sorted(written.keys() ^ read.keys()) or [
        key for key, value in written.items() if not torch.equal(value.cpu(), read[key].cpu())
    ]
    return f"{len(different)} tensors differ after reading back: {', '.join(different[:5])}" if different else ""


def save_shrunk(model: nn.Module, tokenizer, folder: Path | str) -> Path:
    """Write a shrunk model: as an ordinary model where its config describes it, else with the manifest that
    `load_shrunk` reads.

    Proven before the folder appears: read back, every tensor is bit-equal and so are the last hidden states. An earlier
    model in its place is replaced. Raises UsageError for a path that is a file or holds something else, ModelError
    where what is read back differs.
    """
    network = unwrapped(model)
    return _save("save_shrunk", network, tokenizer, Path(folder), partial(_prove_shrunk, network), is_plain(network))


def is_plain(model: nn.Module) -> bool:
    """Whether the model's config describes it, so that `from_pretrained` loads what `save_pretrained` writes."""
    empty = empty_model(type(model), model.config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return empty is not None and {name: value.shape for name, value in empty.state_dict().items()} == shapes


def _write_shrunk(model: "PreTrainedModel", folder: Path) -> None:
    from safetensors.torch import save_model

    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = next(model.parameters()).dtype
    config.save_pretrained(folder)
    save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    blocks = [asdict(block) for block in widths(model)]
    (folder / MANIFEST).write_text(
        json.dumps({"version": VERSION, "blocks": blocks}, indent=1) + "\n", encoding="utf-8"
    )


def _prove_shrunk(model: "PreTrainedModel", folder: Path) -> None:
    """Raise ModelError unless the folder gives back the same tensors and the same hidden states."""
    if is_shrunk(folder):
        again = load_shrunk(folder)
    else:
        with quiet():
            again = type(model).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=next(model.parameters()).dtype
            )
    if different := _differing(model, again):
        raise ModelError(f"save_shrunk: {different}")
    ids = torch.arange(16).view(2, 8) % embedding_rows(model)
    again.to(next(model.parameters()).device)
    with evaluating(model), evaluating(again):
        hidden, read_back = last_hidden(model, ids), last_hidden(again, ids)
    allowed = tolerance_for(next(model.parameters()).dtype)
    if not (error := float((hidden - read_back).norm() / hidden.norm())) <= allowed:
        raise ModelError(
            f"save_shrunk: the model read back differs from the one written by {error:.3g} (allowed {allowed:.1g})"
        )
