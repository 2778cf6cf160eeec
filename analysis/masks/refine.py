"""A better mask with the same counts, from the Gram matrix alone: SparseSwaps (arXiv 2512.10922) and SparseFW (arXiv 2510.13713).

Both lower what a mask costs while the kept weights stay as they are. With e = (1 - m) w the removed weights of one row and
G = sum x x^T over the calibration tokens, the row's squared output difference is e G e^T.

Decisions that rounding could spoil (the correlations c = e G, the change a swap makes, every loss) are made in float64; only the search for
the best pair and SparseFW's product run in the Gram matrix's dtype.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from analysis.errors import UsageError
from analysis.masks.notes import Note
from analysis.masks.patterns import COLUMNS, check_mask, choose, column_blocks, keep_largest
from analysis.masks.statistics import Statistics
from analysis.recipe import Pattern, Refinement

CHUNK, CHUNK_CUDA = 2**24, 2**30  # bytes swaps holds at once, on a CPU what a last-level cache holds; one row where a row needs more
CACHE = 2**19  # bytes of pair costs passed over at once on a CPU
LANES = 32  # the minimum over a row of costs whose length these divide takes half the time
ROUNDING = 1e-12  # a swap must lower its row's loss by more than this share of what its two weights alone would change


@dataclass(frozen=True, eq=False)
class Refined:
    """A refined mask, and what it gained.

    mask          (out, in) bool, True = kept; counts as in the mask it came from
    loss_before,
    loss_after    squared output difference with kept weights unchanged, mean over tokens and output rows: tr(E G E^T) / (tokens * out),
                  by definition in float64; loss_after <= loss_before
    steps         swaps done in all rows ("swaps"), iterations ("fw")
    notes         the rules that had to be used
    """

    mask: Tensor
    loss_before: float
    loss_after: float
    steps: int
    notes: tuple[Note, ...]


def refine(
    refinement: Refinement, weight: Tensor, statistics: Statistics, mask: Tensor, pattern: Pattern, scores: Tensor, *,
    name: str, columns: int = COLUMNS,
) -> Refined:  # fmt: skip
    """The mask that a recipe's refinement makes of `mask`: `swaps` or `frank_wolfe`, whose arguments these are."""
    if refinement.name == "swaps":
        return swaps(weight, statistics, mask, pattern, rounds=refinement.rounds, name=name, columns=columns)
    if refinement.name == "fw":
        iterations, protect = refinement.iterations, refinement.protect
        return frank_wolfe(weight, statistics, mask, pattern, scores, iterations=iterations, protect=protect, name=name, columns=columns)
    raise UsageError(f"refine: refinement {refinement.name!r} leaves the mask of {name} as it is; it is 'swaps' or 'fw'")


def swaps(weight: Tensor, statistics: Statistics, mask: Tensor, pattern: Pattern, *, rounds: int, name: str, columns: int = COLUMNS) -> Refined:
    """The best swap of a kept and a removed weight, row by row, again and again while it lowers the row's loss (SparseSwaps).

    weight   (out, in), any float dtype; never modified
    mask     (out, in) bool, True = kept, of that pattern. A swap stays in its N:M group or, for group "block", in its `columns` columns; in its
             row otherwise, so that every count holds
    rounds   most swaps per row

    Removing p and reviving u changes a row's loss by 2 w_p c_p + w_p^2 G_pp - 2 w_u c_u + w_u^2 G_uu - 2 w_p w_u G_pu with c = e G; all pairs
    of a row are looked at for every swap. Raises UsageError without a Gram matrix, SparsityError for a mask that breaks the pattern.
    """
    _check("swaps", statistics, mask, pattern, tuple(weight.shape), name, columns)
    width = weight.shape[1]
    size = pattern.of or (columns if pattern.group == "block" else width)
    work, gram = weight.detach().double(), statistics.gram.double()
    removed = work.masked_fill(mask, 0)
    correlation = removed @ gram
    before = (correlation * removed).sum(1).clamp(min=0)
    padded = (pad(gram, (0, 1, 0, 1)), pad(statistics.gram, (0, 1, 0, 1)))
    refined, done = pad(mask, (0, 1)), 0
    for rows in _chunks(mask, size, statistics.gram.dtype.itemsize):
        done += _swap(work[rows], refined, rows, correlation[rows], *padded, size, rounds)
    return _finish(work, gram, mask, refined[:, :width], before, done, statistics.tokens, by_row=True)


def _chunks(mask: Tensor, size: int, itemsize: int) -> Iterator[Tensor]:
    """Row numbers that take CHUNK bytes together; rows that keep about as many come together, so that little is padding.

    A row takes its pairs, `itemsize` bytes each, and about twelve numbers of eight bytes for every input.
    """
    groups = -(-mask.shape[1] // size)
    most = 1
    for which in (mask, ~mask):
        most *= max(int(which[:, start:stop].sum(1).max()) for start, stop in column_blocks(mask.shape[1], size))
    held = most * groups * itemsize + 96 * mask.shape[1]
    yield from mask.sum(1).argsort(stable=True).split(max((CHUNK_CUDA if mask.is_cuda else CHUNK) // held, 1))


def _positions(which: Tensor, size: int, lanes: int = 1) -> Tensor:
    """Columns (rows, groups, slots) where `which` (rows, in) is True in each `size` columns, in order; `in` fills up shorter groups.

    As many slots as the fullest group needs, rounded up to a multiple of `lanes`.
    """
    rows, width = which.shape
    groups = -(-width // size)
    which = pad(which, (0, groups * size - width)).view(rows, groups, size)
    slot = which.cumsum(2)
    slots = -(-int(slot[..., -1].max()) // lanes) * lanes
    found = torch.full((rows, groups, slots + 1), width, device=which.device)
    column = torch.arange(groups * size, device=which.device).view(1, groups, size).expand_as(which)
    return found.scatter_(2, torch.where(which, slot - 1, slots), column)[..., :slots].contiguous()


def _swap(weight: Tensor, refined: Tensor, number: Tensor, correlation: Tensor, gram: Tensor, coarse: Tensor, size: int, rounds: int) -> int:
    """Swaps in rows `number` of `refined` (out, in + 1), in place; how many were done.

    weight, correlation (rows, in) float64: of those rows. gram, coarse (in + 1, in + 1): float64 and the dtype of the search, zero in the last
    row and column. Column `in` stands for "no weight": its weight is 0 and its price infinite.
    """
    width = weight.shape[1]
    mask = refined[number, :width]
    kept, removed = _positions(mask, size), _positions(~mask, size, LANES if size >= 2 * LANES else 1)  # (rows, groups, slots)
    if not kept.shape[2] or not removed.shape[2]:
        return 0
    weight, correlation = pad(weight, (0, 1)), pad(correlation, (0, 1))
    single = weight.to(coarse.dtype)
    signed = 2 * weight * pad(torch.where(mask, 1, -1), (0, 1))
    own = weight.square() * gram.diagonal()
    own[:, width] = torch.inf
    stored = coarse[kept[..., None], removed[..., None, :]]  # of every pair: -2 w_p w_u G_pu
    stored *= -2 * single.gather(1, kept.flatten(1)).view_as(kept)[..., None]
    stored *= single.gather(1, removed.flatten(1)).view_as(removed)[..., None, :]
    many = kept.shape[1] > removed.shape[2]  # many small groups: lay them out along the fastest dimension
    if many:
        stored = stored.permute(0, 2, 3, 1).contiguous()
    done = 0
    for _ in range(rounds):
        pairs = stored.permute(0, 3, 1, 2) if many else stored  # (rows, groups, kept slots, removed slots)
        row = torch.arange(len(pairs), device=pairs.device)
        price = torch.addcmul(own, signed, correlation)  # what removing, or reviving, this weight alone would change
        rough = price.to(coarse.dtype)
        revive = rough.gather(1, removed.flatten(1)).view_as(removed)
        best = _cheapest_partner(pairs, revive).add_(rough.gather(1, kept.flatten(1)).view_as(kept)).flatten(1).argmin(1)
        group, leaves = best // kept.shape[2], best % kept.shape[2]
        enters = (pairs[row, group, leaves] + revive[row, group]).argmin(1)
        p, u = kept[row, group, leaves], removed[row, group, enters]
        alone = price[row, p].abs() + price[row, u].abs()
        change = price[row, p] + price[row, u] - 2 * weight[row, p] * weight[row, u] * gram[p, u]
        going = change < -ROUNDING * alone
        count = int(going.sum())
        if not count:
            break
        if 2 * count <= len(going):
            rows = going.nonzero().flatten()
            number, stored, kept, removed, weight, single = (t[rows] for t in (number, stored, kept, removed, weight, single))
            own, signed, correlation = own[rows], signed[rows], correlation[rows]
            row, p, u, group, leaves, enters = row[:count], p[rows], u[rows], group[rows], leaves[rows], enters[rows]
            going = going[rows]
            pairs = stored.permute(0, 3, 1, 2) if many else stored
        done += count
        w_p, w_u = weight[row, p] * going, weight[row, u] * going
        correlation.addcmul_(gram.index_select(0, p), w_p[:, None]).addcmul_(gram.index_select(0, u), w_u[:, None], value=-1)
        signed[row, p], signed[row, u] = torch.where(going, -signed[row, p], signed[row, p]), torch.where(going, -signed[row, u], signed[row, u])
        p, u = torch.where(going, u, p), torch.where(going, p, u)  # from here on p is kept and u removed, as before in rows without a swap
        refined[number, p], refined[number, u] = True, False
        kept[row, group, leaves], removed[row, group, enters] = p, u
        others = removed[row, group]
        pairs[row, group, leaves] = coarse[p[:, None], others].mul_(single.gather(1, others)).mul_(-2 * single[row, p][:, None])
        others = kept[row, group]
        pairs[row, group, :, enters] = coarse[u[:, None], others].mul_(single.gather(1, others)).mul_(-2 * single[row, u][:, None])
    return done


def _cheapest_partner(pairs: Tensor, revive: Tensor) -> Tensor:
    """For every kept weight the least cost (rows, groups, kept slots) of a pair and its revived weight, a cache full of rows at a time."""
    rows = pairs.shape[0]
    step = rows if pairs.is_cuda else min(max(CACHE * rows // (pairs.numel() * pairs.itemsize), 1), rows)
    least, costs = torch.empty_like(pairs[..., 0]), torch.empty_like(pairs[:step])
    for start in range(0, rows, step):
        here = slice(start, min(start + step, rows))
        cost = torch.add(pairs[here], revive[here, :, None], out=costs[: here.stop - start])
        torch.amin(cost, 3, out=least[here])
    return least


def frank_wolfe(
    weight: Tensor, statistics: Statistics, mask: Tensor, pattern: Pattern, scores: Tensor, *,
    iterations: int, protect: float, name: str, columns: int = COLUMNS,
) -> Refined:  # fmt: skip
    """The mask relaxed to [0, 1], moved by Frank-Wolfe steps, and rounded again (SparseFW, algorithm 1).

    weight   (out, in), any float dtype; never modified
    mask     (out, in) bool, True = kept, of that pattern: the start
    scores   (out, in), larger = keep: of the kept weights of each group the share `protect` with the largest scores stays
    columns  width of a column block of group "block"

    Each iteration moves 2 / (t + 2) of the way to the mask of the steepest descent: in each group of the pattern the most negative gradients,
    as many as the group keeps, positive ones left out. The largest entries stay in the end, of equal ones those with the most negative gradient.
    A mask that is no better than the start is dropped ("kept start"): row by row where rows have counts of their own, as a whole elsewhere.
    Raises UsageError without a Gram matrix, SparsityError for a mask that breaks the pattern.
    """
    _check("fw", statistics, mask, pattern, tuple(weight.shape), name, columns)
    if scores.shape != weight.shape or not 0 <= protect < 1:
        raise UsageError(
            f"fw on {name}: scores must be {tuple(weight.shape)}, got {tuple(scores.shape)}; protect must be from 0 to below 1, got {protect:g}"
        )
    work, gram = weight.detach().to(statistics.gram.dtype), statistics.gram
    protected = _protected(scores, mask, pattern, protect, columns)
    relaxed = mask.to(work.dtype)
    votes = torch.zeros_like(work, dtype=torch.float64)  # steps 2 / (t + 2) average the masks moved to with weights t + 1: exact, ties included
    for iteration in range(1, iterations + 1):
        vertex = _vertex(_descent(work, relaxed, gram), protected, pattern, name, columns)
        votes.add_(vertex, alpha=iteration)
        relaxed = votes.div(iteration * (iteration + 1) // 2).to(work.dtype)
    steepest = _descent(work, relaxed, gram).flatten().argsort(descending=True, stable=True)
    votes.view(-1)[steepest] -= torch.arange(len(steepest), dtype=votes.dtype, device=votes.device) / len(steepest)
    refined = choose(votes.masked_fill_(protected, torch.inf), pattern, name=name, columns=columns)
    work, gram = weight.detach().double(), gram.double()
    by_row = pattern.of is not None or pattern.group == "row"
    return _finish(work, gram, mask, refined, _row_losses(work, mask, gram), iterations, statistics.tokens, by_row=by_row)


def _descent(weight: Tensor, relaxed: Tensor, gram: Tensor) -> Tensor:
    """Minus half the gradient of tr(E G E^T), E = W - M * W, by the mask M (out, in): W * (E G)."""
    return (torch.addcmul(weight, weight, relaxed, value=-1) @ gram).mul_(weight)


def _vertex(descent: Tensor, protected: Tensor, pattern: Pattern, name: str, columns: int) -> Tensor:
    """The mask (out, in) bool to move to: the protected weights and, as far as the counts go, the largest positive descents."""
    descent = descent.masked_fill(protected, torch.inf)
    return choose(descent, pattern, name=name, columns=columns) & (descent > 0)


def _protected(scores: Tensor, mask: Tensor, pattern: Pattern, share: float, columns: int) -> Tensor:
    """Bool mask (out, in) of the floor(share * kept) largest scores among the kept weights of every group of the pattern."""
    scores = torch.where(mask, scores, -torch.inf)
    parts = []
    for start, stop in column_blocks(scores.shape[1], columns if pattern.group == "block" else scores.shape[1]):
        part, here = scores[:, start:stop], mask[:, start:stop]
        size = pattern.of or (stop if pattern.group == "row" else part.numel())
        keep = int(share * int(here.reshape(-1, size)[0].sum()) + 1e-9)
        parts.append(keep_largest(part.reshape(-1, size), keep).view_as(part))
    return torch.cat(parts, 1)


def _check(what: str, statistics: Statistics, mask: Tensor, pattern: Pattern, shape: tuple[int, int], name: str, columns: int) -> None:
    if statistics.gram is None:
        raise UsageError(f"{what} needs the Gram matrix of {name}'s input; collect it with want='gram'")
    if mask.dtype != torch.bool or mask.shape != shape:
        raise UsageError(f"{what} on {name}: the mask must be bool of shape {shape}, got {mask.dtype} of shape {tuple(mask.shape)}")
    check_mask(mask, pattern, name=name, columns=columns)


def _row_losses(weight: Tensor, mask: Tensor, gram: Tensor) -> Tensor:
    """(out,) e G e^T of every row in float64; not below the zero that a rounded Gram matrix can miss."""
    removed = weight.masked_fill(mask, 0)
    return (removed @ gram * removed).sum(1).clamp(min=0)


def _finish(weight: Tensor, gram: Tensor, start: Tensor, refined: Tensor, before: Tensor, steps: int, tokens: int, *, by_row: bool) -> Refined:
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
