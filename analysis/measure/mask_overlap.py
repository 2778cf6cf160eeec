"""How much two masks of a matrix have in common: in the weights they keep, and in what the matrix then computes.

Two masks may share few weights and still leave nearly the same function, or the other way round. With W_A, W_B the
weights under two masks and x the matrix's input, their functions lie |W_A x - W_B x|^2 apart, in the mean over
calibration tokens and outputs, divided here by the mean square of the dense outputs |W x|^2; once with the kept weights
as they are, and once refitted by least squares, each under its own mask: the most that repairing this matrix can do.
All masks are chosen on the dense model's own activations, so that all see the same inputs.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.masks.choose import choose_mask
from analysis.masks.seeds import generator
from analysis.masks.shares import block_sizes, matrix_shares
from analysis.models.anatomy import Block, anatomy
from analysis.models.held import held
from analysis.models.quiet import evaluation_mode
from analysis.recipe.recipe import Recipe
from analysis.recipe.shares import NO_OWL, OWL
from analysis.reconstruction.closed_form import ridge
from analysis.schema import CALIBRATION, validate
from analysis.streams.moments import Moments, Statistics
from analysis.streams.streams import Streams, advance_streams, input_statistics, open_streams
from analysis.windows import Windows

DENSE = "dense"
PENALTY = 1e-3  # of the refit, as a share of the Gram matrix's mean diagonal


def mask_overlaps(model: nn.Module, windows: Windows, recipes: Mapping[str, Recipe]) -> pd.DataFrame:
    """The table `overlap` of a model: every pair of masks, and every mask with the dense matrix, matrix by matrix.

    recipes: by the word that tables name a mask by; criterion, pattern, refinement and seed choose it (SparseGPT's own
    update of kept weights is left out). windows: the calibration text. Raises NumericalError naming a matrix that
    is not finite, UsageError for a pattern that does not fit, and for shares=owl.
    """
    if odd := [word for word, recipe in recipes.items() if recipe.pattern.shares == OWL]:
        raise UsageError(f"mask_overlaps: {odd[0]}: {NO_OWL}")
    parts = anatomy(model)
    sizes = block_sizes(parts)
    shares = {word: matrix_shares(recipe.pattern, sizes) for word, recipe in recipes.items()}
    rows: list[dict[str, Any]] = []
    with evaluation_mode(model):
        streams = open_streams(model, parts, CALIBRATION, windows, apart=False)
        for block in parts.blocks:
            with held(block.module):
                rows += _block_rows(block, streams, recipes, shares)
                advance_streams(streams, block.module, block.module, block.index)
    return validate("overlap", pd.DataFrame(rows))


def _block_rows(
    block: Block, streams: Streams, recipes: Mapping[str, Recipe], shares: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    statistics = input_statistics(block, block.matrices, streams, streams.dense, "gram", torch.float32)
    rows: list[dict[str, Any]] = []
    for matrix in block.matrices:
        name, weight = f"{block.name}.{matrix.name}", matrix.weight().detach()
        masks = {
            word: _mask(recipe, shares[word].get(name), weight, statistics[matrix.name], name)
            for word, recipe in recipes.items()
        }
        where = {"block": block.index, "matrix": matrix.name}
        rows += [where | row for row in _pairs(weight, masks, statistics[matrix.name], name)]
    return rows


def _mask(recipe: Recipe, share: float | None, weight: Tensor, statistics: Statistics, name: str) -> Tensor:
    """The mask that `prune` chooses; share: of weights to remove, where the pattern is uneven."""
    if share == 0:
        return weight != 0 if recipe.pattern.zeros else torch.ones_like(weight, dtype=torch.bool)
    pattern = recipe.pattern if share is None or recipe.pattern.of else recipe.pattern.at(share)
    source = generator(recipe.seed, "mask", name)
    return choose_mask(
        recipe.criterion, pattern, weight, statistics, source, name=name, refinement=recipe.refinement
    ).mask


def _pairs(weight: Tensor, masks: Mapping[str, Tensor], statistics: Statistics, name: str) -> Sequence[dict]:
    """Rows of one matrix."""
    gram = statistics.gram
    assert gram is not None
    moments = Moments(gram, gram, gram, statistics.tokens)
    dense, wide = weight.double(), gram.double()
    kept = {DENSE: torch.ones_like(weight, dtype=torch.bool), **masks}
    plain = {word: dense * mask for word, mask in kept.items()}
    refitted = {DENSE: dense} | {
        word: ridge(weight, mask, moments, penalty=PENALTY, name=name).weight.double() for word, mask in masks.items()
    }

    def energy(change: Tensor) -> float:
        return float(((change @ wide) * change).sum())

    whole = energy(dense) or 1.0
    return [
        {
            "mask": one,
            "other": other,
            "shared": float((kept[one] & kept[other]).sum() / (kept[one] | kept[other]).sum().clamp(min=1)),
            "apart": energy(plain[one] - plain[other]) / whole,
            "apart_refitted": energy(refitted[one] - refitted[other]) / whole,
        }
        for other, one in combinations(kept, 2)
    ]
