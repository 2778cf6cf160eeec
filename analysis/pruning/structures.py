"""Whole structures in the loop: found and proven before it, chosen, removed and repaired block by block, as element
masks to everything else.
"""

import torch
from torch import Tensor, nn

from analysis.masks.notes import Note
from analysis.measure.cost import Meter
from analysis.models.anatomy import Anatomy, anatomy
from analysis.models.widths import assign_bias
from analysis.pruning.state import Walk, generator
from analysis.recipe.parts import Pattern
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit
from analysis.streams.streams import Streams, advance, input_statistics
from analysis.structured.choose import choose_structures, dense_evidence, pattern_structures, wanted_evidence
from analysis.structured.criteria import Evidence
from analysis.structured.find import Pair, Structures, element_masks
from analysis.structured.repair import Repaired
from analysis.structured.shrink import check_shrinks
from analysis.structured.targets import remove_and_repair
from analysis.windows import Windows


def open_structures(model: nn.Module, parts: Anatomy, recipe: Recipe, meter: Meter) -> Structures:
    """The structures of the dense model; a share that they cannot express is refused here, before any work."""
    with meter.stage(-1, "structures"):
        return pattern_structures(model, parts, recipe.pattern)


def check_pattern_shrinks(model: nn.Module, pattern: Pattern) -> None:
    """Raise UnsupportedModel before any work where the structures that a pattern removes cannot be cut out of this
    model.
    """
    check_shrinks(model, pattern_structures(model, anatomy(model), pattern))


def choose_first(walk: Walk, found: Structures, calibration: Windows) -> None:
    """Choose all masks on the dense model: the recipe compares layers with each other or looks at the loss."""
    recipe, meter = walk.recipe, walk.meter
    windows = calibration.subset(walk.shown)
    evidence = {}
    if wanted_evidence(recipe.criterion) is not None:
        with meter.stage(-1, "statistics", tokens=windows.tokens):
            evidence = dense_evidence(walk.dense_model, found, windows, recipe.criterion, walk.precision)
    with meter.stage(-1, "mask"):
        walk.chosen = choose_structures(
            found, recipe.criterion, recipe.pattern, evidence, lambda name: generator(recipe.seed, "mask", name)
        )


def make_biases(walk: Walk) -> None:
    """Give every consumer that has no bias one of zeros, where the repair is going to set it: all parameters then exist
    from the start.
    """
    if walk.recipe.repair.name not in ("compensate", "liar") or not walk.recipe.repair.bias:
        return
    for pair in walk.found:
        if pair.consumer.module.bias is None:
            assign_bias(pair.consumer, torch.zeros(pair.consumer.rows))


def remove_structures(walk: Walk, meter: Meter, visit: Visit) -> None:
    """Choose, remove and repair the structures of the unit's blocks that have no masks yet.

    Scores of both halves of a block come from one forward of the block while it is whole; its attention is repaired
    before its MLP, which sees what that brings. Where a unit has several new blocks, each sees its predecessors
    repaired.
    """
    recipe, unmasked = walk.recipe, walk.unmasked(visit)
    wants = not walk.chosen and wanted_evidence(recipe.criterion) is not None
    searched = recipe.repair.penalty == "held-out"
    here = [walk.calibration, *(walk.held_out if searched else [])]
    for index in visit.blocks:
        if index in unmasked:
            pairs = [pair for pair in walk.found if pair.block == index]
            evidence = {}
            if wants:
                with meter.stage(visit.index, "statistics", tokens=int(walk.calibration.mask[: walk.shown].sum())):
                    evidence = _evidence(walk, pairs, here[0])
            with meter.stage(visit.index, "mask"):
                _choose(walk, pairs, evidence, index)
            for pair in pairs:
                _repair(walk, meter, visit, pair, here)
        if unmasked and index < unmasked[-1] and (wants or recipe.repair.name != "none"):
            with meter.stage(visit.index, "repair", tokens=sum(streams.tokens for streams in here)):
                here = [_past(walk, index, streams, fresh=streams in walk.splits) for streams in here]


def _evidence(walk: Walk, pairs: list[Pair], streams: Streams) -> dict[str, Evidence]:
    """Statistics of the consumers' inputs on the stream that the recipe looks at; the block is still whole."""
    side = walk.dense if walk.recipe.statistics == "dense" else walk.pruned
    block = side.blocks[pairs[0].block]
    consumers = {pair.consumer.name: pair.name for pair in pairs}
    matrices = [matrix for matrix in block.matrices if matrix.name in consumers]
    hidden = streams.of(walk.recipe.statistics)[: walk.shown]
    found = input_statistics(block, matrices, streams, hidden, "diagonal", walk.precision)
    return {consumers[name]: Evidence(statistics) for name, statistics in found.items()}


def _choose(walk: Walk, pairs: list[Pair], evidence: dict[str, Evidence], index: int) -> None:
    """The structure masks of one block and the element masks they mean; matrices they leave alone keep every weight."""
    recipe, block = walk.recipe, walk.pruned.blocks[index]
    if walk.chosen:
        masks = {pair.name: walk.chosen[pair.name].clone() for pair in pairs}
    else:
        masks = choose_structures(
            pairs, recipe.criterion, recipe.pattern, evidence, lambda name: generator(recipe.seed, "mask", name)
        )
    walk.structures |= masks
    elements = element_masks(pairs, masks)
    for matrix in block.matrices:
        mask = elements.get(f"{block.name}.{matrix.name}")
        walk.keep(block, matrix, torch.ones(matrix.rows, matrix.columns, dtype=torch.bool) if mask is None else mask)
    for pair in pairs:
        walk.rows["structures"].append(
            {"block": index, "kind": pair.kind, "structures": pair.count, "kept": int(masks[pair.name].sum())}
        )


def _repair(walk: Walk, meter: Meter, visit: Visit, pair: Pair, here: list[Streams]) -> None:
    recipe, mask = walk.recipe, walk.structures[pair.name]
    dense, pruned = walk.dense.blocks[pair.block], walk.pruned.blocks[pair.block]
    with meter.stage(
        visit.index, "repair", tokens=sum(streams.tokens for streams in here) if recipe.repair.name != "none" else 0
    ) as row:
        repaired, held = remove_and_repair(dense, pruned, pair, mask, here[0], here[1:], recipe)
        row |= {
            "solver_memory_mib": held / 2**20,
            "trainable_parameters": 0 if repaired is None else _solved(recipe, pair, mask, repaired),
        }
    if repaired is not None:
        where = {"block": pair.block, "matrix": pair.consumer.name}
        walk.rows["layers"].append(
            {
                **where,
                "action": recipe.repair.name,
                "error_before": repaired.loss_before,
                "error_after": repaired.loss_after,
                "steps": 0,
            }
        )
        told = {
            "condition": repaired.condition,
            "penalty": repaired.penalty if recipe.repair.penalty == "held-out" else None,
        }
        walk.note(where, [*repaired.notes, *(Note(rule, value) for rule, value in told.items() if value is not None)])


def _solved(recipe: Recipe, pair: Pair, mask: Tensor, repaired: Repaired) -> int:
    """How many numbers a repair determines."""
    kept, rows = int(mask.sum()), pair.consumer.rows
    biases = rows if repaired.bias is not None else 0
    return {"compensate": biases, "scale": kept, "liar": rows * kept * pair.columns.shape[1] + biases}[
        recipe.repair.name
    ]


def _past(walk: Walk, index: int, streams: Streams, fresh: bool) -> Streams:
    """Both streams of a text past a block as it stands, the walk's own left where they are."""
    sides = {"dense": walk.dense, "sparse": walk.pruned}
    moved = {
        name: advance(
            [side.blocks[index].module],
            index,
            streams.recording,
            streams.of(name),
            out=None if fresh else streams.of(name),
        )
        for name, side in sides.items()
    }
    return Streams(streams.label, streams.recording, **moved)
