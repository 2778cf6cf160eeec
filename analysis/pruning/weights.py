"""Masks of single weights."""

from collections.abc import Set
from dataclasses import replace

import torch
from torch import Tensor

from analysis.masks.choose import choose_mask, wanted_statistics
from analysis.masks.notes import Note
from analysis.masks.seeds import generator
from analysis.measure.cost import Meter
from analysis.models.anatomy import Block, Matrix
from analysis.pruning.state import State
from analysis.recipe.parts import Criterion, Refinement
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit
from analysis.streams.moments import Statistics
from analysis.streams.starved import is_starved
from analysis.streams.streams import input_statistics


def reads_statistics(recipe: Recipe) -> Set[str]:
    """The stream that criterion and refinement look at; none where they look at weights alone."""
    return {recipe.statistics} if wanted_statistics(recipe.criterion, recipe.refinement) is not None else set()


def choose_weights(state: State, visit: Visit, meter: Meter) -> None:
    """Choose the masks of a block's matrices and put their pruned weights in place.

    All matrices take their statistics from one forward of the block with its weights still unpruned, on the statistics
    stream, without the windows added to the calibration text unless the recipe says otherwise (Shin et al. 2024,
    released code).
    """
    recipe, block = state.recipe, state.pruned.blocks[visit.first]
    statistics: dict[str, Statistics] = {}
    wanted = wanted_statistics(recipe.criterion, recipe.refinement)
    if wanted is not None:
        observed, streams = state.side(recipe.statistics).blocks[visit.first], state.entry[0]
        hidden = streams.of(recipe.statistics)[: state.shown]
        with meter.stage(visit.index, "statistics", tokens=state.shown_tokens):
            statistics = input_statistics(
                observed,
                observed.matrices,
                streams,
                hidden,
                wanted,
                state.precision,
                starved=recipe.starved,
                gated=recipe.gated,
            )
    with meter.stage(visit.index, "mask"):
        for matrix in block.matrices:
            _choose_mask(state, block, matrix, statistics.get(matrix.name))


def _choose_mask(state: State, block: Block, matrix: Matrix, statistics: Statistics | None) -> None:
    name, recipe, weight = f"{block.name}.{matrix.name}", state.recipe, matrix.weight()
    source = generator(recipe.seed, "mask", name)
    share = state.shares.get(name)
    zero = weight == 0
    if share == 0:
        mask = ~zero if recipe.pattern.zeros else torch.ones_like(zero)
        state.note(state.keep(block, matrix, mask), _revivable(recipe, mask, zero))
        return
    pattern = recipe.pattern if share is None or recipe.pattern.of else recipe.pattern.at(share)
    criterion, refinement, rules = recipe.criterion, recipe.refinement, _routing(state, block, matrix, statistics)
    if rules and recipe.starved == "magnitude":
        pattern = pattern.resolve(criterion.name)
        pattern = replace(pattern, group="matrix") if pattern.group == "block" else pattern
        criterion, refinement = Criterion("magnitude"), Refinement()
    chosen = choose_mask(criterion, pattern, weight, statistics, source, name=name, refinement=refinement)
    if chosen.weight is not None:
        matrix.assign(chosen.weight)
    matrix.weight().mul_(chosen.mask).add_(0.0)  # quicker than masked_fill_; the sum makes +0 of -0
    where = state.keep(block, matrix, chosen.mask)
    rounded = (Note("removes nothing", float(zero.numel())),) if pattern.sparsity and bool(chosen.mask.all()) else ()
    state.note(where, [*rules, *chosen.notes, *rounded, *_revivable(recipe, chosen.mask, zero)])
    if (refined := chosen.refined) is not None:
        losses = {"error_before": refined.loss_before, "error_after": refined.loss_after, "steps": refined.steps}
        state.rows["layers"].append({**where, "action": recipe.refinement.name, **losses})


def _routing(state: State, block: Block, matrix: Matrix, statistics: Statistics | None) -> tuple[Note, ...]:
    """Record how many tokens an expert's matrix saw; gives the note of the rule that was used where these are few."""
    if statistics is None or statistics.routed is None:
        return ()
    seen, rule = statistics.routed, state.recipe.starved if is_starved(matrix, statistics.routed) else ""
    where = {"block": block.index, "matrix": matrix.name}
    state.rows["experts"].append({**where, "tokens": seen, "share": seen / state.shown_tokens, "rule": rule})
    return (Note(f"starved: {rule}", float(seen)),) if rule else ()


def _revivable(recipe: Recipe, mask: Tensor, zero: Tensor) -> tuple[Note, ...]:
    """The note that weights which were zero already are kept, and so may be zero no more after a solver."""
    kept = int((mask & zero).sum()) if recipe.changes_weights else 0
    return (Note("zeros kept", float(kept)),) if kept else ()
