"""What is done when a factorisation fails: the same again in float64, then more and more damping. Each use is recorded
as a `Note`; when all fails the error says what the matrix looks like.

    for attempt in attempts(share, matrix.dtype):
        factor = factorise((matrix + attempt.share * mean_diagonal * identity).to(attempt.precision))
        if factor is not None:
            return factor, attempt.notes()
    raise unsolvable("sparsegpt: the Hessian of q_proj has", matrix, tokens, "damping", share, attempt.share)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import NumericalError
from analysis.masks.notes import Note

RAISES = 5  # how often damping may be raised tenfold
LEAST = 1e-6  # where the raised damping of a matrix that was to have less begins
DEPENDENT = 10  # a pivot below so many roundings of a Gram matrix says that its column depends on those before it


@dataclass(frozen=True)
class Attempt:
    """One factorisation to try.

    precision  of its arithmetic
    share      damping, as a share of the matrix's mean diagonal
    rule       the note that its use is worth; None for the first attempt, which is what was asked for
    """

    precision: torch.dtype
    share: float
    rule: str | None = None

    def notes(self, rows: int = 0) -> tuple[Note, ...]:
        """What to record where this attempt was needed. rows: how many are solved again, where that is in float64."""
        if self.rule is None:
            return ()
        return (Note(self.rule, self.share if self.rule == "damping" else float(rows)),)


def attempts(
    share: float, precision: torch.dtype, *, raises: int = RAISES, least: float = LEAST, double: bool = True
) -> list[Attempt]:
    """What to try, in order: `share` of damping in `precision`, the same in float64, then ten times as much up to
    `raises` times, from `least` where there was less, in float64.

    double  False: float64 is not tried, every attempt is in `precision`
    """
    wide = torch.float64 if double else precision
    again = [Attempt(wide, share, "float64")] * (wide != precision)
    start = max(share, least / 10)
    raised = [Attempt(wide, start * 10**times, "damping") for times in range(1, raises + 1)]
    return [Attempt(precision, share), *again, *raised]


def unsolvable(problem: str, matrix: Tensor, tokens: int, word: str, share: float, last: float) -> NumericalError:
    """The error when the last attempt has failed too, with the eigenvalues of the undamped matrix (n, n).

    problem: what failed, up to what it has: eigenvalues, or entries that are not finite. word: what the recipe calls
    damping. share, last: what was asked for and what was tried last.
    """
    if bool(matrix.isfinite().all()):
        eigenvalues = torch.linalg.eigvalsh(matrix.double())
        spectrum = f"eigenvalues from {eigenvalues[0]:.3g} to {eigenvalues[-1]:.3g}"
    else:
        spectrum = "entries that are not finite"
    return NumericalError(
        f"{problem} {spectrum} over {tokens} tokens and {len(matrix)} inputs, {word} {share:g} raised up to {last:g};"
        f" use more calibration tokens or a larger {word}"
    )
