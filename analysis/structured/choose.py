"""Which heads and neurons stay: a recipe's criterion and pattern on the evidence, for some of a model's pairs or for
all of them at once.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.masks.shares import block_sizes, check_named, matrix_shares
from analysis.models.anatomy import Anatomy
from analysis.models.task_heads import check_answers
from analysis.recipe.parts import Criterion, Pattern
from analysis.recipe.words import STRUCTURED_WORDS
from analysis.structured.budget import select
from analysis.structured.criteria import (
    Evidence,
    consumer_statistics,
    mask_gradients,
    ranking,
    structure_scores,
    token_batches,
)
from analysis.structured.find import KINDS, structures
from analysis.structured.pairs import Pair, Structures
from analysis.windows import Windows

WINDOWS_PER_GRADIENT = 8  # windows whose loss makes one gradient


def wanted_evidence(criterion: Criterion) -> str | None:
    """What the criterion looks at: "statistics" of the consumers' inputs, "gradients" of the loss, or nothing."""
    return STRUCTURED_WORDS[criterion.name].evidence


def pattern_structures(model: nn.Module, parts: Anatomy, pattern: Pattern) -> Structures:
    """The structures that a pattern speaks of.

    Raises UnsupportedModel where the model's cannot be told apart, UsageError for a share of a layer that whole
    structures cannot express, and for shares of matrices that are no consumers of structures.
    """
    kinds = [pattern.kind] if pattern.kind in KINDS else list(KINDS)
    candidates = structures(model, parts, kinds=kinds, heads=pattern.heads)
    if pattern.scope == "uniform":
        shares = matrix_shares(pattern, block_sizes(parts))
        check_named(pattern, [pair.name for pair in candidates])
        even = {pair.name: torch.zeros(pair.count) for pair in candidates}
        masks = _select_each(candidates, even, pattern, shares)
        if any(shares.values() or [share_of(pattern)]) and all(bool(mask.all()) for mask in masks.values()):
            raise UsageError(f"{pattern} removes nothing, by rounding; give a larger share, or 0%")
    return candidates


def _select_each(
    pairs: Structures | Sequence[Pair], scores: Mapping[str, Tensor], pattern: Pattern, shares: Mapping[str, float]
) -> dict[str, Tensor]:
    """`select` of every pair on its own, by the share of its consumer."""
    masks: dict[str, Tensor] = {}
    for pair in pairs:
        masks |= select([pair], scores, shares.get(pair.name, share_of(pattern)))
    return masks


def share_of(pattern: Pattern) -> float:
    """The share of structures that a pattern removes."""
    assert pattern.sparsity is not None, "a recipe checks that whole structures take a share"
    return pattern.sparsity


def dense_evidence(
    model: nn.Module, structures: Structures, windows: Windows, criterion: Criterion, precision: torch.dtype
) -> dict[str, Evidence]:
    """The evidence of every pair on the model as it stands, from one pass over the windows."""
    batches = token_batches(windows, WINDOWS_PER_GRADIENT)
    if wanted_evidence(criterion) == "gradients":
        check_answers(model, windows, f"criterion {criterion.name}: it follows the loss")
        return {
            name: Evidence(gradients=gradients)
            for name, gradients in mask_gradients(model, structures, batches).items()
        }
    if wanted_evidence(criterion) == "statistics":
        return {
            name: Evidence(statistics)
            for name, statistics in consumer_statistics(model, structures, batches, precision=precision).items()
        }
    return {}


def choose_structures(
    pairs: Structures | Sequence[Pair],
    criterion: Criterion,
    pattern: Pattern,
    evidence: Mapping[str, Evidence],
    generator: Callable[[str], torch.Generator],
    shares: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Masks: consumer's name -> (count,) bool, True = kept. With the scope "global" the pairs compete, so all of them
    are needed.

    evidence   of every pair, by its name, where the criterion wants any
    generator  a source of random scores for each pair's name
    shares     of each pair, by its name, where the pattern is uneven

    Raises as `structure_scores` and `select`.
    """
    scores = {
        pair.name: structure_scores(
            criterion.name, pair, evidence.get(pair.name), generator(pair.name), **criterion.options()
        )
        for pair in pairs
    }
    if shares:
        return _select_each(pairs, scores, pattern, shares)
    return select(
        pairs, scores, share_of(pattern), scope=pattern.scope, context=pattern.flops, rule=ranking(criterion.name)
    )
