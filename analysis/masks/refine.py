"""A better mask with the same counts, from the Gram matrix alone: SparseSwaps (arXiv 2512.10922) and SparseFW (arXiv
2510.13713).

Both lower what a mask costs while the kept weights stay as they are. With e = (1 - m) w the removed weights of one row
and G = sum x x^T over the calibration tokens, the row's squared output difference is e G e^T.

Decisions that rounding could spoil (the correlations c = e G, the change a swap makes, every loss) are made in float64;
only the search for the best pair and SparseFW's product run in the Gram matrix's dtype.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from analysis.errors import UsageError
from analysis.masks.notes import Note
from analysis.masks.patterns import COLUMNS, check_mask, choose, column_blocks, keep_largest
from analysis.masks.swap_tables import LargeGroups, SmallGroups
from analysis.recipe.parts import Pattern, Refinement
from analysis.streams.moments import Statistics

Table = type[SmallGroups] | type[LargeGroups]
CHUNK, CHUNK_CUDA = (
    2**24,
    2**30,
)  # bytes swaps holds at once, on a CPU what a last-level cache holds; one row where a row needs more
ROUNDING = 1e-12  # a swap must lower its row's loss by more than this share of what its two weights alone would change


@dataclass(frozen=True, eq=False)
class Refined:
    """A refined mask, and what it gained.

    mask          (out, in) bool, True = kept; counts as in the mask it came from
    loss_before,
    loss_after    squared output difference with kept weights unchanged, mean over tokens and output rows: tr(E G E^T) /
                  (tokens * out), by definition in float64; loss_after <= loss_before
    steps         swaps done in all rows ("swaps"), iterations ("fw")
    notes         the rules that had to be used
    """

    mask: Tensor
    loss_before: float
    loss_after: float
    steps: int
    notes: tuple[Note, ...]


def refine(
    refinement: Refinement,
    weight: Tensor,
    statistics: Statistics,
    mask: Tensor,
    pattern: Pattern,
    scores: Tensor,
    *,
    name: str,
    columns: int = COLUMNS,
) -> Refined:
    """The mask that a recipe's refinement makes of `mask`: `swaps` or `frank_wolfe`, whose arguments these are."""
    if refinement.name not in REFINERS:
        raise UsageError(
            f"refine: refinement {refinement.name!r} leaves the mask of {name} as it is; it is"
            f" {' or '.join(map(repr, REFINERS))}"
        )
    refiner = REFINERS[refinement.name]
    return refiner(weight, statistics, mask, pattern, scores, **refinement.options(), name=name, columns=columns)


def swaps(
    weight: Tensor,
    statistics: Statistics,
    mask: Tensor,
    pattern: Pattern,
    *,
    rounds: int,
    name: str,
    columns: int = COLUMNS,
) -> Refined:
    """The best swap of a kept and a removed weight, row by row, again and again while it lowers the row's loss
    (SparseSwaps).

    weight   (out, in), any float dtype; never modified
    mask     (out, in) bool, True = kept, of that pattern. A swap stays in its N:M group or, for group "block", in its
             `columns` columns; in its row otherwise, so that every count holds
    rounds   most swaps per row

    Removing p and reviving u changes a row's loss by 2 w_p c_p + w_p^2 G_pp - 2 w_u c_u + w_u^2 G_uu - 2 w_p w_u G_pu
    with c = e G; all pairs of a row are looked at for every swap. Raises UsageError without a Gram matrix,
    SparsityError for a mask that breaks the pattern.
    """
    coarse = _checked_gram("swaps", statistics, mask, pattern, weight.shape, name, columns)
    width = weight.shape[1]
    size = pattern.of or (columns if pattern.group == "block" else width)
    work, gram = weight.detach().double(), coarse.double()
    removed = work.masked_fill(mask, 0)
    correlation = removed @ gram
    before = (correlation * removed).sum(1).clamp(min=0)
    table: Table = SmallGroups if pattern.of else LargeGroups
    order = table.order(width, size).to(mask.device)
    exact, searched = (pad(matrix, (0, 1, 0, 1))[order][:, order] for matrix in (gram, coarse))
    refined, done = pad(mask, (0, 1)), 0
    row_bytes = (
        table.held(mask, size) * coarse.dtype.itemsize + 64 * width
    )  # bytes of a row: its pairs, eight numbers for every input
    for rows in _chunks(mask, row_bytes):
        status = torch.where(mask[rows], 1, -1).to(coarse.dtype)
        weights, status, correlations = (
            pad(part, (0, 1))[:, order] for part in (work[rows], status, correlation[rows])
        )
        done += _swap(weights, status, correlations, exact, searched, table, size, rounds)
        refined[rows[:, None], order] = status > 0
    return _finish(work, gram, mask, refined[:, :width], before, done, statistics.tokens, by_row=True)


def _chunks(mask: Tensor, row_bytes: int) -> Iterator[Tensor]:
    """Row numbers that take CHUNK bytes together, `held` each, equally many; rows that keep about as many together, so
    that little is padding.
    """
    chunks = -(-len(mask) * row_bytes // (CHUNK_CUDA if mask.is_cuda else CHUNK))
    yield from mask.sum(1).argsort(stable=True).tensor_split(min(chunks, len(mask)))


def _swap(
    weight: Tensor,
    status: Tensor,
    correlation: Tensor,
    gram: Tensor,
    coarse: Tensor,
    table: Table,
    size: int,
    rounds: int,
) -> int:
    """Swaps in the rows of `status`, in place; how many were done.

    weight, correlation (rows, columns) float64; status (rows, columns) in the dtype of the search: 1 kept, -1 removed,
    0 no weight; columns in the table's order. gram, coarse (columns, columns): float64 and the dtype of the search.
    """
    result, status = status, status.clone()
    number, done, diagonal = torch.arange(len(status), device=status.device), 0, gram.diagonal().contiguous()
    alone_cost = (weight.square() * diagonal).to(coarse.dtype).masked_fill_(status == 0, torch.inf)
    signed = (2 * weight * status).to(coarse.dtype)
    pairs = table(weight.to(coarse.dtype), status, coarse, size)
    price, line = torch.empty_like(alone_cost), torch.empty_like(weight)  # memory that every round uses again
    for _ in range(rounds):
        torch.addcmul(alone_cost, signed, price.copy_(correlation), out=price)
        both = pairs.best(price, status)
        before = status.gather(1, both)
        freed = weight.gather(1, both) * before  # what a swap adds to the removed weights of the row
        alone = freed * torch.add(
            freed * diagonal[both], correlation.gather(1, both), alpha=2
        )  # what each of the two alone would change
        (p, u), (one, other), (f, g), (s, t) = (pair.unbind(1) for pair in (both, alone, freed, before))
        change = torch.addcmul(one + other, f * g, gram[p, u], value=2)
        going = (change < -ROUNDING * (one.abs() + other.abs())) & (s * t < 0)
        count = int(going.sum())
        if not count:
            break
        if 2 * count <= len(going):
            result[number] = status
            rows = going.nonzero().flatten()
            number, weight, status, correlation, alone_cost, signed = (
                part[rows] for part in (number, weight, status, correlation, alone_cost, signed)
            )
            both, before, freed, going = both[rows], before[rows], freed[rows], going[rows]
            price, line = price[:count], line[:count]
            pairs.take(rows)
        done += count
        if count < len(going):
            freed *= going[:, None]
        for end in (0, 1):
            correlation.addcmul_(torch.index_select(gram, 0, both[:, end], out=line), freed[:, end : end + 1])
        flip = torch.where(going, -1.0, 1.0).to(status.dtype)[:, None]
        status.scatter_(1, both, before * flip)
        signed.scatter_(1, both, signed.gather(1, both) * flip)
        pairs.update(both, going)
    result[number] = status
    return done


def frank_wolfe(
    weight: Tensor,
    statistics: Statistics,
    mask: Tensor,
    pattern: Pattern,
    scores: Tensor,
    *,
    iterations: int,
    protect: float,
    name: str,
    columns: int = COLUMNS,
) -> Refined:
    """The mask relaxed to [0, 1], moved by Frank-Wolfe steps, and rounded again (SparseFW, algorithm 1).

    weight   (out, in), any float dtype; never modified
    mask     (out, in) bool, True = kept, of that pattern: the start
    scores   (out, in), larger = keep: of the kept weights of each group the share `protect` with the largest scores
             stays
    columns  width of a column block of group "block"

    Each iteration moves 2 / (t + 2) of the way to the mask of the steepest descent: in each group of the pattern the
    most negative gradients, as many as the group keeps, positive ones left out. The largest entries stay in the end, of
    equal ones those with the most negative gradient. A mask that is no better than the start is dropped ("kept start"):
    row by row where rows have counts of their own, as a whole elsewhere. Raises UsageError without a Gram matrix,
    SparsityError for a mask that breaks the pattern.
    """
    gram = _checked_gram("fw", statistics, mask, pattern, weight.shape, name, columns)
    if scores.shape != weight.shape or not 0 <= protect < 1:
        raise UsageError(
            f"fw on {name}: scores must be {tuple(weight.shape)}, got {tuple(scores.shape)}; protect must be from 0 to"
            f" below 1, got {protect:g}"
        )
    work = weight.detach().to(gram.dtype)
    protected = _protected(scores, mask, pattern, protect, columns)
    relaxed = mask.to(work.dtype)
    votes = torch.zeros_like(
        work, dtype=torch.float64
    )  # steps 2 / (t + 2) average the masks moved to with weights t + 1: exact, ties included
    for iteration in range(1, iterations + 1):
        vertex = _vertex(_descent(work, relaxed, gram), protected, pattern, name, columns)
        votes.add_(vertex, alpha=iteration)
        relaxed = votes.div(iteration * (iteration + 1) // 2).to(work.dtype)
    steepest = _descent(work, relaxed, gram).flatten().argsort(descending=True, stable=True)
    votes.view(-1)[steepest] -= torch.arange(len(steepest), dtype=votes.dtype, device=votes.device) / len(steepest)
    refined = choose(votes.masked_fill_(protected, torch.inf), pattern, name=name, columns=columns)
    work, gram = weight.detach().double(), gram.double()
    by_row = pattern.of is not None or pattern.group == "row"
    return _finish(
        work, gram, mask, refined, _row_losses(work, mask, gram), iterations, statistics.tokens, by_row=by_row
    )


def _descent(weight: Tensor, relaxed: Tensor, gram: Tensor) -> Tensor:
    """Minus half the gradient of tr(E G E^T), E = W - M * W, by the mask M (out, in): W * (E G)."""
    return (torch.addcmul(weight, weight, relaxed, value=-1) @ gram).mul_(weight)


def _vertex(descent: Tensor, protected: Tensor, pattern: Pattern, name: str, columns: int) -> Tensor:
    """The mask (out, in) bool to move to: the protected weights and, as far as the counts go, the largest positive
    descents.
    """
    descent = descent.masked_fill(protected, torch.inf)
    return choose(descent, pattern, name=name, columns=columns) & (descent > 0)


def _protected(scores: Tensor, mask: Tensor, pattern: Pattern, share: float, columns: int) -> Tensor:
    """Bool mask (out, in) of the floor(share * kept) largest scores among the kept weights of every group of the
    pattern.
    """
    scores = torch.where(mask, scores, -torch.inf)
    parts = []
    for start, stop in column_blocks(scores.shape[1], columns if pattern.group == "block" else scores.shape[1]):
        part, part_mask = scores[:, start:stop], mask[:, start:stop]
        size = pattern.of or (stop if pattern.group == "row" else part.numel())
        keep = int(share * int(part_mask.reshape(-1, size)[0].sum()) + 1e-9)
        parts.append(keep_largest(part.reshape(-1, size), keep).view_as(part))
    return torch.cat(parts, 1)


def _checked_gram(
    method: str, statistics: Statistics, mask: Tensor, pattern: Pattern, shape: torch.Size, name: str, columns: int
) -> Tensor:
    """The Gram matrix of the statistics. Raises UsageError where there is none or the mask has another shape,
    SparsityError for a mask that breaks the pattern.
    """
    if statistics.gram is None:
        raise UsageError(f"{method} needs the Gram matrix of {name}'s input; collect it with want='gram'")
    if mask.dtype != torch.bool or mask.shape != shape:
        raise UsageError(
            f"{method} on {name}: the mask must be bool of shape {tuple(shape)}, got {mask.dtype} of shape"
            f" {tuple(mask.shape)}"
        )
    check_mask(mask, pattern, name=name, columns=columns)
    return statistics.gram


def _row_losses(weight: Tensor, mask: Tensor, gram: Tensor) -> Tensor:
    """(out,) e G e^T of every row in float64; not below the zero that a rounded Gram matrix can miss."""
    removed = weight.masked_fill(mask, 0)
    return (removed @ gram * removed).sum(1).clamp(min=0)


def _finish(
    weight: Tensor,
    gram: Tensor,
    start: Tensor,
    refined: Tensor,
    before: Tensor,
    steps: int,
    tokens: int,
    *,
    by_row: bool,
) -> Refined:
    """The result in float64, with the start in place of what became no better: single rows, or all of them."""
    after, changed = _row_losses(weight, refined, gram), (refined != start).any(1)
    if by_row:
        dropped = changed & ~(after < before)
    else:
        dropped = (changed.any() & ~(after.sum() < before.sum())).expand_as(changed)
    mask = torch.where(dropped[:, None], start, refined)
    after = torch.where(changed & ~dropped, after, before)
    notes = (Note("kept start", float(dropped.sum())),) if bool(dropped.any()) else ()
    loss_before, loss_after = (float(loss.sum()) / (tokens * len(loss)) for loss in (before, after))
    return Refined(mask, loss_before, loss_after, steps, notes)


def _swaps(
    weight: Tensor, statistics: Statistics, mask: Tensor, pattern: Pattern, scores: Tensor, **options: Any
) -> Refined:
    """`swaps`, which looks at no scores."""
    return swaps(weight, statistics, mask, pattern, **options)


REFINERS: dict[str, Callable[..., Refined]] = {"swaps": _swaps, "fw": frank_wolfe}
"""Functions of `frank_wolfe`'s signature, by the refinement's word; "none" has no function."""
