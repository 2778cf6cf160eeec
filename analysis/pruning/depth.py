"""Whole blocks, and halves of blocks: chosen on the dense model before the first visit, taken out of the copy, and what
the blocks that stay become in closed form.

While the loop runs, a `Passing` stands in the place of a removed block, so that both streams advance through the dense
model's blocks. A block that stays makes a group with the removed ones behind it (with those before it, at the start of
the stack): a visit takes whole groups, its target is what the dense blocks of the group give, and its errors are
measured where the group ends. Of a half that is removed every matrix, bias included, is zero; what else the block does
stays.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import cast

import torch
from torch import Tensor, nn

from analysis import distributed
from analysis.masks.notes import Note
from analysis.masks.seeds import generator
from analysis.measure.cost import Meter
from analysis.models.anatomy import Anatomy, Block, Matrix, evaluating
from analysis.models.passing import Passing, check_cut, put_back, take_out
from analysis.models.replay import last_hidden, random_windows, tolerance_for
from analysis.models.widths import assign_bias
from analysis.pruning.checks import witnesses
from analysis.pruning.state import State
from analysis.pruning.structures import searches_penalty
from analysis.recipe.depth import removed_count
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit
from analysis.streams.moments import Sums
from analysis.streams.streams import Streams
from analysis.structured.depth_criteria import Look, choose_blocks
from analysis.structured.depth_repair import check_added, cut_sums, ghost_sums, last_projection, repair_projection
from analysis.structured.pairs import Structures
from analysis.structured.repair import Repaired
from analysis.structured.shrink import adopt_config

# --- masks -----------------------------------------------------------------------------------------------------------


def check_count(model: nn.Module, parts: Anatomy, recipe: Recipe, meter: Meter) -> Structures:
    """Refuse, before any work, as many blocks as cannot go. Blocks are told apart without a search."""
    removed_count(recipe.pattern, len(parts.blocks))
    return Structures(parts, ())


def runs_halves(recipe: Recipe) -> bool:
    """Whether a choice, or a repair, runs the halves of blocks apart."""
    looks = recipe.pattern.kind != "blocks" and recipe.criterion_word.evidence == "states"
    return looks or recipe.repair.name != "none"


def choose_first(state: State) -> None:
    """Choose what goes, where no finished visit has brought it back; take removed blocks out of the pruned model."""
    kind = state.recipe.pattern.kind
    if not state.chosen:
        gone = _choose(state)
        state.chosen |= {block.name: torch.tensor([block.index not in gone]) for block in state.dense.blocks}
    state.structure_masks |= state.chosen
    if kind == "blocks" and not state.taken:
        gone = [block.index for block in state.dense.blocks if not bool(state.chosen[block.name].all())]
        for index in gone:
            _silence(state.pruned.blocks[index].matrices)
        state.pruned = take_out(state.model, state.pruned, gone)
        state.taken = frozenset(gone)
        for run in _removed_runs(state) if state.recipe.repair.name == "ghost" else ():
            like = next(state.dense.blocks[run[0]].module.parameters())
            _passing(state, run[0]).haunt(state.calibration.sparse.shape[2], like)


def _choose(state: State) -> list[int]:
    recipe, meter, model = state.recipe, state.meter, state.dense_model.model
    draw = lambda name: generator(recipe.seed, "mask", name)
    look = Look(model, state.dense, state.calibration, state.shown, recipe.pattern.kind, draw)
    with meter.stage(-1, "mask") as row:
        gone = distributed.from_main(choose_blocks(recipe.criterion, recipe.pattern, look))
        row["tokens"] = look.passes * state.shown_tokens
        if recipe.pattern.kind == "blocks" and gone:
            check_cut(model, state.dense, gone)
    return gone


@torch.no_grad()
def _silence(matrices: tuple[Matrix, ...]) -> None:
    """Write zeros into matrices and their biases."""
    for matrix in matrices:
        for parameter in matrix.module.parameters(recurse=False):
            parameter.zero_()


def choose_depth(state: State, visit: Visit, meter: Meter) -> None:
    """The masks of one block: all of it stays, its matrices are gone, or those of one half, which become zero."""
    block, kind = state.pruned.blocks[visit.first], state.recipe.pattern.kind
    with meter.stage(visit.index, "mask"):
        stays = bool(state.chosen[block.name].all())
        gone = () if stays else tuple(matrix for matrix in block.matrices if kind in ("blocks", matrix.half))
        _silence(gone)
        for matrix in block.matrices:
            state.keep(block, matrix, torch.full((matrix.rows, matrix.columns), matrix not in gone))
        state.rows["structures"].append({"block": block.index, "kind": kind, "structures": 1, "kept": int(stays)})


def give_back(state: State) -> None:
    """Give the pruned model its removed blocks back, full of zeros, where they then add nothing: an ordinary model of
    full size. Elsewhere (norms behind the residual sum, ghosts) a `Passing` stays in their place.
    """
    if state.taken and state.recipe.repair.name != "ghost":
        ids = random_windows(state.model, count=1).ids
        with evaluating(state.model):
            expected = last_hidden(state.model, ids)
            state.pruned = put_back(state.model, state.pruned, state.taken)
            error = float((last_hidden(state.model, ids) - expected).norm() / expected.norm())
        if not error <= tolerance_for(next(state.model.parameters()).dtype):
            state.pruned = take_out(state.model, state.pruned, state.taken)
    if state.recipe.repair.name == "patch" and state.recipe.repair.form == "bias":
        adopt_config(state.model, state.pruned)


# --- repairs ---------------------------------------------------------------------------------------------------------


def prepare_repair(state: State) -> None:
    """Refuse models that cannot be repaired, and give projections the biases that a patch is going to set."""
    kind, how = state.recipe.pattern.kind, state.recipe.repair
    recording = state.calibration.recording
    check_added(state.dense, kind, recording, witnesses(recording.windows))
    if how.name == "patch" and how.form == "bias":
        for block in state.pruned.blocks:
            matrix = last_projection(block, kind)
            if matrix.module.bias is None:
                assign_bias(matrix, torch.zeros(matrix.rows))


def repair_cut(state: State, visit: Visit, meter: Meter) -> None:
    """Repair the last projection of a block towards what the dense blocks of its group give, where any are gone."""
    recipe, kind = state.recipe, state.recipe.pattern.kind
    block = state.pruned.blocks[visit.first]
    group = state.group_of(block.index)
    if block.index in state.taken or (len(group) == 1 and bool(state.chosen[block.name].all())):
        return
    matrix = last_projection(block, kind)
    bias = dict(matrix.module.named_parameters(recurse=False)).get("bias")
    sums = lambda split: _sums(state, block, matrix, group, split)
    _solve(
        state, visit, meter, matrix.name, matrix.weight().clone(), bias, sums, _solved(recipe, matrix, bias)
    ).install(matrix)


def fit_ghost(state: State, visit: Visit, meter: Meter) -> None:
    """Fit the map in the place of a run of removed blocks, when the visit comes to the first of them."""
    run = next((run for run in _removed_runs(state) if run[0] == visit.first), None)
    if run is None:
        return
    recipe, dense = state.recipe, [state.dense.blocks[index] for index in run]
    ghost = _passing(state, run[0]).ghost
    assert ghost is not None, "made when the blocks were taken out"
    sums = lambda split: ghost_sums(dense, split.recording, split.of(recipe.student), split.of(recipe.target))
    unit = torch.eye(len(ghost.weight), dtype=torch.float64, device=ghost.weight.device)
    repaired = _solve(state, visit, meter, "ghost", unit, None, sums, ghost.weight.numel())
    ghost.weight.copy_(repaired.weight)


def _solve(
    state: State,
    visit: Visit,
    meter: Meter,
    matrix: str,
    weight: Tensor,
    bias: Tensor | None,
    sums_of: Callable[[Streams], Sums],
    solved: int,
) -> Repaired:
    """The repair of one matrix of a visit's first block, recorded; sums_of: what a text's streams give it to solve."""
    recipe, (calibration, *judged) = state.recipe, state.entry
    with meter.stage(visit.index, "repair", tokens=sum(split.tokens for split in state.entry)) as row:
        sums = sums_of(calibration)
        others = [sums_of(split) for split in judged] if searches_penalty(recipe) else []
        name = f"{state.pruned.blocks[visit.first].name}.{matrix}"
        held_out = reduce(add, others) if others else None
        repaired = repair_projection(recipe.repair, weight, bias, sums, held_out, name)
        held = sum(part.nbytes for part in (sums, *others))
        row |= {"solver_memory_mib": held / 2**20, "trainable_parameters": solved}
    where = {"block": visit.first, "matrix": matrix}
    errors = {"error_before": repaired.loss_before, "error_after": repaired.loss_after, "steps": 0}
    state.rows["layers"].append({**where, "action": recipe.repair.name, **errors})
    values = {"condition": repaired.condition, "penalty": repaired.penalty if searches_penalty(recipe) else None}
    state.note(where, [*repaired.notes, *(Note(rule, value) for rule, value in values.items() if value is not None)])
    return repaired


def _removed_runs(state: State) -> list[list[int]]:
    """Consecutive blocks that are out of the pruned model."""
    found: list[list[int]] = []
    for index in sorted(state.taken):
        if found and index == found[-1][-1] + 1:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def _passing(state: State, index: int) -> Passing:
    """What stands in the place of a removed block."""
    return cast(Passing, state.pruned.blocks[index].module)


def _sums(state: State, block: Block, matrix: Matrix, group: tuple[int, ...], streams: Streams) -> Sums:
    """On the streams at the block's input. The dense stream there is past the removed blocks before it, the sparse one
    still as it was in front of them."""
    recipe = state.recipe
    student = state.side(recipe.student).blocks[block.index]
    dense = [state.dense.blocks[index] for index in group if recipe.target == "sparse" or index >= block.index]
    hidden, source = streams.of(recipe.student), streams.of(recipe.target)
    return cut_sums(student, matrix, dense, streams.recording, hidden, source)


def _solved(recipe: Recipe, matrix: Matrix, bias: Tensor | None) -> int:
    """Numbers that a repair determines."""
    how, affine = recipe.repair, matrix.rows if bias is not None else 0
    solved: dict[str, Callable[[], int]] = {
        "refit": lambda: matrix.rows * matrix.columns + affine,
        "replace": lambda: matrix.rows**2,
        "patch": lambda: matrix.rows,
    }
    return solved[how.name]()
