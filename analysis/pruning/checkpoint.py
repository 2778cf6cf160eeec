"""Interrupted is not lost: the state of a run after each finished visit, one file per visit.

A file is written under a temporary name, flushed and renamed, and carries a checksum of all it holds and of its place
in the run. Files of another run (model, recipe, data, what a word of the recipe computes, version of torch), and those
from the first torn, altered or misplaced one on, are removed with a warning and their visits done again. A run goes on
with the number of threads it began with.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from analysis import distributed, storage
from analysis.errors import StoreError, UsageError
from analysis.models.held import held
from analysis.models.placement import skeleton
from analysis.models.save import assert_sparsity
from analysis.models.tensor_file import TensorFile
from analysis.paths import expanded
from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.shelf import MASK, shelve
from analysis.pruning.solvers import REPAIRS, SOLVERS
from analysis.pruning.state import State
from analysis.reconstruction.schedule import Visit
from analysis.streams.streams import advance_streams

FIRST = "visit-0000.safetensors"
MOST_THREADS = 4096
P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, dtypes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Finished:
    """What one visit left: tensors (parameters of its blocks and masks, by name; read when they are asked for) and
    table rows by table name.
    """

    tensors: Mapping[str, Tensor]
    rows: dict[str, list[dict]]


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one run. `identity` is a digest of everything the run's result depends on."""

    folder: Path
    identity: str

    def file(self, index: int) -> Path:
        """Where a visit is kept."""
        return self.folder / f"visit-{index:04d}.safetensors"

    def finished(self) -> list[Finished]:
        """The finished visits in order, verified."""
        done: list[Finished] = []
        while (visit := self._read(len(done))) is not None:
            done.append(visit)
        kept = {self.file(index) for index in range(len(done))}
        strange = sorted(set(self.folder.glob("*visit-*")) - kept) if self.folder.is_dir() else []
        with storage.explained(f"checkpoint {self.folder}"):
            for entry in strange:
                storage.remove(entry)
        if any(entry.name.startswith("visit-") for entry in strange):
            log.warning(
                "checkpoint %s: what it holds from visit %d on is torn, altered or of another run (model, recipe, text,"
                " version of a method or of torch); it is done again",
                self.folder,
                len(done),
            )
        return done

    def _read(self, index: int) -> Finished | None:
        """A visit as written, else None."""
        file = self.file(index)
        if not file.is_file():
            return None
        try:
            tensors = TensorFile(file)
            meta = tensors.metadata
        except (SafetensorError, OSError, ValueError):
            return None
        rows, threads = meta.get("rows", ""), meta.get("threads", "")
        if meta.get("identity") != self.identity or meta.get("sha256") != self._digest(index, tensors, rows, threads):
            return None
        return Finished(tensors, storage.parse_json(rows))

    def write(self, index: int, tensors: dict[str, Tensor], rows: dict[str, list[dict]]) -> None:
        """Keep one finished visit. Raises StoreError when the folder cannot be written (a full disk loses nothing)."""
        file = self.file(index)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text, threads = json.dumps(rows), str(torch.get_num_threads())
        meta = {"identity": self.identity, "rows": text, "threads": threads}
        meta["sha256"] = self._digest(index, tensors, text, threads)
        remedy = "finished visits before it are kept, free space and run again"
        with storage.explained(f"checkpoint {file}: cannot be written", remedy), storage.replacing(file) as partial:
            save_file(tensors, partial, metadata=meta)

    def _digest(self, index: int, tensors: Mapping[str, Tensor], rows: str, threads: str) -> str:
        """sha256 over all that a visit's file holds, and its place."""
        return storage.sha256(json.dumps([self.identity, index, threads, rows, tensors_digest(tensors)]).encode())


def kept_threads(folder: Path | None) -> int | None:
    """The number of threads that a run with this checkpoint folder began with; None where none is kept. Raises
    StoreError where the folder is a file.
    """
    try:
        folder = None if folder is None else expanded(folder)
    except UsageError:  # no path, so nothing is kept there; `prune` refuses it
        return None
    if folder is None:
        return None
    with storage.explained(f"checkpoint {folder}"):
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"checkpoint {folder}: is no folder; name another, or remove what is there")
        if not (file := folder / FIRST).is_file():
            return None
    try:
        with safe_open(file, framework="pt") as opened:
            threads = (opened.metadata() or {}).get("threads", "")
    except (SafetensorError, OSError, ValueError):
        return None
    return int(threads) if threads.isdecimal() and len(threads) < 5 and 1 <= int(threads) <= MOST_THREADS else None


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """torch computes with so many threads in the body (None: as many as before)."""
    before = torch.get_num_threads()
    if threads in (None, before):
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_kept_threads(run: Callable[P, R]) -> Callable[P, R]:
    """`run`, which takes a folder as `checkpoint`, on the number of threads that its checkpoint began with: sums in
    another order have other bits.
    """

    @functools.wraps(run)
    def on_them(*arguments: P.args, **options: P.kwargs) -> R:
        folder: Any = options.get("checkpoint")
        with computing_with(kept_threads(folder)):
            return run(*arguments, **options)

    return on_them


def visit_tensors(state: State, visit: Visit) -> dict[str, Tensor]:
    """What a checkpoint keeps of one visit: the parameters that repair and solver may have changed, and masks."""
    recipe = state.recipe
    parameters = REPAIRS[recipe.repair.name].keeps(state, visit) | SOLVERS[recipe.solver.name].keeps(state, visit)
    chosen = {f"chosen:{name}": mask for name, mask in state.chosen.items()}
    return parameters | visit_masks(state, visit) | chosen


def visit_masks(state: State, visit: Visit) -> dict[str, Tensor]:
    """The masks of a visit's blocks, by the names they have in its file."""
    masks = {f"{MASK}{name}": state.masks[name] for index in visit.blocks for name in state.names(index)}
    structures = {f"structures:{s.name}": state.structure_masks[s.name] for s in state.structures_in(visit)}
    return masks | structures


def resume(state: State, checkpoint: Checkpoint) -> int:
    """Put finished visits back in place and bring the streams to where they were; returns how many there were. Every
    rank reads them, rank 0 first, which removes what is no use. Raises UsageError where ranks see different ones.
    """
    finished = distributed.main_first(checkpoint.finished)
    distributed.agree({f"finished visits in {checkpoint.folder}": len(finished)})
    finished, chooser = finished[: len(state.plan)], CHOOSERS[state.recipe.pattern.kind]
    if finished and chooser.early:
        _restore_masks(state, finished[0].tensors)
        chooser.begin(state)
    for visit, kept in zip(state.plan, finished):
        if skeleton(state.model) is None:
            _restore(state, kept.tensors)
        else:
            shelve(state, visit, checkpoint.file(visit.index))
    if finished:
        chooser.begin(state)
        assert_sparsity(state.pruned, state.masks)
        REPAIRS[state.recipe.repair.name].resume(state)
        SOLVERS[state.recipe.solver.name].resume(state)
    with state.meter.stage(-1, "resume"):
        for index in range(state.plan[len(finished) - 1].advance_to if finished else 0):
            dense, pruned = modules = state.modules([index])
            with held(*modules):
                for streams in state.splits:
                    advance_streams(streams, dense, pruned, index)
    for kept in finished:
        for table, rows in kept.rows.items():
            state.rows[table] += rows
    return len(finished)


def _restore(state: State, tensors: Mapping[str, Tensor]) -> None:
    """Put what a visit left back into the model and the state."""
    parameters = dict(state.model.named_parameters())
    _restore_masks(state, tensors)
    for key, tensor in tensors.items():
        if ":" not in key:
            parameters[key].data.copy_(tensor)


def _restore_masks(state: State, tensors: Mapping[str, Tensor]) -> None:
    masks = {"mask": state.masks, "structures": state.structure_masks, "chosen": state.chosen}
    for key, tensor in tensors.items():
        kind, _, name = key.rpartition(":")
        if kind:
            masks[kind][name] = tensor


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
        storage.libraries(),
        *([state.every] if state.every != 1 else []),
        *([] if state.dense_model.fingerprint else [cast(Any, model).config.to_json_string()]),
    ]
    return storage.identity_digest(parts)
