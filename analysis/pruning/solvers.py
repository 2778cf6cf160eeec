"""What kept weights become: a closed form for each matrix, gradient steps, retraining; the repairs of structures."""

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn

from analysis.masks.notes import Note
from analysis.masks.seeds import generator
from analysis.measure.cost import Meter
from analysis.models.replay import record
from analysis.pruning.depth import fit_ghost, prepare_repair, repair_cut
from analysis.pruning.experts import repair_experts
from analysis.pruning.state import State
from analysis.pruning.steps import SolverSteps, Step, reads_both
from analysis.pruning.structures import (
    biases,
    make_biases,
    remove_structures,
    repair_structures,
    scales,
    searches_penalty,
    weights_and_biases,
)
from analysis.reconstruction.closed_form import ridge
from analysis.reconstruction.gradient import reconstruct
from analysis.reconstruction.schedule import Visit
from analysis.reconstruction.targets import Problem, moments, problem, retraining
from analysis.reconstruction.units import Piece, pieces, runs_halves, trained_parameters, whole_model
from analysis.streams.moments import Moments
from analysis.streams.starved import is_starved
from analysis.structured.targets import reads_two_streams

log = logging.getLogger(__name__)
ENDED_WORSE = "ended worse"
EXACT = 1e6  # times farther, from where on the unit was as good as exact before


def leave(state: State, visit: Visit, meter: Meter) -> None:
    """Kept weights stay as the mask step and the repair left them."""


def follow_dense(state: State, visit: Visit, meter: Meter) -> None:
    """Gradient steps on one piece of the unit after the other; what it follows is computed first and let go of
    afterwards.
    """
    for dense, pruned in _pieces(state, visit):
        with meter.stage(visit.index, "target", tokens=sum(streams.tokens for streams in state.splits)):
            problems = [problem(dense, pruned, streams, state.recipe) for streams in state.splits]
        if pruned.tokens is None:
            _train(state, meter, visit, pruned, problems)
            continue
        needed, held_out = problems[: 1 + len(state.judged)], problems[1 + len(state.judged) :]
        if all(map(len, needed)):
            _train(state, meter, visit, pruned, [*needed, *filter(len, held_out)])
        else:
            state.note({"block": visit.first, "matrix": pruned.part}, [Note("starved: left", 0.0)])


def retrain(state: State, visit: Visit, meter: Meter) -> None:
    """Gradient steps on the whole model under its masks; its streams then start from its own embeddings."""
    dense = whole_model(state.dense_model.model, dict(state.dense.matrices()))
    pruned = whole_model(state.model, dict(state.pruned.matrices()))
    problems = [retraining(dense, streams, state.recipe.solver) for streams in state.splits]
    _train(state, meter, visit, pruned, problems)
    with meter.stage(visit.index, "record", tokens=sum(streams.tokens for streams in state.splits)):
        restart_sparse(state)


def restart_sparse(state: State) -> None:
    """Start the sparse streams anew, from embeddings that have changed."""
    for streams in state.splits:
        streams.sparse.copy_(record(state.model, state.pruned, streams.recording.windows).hidden)


def all_parameters(state: State, visit: Visit) -> dict[str, Tensor]:
    """Every parameter of the model by its name: all of them are retrained."""
    return dict(state.model.named_parameters())


def refit(state: State, visit: Visit, meter: Meter) -> None:
    """The least-squares optimum of the kept weights, one matrix after the other; matrices that read the same tensor
    share its moments.
    """
    shared: dict[str, tuple[Moments | None, int]] = {}
    for dense, pruned in _pieces(state, visit):
        _refit_matrix(state, meter, visit, dense, pruned, shared)


def _refit_matrix(
    state: State, meter: Meter, visit: Visit, dense: Piece, pruned: Piece, shared: dict[str, tuple[Moments | None, int]]
) -> None:
    """shared: moments so far, with the tokens seen, by the matrix whose input they are of."""
    ((name, matrix),) = pruned.matrices.items()
    recipe, trainable = state.recipe, int(state.masks[name].sum())
    where = {"block": visit.first, "matrix": matrix.name}
    with meter.stage(visit.index, "solve", tokens=state.calibration.tokens, trainable=trainable) as row:
        if matrix.reads not in shared:
            shared[matrix.reads] = moments(dense, pruned, state.calibration, recipe, state.precision)
        sums, seen = shared[matrix.reads]
        if is_starved(matrix, seen):
            state.note(where, [Note(f"starved: {recipe.starved}", float(seen))])
        if sums is None:
            return
        mask = state.masks[name].to(matrix.weight().device)
        fit = ridge(dense.matrices[name].weight(), mask, sums, penalty=recipe.solver.penalty, name=name)
        matrix.assign(fit.weight)
        row["solver_memory_mib"] = sums.nbytes / 2**20
    errors = {"error_before": fit.loss_before, "error_after": fit.loss_after, "steps": 0}
    state.rows["layers"].append({**where, "action": recipe.solver.name, **errors})
    state.note(where, fit.notes)


def _pieces(state: State, visit: Visit) -> Iterator[tuple[Piece, Piece]]:
    """The visit's pieces in the order they are solved, of the dense and of the pruned model."""
    dense, pruned = (
        pieces([parts.blocks[index] for index in visit.blocks], state.recipe.unit)
        for parts in (state.dense, state.pruned)
    )
    return zip(dense, pruned, strict=True)


def _train(state: State, meter: Meter, visit: Visit, piece: Piece, problems: list[Problem]) -> None:
    solver = state.recipe.solver
    place = ("solve", visit.index, piece.part) if piece.part else ("solve", visit.index)
    with meter.stage(visit.index, "solve", trainable=trained_parameters(piece, solver)) as row:
        source = generator(state.recipe.seed, *place)
        calibration, *others = problems
        validation = others.pop(0) if state.judged else None
        masks, every = _parameter_masks(state, piece), state.every
        trained = reconstruct(piece, masks, calibration, others, solver, source, validation=validation, every=every)
        row |= {"tokens": state.calibration.tokens * trained.steps[-1].epoch, "solver_memory_mib": trained.held / 2**20}
    where = {"unit": visit.index, "first_block": visit.first, "last_block": visit.last, "part": piece.part}
    state.rows["steps"] += [{**where, **asdict(step)} for step in trained.steps]
    errors = [step.error for step in trained.steps if step.split == calibration.label]
    if solver.select == "last" and errors[-1] > 1.001 * errors[0]:
        ratio = errors[-1] / errors[0] if errors[0] else math.inf
        state.note({"block": visit.first, "matrix": piece.part}, [Note(ENDED_WORSE, ratio)])


def warn_of_worse(state: State) -> None:
    """One sentence on the units that training left farther from their targets than it found them, if any."""
    worse = [row for row in state.rows["numerics"] if row["rule"] == ENDED_WORSE]
    if worse:
        worst = max(worse, key=lambda row: row["value"])
        farther = f"{worst['value']:.3g} times" if worst["value"] < EXACT else "had nothing to be repaired"
        log.warning(
            "%s: training left %d units farther from their targets than it found them (block %d %s); lower lr"
            " (now %g), or keep each unit's best epoch with select=calibration",
            state.recipe,
            len(worse),
            worst["block"],
            farther,
            state.recipe.solver.lr,
        )


def _parameter_masks(state: State, piece: Piece) -> dict[nn.Parameter, Tensor]:
    """Masks keyed by parameter, in the parameter's own layout and on its device."""
    masks: dict[nn.Parameter, Tensor] = {}
    for name, matrix in piece.matrices.items():
        mask, parameter = state.masks[name], matrix.parameter
        if matrix.expert is None:
            masks[parameter] = (mask.T if matrix.transposed else mask).to(parameter.device)
        else:
            masks.setdefault(parameter, torch.ones_like(parameter, dtype=torch.bool))
            matrix.part(masks[parameter]).copy_(mask)
    return masks


SOLVERS: dict[str, SolverSteps] = {
    "none": SolverSteps(leave),
    "ridge": SolverSteps(refit, reads=reads_both),
    "gradient": SolverSteps(follow_dense, reads=reads_both, halves=lambda recipe: runs_halves(recipe.unit)),
    "retrain": SolverSteps(retrain, keeps=all_parameters, resume=restart_sparse),
}


def _of_kind(step: Step) -> Step:
    """The repair of structures, or that of a mixture's experts, as the pattern is."""
    return lambda state, visit, meter: (repair_experts if state.recipe.pattern.experts else step)(state, visit, meter)


_repair = partial(SolverSteps, reads=reads_both, validation=searches_penalty, halves=reads_two_streams)
REPAIRS: dict[str, SolverSteps] = {
    "none": SolverSteps(remove_structures),
    "compensate": _repair(_of_kind(partial(repair_structures, solved=biases)), prepare=make_biases),
    "scale": _repair(partial(repair_structures, solved=scales)),
    "liar": _repair(_of_kind(partial(repair_structures, solved=weights_and_biases)), prepare=make_biases),
    **dict.fromkeys(
        ("refit", "replace", "patch"),
        SolverSteps(repair_cut, reads=reads_both, validation=searches_penalty, prepare=prepare_repair),
    ),
    "ghost": SolverSteps(fit_ghost, reads=reads_both, validation=searches_penalty),
}
