"""Whole experts of a mixture: chosen on the dense model before the first visit, and cut out of the copy at once, router
rows with them; the repairs of those that stay.

From then on the pruned model is an ordinary smaller one, and every mask keeps all of its matrices.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, cast

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModel
from analysis.masks.notes import Note
from analysis.masks.seeds import generator
from analysis.measure.cost import Meter
from analysis.models.anatomy import Anatomy, anatomy
from analysis.models.experts import LAST, expert_count, experts_per_token
from analysis.models.fewer_experts import check_fewer, cut_experts, mixtures, router_groups
from analysis.pruning.state import State
from analysis.pruning.structures import searches_penalty
from analysis.recipe.experts import kept_experts
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit
from analysis.streams.streams import Streams
from analysis.structured.depth_repair import SEARCHED
from analysis.structured.experts import (
    EXPERT_SCORES,
    LARGEST,
    assign_side_by_side,
    best,
    check_repair,
    expert_sums,
    seen,
    walk,
    weights_side_by_side,
)
from analysis.structured.pairs import Structures
from analysis.structured.repair import Repaired, repair
from analysis.structured.routed import repair_routed, routed_sums

SUM_TO_ONE = 1e-3  # how far a token's gate weights may be from that, for a bias to be the same for every token

# --- masks -----------------------------------------------------------------------------------------------------------


def check_experts(model: nn.Module, parts: Anatomy, recipe: Recipe, meter: Meter) -> Structures:
    """Refuse, before any work, experts that cannot go or cannot be repaired."""
    kept = _kept(model, parts, recipe)
    check_fewer(model, parts, kept)
    for index, module in mixtures(parts).items():
        check_repair(recipe.repair.name, parts.blocks[index].name, module)
    return Structures(parts, ())


def _kept(model: nn.Module, parts: Anatomy, recipe: Recipe) -> int:
    module = next(iter(mixtures(parts).values()))
    config = cast(Any, model).config.get_text_config()
    return kept_experts(recipe.pattern, expert_count(module), experts_per_token(config), *router_groups(config))


def choose_first(state: State) -> None:
    """Choose which experts stay, where no finished visit has brought that back, and cut the others out of the copy."""
    if not state.chosen:
        _choose(state)
    state.structure_masks |= state.chosen
    experts, own = mixtures(state.dense), mixtures(state.pruned)
    whole = all(expert_count(own[index]) == expert_count(module) for index, module in experts.items())
    if whole and not all(bool(mask.all()) for mask in state.chosen.values()):
        state.model = cut_experts(state.model, state.pruned, state.chosen)
        state.pruned = anatomy(state.model)
        state.structures = Structures(state.pruned, ())


def _choose(state: State) -> None:
    recipe, meter = state.recipe, state.meter
    experts, kept = mixtures(state.dense), _kept(state.dense_model.model, state.dense, recipe)
    groups, _ = router_groups(cast(Any, state.dense_model.model).config.get_text_config())
    with meter.stage(-1, "mask", tokens=state.shown_tokens):
        for block, hidden in walk(state.dense.blocks, state.calibration, state.shown):
            if block.index not in experts:
                continue
            found = seen(block, experts[block.index], state.calibration, hidden)
            scores = EXPERT_SCORES[recipe.criterion.name](found, generator(recipe.seed, "mask", block.name))
            state.chosen[block.name] = best(scores, kept, groups, block.name)
            for expert, tokens in enumerate(found.tokens.int().tolist()):
                where = {"block": block.index, "matrix": f"expert {expert}", "tokens": tokens}
                state.rows["experts"].append({**where, "share": tokens / state.shown_tokens, "rule": ""})


def choose_kept(state: State, visit: Visit, meter: Meter) -> None:
    """The masks of one block, which keep everything that is left; and how many experts that is."""
    block = state.pruned.blocks[visit.first]
    with meter.stage(visit.index, "mask"):
        for matrix in block.matrices:
            state.keep(block, matrix, torch.ones(matrix.rows, matrix.columns, dtype=torch.bool))
        if (mask := state.chosen.get(block.name)) is not None:
            counts = {"structures": len(mask), "kept": int(mask.sum())}
            state.rows["structures"].append({"block": block.index, "kind": "experts", **counts})


# --- repairs ---------------------------------------------------------------------------------------------------------


def repair_experts(state: State, visit: Visit, meter: Meter) -> None:
    """Repair the last projections of a block's experts, all at once, where any are gone."""
    recipe, streams = state.recipe, state.entry
    block = state.pruned.blocks[visit.first]
    if block.name not in state.chosen or bool(state.chosen[block.name].all()):
        return
    module = mixtures(state.pruned)[block.index]
    where = {"block": block.index, "matrix": next(m.owner for m in block.matrices if m.module is module)}
    with meter.stage(visit.index, "repair", tokens=sum(split.tokens for split in streams)) as row:
        weight, how = weights_side_by_side(module), recipe.repair.name
        texts = streams if searches_penalty(recipe) else streams[:1]
        wide = weight.shape[1] > LARGEST
        repaired, away, held = (_routed if wide else _direct)(state, visit, module, weight, texts)
        if how == "compensate":
            if away > SUM_TO_ONE:
                raise UnsupportedModel(
                    f"{block.name}: the gate weights of a token do not sum to one (up to {away:.2g} away), so no bias"
                    " of its experts makes up for those that are gone; take LIAR, LR or BR+GP"
                )
            assert repaired.bias is not None
            module.get_parameter(f"{LAST}_bias").data.add_(repaired.bias)
            trained = len(repaired.bias)
        else:
            assign_side_by_side(module, repaired.weight)
            trained = weight.numel()
        row |= {"solver_memory_mib": held / 2**20, "trainable_parameters": trained}
    errors = {"error_before": repaired.loss_before, "error_after": repaired.loss_after, "steps": 0}
    state.rows["layers"].append({**where, "action": recipe.repair.name, **errors})
    values = {"condition": repaired.condition, "penalty": repaired.penalty if searches_penalty(recipe) else None}
    state.note(where, [*repaired.notes, *(Note(rule, value) for rule, value in values.items() if value is not None)])


def _direct(
    state: State, visit: Visit, module: nn.Module, weight: Tensor, texts: Sequence[Streams]
) -> tuple[Repaired, float, int]:
    """The repair from Gram matrices, how far gate weights are from summing to one, and the bytes of the sums."""
    repairing, name = state.recipe.repair, state.pruned.blocks[visit.first].name
    (sums, away), *others = (expert_sums(*_of_text(state, visit, module, text)) for text in texts)
    judged, everything = [one for one, _ in others], torch.ones(weight.shape[1], dtype=torch.bool)
    held = sum(part.nbytes for part in (sums, *judged))
    if repairing.name == "compensate":
        return repair("bias", weight, None, everything, sums, name=name), away, held
    penalty = SEARCHED if isinstance(repairing.penalty, str) else repairing.penalty
    best = reduce(add, judged) if judged else None
    repaired = repair(
        "liar", weight, None, everything, sums, penalty=penalty, held_out=best, create_bias=False, name=name
    )
    return repaired, away, held


def _routed(
    state: State, visit: Visit, module: nn.Module, weight: Tensor, texts: Sequence[Streams]
) -> tuple[Repaired, float, int]:
    """As `_direct`, of sums too large for a Gram matrix."""
    repairing, name = state.recipe.repair, state.pruned.blocks[visit.first].name
    solved = repairing.name == "liar"
    sums, *judged = (routed_sums(*_of_text(state, visit, module, text), keep=solved) for text in texts)
    penalties = SEARCHED if isinstance(repairing.penalty, str) else [repairing.penalty]
    method = "liar" if solved else "bias"
    repaired = repair_routed(method, weight, sums, penalties=penalties, held_out=judged, name=name)
    return repaired, sums.away, sum(part.nbytes for part in (sums, *judged))


def _of_text(state: State, visit: Visit, module: nn.Module, streams: Streams):
    """What `expert_sums` and `routed_sums` are given."""
    recipe, index = state.recipe, visit.first
    student, source = streams.of(recipe.student), streams.of(recipe.target)
    pruned, dense = state.pruned.blocks[index], state.dense.blocks[index]
    return pruned, module, dense, streams.recording, student, source
