"""The loop: walk the model's blocks in units, choose masks, solve, advance both streams, record what it cost and bought.

`prune(model, recipe, calibration, held_out)` is the whole public verb. A method is a value in the recipe, not a branch here.
"""

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.masks.choose import choose_mask, wanted_statistics
from analysis.masks.statistics import Statistics, collect
from analysis.measure.block_error import advance_and_measure
from analysis.measure.cost import Meter
from analysis.measure.perplexity import perplexity
from analysis.models.anatomy import Anatomy, Block, anatomy
from analysis.models.load import LoadedModel
from analysis.models.replay import verify
from analysis.models.save import assert_sparsity, save_model
from analysis.progress import bar
from analysis.records import CALIBRATION, TABLES, validate
from analysis.recipe import Recipe
from analysis.reconstruction.checkpoint import Checkpoint, tensors_digest
from analysis.reconstruction.gradient import Problem, reconstruct, trainable
from analysis.reconstruction.streams import Streams, advance, chunks, open_streams, unit_output
from analysis.reconstruction.units import Visit, visits
from analysis.text.windows import Windows, disjoint


@dataclass(eq=False)
class Pruned:
    """A pruned model with its masks (full matrix name -> (out, in) bool, True = kept), tables and provenance."""

    model: nn.Module
    recipe: Recipe
    masks: dict[str, Tensor]
    tables: dict[str, pd.DataFrame]
    provenance: dict
    tokenizer: object = None

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` loads; sparsity is asserted on both sides."""
        save_model(self.model, self.tokenizer, folder, self.masks)


@dataclass(eq=False)
class _Walk:
    """The state of one run of the loop."""

    recipe: Recipe
    dense: Anatomy
    pruned: Anatomy
    model: nn.Module
    calibration: Streams
    held_out: list[Streams]
    meter: Meter
    precision: torch.dtype
    measure: bool
    masks: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, list[dict]] = field(default_factory=lambda: {name: [] for name in TABLES})

    @property
    def splits(self) -> list[Streams]:
        return [self.calibration, *self.held_out]

    @property
    def needs_dense(self) -> bool:
        return self.measure or "dense" in (self.recipe.target, self.recipe.student)


def prune(
    model: LoadedModel | nn.Module,
    recipe: Recipe,
    calibration: Windows,
    held_out: dict[str, Windows] | None = None,
    *,
    checkpoint: Path | None = None,
    measure: bool = True,
    precision: torch.dtype = torch.float32,
) -> Pruned:
    """Prune and reconstruct a copy of `model` by `recipe`; the dense model itself is never modified.

    calibration: the windows reconstruction sees. held_out: name -> windows it never sees (disjointness is checked).
    checkpoint: a folder that keeps finished visits; an identical later call resumes from it and ends with the same bits.
    measure: with False no block errors and no perplexities are taken (the fastest way to the pruned model).
    precision: of the Gram matrices and means (float32 or float64).

    Raises ReplayError when the model cannot be replayed exactly, OverlapError when calibration and held-out share text,
    NumericalError and SparsityError naming the matrix, UsageError for windows the model cannot take.
    """
    held_out = held_out or {}
    tokenizer, fingerprint = (model.tokenizer, model.fingerprint) if isinstance(model, LoadedModel) else (None, None)
    dense_model = model.model if isinstance(model, LoadedModel) else model
    dense_model.eval()
    held_out = _check_windows(dense_model, calibration, held_out)
    dense = anatomy(dense_model)
    pruned_model = copy.deepcopy(dense_model).requires_grad_(False)
    device = next(dense_model.parameters()).device
    meter = Meter(device)
    with meter.stage(-1, "record", tokens=calibration.tokens + sum(w.tokens for w in held_out.values())):
        calibration_streams = open_streams(dense_model, dense, CALIBRATION, calibration)
        verify(dense_model, dense, calibration_streams.recording, rows=_witnesses(calibration))
        held_out_streams = [open_streams(dense_model, dense, label, windows) for label, windows in held_out.items()]
    walk = _Walk(recipe, dense, anatomy(pruned_model), pruned_model, calibration_streams, held_out_streams, meter, precision, measure)
    keeper = None if checkpoint is None else Checkpoint(Path(checkpoint), _identity(walk, dense_model, fingerprint, calibration, held_out))
    plan = visits(len(dense.blocks), recipe.unit)
    done = _resume(walk, keeper, plan) if keeper else 0
    with bar(total=len(plan), desc=recipe.label, unit="unit") as progress:
        progress.update(done)
        for visit in plan[done:]:
            before = {name: len(rows) for name, rows in walk.rows.items()}
            _visit(walk, visit)
            if keeper:
                new = {name: rows[before[name]:] for name, rows in walk.rows.items()}
                keeper.write(visit.index, _visit_tensors(walk, visit), new)
            progress.update(1)
    assert_sparsity(walk.pruned, walk.masks)
    if measure:
        _measure_perplexity(walk, dense_model, {CALIBRATION: calibration, **held_out})
    walk.rows["cost"] = [*meter.rows[:1], *walk.rows["cost"], *meter.rows[1:]]
    tables = {name: validate(name, pd.DataFrame(rows)) for name, rows in walk.rows.items()}
    provenance = {
        "recipe": str(recipe), "model": fingerprint, "calibration": calibration.provenance,
        "held_out": {label: windows.provenance for label, windows in held_out.items()},
    }
    return Pruned(pruned_model, recipe, walk.masks, tables, provenance, tokenizer)


def _visit(walk: _Walk, visit: Visit) -> None:
    """One turn of the loop: targets, statistics, masks, solve, advance and record."""
    modules = [walk.pruned.blocks[index].module for index in visit.blocks]
    meter = Meter(walk.meter.device)
    problems = []
    if walk.recipe.solver.name == "gradient":
        with meter.stage(visit.index, "target", tokens=sum(s.tokens for s in walk.splits)):
            problems = [_problem(walk, visit, streams) for streams in walk.splits]
    for offset, index in enumerate(visit.blocks):
        if not _is_masked(walk, walk.pruned.blocks[index]):
            _choose_masks(walk, meter, visit, modules[: offset + 1])
    if problems:
        parameters = sum(p.numel() for p in trainable(modules))
        tokens = walk.calibration.tokens * walk.recipe.solver.epochs
        with meter.stage(visit.index, "solve", tokens=tokens, trainable=parameters):
            steps = reconstruct(
                modules, _parameter_masks(walk, visit), problems[0], problems[1:], walk.recipe.solver,
                _generator(walk.recipe.seed, "solve", visit.index),
            )
        where = {"unit": visit.index, "first_block": visit.first, "last_block": visit.last}
        walk.rows["steps"] += [{**where, **asdict(step)} for step in steps]
    assert_sparsity(walk.pruned, {name: mask for index in visit.blocks for name, mask in _block_masks(walk, walk.pruned.blocks[index])})
    del problems
    with meter.stage(visit.index, "advance", tokens=sum(s.tokens for s in walk.splits) * (visit.advance_to - visit.first)):
        for index in range(visit.first, visit.advance_to):
            for streams in walk.splits:
                _advance_final(walk, streams, index)
    walk.rows["cost"] += meter.rows


def _problem(walk: _Walk, visit: Visit, streams: Streams) -> Problem:
    """The unit's student inputs and the dense unit's outputs on the target-input stream."""
    dense = [walk.dense.blocks[index].module for index in visit.blocks]
    targets = advance(dense, visit.first, streams.recording, streams.of(walk.recipe.target))
    return Problem(streams.label, visit.first, streams.of(walk.recipe.student), targets, streams.recording)


def _is_masked(walk: _Walk, block: Block) -> bool:
    return f"{block.name}.{block.matrices[0].name}" in walk.masks


def _block_masks(walk: _Walk, block: Block) -> Iterable[tuple[str, Tensor]]:
    return ((name, walk.masks[name]) for name in (f"{block.name}.{matrix.name}" for matrix in block.matrices))


def _choose_masks(walk: _Walk, meter: Meter, visit: Visit, modules: list[nn.Module]) -> None:
    """Choose the masks of the last of `modules`, the unit's blocks up to it, and put its pruned weights in place.

    All its matrices take their statistics from one forward of the block with its weights still unpruned, on the student's
    stream run through the unit's earlier blocks as they stand (Shin et al. 2024, released code).
    """
    criterion, streams = walk.recipe.criterion, walk.calibration
    block = walk.pruned.blocks[visit.first + len(modules) - 1]
    statistics, wanted = {}, wanted_statistics(criterion)
    if wanted is not None:
        with meter.stage(visit.index, "statistics", tokens=streams.tokens):
            statistics = _statistics(walk, block, modules, wanted)
    with meter.stage(visit.index, "mask"):
        for matrix in block.matrices:
            name = f"{block.name}.{matrix.name}"
            generator = _generator(walk.recipe.seed, "mask", name)
            mask, weight, notes = choose_mask(criterion, walk.recipe.pattern, matrix.weight(), statistics.get(matrix.name), generator, name=name)
            walk.masks[name] = mask.cpu()
            matrix.assign((matrix.weight() if weight is None else weight).masked_fill(~mask, 0))
            rows, columns = mask.shape
            kept = int(mask.sum())
            walk.rows["matrices"].append({
                "block": block.index, "matrix": matrix.name, "rows": rows, "columns": columns, "kept": kept, "sparsity": 1 - kept / mask.numel(),
            })
            walk.rows["numerics"] += [{"block": block.index, "matrix": matrix.name, "rule": note.rule, "value": note.value} for note in notes]


@torch.inference_mode()
def _statistics(walk: _Walk, block: Block, modules: list[nn.Module], wanted: str) -> dict[str, Statistics]:
    """Statistics of the inputs of the matrices of `block`, the last of the consecutive `modules`, on the student's calibration stream."""
    streams, hidden, device = walk.calibration, walk.calibration.of(walk.recipe.student), walk.meter.device
    first = block.index - len(modules) + 1
    with collect(block.matrices, want=wanted, precision=walk.precision, block=block.name) as collector:
        for rows in chunks(*hidden.shape[:2], device):
            collector.mask = streams.mask[rows]
            with collector.inputs_only():
                unit_output(modules, first, streams.recording, hidden[rows].to(device), rows)
    return collector.result()


def _parameter_masks(walk: _Walk, visit: Visit) -> dict[nn.Parameter, Tensor]:
    """Masks keyed by parameter, in the parameter's own layout and on its device."""
    return {
        matrix.module.weight: (mask.T if matrix.transposed else mask).to(matrix.module.weight.device)
        for index in visit.blocks
        for matrix, (_, mask) in zip(walk.pruned.blocks[index].matrices, _block_masks(walk, walk.pruned.blocks[index]), strict=True)
    }


def _advance_final(walk: _Walk, streams: Streams, index: int) -> None:
    """Move both streams past a block that will not change any more (where nobody looks, not past the last)."""
    dense, pruned = walk.dense.blocks[index].module, walk.pruned.blocks[index].module
    if walk.measure:
        walk.rows["blocks"] += advance_and_measure(dense, pruned, index, streams)
        return
    if index == len(walk.dense.blocks) - 1:
        return
    if walk.needs_dense:
        advance([dense], index, streams.recording, streams.dense, out=streams.dense)
    advance([pruned], index, streams.recording, streams.sparse, out=streams.sparse)
    streams.position = index + 1


def _measure_perplexity(walk: _Walk, dense_model: nn.Module, windows: dict[str, Windows]) -> None:
    with walk.meter.stage(-1, "measure", tokens=2 * sum(w.tokens for w in windows.values())):
        for name, model in (("dense", dense_model), ("pruned", walk.model)):
            for label, split in windows.items():
                walk.rows["perplexity"].append({"split": label, "which": name, **asdict(perplexity(model, split))})


def _visit_tensors(walk: _Walk, visit: Visit) -> dict[str, Tensor]:
    """What a checkpoint keeps of one visit: the parameters of its blocks and their masks."""
    tensors = {}
    for block in (walk.pruned.blocks[index] for index in visit.blocks):
        tensors |= {f"{block.name}.{name}": p for name, p in block.module.named_parameters()}
        tensors |= {f"mask:{name}": mask for name, mask in _block_masks(walk, block)}
    return tensors


def _resume(walk: _Walk, keeper: Checkpoint, plan: list[Visit]) -> int:
    """Put finished visits back in place and bring the streams to where they were; returns how many there were."""
    finished = keeper.finished()
    for visit, state in zip(plan, finished, strict=False):
        for block in (walk.pruned.blocks[index] for index in visit.blocks):
            for name, parameter in block.module.named_parameters():
                parameter.data.copy_(state.tensors[f"{block.name}.{name}"])
        walk.masks |= {name.removeprefix("mask:"): mask for name, mask in state.tensors.items() if name.startswith("mask:")}
        for table, rows in state.rows.items():
            walk.rows[table] += rows
    position = plan[len(finished) - 1].advance_to if finished else 0
    with walk.meter.stage(-1, "resume"):
        for index in range(position):
            for streams in walk.splits:
                advance([walk.dense.blocks[index].module], index, streams.recording, streams.dense, out=streams.dense)
                advance([walk.pruned.blocks[index].module], index, streams.recording, streams.sparse, out=streams.sparse)
                streams.position = index + 1
    return len(finished)


def _identity(walk: _Walk, model: nn.Module, fingerprint: str | None, calibration: Windows, held_out: dict[str, Windows]) -> str:
    """Digest of everything the result depends on."""
    weights = fingerprint or tensors_digest(dict(model.named_parameters()))
    data = {label: tensors_digest({"ids": w.ids, "mask": w.mask}) for label, w in {CALIBRATION: calibration, **held_out}.items()}
    parts = [walk.recipe.digest(), weights, str(next(model.parameters()).dtype), data, str(walk.precision), walk.measure]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _generator(seed: int, *where: object) -> torch.Generator:
    """A generator of its own for each place randomness is used, so that no place depends on what ran before it."""
    digest = hashlib.sha256(json.dumps([seed, *where]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


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
            raise UsageError(f"{label}: windows of {windows.length} tokens are longer than the model's context of {context}; give a shorter length")
    return disjoint(calibration, held_out)
