"""What a unit's kept weights become: gradient steps, retraining, or a closed form for each matrix."""

from dataclasses import asdict

from torch import Tensor, nn

from analysis.measure.cost import Meter
from analysis.models.replay import record
from analysis.pruning.state import Walk, generator
from analysis.reconstruction.closed_form import ridge
from analysis.reconstruction.gradient import reconstruct
from analysis.reconstruction.schedule import Visit
from analysis.reconstruction.targets import Problem, moments, problem, retraining
from analysis.reconstruction.units import Piece, trained_parameters, whole_model
from analysis.streams.moments import Moments


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
