"""What every verb shares: its report, messages, checks that cost nothing, and text tables."""

import math
import re
import sys
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from analysis import distributed
from analysis.errors import AnalysisError, UsageError, count_problem
from analysis.study.job import SMALLEST, device_problems
from analysis.text.sources import parse_source, source_fingerprint

HELD_OUT_LABEL = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Report:
    """What a verb has to say: `text` for people, `document` (plain lists, dicts, numbers) for machines.

    `failure` is set when the verb did its work and the answer is bad (a replay error above the tolerance):
    the report is printed all the same, then the error, and its exit code is returned.
    """

    text: str
    document: dict
    failure: AnalysisError | None = None


@dataclass
class Problems:
    """Mistakes found before any work starts, reported together.

    One mistake is raised as it is; several become one UsageError that lists them.
    """

    errors: list[AnalysisError] = field(default_factory=list)

    def add(self, message: str) -> None:
        self.errors.append(UsageError(message))

    @contextmanager
    def catch(self):
        """Collect an AnalysisError raised in the body instead of stopping at it."""
        try:
            yield
        except AnalysisError as error:
            self.errors.append(error)

    def raise_any(self) -> None:
        """Raise what was collected.

        Raises: the one error itself, or UsageError listing all of them.
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise UsageError("\n  - ".join([f"{len(self.errors)} things to mend first:", *map(str, self.errors)]))

    def check_count(self, flag: str, value: int | None, least: int = 1) -> None:
        if value is not None and (problem := count_problem(flag, value, least)):
            self.add(problem)

    def check_device(self, device: str) -> None:
        for problem in device_problems("--device", device):
            self.add(problem)


def check_counts(problems: Problems, args) -> None:
    """The counts every verb with windows takes, those it has."""
    for name in ("samples", "length", "seed", "documents"):
        problems.check_count(f"--{name}", getattr(args, name, None), SMALLEST[name])
    problems.check_device(args.device)


def check_model(problems: Problems, name: str) -> str | None:
    """Fingerprint of a model, which also tells that its files are there; mistakes are collected."""
    from analysis.models.hub import fingerprint

    with problems.catch():
        return fingerprint(name)


def say(message: str) -> None:
    """One line about what is going on, on stderr, whether or not anybody still reads it; of several ranks the main one
    says it.
    """
    if distributed.main():
        tell(message)


def tell(message: str) -> None:
    """One line on stderr, whether or not anybody still reads it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def split_label(text: str) -> tuple[str | None, str]:
    """`LABEL=SOURCE` -> (label, source), `SOURCE` -> (None, source).

    A label is letters, digits, `_`, `.` and `-`, so a path with `=` in it can be given as `./a=b.txt`.
    """
    label, equals, source = text.partition("=")
    return (label, source) if equals and HELD_OUT_LABEL.fullmatch(label) else (None, text)


def label_sources(flag: str, texts: Sequence[str], problems: Problems) -> dict[str, str]:
    """`[LABEL=]SOURCE` texts as label -> source; a bare source is labelled by its own name, without folders."""
    labelled: dict[str, str] = {}
    for text in texts:
        label, source = split_label(text)
        with problems.catch():
            label = label or parse_source(source).label
            if label in labelled:
                raise UsageError(
                    f"{flag} {text}: two texts are labelled {label!r}; name them apart, as in other={source}"
                )
            labelled[label] = source
    return labelled


def fingerprints(sources: dict[str, str], problems: Problems, model: str | None = None) -> dict[str, str]:
    """Fingerprint of each source, which also tells that it exists; mistakes are collected. model: the fingerprint of
    who writes `self`.
    """
    fingerprints = {}
    for label, source in sources.items():
        with problems.catch():
            fingerprints[label] = source_fingerprint(source, model)
    return fingerprints


def unescape(separator: str | None) -> str | None:
    """Let a shell user type a newline or a tab as `\\n`, `\\t`."""
    return separator and separator.replace("\\n", "\n").replace("\\t", "\t")


def number(value: object) -> str:
    """A table cell: whole numbers whole, others with four significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if math.isfinite(value) and (abs(value) < 1e4) else f"{value:.3e}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a header; words to the left of their column, numbers to the right."""
    words = [all(isinstance(value, str) for value in column) for column in zip(*rows)]
    cells = [list(header), *([number(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in zip(row, widths, words))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def jsonable(value):
    """Plain JSON values: numpy and torch scalars become numbers, paths text, non-finite numbers null."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists (or `path` itself)."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
