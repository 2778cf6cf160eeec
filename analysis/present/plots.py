"""Figures from tables: each function draws the rows of one table of `analysis.present.tables`, all of them and no
others.

They return a matplotlib Figure, compute nothing, and leave no global state. One line per method with a band of one
standard deviation over seeds; one legend above; panels share their axes wherever their numbers can be compared.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.present.panels import (
    category_axis,
    draw_levels,
    draw_lines,
    draw_points,
    finish,
    label_axes,
    log_scale,
    number_axis,
    panel_grid,
    plain_number,
    say,
    without_markers,
)
from analysis.present.style import (
    CRITERIA,
    LEVELS,
    METHODS,
    REFINEMENT_NAMES,
    REFINEMENTS,
    Look,
    in_style,
    looks,
    say_method,
    say_split,
    short_unit,
    unit_glyph,
    unit_order,
)
from analysis.records import CALIBRATION

RELATIVE_ERROR = "relative error"
MEASURES = {RELATIVE_ERROR: f"{RELATIVE_ERROR}\nat the last block"}


def plot_block_profile(table: pd.DataFrame, *, rows: str = "split", columns: str = "criterion") -> Figure:
    """Relative error at every block's output, one line per method, log scale: how error compounds with depth.

    `table` is that of `tables.block_profile`; `rows` and `columns` name the columns (split, criterion or kind) that its
    panels tell apart. Paper: figures 3, 5 and 6 of 2406.15524, there without the division by the dense output's mean
    square.
    """
    with in_style():
        fig, panels = panel_grid(table, rows, columns, height=1.75, sharey=True)
        for (row, column), ax in panels.items():
            draw_lines(ax, table[(table[rows] == row) & (table[columns] == column)], "block")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        log_scale(panels.values())
        label_axes(panels, "block", {row: say(rows, row) for row in table[rows].unique()})
        fig.supylabel(RELATIVE_ERROR, fontsize=9)
        finish(fig, looks(table["method"]))
    return fig


def plot_sample_size(table: pd.DataFrame) -> Figure:
    """Final error and perplexity against the number of calibration windows, one column of panels per split.

    `table` is that of `tables.sample_size`: rows with `measure` "relative error" (drawn on a log scale shared by all
    splits) or "perplexity" (on its own scale per split, with the dense model as a dotted black line).
    """
    with in_style():
        fig, panels = panel_grid(table, "measure", "split", height=2.1, sharey=False)
        sizes = sorted(table["samples"].unique())
        for (measure, split), ax in panels.items():
            draw_lines(ax, table[(table["measure"] == measure) & (table["split"] == split)], "samples")
            number_axis(ax, sizes)
            ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
        _share_log([ax for (measure, _), ax in panels.items() if measure == RELATIVE_ERROR])
        label_axes(
            panels, "calibration windows", {name: MEASURES.get(name, name) for name in table["measure"].unique()}
        )
        finish(fig, looks(table["method"]))
    return fig


def plot_epochs(table: pd.DataFrame) -> Figure:
    """Error of one unit while it is optimised: calibration (dashed) against held-out (solid), a ring at the held-out
    minimum.

    `table` is that of `tables.epochs`; one column of panels per number of calibration windows, one row per held-out
    register. Where the solid line turns up after its ring while the dashed one goes on falling, reconstruction
    overfits.
    """
    with in_style():
        held_out = table[table["split"] != CALIBRATION]
        fig, panels = panel_grid(held_out, "split", "samples", height=2.1, sharey=True)
        for (split, samples), ax in panels.items():
            here = table[table["samples"] == samples]
            draw_lines(ax, here[here["split"] == CALIBRATION], "epoch", line=(0, (3, 1.5)), hollow=True)
            draw_lines(ax, here[here["split"] == split], "epoch", line="-")
            best = here[(here["split"] == split) & here["lowest"]]
            ax.scatter(
                best["epoch"], best["value"], s=75, facecolors="none", edgecolors="black", linewidths=1.1, zorder=5
            )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        log_scale(panels.values())
        label_axes(panels, "epoch", {split: say_split(split) for split in held_out["split"].unique()})
        fig.supylabel(f"{RELATIVE_ERROR} of the unit", fontsize=9)
        notes = [
            Line2D([], [], color="black", linestyle=(0, (3, 1.5)), label="calibration"),
            Line2D([], [], color="black", label="held-out"),
            Line2D(
                [], [], color="black", marker="o", fillstyle="none", markersize=8, linestyle="", label="lowest held-out"
            ),
        ]
        finish(fig, looks(table["method"]), notes)
    return fig


def plot_granularity(table: pd.DataFrame) -> Figure:
    """Perplexity and error at the last block against the unit that was reconstructed, finest first, one line per choice
    of streams.

    `table` is that of `tables.granularity`. Stars: the closed form of each choice at one matrix. LR and the dense
    model, which have no unit, are level lines. The error's log scale is shared by all texts.
    """
    with in_style():
        units = unit_order(table["granularity"])
        places = {unit: place for place, unit in enumerate(units)}
        fig, panels = panel_grid(table, "measure", "split", height=2.2, sharey=False)
        for (measure, split), ax in panels.items():
            here = table[(table["measure"] == measure) & (table["split"] == split)]
            here = here.assign(place=here["granularity"].map(places))
            draw_levels(ax, here[here["method"].isin(LEVELS)], (-0.5, len(units) - 0.5))
            draw_lines(ax, here[~here["method"].isin((*LEVELS, "ridge"))], "place")
            for row in here[here["method"] == "ridge"].groupby("streams", sort=False):
                draw_points(
                    ax,
                    row[1]["place"],
                    row[1],
                    color=METHODS[row[0]].color,
                    marker="*",
                    size=9,
                    hollow=True,
                    gid="method ridge",
                )
            category_axis(ax, [short_unit(unit) for unit in units])
            ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
        _share_log([ax for (measure, _), ax in panels.items() if measure == RELATIVE_ERROR])
        label_axes(
            panels, "reconstructed at once", {name: MEASURES.get(name, name) for name in table["measure"].unique()}
        )
        finish(fig, *_stream_legend(table))
    return fig


def plot_cost(table: pd.DataFrame) -> Figure:
    """Held-out perplexity against what it costs, every point a unit's short name, and the points that nothing beats
    ringed and joined by steps.

    `table` is that of `tables.cost_of_units`: one column of panels per `price`, one row per held-out text. For every
    point without a ring there is one that is both at least as cheap and at least as good.
    """
    with in_style():
        fig, panels = panel_grid(table, "split", "price", height=2.7, sharey="row", sharex="col")
        for (split, price), ax in panels.items():
            here = table[(table["split"] == split) & (table["price"] == price)]
            points = here[~here["method"].isin(LEVELS)]
            for (method, streams, unit), rows in points.groupby(["method", "streams", "granularity"], sort=False):
                marker, size = (
                    ("*", 9)
                    if method == "ridge"
                    else (rf"$\mathrm{{{unit_glyph(unit)}}}$", 5 + 2 * len(unit_glyph(unit)))
                )
                draw_points(
                    ax,
                    rows["cost"],
                    rows,
                    color=METHODS[streams].color,
                    marker=marker,
                    size=size,
                    hollow=method == "ridge",
                    gid=f"method {method}",
                )
            front = points[points["front"]].sort_values("cost")
            ax.plot(
                front["cost"],
                front["value"],
                color="#999999",
                linewidth=1,
                drawstyle="steps-post",
                zorder=2,
                gid="front",
                marker="o",
                markersize=13,
                markerfacecolor="none",
                markeredgewidth=0.8,
            )
            ax.margins(x=0.1, y=0.08)
        for price in table["price"].unique():
            log_scale([ax for (_, column), ax in panels.items() if column == price], "x")
        for (split, price), ax in panels.items():
            levels = table[(table["split"] == split) & (table["price"] == price) & table["method"].isin(LEVELS)]
            low, high = ax.get_xlim()
            draw_levels(ax, levels, (low, high))
            ax.set_xlim(low, high)
            ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
        label_axes(panels, "", {split: f"perplexity\n{say_split(split)}" for split in table["split"].unique()})
        methods, notes = _stream_legend(table)
        colours = [
            Line2D([], [], color=look.color, marker="s", linestyle="", label=name)
            for name, look in methods.items()
            if name not in LEVELS
        ]
        best = Line2D(
            [],
            [],
            color="#999999",
            linewidth=1,
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgewidth=0.8,
            label="best at the price",
        )
        units = ", ".join(
            f"{unit_glyph(unit)}: {unit}" for unit in unit_order(table["granularity"]) if unit_glyph(unit) != unit
        )
        fig.supxlabel(units, fontsize=8)
        finish(fig, {name: look for name, look in methods.items() if name in LEVELS}, [*colours, *notes, best])
    return fig


def plot_criteria(table: pd.DataFrame) -> Figure:
    """Perplexity of every criterion, with its mask as chosen and refined, before (hollow) and after reconstruction
    (filled).

    `table` is that of `tables.criteria`; one column of panels per pattern, each with a log scale of its own, one row
    per held-out text; dotted: the dense model.
    """
    with in_style():
        criteria = [name for name in CRITERIA if name in set(table["criterion"])]
        fig, panels = panel_grid(table, "split", "pattern", height=2.4, sharey=False)
        marked = {method: look.marker for method, look in looks(table["method"]).items() if method != "dense"}
        for (split, pattern), ax in panels.items():
            here = table[(table["split"] == split) & (table["pattern"] == pattern)]
            dense = here[here["method"] == "dense"].drop_duplicates("method")
            draw_levels(ax, dense, (-0.5, len(criteria) - 0.5))
            for (refinement, method), rows in here[here["method"] != "dense"].groupby(
                ["refinement", "method"], sort=False
            ):
                x = rows["criterion"].map(criteria.index) + _aside(refinement, table)
                draw_points(
                    ax,
                    x,
                    rows,
                    color=REFINEMENTS[refinement].color,
                    marker=marked[method],
                    hollow=method == "LR",
                    size=4.5,
                    gid=f"method {method} {refinement}",
                )
            category_axis(ax, [CRITERIA[name] for name in criteria], rotation=45)
        for ax in panels.values():
            log_scale([ax])
        label_axes(panels, "", {split: f"perplexity\n{say_split(split)}" for split in table["split"].unique()})
        notes = [
            Line2D(
                [],
                [],
                color="black",
                marker=marker,
                linestyle="",
                markerfacecolor="white" if method == "LR" else "black",
                label="mask alone" if method == "LR" else f"after {say_method(method)}",
            )
            for method, marker in marked.items()
        ]
        finish(fig, looks(["dense"]), [*_refinement_legend(table), *notes])
    return fig


def plot_layers(table: pd.DataFrame) -> Figure:
    """What a refinement leaves of every matrix's error: one dot per matrix, within each criterion from the first block
    to the last.

    `table` is that of `tables.layer_changes`; one panel per pattern. 1 is the plain mask's error; lower is better.
    """
    with in_style():
        criteria = [name for name in CRITERIA if name in set(table["criterion"])]
        table = table.assign(row="")
        fig, panels = panel_grid(table, "row", "pattern", height=2.3, sharey=True)
        last = max(1, table["block"].max())
        for (_, pattern), ax in panels.items():
            here = table[table["pattern"] == pattern]
            for refinement, rows in here.groupby("refinement", sort=False):
                x = (
                    rows["criterion"].map(criteria.index)
                    + _aside(refinement, table)
                    + 0.22 * (rows["block"] / last - 0.5)
                )
                ax.plot(
                    x,
                    rows["value"],
                    color=REFINEMENTS[refinement].color,
                    marker=".",
                    markersize=3.5,
                    linestyle="",
                    alpha=0.8,
                    gid=f"refinement {refinement}",
                )
            category_axis(ax, [CRITERIA[name] for name in criteria], rotation=45)
            ax.set_ylim(0, 1.02)
        label_axes(panels, "", {"": "error left of the\nplain mask's"})
        finish(fig, {}, _refinement_legend(table))
    return fig


def plot_budget(table: pd.DataFrame) -> Figure:
    """Held-out perplexity against the tokens and the seconds that training took, one line per method through its
    numbers of epochs.

    `table` is that of `tables.budgets` for one number of windows; left: tokens that pass every trained weight, right:
    seconds in the solver; one row of panels per held-out text. Level lines: LR and the dense model, which train
    nothing.
    """
    prices = ["tokens", "solve_seconds"]
    with in_style():
        splits = list(table["split"].unique())
        places = pd.DataFrame([(split, price) for split in splits for price in prices], columns=["split", "price"])
        fig, panels = panel_grid(places, "split", "price", height=2.6, sharey="row", sharex="col")
        for (split, price), ax in panels.items():
            here = table[table["split"] == split]
            draw_lines(ax, here[~here["method"].isin(LEVELS)], price)
        for price in prices:
            log_scale([ax for (_, column), ax in panels.items() if column == price], "x")
        for (split, _), ax in panels.items():
            low, high = ax.get_xlim()
            draw_levels(ax, table[(table["split"] == split) & table["method"].isin(LEVELS)], (low, high))
            ax.set_xlim(low, high)
        for split in splits:
            log_scale([ax for (row, _), ax in panels.items() if row == split])
        label_axes(panels, "", {split: f"perplexity\n{say_split(split)}" for split in splits})
        finish(fig, without_markers(looks(table["method"])))
    return fig


def plot_more_text(table: pd.DataFrame) -> Figure:
    """Held-out perplexity against the number of calibration windows, one column of panels per number of epochs, one
    line per method.

    `table` is that of `tables.budgets`. Methods of one panel and one x have seen the same text equally often.
    """
    with in_style():
        trained = table[~table["method"].isin(LEVELS)]
        fig, panels = panel_grid(trained, "split", "epochs", height=2.4, sharey="row")
        sizes = sorted(trained["samples"].unique())
        for (split, epochs), ax in panels.items():
            here = table[(table["split"] == split) & (table["epochs"].isin((0, epochs)))]
            draw_lines(ax, here, "samples")
            number_axis(ax, sizes)
        for split in trained["split"].unique():
            log_scale([ax for (row, _), ax in panels.items() if row == split])
        label_axes(
            panels,
            "calibration windows",
            {split: f"perplexity\n{say_split(split)}" for split in trained["split"].unique()},
        )
        finish(fig, looks(table["method"]))
    return fig


def _share_log(axes: list[Axes]) -> None:
    """One log scale for panels of one row whose other rows keep scales of their own."""
    first, *others = axes
    for ax in others:
        ax.sharey(first)
        ax.tick_params(labelleft=False)
    first.autoscale_view()
    log_scale(axes)


def _aside(refinement: str, table: pd.DataFrame) -> float:
    """How far right of its criterion's place a refinement is drawn."""
    there = [name for name in REFINEMENTS if name in set(table["refinement"])]
    return 0.26 * (there.index(refinement) - (len(there) - 1) / 2)


def _refinement_legend(table: pd.DataFrame) -> list[Line2D]:
    there = set(table["refinement"])
    return [
        Line2D([], [], color=look.color, marker="s", linestyle="", label=REFINEMENT_NAMES[name])
        for name, look in REFINEMENTS.items()
        if name in there
    ]


def _stream_legend(table: pd.DataFrame) -> tuple[dict[str, Look], list[Line2D]]:
    """The methods of a granularity figure, and a star for the closed form, whose colour is its streams'."""
    star = Line2D(
        [],
        [],
        color="black",
        marker="*",
        markersize=9,
        markerfacecolor="white",
        linestyle="",
        label="one matrix, closed form",
    )
    return without_markers(looks(set(table["method"]) - {"ridge"})), [star] if "ridge" in set(table["method"]) else []
