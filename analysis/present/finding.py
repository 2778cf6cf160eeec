"""What a figure says, computed: sentences made from its table, never typed in.

Our models, texts and errors are not the paper's (ours are divided by the mean square of the dense output), so both
sides are given as ratios: to LR of the same criterion, or of held-out to calibration. A ratio has no unit and survives
the change.
"""

import pandas as pd


class Finding(str):
    """A paragraph that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def say_value(row: pd.Series) -> str:
    """The mean of a row, with its standard deviation where there are several seeds."""
    return f"{row['value']:.3f}" + (f" ± {row['std']:.3f}" if row["seeds"] > 1 else "")
