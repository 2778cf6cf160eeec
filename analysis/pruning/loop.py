"""The loop: walk the model's blocks in units, choose masks, repair and solve, advance both streams, record what it cost
and bought.

`prune(model, recipe, calibration, held_out)` is the whole public verb. A method is a value in the recipe: what chooses,
repairs and solves is looked up by the recipe's words (`choosers.py`, `solvers.py`), not branched on here.
"""

import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from analysis import distributed, storage
from analysis.errors import SparsityError, UsageError
from analysis.masks.notes import FEW_TOKENS
from analysis.measure.block_error import advance_and_measure, error_quantiles, massive_activations
from analysis.measure.quality import DenseModel, Final, measurable, quality_rows
from analysis.models.held import held
from analysis.models.load import LoadedModel, placed
from analysis.models.logits import ending
from analysis.models.placement import away, skeleton
from analysis.models.quiet import evaluation_mode
from analysis.models.save import assert_sparsity
from analysis.paths import expanded
from analysis.progress import bar
from analysis.pruning.checkpoint import Checkpoint, identity, on_kept_threads, resume, visit_masks, visit_tensors
from analysis.pruning.checks import check_arguments, streaming_problems
from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.new_blocks import new_blocks
from analysis.pruning.shelf import shelve
from analysis.pruning.solvers import REPAIRS, SOLVERS, warn_of_worse
from analysis.pruning.start import open_run
from analysis.pruning.state import Pruned, State
from analysis.pruning.steps import block_parameters
from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.arithmetic import chosen
from analysis.reconstruction.schedule import Visit, groups
from analysis.schema import VALIDATION, validate
from analysis.streams.moments import distance, hidden_accumulator, mean_square
from analysis.streams.streams import advance_streams
from analysis.windows import Windows

log = logging.getLogger(__name__)


@on_kept_threads
def prune(
    model: LoadedModel | nn.Module | DenseModel,
    recipe: Recipe | str | Path | Mapping[str, Any],
    calibration: Windows,
    held_out: Mapping[str, Windows] | None = None,
    *,
    validation: Windows | None = None,
    held_out_every: int | str = "auto",
    checkpoint: Path | str | None = None,
    measure: bool = True,
    precision: torch.dtype = torch.float32,
    placement: str | None = None,
) -> Pruned:
    """Prune and reconstruct a copy of `model` by `recipe`; the dense model itself is left exactly as it was.

    recipe: also its short text, such as "wanda-50% BR+GP", a TOML file's Path, or a dict.
    model: for many runs on the same texts a `DenseModel`, which is measured once.
    calibration: the windows reconstruction sees; of windows `append`ed to it, masks see what `recipe.added` says.
    held_out: name -> windows none of them sees (disjointness is checked).
    validation: the windows that `select=held-out` and `penalty=held-out` choose on; by default the last quarter of the
    calibration windows is set aside for it. Tables call it "validation".
    held_out_every: after every how many epochs of a gradient unit its held-out error is taken; "end": after the last;
    "auto": every epoch where that is cheap, else at the end (`schedule.held_out_epochs`). Changes no weight.
    checkpoint: a folder that keeps finished visits; an identical later call resumes from it, on as many threads, and
    ends with the same bits.
    measure: with False no block errors, distances of texts, perplexities and scores are taken (the fastest way to the
    pruned model).
    precision: of the sums that masks and the ridge solver are computed from, float32 or float64; repairs of structures
    and distances of texts are always summed in float64.
    placement: where the weights of both models are, "resident" in memory or "streamed", in files but for the blocks of
    one visit, with the same bits on a CPU; None: where the model has been loaded to. The result of a streamed run has
    its weights and masks in files too, and `save` writes it block by block.

    Raises ReplayError when the model cannot be replayed exactly, OverlapError when calibration and held-out share text,
    NumericalError and SparsityError naming the matrix, UnsupportedModel where its halves cannot be run apart for
    unit=sub-block, RecipeError for a recipe that is none, UsageError for arguments of another kind, for windows the
    model cannot take and for a recipe that this model or these texts cannot give.
    """
    recipe = Recipe.of(recipe)
    check_arguments(
        model,
        calibration,
        held_out,
        validation=validation,
        held_out_every=held_out_every,
        checkpoint=checkpoint,
        measure=measure,
        precision=precision,
        placement=placement,
    )
    dense, texts = _placed(DenseModel.of(model), placement, recipe), dict(held_out or {})
    with evaluation_mode(dense.model):
        state = open_run(
            dense,
            recipe,
            calibration,
            texts,
            validation=validation,
            held_out_every=held_out_every,
            measure=measure,
            precision=precision,
        )
        return _run(state, checkpoint)


def _placed(dense: DenseModel, placement: str | None, recipe: Recipe) -> DenseModel:
    """The dense model with its weights where they are asked for; loaded once more where they are elsewhere. Raises
    UsageError for a recipe that a streamed one cannot give.
    """
    streamed = skeleton(dense.model) is not None if placement is None else placement == "streamed"
    if streamed and (problems := streaming_problems(recipe)):
        raise UsageError(f"recipe {recipe}: " + "; ".join(problems))
    if placement is None or not isinstance(dense.source, LoadedModel):
        return dense
    source = placed(dense.source, placement)
    return dense if source is dense.source else replace(dense, source=source)


def _run(state: State, checkpoint: Path | str | None) -> Pruned:
    """The whole walk. Blocks of a streamed model are written to the checkpoint, or to a temporary folder, whose files
    stay open for the result.
    """
    if checkpoint is not None or skeleton(state.model) is None:
        return _walk(state, checkpoint)
    with storage.explained(f"temporary files in {tempfile.gettempdir()}", "set TMPDIR to a folder on a larger disk"):
        folder = distributed.on_main(lambda: tempfile.mkdtemp(prefix="analysis-blocks-"))
    try:
        pruned = _walk(state, folder)
        distributed.everyones(None)  # have opened what they read from there
        return pruned
    finally:
        if distributed.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _walk(state: State, checkpoint: Path | str | None) -> Pruned:
    """From the first visit not yet done to the finished model. Of several ranks only the main one writes."""
    recipe, chooser = state.recipe, CHOOSERS[state.recipe.pattern.kind]
    if distributed.world() > 1:
        distributed.agree({"the run (recipe, model, texts, versions)": identity(state)[:12]})
    folder = None if checkpoint is None else Checkpoint(expanded(checkpoint), identity(state))
    with away(state.dense_model.model):
        done = resume(state, folder) if folder else 0
        before = state.counts()
        chooser.begin(state)
        with bar(total=len(state.plan), desc=recipe.label, unit="unit") as progress:
            progress.update(done)
            for visit in state.plan[done:]:
                with held(*state.modules(visit.blocks)):
                    _visit(state, visit)
                    if folder:
                        if distributed.rank() == 0:
                            folder.write(visit.index, visit_tensors(state, visit), state.rows_since(before))
                        distributed.everyones(visit.index)  # written, for whoever reads blocks from there
                        shelve(state, visit, folder.file(visit.index))
                before = state.counts()
                progress.update(1)
    chooser.finish(state)
    _assert_all_masked(state)
    warn_of_worse(state)
    _warn_of_massive(state)
    _warn_of_starved(state)
    _warn_of_few(state)
    if state.measure:
        _measure_quality(state)
    return _finished(state)


def _visit(state: State, visit: Visit) -> None:
    """One turn of the loop: masks and repairs of its new blocks, solve, advance and record."""
    recipe, meter = state.recipe, state.meter
    for block in new_blocks(state, visit):
        CHOOSERS[recipe.pattern.kind].choose(state, block, meter)
        REPAIRS[recipe.repair.name].solve(state, block, meter)
        _take_from_main(visit_masks(state, block) | block_parameters(state, block))
    SOLVERS[recipe.solver.name].solve(state, visit, meter)
    _take_from_main(SOLVERS[recipe.solver.name].keeps(state, visit))
    assert_sparsity(state.pruned, {name: state.masks[name] for index in visit.blocks for name in state.names(index)})
    final = range(visit.first, visit.advance_to)
    with meter.stage(visit.index, "advance", tokens=sum(streams.tokens for streams in state.splits) * len(final)):
        for group in groups(len(state.dense.blocks), state.taken):
            if group[0] in final:
                _advance(state, group)


def _take_from_main(tensors: Mapping[str, Tensor]) -> None:
    """Go on with what rank 0 chose and solved: all ranks have from the same sums, but perhaps not to the last bit."""
    distributed.spread(*(tensors[name] for name in sorted(tensors)))


def _advance(state: State, group: tuple[int, ...]) -> None:
    """Move both streams of every text past a block that will not change any more, and past those removed behind it;
    where somebody measures, with its errors and how far the held-out texts are from the calibration text, else not past
    the last.
    """
    dense, pruned = ([parts.blocks[index].module for index in group] for parts in (state.dense, state.pruned))
    index = group[-1]
    last = index == len(state.dense.blocks) - 1
    if not state.measure:
        for streams in () if last else state.splits:
            for passed, modules in zip(group, zip(dense, pruned, strict=True), strict=True):
                advance_streams(streams, *modules, passed)
        return
    width, device = state.calibration.dense.shape[2], next(dense[0].parameters()).device
    moments = {streams.label: hidden_accumulator(width, device) for streams in state.splits} if state.held_out else {}
    for streams in state.splits:
        moment, outputs = moments.get(streams.label), state.outputs[streams.label]
        positions = state.rows["positions"]
        state.rows["blocks"] += advance_and_measure(dense, pruned, index, streams, moment, outputs, positions)
    if last:
        state.rows["distribution"] += [row for streams in state.splits for row in error_quantiles(streams)]
    squares = {label: mean_square(moment, label) for label, moment in moments.items()}
    for streams in state.held_out:
        apart = distance(squares[state.calibration.label], squares[streams.label])
        state.rows["texts"].append({"block": index, "split": streams.label, "distance": apart})


def _assert_all_masked(state: State) -> None:
    """Raise SparsityError for a matrix of the model's blocks that no visit has given a mask."""
    names = [name for index in range(len(state.pruned.blocks)) for name in state.names(index)]
    if bare := [name for name in names if name not in state.masks]:
        raise SparsityError(f"{len(bare)} of {len(names)} matrices were left without a mask, the first is {bare[0]}")


def _measure_quality(state: State) -> None:
    texts = measurable(state.dense_model.model, {streams.label: streams.recording.windows for streams in state.splits})
    with state.meter.stage(-1, "measure", tokens=2 * sum(windows.tokens for windows in texts.values())):
        for table, rows in quality_rows(state.dense_model, state.model, texts, _final(state, texts)).items():
            state.rows[table] += rows


def _final(state: State, texts: Mapping[str, Windows]) -> dict[tuple[str, str], Final]:
    """The streams of language models, which stand behind the last block now, so that no block runs again for their
    perplexity; without those that do not decide a model's logits.
    """
    if all(windows.labelled is not None for windows in texts.values()):
        return {}
    found: dict[tuple[str, str], Final] = {}
    for which, model, parts in (("dense", state.dense_model.model, state.dense), ("pruned", state.model, state.pruned)):
        end = ending(model, [block.module for block in parts.blocks])
        if end is None:
            continue
        for streams in state.splits:
            hidden = streams.dense if which == "dense" else streams.sparse
            if streams.label in texts and hidden.dtype == end.dtype:
                found[which, streams.label] = Final(hidden, end)
    return found


def _training(state: State) -> dict[str, Any]:
    """What else decides how gradient steps run and are looked at."""
    device = state.meter.device
    return {"held-out every": state.every, "compute": chosen(state.recipe.solver.compute, device)}


def _warn_of_massive(state: State) -> None:
    """One sentence where a handful of tokens decides the papers' error."""
    if massive := massive_activations(state.rows["blocks"]):
        log.warning(
            "%s: in %d of %d blocks, the worst %d, the largest hundredth of the tokens holds %.0f %% of the mean square"
            " (the windows' first tokens %.0f %%), and relative_error follows those alone; read relative_error_median"
            " or relative_error_rest, and train with loss=relative",
            state.recipe,
            massive["blocks"],
            len(state.dense.blocks),
            massive["block"],
            100 * massive["energy_top"],
            100 * massive["energy_first"],
        )


def _warn_of_starved(state: State) -> None:
    """One sentence where experts saw too few tokens for statistics of their own."""
    rows = state.rows["experts"]
    if starved := [row for row in rows if row["rule"]]:
        worst = min(starved, key=lambda row: row["tokens"])
        log.warning(
            "%s: %d of %d matrices of experts saw fewer calibration tokens than they have inputs (%s of block %d: %d"
            " tokens), and are scored by the rule starved=%s; give more calibration text, or another rule",
            state.recipe,
            len(starved),
            len(rows),
            worst["matrix"],
            worst["block"],
            worst["tokens"],
            worst["rule"],
        )


def _warn_of_few(state: State) -> None:
    """One sentence where least squares had no more tokens than unknowns, and so could learn them by heart."""
    if few := [row for row in state.rows["numerics"] if row["rule"] == FEW_TOKENS]:
        log.warning(
            "%s: %s repaired from %d calibration tokens, no more than the inputs that stay: these tokens"
            " are met nearly exactly, and other text can end worse than with the mask alone; give more samples, or take"
            " a repair that fits less (compensate or scale, for whole blocks replace)",
            state.recipe,
            "1 matrix was" if len(few) == 1 else f"{len(few)} matrices were",
            min(row["value"] for row in few),
        )


def _finished(state: State) -> Pruned:
    assert_sparsity(state.pruned, state.masks)  # after the last forward: what a forward writes is seen
    tables = {name: validate(name, pd.DataFrame(rows)) for name, rows in state.rows.items()}
    provenance = {
        "recipe": str(state.recipe),
        "model": state.dense_model.fingerprint,
        **({"notes": list(notes)} if (notes := getattr(state.dense_model.source, "notes", ())) else {}),
        "calibration": state.calibration.recording.windows.provenance,
        "held_out": {streams.label: streams.recording.windows.provenance for streams in state.held_out},
        "threads": torch.get_num_threads(),
        **({"ranks": distributed.world()} if distributed.world() > 1 else {}),
        **({"placement": "streamed"} if skeleton(state.model) is not None else {}),
        **({VALIDATION: state.validation.recording.windows.provenance} if state.validation is not None else {}),
        **(_training(state) if state.recipe.solver.name in TRAINED else {}),
        **({"massive activations": massive} if (massive := massive_activations(state.rows["blocks"])) else {}),
    }
    return Pruned(
        state.model,
        state.recipe,
        state.masks,
        tables,
        provenance,
        state.dense_model.tokenizer,
        state.structures,
        state.structure_masks,
        state.dense_model.folder,
    )
