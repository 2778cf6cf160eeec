"""What a recipe asks of a model and of its texts, checked before any work. Importing this loads no torch.

Each rule stands here once and is fed from what is at hand: a job, the headers of weight files, or the loaded model.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.errors import UnsupportedModel, UsageError, quoted
from analysis.models.hub import check_weights, find, weight_files
from analysis.models.unpack import packed_files
from analysis.paths import expanded
from analysis.recipe.depth import removed_count
from analysis.recipe.parts import EXPERTS, WHOLE
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import every_problem, visits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from analysis.masks.shares import Sizes
    from analysis.models.anatomy import Anatomy, Block
    from analysis.models.shape import ModelShape
    from analysis.windows import Windows

_IN_BLOCK = re.compile(r"\.(\d+)\.")


def misfits(
    recipe: Recipe,
    *,
    blocks: int | None = None,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    oriented: bool = True,
    answers: str | None = None,
    has: Collection[str] | None = None,
    windows: int | None = None,
    device: str | None = None,
) -> list[str]:
    """What a recipe asks that a model and its texts cannot give, one sentence each; what is None is not known yet.

    blocks: how many the model has. shapes: matrix name -> (outputs, inputs), in either order unless `oriented`.
    answers: what the model answers (`models/task_heads.py`). has: which of "experts", "projector" and "pictures" it
    has. windows: how many calibration windows there are for a recipe that sets some of them aside. device: its type.
    """
    solver, problems = recipe.solver, []
    if blocks is not None:
        try:
            visits(blocks, recipe.unit)
        except UsageError as error:
            problems.append(str(error))
        if recipe.pattern.depth:
            try:
                removed_count(recipe.pattern, blocks)
            except UsageError as error:
                problems.append(str(error))
    if solver.name == "retrain" and answers not in (None, "next token"):
        problems.append(
            f"retrain follows a language model's loss, and this model answers with {answers}; choose a local method"
            " such as BR+GP"
        )
    if has is not None:
        problems += _missing(recipe, has)
    shapes = shapes or {}
    if oriented and (group := recipe.pattern.of):
        undivided = [name for name, (_, inputs) in shapes.items() if inputs % group]
        if undivided:
            problems.append(
                f"pattern {recipe.pattern} does not divide the inputs of {len(undivided)} matrices, the first is"
                f" {undivided[0]}; choose another pattern or an unstructured sparsity"
            )
    if solver.train == "masklora":
        small = [(min(shape), name) for name, shape in shapes.items() if min(shape) < solver.rank]
        if small:
            rank, name = min(small)
            problems.append(
                f"rank={solver.rank} is above the rank of {len(small)} matrices, the smallest is {name}; give a rank of"
                f" at most {rank}"
            )
    if solver.compute == "tf32" and device not in (None, "auto", "cuda"):
        problems.append(f"compute=tf32 is a format of CUDA devices, and this is {device}; give medium, bf16 or auto")
    if windows is not None and windows < 2 and recipe.selects:
        problems.append(
            f"{recipe.selects} sets some of the calibration windows aside to choose on, and there is {windows}; give at"
            " least 2, or a validation text of its own"
        )
    return problems


def _missing(recipe: Recipe, has: Collection[str]) -> Iterator[str]:
    """What a recipe speaks of that a model does not have."""
    if "experts" not in has:
        if said := recipe.of_experts():
            yield f"{' and '.join(said)} speak of a mixture's experts, and this model has none; leave them out"
        if recipe.pattern.experts:
            yield f"pattern {recipe.pattern} removes a mixture's experts, and this model has none"
    needs = {"projector": "projector", "language": "pictures"}.get(str(recipe.solver.train))
    if needs is not None and needs not in has:
        yield (
            f"train={recipe.solver.train} is of models that read pictures through a projector, and this one has none;"
            " take train=all or train=masklora"
        )


def shape_misfits(recipe: Recipe, shape: "ModelShape", device: str) -> list[str]:
    """What a recipe asks that a model of this shape cannot give on such a device, one sentence each."""
    blocks = [(f"blocks.{number}", block.matrices) for number, block in enumerate(shape.blocks)]
    shapes = {f"{block}.{matrix.name}": (matrix.rows, matrix.columns) for block, own in blocks for matrix in own}
    sizes = [(block, {matrix.name: matrix.weights for matrix in own}) for block, own in blocks]
    return _of_parts(recipe, shapes, sizes, shape.head, shape.has, device)


def _of_parts(
    recipe: Recipe,
    shapes: Mapping[str, tuple[int, int]],
    blocks: "Sequence[tuple[str, Sizes]]",
    answers: str,
    has: Collection[str],
    device: str,
) -> list[str]:
    """What a recipe asks that matrices of these (outputs, inputs), by full name, in blocks of these weights cannot
    give, one sentence each.
    """
    from analysis.masks.shares import check_counts, matrix_shares

    problems = misfits(recipe, blocks=len(blocks), shapes=shapes, answers=answers, has=has, device=device)
    try:
        shares = matrix_shares(recipe.pattern, blocks, [0.0] * len(blocks))
        if recipe.pattern.word.group == "weights":
            check_counts(recipe.criterion, recipe.pattern, shapes, shares)
    except UsageError as error:
        problems.append(str(error))
    return problems


def header_misfits(name: str, recipe: Recipe) -> list[str]:
    """`misfits` as far as the headers of a model's weight files show them; no tensor is loaded.

    Empty for a hub model, whose files may not be here yet, and for one that is still packed: `prune` checks the loaded
    model anyway. Raises ModelError as `check_weights`.
    """
    from safetensors import safe_open

    folder = find(name).folder
    if folder is None or packed_files(folder, name):
        return []
    check_weights(folder, name)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, name):
        with safe_open(path, "numpy") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    places = {key: int(match[1]) for key in shapes if (match := _IN_BLOCK.search(key))}
    if not places:
        return []
    matrices = {
        key.removesuffix(".weight"): (shape[0], shape[1])
        for key, shape in shapes.items()
        if key in places and len(shape) == 2
    }
    return misfits(recipe, blocks=1 + max(places.values()), shapes=matrices, oriented=False)


def label_problem(labels: Iterable[str], *, selects: bool = False) -> str | None:
    """What is wrong with a held-out text that is named like the calibration text, or like the validation text of a
    recipe that selects; None where none is.
    """
    from analysis.schema import CALIBRATION, VALIDATION

    taken = (CALIBRATION, VALIDATION) if selects else (CALIBRATION,)
    if not (names := [name for name in taken if name in labels]):
        return None
    return f"the held-out label {names[0]!r} is taken by the {names[0]} text; choose another"


def shrink_problem(recipe: Recipe) -> str | None:
    """Why a model pruned by this recipe cannot be made smaller; None where it can."""
    if problem := save_problem(recipe):
        return problem
    if recipe.pattern.whole or recipe.pattern.kind in ("blocks", *EXPERTS):
        return None
    if recipe.pattern.depth:
        return (
            f"{recipe} removes halves of blocks, and no architecture has blocks without one: the model keeps its size,"
            " with zeros; blocks-25% takes whole blocks out"
        )
    return (
        f"{recipe} removes single weights, so no matrix gets smaller; a pattern of {', '.join([*WHOLE, 'blocks'])} does"
        " that, as in flap-neurons-50%"
    )


def save_problem(recipe: Recipe) -> str | None:
    """Why a model pruned by this recipe cannot be written to a folder, or made smaller; None where it can."""
    if recipe.repair.name != "ghost":
        return None
    return (
        f"{recipe} leaves a linear map between blocks, which no checkpoint of transformers can hold: it is there to be"
        " measured, as `prune` in Python and studies do; refit or replace repair a model that is to be kept"
    )


def streaming_problems(recipe: Recipe) -> list[str]:
    """What of a recipe cannot be done while only the blocks of one visit are in memory, one sentence each."""
    problems = []
    if recipe.solver.name == "retrain":
        problems.append("retraining changes the whole model at once, and a streamed one is never in memory whole")
    if recipe.repair.name == "ghost":
        problems.append("ghost adds maps between blocks, which files of blocks have no place for")
    if recipe.pattern.whole or recipe.pattern.experts:
        problems.append(
            f"pattern {recipe.pattern} removes whole structures, which are found and proven on the whole model; a"
            " streamed one loses single weights alone"
        )
    return [f"{problem}; take placement=resident, or another recipe" for problem in problems]


def validation_problem(recipe: Recipe) -> str | None:
    """Why a validation text would be of no use; None where the recipe selects on it."""
    if recipe.selects:
        return None
    return f"{recipe} selects nothing on it; add select=held-out (or penalty=held-out), or leave it out"


def check_arguments(
    model: Any,
    calibration: Any,
    held_out: Any,
    *,
    validation: Any,
    held_out_every: Any,
    checkpoint: Any,
    measure: Any,
    precision: Any,
    placement: Any = None,
) -> None:
    """Raise UsageError listing the arguments of `prune` that are not of the kind it takes."""
    import torch

    from analysis.measure.quality import DenseModel
    from analysis.models.load import PLACEMENTS, LoadedModel
    from analysis.windows import Windows

    problems = []
    if placement is not None and placement not in PLACEMENTS:
        problems.append(f"placement must be one of {', '.join(PLACEMENTS)}, got {quoted(placement)}")
    source = model.source if isinstance(model, DenseModel) else model
    if placement is not None and not isinstance(source, LoadedModel):
        problems.append(f"placement={quoted(placement)} needs a model of load_model, whose files are known")
    bare = source.model if isinstance(source, LoadedModel) else source
    if not isinstance(bare, torch.nn.Module) or not hasattr(bare, "config"):
        hint = f"; load_model({quoted(model)}) loads it" if isinstance(model, str) else ""
        problems.append(f"model must be what load_model gives, or a transformers model, got {_kind(model)}{hint}")
    if not isinstance(calibration, Windows):
        problems.append(f"calibration must be Windows, as load_tokens gives, got {_kind(calibration)}")
    if isinstance(held_out, Mapping):
        for label, windows in held_out.items():
            if not isinstance(label, str) or not label.strip():
                problems.append(f"held_out: a label must be a text, got {quoted(label)}")
            if not isinstance(windows, Windows):
                problems.append(f"held_out {quoted(label)} must be Windows, as load_tokens gives, got {_kind(windows)}")
    elif held_out is not None:
        problems.append(f"held_out must be a dict of Windows by label, as {{'mine': windows}}, got {_kind(held_out)}")
    if validation is not None and not isinstance(validation, Windows):
        problems.append(f"validation must be Windows, as load_tokens gives, got {_kind(validation)}")
    if problem := every_problem(held_out_every):
        problems.append(f"held_out_every {problem}")
    try:
        _ = checkpoint is None or expanded(checkpoint)
    except UsageError as error:
        problems.append(f"checkpoint must be a folder; {error}")
    if not isinstance(measure, bool):
        problems.append(f"measure must be True or False, got {quoted(measure)}")
    if not any(precision is sums for sums in (torch.float32, torch.float64)):
        problems.append(f"precision must be torch.float32 or torch.float64, got {quoted(precision)}")
    if problems:
        raise UsageError("prune: " + "; ".join(problems))


def _kind(value: object) -> str:
    """What was given in the place of something large: a short value, or its type."""
    return quoted(value) if value is None or isinstance(value, (str, int, float)) else f"a {type(value).__name__}"


def witnesses(windows: "Windows") -> "Tensor":
    """The windows that replay is proven on: the first, and the shortest where some have padding and it is another."""
    import torch

    shortest = int(windows.mask.sum(dim=1).argmin())
    return torch.tensor([0, shortest] if shortest else [0])


def check_windows(
    model: "nn.Module",
    recipe: Recipe,
    calibration: "Windows",
    held_out: "dict[str, Windows]",
    *,
    label_taken: bool = True,
) -> "dict[str, Windows]":
    """The other sets without chance repeats of calibration text, once all windows fit the model."""
    from analysis.models.context import usable_context
    from analysis.models.load import embedding_rows, unwrapped
    from analysis.schema import CALIBRATION
    from analysis.windows import disjoint

    context, rows = usable_context(model), embedding_rows(unwrapped(model))
    if label_taken and (problem := label_problem(held_out, selects=recipe.selects is not None)):
        raise UsageError(f"held_out: {problem}")
    for label, windows in {CALIBRATION: calibration, **held_out}.items():
        if len(windows) == 0 or windows.tokens == 0:
            raise UsageError(f"{label}: no {'tokens' if len(windows) else 'windows'}; give at least one")
        if not bool((real := windows.mask.any(dim=1)).all()):
            raise UsageError(
                f"{label}: window {int(real.int().argmin())} of {len(windows)} has no real token, only padding; leave"
                " it out"
            )
        if context is not None and windows.length > context:
            raise UsageError(
                f"{label}: windows of {windows.length} tokens are longer than the model's context of {context}; give a"
                " shorter length"
            )
        least, most = (int(end) for end in windows.ids.aminmax())
        if least < 0 or most >= rows:
            raise UsageError(
                f"{label}: token ids from {least} to {most}, and the model's vocabulary is 0 to {rows - 1}; draw the"
                " windows with the model's own tokenizer"
            )
    return disjoint(calibration, held_out)


def check_recipe(dense: "Anatomy", model: "nn.Module", recipe: Recipe) -> None:
    """Raise UsageError listing what the recipe asks of this model that it cannot give, and UnsupportedModel where
    hidden states are to be followed and what its head reads cannot be told apart.
    """
    from analysis.masks.shares import block_sizes
    from analysis.models.held import held
    from analysis.models.logits import split_model
    from analysis.models.shape import parts_of
    from analysis.models.task_heads import head

    matrices = dict(dense.matrices())
    shapes = {name: (matrix.rows, matrix.columns) for name, matrix in matrices.items()}
    with held(dense.blocks[0].module):
        device = dense.blocks[0].matrices[0].weight().device.type
    problems = _of_parts(recipe, shapes, block_sizes(dense), head(model), parts_of(model, matrices.values()), device)
    if recipe.pattern.zeros and not any(_has_zeros(block) for block in dense.blocks):
        problems.append("zeros=stay: no weight of the model's matrices is zero already; leave it out")
    if problems:
        raise UsageError(f"recipe {recipe}: " + "; ".join(problems))
    if recipe.solver.objective == "hidden" and split_model(model) is None:
        raise UnsupportedModel(
            f"{dense.model_type}: what its head reads cannot be told apart, so objective=hidden has nothing to follow;"
            " take objective=distill"
        )


def _has_zeros(block: "Block") -> bool:
    from analysis.models.held import held

    with held(block.module):
        return any(bool((matrix.weight() == 0).any()) for matrix in block.matrices)
