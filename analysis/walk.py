"""The state of one run of the loop, and the little that every part of it does to it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from analysis.masks.notes import Note
from analysis.measure.cost import Meter
from analysis.models.anatomy import Anatomy, Block, Matrix
from analysis.models.structures import Structures
from analysis.recipe import Recipe
from analysis.reconstruction.streams import Streams
from analysis.reconstruction.units import Visit
from analysis.records import TABLES


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
