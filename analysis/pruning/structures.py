"""Masks of whole structures: found and proven before the loop, chosen block by block or all at once, kept as element
masks for everything else; and the repairs that remove them."""

from collections.abc import Callable, Set

import torch
from torch import Tensor, nn

from analysis import distributed
from analysis.masks.notes import Note
from analysis.masks.seeds import generator
from analysis.measure.cost import Meter
from analysis.models.anatomy import Anatomy, anatomy
from analysis.models.widths import assign_bias, widths
from analysis.pruning.state import State
from analysis.recipe.parts import Pattern
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit
from analysis.streams.streams import input_statistics
from analysis.structured.choose import choose_structures, dense_evidence, pattern_structures, wanted_evidence
from analysis.structured.criteria import Evidence
from analysis.structured.pairs import Pair, Structures, element_masks, structures_of_copy
from analysis.structured.repair import Repaired
from analysis.structured.shrink import adopt_config, check_shrinks
from analysis.structured.targets import remove_and_repair

# --- masks -----------------------------------------------------------------------------------------------------------


def find_structures(model: nn.Module, parts: Anatomy, recipe: Recipe, meter: Meter) -> Structures:
    """The structures of the dense model; a share that they cannot express, and blocks whose heads and neurons cannot be
    counted, as the result's config needs, are refused here, before any work.
    """
    with meter.stage(-1, "structures"):
        found = pattern_structures(model, parts, recipe.pattern)
        widths(model, parts)
        return found


def check_pattern_shrinks(model: nn.Module, pattern: Pattern) -> None:
    """Raise UnsupportedModel before any work where the structures that a pattern removes cannot be cut out of this
    model.
    """
    if pattern.whole:  # blocks are checked once it is known which of them go
        check_shrinks(model, pattern_structures(model, anatomy(model), pattern))


def reads_evidence(recipe: Recipe) -> Set[str]:
    """The stream on which the criterion looks at consumers' inputs; none where it looks at the whole dense model."""
    looks = not recipe.masks_first and wanted_evidence(recipe.criterion) is not None
    return {recipe.statistics} if looks else set()


def choose_first(state: State) -> None:
    """Choose all masks on the dense model, where the recipe compares layers with each other or looks at the loss, and
    where no finished visit has brought them back.
    """
    recipe, meter = state.recipe, state.meter
    if not recipe.masks_first or state.chosen:
        return
    model, windows = state.dense_model.model, state.calibration.recording.windows.subset(state.shown)
    structures = structures_of_copy(state.structures, state.dense)
    evidence: dict[str, Evidence] = {}
    if wanted_evidence(recipe.criterion) is not None:
        with meter.stage(-1, "statistics", tokens=windows.tokens):
            evidence = dense_evidence(model, structures, windows, recipe.criterion, state.precision)
    with meter.stage(-1, "mask"):
        chosen = choose_structures(
            structures,
            recipe.criterion,
            recipe.pattern,
            evidence,
            lambda name: generator(recipe.seed, "mask", name),
            state.shares,
        )
        state.chosen |= distributed.from_main(chosen)


def choose_whole(state: State, visit: Visit, meter: Meter) -> None:
    """Choose which structures of a block stay, and the element masks that this means; nothing is removed yet.

    Scores of both halves come from one forward of the block while it is whole. Matrices that the structures leave alone
    keep every weight.
    """
    recipe, block = state.recipe, state.pruned.blocks[visit.first]
    structures = state.structures_in(visit)
    evidence: dict[str, Evidence] = {}
    if reads_evidence(recipe):
        with meter.stage(visit.index, "statistics", tokens=state.shown_tokens):
            evidence = _evidence(state, structures)
    with meter.stage(visit.index, "mask"):
        if state.chosen:
            masks = {structure.name: state.chosen[structure.name].clone() for structure in structures}
        else:
            masks = choose_structures(
                structures,
                recipe.criterion,
                recipe.pattern,
                evidence,
                lambda name: generator(recipe.seed, "mask", name),
                state.shares,
            )
        state.structure_masks |= masks
        elements = element_masks(structures, masks)
        for matrix in block.matrices:
            everything = torch.ones(matrix.rows, matrix.columns, dtype=torch.bool)
            state.keep(block, matrix, elements.get(f"{block.name}.{matrix.name}", everything))
        state.rows["structures"] += [
            {"block": s.block, "kind": s.kind, "structures": s.count, "kept": int(masks[s.name].sum())}
            for s in structures
        ]


def _evidence(state: State, structures: list[Pair]) -> dict[str, Evidence]:
    """Statistics of the consumers' inputs on the stream that the recipe looks at."""
    block, streams = state.side(state.recipe.statistics).blocks[structures[0].block], state.entry[0]
    consumers = {structure.consumer.name: structure.name for structure in structures}
    matrices = [matrix for matrix in block.matrices if matrix.name in consumers]
    hidden = streams.of(state.recipe.statistics)[: state.shown]
    statistics = input_statistics(block, matrices, streams, hidden, "diagonal", state.precision)
    return {consumers[name]: Evidence(values) for name, values in statistics.items()}


def describe_in_config(state: State) -> None:
    """Give the pruned model a config of its own biases, where there is one."""
    adopt_config(state.model, state.pruned)


# --- repairs ---------------------------------------------------------------------------------------------------------


def make_biases(state: State) -> None:
    """Give every consumer that has no bias one of zeros, where the repair is going to set it: all parameters then exist
    from the start.
    """
    for structure in state.structures if state.recipe.repair.bias else ():
        if structure.consumer.module.bias is None:
            assign_bias(structure.consumer, torch.zeros(structure.consumer.rows))


def remove_structures(state: State, visit: Visit, meter: Meter) -> None:
    """Take the removed structures of a block out, nothing else changed."""
    for structure in state.structures_in(visit):
        with meter.stage(visit.index, "repair"):
            structure.remove(state.structure_masks[structure.name])


def searches_penalty(recipe: Recipe) -> bool:
    """Whether a repair chooses its penalty by its error on validation text."""
    return recipe.repair.penalty == "held-out"


def repair_structures(
    state: State, visit: Visit, meter: Meter, *, solved: Callable[[Pair, Tensor, Repaired], int]
) -> None:
    """Take the removed structures of a block out, half by half, each consumer repaired in closed form.

    The attention is repaired before the MLP's sums are taken, which so see what that brings, while the MLP is whole:
    repairs therefore come block by block, between the masks of one block and the next, and not at the end of a visit.
    solved: how many numbers a repair determines.
    """
    recipe, streams = state.recipe, state.entry
    for pair in state.structures_in(visit):
        mask, dense, pruned = (
            state.structure_masks[pair.name],
            state.dense.blocks[pair.block],
            state.pruned.blocks[pair.block],
        )
        with meter.stage(visit.index, "repair", tokens=sum(split.tokens for split in streams)) as row:
            repaired, held = remove_and_repair(dense, pruned, pair, mask, streams[0], streams[1:], recipe)
            assert repaired is not None, "the recipe names a repair"
            row |= {"solver_memory_mib": held / 2**20, "trainable_parameters": solved(pair, mask, repaired)}
        where = {"block": pair.block, "matrix": pair.consumer.name}
        errors = {"error_before": repaired.loss_before, "error_after": repaired.loss_after, "steps": 0}
        state.rows["layers"].append({**where, "action": recipe.repair.name, **errors})
        values = {"condition": repaired.condition, "penalty": repaired.penalty if searches_penalty(recipe) else None}
        notes = [Note(rule, value) for rule, value in values.items() if value is not None]
        state.note(where, [*repaired.notes, *notes])


def biases(pair: Pair, mask: Tensor, repaired: Repaired) -> int:
    """Numbers that a repair of the bias determines."""
    return pair.consumer.rows if repaired.bias is not None else 0


def scales(pair: Pair, mask: Tensor, repaired: Repaired) -> int:
    """Numbers that scales of kept structures are."""
    return int(mask.sum())


def weights_and_biases(pair: Pair, mask: Tensor, repaired: Repaired) -> int:
    """Numbers that a repair of kept weights and bias determines."""
    return pair.consumer.rows * int(mask.sum()) * pair.columns.shape[1] + biases(pair, mask, repaired)
