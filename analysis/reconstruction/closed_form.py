"""Least squares for one matrix on its support: the best kept weights in closed form (arXiv 2510.14444, the per-matrix
case).

With x the student's input, t the target's input of the same token and d a row of the dense weights, the row v that is
zero outside its mask and
minimises  sum over tokens (d t - v x)^2 + penalty |v - d|^2  solves, on the columns S it
keeps,

    v_S (G + penalty I)_SS = (d C + penalty d)_S        G = sum x x^T, C = sum t x^T.

Solved is the step away from the masked weights p = mask * d. The penalty cancels from its right-hand side, which is
what the masked weights leave unexplained, zero where nothing can be gained:

    step_S (G + penalty I)_SS = (d C - p G)_S.

Every row has its own S, so every row has its own factorisation; rows are factorised in batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from analysis.errors import NumericalError, UsageError
from analysis.masks.damping import DEPENDENT, attempts, unsolvable
from analysis.masks.notes import Note
from analysis.streams.moments import Moments

BUDGET = {
    "cpu": 8 * 2**20,
    "cuda": 2**30,
}  # bytes of the submatrices and factors of one batch of rows; on a CPU, what its cache holds
DOUBT = 1e-3  # largest correction, relative to the step, with which a factorisation counts as good enough
SHORTER = 0.8  # removed columns are eliminated instead of kept ones solved when there are fewer of them by this factor


@dataclass(frozen=True, eq=False)
class Refit:
    """weight (out, in) in the dense weight's dtype, zero outside the mask; the rules that had to be used.

    loss_before, loss_after  squared output difference from the dense matrix, mean over tokens and rows, of the masked
                             dense weights and of `weight`; loss_after <= loss_before
    """

    weight: Tensor
    loss_before: float
    loss_after: float
    notes: tuple[Note, ...]


@dataclass(frozen=True, eq=False)
class _Quadratic:
    """The layer loss as a function of the weights, in float64: what `layer_loss` and `ridge` share.

    gram    (in, in)
    pull    (out, in) dense C
    energy  (out,) sum over tokens of (dense t)^2
    """

    gram: Tensor
    pull: Tensor
    energy: Tensor
    tokens: int

    def at(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (out,): mean over tokens of (dense t - weight x)^2, 0 where rounding makes it negative. And what the
        weights leave unexplained (out, in): sum over tokens of (dense t - weight x) x^T.
        """
        weight = weight.double()
        unexplained = self.pull - weight @ self.gram
        sums = self.energy - (weight * (self.pull + unexplained)).sum(1)
        return sums.clamp(min=0) / self.tokens, unexplained


def _quadratic(dense: Tensor, moments: Moments) -> _Quadratic:
    dense = dense.detach().double()
    gram = moments.gram.double()
    pull = dense @ (gram if moments.cross is moments.gram else moments.cross.double())
    reach = pull if moments.one_stream else dense @ moments.target.double()
    return _Quadratic(gram, pull, (dense * reach).sum(1), moments.tokens)


def layer_loss(weight: Tensor, dense: Tensor, moments: Moments) -> Tensor:
    """(out,) float64: mean over tokens of (dense t - weight x)^2, for each output row.

    weight, dense  (out, in), any float dtype
    """
    return _quadratic(dense, moments).at(weight.detach())[0]


def ridge(dense: Tensor, mask: Tensor, moments: Moments, *, penalty: float, name: str) -> Refit:
    """The kept weights that make the pruned matrix's output closest to the dense one's, exactly.

    dense    (out, in) dense weights, any float dtype
    mask     (out, in) bool, True = kept
    penalty  weight of |kept weights - dense weights|^2 as a share of the Gram matrix's mean diagonal, >= 0; 0 is plain
             least squares, for which the calibration tokens must determine every row's kept weights
    name     the matrix, for error messages

    Factorised in the Gram matrix's dtype, corrected once with a residual in float64; rows whose correction shows that
    this was not enough are done again in float64. Rows that are singular to the Gram matrix's precision get a larger
    penalty. Weights of inputs that were always zero stay as they are. No row is worse than its masked weights. Each
    rule used is in `notes`.

    Raises UsageError for arguments that do not fit, NumericalError naming the matrix when it is not finite or cannot be
    solved.
    """
    _check_arguments(dense, mask, moments, penalty, name)
    dense = dense.detach()
    quadratic = _quadratic(dense, moments)
    plain = dense.masked_fill(~mask, 0)
    before, unexplained = quadratic.at(plain)
    if not bool(before.isfinite().all()):
        raise NumericalError(
            f"ridge: the weights or moments of {name} are not finite; look at the dense model and the calibration text"
        )
    dead = quadratic.gram.diagonal() == 0
    support = mask & ~dead
    notes = [Note("dead input", float(dead.sum()))] * bool(dead.any())

    step, rules = _steps(quadratic, support, unexplained, penalty, moments.gram.dtype, name)
    weight = (plain.double() + step).to(dense.dtype)
    after, _ = quadratic.at(weight)
    worse = ~(after <= before)
    weight = torch.where(worse[:, None], plain, weight)
    after = torch.where(worse, before, after)
    notes += rules + [Note("kept plain mask", float(worse.sum()))] * bool(worse.any())
    return Refit(weight, float(before.mean()), float(after.mean()), tuple(notes))


def _check_arguments(dense: Tensor, mask: Tensor, moments: Moments, penalty: float, name: str) -> None:
    if mask.dtype != torch.bool or mask.shape != dense.shape:
        raise UsageError(
            f"ridge: the mask of {name} is {mask.dtype} {tuple(mask.shape)}; expected bool {tuple(dense.shape)}"
        )
    if moments.gram.shape != (dense.shape[1],) * 2:
        raise UsageError(
            f"ridge: the moments of {name} are for {len(moments.gram)} inputs; the matrix has {dense.shape[1]}"
        )
    if not 0 <= penalty < float("inf"):
        raise UsageError(f"ridge: penalty={penalty!r} of {name} must be a finite share >= 0 of the mean diagonal")


def _steps(
    quadratic: _Quadratic, support: Tensor, unexplained: Tensor, penalty: float, precision: torch.dtype, name: str
) -> tuple[Tensor, list[Note]]:
    """Every row's step (out, in) float64, zero outside its support, and the rules used: precision first, then
    penalty.
    """
    ladder = attempts(penalty, precision)
    least = DEPENDENT * torch.finfo(precision).eps
    step = torch.zeros_like(unexplained)
    rows = support.any(1).nonzero().squeeze(1)
    notes: dict[str, Note] = {}
    for attempt in ladder:
        notes |= {note.rule: note for note in attempt.notes(len(rows))}
        system = _system(quadratic.gram, attempt.share)
        solution, sound = _solve(system, support[rows], unexplained[rows], attempt.precision, least)
        step[rows[sound]] = solution[sound]
        rows = rows[~sound]
        if not len(rows):
            return step, list(notes.values())
    problem = f"ridge: {len(rows)} rows of {name} cannot be solved: its Gram matrix has"
    raise unsolvable(problem, quadratic.gram, quadratic.tokens, "penalty", penalty, ladder[-1].share)


def _system(gram: Tensor, share: float) -> Tensor:
    """Gram matrix plus `share` of its mean diagonal; dead inputs, which no support contains, get the mean diagonal."""
    diagonal = gram.diagonal()
    mean = diagonal.mean()
    system = gram.clone()
    system.diagonal().copy_(torch.where(diagonal == 0, mean, diagonal + share * mean))
    return system


def _solve(
    system: Tensor, support: Tensor, right: Tensor, precision: torch.dtype, least: float
) -> tuple[Tensor, Tensor]:
    """Each row y (float64) with (y system)_S = right_S and y zero outside its support S, and which rows are sound.

    Solved in `precision`, then corrected by the solution for the residual. The correction's size is the solution's
    error, so what is left after it is about its square; a row is sound when the correction is small as weights and in
    the loss, and no pivot is below the share `least` of its diagonal.
    """
    right = right.masked_fill(~support, 0)
    solution, sound = torch.zeros_like(right), torch.zeros(len(right), dtype=torch.bool, device=right.device)
    padded = pad(system, (0, 1, 0, 1)).to(precision)
    batches = list(_batches(support, padded.element_size()))
    inverse = _inverse(system, least) if any(fewer_removed for _, fewer_removed in batches) else None
    padded_inverse = None if inverse is None else pad(inverse, (0, 1, 0, 1)).to(precision)
    for rows, fewer_removed in batches:
        if fewer_removed and inverse is not None and padded_inverse is not None:
            solve, singular = _eliminating(inverse, padded_inverse, support[rows])
            solution[rows], sound[rows] = _corrected(solve, singular, system, support[rows], right[rows])
            rows = rows[~sound[rows]]  # the whole system can be singular where a row's own part of it is not
        if len(rows):
            solve, singular = _restricted(padded, support[rows], least)
            solution[rows], sound[rows] = _corrected(solve, singular, system, support[rows], right[rows])
    return solution, sound


def _corrected(
    solve: Callable[[Tensor], Tensor], singular: Tensor, system: Tensor, support: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """A solver's rows, corrected once by its solution for the residual, and which of them are sound."""
    first = solve(right)
    residual = (right - first @ system).masked_fill(~support, 0)
    correction = solve(residual)
    total = first + correction
    small = correction.norm(dim=1) <= DOUBT * total.norm(dim=1)
    harmless = (correction * residual).sum(1) <= DOUBT**2 * (total * right).sum(1)
    return total, small & harmless & ~singular


def _batches(support: Tensor, itemsize: int) -> Iterator[tuple[Tensor, bool]]:
    """Rows of similar support size, as many as the budget holds, and whether they remove clearly fewer columns than
    they keep.
    """
    width = support.shape[1]
    sorted_counts, order = support.sum(1).sort(descending=True, stable=True)
    counts: list[int] = sorted_counts.tolist()
    budget = BUDGET.get(support.device.type, BUDGET["cuda"])
    start = 0
    while start < len(counts):
        stop = min(start + max(budget // (2 * itemsize * counts[start] ** 2), 1), len(counts))
        yield order[start:stop], width - counts[stop - 1] < SHORTER * counts[start]
        start = stop


def _restricted(padded: Tensor, chosen: Tensor, least: float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Solver of (y matrix)_S = b_S for rows b, each with its own columns S; and which rows are singular.

    padded  (in + 1, in + 1) symmetric matrix with a last row and column of zeros, which stands in where a row has fewer
            columns
    chosen  (rows, in) bool, True in S

    The solver takes and gives (rows, in) float64, zero outside S.
    """
    width = chosen.shape[1]
    positions = chosen.cumsum(1)
    index = torch.full((len(chosen), max(int(positions[:, -1].max()), 1)), width, device=chosen.device)
    row, column = chosen.nonzero(as_tuple=True)
    index[row, positions[row, column] - 1] = column
    blocks = (
        padded.index_select(0, index.flatten())
        .view(*index.shape, -1)
        .gather(2, index[:, None, :].expand(-1, index.shape[1], -1))
    )
    blocks.diagonal(dim1=1, dim2=2).add_(index == width)
    lower, singular = _cholesky(blocks, least)

    def solve(right: Tensor) -> Tensor:
        known_side = pad(right, (0, 1)).gather(1, index).to(lower.dtype)
        solution = torch.cholesky_solve(known_side[:, :, None], lower).squeeze(2)
        return right.new_zeros(len(right), width + 1).scatter_(1, index, solution.to(right.dtype))[:, :-1]

    return solve, singular


def _eliminating(inverse: Tensor, padded: Tensor, support: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """What `_restricted` gives for the support, by eliminating the columns outside it: faster where those are fewer.

    inverse  (in, in) float64, of the whole matrix; padded: the same with a last row and column of zeros, in working
             precision
    """
    solve_removed, singular = _restricted(padded, ~support, 0)

    def solve(right: Tensor) -> Tensor:
        forces = solve_removed(right @ inverse)  # what must act on the removed columns for them to stay zero
        return ((right - forces) @ inverse).masked_fill(~support, 0)

    return solve, singular


def _inverse(matrix: Tensor, least: float) -> Tensor | None:
    """Inverse of a positive definite matrix, None when it is singular."""
    lower, singular = _cholesky(matrix, least)
    return None if bool(singular) else torch.cholesky_inverse(lower)


def _cholesky(matrices: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Lower factors of (..., n, n), and which are singular: not positive definite, or a pivot below `least` of its
    diagonal.
    """
    lower, failed = torch.linalg.cholesky_ex(matrices)
    pivots = lower.diagonal(dim1=-2, dim2=-1).square()
    return lower, (failed > 0) | (pivots < least * matrices.diagonal(dim1=-2, dim2=-1)).any(-1)
