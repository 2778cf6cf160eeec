"""Windows of several texts in fixed shares, one order for every number of them.

order([Fraction(7, 10), Fraction(3, 10)], 10)     # [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]: 7 windows of the first part, 3 of
the second
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from analysis.text.sources import Source, share_text

if TYPE_CHECKING:
    from analysis.windows import Windows


def order(shares: Sequence[Fraction], number: int) -> list[int]:
    """The part that each of `number` windows comes from.

    However many are taken from the start, every part has its share of them to within less than one window: with two
    parts, its share rounded (Tijdeman 1980, "The chairman assignment problem"). So fewer windows are the first of more.
    `shares` are above 0 and make 1.
    """
    if len(shares) == 1:
        return [0] * number
    margin = Fraction(1, 2 * len(shares) - 2)
    counts = [0] * len(shares)
    chosen = []
    for turn in range(1, number + 1):
        owed = [share * turn - taken for share, taken in zip(shares, counts)]
        part = min(
            (part for part, due in enumerate(owed) if due >= margin),
            key=lambda part: (1 - margin - owed[part]) / shares[part],
        )
        counts[part] += 1
        chosen.append(part)
    return chosen


def mix(source: Source, parts: Sequence["Windows | None"], chosen: Sequence[int]) -> "Windows":
    """The windows of the parts in the order `chosen` (`order`); None for a part that has none. Their provenances are
    kept under "parts".
    """
    import torch

    from analysis.windows import Windows

    present = [part for part in parts if part is not None]
    sizes = [0 if part is None else len(part) for part in parts]
    rows = [sum(sizes[:part]) + chosen[:turn].count(part) for turn, part in enumerate(chosen)]
    ids, mask = (torch.cat([getattr(part, name) for part in present])[rows] for name in ("ids", "mask"))
    provenances = [
        {"share": share_text(share)} | ({"source": named.label, "samples": 0} if part is None else part.provenance)
        for (named, share), part in zip(source.parts, parts)
    ]
    counts = {"samples": len(ids), "tokens": int(mask.sum()), "parts": provenances}
    shared = tuple(opening for part in present for opening in part.openings)
    return Windows(ids, mask, source.label, counts, openings=shared)
