"""The share that each matrix loses, where a pattern is uneven: dense matrices, given shares, and OWL's.

OWL (Yin et al., ICML 2024, arXiv 2310.05175, section 3 and its code): blocks with more outliers lose less. An outlier
is a weight whose |W_ij| * sqrt(mean x_j^2) exceeds M times the mean of its block; with D the share of outliers, brought
to [0, 2 lambda] over the blocks, a block loses S - (D - mean D), S the recipe's sparsity.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from analysis.errors import UsageError
from analysis.masks.patterns import kept_in
from analysis.models.anatomy import Anatomy
from analysis.recipe.parts import Criterion, Pattern
from analysis.recipe.shares import OWL, parse_shares, skipped

Sizes = Mapping[str, int]  # weights of each matrix of a block, by its name within the block


def block_sizes(parts: Anatomy) -> list[tuple[str, Sizes]]:
    """The name of every block, and how many weights each of its matrices has."""
    return [
        (block.name, {matrix.name: matrix.rows * matrix.columns for matrix in block.matrices}) for block in parts.blocks
    ]


def outlier_ratio(scores: Sequence[Tensor], outliers: float) -> float:
    """The share of a block's scores, those of all its matrices together, that exceed `outliers` times their mean."""
    count = sum(part.numel() for part in scores)
    mean = sum(float(part.double().sum()) for part in scores) / count
    return sum(int((part.double() > outliers * mean).sum()) for part in scores) / count


def owl_shares(ratios: Sequence[float], weights: Sequence[int], sparsity: float, spread: float) -> list[float]:
    """OWL's share of every block.

    ratios   of outliers, of every block
    weights  how many weights each block may lose; the mean share over all of them is `sparsity`
    spread   OWL's lambda: shares are at most 2 lambda apart

    Raises UsageError where a share would not be from 0 to below 1.
    """
    ratio, weight = torch.tensor(ratios, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    width = float(ratio.max() - ratio.min())
    scaled = (ratio - ratio.min()) * (2 * spread / width) if width else torch.zeros_like(ratio)
    shares = (sparsity - (scaled - (scaled * weight).sum() / weight.sum())).tolist()
    if not all(0 <= share < 1 for share in shares):
        raise UsageError(
            f"shares=owl with spread={spread:g}: blocks would lose {min(shares):.3g} to {max(shares):.3g} around"
            f" {sparsity:g}; give a smaller spread"
        )
    return shares


def dense_matrices(pattern: Pattern, blocks: Sequence[tuple[str, Sizes]]) -> set[str]:
    """The full names of the matrices that `skip` leaves dense. Raises UsageError for what the model does not have."""
    if pattern.skip is None:
        return set()
    numbers, names = skipped(pattern.skip, len(blocks))
    for number in numbers:
        _block(number, blocks, f"skip={pattern.skip}")
    dense = {f"{block}.{name}" for number in numbers for block, sizes in [blocks[number]] for name in sizes}
    for name in names:
        dense.update(_matching(name, blocks, f"skip={pattern.skip}"))
    if all(f"{block}.{name}" in dense for block, sizes in blocks for name in sizes):
        raise UsageError(f"skip={pattern.skip} leaves nothing to prune in {len(blocks)} blocks")
    return dense


def matrix_shares(
    pattern: Pattern, blocks: Sequence[tuple[str, Sizes]], ratios: Sequence[float] | None = None
) -> dict[str, float]:
    """The share of every matrix by its full name; empty where the pattern is even. A matrix of share 0 stays dense.

    blocks  (name, weights of each matrix) of every block
    ratios  of outliers, of every block, for shares=owl

    Raises UsageError for blocks and matrices that the model does not have, and for shares that cannot be.
    """
    if pattern.depth or pattern.experts or (pattern.skip is None and pattern.shares is None):
        return {}
    dense = dense_matrices(pattern, blocks)
    even = pattern.sparsity if pattern.sparsity is not None else 1 - (pattern.keep or 0) / (pattern.of or 1)
    shares = {f"{block}.{name}": even for block, sizes in blocks for name in sizes}
    if pattern.shares == OWL:
        left = {
            block: sum(size for name, size in sizes.items() if f"{block}.{name}" not in dense)
            for block, sizes in blocks
        }
        pruned = [index for index, (block, _) in enumerate(blocks) if left[block]]
        weights = [left[blocks[index][0]] for index in pruned]
        chosen = owl_shares([(ratios or [])[index] for index in pruned], weights, even, pattern.spread)
        for index, share in zip(pruned, chosen, strict=True):
            shares |= {f"{blocks[index][0]}.{name}": share for name in blocks[index][1]}
    elif pattern.shares is not None:
        shares |= _given(pattern.shares, blocks)
    return shares | dict.fromkeys(dense, 0.0)


def check_counts(
    criterion: Criterion, pattern: Pattern, shapes: Mapping[str, tuple[int, int]], shares: Mapping[str, float]
) -> None:
    """Raise UsageError for a share that, in whole weights, is all of a matrix, or nothing of every matrix.

    shapes  (outputs, inputs) of every matrix by its full name
    shares  of `matrix_shares`
    """
    resolved, empty, pruned = pattern.resolve(criterion.name), [], False
    for name, (rows, width) in shapes.items():
        share = shares.get(name)
        own = resolved if share is None or resolved.of else resolved.at(share)
        keeps = kept_in(own, rows, width, criterion.columns)
        pruned = pruned or keeps < rows * width
        empty += [name] * (keeps == 0)
    if empty:
        raise UsageError(
            f"{pattern} would remove every weight of {len(empty)} matrices, the first is {empty[0]}; give a smaller"
            " share"
        )
    asked = any(shares.values()) if shares else bool(pattern.sparsity)
    if asked and not pruned and not pattern.zeros:
        raise UsageError(f"{pattern} removes no weight of any matrix, by rounding; give a larger share, or 0%")


def _given(text: str, blocks: Sequence[tuple[str, Sizes]]) -> dict[str, float]:
    """Shares by block, by block number or by matrix; of several the one that names the matrix more exactly."""
    given = parse_shares(text)
    if isinstance(given, list):
        if len(given) != len(blocks):
            raise UsageError(
                f"shares={text}: {len(given)} shares, the model has {len(blocks)} blocks; give one for each"
            )
        return {f"{block}.{name}": share for (block, sizes), share in zip(blocks, given, strict=True) for name in sizes}
    shares: dict[str, float] = {}
    for key, share in sorted(given.items(), key=lambda item: (not item[0].isdecimal(), len(item[0]))):
        if key.isdecimal():
            block, sizes = _block(int(key), blocks, f"shares={text}")
            shares |= {f"{block}.{name}": share for name in sizes}
        else:
            shares |= dict.fromkeys(_matching(key, blocks, f"shares={text}"), share)
    return shares


def check_named(pattern: Pattern, names: Sequence[str]) -> None:
    """Raise UsageError where `skip` or `shares` names a matrix that is the end of none of these names."""
    given = skipped(pattern.skip, 0)[1] if pattern.skip is not None else []
    shares = {} if pattern.shares in (None, OWL) else parse_shares(str(pattern.shares))
    given += [key for key in shares if not key.isdecimal()] if isinstance(shares, dict) else []
    for name in given:
        if not any(f".{matrix}".endswith(f".{name}") for matrix in names):
            ends = dict.fromkeys(matrix.rpartition(".")[2] for matrix in names)
            raise UsageError(
                f"{name} says nothing of {pattern.kind}; name what reads them, {' or '.join(ends)}, or a block"
            )


def _block(number: int, blocks: Sequence[tuple[str, Sizes]], option: str) -> tuple[str, Sizes]:
    """The block of this number."""
    if number >= len(blocks):
        raise UsageError(f"{option}: there is no block {number}; the model has {len(blocks)}, from 0")
    return blocks[number]


def _matching(name: str, blocks: Sequence[tuple[str, Sizes]], option: str) -> list[str]:
    """The full names that end with a name, at a dot."""
    full = [f"{block}.{matrix}" for block, sizes in blocks for matrix in sizes]
    matching = [matrix for matrix in full if f".{matrix}".endswith(f".{name}")]
    if not matching:
        first = ", ".join(blocks[0][1])
        raise UsageError(f"{option}: no pruned matrix is named {name}; a block has {first}")
    return matching
