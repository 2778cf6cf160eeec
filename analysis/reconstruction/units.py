"""What is reconstructed at once: the order in which units of consecutive blocks are visited."""

from dataclasses import dataclass

from analysis.recipe import Unit


@dataclass(frozen=True)
class Visit:
    """One visit of the loop: `blocks` are solved together, then both streams advance to block `advance_to`.

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
    """All visits of a walk over `n_blocks` blocks, in order.

    Windows start every `width - overlap` blocks and are clipped at both ends of the stack, starting `overlap` blocks
    before it, so that every block is solved the same number of times. Width 2 with overlap 1 (cross-block
    reconstruction, Shin et al. 2024, section 2) gives {0}, {0, 1}, ..., {L-2, L-1}, {L-1}: L + 1 windows.
    """
    stride = unit.width - unit.overlap
    starts = range(-unit.overlap, n_blocks, stride)
    return [
        Visit(index, tuple(range(max(start, 0), min(start + unit.width, n_blocks))), min(max(start + stride, 0), n_blocks))
        for index, start in enumerate(starts)
    ]
