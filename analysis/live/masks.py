"""Masks of some recipes, weight by weight, as they come about in a run of each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.errors import UnsupportedModel
from analysis.live.answers import Ground, inputs, pruned

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Masks:
    """Which weights the masks of these recipes keep, a row for each matrix: [mask, block, matrix, rows, columns, kept,
    side, kind, structures].

    mask: the recipe's text; kept: rows x columns bits, row by row, packed as `numpy.packbits` does. side: "rows" or
    "columns", the side of the matrix along which whole structures (`kind`: heads or neurons, so many of them) lie one
    after another; empty where they do not.
    """

    ground: Ground
    recipes: tuple[str, ...]

    def identity(self) -> Any:
        return [self.ground.identity(self.recipes), self.recipes]

    def table(self) -> pd.DataFrame:
        rows = []
        for recipe in self.recipes:
            job = self.ground.job(recipe)
            model = inputs(job).dense.model
            rows += mask_rows(model, recipe, pruned(job).masks)
        return pd.DataFrame(rows)


def mask_rows(model: "nn.Module", name: str, masks: Any) -> list[dict[str, Any]]:
    """One row for each matrix of a model that has a mask."""
    from analysis.models.anatomy import anatomy

    sides = _sides(model)
    rows = []
    for block in anatomy(model).blocks:
        for matrix in block.matrices:
            full = f"{block.name}.{matrix.name}"
            side, kind, count = sides.get(full, ("", "", 0))
            kept = masks[full].cpu().numpy()
            place = {"mask": name, "block": block.index, "matrix": matrix.name}
            shape = {"rows": kept.shape[0], "columns": kept.shape[1], "kept": np.packbits(kept).tobytes()}
            rows.append(place | shape | {"side": side, "kind": kind, "structures": count})
    return rows


def _sides(model: "nn.Module") -> dict[str, tuple[str, str, int]]:
    """By matrix: where its whole structures lie one after another (rows, columns), their kind and number."""
    from analysis.structured.find import KINDS, structures

    found: dict[str, tuple[str, str, int]] = {}
    for kind in KINDS:
        try:
            pairs = structures(model, kinds=[kind]).pairs
        except UnsupportedModel:
            continue
        for pair in pairs:
            sides = [(pair.name, "columns", pair.columns)]
            sides += [(producer.name, "rows", producer.rows) for producer in pair.producers]
            for name, side, places in sides:
                flat = places.flatten().tolist()
                if flat == list(range(len(flat))):
                    found[name] = (side, kind, len(places))
    return found
