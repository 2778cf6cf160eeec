"""Figures from tables: each function draws the rows of one table of `analysis.present.tables`, all of them and no others.

They return a matplotlib Figure, compute nothing, and leave no global state. One line per method with a band of one standard
deviation over seeds; one legend above; panels share their axes wherever their numbers can be compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log10

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from analysis.present.style import CRITERIA, WIDTH, Look, in_style, looks, say_split
from analysis.records import CALIBRATION

KIND_TITLES = {
    "total": "total\ndense vs sparse stream",
    "inherited": "inherited\ndense block on both streams",
    "local": "local\npruned vs dense block",
}
RELATIVE_ERROR = "relative error"
Panels = dict[tuple, Axes]


def plot_block_profile(table: pd.DataFrame, *, rows: str = "split", columns: str = "criterion") -> Figure:
    """Relative error at every block's output, one line per method, log scale: how error compounds with depth.

    `table` is that of `tables.block_profile`; `rows` and `columns` name the columns (split, criterion or kind) that its panels
    tell apart. Paper: figures 3, 5 and 6 of 2406.15524, there without the division by the dense output's mean square.
    """
    with in_style():
        fig, panels = _panels(table, rows, columns, height=1.75, sharey=True)
        for (row, column), ax in panels.items():
            _lines(ax, table[(table[rows] == row) & (table[columns] == column)], "block")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        _log_scale(panels.values())
        _label(panels, "block", {row: _say(rows, row) for row in table[rows].unique()})
        fig.supylabel(RELATIVE_ERROR, fontsize=9)
        _finish(fig, looks(table["method"]))
    return fig


def plot_sample_size(table: pd.DataFrame) -> Figure:
    """Final error and perplexity against the number of calibration windows, one column of panels per split.

    `table` is that of `tables.sample_size`: rows with `measure` "relative error" (drawn on a log scale shared by all splits) or
    "perplexity" (on its own scale per split, with the dense model as a dotted black line).
    """
    with in_style():
        fig, panels = _panels(table, "measure", "split", height=2.1, sharey=False)
        sizes = sorted(table["samples"].unique())
        for (measure, split), ax in panels.items():
            _lines(ax, table[(table["measure"] == measure) & (table["split"] == split)], "samples")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(sizes))
            ax.xaxis.set_major_formatter(ScalarFormatter())
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(FuncFormatter(_plain))
        first, *others = errors = [ax for (measure, _), ax in panels.items() if measure == RELATIVE_ERROR]
        for ax in others:
            ax.sharey(first)
            ax.tick_params(labelleft=False)
        first.autoscale_view()
        _log_scale(errors)
        measures = {RELATIVE_ERROR: f"{RELATIVE_ERROR}\nat the last block"}
        _label(panels, "calibration windows", {name: measures.get(name, name) for name in table["measure"].unique()})
        _finish(fig, looks(table["method"]))
    return fig


def plot_epochs(table: pd.DataFrame) -> Figure:
    """Error of one unit while it is optimised: calibration (dashed) against held-out (solid), a ring at the held-out minimum.

    `table` is that of `tables.epochs`; one column of panels per number of calibration windows, one row per held-out register.
    Where the solid line turns up after its ring while the dashed one goes on falling, reconstruction overfits.
    """
    with in_style():
        held_out = table[table["split"] != CALIBRATION]
        fig, panels = _panels(held_out, "split", "samples", height=2.1, sharey=True)
        for (split, samples), ax in panels.items():
            here = table[table["samples"] == samples]
            _lines(ax, here[here["split"] == CALIBRATION], "epoch", line=(0, (3, 1.5)), hollow=True)
            _lines(ax, here[here["split"] == split], "epoch", line="-")
            best = here[(here["split"] == split) & here["lowest"]]
            ax.scatter(best["epoch"], best["value"], s=75, facecolors="none", edgecolors="black", linewidths=1.1, zorder=5)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _log_scale(panels.values())
        _label(panels, "epoch", {split: say_split(split) for split in held_out["split"].unique()})
        fig.supylabel(f"{RELATIVE_ERROR} of the unit", fontsize=9)
        notes = [
            Line2D([], [], color="black", linestyle=(0, (3, 1.5)), label="calibration"),
            Line2D([], [], color="black", label="held-out"),
            Line2D([], [], color="black", marker="o", fillstyle="none", markersize=8, linestyle="", label="lowest held-out"),
        ]
        _finish(fig, looks(table["method"]), notes)
    return fig


def _panels(table: pd.DataFrame, rows: str, columns: str, *, height: float, sharey: bool) -> tuple[Figure, Panels]:
    """A figure of README width with one panel for each pair of values of two columns; column titles are set."""
    row_values, column_values = list(table[rows].unique()), list(table[columns].unique())
    fig = plt.figure(figsize=(WIDTH, height * len(row_values) + 0.85))
    plt.close(fig)  # pyplot forgets it, so nothing is drawn twice in a notebook and nothing is kept
    grid = fig.subplots(len(row_values), len(column_values), sharex=True, sharey=sharey, squeeze=False)
    panels = {(row, column): grid[i][j] for i, row in enumerate(row_values) for j, column in enumerate(column_values)}
    for column in column_values:
        panels[row_values[0], column].set_title(_say(columns, column))
    return fig, panels


def _lines(ax: Axes, table: pd.DataFrame, x: str, *, line=None, hollow: bool = False) -> None:
    """One line per method with its band over seeds; the dense model, which has no x of its own, is drawn without markers."""
    for method, look in looks(table["method"]).items():
        rows = table[table["method"] == method]
        face = "white" if hollow else look.color
        ax.plot(rows[x], rows["value"], color=look.color, marker=look.marker, linestyle=line or look.line, markerfacecolor=face,
                zorder=3, gid=f"method {method}")  # fmt: skip
        if rows["seeds"].max() > 1:
            low, high = rows["value"] - rows["std"], rows["value"] + rows["std"]
            ax.fill_between(rows[x], low, high, color=look.color, alpha=0.18, linewidth=0, zorder=2)


def _log_scale(axes: Iterable[Axes]) -> None:
    """A log scale for panels that share it, with plain numbers at as many steps as its range asks for."""
    axes = list(axes)
    for ax in axes:
        ax.set_yscale("log")
    low, high = axes[0].get_ylim()
    decades = log10(high / low)
    steps = (1, 1.5, 2, 3, 4, 5, 7) if decades < 0.8 else (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 3 else (1,)
    for ax in axes:
        ax.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
        ax.yaxis.set_major_formatter(FuncFormatter(_plain))
        ax.yaxis.set_minor_locator(NullLocator())


def _plain(value: float, _position=None) -> str:
    return f"{value:g}"


def _label(panels: Panels, x: str, y: Mapping) -> None:
    """The x label below the last row, a y label left of every row."""
    rows, columns = list(dict.fromkeys(row for row, _ in panels)), list(dict.fromkeys(column for _, column in panels))
    for column in columns:
        panels[rows[-1], column].set_xlabel(x)
    for row in rows:
        panels[row, columns[0]].set_ylabel(y[row])


def _finish(fig: Figure, methods: Mapping[str, Look], notes: Sequence[Line2D] = ()) -> None:
    """One legend above all panels (the methods, then what else needs a word), and the layout settled once and for all.

    Left alone, it is computed anew at each drawing, from where the last one left it: showing a figure would change its file.
    """
    handles = [Line2D([], [], color=look.color, marker=look.marker, linestyle=look.line, label=name) for name, look in methods.items()]
    fig.legend(handles=[*handles, *notes], loc="outside upper center", ncols=len(handles) + len(notes), columnspacing=1.4, handlelength=2.0)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")


def _say(column: str, value) -> str:
    """How a value of a column is written on a figure."""
    if column == "split":
        return say_split(value)
    return f"{value} calibration windows" if column == "samples" else {**CRITERIA, **KIND_TITLES}.get(value, str(value))
