"""Writing a streamed model: part by part into files of their own, with the index by which any reader finds them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from analysis.models.dtypes import dtype_word
from analysis.models.format import Format
from analysis.models.hub import weight_files
from analysis.models.load import load_model
from analysis.models.placement import Skeleton, skeleton
from analysis.models.tensor_file import TensorFile

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_UNSPLIT = "1000TB"


def write_parts(model: "PreTrainedModel", folder: Path, written: Format) -> None:
    """What `save_pretrained` writes of a streamed model, one part in memory at a time: config, weights in one file for
    what lies outside of the blocks and one for each block, and their index.
    """
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    parts = cast(Skeleton, skeleton(model))
    count = 1 + len(parts.blocks)
    files = [folder / f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    with parts.outside.held():
        model.save_pretrained(folder, state_dict=written.cast_all(parts.outside.state()), max_shard_size=_UNSPLIT)
    weight_files(folder, str(folder))[0].rename(files[0])
    for part, path in zip(parts.blocks, files[1:], strict=True):
        with part.held():
            state = {name: value for name, value in part.state().items() if name not in _left_out(model)}
            state = revert_weight_conversion(model, written.cast_all(state))
            state = {name: value.cpu().contiguous() for name, value in state.items()}
            save_file(state, path, metadata={"format": "pt"})
    places: dict[str, str] = {}
    size = 0
    for path in files:
        file = TensorFile(path)
        places |= dict.fromkeys(file, path.name)
        size += file.nbytes
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def differing_parts(
    model: "PreTrainedModel", written: Format, folder: Path, masks: Mapping[str, Callable[[], Tensor]]
) -> str:
    """What a folder gives back otherwise than it was written, as words; empty where nothing is. It is read as any
    streamed model, part by part.

    masks: by tensor, what gives a mask of the tensor's own shape, True = kept.
    """
    dtype = dtype_word(written.stored)
    again = load_model(str(folder), device="cpu", dtype=dtype, placement="streamed").model
    ours, theirs = cast(Skeleton, skeleton(model)), cast(Skeleton, skeleton(again))
    different = []
    for part, read in zip((*ours.blocks, ours.outside), (*theirs.blocks, theirs.outside), strict=True):
        with part.held(), read.held():
            mine, back = part.state(), read.state()
            for name, value in mine.items():
                if name in masks and (wrong := int(((back[name] != 0) & ~(mask := masks[name]())).sum())):
                    return f"{name}: {wrong} of {int((~mask).sum())} pruned weights are not zero after reading back"
                if name not in back or not torch.equal(
                    written.cast(name, value.cpu()).to(back[name].dtype), back[name]
                ):
                    different.append(name)
            different += [name for name in back if name not in mine]
    return f"{len(different)} tensors differ after reading back: {', '.join(different[:5])}" if different else ""


def _left_out(model: "PreTrainedModel") -> set[str]:
    return set(model._keys_to_ignore_on_save or ())
