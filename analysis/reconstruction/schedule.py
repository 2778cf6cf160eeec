"""What is reconstructed at once: the order in which units of consecutive blocks are visited, and after which epochs of
each held-out text is looked at.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from analysis.errors import UsageError, quoted
from analysis.recipe.parts import Unit


@dataclass(frozen=True)
class Visit:
    """One visit of the loop: `blocks` are solved, together or piece by piece, then both streams advance to block
    `advance_to`.

    A block below `advance_to` is final. A block that overlaps into the next visit is solved again there.
    """

    index: int
    blocks: tuple[int, ...]
    advance_to: int

    @property
    def first(self) -> int:
        return self.blocks[0]

    @property
    def last(self) -> int:
        return self.blocks[-1]


def groups(n_blocks: int, removed: Collection[int] = ()) -> list[tuple[int, ...]]:
    """Every block that stays with the removed ones behind it, at the start of the stack with those before it too."""
    found: list[tuple[int, ...]] = []
    for block in range(n_blocks):
        joins = found and (block in removed or all(index in removed for index in found[-1]))
        found[-1:] = [(*found[-1], block)] if joins else [*found[-1:], (block,)]
    return found


def visits(n_blocks: int, unit: Unit, removed: Collection[int] = ()) -> list[Visit]:
    """All visits of a run over `n_blocks` blocks, in order.

    removed: blocks that are gone. They are visited together with the block that stays before them (`groups`), and such
    a group counts as one block.

    Windows start every `width - overlap` blocks and are clipped at both ends of the stack, starting `overlap` blocks
    before it, so that every block is solved the same number of times. Width 2 with overlap 1 (cross-block
    reconstruction, Shin et al. 2024, section 2) gives {0}, {0, 1}, ..., {L-2, L-1}, {L-1}: L + 1 windows. Matrices and
    sub-blocks are visited block by block, see `pieces`. Raises UsageError for a width above `n_blocks` without overlap.
    """
    grouped = groups(n_blocks, removed)
    count, ends = len(grouped), [*(group[0] for group in grouped), n_blocks]
    width = count if unit.name == "model" else unit.width
    if width > count and not unit.overlap:
        left = "the model has" if not removed else "the model keeps"
        raise UsageError(
            f"width={width}: {left} {count} blocks; give a width of at most {count}, or unit=model for all of them"
        )
    stride = width - unit.overlap
    starts = range(-unit.overlap, count, stride)
    return [
        Visit(
            index,
            tuple(block for group in grouped[max(start, 0) : start + width] for block in group),
            ends[min(max(start + stride, 0), count)],
        )
        for index, start in enumerate(starts)
    ]


TRAINING = 3  # forwards that one training step of a token costs: forward, and backward for inputs and for weights
CHEAP = 1e13  # operations that every run may spend on held-out text: a minute or two of two CPU cores


def every_problem(every: Any) -> str | None:
    """What is wrong with `every` as a number of epochs, "end" or "auto"; None where nothing is."""
    if every in ("auto", "end") or (isinstance(every, int) and not isinstance(every, bool) and every >= 1):
        return None
    return f"must be a whole number of epochs of at least 1, end or auto, got {quoted(every)}"


def held_out_epochs(every: int | str, epochs: int, *, trained: int, held_out: int, operations: float) -> int | str:
    """Every how many epochs of a unit held-out text is looked at; "end": after the last alone.

    "auto" is every epoch where that is cheap, else "end": cheap is under a third of the training's operations, or
    under CHEAP in the whole run.

    trained, held_out: tokens of the calibration text and of all held-out texts. operations: of one token's forward
    through the units of all visits.
    """
    if every != "auto":
        return every
    looking = held_out * (epochs + 1)
    training = TRAINING * trained * epochs
    return 1 if 3 * looking <= training or looking * operations <= CHEAP else "end"


def looks(every: int | str, epoch: int, last: bool) -> bool:
    """Whether held-out text is looked at after this epoch (0: before the first step)."""
    return last or (isinstance(every, int) and epoch % every == 0)
