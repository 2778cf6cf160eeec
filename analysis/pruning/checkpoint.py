"""Interrupted is not lost: the state of a run after each finished visit, one file per visit.

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
from torch import Tensor

from analysis import storage
from analysis.models.save import assert_sparsity
from analysis.pruning.solvers import REPAIRS, SOLVERS
from analysis.pruning.state import State
from analysis.reconstruction.schedule import Visit
from analysis.streams.streams import advance_streams


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, dtypes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Finished:
    """What one visit left: tensors (parameters of its blocks and masks, by name) and table rows by table name."""

    tensors: dict[str, Tensor]
    rows: dict[str, list[dict]]


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one run. `identity` is a digest of everything the run's result depends on."""

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


def visit_tensors(state: State, visit: Visit) -> dict[str, Tensor]:
    """What a checkpoint keeps of one visit: the parameters that repair and solver may have changed, and masks."""
    recipe = state.recipe
    parameters = REPAIRS[recipe.repair.name].keeps(state, visit) | SOLVERS[recipe.solver.name].keeps(state, visit)
    masks = {f"mask:{name}": state.masks[name] for index in visit.blocks for name in state.names(index)}
    structures = {f"structures:{s.name}": state.structure_masks[s.name] for s in state.structures_in(visit)}
    chosen = {f"chosen:{name}": mask for name, mask in state.chosen.items()}
    return parameters | masks | structures | chosen


def resume(state: State, checkpoint: Checkpoint) -> int:
    """Put finished visits back in place and bring the streams to where they were; returns how many there were."""
    finished = checkpoint.finished()[: len(state.plan)]
    parameters = dict(state.model.named_parameters())
    masks = {"mask": state.masks, "structures": state.structure_masks, "chosen": state.chosen}
    for visit in finished:
        for key, tensor in visit.tensors.items():
            kind, _, name = key.rpartition(":")
            if kind:
                masks[kind][name] = tensor
            else:
                parameters[name].data.copy_(tensor)
    if finished:
        assert_sparsity(state.pruned, state.masks)
        REPAIRS[state.recipe.repair.name].resume(state)
        SOLVERS[state.recipe.solver.name].resume(state)
    with state.meter.stage(-1, "resume"):
        for index in range(state.plan[len(finished) - 1].advance_to if finished else 0):
            dense, pruned = state.dense.blocks[index].module, state.pruned.blocks[index].module
            for streams in state.splits:
                advance_streams(streams, dense, pruned, index)
    for visit in finished:
        for table, rows in visit.rows.items():
            state.rows[table] += rows
    return len(finished)


def identity(state: State) -> str:
    """Digest of everything the result depends on."""
    model, calibration = state.dense_model.model, state.calibration.recording.windows
    parts = [
        state.recipe.digest(),
        state.dense_model.fingerprint or tensors_digest(dict(model.named_parameters())),
        str(next(model.parameters()).dtype),
        {streams.label: streams.recording.windows.digest() for streams in state.splits},
        calibration.added,
        str(state.precision),
        state.measure,
    ]
    return storage.identity_digest(parts)
