"""The state of one run of the loop, and what comes out of it."""

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from analysis import paths
from analysis.errors import UsageError
from analysis.masks.notes import Note
from analysis.measure.cost import Meter
from analysis.measure.quality import DenseModel
from analysis.models.anatomy import Anatomy, Block, Matrix
from analysis.models.format import format_of
from analysis.models.passing import cut_blocks
from analysis.models.placement import copy_model
from analysis.models.save import assert_sparsity, is_plain, save_model, save_shrunk
from analysis.pruning.checks import save_problem, shrink_problem
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit, groups, visits
from analysis.schema import TABLES
from analysis.streams.streams import Streams
from analysis.structured.pairs import Pair, Structures
from analysis.structured.shrink import shrink


@dataclass(eq=False, kw_only=True)
class State:
    """The state of one run of the loop: what choosers, repairs and solvers read, and where they leave what they did."""

    recipe: Recipe

    dense_model: DenseModel
    """The dense model, never modified."""

    dense: Anatomy
    """Its parts."""

    model: nn.Module
    """The copy that is pruned."""

    pruned: Anatomy
    """The parts of the copy; same indices and names as `dense`."""

    structures: Structures
    """Whole structures of the copy among which masks choose; none where single weights are removed."""

    calibration: Streams
    """Both streams of the calibration text, at the input of the first block that is not final."""

    validation: Streams | None
    """The same of the text that is selected on, where the recipe selects by held-out error."""

    held_out: list[Streams]
    """The same of every held-out text."""

    every: int | str
    """Every how many epochs of a unit held-out text is looked at, or "end" (`schedule.held_out_epochs`)."""

    shown: int
    """How many calibration windows, the first ones, masks are chosen on."""

    outputs: dict[str, list[Tensor] | None]
    """By text label, the dense stream behind block 0, 1, ..., kept for later runs; None where it is not kept."""

    meter: Meter
    """Writes the rows of the `cost` table."""

    precision: torch.dtype
    """Of Gram matrices and means."""

    measure: bool
    """Whether block errors, distances of texts, perplexities and scores are taken."""

    entry: list[Streams] = field(default_factory=list)
    """Streams at the input of the block whose masks are being chosen, inside a visit: the calibration text's, and those
    of the validation text for a repair that looks at it. Only the streams that somebody reads; only the first `shown`
    windows where no repair reads them."""

    shares: dict[str, float] = field(default_factory=dict)
    """Full matrix name -> share to remove, where the pattern is uneven; 0: the matrix stays dense."""

    masks: MutableMapping[str, Tensor] = field(default_factory=dict)
    """Full matrix name -> (out, in) bool, True = kept: of the blocks masked so far."""

    structure_masks: dict[str, Tensor] = field(default_factory=dict)
    """Name of a structure (its consumer's) -> (count,) bool, True = kept: of the blocks masked so far."""

    chosen: dict[str, Tensor] = field(default_factory=dict)
    """The structure masks of all blocks, where they are chosen before the first visit."""

    taken: frozenset[int] = frozenset()
    """The blocks that are out of the pruned model, a `Passing` in their place."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in TABLES})
    """Rows of every table (`schema.TABLES`) so far."""

    @property
    def plan(self) -> list[Visit]:
        """All visits in order."""
        return visits(len(self.dense.blocks), self.recipe.unit, self.taken)

    def group_of(self, index: int) -> tuple[int, ...]:
        """The blocks that are handled as one with a block (`schedule.groups`)."""
        return next(group for group in groups(len(self.dense.blocks), self.taken) if index in group)

    @property
    def splits(self) -> list[Streams]:
        """The streams of every text: calibration, validation if there is such a text, held-out."""
        return [self.calibration, *self.judged, *self.held_out]

    @property
    def judged(self) -> list[Streams]:
        """The streams of the validation text; none where the recipe selects on nothing."""
        return [] if self.validation is None else [self.validation]

    @property
    def shown_tokens(self) -> int:
        """Real tokens that masks are chosen on."""
        return int(self.calibration.mask[: self.shown].sum())

    def side(self, stream: str) -> Anatomy:
        """The parts that the stream called "dense" or "sparse" runs through."""
        return {"dense": self.dense, "sparse": self.pruned}[stream]

    def modules(self, blocks: Iterable[int]) -> list[nn.Module]:
        """These blocks of the dense model and of the copy."""
        return [parts.blocks[index].module for index in blocks for parts in (self.dense, self.pruned)]

    def names(self, index: int) -> list[str]:
        """Full names of a block's matrices, the keys of its masks."""
        block = self.pruned.blocks[index]
        return [f"{block.name}.{matrix.name}" for matrix in block.matrices]

    def unmasked(self, visit: Visit) -> list[int]:
        """The visit's blocks that have no masks yet."""
        return [index for index in visit.blocks if self.names(index)[0] not in self.masks]

    def structures_in(self, visit: Visit) -> list[Pair]:
        """The structures of the visit's blocks, in the order they run."""
        return [structure for structure in self.structures if structure.block in visit.blocks]

    def keep(self, block: Block, matrix: Matrix, mask: Tensor) -> dict[str, Any]:
        """Record a mask (out, in), bool, True = kept; gives what names the matrix in tables. The weights are the
        caller's.
        """
        self.masks[f"{block.name}.{matrix.name}"] = mask.cpu()
        rows, columns = mask.shape
        kept = int(mask.sum())
        where = {"block": block.index, "matrix": matrix.name}
        self.rows["matrices"].append(
            {**where, "rows": rows, "columns": columns, "kept": kept, "sparsity": 1 - kept / mask.numel()}
        )
        return where

    def note(self, where: dict[str, Any], notes: Iterable[Note]) -> None:
        """Record the rules that had to be used."""
        self.rows["numerics"] += [{**where, "rule": note.rule, "value": note.value} for note in notes]

    def counts(self) -> dict[str, int]:
        """How many rows every table has."""
        return {name: len(rows) for name, rows in self.rows.items()}

    def rows_since(self, counts: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
        """The rows that every table has gained since it had `counts`."""
        return {name: rows[counts[name] :] for name, rows in self.rows.items()}


@dataclass(eq=False)
class Pruned:
    """A pruned model with its masks (full matrix name -> (out, in) bool, True = kept), tables and provenance.

    origin: the folder of the dense model, whose dtype and side files a saved one keeps; None where it has none.
    structures: the whole structures of this model among which was chosen, none where single weights were removed.
    structure_masks: which of them were kept, consumer's name -> (count,) bool, True = kept; of whole blocks and of
    their halves, the block's name -> (1,); of experts, the block's name -> (experts of the dense model,). The model of
    experts that were removed has only those that are left.

    Where whole blocks were removed the model still has them, full of zeros, and computes what it would without them
    (norms behind the residual sum allow no such blocks: there a `Passing` stands in their place); `shrink` leaves them
    out, and so does what `save` writes.
    """

    model: nn.Module
    recipe: Recipe
    masks: Mapping[str, Tensor]
    tables: dict[str, pd.DataFrame]
    provenance: dict[str, Any]
    tokenizer: Any
    structures: Structures
    structure_masks: dict[str, Tensor] = field(default_factory=dict)
    origin: Path | None = None

    def save(self, folder: Path | str, dtype: str = "auto") -> dict[str, Any]:
        """Write a folder that `from_pretrained` of the model's own class loads; sparsity is asserted on both sides.

        Where a repair made biases that the architecture's config has no word for, only `load_model` reads the folder.
        dtype: "auto", the dense model's own as its files have it, or the one to store weights in (`format_of`). Returns
        what was stored how, JSON-ready. Raises UsageError where ghosts stand in the place of blocks, else as
        `save_model` and `save_shrunk`.
        """
        if problem := save_problem(self.recipe):
            raise UsageError(f"save: {problem}")
        folder, written = paths.expanded(folder), format_of(self.model, self.origin, dtype)
        if self.recipe.pattern.kind == "blocks":
            assert_sparsity(self.structures.parts, self.masks)
            save_shrunk(self.shrink(), self.tokenizer, folder, written)
        elif not self.structure_masks or is_plain(self.model):
            save_model(self.model, self.tokenizer, folder, self.masks, written)
        else:
            assert_sparsity(self.model, self.masks)
            save_shrunk(self.model, self.tokenizer, folder, written)
        return written.provenance()

    def shrink(self) -> nn.Module:
        """A really smaller copy of the model, without the rows and columns of what was removed, or without the removed
        blocks; `save_shrunk` writes it, `load_model` reads it back.

        Raises UsageError where single weights or halves of blocks were removed or ghosts stand in the place of blocks,
        UnsupportedModel where the architecture
        cannot run with fewer heads.
        """
        if problem := shrink_problem(self.recipe):
            raise UsageError(f"shrink: {problem}")
        if self.recipe.pattern.kind == "blocks":
            parts = self.structures.parts
            gone = [block.index for block in parts.blocks if not bool(self.structure_masks[block.name].all())]
            return cut_blocks(self.model, parts.path, gone)
        if self.recipe.pattern.experts:
            return copy_model(self.model)
        return shrink(self.model, self.structures, self.structure_masks)
