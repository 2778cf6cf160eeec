"""What a figure says, computed: sentences made from its table, never typed in.

Our models, texts and errors are not the paper's (ours are divided by the mean square of the dense output), so both
sides are given as ratios: to LR of the same criterion, or of held-out to calibration. A ratio has no unit and survives
the change.
"""

import re
from collections.abc import Sequence
from math import expm1, isnan

import pandas as pd

from analysis.present.statistics import Paired

_MARKUP = re.compile(r"[&<>$`\\_~\[\]]|(?<!\*)\*(?!\*)")


class Finding(str):
    """A paragraph that a notebook shows as Markdown: lists and bold words are its own, everything else that could be
    markup or mathematics, as in a file's name, is written as it is.
    """

    def _repr_markdown_(self) -> str:
        return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", self)


def enumerated(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last


def say_value(row: pd.Series) -> str:
    """The mean of a row, with half of its interval where it has one."""
    return f"{row['value']:.3f}{say_half(row, '.3f')}"


def say_half(row: pd.Series, form: str, value: str = "") -> str:
    """Half of a row's interval as " ± 0.012"; nothing where there is none. value: in front of `low` and `high`."""
    half = (row[f"{value}high"] - row[f"{value}low"]) / 2
    return f" ± {half:{form}}" if half == half else ""


def say_number(value: float, figures: int = 3) -> str:
    """A number with so many significant figures, none as a power of ten."""
    said = f"{value:.{figures}g}"
    return f"{float(said):.0f}" if "e+" in said else said


def say_ratio(change: Paired) -> str:
    """A paired difference of logarithms in per cent, with its interval where it has one: "+1.2 % [+0.3, +2.1]"."""
    mean, *ends = (100 * expm1(value) for value in (change.difference, change.low, change.high))
    return f"{mean:+.1f} %{_say_ends(ends)}"


def say_points(change: Paired) -> str:
    """A paired difference of per cents in points, with its interval where it has one: "+1.2 points [+0.3, +2.1]"."""
    return f"{change.difference:+.1f} points{_say_ends([change.low, change.high])}"


def _say_ends(ends: list[float]) -> str:
    return "" if isnan(ends[0]) else f" [{ends[0]:+.1f}, {ends[1]:+.1f}]"
