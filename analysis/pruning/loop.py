"""The loop: walk the model's blocks in units, choose masks, solve, advance both streams, record what it cost and
bought.

`prune(model, recipe, calibration, held_out)` is the whole public verb. A method is a value in the recipe, not a branch
here.
"""

import copy
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from analysis.measure.block_error import advance_and_measure, error_quantiles
from analysis.measure.cost import Meter
from analysis.measure.quality import Known, measurable, quality_rows
from analysis.models.anatomy import anatomy, anatomy_of_copy
from analysis.models.load import LoadedModel
from analysis.models.replay import verify
from analysis.models.save import assert_sparsity
from analysis.models.sub_blocks import check_halves
from analysis.models.task_heads import head
from analysis.progress import bar
from analysis.pruning.checkpoint import Checkpoint, _identity, _resume, _visit_tensors
from analysis.pruning.checks import _check_recipe, _check_windows, _witnesses
from analysis.pruning.solvers import _reconstruct, _refit, _retrain
from analysis.pruning.state import Pruned, Walk
from analysis.pruning.structures import choose_first, make_biases, open_structures, remove_structures
from analysis.pruning.weights import _choose_masks
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit, visits
from analysis.reconstruction.units import pieces
from analysis.schema import CALIBRATION, validate
from analysis.streams.moments import Moments, distance, hidden_accumulator, mean_square
from analysis.streams.streams import advance, open_streams
from analysis.structured.find import structures_of_copy
from analysis.structured.shrink import adopt_config
from analysis.structured.targets import reads_two_streams
from analysis.windows import Windows


def prune(
    model: LoadedModel | nn.Module,
    recipe: Recipe,
    calibration: Windows,
    held_out: dict[str, Windows] | None = None,
    *,
    checkpoint: Path | None = None,
    measure: bool = True,
    precision: torch.dtype = torch.float32,
    known: Known | None = None,
) -> Pruned:
    """Prune and reconstruct a copy of `model` by `recipe`; the dense model itself is never modified.

    calibration: the windows reconstruction sees; of windows `append`ed to it, masks see what `recipe.added` says.
    held_out: name -> windows none of them sees (disjointness is checked).
    checkpoint: a folder that keeps finished visits; an identical later call resumes from it and ends with the same
    bits.
    measure: with False no block errors, distances of texts, perplexities and scores are taken (the fastest way to the
    pruned model).
    precision: of the sums that masks and the ridge solver are computed from, float32 or float64; repairs of structures
    and distances of texts are always summed in float64.
    known: what earlier runs found out about this dense model, looked up and added to, for callers with many runs on the
    same texts. It spares measuring alone, so `measure` and `advance` cost less in later runs; what a method itself
    computes is computed every time.

    Raises ReplayError when the model cannot be replayed exactly, OverlapError when calibration and held-out share text,
    NumericalError and SparsityError naming the matrix, UnsupportedModel where its halves cannot be run apart for
    unit=sub-block, UsageError for windows the model cannot take and for a recipe that this model or these texts cannot
    give.
    """
    held_out = held_out or {}
    tokenizer, fingerprint = (model.tokenizer, model.fingerprint) if isinstance(model, LoadedModel) else (None, None)
    dense_model = model.model if isinstance(model, LoadedModel) else model
    dense_model.eval()
    held_out = _check_windows(dense_model, calibration, held_out)
    dense = anatomy(dense_model)
    plan = visits(len(dense.blocks), recipe.unit)
    _check_recipe(dense, head(dense_model), recipe, held_out)
    apart = measure or "dense" in (recipe.target, recipe.student, recipe.statistics)  # somebody reads the dense stream
    outputs = (
        {}
        if known is None
        else {text: known.outputs_on(text) for text in {w.digest() for w in (calibration, *held_out.values())}}
    )
    device = next(dense_model.parameters()).device
    meter = Meter(device)
    found = open_structures(dense_model, dense, recipe, meter) if recipe.pattern.whole else None
    pruned_model = copy.deepcopy(dense_model).requires_grad_(False)
    with meter.stage(-1, "record", tokens=calibration.tokens + sum(w.tokens for w in held_out.values())):
        calibration_streams = open_streams(
            dense_model, dense, CALIBRATION, calibration, outputs.get(calibration.digest()), apart=apart
        )
        verify(dense_model, dense, calibration_streams.recording, rows=_witnesses(calibration))
        if recipe.unit.name == "sub-block" or reads_two_streams(recipe):
            check_halves(dense, calibration_streams.recording, _witnesses(calibration))
        held_out_streams = [
            open_streams(dense_model, dense, label, windows, outputs.get(windows.digest()), apart=apart)
            for label, windows in held_out.items()
        ]
    shown = len(calibration) if recipe.added == "all" else calibration.own
    pruned = anatomy_of_copy(dense, pruned_model)
    ours = None if found is None else structures_of_copy(found, pruned)
    walk = Walk(
        recipe,
        dense,
        pruned,
        dense_model,
        pruned_model,
        calibration_streams,
        shown,
        held_out_streams,
        meter,
        precision,
        measure,
        ours,
    )
    if found is not None:
        make_biases(walk)
    keeper = (
        None
        if checkpoint is None
        else Checkpoint(Path(checkpoint), _identity(walk, dense_model, fingerprint, calibration, held_out))
    )
    done = _resume(walk, keeper, plan) if keeper else 0
    if recipe.masks_first and not walk.chosen:
        choose_first(walk, found, calibration)
    opening = len(meter.rows)
    with bar(total=len(plan), desc=recipe.label, unit="unit") as progress:
        progress.update(done)
        for visit in plan[done:]:
            before = {name: len(rows) for name, rows in walk.rows.items()}
            _visit(walk, visit)
            if keeper:
                new = {name: rows[before[name] :] for name, rows in walk.rows.items()}
                keeper.write(visit.index, _visit_tensors(walk, visit), new)
            progress.update(1)
    if found is not None:
        adopt_config(pruned_model, pruned)
    if measure:
        _measure_quality(walk, {CALIBRATION: calibration, **held_out}, Known() if known is None else known)
    walk.rows["cost"] = [*meter.rows[:opening], *walk.rows["cost"], *meter.rows[opening:]]
    tables = {name: validate(name, pd.DataFrame(rows)) for name, rows in walk.rows.items()}
    provenance = {
        "recipe": str(recipe),
        "model": fingerprint,
        "calibration": calibration.provenance,
        "held_out": {label: windows.provenance for label, windows in held_out.items()},
    }
    return Pruned(pruned_model, recipe, walk.masks, tables, provenance, tokenizer, ours, walk.structures)


def _visit(walk: Walk, visit: Visit) -> None:
    """One turn of the loop: statistics, masks, targets, solve piece by piece, advance and record."""
    meter = Meter(walk.meter.device)
    blocks = [walk.pruned.blocks[index] for index in visit.blocks]
    if walk.found is None:
        _choose_masks(walk, meter, visit)
    else:
        remove_structures(walk, meter, visit)
    if walk.recipe.solver.name == "retrain":
        _retrain(walk, meter, visit)
    elif walk.recipe.solver.name != "none":
        dense_pieces = pieces([walk.dense.blocks[index] for index in visit.blocks], walk.recipe.unit)
        sums: dict[str, Moments] = {}
        for dense, pruned in zip(dense_pieces, pieces(blocks, walk.recipe.unit), strict=True):
            if walk.recipe.solver.name == "ridge":
                _refit(walk, meter, visit, dense, pruned, sums)
            else:
                _reconstruct(walk, meter, visit, dense, pruned)
    assert_sparsity(walk.pruned, {name: walk.masks[name] for index in visit.blocks for name in walk.names(index)})
    with meter.stage(
        visit.index, "advance", tokens=sum(s.tokens for s in walk.splits) * (visit.advance_to - visit.first)
    ):
        for index in range(visit.first, visit.advance_to):
            _advance_final(walk, index)
    walk.rows["cost"] += meter.rows


def _advance_final(walk: Walk, index: int) -> None:
    """Move both streams of every text past a block that will not change any more (where nobody looks, not past the
    last).
    """
    dense, pruned = walk.dense.blocks[index].module, walk.pruned.blocks[index].module
    if walk.measure:
        _advance_and_record(walk, dense, pruned, index)
        return
    if index == len(walk.dense.blocks) - 1:
        return
    for streams in walk.splits:
        if streams.apart:
            advance([dense], index, streams.recording, streams.dense, out=streams.dense)
        advance([pruned], index, streams.recording, streams.sparse, out=streams.sparse)


def _advance_and_record(walk: Walk, dense: nn.Module, pruned: nn.Module, index: int) -> None:
    """The same, with the block's errors and how far the held-out texts are from the calibration text."""
    width, device = walk.calibration.dense.shape[2], next(dense.parameters()).device
    moments = [hidden_accumulator(width, device) for _ in walk.splits]
    for streams, moment in zip(walk.splits, moments, strict=True):
        walk.rows["blocks"] += advance_and_measure(dense, pruned, index, streams, moment if walk.held_out else None)
    if index == len(walk.dense.blocks) - 1:
        walk.rows["distribution"] += [row for streams in walk.splits for row in error_quantiles(streams)]
    for streams, moment in zip(walk.held_out, moments[1:], strict=True):
        near, far = mean_square(moments[0], CALIBRATION), mean_square(moment, streams.label)
        walk.rows["texts"].append({"block": index, "split": streams.label, "distance": distance(near, far)})


def _measure_quality(walk: Walk, windows: dict[str, Windows], known: Known) -> None:
    seen = measurable(walk.dense_model, windows)
    with walk.meter.stage(-1, "measure", tokens=2 * sum(w.tokens for w in seen.values())):
        for table, rows in quality_rows(walk.dense_model, walk.model, seen, known).items():
            walk.rows[table] += rows
