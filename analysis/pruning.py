"""The loop: walk the model's blocks in units, choose masks, solve, advance both streams, record what it cost and
bought.

`prune(model, recipe, calibration, held_out)` is the whole public verb. A method is a value in the recipe, not a branch
here.
"""

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.masks.choose import choose_mask, wanted_statistics
from analysis.masks.statistics import Statistics
from analysis.measure.block_error import advance_and_measure, error_quantiles
from analysis.measure.cost import Meter
from analysis.measure.quality import Known, measurable, quality_rows
from analysis.measure.second_moments import MomentSum, distance
from analysis.models.anatomy import Anatomy, Block, Matrix, anatomy, anatomy_of_copy
from analysis.models.halves import check_halves
from analysis.models.heads import head
from analysis.models.load import LoadedModel
from analysis.models.replay import record, verify
from analysis.models.save import assert_sparsity, save_model
from analysis.models.shrink import adopt_config, shrink
from analysis.models.shrunk import is_plain, save_shrunk
from analysis.models.structures import Structures, structures_of_copy
from analysis.progress import bar
from analysis.recipe import WHOLE, Recipe
from analysis.reconstruction.checkpoint import Checkpoint, tensors_digest
from analysis.reconstruction.closed_form import Moments, ridge
from analysis.reconstruction.gradient import Problem, reconstruct
from analysis.reconstruction.pieces import Piece, pieces, trained_parameters, whole_model
from analysis.reconstruction.problems import moments, problem, retraining
from analysis.reconstruction.repairs import reads_two_streams
from analysis.reconstruction.streams import advance, input_statistics, open_streams
from analysis.reconstruction.units import Visit, visits
from analysis.records import CALIBRATION, validate
from analysis.text.windows import Windows, disjoint
from analysis.walk import Walk, generator
from analysis.whole import choose_first, make_biases, open_structures, remove_structures


@dataclass(eq=False)
class Pruned:
    """A pruned model with its masks (full matrix name -> (out, in) bool, True = kept), tables and provenance.

    Where whole structures were removed: `found`, the structures of this model, and which of them were kept,
    `structures` (consumer's name -> (count,) bool, True = kept).
    """

    model: nn.Module
    recipe: Recipe
    masks: dict[str, Tensor]
    tables: dict[str, pd.DataFrame]
    provenance: dict
    tokenizer: object = None
    found: Structures | None = None
    structures: dict[str, Tensor] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write a folder that `from_pretrained` of the model's own class loads; sparsity is asserted on both sides.

        Where a repair made biases that the architecture's config has no word for, only `load_model` reads the folder.
        """
        if self.found is None or is_plain(self.model):
            save_model(self.model, self.tokenizer, folder, self.masks)
        else:
            assert_sparsity(self.model, self.masks)
            save_shrunk(self.model, self.tokenizer, folder)

    def shrink(self) -> nn.Module:
        """A really smaller copy of the model, without the rows and columns of what was removed; `save_shrunk` writes
        it, `load_model` reads it back.

        Raises UsageError where single weights were removed, UnsupportedModel where the architecture cannot run with
        fewer heads.
        """
        if self.found is None:
            raise UsageError(
                f"shrink: {self.recipe} removes single weights, so no matrix gets smaller; a pattern of"
                f" {', '.join(WHOLE)} does that, as in flap-neurons-50%"
            )
        return shrink(self.model, self.found, self.structures)


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
    precision: of the Gram matrices and means (float32 or float64).
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


def _choose_masks(walk: Walk, meter: Meter, visit: Visit) -> None:
    """Choose the masks of the unit's blocks that have none yet, and put their pruned weights in place.

    All matrices of a block take their statistics from one forward of the block with its weights still unpruned, on the
    statistics stream run through the unit's earlier blocks as they stand, without the windows added to the calibration
    text unless the recipe says otherwise (Shin et al. 2024, released code).
    """
    wanted = wanted_statistics(walk.recipe.criterion, walk.recipe.refinement)
    side = walk.dense if walk.recipe.statistics == "dense" else walk.pruned
    streams, hidden, passed = walk.calibration, walk.calibration.of(walk.recipe.statistics)[: walk.shown], None
    tokens = int(streams.mask[: walk.shown].sum())
    unmasked = walk.unmasked(visit)
    for index in visit.blocks:
        block = side.blocks[index]
        if index in unmasked:
            statistics = {}
            if wanted is not None:
                with meter.stage(visit.index, "statistics", tokens=tokens):
                    statistics = input_statistics(block, block.matrices, streams, hidden, wanted, walk.precision)
            with meter.stage(visit.index, "mask"):
                for matrix in walk.pruned.blocks[index].matrices:
                    _choose_mask(walk, walk.pruned.blocks[index], matrix, statistics.get(matrix.name))
        if wanted is not None and unmasked and index < unmasked[-1]:
            with meter.stage(visit.index, "statistics", tokens=tokens):
                hidden = passed = advance([block.module], index, streams.recording, hidden, out=passed)


def _choose_mask(walk: Walk, block: Block, matrix: Matrix, statistics: Statistics | None) -> None:
    name, recipe = f"{block.name}.{matrix.name}", walk.recipe
    source = generator(recipe.seed, "mask", name)
    chosen = choose_mask(
        recipe.criterion, recipe.pattern, matrix.weight(), statistics, source, name=name, refinement=recipe.refinement
    )
    if chosen.weight is not None:
        matrix.assign(chosen.weight)
    matrix.weight().mul_(chosen.mask).add_(0.0)  # quicker than masked_fill_; the sum makes +0 of -0
    where = walk.keep(block, matrix, chosen.mask)
    walk.note(where, chosen.notes)
    if (refined := chosen.refined) is not None:
        losses = {"error_before": refined.loss_before, "error_after": refined.loss_after, "steps": refined.steps}
        walk.rows["layers"].append({**where, "action": recipe.refinement.name, **losses})


def _reconstruct(walk: Walk, meter: Meter, visit: Visit, dense: Piece, pruned: Piece) -> None:
    """Gradient steps on one piece; what it follows is computed first and let go of afterwards."""
    with meter.stage(visit.index, "target", tokens=sum(s.tokens for s in walk.splits)):
        problems = [problem(dense, pruned, streams, walk.recipe) for streams in walk.splits]
    _train(walk, meter, visit, pruned, problems)


def _retrain(walk: Walk, meter: Meter, visit: Visit) -> None:
    """Gradient steps on the whole model under its masks; its streams then start from its own embeddings."""
    dense, pruned = (
        whole_model(walk.dense_model, dict(walk.dense.matrices())),
        whole_model(walk.model, dict(walk.pruned.matrices())),
    )
    _train(
        walk,
        meter,
        visit,
        pruned,
        [retraining(dense, streams, walk.recipe.solver.objective) for streams in walk.splits],
    )
    with meter.stage(visit.index, "record", tokens=sum(s.tokens for s in walk.splits)):
        _restart_sparse(walk)


def _restart_sparse(walk: Walk) -> None:
    for streams in walk.splits:
        streams.sparse.copy_(record(walk.model, walk.pruned, streams.recording.windows).hidden)


def _train(walk: Walk, meter: Meter, visit: Visit, piece: Piece, problems: list[Problem]) -> None:
    solver = walk.recipe.solver
    place = ("solve", visit.index, piece.part) if piece.part else ("solve", visit.index)
    with meter.stage(visit.index, "solve", trainable=trained_parameters(piece, solver)) as row:
        trained = reconstruct(
            piece, _parameter_masks(walk, piece), problems[0], problems[1:], solver, generator(walk.recipe.seed, *place)
        )
        row |= {"tokens": walk.calibration.tokens * trained.steps[-1].epoch, "solver_memory_mib": trained.held / 2**20}
    where = {"unit": visit.index, "first_block": visit.first, "last_block": visit.last, "part": piece.part}
    walk.rows["steps"] += [{**where, **asdict(step)} for step in trained.steps]


def _refit(walk: Walk, meter: Meter, visit: Visit, dense: Piece, pruned: Piece, sums: dict[str, Moments]) -> None:
    """The least-squares optimum of one matrix's kept weights. sums: by the matrix whose input they are of, shared
    within the block.
    """
    ((name, matrix),) = pruned.matrices.items()
    trainable = int(walk.masks[name].sum())
    with meter.stage(visit.index, "solve", tokens=walk.calibration.tokens, trainable=trainable) as row:
        if matrix.reads not in sums:
            sums[matrix.reads] = moments(dense, pruned, walk.calibration, walk.recipe, walk.precision)
        mask = walk.masks[name].to(matrix.weight().device)
        refit = ridge(
            dense.matrices[name].weight(), mask, sums[matrix.reads], penalty=walk.recipe.solver.penalty, name=name
        )
        matrix.assign(refit.weight)
        row["solver_memory_mib"] = sums[matrix.reads].nbytes / 2**20
    where = {"block": visit.first, "matrix": matrix.name}
    walk.rows["layers"].append(
        {**where, "action": "ridge", "error_before": refit.loss_before, "error_after": refit.loss_after, "steps": 0}
    )
    walk.note(where, refit.notes)


def _parameter_masks(walk: Walk, piece: Piece) -> dict[nn.Parameter, Tensor]:
    """Masks keyed by parameter, in the parameter's own layout and on its device."""
    return {
        matrix.module.weight: (
            (walk.masks[name].T if matrix.transposed else walk.masks[name]).to(matrix.module.weight.device)
        )
        for name, matrix in piece.matrices.items()
    }


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
    moments = [MomentSum() if walk.held_out else None for _ in walk.splits]
    for streams, moment in zip(walk.splits, moments, strict=True):
        walk.rows["blocks"] += advance_and_measure(dense, pruned, index, streams, moment)
    if index == len(walk.dense.blocks) - 1:
        walk.rows["distribution"] += [row for streams in walk.splits for row in error_quantiles(streams)]
    for streams, moment in zip(walk.held_out, moments[1:], strict=True):
        walk.rows["texts"].append(
            {"block": index, "split": streams.label, "distance": distance(moments[0].mean(), moment.mean())}
        )


def _measure_quality(walk: Walk, windows: dict[str, Windows], known: Known) -> None:
    seen = measurable(walk.dense_model, windows)
    with walk.meter.stage(-1, "measure", tokens=2 * sum(w.tokens for w in seen.values())):
        for table, rows in quality_rows(walk.dense_model, walk.model, seen, known).items():
            walk.rows[table] += rows


def _visit_tensors(walk: Walk, visit: Visit) -> dict[str, Tensor]:
    """What a checkpoint keeps of one visit: the parameters it may have changed and the masks of its blocks."""
    blocks = [walk.pruned.blocks[index] for index in visit.blocks]
    if walk.recipe.solver.name == "retrain":
        tensors = dict(walk.model.named_parameters())
    else:
        tensors = {f"{block.name}.{name}": p for block in blocks for name, p in block.module.named_parameters()}
    masks = {f"mask:{name}": walk.masks[name] for index in visit.blocks for name in walk.names(index)}
    consumers = [pair.name for pair in walk.found or () if pair.block in visit.blocks]
    whole = {f"structures:{name}": walk.structures[name] for name in consumers} | {
        f"chosen:{name}": mask for name, mask in walk.chosen.items()
    }
    return tensors | masks | whole


def _resume(walk: Walk, keeper: Checkpoint, plan: list[Visit]) -> int:
    """Put finished visits back in place and bring the streams to where they were; returns how many there were."""
    finished = keeper.finished()
    parameters = dict(walk.model.named_parameters())
    for state in finished[: len(plan)]:
        for name, tensor in state.tensors.items():
            kind, _, of = name.rpartition(":")
            if kind:
                {"mask": walk.masks, "structures": walk.structures, "chosen": walk.chosen}[kind][of] = tensor
            else:
                parameters[name].data.copy_(tensor)
        for table, rows in state.rows.items():
            walk.rows[table] += rows
    if finished:
        assert_sparsity(walk.pruned, walk.masks)
    if finished and walk.recipe.solver.name == "retrain":
        _restart_sparse(walk)
    position = plan[len(finished) - 1].advance_to if finished else 0
    with walk.meter.stage(-1, "resume"):
        for index in range(position):
            for streams in walk.splits:
                if streams.apart:
                    advance(
                        [walk.dense.blocks[index].module], index, streams.recording, streams.dense, out=streams.dense
                    )
                advance(
                    [walk.pruned.blocks[index].module], index, streams.recording, streams.sparse, out=streams.sparse
                )
    return len(finished)


def _identity(
    walk: Walk, model: nn.Module, fingerprint: str | None, calibration: Windows, held_out: dict[str, Windows]
) -> str:
    """Digest of everything the result depends on."""
    weights = fingerprint or tensors_digest(dict(model.named_parameters()))
    data = {label: w.digest() for label, w in {CALIBRATION: calibration, **held_out}.items()}
    parts = [
        walk.recipe.digest(),
        weights,
        str(next(model.parameters()).dtype),
        data,
        calibration.added,
        str(walk.precision),
        walk.measure,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _witnesses(windows: Windows) -> Tensor:
    """The windows that replay is proven on: the first, and the first with padding where that is another."""
    padded = int((~windows.mask.all(dim=1)).int().argmax())
    return torch.tensor([0, padded] if padded else [0])


def _check_windows(model: nn.Module, calibration: Windows, held_out: dict[str, Windows]) -> dict[str, Windows]:
    """The held-out sets without chance repeats of calibration text, once all windows fit the model."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if CALIBRATION in held_out:
        raise UsageError(f"held_out: the name {CALIBRATION!r} is taken by the calibration windows; choose another")
    for label, windows in {CALIBRATION: calibration, **held_out}.items():
        if len(windows) == 0:
            raise UsageError(f"{label}: no windows; give at least one")
        if context is not None and windows.length > context:
            raise UsageError(
                f"{label}: windows of {windows.length} tokens are longer than the model's context of {context}; give a"
                " shorter length"
            )
    return disjoint(calibration, held_out)


def _check_recipe(dense: Anatomy, answered: str, recipe: Recipe, held_out: dict[str, Windows]) -> None:
    """Raises UsageError listing what the recipe asks of this model and these texts that they cannot give."""
    problems = []
    of, solver = recipe.pattern.of, recipe.solver
    if solver.name == "retrain" and answered != "next token":
        problems.append(
            f"retrain follows a language model's loss, and this model answers with {answered}; choose a local method"
            " such as BR+GP"
        )
    matrices = list(dense.matrices())
    if of and (odd := [name for name, matrix in matrices if matrix.columns % of]):
        problems.append(
            f"pattern {recipe.pattern} does not divide the inputs of {len(odd)} matrices, the first is {odd[0]}; choose"
            " another pattern or an unstructured sparsity"
        )
    if solver.train == "masklora" and (
        small := [
            (min(matrix.rows, matrix.columns), name)
            for name, matrix in matrices
            if min(matrix.rows, matrix.columns) < solver.rank
        ]
    ):
        problems.append(
            f"rank={solver.rank} is above the rank of {len(small)} matrices, the smallest is {min(small)[1]}; give a"
            f" rank of at most {min(small)[0]}"
        )
    if recipe.repair.penalty == "held-out" and not held_out:
        problems.append("penalty=held-out needs at least one held-out source to choose on; give one, or a number")
    if solver.select == "held-out" and not held_out:
        problems.append("select=held-out needs at least one held-out source to select on; give one, or use select=last")
    if problems:
        raise UsageError(f"recipe {recipe}: " + "; ".join(problems))
