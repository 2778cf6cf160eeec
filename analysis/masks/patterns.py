"""What a mask may look like, and how many weights it keeps: always exactly as many as it says, ties included.

Of equal scores the first in reading order (row by row, left to right) is kept.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from analysis.errors import SparsityError, UsageError
from analysis.recipe.parts import Pattern

COLUMNS = 128  # width of a column block, SparseGPT's default
RANKED = 16  # largest N:M group whose weights are compared pair by pair rather than sorted

PATTERNS: dict[str, Callable[..., Tensor]] = {}
"""Patterns from outside the package, by the word of their kind: functions of scores (out, in), the share to remove and
the options of the word, which give a bool mask (out, in) with an exact count in the matrix (`extend.py`)."""


def kept(size: int, sparsity: float) -> int:
    """How many of `size` weights stay: size - round(sparsity * size), Python's rounding (a half to the even side)."""
    return size - round(sparsity * size)


def keep_largest(scores: Tensor, keep: int) -> Tensor:
    """Bool mask (groups, size) with exactly `keep` True in every row: the largest scores, the first of equal ones."""
    groups, size = scores.shape
    if keep in (0, size):
        return torch.full((groups, size), keep == size, dtype=torch.bool, device=scores.device)
    threshold = _largest(scores, keep)
    mask = scores >= threshold
    if bool((mask.sum(1) > keep).any()):
        above, ties = scores > threshold, scores == threshold
        mask = above | (ties & (ties.cumsum(1) <= keep - above.sum(1, keepdim=True)))
    return mask


def _largest(scores: Tensor, keep: int) -> Tensor:
    """The `keep`-th largest of every row, (groups, 1). On the CPU NumPy's selection takes a third of the time of
    torch's.
    """
    if scores.is_cpu and scores.dtype in (torch.float32, torch.float64):
        rank = scores.shape[1] - keep
        return torch.from_numpy(np.partition(scores.numpy(), rank, axis=1)[:, rank : rank + 1])
    return scores.topk(keep, dim=1, sorted=False).values.amin(1, keepdim=True)


def keep_n_of_m(scores: Tensor, keep: int, of: int) -> Tensor:
    """Bool mask (out, in) that keeps the `keep` largest of every `of` consecutive inputs, the first of equal ones; `of`
    divides in.
    """
    if of > RANKED:
        groups = scores.reshape(-1, of)
        best = groups.sort(dim=1, descending=True, stable=True).indices[:, :keep]
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, best, True).view(scores.shape)
    columns = torch.stack(scores.reshape(-1, of).unbind(1))
    rank = torch.arange(of - 1, -1, -1, dtype=torch.int8, device=scores.device)[:, None].repeat(
        1, columns.shape[1]
    )  # as if later ones were larger
    for step in range(1, of):
        first = (columns[:-step] >= columns[step:]).view(torch.int8)
        rank[:-step] -= first
        rank[step:] += first
    return torch.stack((rank < keep).unbind(), 1).view(scores.shape)


def n_of_m(pattern: Pattern) -> tuple[int, int] | None:
    """N and M of an N:M pattern; None for a sparsity."""
    return None if pattern.keep is None or pattern.of is None else (pattern.keep, pattern.of)


def sparsity_of(pattern: Pattern, name: str) -> float:
    """The share of weights that a pattern removes of `name`. Raises UsageError where it is N:M."""
    if pattern.sparsity is None:
        raise UsageError(f"pattern of {name}: {pattern.keep}:{pattern.of} has no sparsity of its own")
    return pattern.sparsity


def kept_in(pattern: Pattern, rows: int, width: int, columns: int = COLUMNS) -> int:
    """How many weights of a matrix (rows, width) a pattern, its group resolved, keeps."""
    if shape := n_of_m(pattern):
        return rows * width * shape[0] // shape[1]
    sparsity = sparsity_of(pattern, "a matrix")
    if pattern.group == "row":
        return rows * kept(width, sparsity)
    if pattern.group == "block":
        return sum(kept(rows * (stop - start), sparsity) for start, stop in column_blocks(width, columns))
    return kept(rows * width, sparsity)


def check_width(width: int, pattern: Pattern, name: str) -> None:
    """Raises UsageError when an N:M pattern does not fit `width` inputs."""
    if pattern.of is not None and width % pattern.of:
        raise UsageError(
            f"pattern {pattern.keep}:{pattern.of} does not fit {name}: its {width} inputs are not divisible by"
            f" {pattern.of}; choose another pattern or an unstructured sparsity"
        )


def column_blocks(width: int, columns: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive column blocks; the last may be narrower."""
    for start in range(0, width, columns):
        yield start, min(start + columns, width)


def choose(scores: Tensor, pattern: Pattern, *, name: str, columns: int = COLUMNS) -> Tensor:
    """The mask of the largest scores.

    scores   (out, in), larger = keep; must hold no NaN
    pattern  N:M, or a sparsity whose group is "matrix", "row" or "block" (all rows of `columns` columns)
    name     the matrix, for error messages

    Returns a bool mask (out, in), True = kept. Raises UsageError when N:M does not fit or the group is unresolved.
    """
    rows, width = scores.shape
    if pattern.kind in PATTERNS:
        mask = PATTERNS[pattern.kind](scores, pattern.sparsity, **pattern.own_options())
        if mask.dtype != torch.bool or mask.shape != scores.shape:
            raise SparsityError(
                f"pattern {pattern.kind} of {name}: the mask must be bool of shape {(rows, width)}, got {mask.dtype} of"
                f" shape {tuple(mask.shape)}"
            )
        return mask.to(scores.device)
    check_width(width, pattern, name)
    if shape := n_of_m(pattern):
        return keep_n_of_m(scores, *shape)
    sparsity = sparsity_of(pattern, name)
    if pattern.group == "row":
        return keep_largest(scores, kept(width, sparsity))
    if pattern.group == "matrix":
        return keep_largest(scores.reshape(1, -1), kept(rows * width, sparsity)).view(rows, width)
    if pattern.group == "block":
        whole = Pattern(sparsity=pattern.sparsity, group="matrix")
        parts = [choose(scores[:, start:stop], whole, name=name) for start, stop in column_blocks(width, columns)]
        return torch.cat(parts, dim=1)
    raise UsageError(f"pattern of {name}: group {pattern.group!r} must be resolved first (Pattern.resolve)")


def check_mask(mask: Tensor, pattern: Pattern, *, name: str, columns: int = COLUMNS) -> None:
    """Raises SparsityError unless every group of the mask (out, in) keeps exactly what the pattern says."""
    rows, width = mask.shape
    if pattern.kind in PATTERNS and pattern.sparsity is not None:
        _check_counts(mask.sum().view(1), kept(mask.numel(), pattern.sparsity), "matrix", name)
        return
    check_width(width, pattern, name)
    if shape := n_of_m(pattern):
        keep, of = shape
        _check_counts(mask.reshape(-1, of).sum(1), keep, f"group of {of}", name)
        return
    sparsity = sparsity_of(pattern, name)
    if pattern.group == "row":
        _check_counts(mask.sum(1), kept(width, sparsity), "row", name)
    elif pattern.group == "matrix":
        _check_counts(mask.sum().view(1), kept(mask.numel(), sparsity), "matrix", name)
    elif pattern.group == "block":
        for start, stop in column_blocks(width, columns):
            expected = kept(rows * (stop - start), sparsity)
            _check_counts(mask[:, start:stop].sum().view(1), expected, f"columns {start}:{stop}, block", name)
    else:
        raise UsageError(f"pattern of {name}: group {pattern.group!r} must be resolved first (Pattern.resolve)")


def _check_counts(counts: Tensor, expected: int, group: str, name: str) -> None:
    wrong = (counts != expected).nonzero().flatten().tolist()
    if wrong:
        raise SparsityError(
            f"mask of {name}: {group} {wrong[0]} keeps {int(counts[wrong[0]])} weights instead of {expected} "
            f"({len(wrong)} of {len(counts)} groups are wrong)"
        )
