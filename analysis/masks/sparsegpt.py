"""SparseGPT: mask and optimal-brain-surgeon update in one sweep over the columns (arXiv 2301.00774, section 3).

With H = 2/n sum x x^T and U the upper triangular factor of its inverse (H^-1 = U^T U), removing weight w_q of a row
costs w_q^2 / U_qq^2 and moves the weights to its right by -w_q / U_qq * U_q. Columns left of q are final.

The columns are swept in blocks; a block's errors reach the columns to its right in one product. Inside a block the same
is done in panels, so that the loop over columns is two small calls per column on contiguous rows of the transposed
weight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import NumericalError, UsageError
from analysis.masks.damping import attempts, unsolvable
from analysis.masks.notes import Note
from analysis.masks.patterns import (
    check_mask,
    check_width,
    column_blocks,
    keep_largest,
    keep_n_of_m,
    kept,
    n_of_m,
    sparsity_of,
)
from analysis.recipe.parts import Pattern
from analysis.streams.moments import Statistics

SWEEP_RAISES = 3  # how often a failed factorisation may raise the damping tenfold
SWEEP_COLUMNS = 32  # columns updated one by one between two products


@dataclass(frozen=True, eq=False)
class Factor:
    """upper (in, in): triangular, H^-1 = upper^T upper; dead (in,) bool; the rules that had to be used."""

    upper: Tensor
    dead: Tensor
    notes: tuple[Note, ...]


@dataclass(frozen=True, eq=False)
class Swept:
    """mask (out, in) bool, True = kept; weight (out, in) in the dtype given, zero where the mask is False."""

    mask: Tensor
    weight: Tensor
    notes: tuple[Note, ...]


def inverse_factor(statistics: Statistics, damping: float, name: str) -> Factor:
    """Factor of the inverse of the damped H, computed once per distinct input and damping.

    damping is a fraction of H's mean diagonal. A failed Cholesky factorisation raises it tenfold, at most RAISES times.
    Raises NumericalError naming the matrix and H's condition when it fails still, UsageError without a Gram matrix.
    """
    if statistics.gram is None:
        raise UsageError(f"sparsegpt needs the Gram matrix of {name}'s input; collect it with want='gram'")
    if damping not in statistics.factors:
        statistics.factors[damping] = _inverse_factor(statistics.gram, statistics, damping, name)
    return statistics.factors[damping]


def _inverse_factor(gram: Tensor, statistics: Statistics, damping: float, name: str) -> Factor:
    hessian = gram * (2 / statistics.tokens)
    dead = statistics.diagonal == 0
    hessian.diagonal()[dead] = 1
    mean = hessian.diagonal().mean()
    ladder = attempts(damping, hessian.dtype, raises=SWEEP_RAISES, least=0, double=False)
    for attempt in ladder:
        damped = hessian.clone()
        damped.diagonal().add_(attempt.share * mean)
        upper = _factor_of_inverse(damped)
        if upper is not None:
            dead_inputs = (Note("dead input", float(dead.sum())),) * bool(dead.any())
            return Factor(upper, dead, dead_inputs + attempt.notes())
    problem = f"sparsegpt: the Hessian of {name}'s input is not positive definite:"
    raise unsolvable(problem, hessian, statistics.tokens, "damping", damping, ladder[-1].share)


def _factor_of_inverse(matrix: Tensor) -> Tensor | None:
    """Upper triangular U with U^T U = matrix^-1, or None when the matrix is not positive definite.

    The matrix read backwards is L L^T, so read forwards it is R R^T with R = L backwards, upper triangular: U = R^-1.
    One factorisation of the matrix itself, where factorising its computed inverse would need two.
    """
    lower, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(failed):
        return None
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1).contiguous()
    return upper if bool(upper.isfinite().all()) else None


def sparsegpt(
    weight: Tensor,
    statistics: Statistics,
    pattern: Pattern,
    *,
    damping: float,
    columns: int,
    name: str,
    mask: Tensor | None = None,
    gone: Tensor | None = None,
) -> Swept:
    """Prunes and updates one matrix.

    weight   (out, in), any float dtype; the arithmetic runs in the statistics' precision
    pattern  N:M; or a sparsity with group "block": exact count over all rows of each `columns` columns, "row": the same
             in every row (the whole row exact), "matrix": one block as wide as the matrix
    damping  fraction of the mean diagonal added to H, see `inverse_factor`
    mask     (out, in) bool, True = kept, of that pattern: chosen already, so that the sweep only updates the kept
             weights for it
    gone     (out, in) bool: weights that are zero and stay so; they are removed first, beyond the pattern's count where
             they are more

    Weights of dead inputs become 0. Raises NumericalError naming the matrix, SparsityError for a mask that breaks the
    pattern.
    """
    width = weight.shape[1]
    check_width(width, pattern, name)
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != weight.shape:
            raise UsageError(
                f"sparsegpt on {name}: the mask must be bool of shape {tuple(weight.shape)}, got {mask.dtype} of shape"
                f" {tuple(mask.shape)}"
            )
        check_mask(mask, pattern, name=name, columns=columns)
    factor = inverse_factor(statistics, damping, name)
    work = weight.detach().T.to(factor.upper.dtype, copy=True, memory_format=torch.contiguous_format)  # (in, out)
    work[factor.dead] = 0
    stays = torch.empty_like(work, dtype=torch.bool) if mask is None else mask.T.contiguous()
    to_choose = pattern if mask is None else None
    lost = None if gone is None else gone.T
    if pattern.of is not None:
        columns = max(columns // pattern.of, 1) * pattern.of
    elif pattern.group == "matrix":
        columns = width
    for start, stop in column_blocks(width, columns):
        block = slice(start, stop)
        lost_here = None if lost is None else lost[block]
        errors = _sweep(work[block], stays[block], factor.upper[block, block], to_choose, start, lost_here)
        work[stop:].addmm_(factor.upper[block, stop:].T, errors, alpha=-1)
    work.masked_fill_(~stays, 0)
    updated = work.T.to(weight.dtype).contiguous()
    if not bool(updated.isfinite().all()):
        raise NumericalError(
            f"sparsegpt: the updated weights of {name} are not finite in {weight.dtype}; use a larger damping"
        )
    return Swept(stays.T.contiguous(), updated, factor.notes)


def _sweep(
    block: Tensor, mask: Tensor, upper: Tensor, pattern: Pattern | None, start: int, gone: Tensor | None = None
) -> Tensor:
    """Sweeps one column block in place: block, mask and gone (columns, out), upper (columns, columns). pattern None:
    the mask is given.

    Returns the errors w_q / U_qq of removed weights, (columns, out), zero where kept.
    """
    width = len(block)
    scale = upper.diagonal()[:, None]
    errors = torch.empty_like(block)
    share = torch.empty_like(block)  # 1 / U_qq where removed, 0 where kept
    groups = n_of_m(pattern) if pattern else None
    if pattern and groups is None:
        scores = _first(gone, (block / scale).square())
        mask.copy_(_threshold(scores.T, pattern, start).T)
        if gone is not None:
            mask &= ~gone
    if groups is None:
        torch.div(~mask, scale, out=share)
    panel = groups[1] if groups else SWEEP_COLUMNS
    for first in range(0, width, panel):
        last = min(first + panel, width)
        columns = slice(first, last)
        if first:
            block[columns].addmm_(upper[:first, columns].T, errors[:first], alpha=-1)
        if groups is not None:
            lost = None if gone is None else gone[columns]
            scores = _first(lost, (block[columns] / scale[columns]).square())
            mask[columns] = keep_n_of_m(scores.T, *groups).T
            if lost is not None:
                mask[columns] &= ~lost
            torch.div(~mask[columns], scale[columns], out=share[columns])
        rows = zip(
            block[columns].unbind(),
            share[columns].unbind(),
            errors[columns].unbind(),
            upper[columns, columns].unbind(),
            strict=True,
        )
        for column, (weight, removed, error, factor) in enumerate(rows, start=1):
            torch.mul(weight, removed, out=error)
            block[first + column : last].addr_(factor[column:], error, alpha=-1)
    return errors


def _first(gone: Tensor | None, scores: Tensor) -> Tensor:
    """Scores by which the weights that are gone go first."""
    return scores if gone is None else scores.masked_fill(gone, -torch.inf)


def _threshold(scores: Tensor, pattern: Pattern, start: int) -> Tensor:
    """Mask of one block's scores (out, columns) that begins at column `start`; rows come out exact over the whole
    width.
    """
    rows, width = scores.shape
    sparsity = sparsity_of(pattern, "a column block")
    if pattern.group == "row":
        return keep_largest(scores, kept(start + width, sparsity) - kept(start, sparsity))
    return keep_largest(scores.reshape(1, -1), kept(rows * width, sparsity)).view(rows, width)
