"""What a recipe asks of a model and of its texts, checked before any work."""

import re

import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.masks.shares import matrix_shares
from analysis.models.anatomy import Anatomy
from analysis.models.hub import check_weights, find, weight_files
from analysis.pruning.shares import block_sizes
from analysis.recipe.recipe import Recipe
from analysis.schema import CALIBRATION
from analysis.windows import Windows, disjoint

_IN_BLOCK = re.compile(r"\.(\d+)\.")


def misfits(name: str, recipe: Recipe) -> list[str]:
    """What a recipe asks of a model that the headers of its weight files show it cannot give; nothing is loaded.

    Empty for a hub model, whose files may not be here yet: `prune` checks the loaded model anyway. Raises ModelError as
    `check_weights`.
    """
    from safetensors import safe_open

    folder, solver, unit = find(name).folder, recipe.solver, recipe.unit
    if folder is None:
        return []
    check_weights(folder, name)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, name):
        with safe_open(path, "numpy") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    inside = {key: match for key in shapes if (match := _IN_BLOCK.search(key))}
    if not inside:
        return []
    blocks = 1 + max(int(match[1]) for match in inside.values())
    small, where = min((min(shapes[key]), key) for key in inside if len(shapes[key]) == 2)
    problems = []
    if solver.train == "masklora" and small < solver.rank:
        problems.append(
            f"rank={solver.rank} is above the rank of {where.removesuffix('.weight')} {shapes[where]}; give a rank of"
            f" at most {small}"
        )
    if not unit.overlap and unit.width > blocks:
        problems.append(
            f"width={unit.width}: the model has {blocks} blocks; give a width of at most {blocks}, or unit=model for"
            " all of them"
        )
    return problems


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
    try:
        matrix_shares(recipe.pattern, block_sizes(dense), [0.0] * len(dense.blocks))
    except UsageError as error:
        problems.append(str(error))
    if problems:
        raise UsageError(f"recipe {recipe}: " + "; ".join(problems))
