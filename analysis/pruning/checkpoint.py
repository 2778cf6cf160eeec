"""Interrupted is not lost: the state of a walk after each finished visit, one file per visit.

A file is written under a temporary name, flushed and renamed, and carries a checksum of its tensors. A folder left by
another model, recipe or data, and files from the first torn or altered one on, are removed and their visits done again.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from analysis import storage
from analysis.models.save import assert_sparsity
from analysis.pruning.solvers import _restart_sparse
from analysis.pruning.state import Walk
from analysis.reconstruction.schedule import Visit
from analysis.schema import CALIBRATION
from analysis.streams.streams import advance
from analysis.windows import Windows


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, dtypes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class Finished:
    """What one visit left: tensors (parameters of its blocks and masks, by name) and table rows by table name."""

    tensors: dict[str, Tensor]
    rows: dict[str, list[dict]]


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one walk. `identity` is a digest of everything the walk's result depends on."""

    folder: Path
    identity: str

    def _file(self, index: int) -> Path:
        return self.folder / f"visit-{index:04d}.safetensors"

    def finished(self) -> list[Finished]:
        """The finished visits in order, verified."""
        done: list[Finished] = []
        while self._file(len(done)).exists() and (visit := self._read(self._file(len(done)))) is not None:
            done.append(visit)
        if self.folder.is_dir():
            kept = {self._file(index) for index in range(len(done))}
            for file in self.folder.glob("*visit-*"):
                if file not in kept:
                    file.unlink()
        return done

    def _read(self, file: Path) -> Finished | None:
        try:
            with safe_open(file, framework="pt") as opened:
                meta = opened.metadata()
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        except (SafetensorError, OSError):
            return None
        if meta.get("identity") != self.identity or meta.get("tensors") != tensors_digest(tensors):
            return None
        return Finished(tensors, json.loads(meta["rows"]))

    def write(self, index: int, tensors: dict[str, Tensor], rows: dict[str, list[dict]]) -> None:
        """Keep one finished visit. Raises StoreError when the folder cannot be written (a full disk loses nothing)."""
        file = self._file(index)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        meta = {"identity": self.identity, "tensors": tensors_digest(tensors), "rows": json.dumps(rows)}
        remedy = "finished visits before it are kept, free space and run again"
        with storage.explained(f"checkpoint {file}: cannot be written", remedy), storage.replacing(file) as partial:
            save_file(tensors, partial, metadata=meta)


def _visit_tensors(walk: Walk, visit: Visit) -> dict[str, Tensor]:
    """What a checkpoint keeps of one visit: the parameters it may have changed and the masks of its blocks."""
    blocks = [walk.pruned.blocks[index] for index in visit.blocks]
    if walk.recipe.solver.name == "retrain":
        tensors = dict(walk.model.named_parameters())
    else:
        tensors = {f"{block.name}.{name}": p for block in blocks for name, p in block.module.named_parameters()}
    masks = {f"mask:{name}": walk.masks[name] for index in visit.blocks for name in walk.names(index)}
    consumers = [pair.name for pair in walk.found or () if pair.block in visit.blocks]
    whole = {f"structures:{name}": walk.structures[name] for name in consumers} | {
        f"chosen:{name}": mask for name, mask in walk.chosen.items()
    }
    return tensors | masks | whole


def _resume(walk: Walk, keeper: Checkpoint, plan: list[Visit]) -> int:
    """Put finished visits back in place and bring the streams to where they were; returns how many there were."""
    finished = keeper.finished()
    parameters = dict(walk.model.named_parameters())
    for state in finished[: len(plan)]:
        for name, tensor in state.tensors.items():
            kind, _, of = name.rpartition(":")
            if kind:
                {"mask": walk.masks, "structures": walk.structures, "chosen": walk.chosen}[kind][of] = tensor
            else:
                parameters[name].data.copy_(tensor)
        for table, rows in state.rows.items():
            walk.rows[table] += rows
    if finished:
        assert_sparsity(walk.pruned, walk.masks)
    if finished and walk.recipe.solver.name == "retrain":
        _restart_sparse(walk)
    position = plan[len(finished) - 1].advance_to if finished else 0
    with walk.meter.stage(-1, "resume"):
        for index in range(position):
            for streams in walk.splits:
                if streams.apart:
                    advance(
                        [walk.dense.blocks[index].module], index, streams.recording, streams.dense, out=streams.dense
                    )
                advance(
                    [walk.pruned.blocks[index].module], index, streams.recording, streams.sparse, out=streams.sparse
                )
    return len(finished)


def _identity(
    walk: Walk, model: nn.Module, fingerprint: str | None, calibration: Windows, held_out: dict[str, Windows]
) -> str:
    """Digest of everything the result depends on."""
    weights = fingerprint or tensors_digest(dict(model.named_parameters()))
    data = {label: w.digest() for label, w in {CALIBRATION: calibration, **held_out}.items()}
    parts = [
        walk.recipe.digest(),
        weights,
        str(next(model.parameters()).dtype),
        data,
        calibration.added,
        str(walk.precision),
        walk.measure,
    ]
    return storage.identity_digest(parts)
