"""Figures of notebook 13, models that read pictures; their tables are in `vision.py`."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.present.depth import share
from analysis.present.panels import (
    category_axis,
    draw_named,
    draw_points,
    finish,
    handle,
    label_axes,
    log_scale,
    number_axis,
    panel_grid,
    plain_axis,
    plain_number,
)
from analysis.present.style import METHOD_LOOKS, Look, dealt, in_style, say_method, say_task
from analysis.present.tables import on_tables
from analysis.present.vision import ALL, KINDS, MEAN, RECOVERIES, WAYS, recoveries_of, say
from analysis.present.vision_findings import say_mask

CHANCE = Look("#777777", "", (0, (4, 2)))
DENSE = METHOD_LOOKS["dense"]
AT = {"text": "text positions", "image": "picture positions"}
MASK_LOOKS = [Look("#0072B2", "o", ""), Look("#D55E00", "s", ""), Look("#009E73", "^", ""), Look("#CC79A7", "D", "")]
NATS = "nats per token above dense"


@on_tables
def plot_recovered(table: pd.DataFrame) -> Figure:
    """Loss on held-out pictures in nats per token above the dense model's against the share of the language part's
    block weights that is gone, a line per recovery, a panel for whole blocks and one for heads and neurons.

    `table` is that of `vision.recovered`. Log scale, but linear below the smallest step; dotted: the dense model.
    Bands: 95 % intervals of the ratio to no recovery within a seed.
    """
    with in_style():
        fig, panels = panel_grid(table.assign(row=""), "row", "way", height=3.6, sharey=True)
        styles = looks_of(table)
        for (_, name), ax in panels.items():
            ax.set_title(_title(name))
            _lines(ax, table[table["way"] == name], "removed", styles)
            _share_axis(ax, table)
            ax.axhline(0, color="black", linestyle=DENSE.line, linewidth=1.2, zorder=1, gid="dense")
        positive = table.loc[table["value"] > 0, "value"]
        linear = max(0.01, float(positive.min()) if len(positive) else 0.01)
        for ax in panels.values():
            ax.set_yscale("symlog", linthresh=linear, linscale=0.6)
        ticks = [
            tick for tick in (-0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10) if _inside(tick, linear)
        ]
        for ax in panels.values():
            ax.yaxis.set_major_locator(FixedLocator(ticks))
            ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.set_ylim(1.3 * min(-0.2 * linear, table["value"].min()), 1.6 * table["value"].max())
        label_axes(panels, "% of the weights in its blocks gone", {"": f"held-out pictures\n{NATS}"})
        finish(fig, {}, _notes(table))
    return fig


def _inside(tick: float, linear: float) -> bool:
    return tick == 0 or abs(tick) >= linear


@on_tables
def plot_answered(table: pd.DataFrame) -> Figure:
    """Per cent of the questions about pictures that are answered right against the share of the language part's block
    weights that is gone, a line per recovery; rows: the mean over tasks, in per cent of the dense model's accuracy, and
    each task; columns: whole blocks, heads and neurons.

    `table` is that of `vision.answered`. Dotted: the dense model, dashed: guessing. Bands: 95 % intervals of the
    difference to no recovery within a seed, bars: one standard error from the number of questions.
    """
    with in_style():
        tasks = list(dict.fromkeys(table["task"]))
        fig, panels = panel_grid(table, "task", "way", height=1.75, sharey="row")
        styles = looks_of(table)
        for (task, name), ax in panels.items():
            rows = table[(table["task"] == task) & (table["way"] == name)]
            if task == tasks[0]:
                ax.set_title(_title(name))
            _lines(ax, rows, "removed", styles)
            for word in recoveries_of(rows["recovery"]):
                own = rows[rows["recovery"] == word]
                ends = own["value"] - own["spread"], own["value"] + own["spread"]
                ax.vlines(own["removed"], *ends, color=styles[word].color, linewidth=1, alpha=0.35, zorder=2)
            for value, look, gid in ((rows["dense"], DENSE, "dense"), (rows["chance"], CHANCE, "chance")):
                ax.axhline(value.iloc[0], color=look.color, linestyle=look.line, linewidth=1.2, zorder=1, gid=gid)
            _share_axis(ax, table)
            ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        words = {task: "mean,\n% of dense" if task == MEAN else f"{say_task(task)},\n% right" for task in tasks}
        label_axes(panels, "% of the weights in its blocks gone", words)
        finish(fig, {}, [*_notes(table), handle(DENSE, "dense"), handle(CHANCE, "guessing")])
    return fig


@on_tables
def plot_fed(table: pd.DataFrame) -> Figure:
    """Loss on held-out pictures in nats per token above the dense model's against the number of calibration windows, a
    line per recovery, a panel for whole blocks and one for heads and neurons.

    `table` is that of `vision.fed`. Bands: 95 % intervals of the ratio to no recovery within a seed.
    """
    with in_style():
        fig, panels = panel_grid(table.assign(row=""), "row", "pattern", height=3.1, sharey=True)
        styles = looks_of(table)
        for (_, pattern), ax in panels.items():
            rows = table[table["pattern"] == pattern]
            ax.set_title(f"{_title(rows['way'].iloc[0])}, {share(pattern):g} % gone")
            _lines(ax, rows, "samples", styles)
            number_axis(ax, sorted(set(table["samples"])))
            ax.axhline(0, color="black", linestyle=DENSE.line, linewidth=1.2, zorder=1, gid="dense")
            plain_axis(ax.yaxis)
        label_axes(panels, "calibration windows", {"": f"held-out pictures\n{NATS}"})
        finish(fig, {}, _notes(table))
    return fig


@on_tables
def plot_placed(table: pd.DataFrame) -> Figure:
    """Relative error at the end of each block of the dense model at text positions and at picture positions, a line per
    recovery; rows: whole blocks, heads and neurons.

    `table` is that of `vision.placed`. Log scale. What every seed takes out has no error. Bands: 95 % intervals of the
    ratio to no recovery within a seed.
    """
    with in_style():
        fig, panels = panel_grid(table, "pattern", "at", height=2.4, sharey=True)
        styles = looks_of(table)
        for (pattern, at), ax in panels.items():
            rows = table[(table["pattern"] == pattern) & (table["at"] == at) & table["value"].gt(0)]
            if pattern == table["pattern"].iloc[0]:
                ax.set_title(AT.get(at, at))
            _lines(ax, rows, "block", styles)
            ax.xaxis.set_major_locator(FixedLocator(sorted(set(table["block"]))))
        log_scale(panels.values())
        ways = table.drop_duplicates("pattern").set_index("pattern")["way"]
        words = {
            pattern: f"{WAYS.get(ways[pattern], ways[pattern])}\n{share(pattern):g} % gone\nrelative error"
            for pattern in ways.index
        }
        label_axes(panels, "block of the dense model", words)
        finish(fig, {}, _notes(table))
    return fig


@on_tables
def plot_counted(table: pd.DataFrame) -> Figure:
    """What counting the tokens of the text or of the pictures alone does, in times the value with all tokens: the
    error at the last block at text and at picture positions, and the loss above dense; a panel for each measure
    (across) and method (down), a colour for each mask.

    `table` is that of `vision.counted`. Log scale. Bars: 95 % intervals of the ratio within a seed.
    """
    with in_style():
        masks = list(dict.fromkeys(table["mask"]))
        looks = {mask: MASK_LOOKS[place % len(MASK_LOOKS)] for place, mask in enumerate(masks)}
        tokens = [name for name in dict.fromkeys(table["tokens"]) if name != ALL]
        fig, panels = panel_grid(_changes(table), "method", "measure", height=2.0, sharey=True)
        for (method, measure), ax in panels.items():
            rows = _changes(table)
            rows = rows[(rows["method"] == method) & (rows["measure"] == measure)]
            ax.axhline(1, color="black", linestyle=DENSE.line, linewidth=1.2, zorder=1, gid=ALL)
            for place, mask in enumerate(masks):
                some = rows[rows["mask"] == mask]
                x = some["tokens"].map(tokens.index) + 0.16 * (place - (len(masks) - 1) / 2)
                draw_points(ax, x, some, color=looks[mask].color, marker=looks[mask].marker, gid=f"mask {mask}")
            category_axis(ax, [f"{KINDS[name]} alone" for name in tokens])
        log_scale(panels.values())
        methods = dict.fromkeys(table["method"])
        label_axes(panels, "tokens that count", {m: f"{say_method(m)}\ntimes that of all tokens" for m in methods})
        finish(fig, {}, [handle(looks[mask], say_mask(mask)) for mask in masks])
    return fig


def _changes(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of text or pictures alone, in times those of all tokens."""
    key = ["measure", "mask", "method"]
    before = table[table["tokens"] == ALL].set_index(key)["value"].rename("before")
    rows = table[table["tokens"] != ALL].join(before, on=key)
    return rows.assign(**{name: rows[name] / rows["before"] for name in ("value", "low", "high")})


def _title(name: str) -> str:
    return WAYS.get(name, name)


def _lines(ax: Axes, table: pd.DataFrame, x: str, styles: Mapping[str, Look]) -> None:
    """A line for each recovery, with its band."""
    draw_named(ax, table.sort_values(x, kind="stable"), x, "recovery", styles, "recovery")


def _share_axis(ax: Axes, table: pd.DataFrame) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.set_xlim(0, 1.06 * table["removed"].max())


def _notes(table: pd.DataFrame) -> list:
    return [handle(look, say(name)) for name, look in looks_of(table).items()]


@on_tables
def looks_of(table: pd.DataFrame) -> dict[str, Look]:
    """The look of each recovery, in the order figures show them."""
    return dealt(recoveries_of(table["recovery"]), RECOVERIES)
