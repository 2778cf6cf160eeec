"""How much work each stage of a job is, and how many tokens it reads: counted from its sizes, block by block."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from analysis.masks.choose import wanted_statistics
from analysis.models.shape import BlockShape, MatrixShape
from analysis.recipe.parts import CRITERIA_OF_BOTH
from analysis.reconstruction.arithmetic import FLAGS
from analysis.schema import CALIBRATION
from analysis.structured.experts import LARGEST
from analysis.study import footprint
from analysis.study.sizes import Sizes
from analysis.study.work import (
    Work,
    forward,
    gram,
    inverse_factor,
    least_squares,
    product,
    selection,
    sweep,
    total,
    training,
)

QUESTION = 4 * 64  # tokens that a multiple-choice question is taken to have, with all its answers
SWAPPED = 30  # swaps of a row that are counted
SOLVING = 100  # conjugate gradient steps that a repair of wide experts is taken to need
CALLS_AROUND = 40  # operations of a gradient step besides those of its blocks: loss, batch, counts


def works(sizes: Sizes, saves: bool) -> dict[str, tuple[Work, int]]:
    """Work and tokens read by stage, those that come; saves: whether the pruned model is written."""
    counted = {name: count(sizes) for name, count in _STAGES.items()}
    return {name: one for name, one in counted.items() if one[0] != Work() and (saves or name != "save")}


def _through(
    sizes: Sizes,
    block: BlockShape,
    windows: int,
    half: str | None = None,
    *,
    forwards: float | None = None,
    dtype: str | None = None,
    compute: str | None = None,
) -> Work:
    """A forward of so many windows through a block, or a half of it, in chunks or so many `forwards`, in the model's
    dtype or another; compute: another one for its products."""
    return forward(
        block,
        sizes.shape.hidden,
        windows * sizes.job.length,
        length=sizes.job.length,
        forwards=sizes.forwards(windows) if forwards is None else forwards,
        dtype=dtype or sizes.dtype,
        compute=compute,
        half=half,
    )


def _load(sizes: Sizes) -> tuple[Work, int]:
    stored = sum(sizes.shape.stored.values()) * 2 if "F32" not in sizes.shape.stored else sizes.shape.parameters * 4
    return Work(hashed=stored, passes=6.0 * stored + 3.0 * sizes.shape.parameters * sizes.item, calls=2000), 0


def _record(sizes: Sizes) -> tuple[Work, int]:
    blocks = sizes.shape.blocks
    proof = total(_through(sizes, block, 1) for block in blocks) * 3
    embedded = Work(passes=4.0 * sizes.all_tokens * sizes.shape.hidden * sizes.item)
    return proof + embedded + Work(
        calls=40.0 * len(blocks) * (4 + sizes.all_tokens / sizes.job.length / 8)
    ), sizes.all_tokens


def _wanted(sizes: Sizes) -> str | None:
    """What the recipe's masks look at: "diagonal", "gram", "gradients" or nothing."""
    recipe = sizes.recipe
    if recipe.criterion.name not in CRITERIA_OF_BOTH:
        return None
    if recipe.pattern.whole:
        return {"statistics": "diagonal", "gradients": "gradients"}.get(recipe.criterion_word.evidence or "")
    if recipe.pattern.depth or recipe.pattern.experts:
        return None  # chosen in passes of their own, which are not counted
    return wanted_statistics(recipe.criterion, recipe.refinement)


def _statistics(sizes: Sizes) -> tuple[Work, int]:
    wanted, shown, work, tokens = _wanted(sizes), sizes.shown, Work(), 0
    if wanted is None:
        return work, 0
    if wanted == "gradients":
        through = total(_through(sizes, block, shown, dtype="float32") for block in sizes.shape.blocks)
        return training(through, steps=0, parameters=0, tensors=0, weights=False), shown * sizes.job.length
    for visit in sizes.visits:
        new = sizes.new(visit)
        for index in visit.blocks if new else ():
            block = sizes.shape.blocks[index]
            if index in new:
                last = block.consumer("mlp").weights / block.weights
                work += _through(sizes, block, shown) * (1 - 0.8 * last)
                work += total(_summed(sizes, matrix, wanted) for matrix in block.readers)
                work += _starved(sizes, block, wanted)
                tokens += shown * sizes.job.length
            if index < new[-1]:
                work += _through(sizes, block, shown)
                tokens += shown * sizes.job.length
    return work, tokens


def _summed(sizes: Sizes, matrix: MatrixShape, wanted: str) -> Work:
    count = sizes.shown * sizes.job.length
    passes = Work(passes=2.0 * count * matrix.columns * 4)
    sums = passes + (gram(count, matrix.columns) if wanted == "gram" else Work())
    return sums * matrix.share + Work(calls=6.0 * sizes.forwards(sizes.shown))


def _starved(sizes: Sizes, block: BlockShape, wanted: str) -> Work:
    """A pass more that shows all tokens to experts too few go to, if all get equally many."""
    rule, count = sizes.recipe.starved, sizes.shown * sizes.job.length
    few = [m for m in block.experts if rule == "all-tokens" or (rule == "shrink" and count * m.share < m.columns)]
    if not few:
        return Work()
    read = total(product(sizes.dtype, count, sizes.shape.hidden, 2 * m.columns) for m in few if m in block.last)
    return (
        _through(sizes, block, sizes.shown) + read + total(_summed(sizes, replace(m, share=1.0), wanted) for m in few)
    )


def _mask(sizes: Sizes) -> tuple[Work, int]:
    recipe, work = sizes.recipe, Work()
    if recipe.pattern.whole:
        return Work(calls=60.0 * len(sizes.shape.blocks), passes=8.0 * sizes.shape.weights), 0
    for block in sizes.shape.blocks:
        if recipe.criterion.name == "sparsegpt":
            work += total(inverse_factor(matrix.columns) for matrix in block.readers)
            work += total(sweep(matrix, recipe.criterion.columns) for matrix in block.matrices)
        else:
            work += total(map(selection, block.matrices))
        if recipe.refinement.name == "fw":
            for matrix in block.matrices:
                once = product("float32", matrix.rows, matrix.columns, matrix.columns) + selection(matrix)
                work += once * recipe.refinement.iterations
        elif recipe.refinement.name == "swaps":
            rounds = min(recipe.refinement.rounds, SWAPPED)
            work += Work(
                passes=sum(
                    4.0 * m.rows * m.columns**2 * rounds * sizes.kept * (1 - sizes.kept) for m in block.matrices
                ),
                calls=30.0 * rounds * len(block.matrices),
            )
    return work, 0


def _repair(sizes: Sizes) -> tuple[Work, int]:
    repair, count, work = sizes.recipe.repair.name, sizes.tokens(), Work()
    if repair != "none" and sizes.recipe.pattern.experts:
        return total(_repair_experts(sizes, block) for block in sizes.shape.blocks), 2 * count * len(sizes.shape.blocks)
    if repair == "none" or not sizes.recipe.pattern.whole:
        return work, 0
    for block in sizes.shape.blocks:
        for half in ("attention", "mlp"):
            consumer = block.consumer(half)
            work += _through(sizes, block, sizes.texts[CALIBRATION]) * 2
            if repair != "compensate":
                work += (
                    gram(count, consumer.columns) * 2 + product("float32", consumer.rows, count, consumer.columns) * 2
                )
                work += inverse_factor(consumer.columns) * 2
    return work, 4 * count * len(sizes.shape.blocks)


def _repair_experts(sizes: Sizes, block: BlockShape) -> Work:
    """What a block's experts lack, and the step that makes up for it: solved at once, or, where they are too wide, by
    some `SOLVING` products with all tokens.
    """
    count, (width, share), hidden = sizes.tokens(), sizes.kept_experts(block), sizes.shape.hidden
    work = _through(sizes, block, sizes.texts[CALIBRATION]) * 2
    if sizes.recipe.repair.name == "compensate" or not width:
        return work
    if width <= LARGEST:
        double = gram(count, width) + product("float32", hidden, count, width)
        return work + (double + inverse_factor(width)) * 2  # float64: at half the rate
    own = width // max(1, len(block.last))
    once = product("float32", round(count * share), hidden, width) * 4
    return work + once * SOLVING + inverse_factor(own) * (2 * len(block.last))


def _target(sizes: Sizes) -> tuple[Work, int]:
    recipe, work, tokens = sizes.recipe, Work(), 0
    if recipe.solver.name != "gradient":
        return work, 0
    both = 1 + (recipe.target != recipe.student)
    for visit in sizes.visits:
        for block in sizes.blocks(visit):
            for windows in sizes.texts.values():
                work += _through(sizes, block, windows)
                if recipe.unit.name == "sub-block":
                    work += _through(sizes, block, windows, "attention") * both
                elif recipe.unit.name == "matrix":
                    work += _through(sizes, block, windows) * (0.6 * both * len(block.matrices) - 0.9)
        tokens += sizes.all_tokens
    return work, tokens


def _compute(sizes: Sizes) -> str:
    """The word for a gradient unit's products, a key of `Machine.products`."""
    asked = sizes.recipe.solver.compute
    if asked == "auto":
        asked = "bf16" if sizes.kind == "cuda" else "float32"
    return {"bf16": "bfloat16", None: "float32"}.get(asked, asked if asked in FLAGS else "float32")


def _solve(sizes: Sizes) -> tuple[Work, int]:
    name = sizes.recipe.solver.name
    return {"gradient": _train, "retrain": _train, "ridge": _refit}.get(name, lambda _: (Work(), 0))(sizes)


def _train(sizes: Sizes) -> tuple[Work, int]:
    solver, compute, calibration = sizes.recipe.solver, _compute(sizes), sizes.texts[CALIBRATION]
    work, looks = Work(), sizes.judged_epochs
    for visit in sizes.visits:
        blocks = sizes.blocks(visit)
        for block in blocks:
            through = partial(_through, sizes, block, dtype="float32", compute=compute)
            work += training(
                through(calibration, forwards=sizes.steps / solver.epochs) * solver.epochs,
                steps=sizes.steps,
                parameters=sizes.trained(block),
                tensors=len(block.matrices) + 2,
                weights=solver.train == "all",
            )
            pieces = {"matrix": len(block.matrices), "sub-block": 2}.get(sizes.recipe.unit.name, 1 / len(blocks))
            work += Work(calls=CALLS_AROUND * sizes.steps * pieces)
            if solver.train == "masklora":
                change = total(product("float32", m.rows, solver.rank, m.columns) for m in block.matrices)
                work += (change * 2 + Work(passes=12.0 * block.weights)) * sizes.steps
            work += total(through(windows) * looks[label] for label, windows in sizes.texts.items())
    if solver.name == "retrain":
        work += _heads(sizes)
    read = sizes.tokens() * solver.epochs + sum(sizes.tokens(label) * count for label, count in looks.items())
    return work, read * len(sizes.visits)


def _heads(sizes: Sizes) -> Work:
    """What retraining does behind the blocks; where it follows the dense model, what that does as well."""
    solver, looks = sizes.recipe.solver, sizes.judged_epochs
    once = _head(sizes, "float32", sizes.tokens()) * solver.epochs
    looked = total(_head(sizes, "float32", sizes.tokens(label)) * count for label, count in looks.items())
    work = training(once, steps=sizes.steps, parameters=sizes.rest, tensors=3) + looked
    if solver.objective != "ce":
        read = {CALIBRATION: looks[CALIBRATION] + solver.epochs}
        for label, windows in sizes.texts.items():
            dense = total(_through(sizes, block, windows) for block in sizes.shape.blocks)
            work += dense * read.get(label, looks[label])
        work += (once + looked) * int(solver.objective == "distill")
    return work


def _refit(sizes: Sizes) -> tuple[Work, int]:
    recipe, work, windows, tokens = sizes.recipe, Work(), sizes.texts[CALIBRATION], 0
    apart = recipe.student != recipe.target
    for block in sizes.shape.blocks:
        for matrix in block.readers:
            sums = gram(sizes.tokens(), matrix.columns) * (2 if apart else 1)
            sums += product("float32", matrix.columns, sizes.tokens(), matrix.columns) * int(apart)
            work += _through(sizes, block, windows) * (0.6 * (1 + apart)) + sums * matrix.share
        work += total(least_squares(matrix, sizes.kept) for matrix in block.matrices)
        tokens += sizes.tokens() * len(block.readers) * (1 + apart)
    return work, tokens


def _advance(sizes: Sizes) -> tuple[Work, int]:
    work, hidden = Work(), sizes.shape.hidden
    for block in sizes.shape.blocks:
        for windows in sizes.texts.values():
            work += _through(sizes, block, windows) * 3
            work += Work(passes=40.0 * windows * sizes.job.length * hidden, calls=60.0 * sizes.forwards(windows))
    if sizes.job.held_out:
        work += gram(sizes.all_tokens, hidden) * len(sizes.shape.blocks)
    return work, sizes.all_tokens * len(sizes.shape.blocks)


def _head(sizes: Sizes, dtype: str, tokens: int) -> Work:
    """Logits of so many tokens, and what is made of them."""
    vocabulary = sizes.shape.vocabulary
    return product(dtype, tokens, sizes.shape.hidden, vocabulary) + Work(passes=24.0 * tokens * vocabulary)


def _measure(sizes: Sizes) -> tuple[Work, int]:
    if sizes.shape.head == "next token":
        work = _head(sizes, sizes.dtype, sizes.all_tokens)
    else:
        windows = sum(sizes.texts.values())
        work = total(_through(sizes, block, windows) for block in sizes.shape.blocks)
    return work * 2 + Work(calls=20.0 * sizes.all_tokens / sizes.job.length), 2 * sizes.all_tokens


def _tasks(sizes: Sizes) -> tuple[Work, int]:
    tokens = QUESTION * sizes.job.documents * len(sizes.job.tasks)
    windows = tokens // sizes.job.length
    once = total(_through(sizes, block, windows) for block in sizes.shape.blocks) + _head(sizes, sizes.dtype, tokens)
    return once * 2 if tokens else Work(), 2 * tokens


def _shrink(sizes: Sizes) -> tuple[Work, int]:
    if not sizes.job.shrink:
        return Work(), 0
    forwards = 2 * (16 + 6 * min(8, sizes.texts[CALIBRATION]))
    once = total(_through(sizes, block, 1) for block in sizes.shape.blocks)
    return once * forwards, forwards * sizes.job.length


def _save(sizes: Sizes) -> tuple[Work, int]:
    disk = footprint.disk(sizes)
    return Work(written=disk, hashed=1.5 * disk, passes=6.0 * disk, calls=2000), 0


_STAGES: dict[str, Callable[[Sizes], tuple[Work, int]]] = {
    "load": _load,
    "record": _record,
    "statistics": _statistics,
    "mask": _mask,
    "repair": _repair,
    "target": _target,
    "solve": _solve,
    "advance": _advance,
    "measure": _measure,
    "tasks": _tasks,
    "shrink": _shrink,
    "save": _save,
}
"""The stages as the table `cost` names them, in the order they first come."""
