"""Saving a pruned model so that others can load it, with its sparsity proven before and after."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch import BoolTensor, nn

from analysis.errors import SparsityError, UsageError
from analysis.models.anatomy import Anatomy, anatomy
from analysis.models.load import caching, load_model, quiet


def assert_sparsity(model: nn.Module | Anatomy, masks: dict[str, BoolTensor]) -> None:
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


def save_model(model: nn.Module, tokenizer, folder: Path | str, masks: dict[str, BoolTensor]) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, and prove it: masks hold in `model`, hold again
    in the model read back, and every tensor read back is bit-equal to the one written.

    masks: as in `assert_sparsity`. The folder appears only once all is proven; an earlier model in its place is
    replaced. Raises SparsityError where a promise is broken, UsageError for a path that is a file or a folder that
    holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"save_model: {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UsageError(f"save_model: {folder} is not empty and holds no model; give a new folder")
    assert_sparsity(model, masks)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        fresh = Path(made) / "model"
        _write(model, tokenizer, fresh)
        _prove(model, fresh, masks)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    return folder


def _write(model: nn.Module, tokenizer, folder: Path) -> None:
    with quiet(), caching(model):
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def _prove(model: nn.Module, folder: Path, masks: dict[str, BoolTensor]) -> None:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    again = load_model(str(folder), device="cpu", dtype=dtype).model
    assert_sparsity(again, masks)
    written, read = model.state_dict(), again.state_dict()
    different = sorted(written.keys() ^ read.keys()) or [
        key for key, value in written.items() if not torch.equal(value.cpu(), read[key])
    ]
    if different:
        raise SparsityError(
            f"save_model: {len(different)} tensors differ after reading {folder.name} back: {', '.join(different[:5])}"
        )
