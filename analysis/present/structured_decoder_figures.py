"""Figures of notebook 10, a smaller decoder; their tables are in `structured_decoder.py`."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

from analysis.present.panels import (
    category_rows,
    draw_band,
    finish,
    handle,
    label_axes,
    log_scale,
    panel_grid,
    plain_axis,
)
from analysis.present.structured_decoder import (
    FLOPS,
    GAINS,
    LATENCY,
    PERPLEXITY,
    REPAIRED,
    THROUGHPUT,
    apart,
    ordered,
    repair_order,
    say,
)
from analysis.present.style import METHOD_LOOKS, OTHERS, Look, dealt, in_style, say_criterion, say_method
from analysis.present.tables import on_tables

# Looks of single weights, by method.
LEFT = [Look("#777777", "o", (0, (4, 1.5))), Look("#333333", "^", (0, (1.5, 1.2))), *OTHERS]
LINES: dict[str, LineStyleType] = {"neurons": "-", "heads": (0, (1.5, 1.2)), "structures": (0, (5, 1.2, 1, 1.2))}
SPEED_LOOKS = {FLOPS: Look("#000000", "D", ""), LATENCY: Look("#D55E00", "o", ""), THROUGHPUT: Look("#0072B2", "s", "")}
SPEED_LABELS = {
    FLOPS: "operations of a token, times fewer (counted)",
    LATENCY: "one window, times faster (measured)",
    THROUGHPUT: "several windows at once, times faster (measured)",
}


@on_tables
def plot_repaired(table: pd.DataFrame) -> Figure:
    """Held-out perplexity (log scale) against the share of all parameters that is gone: a line per repair, a panel per
    criterion (down) and kind of structure (across).

    `table` is that of `repaired`; lines start at the dense model, which is dotted too. Every panel has a scale of its
    own.
    """
    with in_style():
        pruned, (dense,) = apart(table)
        styles = repair_looks(pruned["method"])
        fig, panels = panel_grid(pruned, "criterion", "kind", height=2.9, sharex="col", sharey=False)
        for (criterion, kind), ax in panels.items():
            _dense_line(ax, dense.value)
            panel_rows = pruned[(pruned["criterion"] == criterion) & (pruned["kind"] == kind)]
            for method, rows in ordered(panel_rows, styles).groupby("method", sort=False):
                _draw(ax, rows, styles[method], dense.value, f"method {method}")
            plain_axis(ax.xaxis)
            log_scale([ax])
        label_axes(
            panels,
            "parameters removed, % of all",
            {name: f"held-out perplexity\n{say_criterion(name)}" for name in dict.fromkeys(pruned["criterion"])},
        )
        finish(fig, {}, [*_legend(styles), handle(METHOD_LOOKS["dense"], "dense")])
    return fig


@on_tables
def plot_speed(shapes: pd.DataFrame) -> Figure:
    """How much faster each smaller model is beside what its operations promise: one row per criterion and pattern.

    `shapes` is that of `shapes`. Hollow: operations, counted. Filled: measured times where the notebook ran, dense over
    pruned, with the interval of the mean over seeds. Level with the dense model: the line at 1.
    """
    with in_style():
        rows = shapes[shapes["measure"].isin(GAINS)]
        places = {shape: place for place, shape in enumerate(dict.fromkeys(zip(rows["criterion"], rows["pattern"])))}
        fig, panels = panel_grid(rows.assign(one=""), "one", "one", height=0.42 * len(places) + 0.5, sharey=False)
        ((_, ax),) = panels.items()
        ax.set_title("")
        for (measure, look), offset in zip(SPEED_LOOKS.items(), (-0.2, 0.0, 0.2), strict=True):
            part = rows[rows["measure"] == measure]
            y = [places[row.criterion, row.pattern] + offset for row in part.itertuples()]
            ax.plot(
                part["value"],
                y,
                color=look.color,
                marker=look.marker,
                linestyle="",
                markerfacecolor="white" if measure == FLOPS else look.color,
                zorder=4,
                gid=f"gain {measure}",
            )
            if measure != FLOPS:
                ax.hlines(y, part["low"], part["high"], color=look.color, linewidth=1.2, zorder=3)
        category_rows(ax, [f"{say_criterion(criterion)} {pattern.partition('[')[0]}" for criterion, pattern in places])
        ax.axvline(1, color="black", linestyle=METHOD_LOOKS["dense"].line, linewidth=1.2, zorder=1)
        ax.set_xlabel("times, dense = 1 (right of the line: better than dense)")
        plain_axis(ax.xaxis)
        hollow = {FLOPS: {"markerfacecolor": "white"}}
        notes = [
            handle(look, SPEED_LABELS[measure], **hollow.get(measure, {})) for measure, look in SPEED_LOOKS.items()
        ]
        finish(fig, {}, [*notes, handle(METHOD_LOOKS["dense"], "dense")])
    return fig


@on_tables
def plot_same_size(table: pd.DataFrame) -> Figure:
    """Perplexity (log scale) and mean zero-shot accuracy against the share of all parameters that is gone or zero.

    `table` is that of `same_size`. Whole structures in colour, single weights grey and hollow; bands: intervals of the
    difference from the dense model; bars: one standard error from the questions; lines start at the dense
    model, which is dotted too.
    """
    with in_style():
        pruned, dense = apart(table)
        whole, single = pruned[pruned["kind"] != "weights"], pruned[pruned["kind"] == "weights"]
        styles, level = repair_looks(whole["method"]), {row.measure: row.value for row in dense}
        grey = {
            name: LEFT[i % len(LEFT)]
            for i, name in enumerate(dict.fromkeys(zip(single["criterion"], single["method"], strict=True)))
        }
        grid = pd.DataFrame(
            [(criterion, measure) for criterion in dict.fromkeys(whole["criterion"]) for measure in level],
            columns=["criterion", "measure"],
        )
        fig, panels = panel_grid(grid, "criterion", "measure", height=3.2, sharex=True, sharey=False)
        for (criterion, measure), ax in panels.items():
            _dense_line(ax, level[measure])
            for name, rows in single[single["measure"] == measure].groupby(["criterion", "method"], sort=False):
                _draw(ax, rows, grey[name], level[measure], f"weights {' '.join(name)}", hollow=True)
            panel_rows = whole[(whole["criterion"] == criterion) & (whole["measure"] == measure)]
            for (kind, method), rows in panel_rows.groupby(["kind", "method"], sort=False):
                _draw(ax, rows, styles[method]._replace(line=LINES[kind]), level[measure], f"{kind} {method}")
            plain_axis(ax.xaxis)
            log_scale([ax]) if measure == PERPLEXITY else plain_axis(ax.yaxis)
        label_axes(
            panels,
            "parameters gone (filled) or zero (hollow), % of all",
            {name: f"structures by {say_criterion(name)}" for name in dict.fromkeys(whole["criterion"])},
        )
        notes = [
            *_legend(styles),
            *(handle(Look("black", "", LINES[kind]), kind) for kind in dict.fromkeys(whole["kind"])),
        ]
        notes += [
            handle(look, f"weights, {say_criterion(name)} {say_method(method)}", markerfacecolor="white")
            for (name, method), look in grey.items()
        ]
        finish(fig, {}, [*notes, handle(METHOD_LOOKS["dense"], "dense")])
    return fig


def repair_looks(methods) -> dict[str, Look]:
    """The look of each repair, in order; those without one of their own have spare ones."""
    return dealt(repair_order(methods), REPAIRED)


def _legend(styles) -> list:
    return [handle(look, say(name)) for name, look in styles.items()]


def _dense_line(ax, value: float) -> None:
    ax.axhline(
        value,
        color=METHOD_LOOKS["dense"].color,
        linestyle=METHOD_LOOKS["dense"].line,
        linewidth=1.2,
        zorder=1,
        gid="dense",
    )


def _draw(ax, rows: pd.DataFrame, look: Look, dense: float, gid: str, *, hollow: bool = False) -> None:
    """One line from the dense model on, at 0, with its band and its bars from questions."""
    rows = rows.sort_values("removed")
    x, y, face = rows["removed"], rows["value"], "white" if hollow else look.color
    ax.plot(
        [0, *x],
        [dense, *y],
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markerfacecolor=face,
        markevery=slice(1, None),
        zorder=3,
        gid=gid,
    )
    draw_band(ax, x, rows, look.color)
    if "standard_error" in rows and rows["standard_error"].max() > 0:
        ax.vlines(
            x,
            y - rows["standard_error"],
            y + rows["standard_error"],
            color=look.color,
            linewidth=0.9,
            alpha=0.5,
            zorder=2,
        )
