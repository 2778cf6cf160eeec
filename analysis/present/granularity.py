"""How much to reconstruct at once: quality, memory and time of every unit. Tables, figures and findings of
notebook 04.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.present.finding import Finding, say_value
from analysis.present.panels import (
    MEASURES,
    RELATIVE_ERROR,
    category_axis,
    draw_levels,
    draw_lines,
    draw_points,
    finish,
    label_axes,
    letters,
    log_scale,
    panel_grid,
    plain_number,
    share_log_scale,
    without_markers,
)
from analysis.present.style import (
    CRITERIA,
    LEVELS,
    METHOD_LOOKS,
    Look,
    in_style,
    looks,
    say_split,
    short_unit,
    unit_glyph,
    unit_order,
)
from analysis.present.tables import TO_DENSE, TO_LR, choose, held_out, on_tables, over_seeds, priced, with_dense
from analysis.schema import CALIBRATION

# (student, target): the method known for it
STREAM_METHODS = {("sparse", "sparse"): "BR", ("sparse", "dense"): "BR+GP", ("dense", "dense"): "IR"}
NO_STREAMS = {"streams": "", "granularity": ""}  # of a method that trains nothing
NO_UNIT = (*LEVELS, "retrain")  # methods whose unit is not a choice


@on_tables
def granularity(blocks: pd.DataFrame, perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Perplexity and total relative error at the last block by unit: [measure, criterion, split, method, streams,
    granularity, ...].

    `method` is the bare word (BR, BR+GP, IR, ridge, LR, dense), `streams` the gradient method with the same student and
    target streams, `granularity` what was solved at once; LR and the dense model have neither.
    """
    by = ["criterion", "split", "method", "streams", "granularity"]
    text = with_dense(choose(perplexity, criterion=criterion, split=split), ["criterion", "split"])
    error = choose(blocks, kind="total", criterion=criterion, split=split)
    error = error[error["block"] == error["block"].max()]
    parts = {"perplexity": (text, "perplexity", TO_DENSE), "relative error": (error, "relative_error", TO_LR)}
    both = [
        over_seeds(_by_streams(rows), by, value, paired=reference | NO_STREAMS, ratio=True).assign(measure=measure)
        for measure, (rows, value, reference) in parts.items()
    ]
    table = pd.concat(both, ignore_index=True)
    return table[["measure", *table.columns.drop("measure")]]


@on_tables
def cost_of_units(perplexity: pd.DataFrame, cost: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Held-out perplexity beside what the solver took: [price, criterion, split, method, streams, granularity, ...,
    cost, front].

    price: "MiB the solver holds" or "seconds in the solver"; cost: its mean over seeds. front: no other method, streams
    or unit is both at least as cheap and at least as good. LR and the dense model cost nothing: their cost is missing.
    """
    by = ["criterion", "split", "method", "streams", "granularity"]
    rows = _by_streams(priced(with_dense(held_out(perplexity, criterion, split), ["criterion", "split"]), cost))
    parts = []
    for price, column in {
        "MiB the solver holds": "solver_memory_mib",
        "seconds in the solver": "solve_seconds",
    }.items():
        part = over_seeds(rows, by, "perplexity", paired=TO_DENSE | NO_STREAMS, ratio=True).merge(
            over_seeds(rows, by, column)[[*by, "value"]].rename(columns={"value": "cost"}), on=by
        )
        part["cost"] = part["cost"].where(~part["method"].isin(LEVELS))
        part["front"] = False
        for _, panel in part.groupby(["criterion", "split"], sort=False):
            part.loc[panel.index, "front"] = _front(panel["cost"], panel["value"])
        parts.append(part.assign(price=price))
    table = pd.concat(parts, ignore_index=True)
    return table[["price", *table.columns.drop("price")]]


@on_tables
def units_side_by_side(prices: pd.DataFrame) -> pd.DataFrame:
    """`cost_of_units` for reading: rows (method, streams, unit), columns perplexity per held-out text and what each
    price came to.
    """
    key = ["criterion", "method", "streams", "granularity"]
    solved = prices[prices["cost"].notna()]
    text = (
        solved.pivot_table(index=key, columns="split", values="value", sort=False, observed=True)
        .rename(columns=say_split)
        .round(3)
    )
    paid = solved.pivot_table(index=key, columns="price", values="cost", sort=False, observed=True).round(2)
    return text.join(paid).rename_axis(columns=None)


@on_tables
def plot_granularity(table: pd.DataFrame) -> Figure:
    """Perplexity and error at the last block against the unit that was reconstructed, finest first, one line per choice
    of streams.

    `table` is that of `granularity`. Stars: the closed form of each choice at one matrix. LR and the dense
    model, which have no unit, are level lines. The error's log scale is shared by all texts.
    """
    with in_style():
        units = unit_order(table["granularity"])
        places = {unit: place for place, unit in enumerate(units)}
        fig, panels = panel_grid(table, "measure", "split", height=2.2, sharey=False)
        for (measure, split), ax in panels.items():
            panel_rows = table[(table["measure"] == measure) & (table["split"] == split)]
            panel_rows = panel_rows.assign(place=panel_rows["granularity"].map(places))
            draw_levels(ax, panel_rows[panel_rows["method"].isin(LEVELS)], (-0.5, len(units) - 0.5))
            draw_lines(ax, panel_rows[~panel_rows["method"].isin((*LEVELS, "ridge"))], "place")
            for row in panel_rows[panel_rows["method"] == "ridge"].groupby("streams", sort=False):
                draw_points(
                    ax,
                    row[1]["place"],
                    row[1],
                    color=METHOD_LOOKS[row[0]].color,
                    marker="*",
                    size=9,
                    hollow=True,
                    gid="method ridge",
                )
            category_axis(ax, [short_unit(unit) for unit in units])
            ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
        share_log_scale([ax for (measure, _), ax in panels.items() if measure == RELATIVE_ERROR])
        label_axes(
            panels, "reconstructed at once", {name: MEASURES.get(name, name) for name in table["measure"].unique()}
        )
        finish(fig, *_stream_legend(table))
    return fig


@on_tables
def plot_cost(table: pd.DataFrame) -> Figure:
    """Held-out perplexity against what it costs, every point a unit's short name, and the points that nothing beats
    ringed and joined by steps.

    `table` is that of `cost_of_units`: one column of panels per `price`, one row per held-out text. For every
    point without a ring there is one that is both at least as cheap and at least as good.
    """
    with in_style():
        fig, panels = panel_grid(table, "split", "price", height=2.7, sharey="row", sharex="col")
        for (split, price), ax in panels.items():
            panel_rows = table[(table["split"] == split) & (table["price"] == price)]
            points = panel_rows[~panel_rows["method"].isin(LEVELS)]
            for (method, streams, unit), rows in points.groupby(["method", "streams", "granularity"], sort=False):
                marker, size = (
                    ("*", 9) if method == "ridge" else (letters(unit_glyph(unit)), 5 + 2 * len(unit_glyph(unit)))
                )
                draw_points(
                    ax,
                    rows["cost"],
                    rows,
                    color=METHOD_LOOKS[streams].color,
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


@on_tables
def say_free_lunch(table: pd.DataFrame, within: float) -> Finding:
    """Per held-out text and choice of streams: the unit with the lowest perplexity, and which units lie within `within`
    percent of it.

    `table` is that of `granularity`. 2510.14444 (v2, v3) claims that quality is essentially constant over units
    that hold at least one non-linear submodule: from the sub-block up.
    """
    lines = []
    for (criterion, split, streams), rows in _by_unit(table).groupby(["criterion", "split", "streams"], sort=False):
        best = rows.loc[rows["value"].idxmin()]
        above = 100 * (rows["value"] / best["value"] - 1)
        near = [_say_unit(unit) for unit in rows.loc[above <= within, "granularity"]]
        coarse = above[rows["granularity"] != "matrix"]
        sizes = coarse.set_axis(rows.loc[coarse.index, "granularity"])
        flatness = _flatness(sizes, within) if len(coarse) > 1 else ""
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)} {streams}**, {say_split(split)}: lowest with"
            f" {_say_unit(best['granularity'])} ({say_value(best)}); "
            f"within {within:g} %:"
            f" {', '.join(near)}{flatness}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_matrix(table: pd.DataFrame) -> Finding:
    """Per held-out text and choice of streams: one matrix at once against one sub-block at once, by gradient and in
    closed form.

    2510.14444 (v3) claims that reconstructing single matrices is consistently worse.
    """
    lines = []
    text = table[(table["measure"] == "perplexity") & (table["split"] != CALIBRATION)]
    for (criterion, split, streams), rows in text[text["streams"] != ""].groupby(
        ["criterion", "split", "streams"], sort=False
    ):
        at = rows.set_index(["method", "granularity"])
        where = f"- **{CRITERIA.get(criterion, criterion)} {streams}**, {say_split(split)}"
        if (streams, "sub-block") not in at.index:
            lines.append(f"{where}: no sub-blocks were run, so there is nothing to compare a matrix with.")
            continue
        half = at.loc[(streams, "sub-block")]
        parts = []
        for method, words in ((streams, "matrices by gradient"), ("ridge", "matrices in closed form")):
            if (method, "matrix") in at.index:
                one = at.loc[(method, "matrix")]
                parts.append(f"{words} {say_value(one)}, {_say_more(one, half)}")
        worse = [part for part in parts if "more" in part]
        verdict = (
            "as the paper claims"
            if len(worse) == len(parts)
            else "against the paper's claim"
            if not worse
            else "in part against the paper's claim"
        )
        lines.append(
            f"{where}: sub-blocks {say_value(half)}; {'; '.join(parts)}: {verdict}."
            if parts
            else f"{where}: no single matrices were run."
        )
    return Finding("\n".join(lines))


@on_tables
def say_cheapest(table: pd.DataFrame, within: float) -> Finding:
    """Per held-out text and price: the cheapest way within `within` percent of the best perplexity, and what the others
    pay.

    `table` is that of `cost_of_units`.
    """
    lines = []
    for (criterion, split, price), rows in table[table["cost"].notna()].groupby(
        ["criterion", "split", "price"], sort=False
    ):
        best = rows.loc[rows["value"].idxmin()]
        near = rows[rows["value"] <= best["value"] * (1 + within / 100)]
        cheap = near.loc[near["cost"].idxmin()]
        most = rows.loc[rows["cost"].idxmax()]
        saved = (
            "which is the best itself"
            if cheap.name == best.name
            else _say_times(best["cost"] / cheap["cost"], "than the best")
        )
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {price}: best {_say_point(best)} at"
            f" {best['cost']:.3g}; cheapest within {within:g} % {_say_point(cheap)} at {cheap['cost']:.3g}, {saved} and"
            f" {_say_times(most['cost'] / cheap['cost'], 'than the dearest')}, {_say_point(most)}."
        )
    return Finding("\n".join(lines))


def _by_unit(table: pd.DataFrame) -> pd.DataFrame:
    """Held-out perplexities of gradient methods by unit."""
    solved = (table["streams"] != "") & (table["method"] != "ridge")
    return table[solved & (table["measure"] == "perplexity") & (table["split"] != CALIBRATION)]


def _flatness(above: pd.Series, within: float) -> str:
    """What units above a matrix, given in percent above the best, say about a flat region."""
    far = above[above > within]
    if far.empty:
        return "; flat over all sizes above a matrix, as the paper claims"
    outside = ", ".join(f"{_say_unit(unit)} {percent:.1f} % above" for unit, percent in far.items())
    most = len(far) < len(above) / 2
    flat = "flat over most sizes above a matrix, as the paper claims of a wide range"
    return f"; {flat if most else 'not flat, against the claim'}; outside: {outside}"


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


def _by_streams(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the bare word in `method`, a column `streams`, and no granularity for a method that has no choice of
    it.
    """
    method = table["method"].str.partition("[")[0]
    without = method.isin(NO_UNIT)
    streams = pd.Series(
        [STREAM_METHODS[pair] for pair in zip(table["student"], table["target"], strict=True)], index=table.index
    )
    return table.assign(
        method=method, streams=streams.mask(without, ""), granularity=table["granularity"].mask(without, "")
    )


def _front(cost: pd.Series, value: pd.Series) -> list[bool]:
    """Which points no other point dominates (at least as cheap and as good, and one of them truly); never those without
    a cost.
    """
    pairs = list(zip(cost, value, strict=True))
    return [c == c and not any((a <= c and b <= v) and (a, b) != (c, v) for a, b in pairs) for c, v in pairs]


def _say_unit(granularity: str) -> str:
    return {"matrix": "matrices", "sub-block": "sub-blocks", "model": "the whole model"}.get(granularity, granularity)


def _say_point(row: pd.Series) -> str:
    method = row["method"] if row["method"] == row["streams"] else f"{row['method']} like {row['streams']}"
    return f"{method} by {_say_unit(row['granularity'])} ({row['value']:.3f})"


def _say_more(one: pd.Series, other: pd.Series) -> str:
    percent = 100 * (one["value"] / other["value"] - 1)
    return f"{percent:.1f} % more" if percent >= 0 else f"{-percent:.1f} % less"


def _say_times(ratio: float, compared: str) -> str:
    return f"{ratio:.2g} times less {compared}" if ratio >= 1 else f"{1 / ratio:.2g} times more {compared}"
