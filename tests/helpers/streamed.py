"""A small model in a folder, loaded resident and streamed; what is in memory of a streamed one."""

from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from analysis.models.placement import Part, skeleton


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model's folder by its name in the files."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def in_memory(model: nn.Module) -> list[int]:
    """The blocks of a streamed model whose weights are in memory."""
    parts = skeleton(model)
    return [
        index for index, part in enumerate(parts.blocks) if not any(tensor.is_meta for tensor in part.state().values())
    ]


@contextmanager
def counting(monkeypatch):
    """While open, counts the bytes of parts in memory: gives a dict of what there is `now`, the `most` at once,
    and how often one was read (`reads`).
    """
    count = {"now": 0, "most": 0, "reads": 0}
    take, drop = Part.take, Part.drop

    def size(part: Part) -> int:
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in part.state().values()
            if not tensor.is_meta
        }
        return sum(storages.values())

    def taken(part: Part) -> None:
        before = size(part)
        take(part)
        count["reads"] += part._holders == 1
        count["now"] += size(part) - before
        count["most"] = max(count["most"], count["now"])

    def dropped(part: Part) -> None:
        before = size(part)
        drop(part)
        count["now"] += size(part) - before

    with monkeypatch.context() as patch:
        patch.setattr(Part, "take", taken)
        patch.setattr(Part, "drop", dropped)
        yield count


def same_tables(one, other) -> None:
    """Two results have the same tables to the bit, but for what a run took."""
    for name in one.tables:
        first, second = one.tables[name], other.tables[name]
        if name == "cost":
            keep = ["unit", "stage", "tokens", "trainable_parameters", "solver_memory_mib"]
            first = first.loc[first.stage != "resume", keep].reset_index(drop=True)
            second = second.loc[second.stage != "resume", keep].reset_index(drop=True)
        assert first.equals(second), name


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The same names, dtypes and bits."""
    assert one.keys() == other.keys()
    different = [key for key in one if one[key].dtype != other[key].dtype or not torch.equal(one[key], other[key])]
    assert not different
