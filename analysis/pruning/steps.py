"""What choosers, repairs and solvers are: functions of one signature, with what the loop must know about each.

The loop looks them up by the words of the recipe: `CHOOSERS` by the pattern's kind (`choosers.py`), `REPAIRS` and
`SOLVERS` by the names of repair and solver (`solvers.py`). Each is a plain dict; a method from outside is one more
entry.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass

from torch import Tensor, nn

from analysis.measure.cost import Meter
from analysis.models.anatomy import Anatomy
from analysis.pruning.state import State
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit
from analysis.structured.pairs import Structures

Step = Callable[[State, Visit, Meter], None]
"""One step of a visit: `step(state, visit, meter)`.

It may read every field of the state. What it does is left in the state: weights of `state.pruned` (the matrices of
`visit.blocks`, in place), masks (`state.keep`), rows of tables (`state.rows`, `state.note`) and, for what it costs,
stages of the meter (`with meter.stage(visit.index, "solve", tokens=..., trainable=...)`). Dense model, streams and
recipe are not to be changed. Randomness comes from `seeds.generator(state.recipe.seed, ...)` alone.
"""


def reads_nothing(recipe: Recipe) -> Set[str]:
    """Of a step that looks at no hidden states."""
    return frozenset()


def reads_both(recipe: Recipe) -> Set[str]:
    """Of a step that follows the recipe's student and target."""
    return {recipe.student, recipe.target}


def nothing(state: State) -> None:
    """Nothing to do."""


def block_parameters(state: State, visit: Visit) -> dict[str, Tensor]:
    """All parameters of the visit's blocks, by their full names."""
    blocks = [state.pruned.blocks[index] for index in visit.blocks]
    return {f"{block.name}.{name}": p for block in blocks for name, p in block.module.named_parameters()}


def no_structures(model: nn.Module, parts: Anatomy, recipe: Recipe, meter: Meter) -> Structures:
    """Of single weights: no whole structures."""
    return Structures(parts, ())


@dataclass(frozen=True)
class ChooserSteps:
    """How masks are chosen.

    choose  the masks of the one block of a visit, whose weights are still all there: each matrix's by `state.keep`.
            Hidden states at the block's input: `state.entry`. Where nothing repairs or removes after it (single
            weights), it also puts zeros in the place of removed weights
    reads   the streams ("dense", "sparse") whose hidden states `choose` looks at
    find    (dense model, its anatomy, recipe, meter) -> the structures among which is chosen, before any work; raises
            what cannot be removed
    halves  whether it runs the halves of a block apart, which is proven on the model first
    begin   before the first visit: masks that are chosen for all blocks at once, left in `state.chosen`; with these
            there already where visits are resumed, before the streams advance
    finish  after the last visit
    early   whether `begin` changes what parameters the model has, and so comes before finished visits are put back
    """

    choose: Step
    reads: Callable[[Recipe], Set[str]] = reads_nothing
    find: Callable[[nn.Module, Anatomy, Recipe, Meter], Structures] = no_structures
    halves: Callable[[Recipe], bool] = lambda recipe: False
    begin: Callable[[State], None] = nothing
    finish: Callable[[State], None] = nothing
    early: bool = False


@dataclass(frozen=True)
class SolverSteps:
    """How kept weights change.

    solve       a solver: the kept weights of the visit's blocks, whose masks are in `state.masks` and obeyed already;
                they are obeyed when it ends, else SparsityError. The streams stand at the input of the visit's first
                block (`state.calibration`, `state.validation`, `state.held_out`). A repair: the same of the one block
                of a visit whose masks have just been chosen and whose removed structures are still there, for it to
                remove; the streams at that block's input are `state.entry`
    reads       the streams ("dense", "sparse") it looks at; the dense stream is computed only where somebody reads it
    validation  whether a repair looks at the validation text too
    halves      whether it runs the halves of a block apart, which is proven on the model first
    prepare     once before the first visit and before resuming: parameters that it is going to need
    keeps       parameters by full name that a visit may have changed: what a checkpoint keeps and gives back
    resume      once after parameters and masks of finished visits are back, the streams still at the first block
    """

    solve: Step
    reads: Callable[[Recipe], Set[str]] = reads_nothing
    validation: Callable[[Recipe], bool] = lambda recipe: False
    halves: Callable[[Recipe], bool] = lambda recipe: False
    prepare: Callable[[State], None] = nothing
    keeps: Callable[[State, Visit], dict[str, Tensor]] = block_parameters
    resume: Callable[[State], None] = nothing
