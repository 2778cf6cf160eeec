"""What the figures share: a grid of panels at README width, lines with bands, axes with plain numbers, one legend
above.

Everything is drawn inside `style.in_style`; nothing is computed and no global state is left.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log10
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import Bbox, BboxBase

from analysis.errors import UsageError
from analysis.present.style import (
    CRITERION_LOOKS,
    LEVELS,
    OTHERS,
    WIDTH,
    Look,
    say_count,
    say_criterion,
    say_method,
    say_split,
)
from analysis.present.tables import check_table

RELATIVE_ERROR = "relative error"

MEASURES = {RELATIVE_ERROR: f"{RELATIVE_ERROR}\nat the last block"}


KIND_TITLES = {
    "total": "total\ndense vs sparse",
    "inherited": "inherited\ndense block on both",
    "local": "local\npruned vs dense block",
    "cross": "cross\nthe rest (linear)",
}
BESIDE = [(5, 0), (-5, 0), (0, 5), (0, -5), (4, 4), (-4, 4), (4, -4), (-4, -4)]  # points right of and above a marker
PERCENTS = (0, 1, 3, 10, 20, 50, 100, 200, 500, 1000, 3000, 10_000, 100_000)
FILLS = ("full", "none", "left", "top", "right", "bottom")  # of markers, by pattern
Panels = dict[tuple, Axes]
Shared = bool | Literal["row", "col"]  # an axis of several panels


def panel_grid(
    table: pd.DataFrame, rows: str, columns: str, *, height: float, sharey: Shared, sharex: Shared = True
) -> tuple[Figure, Panels]:
    """A figure of README width with one panel for each pair of values of two columns; column titles are set.

    sharex, sharey: as in matplotlib: True, False, "row" or "col". Raises UsageError for a table without rows or the
    two columns.
    """
    check_table("figure", table, rows, columns)
    row_values, column_values = list(table[rows].unique()), list(table[columns].unique())
    fig = plt.figure(figsize=(WIDTH, height * len(row_values) + 0.85))
    plt.close(fig)  # pyplot forgets it, so nothing is drawn twice in a notebook and nothing is kept
    grid = fig.subplots(len(row_values), len(column_values), sharex=sharex, sharey=sharey, squeeze=False)
    panels = {(row, column): grid[i][j] for i, row in enumerate(row_values) for j, column in enumerate(column_values)}
    for column in column_values:
        panels[row_values[0], column].set_title(say(columns, column))
    return fig, panels


def draw_lines(
    ax: Axes, table: pd.DataFrame, x: str, styles: Mapping[str, Look], *, line=None, hollow: bool = False
) -> None:
    """One line per method, each with its band: the intervals of its points. `styles`: the looks of the whole figure."""
    for method, rows, look in _drawn(table, styles):
        face = "white" if hollow else look.color
        ax.plot(
            rows[x],
            rows["value"],
            color=look.color,
            marker=look.marker,
            linestyle=line or look.line,
            markerfacecolor=face,
            zorder=3,
            gid=f"method {method}",
        )
        draw_band(ax, rows[x], rows, look.color)


def draw_band(ax: Axes, x: Sequence[float], rows: pd.DataFrame, color: str) -> None:
    """The intervals of a line's points, `low` to `high`, as a band; none where no point has one."""
    if rows["low"].notna().any():
        ax.fill_between(x, rows["low"], rows["high"], color=color, alpha=0.16, linewidth=0, zorder=2)


def _drawn(table: pd.DataFrame, styles: Mapping[str, Look]) -> Iterator[tuple[str, pd.DataFrame, Look]]:
    """The methods of a panel in the order of the figure's, each with its rows and its look."""
    for method, look in styles.items():
        if len(rows := table[table["method"] == method]):
            yield method, rows, look


def draw_levels(ax: Axes, table: pd.DataFrame, places: Sequence[float], styles: Mapping[str, Look]) -> None:
    """What has no x of its own (LR, the dense model): a level line without markers from the first to the last of
    `places`, with its band where it has an interval. `styles`: the looks of the whole figure.
    """
    for method, rows, look in _drawn(table, styles):
        for row in rows.itertuples():
            ax.plot(
                [places[0], places[-1]],
                [row.value] * 2,
                color=look.color,
                linestyle=look.line,
                marker="",
                linewidth=1.2,
                zorder=2,
                gid=f"method {method}",
            )
            if row.low == row.low:
                ax.fill_between(
                    [places[0], places[-1]], row.low, row.high, color=look.color, alpha=0.12, linewidth=0, zorder=1
                )


def draw_points(
    ax: Axes,
    x: Sequence[float],
    rows: pd.DataFrame,
    *,
    color: str,
    marker: str | MarkerStyle,
    gid: str,
    hollow: bool = False,
    size: float = 5,
) -> None:
    """Markers, each with a bar: its interval."""
    face = "white" if hollow else color
    ax.plot(
        x,
        rows["value"],
        color=color,
        marker=marker,
        markersize=size,
        markerfacecolor=face,
        linestyle="",
        zorder=4,
        gid=gid,
    )
    if rows["low"].notna().any():
        ax.vlines(x, rows["low"], rows["high"], color=color, linewidth=1, alpha=0.45, zorder=3)


def category_axis(ax: Axes, words: Sequence[str], *, rotation: float = 0) -> None:
    """An x axis of words at 0, 1, 2, ..."""
    ax.xaxis.set_major_locator(FixedLocator(range(len(words))))
    ax.set_xticklabels(words, rotation=rotation, ha="right" if rotation else "center", rotation_mode="anchor")
    ax.set_xlim(-0.5, len(words) - 0.5)


def category_rows(ax: Axes, words: Sequence[str]) -> None:
    """A y axis of words, the first one on top, with lines across to read them by."""
    ax.yaxis.set_major_locator(FixedLocator(range(len(words))))
    ax.set_yticklabels(words)
    ax.set_ylim(len(words) - 0.5, -0.5)


def size_axis(ax: Axes, sizes: Sequence[float]) -> None:
    """A log x axis with a tick at each of the sizes (numbers of weights) and nowhere else, as in "393 k"."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(sizes))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: say_count(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.12)


def draw_named(ax: Axes, table: pd.DataFrame, x: str, name: str, styles: Mapping[str, Look], kind: str) -> None:
    """One line for each value of column `name`, drawn as `styles` says, with its band."""
    for value, rows in table.groupby(name, sort=False):
        look = styles[value]
        ax.plot(
            rows[x],
            rows["value"],
            color=look.color,
            marker=look.marker,
            linestyle=look.line,
            zorder=3,
            gid=f"{kind} {value}",
        )
        draw_band(ax, rows[x], rows, look.color)


def handle(look: Look, word: str, **more) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], **({"color": look.color, "marker": look.marker, "linestyle": look.line} | more), label=word)


def pattern_fills(patterns: Iterable[str]) -> dict[str, Any]:
    """The filling of each pattern's markers, in the order given. Raises UsageError where there are more patterns than
    fillings.
    """
    names = list(dict.fromkeys(patterns))
    if len(names) > len(FILLS):
        raise UsageError(
            f"figure: markers of {len(names)} patterns ({', '.join(names)}) cannot be told apart; draw at most"
            f" {len(FILLS)} at once (`choose(table, pattern=[...])`)"
        )
    return dict(zip(names, FILLS, strict=False))


def point_notes(methods: Mapping[str, Look], criteria: Iterable[str], fills: Mapping[str, Any]) -> list[Line2D]:
    """Legend of points whose colour is a method, whose shape a criterion and whose filling a pattern."""
    named = set(criteria)
    return [
        *(handle(look._replace(marker="s"), say_method(name), linestyle="") for name, look in methods.items()),
        *(
            handle(look, say_criterion(name), color="black", linestyle="")
            for name, look in CRITERION_LOOKS.items()
            if name in named
        ),
        *(
            handle(
                OTHERS[0], pattern, color="black", marker="D", linestyle="", fillstyle=fill, markerfacecoloralt="white"
            )
            for pattern, fill in fills.items()
        ),
    ]


def letters(word: str) -> MarkerStyle:
    """A marker that is a short word, which matplotlib sets as mathematics."""
    with mpl.rc_context({"text.parse_math": True}):
        return MarkerStyle(rf"$\mathrm{{{word}}}$")


def label_points(ax: Axes, x: Sequence[float], y: Sequence[float], words: Sequence[str]) -> None:
    """Each word beside its point, in the first of eight places where it covers no point, no other word and no edge,
    else in the first.

    For a panel whose layout is settled: after `finish`.
    """
    at = ax.transData.transform(list(zip(x, y, strict=True)))
    taken = [Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in at]
    for px, py, word in zip(x, y, words, strict=True):
        text = ax.annotate(word, (px, py), xytext=BESIDE[0], textcoords="offset points", fontsize=7.5, zorder=5)
        for dx, dy in BESIDE:
            text.set(
                position=(dx, dy),
                ha=("right", "center", "left")[1 + (dx > 0) - (dx < 0)],
                va=("top", "center", "bottom")[1 + (dy > 0) - (dy < 0)],
            )
            box = text.get_window_extent()
            inside = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 and ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        else:
            text.set(position=BESIDE[0], ha="left", va="center")
        taken.append(text.get_window_extent())


def log_scale(axes: Iterable[Axes], axis: str = "y") -> None:
    """A log scale (of y or x) for panels that share it, with plain numbers at as many steps as its range asks for."""
    axes = list(axes)
    for ax in axes:
        ax.set(**{f"{axis}scale": "log"})
    low, high = axes[0].get_ylim() if axis == "y" else axes[0].get_xlim()
    decades = log10(high / low)
    fine = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8) if decades < 0.4 else (1, 1.5, 2, 3, 4, 5, 7)
    steps = fine if decades < 0.8 else (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 3 else (1,)
    for ax in axes:
        along = ax.yaxis if axis == "y" else ax.xaxis
        along.set_major_locator(
            MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]) if decades < 0.2 else LogLocator(subs=steps, numticks=20)
        )
        along.set_major_formatter(FuncFormatter(plain_number))
        along.set_minor_locator(NullLocator())


def number_axis(ax: Axes, numbers: Sequence[int]) -> None:
    """A log x axis with a tick at each of the numbers and nowhere else."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(numbers))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def percent_axis(axes: Iterable[Axes], values: pd.Series) -> None:
    """One scale for panels of per cent above the dense model: log from 1 per cent on, linear below it, where numbers
    may be negative.
    """
    low, high = values.min(), values.max()
    for ax in axes:
        ax.set_yscale("symlog", linthresh=1, linscale=0.5)
        ax.set_ylim(low * 0.75 if low > 1 else min(low * 1.3, low - 0.5), max(high * 1.3, high + 0.5))
        ticks = [*(-percent for percent in PERCENTS[1:]), *PERCENTS]
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if ax.get_ylim()[0] <= tick]))
        ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
        ax.yaxis.set_minor_locator(NullLocator())


def plain_axis(axis: Axis) -> None:
    """Plain numbers at a handful of places: as many whatever the size of the panel, since the room for them is taken
    before its size is settled.
    """
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(plain_number))


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


def finish(fig: Figure, methods: Mapping[str, Look], notes: Sequence[Artist] = ()) -> None:
    """One legend above all panels (the methods, then what else needs a word), and the layout settled once and for all.

    Left alone, it is computed anew at each drawing, from where the last one left it: showing a figure would change its
    file.
    """
    handles: list[Artist] = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.line, label=say_method(name))
        for name, look in methods.items()
    ]
    handles += notes
    if handles:
        _legend(fig, handles)
    fig.draw_without_rendering()
    if _fit_words(fig):
        fig.draw_without_rendering()
    fig.set_layout_engine("none")


def _fit_words(fig: Figure) -> bool:
    """Titles, labels of rows and words on x axes that cover their neighbours or leave the figure are broken or
    shortened to the size of their panels; whether there were any. The layout stands.
    """
    page, found = fig.bbox, False
    titles = [(ax.title, 0.96 * ax.bbox.width) for ax in fig.axes]
    labels = [(ax.yaxis.label, ax.bbox.height) for ax in fig.axes]
    for group in (titles, labels):
        texts = [(text, room) for text, room in group if text.get_text()]
        if _crowded([text for text, _ in texts], page):
            found = True
            for text, room in texts:
                text.set_text(_fitted(text, room))
    for ax in fig.axes:
        ticks = [text for text in ax.get_xticklabels() if text.get_text() and not text.get_rotation()]
        if any(re.search(r"[^\W\d_]{3}", text.get_text()) for text in ticks) and _crowded(ticks, page):
            found = True
            ax.set_xticklabels([_fitted(text, ax.bbox.width / len(ticks) - 4) for text in ticks])
    return found


def _crowded(texts: Sequence[Text], page: BboxBase) -> bool:
    boxes = [text.get_window_extent() for text in texts]
    outside = any(box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0 or box.y1 > page.y1 for box in boxes)
    return outside or any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


def _fitted(text: Text, room: float) -> str:
    """The words of a text with every line of more than `room` pixels broken once, behind a sign or a space; what is
    still longer has dots for its middle.
    """
    whole, lines = text.get_text(), []
    for line in whole.split("\n"):
        ends = [0] if _length(text, line) <= room else [match.end() for match in re.finditer(r"[-_/.,: ](?=.)", line)]
        cut = max((end for end in ends if _length(text, line[:end]) <= room), default=0)
        lines += [_shortened(text, part, room) for part in (line[:cut].rstrip(), line[cut:]) if part]
    text.set_text(whole)
    return "\n".join(lines)


def _length(text: Text, line: str) -> float:
    """How many pixels a line is long as the text is set, upright or lying."""
    text.set_text(line)
    box = text.get_window_extent()
    return max(box.width, box.height)


def _shortened(text: Text, line: str, room: float) -> str:
    """A line of at most so many pixels, with dots for its middle where it is longer."""
    short, kept = line, len(line)
    while kept > 2 and _length(text, short) > room:
        kept -= 1
        short = f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"
    return short


def _legend(fig: Figure, handles: Sequence[Artist]) -> None:
    """The handles above all panels, row by row, in as few rows as the figure is wide for; words that are wider have
    dots for their middle. Matplotlib would leave out words that begin with an underscore: a space without width goes
    before it.
    """
    for one in handles:
        if (word := str(one.get_label())).startswith("_"):
            one.set_label(f"\u200b{word}")
    for rows in range(1, len(handles) + 1):
        columns = -(-len(handles) // rows)
        # matplotlib fills column by column
        read = [handles[place] for column in range(columns) for place in range(column, len(handles), columns)]
        legend = fig.legend(
            handles=read, loc="outside upper center", ncols=columns, columnspacing=1.4, handlelength=2.0
        )
        over = legend.get_window_extent().width - fig.bbox.width
        if columns > 1 and over > 0:
            legend.remove()
            continue
        room = max(text.get_window_extent().width for text in legend.get_texts()) - over - 0.02 * fig.bbox.width
        for text in legend.get_texts() if over > 0 else ():
            text.set_text(_shortened(text, text.get_text(), room))
        return


def amount(number: float, noun: str) -> str:
    """A number and what is counted, as in "1 window" and "2 windows"."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def say(column: str, value) -> str:
    """How a value of a column is written on a figure."""
    if column == "split":
        return say_split(value)
    if column == "samples":
        return amount(value, "calibration window")
    if column == "epochs":
        return amount(value, "epoch")
    if column == "criterion":
        return say_criterion(value)
    return KIND_TITLES.get(value, value) if column == "kind" else str(value)


def share_log_scale(axes: list[Axes]) -> None:
    """One log scale for panels of one row whose other rows keep scales of their own."""
    first, *others = axes
    for ax in others:
        ax.sharey(first)
        ax.tick_params(labelleft=False)
    first.autoscale_view()
    log_scale(axes)
