"""The state of one run of the loop, and the little that every part of it does to it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.masks.notes import Note
from analysis.measure.cost import Meter
from analysis.models.anatomy import Anatomy, Block, Matrix
from analysis.models.save import assert_sparsity, is_plain, save_model, save_shrunk
from analysis.pruning.checks import shrink_problem
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit
from analysis.schema import TABLES
from analysis.streams.streams import Streams
from analysis.structured.find import Structures
from analysis.structured.shrink import shrink


@dataclass(eq=False)
class Walk:
    """The state of one run of the loop."""

    recipe: Recipe
    dense: Anatomy
    pruned: Anatomy
    dense_model: nn.Module
    model: nn.Module
    calibration: Streams
    shown: int  # calibration windows, the first ones, that masks are chosen on
    held_out: list[Streams]
    meter: Meter
    precision: torch.dtype
    measure: bool
    found: Structures | None  # of the pruned model, where whole structures are removed
    masks: dict[str, Tensor] = field(default_factory=dict)
    structures: dict[str, Tensor] = field(default_factory=dict)  # consumer's name -> (count,) bool, True = kept
    chosen: dict[str, Tensor] = field(
        default_factory=dict
    )  # those of all blocks, where they are chosen before the first unit
    rows: dict[str, list[dict]] = field(default_factory=lambda: {name: [] for name in TABLES})

    @property
    def splits(self) -> list[Streams]:
        return [self.calibration, *self.held_out]

    def names(self, index: int) -> list[str]:
        """Full names of a block's matrices, the keys of its masks."""
        block = self.pruned.blocks[index]
        return [f"{block.name}.{matrix.name}" for matrix in block.matrices]

    def unmasked(self, visit: Visit) -> list[int]:
        """The visit's blocks that have no masks yet."""
        return [index for index in visit.blocks if self.names(index)[0] not in self.masks]

    def keep(self, block: Block, matrix: Matrix, mask: Tensor) -> dict:
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

    def note(self, where: dict, notes: Iterable[Note]) -> None:
        """Record the rules that had to be used."""
        self.rows["numerics"] += [{**where, "rule": note.rule, "value": note.value} for note in notes]


def generator(seed: int, *where: object) -> torch.Generator:
    """A generator of its own for each place randomness is used, so that no place depends on what ran before it."""
    digest = hashlib.sha256(json.dumps([seed, *where]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(eq=False)
class Pruned:
    """A pruned model with its masks (full matrix name -> (out, in) bool, True = kept), tables and provenance.

    Where whole structures were removed: `found`, the structures of this model, and which of them were kept,
    `structures` (consumer's name -> (count,) bool, True = kept).
    """

    model: nn.Module
    recipe: Recipe
    masks: dict[str, Tensor]
    tables: dict[str, pd.DataFrame]
    provenance: dict
    tokenizer: object = None
    found: Structures | None = None
    structures: dict[str, Tensor] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write a folder that `from_pretrained` of the model's own class loads; sparsity is asserted on both sides.

        Where a repair made biases that the architecture's config has no word for, only `load_model` reads the folder.
        """
        if self.found is None or is_plain(self.model):
            save_model(self.model, self.tokenizer, folder, self.masks)
        else:
            assert_sparsity(self.model, self.masks)
            save_shrunk(self.model, self.tokenizer, folder)

    def shrink(self) -> nn.Module:
        """A really smaller copy of the model, without the rows and columns of what was removed; `save_shrunk` writes
        it, `load_model` reads it back.

        Raises UsageError where single weights were removed, UnsupportedModel where the architecture cannot run with
        fewer heads.
        """
        if self.found is None:
            raise UsageError(f"shrink: {shrink_problem(self.recipe)}")
        return shrink(self.model, self.found, self.structures)
