"""Masks of structures out of their scores: a share of every layer, or a budget of parameters or FLOPs over all of
them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import NumericalError, UsageError
from analysis.structured.find import KINDS
from analysis.structured.pairs import Structure

SLACK = 0.01  # how far the share that whole structures can express may be from the share asked


@dataclass(frozen=True, eq=False)
class _Units:
    """What of one place can go at once, best first. members (units, groups): structures. scores (units,). cost: of one
    unit.
    """

    structure: Structure
    members: Tensor
    scores: Tensor
    cost: int

    def mask(self, kept: int) -> Tensor:
        mask = torch.zeros(self.structure.count, dtype=torch.bool)
        mask[self.members[:kept].flatten()] = True
        return mask


def select(
    structures: Iterable[Structure],
    scores: Mapping[str, Tensor],
    removed: float,
    *,
    scope: str = "uniform",
    context: int | None = None,
    rule: str = "sum",
) -> dict[str, Tensor]:
    """Masks: consumer's name -> (count,) bool, True = kept. No place is ever emptied.

    scores   consumer's name -> (count,), higher = keep; equal scores keep the earlier structure
    removed  share to remove, 0 <= removed < 1: of every place's structures where the scope is "uniform"; of what all
             structures cost together where it is "global". Heads alone, neurons alone or both: `structures` says
    context  None: cost is parameters. A number: multiply-adds per token with so many keys (a budget of FLOPs)
    rule     of the global scope. "sum": within the budget the kept scores add up to as much as possible (Kwon et al.
             2022, section 3: every number of heads is tried, neurons fill the rest); scores must not be negative.
             "threshold": from the best down until the next does not fit (FLAP)

    Where query heads are removed within KV groups, every group gives up its worst, its second worst and so on together.
    Raises UsageError for scores that do not fit, for a share that whole structures cannot express (it names those that
    can), and for a budget no mask meets.
    """
    if not 0 <= removed < 1:
        raise UsageError(f"select: removed={removed!r} must be a share from 0 to below 1")
    if scope not in ("uniform", "global") or rule not in ("sum", "threshold"):
        raise UsageError(
            f"select: scope={scope!r}, rule={rule!r}; scope is 'uniform' or 'global', rule 'sum' or 'threshold'"
        )
    units = [_units(structure, scores.get(structure.name), context, rule) for structure in structures]
    if scope == "uniform":
        counts = [_expressed(unit, removed) for unit in units]
    else:
        budget = _budget(units, removed)
        counts = _largest_sum(units, budget) if rule == "sum" else _above_threshold(units, budget)
    return {unit.structure.name: unit.mask(count) for unit, count in zip(units, counts, strict=True)}


def cost(structures: Iterable[Structure], masks: Mapping[str, Tensor] | None = None, context: int | None = None) -> int:
    """What the structures that `masks` keeps cost (all of them without): parameters, or multiply-adds per token at a
    context.
    """
    total = 0
    for structure in structures:
        kept = structure.count if masks is None or structure.name not in masks else int(masks[structure.name].sum())
        total += structure.cost(context) * kept
    return total


def _units(structure: Structure, scores: Tensor | None, context: int | None, rule: str) -> _Units:
    if scores is None or scores.shape != (structure.count,):
        raise UsageError(
            f"select: {structure.name} has {structure.count} {structure.kind}, its scores are"
            f" {'missing' if scores is None else tuple(scores.shape)}"
        )
    scores = scores.double().cpu()
    if not bool(scores.isfinite().all()):
        raise NumericalError(f"select: scores of {structure.name} are not finite")
    by_group = torch.arange(structure.count).view(-1, structure.units)
    order = scores[by_group].sort(dim=1, descending=True, stable=True).indices
    members = by_group.gather(1, order).T
    values = scores[members].mean(1) if rule == "threshold" else scores[members].sum(1)
    return _Units(structure, members, values, structure.cost(context) * members.shape[1])


def _expressed(unit: _Units, removed: float) -> int:
    """How many units of a place stay at a share; raises UsageError where none come close to it."""
    structure, total = unit.structure, len(unit.scores)
    kept = math.floor(total * (1 - removed) + 0.5)
    if kept < 1 or abs(1 - kept / total - removed) > SLACK:
        possible = (
            ", ".join(f"{gone / total:.4g}" for gone in range(total)) if total <= 32 else f"0 to {1 - 1 / total:.4g}"
        )
        raise UsageError(
            f"select: {removed:.4g} of {structure.name} cannot be removed: it has {structure.contents}; the shares it"
            f" can lose are {possible}"
        )
    return kept


def _budget(units: list[_Units], removed: float) -> int:
    """What may be kept in the global scope; raises UsageError where even one unit per pair costs more."""
    total = sum(unit.cost * len(unit.scores) for unit in units)
    least = sum(unit.cost for unit in units)
    budget = math.floor(total * (1 - removed) + 1e-6)
    if budget < least:
        raise UsageError(
            f"select: no mask removes {removed:.4g} of these structures: one in each of {len(units)} layers must stay,"
            f" which is {least:,} of {total:,}; the most that can be removed is {1 - least / total:.4g}"
        )
    return budget


def _ranked(units: Sequence[_Units]) -> tuple[Tensor, Tensor]:
    """The pair of each unit, and its score, in the order they are kept: first the best of every pair, then the rest
    from the best down.
    """
    pairs = torch.cat([torch.full((len(unit.scores),), index) for index, unit in enumerate(units)])
    scores = torch.cat([unit.scores for unit in units])
    first = torch.cat([torch.arange(len(unit.scores)) == 0 for unit in units])
    order = scores.masked_fill(first, math.inf).sort(descending=True, stable=True).indices
    return pairs[order], scores[order]


def _largest_sum(units: list[_Units], budget: int) -> list[int]:
    """Kept units of every pair: those whose scores add up to most within the budget."""
    if any(bool((unit.scores < 0).any()) for unit in units):
        raise UsageError(
            "select: rule 'sum' needs scores >= 0, some are negative; use rule='threshold', which only compares them"
        )
    kinds = {kind: [index for index, unit in enumerate(units) if unit.structure.kind == kind] for kind in KINDS}
    kinds = {kind: where for kind, where in kinds.items() if where}
    prices = {kind: {units[index].cost for index in where} for kind, where in kinds.items()}
    if any(len(price) > 1 for price in prices.values()):
        raise UsageError(
            "select: rule 'sum' needs structures of one kind to cost the same in every layer, these do not; use"
            " rule='threshold'"
        )
    ranked = {kind: _ranked([units[index] for index in where]) for kind, where in kinds.items()}
    totals = {kind: scores.cumsum(0) for kind, (_, scores) in ranked.items()}

    def most(kind: str, left: int) -> int:
        return min(left // next(iter(prices[kind])), len(totals[kind]))

    kind, *others = kinds
    ladder = range(len(kinds[kind]), most(kind, budget) + 1) if others else [most(kind, budget)]
    best, chosen = -math.inf, {}
    for count in ladder:
        counts = {kind: count} | {other: most(other, budget - count * next(iter(prices[kind]))) for other in others}
        value = sum(float(totals[which][number - 1]) for which, number in counts.items())
        if all(number >= len(kinds[which]) for which, number in counts.items()) and value > best:
            best, chosen = value, counts
    kept = [0] * len(units)
    for which, number in chosen.items():
        for index, count in zip(
            kinds[which], ranked[which][0][:number].bincount(minlength=len(kinds[which])).tolist(), strict=True
        ):
            kept[index] = count
    return kept


def _above_threshold(units: list[_Units], budget: int) -> list[int]:
    """Kept units of every pair: the best of each, and from the best of the rest down until the next does not fit."""
    counts = [0] * len(units)
    for index in _ranked(units)[0].tolist():
        if counts[index] and budget < units[index].cost:
            break
        counts[index] += 1
        budget -= units[index].cost
    return counts
