"""How many blocks, or halves of blocks, a pattern takes out of a model, and which of them may go. No torch."""

import math
from collections.abc import Iterator, Sequence

from analysis.errors import UsageError
from analysis.recipe.parts import Pattern
from analysis.recipe.shares import skipped

SLACK = 0.01  # how far the share that whole blocks can express may be from the share asked


def removable(pattern: Pattern, blocks: int) -> list[int]:
    """The numbers of the blocks that may go, of so many: all but those that `skip` names. Raises UsageError for a block
    that the model does not have.
    """
    stay = skipped(pattern.skip, blocks)[0] if pattern.skip is not None else set()
    if beyond := [number for number in sorted(stay) if number >= blocks]:
        raise UsageError(
            f"skip={pattern.skip}: there is no block {beyond[0]}; the model has {blocks}, from 0 to {blocks - 1}"
        )
    return [number for number in range(blocks) if number not in stay]


def removed_count(pattern: Pattern, blocks: int) -> int:
    """How many blocks, or halves of blocks, go.

    Raises UsageError for a share that whole blocks cannot express (it names those that can), for more than may go, and
    where there is no run of so many.
    """
    asked, may_go = pattern.number, removable(pattern, blocks)
    if asked is None:
        assert pattern.sparsity is not None, "a pattern checks that there is a share or a number"
        asked = math.floor(blocks * pattern.sparsity + 0.5)
        if abs(asked / blocks - pattern.sparsity) > SLACK:
            possible = ", ".join(f"{100 * gone / blocks:.3g}%" for gone in range(min(blocks, 32)))
            raise UsageError(
                f"{pattern} cannot be taken out of {blocks} blocks; possible are {possible}"
                f"{', ...' if blocks > 32 else ''}, or a number as in {pattern.kind}-{max(1, asked)}"
            )
    most = min(len(may_go), blocks - 1)
    if asked > most:
        kept = f" and skip={pattern.skip} keeps {blocks - len(may_go)}" if pattern.skip else ""
        raise UsageError(
            f"{pattern} would take out {asked} of {blocks}; one must stay{kept}: at most {max(most, 0)} can go"
        )
    if pattern.contiguous and asked and not any(runs(may_go, asked)):
        raise UsageError(f"{pattern}[contiguous=true,skip={pattern.skip}]: no run of {asked} blocks is free to go")
    return asked


def runs(blocks: Sequence[int], length: int) -> Iterator[range]:
    """Every run of `length` consecutive numbers that are all in `blocks`, from the first on."""
    free = set(blocks)
    for first in blocks:
        if all(number in free for number in range(first, first + length)):
            yield range(first, first + length)
