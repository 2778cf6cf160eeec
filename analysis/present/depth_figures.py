"""Figures of notebook 12, whole blocks taken out; their tables are in `depth.py`."""

from math import expm1
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.present.depth import REPAIRS, WIDTH_LABELS, criteria_of, methods_of, say, say_pattern
from analysis.present.panels import (
    category_axis,
    draw_points,
    finish,
    handle,
    label_axes,
    log_scale,
    panel_grid,
    plain_axis,
    plain_number,
)
from analysis.present.style import (
    METHOD_LOOKS,
    Look,
    dealt,
    in_style,
    say_criterion,
    say_method,
    say_split,
    say_task,
    spare,
)
from analysis.present.tables import on_tables
from analysis.schema import CALIBRATION

CRITERION_LOOKS = {
    "influence": Look("#0072B2", "o", "-"),
    "angular": Look("#009E73", "^", "-"),
    "perplexity": Look("#D55E00", "s", "-"),
    "gain": Look("#CC79A7", "D", "-"),
    "random": Look("#777777", "X", "-"),
    "deepest": Look("#E69F00", "v", "-"),
}
GONE: dict[str, Any] = {"facecolor": "#ececec", "edgecolor": "none"}
GONE_IN_SOME: dict[str, Any] = {"facecolor": "none", "edgecolor": "#cccccc", "hatch": "////"}
GHOSTS = ("ghost", "ghost+GP")  # what no checkpoint holds
NATS = "nats per token above dense"
SPEED_LOOKS = {
    **{("blocks", method): look for method, look in REPAIRS.items()},
    ("neurons", "LIAR+GP"): Look("#56B4E9", "P", (0, (5, 1.2))),
    ("neurons", "BR+GP[repair=liar]"): Look("#0072B2", "s", (0, (5, 1.2))),
    ("weights", "LR"): Look("#777777", "o", ""),
    ("weights", "BR+GP"): Look("#333333", "^", ""),
}
TASK_ROWS = 3  # panels in a row of answers


@on_tables
def plot_repaired(table: pd.DataFrame) -> Figure:
    """Held-out loss in nats per token above the dense model's, from the mask alone through every repair: a line per
    criterion of which blocks go, a panel per share of blocks gone.

    `table` is that of `repaired`; each panel has a scale of its own. The last place, apart from the lines, is the
    ghost, a matrix more at each cut, which no standard checkpoint holds. Bars: 95 % intervals of the mean over seeds,
    which may leave the panel.
    """
    with in_style():
        methods, styles = methods_of(table["method"]), criterion_looks(table["criterion"])
        fig, panels = panel_grid(table.assign(row=""), "row", "pattern", height=3.1, sharey=False)
        for (_, pattern), ax in panels.items():
            ax.set_title(say_pattern(pattern))
            for place, (criterion, look) in enumerate(styles.items()):
                rows = table[(table["pattern"] == pattern) & (table["criterion"] == criterion)]
                rows = rows.assign(x=rows["method"].map(methods.index) + 0.07 * (place - (len(styles) - 1) / 2))
                rows = rows.sort_values("x")
                ghost = rows["method"].isin(GHOSTS)
                kept = rows[~ghost]
                ax.plot(kept["x"], kept["value"], color=look.color, linewidth=1.2, zorder=2, gid=f"slope {criterion}")
                for some, hollow in ((kept, False), (rows[ghost], True)):
                    gid = f"criterion {criterion}{' ghost' if hollow else ''}"
                    draw_points(ax, some["x"], some, color=look.color, marker=look.marker, gid=gid, hollow=hollow)
            category_axis(ax, ["none" if name == "LR" else say(name) for name in methods], rotation=40)
            _from_zero(ax, table[table["pattern"] == pattern])
        label_axes(panels, "", {"": f"held-out text\n{NATS}"})
        notes = [handle(look, say_criterion(name)) for name, look in styles.items()]
        if set(GHOSTS) & set(methods):
            notes.append(handle(Look("#4D4D4D", "o", ""), "no checkpoint holds it", markerfacecolor="white"))
        finish(fig, {}, notes)
    return fig


@on_tables
def plot_profile(table: pd.DataFrame) -> Figure:
    """Relative error over the dense model's blocks after every repair, blocks that are gone shaded, hatched where they
    are gone in some seeds: a panel per share of blocks gone, log scale.

    `table` is that of `profile`. Errors are measured where a block that stays, or the last removed behind it, ends;
    dotted: across a gap. Bars: 95 % intervals of the ratio to the mask alone.
    """
    with in_style():
        styles = dealt(methods_of(table["method"]), REPAIRS)
        fig, panels = panel_grid(table.assign(row=""), "row", "pattern", height=2.9, sharey=True)
        last = table["block"].max()
        for (_, pattern), ax in panels.items():
            rows = table[table["pattern"] == pattern]
            ax.set_title(say_pattern(pattern))
            for block, share in rows.groupby("block")["removed"].max().items():
                if share:
                    shade = GONE if share == 1 else GONE_IN_SOME
                    ax.axvspan(block - 0.5, block + 0.5, linewidth=0, zorder=0, gid=f"gone {block}", **shade)
            for method, look in styles.items():
                own = rows[(rows["method"] == method) & rows["value"].gt(0)].sort_values("block")
                x, y = list(own["block"]), list(own["value"])
                draw_points(ax, x, own, color=look.color, marker=look.marker, gid=f"method {method}")
                for left in range(len(x) - 1):
                    near = x[left + 1] - x[left] == 1
                    line = look.line if near else (0, (1, 1.5))
                    ends = slice(left, left + 2)
                    ax.plot(x[ends], y[ends], color=look.color, linestyle=line, linewidth=1.4 if near else 1, zorder=2)
            ax.xaxis.set_major_locator(FixedLocator([*range(0, last + 1, max(1, (last + 1) // 8))]))
            ax.set_xlim(-0.5, last + 0.5)
        log_scale(panels.values())
        label_axes(panels, "block of the dense model", {"": "held-out text\nrelative error"})
        gone = [Patch(**GONE, label="gone")]
        if table["removed"].between(0, 1, inclusive="neither").any():
            gone.append(Patch(**GONE_IN_SOME, label="gone in some seeds"))
        finish(fig, {}, [*(handle(look, say(name)) for name, look in styles.items()), *gone])
    return fig


@on_tables
def plot_searched(table: pd.DataFrame) -> Figure:
    """What a search sees and what it gets: nats per token above the dense model on the calibration text that blocks
    were chosen by (hollow) and on held-out text (filled), by criterion; rows: windows of calibration text, columns:
    share of blocks gone.

    `table` is that of `searched`. Bars: 95 % intervals of the mean over seeds, which may leave the panel.
    """
    with in_style():
        names, styles = criteria_of(table["criterion"]), criterion_looks(table["criterion"])
        fig, panels = panel_grid(table, "samples", "pattern", height=2.0, sharey="col")
        for (samples, pattern), ax in panels.items():
            if samples == table["samples"].iloc[0]:
                ax.set_title(say_pattern(pattern))
            rows = table[(table["samples"] == samples) & (table["pattern"] == pattern)]
            for there, aside in ((False, -0.13), (True, 0.13)):
                for place, name in enumerate(names):
                    some = rows[((rows["split"] != CALIBRATION) == there) & (rows["criterion"] == name)]
                    color, marker = styles[name].color, styles[name].marker
                    gid = f"{'held-out' if there else 'calibration'} {name}"
                    draw_points(ax, [place + aside], some, color=color, marker=marker, gid=gid, hollow=not there)
            category_axis(ax, [say_criterion(name).replace(" ", "\n") for name in names])
            _from_zero(ax, table[table["pattern"] == pattern])
        words = {n: f"{n} calibration window{'s' * (n > 1)}\n{NATS}" for n in dict.fromkeys(table["samples"])}
        label_axes(panels, "", words)
        text = next(split for split in table["split"] if split != CALIBRATION)
        notes = [
            handle(Look("#4D4D4D", "o", ""), "calibration text, which is chosen by", markerfacecolor="white"),
            handle(Look("#4D4D4D", "o", ""), say_split(text)),
        ]
        finish(fig, {}, notes)
    return fig


@on_tables
def plot_answered(table: pd.DataFrame) -> Figure:
    """Per cent of the answers that are right against the share of blocks gone, a line per repair, a panel per kind of
    question: multiple choice, and answers written out that must match word for word.

    `table` is that of `answered`. Dotted: the dense model. Bars: one standard error from the questions.
    """
    with in_style():
        tasks = list(dict.fromkeys(table["task"]))
        places = {task: divmod(place, TASK_ROWS) for place, task in enumerate(tasks)}
        shown = table.assign(
            row=table["task"].map(lambda t: places[t][0]), column=table["task"].map(lambda t: places[t][1])
        )
        fig, panels = panel_grid(shown, "row", "column", height=1.9, sharey=True)
        methods = [name for name in methods_of(table["method"]) if name != "dense"]
        styles = dealt(methods, REPAIRS)
        for task, place in places.items():
            ax, rows = panels[place], shown[shown["task"] == task]
            dense = rows[rows["method"] == "dense"].iloc[0]
            ax.axhline(dense["value"], color="black", linestyle=METHOD_LOOKS["dense"].line, linewidth=1.2, gid="dense")
            for number, method in enumerate(methods):
                own, look = rows[rows["method"] == method].sort_values("removed"), styles[method]
                x = own["removed"] + 0.5 * (number - (len(methods) - 1) / 2)
                ax.plot(
                    x, own["value"], color=look.color, marker=look.marker, linestyle=look.line, gid=f"method {method}"
                )
                error = own["standard_error"]
                ax.vlines(x, own["value"] - error, own["value"] + error, color=look.color, linewidth=1, alpha=0.45)
            ax.set_title(say_task(task))
            ax.xaxis.set_major_locator(FixedLocator(sorted(set(rows.loc[rows["method"] != "dense", "removed"]))))
            ax.set(
                xlim=(shown.loc[shown["removed"] > 0, "removed"].min() - 2, shown["removed"].max() + 2), ylim=(-4, 104)
            )
        for place in set(panels) - set(places.values()):
            panels[place].set_axis_off()
        label_axes(panels, "% of the blocks gone", dict.fromkeys(shown["row"], "% right"))
        finish(fig, {}, [*(handle(styles[n], say(n)) for n in methods), handle(METHOD_LOOKS["dense"], "dense")])
    return fig


@on_tables
def plot_speeds(table: pd.DataFrame) -> Figure:
    """Perplexity in per cent above the dense model's against how many times faster one window runs, measured: blocks
    and neurons cut out, single weights, which make nothing faster.

    `table` is that of `speeds`. Lines start at the dense model. Bars: 95 % intervals of the mean over seeds, of both,
    which may leave the panel.
    """
    with in_style():
        fig, panels = panel_grid(table.assign(one=""), "one", "one", height=3.4, sharey=False)
        ((_, ax),) = panels.items()
        ax.set_title("")
        percent = table.assign(**{name: table[name].map(lambda x: 100 * expm1(x)) for name in ("value", "low", "high")})
        notes = []
        others = 0
        for (kind, method), rows in percent.groupby(["kind", "method"], sort=False):
            look = SPEED_LOOKS.get((kind, method), spare(others))
            others += (kind, method) not in SPEED_LOOKS
            rows = rows.sort_values("faster")
            hollow = kind == "weights"
            x, y = list(rows["faster"]), list(rows["value"])
            if not hollow:
                ax.plot([1, *x], [0, *y], color=look.color, linestyle=look.line, linewidth=1.3, zorder=2)
            gid = f"{kind} {method}"
            draw_points(ax, x, rows, color=look.color, marker=look.marker, gid=gid, hollow=hollow)
            ax.hlines(y, rows["faster_low"], rows["faster_high"], color=look.color, linewidth=1, alpha=0.45, zorder=2)
            for row in rows.itertuples() if hollow else ():
                ax.annotate(row.pattern, (row.faster, row.value), (6, -3), textcoords="offset points", fontsize=8)
            words = say(method) if kind == "blocks" else WIDTH_LABELS.get(method, say_method(method))
            notes.append(handle(look, f"{kind}: {words}", **({"markerfacecolor": "white"} if hollow else {})))
        _percent_from_zero(ax, percent)
        plain_axis(ax.xaxis)
        ax.axvline(1, color="black", linestyle=METHOD_LOOKS["dense"].line, linewidth=1.2, zorder=1)
        ax.set_xlabel("times faster for one window, measured (dense = 1)")
        ax.set_ylabel("held-out perplexity\n% above dense")
        finish(fig, {}, notes)
    return fig


def criterion_looks(names) -> dict[str, Look]:
    """The look of each criterion, in order."""
    return dealt(criteria_of(names), CRITERION_LOOKS)


def _from_zero(ax: Axes, rows: pd.DataFrame) -> None:
    """From a little below 0, the dense model, to what the values need; intervals may leave the panel."""
    top = rows["value"].max()
    ax.axhline(0, color="black", linestyle=METHOD_LOOKS["dense"].line, linewidth=1.2, zorder=1, gid="dense")
    ax.set_ylim(min(0.0, rows["value"].min()) - 0.06 * top, 1.14 * top)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _percent_from_zero(ax: Axes, rows: pd.DataFrame) -> None:
    """Per cent above dense: a log scale from 1 on, linear below."""
    ax.set_yscale("symlog", linthresh=1, linscale=0.4)
    ax.set_ylim(min(-0.2, 1.2 * rows["value"].min()), 1.5 * max(2.0, rows["value"].max()))
    ticks = [0, 1, 3, 10, 30, 100, 300, 1000, 3000]
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= ax.get_ylim()[1]]))
    ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
    ax.yaxis.set_minor_locator(NullLocator())
