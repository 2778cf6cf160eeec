"""What the figures say, computed: tables beside the paper's numbers and sentences made from the tables, never typed in.

Our models, texts and errors are not the paper's (ours are divided by the mean square of the dense output), so both
sides are given as ratios: to LR of the same criterion, or of held-out to calibration. A ratio has no unit and survives
the change.
"""

import pandas as pd


class Finding(str):
    """A paragraph that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def _unit(granularity: str) -> str:
    return {"matrix": "matrices", "sub-block": "sub-blocks", "model": "the whole model"}.get(granularity, granularity)


def _point(row: pd.Series) -> str:
    return (
        f"{row['method'] if row['method'] == row['streams'] else row['method'] + ' like ' + row['streams']} by"
        f" {_unit(row['granularity'])} ({row['value']:.3f})"
    )


def _value(row: pd.Series) -> str:
    return f"{row['value']:.3f}" + (f" ± {row['std']:.3f}" if row["seeds"] > 1 else "")


def _more(one: pd.Series, other: pd.Series) -> str:
    percent = 100 * (one["value"] / other["value"] - 1)
    return f"{percent:.1f} % more" if percent >= 0 else f"{-percent:.1f} % less"


def _times(ratio: float, what: str) -> str:
    return f"{ratio:.2g} times less {what}" if ratio >= 1 else f"{1 / ratio:.2g} times more {what}"
