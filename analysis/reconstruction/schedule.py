"""What is reconstructed at once: the order in which units of consecutive blocks are visited."""

from dataclasses import dataclass

from analysis.errors import UsageError
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


def visits(n_blocks: int, unit: Unit) -> list[Visit]:
    """All visits of a run over `n_blocks` blocks, in order.

    Windows start every `width - overlap` blocks and are clipped at both ends of the stack, starting `overlap` blocks
    before it, so that every block is solved the same number of times. Width 2 with overlap 1 (cross-block
    reconstruction, Shin et al. 2024, section 2) gives {0}, {0, 1}, ..., {L-2, L-1}, {L-1}: L + 1 windows. Matrices and
    sub-blocks are visited block by block, see `pieces`. Raises UsageError for a width above `n_blocks` without overlap.
    """
    width = n_blocks if unit.name == "model" else unit.width
    if width > n_blocks and not unit.overlap:
        raise UsageError(
            f"width={width}: the model has {n_blocks} blocks; give a width of at most {n_blocks}, or unit=model for all"
            " of them"
        )
    stride = width - unit.overlap
    starts = range(-unit.overlap, n_blocks, stride)
    return [
        Visit(index, tuple(range(max(start, 0), min(start + width, n_blocks))), min(max(start + stride, 0), n_blocks))
        for index, start in enumerate(starts)
    ]
