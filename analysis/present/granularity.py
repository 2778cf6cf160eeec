"""How much to reconstruct at once: quality, memory and operations of every unit. Tables, figures and findings of
notebook 04; its units trained to a plateau are in `convergence.py`.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.present.finding import Finding, say_number, say_ratio, say_value
from analysis.present.panels import (
    MEASURES,
    RELATIVE_ERROR,
    category_axis,
    draw_levels,
    draw_lines,
    draw_points,
    finish,
    label_axes,
    log_scale,
    panel_grid,
    plain_number,
    share_log_scale,
    without_markers,
)
from analysis.present.statistics import compare, decided, holm
from analysis.present.style import (
    LEVELS,
    METHOD_LOOKS,
    Look,
    in_style,
    looks,
    say_criterion,
    say_split,
    short_unit,
    unit_glyph,
    unit_order,
)
from analysis.present.tables import (
    TO_DENSE,
    TO_LR,
    above_dense,
    choose,
    held_out,
    on_tables,
    over_seeds,
    priced,
    with_dense,
)
from analysis.schema import CALIBRATION

# (student, target): the method known for it
STREAM_METHODS = {("sparse", "sparse"): "BR", ("sparse", "dense"): "BR+GP", ("dense", "dense"): "IR"}
NO_UNIT = (*LEVELS, "retrain")  # methods whose unit is not a choice
NO_STREAMS = {"streams": "", "granularity": ""}  # of a method that trains nothing


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
        over_seeds(by_streams(rows), by, value, paired=reference | NO_STREAMS, ratio=True).assign(measure=measure)
        for measure, (rows, value, reference) in parts.items()
    ]
    table = pd.concat(both, ignore_index=True)
    return table[["measure", *table.columns.drop("measure")]]


@on_tables
def cost_of_units(
    perplexity: pd.DataFrame,
    cost: pd.DataFrame,
    steps: pd.DataFrame,
    matrices: pd.DataFrame,
    *,
    criterion=None,
    split=None,
) -> pd.DataFrame:
    """How far held-out perplexity lies above the dense model's, in per cent, beside what the solver took: [criterion,
    split, method, streams, granularity, ..., memory_mib, gflops, seconds].

    Per cents are taken within a run, on the same windows. memory_mib and gflops are counted, so they are the same on
    every machine; seconds are measured. Means over seeds; 0 for LR, which solves nothing.
    """
    by = ["criterion", "split", "method", "streams", "granularity"]
    rows = by_streams(priced(above_dense(held_out(perplexity, criterion, split)), cost))
    rows["gflops"] = rows["run"].map(solver_flops(cost, steps, matrices) / 1e9)
    return over_seeds(rows, by, "above").merge(solver_prices(rows, by), on=by)


@on_tables
def solver_prices(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """What solvers took, means over seeds."""
    prices = {"memory_mib": "solver_memory_mib", "gflops": "gflops", "seconds": "solve_seconds"}
    return rows.groupby(by, sort=False)[list(prices.values())].mean().set_axis(list(prices), axis=1).reset_index()


@on_tables
def solver_flops(cost: pd.DataFrame, steps: pd.DataFrame, matrices: pd.DataFrame) -> pd.Series:
    """Floating-point operations of each run's solver, by run, counted from its tables.

    Gradient steps: 6 for each weight of the trained blocks' matrices and each token that passes them (2 forward, 4
    backward), removed weights included, attention's products of activations left out. Closed forms: 2 columns² a
    token for each matrix's moments, twice that where the target has a stream of its own, and kept³ / 3 for each row's
    factorisation. What prepares targets and advances streams is the same for all units and not counted.
    """
    matrices = matrices.assign(entries=matrices["rows"] * matrices["columns"], row=matrices["kept"] / matrices["rows"])
    entries = matrices.groupby(["run", "block"])["entries"].sum()
    solve = cost[cost["stage"] == "solve"]
    tokens = solve.groupby(["run", "unit"])["tokens"].max()
    flops = pd.Series(0.0, index=pd.unique(cost["run"]))
    for unit in steps.drop_duplicates(["run", "unit"]).itertuples():
        blocks = entries[unit.run].loc[unit.first_block : unit.last_block].sum()
        flops[unit.run] += 6.0 * blocks * tokens[unit.run, unit.unit]
    closed = solve[~solve["run"].isin(set(steps["run"]))]
    seen = closed.groupby("run")["tokens"].max()
    for run, rows in matrices[matrices["run"].isin(set(seen.index))].groupby("run"):
        moments = 2 if rows["student"].iloc[0] == rows["target"].iloc[0] else 4
        flops[run] = (moments * rows["columns"] ** 2 * seen[run] + rows["rows"] * rows["row"] ** 3 / 3).sum()
    return flops


@on_tables
def units_side_by_side(prices: pd.DataFrame) -> pd.DataFrame:
    """`cost_of_units` for reading: rows (method, streams, unit), columns per cent above the dense model per held-out
    text and what the solver took.
    """
    key = ["criterion", "method", "streams", "granularity"]
    solved = prices[~prices["method"].isin(LEVELS)]
    text = solved.pivot_table(index=key, columns="split", values="value", sort=False, observed=True)
    paid = solved.groupby(key, sort=False, observed=True)[["memory_mib", "gflops", "seconds"]].first()
    names = {"memory_mib": "MiB held", "gflops": "GFLOPs counted", "seconds": "seconds measured"}
    words = {split: f"{say_split(split)}, % above dense" for split in text}
    return text.rename(columns=words).round(2).join(paid.rename(columns=names).round(2)).rename_axis(columns=None)


@on_tables
def plot_granularity(table: pd.DataFrame) -> Figure:
    """Perplexity and error at the last block against the unit that was reconstructed, finest first, one line per choice
    of streams.

    `table` is that of `granularity`. Stars: the closed form of each choice at one matrix. LR and the dense
    model, which have no unit, are level lines. The error's log scale is shared by all texts.
    """
    with in_style():
        units = unit_order(table["granularity"])
        places, styles = {unit: place for place, unit in enumerate(units)}, looks(table["method"])
        fig, panels = panel_grid(table, "measure", "split", height=2.2, sharey=False)
        for (measure, split), ax in panels.items():
            panel_rows = table[(table["measure"] == measure) & (table["split"] == split)]
            panel_rows = panel_rows.assign(place=panel_rows["granularity"].map(places))
            draw_levels(ax, panel_rows[panel_rows["method"].isin(LEVELS)], (-0.5, len(units) - 0.5), styles)
            draw_lines(ax, panel_rows[~panel_rows["method"].isin((*LEVELS, "ridge"))], "place", styles)
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
    """How far perplexity lies above the dense model's against the memory the solver holds, one line per choice of
    streams through its units, whose names stand above.

    `table` is that of `cost_of_units`; one panel per held-out text. Stars: the closed form of each choice. LR, which
    solves nothing, is a level line.
    """
    with in_style():
        solved = table[~table["method"].isin(LEVELS)]
        fig, panels = panel_grid(solved.assign(price="memory"), "split", "price", height=3.0, sharey=False)
        for (split, _), ax in panels.items():
            rows = solved[solved["split"] == split]
            lines, closed = rows[rows["method"] != "ridge"], rows[rows["method"] == "ridge"]
            for streams, points in lines.groupby("streams", sort=False):
                look = METHOD_LOOKS[streams]
                draw_points(
                    ax, points["memory_mib"], points, color=look.color, marker=look.marker, gid=f"method {streams}"
                )
                ax.plot(points["memory_mib"], points["value"], color=look.color, linestyle=look.line, zorder=3)
            for row in closed.groupby("streams", sort=False):
                color = METHOD_LOOKS[row[0]].color
                draw_points(
                    ax, row[1]["memory_mib"], row[1], color=color, marker="*", size=9, hollow=True, gid="method ridge"
                )
            ax.set_title("")
            log_scale([ax], "x")
            low, high = ax.get_xlim()
            draw_levels(ax, table[(table["split"] == split) & (table["method"] == "LR")], (low, high), looks(["LR"]))
            ax.set_xlim(low, high)
            ax.set_ylim(bottom=0)
            at = lines.groupby("granularity", sort=False)["memory_mib"].mean()
            above = ax.secondary_xaxis("top")
            above.set_xticks(list(at), [unit_glyph(unit) for unit in at.index])
            above.tick_params(length=0)
            above.spines["top"].set_visible(False)
            above.minorticks_off()
            above.set_xlabel("reconstructed at once: one matrix (m), half a block, blocks, all of them", fontsize=8)
        label_axes(
            panels,
            "MiB the solver holds: weights, gradients, moments, activations, inputs and targets (counted)",
            {split: f"perplexity, % above dense\n{say_split(split)}" for split in solved["split"].unique()},
        )
        finish(fig, *_stream_legend(table))
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
        near = [say_unit(unit) for unit in rows.loc[above <= within, "granularity"]]
        coarse = above[rows["granularity"] != "matrix"]
        sizes = coarse.set_axis(rows.loc[coarse.index, "granularity"])
        flatness = _flatness(sizes, within) if len(coarse) > 1 else ""
        lines.append(
            f"- **{say_criterion(criterion)} {streams}**, {say_split(split)}: lowest with"
            f" {say_unit(best['granularity'])} ({say_value(best)}); "
            f"within {within:g} %:"
            f" {', '.join(near)}{flatness}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_matrix(table: pd.DataFrame) -> Finding:
    """Per held-out text and choice of streams: one matrix at once against one sub-block at once, by gradient and in
    closed form (perplexities paired within seeds, Holm's correction over the table).

    2510.14444 (v3) claims that reconstructing single matrices is consistently worse.
    """
    text = table[(table["measure"] == "perplexity") & (table["split"] != CALIBRATION) & (table["streams"] != "")]
    at = text.set_index(["criterion", "split", "streams", "method", "granularity"])
    cases = {
        (place, words): (at.loc[(*place, method, "matrix")], at.loc[(*place, place[2], "sub-block")])
        for place in dict.fromkeys(key[:3] for key in at.index)
        for method, words in ((place[2], "matrices by gradient"), ("ridge", "matrices in closed form"))
        if {(*place, method, "matrix"), (*place, place[2], "sub-block")} <= set(at.index)
    }
    changes = [compare(*pair, ratio=True) for pair in cases.values()]
    sure = dict(zip(cases, map(decided, holm([change.p for change in changes])), strict=True))
    lines = []
    for place in dict.fromkeys(key[:3] for key in at.index):
        criterion, split, streams = place
        where = f"- **{say_criterion(criterion)} {streams}**, {say_split(split)}"
        if (*place, streams, "sub-block") not in at.index:
            lines.append(f"{where}: no sub-blocks were run, so there is nothing to compare a matrix with.")
            continue
        half, parts, ways = at.loc[(*place, streams, "sub-block")], [], set()
        for key in (key for key in cases if key[0] == place):
            one, ok = cases[key][0], sure[key]
            parts.append(f"{key[1]} {say_value(one)}, {_say_more(one, half)}{'' if ok else ' (undecided)'}")
            ways.add(("worse" if one["value"] > half["value"] else "better") if ok else "undecided")
        lines.append(
            f"{where}: sub-blocks {say_value(half)}; {'; '.join(parts)}: {_say_claim(ways)}."
            if parts
            else f"{where}: no single matrices were run."
        )
    return Finding("\n".join(lines))


def _say_claim(ways: set[str]) -> str:
    """What matrices that are worse, better or undecided say of the claim that they are worse."""
    whole = {"worse": "as the paper claims", "better": "against the paper's claim", "undecided": "undecided"}
    if len(ways) == 1:
        return whole[next(iter(ways))]
    return "in part against the paper's claim" if "better" in ways else "in part as the paper claims"


@on_tables
def say_cheapest(table: pd.DataFrame, within: float) -> Finding:
    """Per held-out text: the way that holds least memory within `within` per cent of the best perplexity, and what the
    others hold.

    `table` is that of `cost_of_units`.
    """
    lines = []
    solved = table[~table["method"].isin(LEVELS)]
    for (criterion, split), rows in solved.groupby(["criterion", "split"], sort=False):
        best, most = rows.loc[rows["value"].idxmin()], rows.loc[rows["memory_mib"].idxmax()]
        near = rows[100 + rows["value"] <= (100 + best["value"]) * (1 + within / 100)]
        cheap = near.sort_values(["memory_mib", "value"]).iloc[0]
        saved = (
            "which is the best itself"
            if cheap.name == best.name
            else _say_times(best["memory_mib"] / cheap["memory_mib"], "than the best")
        )
        lines.append(
            f"- **{say_criterion(criterion)}**, {say_split(split)}: best {_say_point(best)} with"
            f" {say_number(best['memory_mib'])} MiB; least memory within {within:g} % {_say_point(cheap)} with"
            f" {say_number(cheap['memory_mib'])} MiB, {saved} and"
            f" {_say_times(most['memory_mib'] / cheap['memory_mib'], 'than the most')}, {_say_point(most)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_proxy(table: pd.DataFrame) -> Finding:
    """Per text: which way has the lowest error at the last block, which the lowest perplexity, and how much more
    perplexity the former has.

    `table` is that of `granularity`. Reconstruction lowers an error; where the two differ, the error is no sure guide.
    """
    lines = []
    solved = table[table["streams"] != ""]
    for (criterion, split), rows in solved.groupby(["criterion", "split"], sort=False):
        measures = {
            measure: part.set_index(["method", "streams", "granularity"])
            for measure, part in rows.groupby("measure", sort=False)
        }
        error, text = measures[RELATIVE_ERROR], measures["perplexity"]
        least, best = error["value"].idxmin(), text["value"].idxmin()
        where = f"- **{say_criterion(criterion)}**, {say_split(split)}"
        if least == best:
            lines.append(f"{where}: {_say_way(best)} has the lowest error and the lowest perplexity.")
            continue
        more = compare(text.loc[least], text.loc[best], ratio=True)
        lines.append(
            f"{where}: the lowest error has {_say_way(least)} ({error.loc[least, 'value']:.4f};"
            f" {_say_way(best)} {error.loc[best, 'value']:.4f}), the lowest perplexity {_say_way(best)};"
            f" the former's perplexity is {say_ratio(more)} higher."
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
    outside = ", ".join(f"{say_unit(unit)} {percent:.1f} % above" for unit, percent in far.items())
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


@on_tables
def by_streams(table: pd.DataFrame) -> pd.DataFrame:
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


def say_unit(granularity: str) -> str:
    return {"matrix": "matrices", "sub-block": "sub-blocks", "model": "the whole model"}.get(granularity, granularity)


def _say_point(row: pd.Series) -> str:
    return f"{_say_way((row['method'], row['streams'], row['granularity']))} ({row['value']:.1f} % above dense)"


def _say_way(way: tuple) -> str:
    """A method, its streams and its unit in words."""
    method, streams, unit = way
    name = "the closed form" if method == "ridge" else method
    return f"{name} by {say_unit(unit)}" if method == streams else f"{name} of {streams} by {say_unit(unit)}"


def _say_more(one: pd.Series, other: pd.Series) -> str:
    percent = 100 * (one["value"] / other["value"] - 1)
    return f"{percent:.1f} % more" if percent >= 0 else f"{-percent:.1f} % less"


def _say_times(ratio: float, compared: str) -> str:
    return (
        f"{say_number(ratio, 2)} times less {compared}"
        if ratio >= 1
        else f"{say_number(1 / ratio, 2)} times more {compared}"
    )
