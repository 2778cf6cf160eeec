"""What the figures share: a grid of panels at README width, lines with bands, axes with plain numbers, one legend above.

Everything is drawn inside `style.in_style`; nothing is computed and no global state is left.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log10

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, ScalarFormatter

from analysis.present.style import CRITERIA, LEVELS, WIDTH, Look, looks, say_method, say_split

KIND_TITLES = {
    "total": "total\ndense vs sparse stream",
    "inherited": "inherited\ndense block on both streams",
    "local": "local\npruned vs dense block",
}
LEGEND_LETTERS = 105  # what a row of the legend holds, handles counted as six
PRICES = {"tokens": "tokens in training", "solve_seconds": "seconds in the solver"}
Panels = dict[tuple, Axes]


def panel_grid(table: pd.DataFrame, rows: str, columns: str, *, height: float, sharey: bool | str, sharex: bool | str = True) -> tuple[Figure, Panels]:
    """A figure of README width with one panel for each pair of values of two columns; column titles are set.

    sharex, sharey: as in matplotlib: True, False, "row" or "col".
    """
    row_values, column_values = list(table[rows].unique()), list(table[columns].unique())
    fig = plt.figure(figsize=(WIDTH, height * len(row_values) + 0.85))
    plt.close(fig)  # pyplot forgets it, so nothing is drawn twice in a notebook and nothing is kept
    grid = fig.subplots(len(row_values), len(column_values), sharex=sharex, sharey=sharey, squeeze=False)
    panels = {(row, column): grid[i][j] for i, row in enumerate(row_values) for j, column in enumerate(column_values)}
    for column in column_values:
        panels[row_values[0], column].set_title(say(columns, column))
    return fig, panels


def draw_lines(ax: Axes, table: pd.DataFrame, x: str, *, line=None, hollow: bool = False) -> None:
    """One line per method, each with its band over seeds."""
    for method, look in looks(table["method"]).items():
        rows = table[table["method"] == method]
        face = "white" if hollow else look.color
        ax.plot(rows[x], rows["value"], color=look.color, marker=look.marker, linestyle=line or look.line, markerfacecolor=face,
                zorder=3, gid=f"method {method}")  # fmt: skip
        if rows["seeds"].max() > 1:
            low, high = rows["value"] - rows["std"], rows["value"] + rows["std"]
            ax.fill_between(rows[x], low, high, color=look.color, alpha=0.18, linewidth=0, zorder=2)


def draw_levels(ax: Axes, table: pd.DataFrame, places: Sequence[float]) -> None:
    """What has no x of its own (LR, the dense model): a level line without markers from the first to the last of `places`, with its band."""
    for method, look in looks(table["method"]).items():
        for row in table[table["method"] == method].itertuples():
            ax.plot([places[0], places[-1]], [row.value] * 2, color=look.color, linestyle=look.line, marker="", linewidth=1.2, zorder=2, gid=f"method {method}")
            if row.seeds > 1:
                ax.fill_between([places[0], places[-1]], [row.value - row.std] * 2, [row.value + row.std] * 2, color=look.color, alpha=0.12, linewidth=0, zorder=1)


def draw_points(ax: Axes, x: Sequence[float], rows: pd.DataFrame, *, color: str, marker: str, gid: str, hollow: bool = False, size: float = 5) -> None:
    """Markers with a bar of one standard deviation over seeds."""
    face = "white" if hollow else color
    ax.plot(x, rows["value"], color=color, marker=marker, markersize=size, markerfacecolor=face, linestyle="", zorder=4, gid=gid)
    if rows["seeds"].max() > 1:
        ax.vlines(x, rows["value"] - rows["std"], rows["value"] + rows["std"], color=color, linewidth=1, alpha=0.45, zorder=3)


def category_axis(ax: Axes, words: Sequence[str], *, rotation: float = 0) -> None:
    """An x axis of words at 0, 1, 2, ..."""
    ax.xaxis.set_major_locator(FixedLocator(range(len(words))))
    ax.set_xticklabels(words, rotation=rotation, ha="right" if rotation else "center", rotation_mode="anchor")
    ax.set_xlim(-0.5, len(words) - 0.5)


def log_scale(axes: Iterable[Axes], axis: str = "y") -> None:
    """A log scale (of y or x) for panels that share it, with plain numbers at as many steps as its range asks for."""
    axes = list(axes)
    for ax in axes:
        ax.set(**{f"{axis}scale": "log"})
    low, high = axes[0].get_ylim() if axis == "y" else axes[0].get_xlim()
    decades = log10(high / low)
    fine = tuple(1 + step / 10 for step in range(90)) if decades < 0.2 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8) if decades < 0.4 else (1, 1.5, 2, 3, 4, 5, 7)
    steps = fine if decades < 0.8 else (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 3 else (1,)
    for ax in axes:
        along = ax.yaxis if axis == "y" else ax.xaxis
        along.set_major_locator(LogLocator(subs=steps, numticks=20))
        along.set_major_formatter(FuncFormatter(plain_number))
        along.set_minor_locator(NullLocator())


def number_axis(ax: Axes, numbers: Sequence[int]) -> None:
    """A log x axis with a tick at each of the numbers and nowhere else."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(numbers))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def plain_number(value: float, _position=None) -> str:
    return f"{value:g}"


def label_axes(panels: Panels, x: str, y: Mapping) -> None:
    """The x label below the last row, a y label left of every row."""
    rows, columns = list(dict.fromkeys(row for row, _ in panels)), list(dict.fromkeys(column for _, column in panels))
    for column in columns:
        panels[rows[-1], column].set_xlabel(x)
    for row in rows:
        panels[row, columns[0]].set_ylabel(y[row])


def without_markers(methods: Mapping[str, Look]) -> dict[str, Look]:
    """Looks for the legend of a figure that draws LR and the dense model as level lines."""
    return {name: look._replace(marker="") if name in LEVELS else look for name, look in methods.items()}


def finish(fig: Figure, methods: Mapping[str, Look], notes: Sequence[Line2D] = ()) -> None:
    """One legend above all panels (the methods, then what else needs a word), and the layout settled once and for all.

    Left alone, it is computed anew at each drawing, from where the last one left it: showing a figure would change its file.
    """
    handles = [Line2D([], [], color=look.color, marker=look.marker, linestyle=look.line, label=say_method(name)) for name, look in methods.items()]
    handles += notes
    letters = sum(len(handle.get_label()) + 6 for handle in handles)
    rows = -(-letters // LEGEND_LETTERS)
    fig.legend(handles=handles, loc="outside upper center", ncols=-(-len(handles) // rows), columnspacing=1.4, handlelength=2.0)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")


def say(column: str, value) -> str:
    """How a value of a column is written on a figure."""
    if column == "split":
        return say_split(value)
    if column == "samples":
        return f"{value} calibration windows"
    if column == "epochs":
        return f"{value} epoch" if value == 1 else f"{value} epochs"
    return {**CRITERIA, **KIND_TITLES, **PRICES}.get(value, str(value))
