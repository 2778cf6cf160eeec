"""Every error a user can meet has one base class, so that one `except AnalysisError` catches them all.

A message names the operation, the item and both values (what was given, what is possible), and says what to do.
The command line prints the message alone, without a traceback, and exits with the class's `exit_code`.
"""

import copyreg
import difflib
import errno
import re
from collections.abc import Iterable, Sequence
from typing import Any

MOST_PROBLEMS = 20  # of a recipe that a message lists


class AnalysisError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1
    shared = False  # of several ranks: raised on all of them alike

    def __reduce__(self):
        """Pickled as it is, whatever its class takes to be made, so that it comes back whole from another process."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__


class UsageError(AnalysisError):
    """A wrong argument: a count below one, an unknown name, a path of the wrong kind."""

    exit_code = 2


class RecipeError(UsageError):
    """One or more things wrong with a recipe, all reported at once.

    `problems` holds one sentence per mistake.
    """

    def __init__(self, text: object, problems: Sequence[str]):
        self.problems = tuple(dict.fromkeys(problems))
        shown, rest = self.problems[:MOST_PROBLEMS], len(self.problems) - MOST_PROBLEMS
        more = f"; and {rest} more" if rest > 0 else ""
        super().__init__(f"recipe {quoted(text, 400)}: " + "; ".join(shown) + more)


class ModelError(AnalysisError):
    """A model that is missing, broken, or cannot be run."""

    exit_code = 3


class UnsupportedModel(ModelError):
    """A family whose blocks cannot be found or run one at a time."""


class ReplayError(ModelError):
    """Block-by-block replay does not reproduce the model; pruning refuses to start."""


class DataError(AnalysisError):
    """A text that is missing, empty, binary, too short or of the wrong shape."""

    exit_code = 4


class OverlapError(DataError):
    """Calibration and held-out windows share text."""


class SparsityError(AnalysisError):
    """A mask or weight that breaks the sparsity contract."""

    exit_code = 5


class NumericalError(AnalysisError):
    """A non-finite activation, a failed factorisation: names the matrix."""

    exit_code = 5


class StoreError(AnalysisError):
    """A run folder that cannot be written, read or trusted."""

    exit_code = 6


class SuiteError(AnalysisError):
    """A notebook that is missing, misparameterised or failed."""

    exit_code = 7


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or else its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def quoted(value: object, most: int = 120) -> str:
    """What was given, for a message: its `repr`, of which a text longer than `most` shows beginning and end."""
    try:
        text = repr(value)
    except Exception:  # a number of thousands of digits, a list within lists without end
        return f"a {type(value).__name__} too large to show"
    return shortened(text, most)


def shortened(text: str, most: int) -> str:
    """A text, of which one longer than `most` characters shows beginning and end."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"


def count_problem(name: str, value: Any, least: int = 1) -> str | None:
    """The sentence on what is no whole number of at least `least`, or one of more than 64 bits; None where it is."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and not -(2**63) < value < 2**63:
        return f"{name} must be a whole number from {least} to 2^63 - 1, got one of {value.bit_length()} bits"
    return (
        None if whole and value >= least else f"{name} must be a whole number of at least {least}, got {quoted(value)}"
    )


class OutOfMemory(AnalysisError):
    """More memory was asked for than the machine or the device gives."""

    exit_code = 8


class RankError(AnalysisError):
    """One of several processes that share a run has ended, or does not answer."""

    exit_code = 9


_NO_MEMORY = re.compile(r"can(no|')t allocate memory|out of memory|os error 12\b|bad_alloc", re.IGNORECASE)


def out_of_memory(error: BaseException | None) -> OutOfMemory | None:
    """One message where Python, torch or the system ran out of memory, in `error` or its causes; None where not."""
    while error is not None:
        if isinstance(error, OutOfMemory):
            return error
        speaks = isinstance(error, (RuntimeError, OSError)) or type(error).__name__ == "SafetensorError"
        if (
            isinstance(error, MemoryError)
            or getattr(error, "errno", None) == errno.ENOMEM
            or (speaks and _NO_MEMORY.search(str(error)))
        ):
            words = next(iter(str(error).strip().splitlines()), "")[:200]
            return OutOfMemory(
                f"out of memory{f' ({words})' if words else ''}; finished work is kept: take fewer or shorter windows,"
                " a smaller dtype or model, or a machine or device with more memory, and repeat the command"
            )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def suggest(typed: object, valid: Iterable[str]) -> str:
    """`did you mean 'wanda'? valid: random, magnitude, ...`: the end of a message about an unknown name."""
    folded = {v.casefold(): v for v in valid}
    close = difflib.get_close_matches(str(typed).casefold(), folded, n=1, cutoff=0.5)
    return (f"did you mean {folded[close[0]]!r}? " if close else "") + f"valid: {', '.join(folded.values())}"
