"""Is the error that reconstruction minimises a proxy of perplexity, and for whom? Error at the last block against the
rise of perplexity over many recipes, and what each solver does better or worse than its error foretells. Table, figure
and finding of notebook 08.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.final import HELD_OUT_ERROR, PERPLEXITY, spearman
from analysis.present.finding import Finding, say_half
from analysis.present.panels import category_rows, finish, log_scale, panel_grid, pattern_fills, point_notes
from analysis.present.statistics import LEVEL, compare, decided, holm
from analysis.present.style import CRITERION_LOOKS, OTHERS, in_style, looks, say_criterion, say_method
from analysis.present.tables import on_tables, over_seeds

RECIPE_COLUMNS = ["pattern", "criterion", "method"]
RISE, RESIDUAL = "rise of perplexity", "residual"  # measures of the table beside the error


@on_tables
def proxy(ends: pd.DataFrame) -> pd.DataFrame:
    """Error, rise and residual of every recipe: [measure, pattern, criterion, method, ...].

    Held-out error: relative, at the last block. Rise: of held-out perplexity above the dense model's, in per cent.
    Residual: how many times larger the rise is than the line foretells that log rise follows on log error, fitted by
    least squares over all recipes of a seed; its mean over patterns and criteria is geometric, one row per method with
    pattern and criterion "". Runs with text added are left out, and recipes whose perplexity does not rise under every
    seed. Raises UsageError where a seed has fewer than three of them.
    """
    plain = ends[ends["added_samples"] == 0]
    dense = (
        plain[(plain["which"] == "dense") & (plain["measure"] == PERPLEXITY)]
        .drop_duplicates("run")
        .set_index("run")["value"]
    )
    pruned = plain[plain["which"] == "pruned"]
    wide = pruned[pruned["measure"].isin((HELD_OUT_ERROR, PERPLEXITY))].pivot_table(
        index=["run", *RECIPE_COLUMNS, "seed"], columns="measure", values="value", sort=False
    )
    runs = wide.reset_index()
    runs[RISE] = 100 * (runs[PERPLEXITY] / runs["run"].map(dense) - 1)
    runs = runs[runs.groupby(RECIPE_COLUMNS)[RISE].transform("min") > 0]
    if runs.empty or runs["seed"].value_counts().min() < 3:
        raise UsageError(
            "error as a proxy: a seed has fewer than three recipes whose perplexity rises; give more of them"
        )
    parts = [runs.assign(measure=measure, value=runs[measure]) for measure in (HELD_OUT_ERROR, RISE)]
    table = over_seeds(pd.concat(parts, ignore_index=True), ["measure", *RECIPE_COLUMNS], "value", ratio=True)
    residual = runs.assign(log=np.nan)
    for _, some in runs.groupby("seed"):
        error, rise = np.log(some[HELD_OUT_ERROR]), np.log(some[RISE])
        slope, start = np.polyfit(error, rise, 1)
        residual.loc[some.index, "log"] = rise - (start + slope * error)
    means = residual.groupby(["method", "seed"], sort=False)["log"].mean().map(np.exp).rename("value").reset_index()
    means = means.assign(measure=RESIDUAL, pattern="", criterion="")
    solvers = over_seeds(means, ["measure", *RECIPE_COLUMNS], "value", ratio=True)
    return pd.concat([table, solvers], ignore_index=True)


@on_tables
def plot_proxy(table: pd.DataFrame) -> Figure:
    """Left: rise of perplexity against held-out error, a point per recipe (colour by method, shape by criterion,
    filling by pattern), both on log scales, with the line fitted to all of them. Right: how many times larger each
    method's rise is than that line foretells, with its interval.

    `table` is that of `proxy`.
    """
    with in_style():
        points, solvers = _points(table), table[table["measure"] == RESIDUAL].sort_values("value", ignore_index=True)
        method_looks = looks(points["method"])
        fills = pattern_fills(points["pattern"])
        fig, panels = panel_grid(
            pd.DataFrame({"row": [""] * 2, "x": ["points", "solvers"]}),
            "row",
            "x",
            height=3.2,
            sharey=False,
            sharex=False,
        )
        left, right = panels["", "points"], panels["", "solvers"]
        for row in points.itertuples():
            look = method_looks[row.method]
            left.plot(
                [row.error],
                [row.rise],
                color=look.color,
                marker=CRITERION_LOOKS.get(row.criterion, OTHERS[0]).marker,
                fillstyle=fills[row.pattern],
                markerfacecoloralt="white",
                markersize=5.5,
                linestyle="",
                zorder=3,
                gid=f"recipe {row.criterion} {row.pattern} {row.method}",
            )
        slope, start = np.polyfit(np.log(points["error"]), np.log(points["rise"]), 1)
        ends = np.array([points["error"].min(), points["error"].max()])
        left.plot(
            ends, np.exp(start) * ends**slope, color="#777777", linewidth=1, linestyle=(0, (5, 3)), zorder=2, gid="line"
        )
        log_scale([left], "x")
        log_scale([left], "y")
        left.set(xlabel="held-out relative error at the last block", ylabel="perplexity above the dense model's, %")
        left.set_title(f"ρ = {spearman(points['error'], points['rise']):.2f} (n = {len(points)} recipes)", fontsize=8.5)
        right.axvline(1, color="#777777", linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        for place, row in solvers.iterrows():
            look = method_looks[row["method"]]
            right.plot(
                [row["value"]],
                [place],
                color=look.color,
                marker="o",
                linestyle="",
                zorder=3,
                gid=f"method {row['method']}",
            )
            if row["low"] == row["low"]:
                right.hlines(place, row["low"], row["high"], color=look.color, linewidth=1.2, alpha=0.7, zorder=2)
        category_rows(right, [say_method(name) for name in solvers["method"]])
        log_scale([right], "x")
        right.set_xlabel("rise of perplexity, times what the line\nforetells from the error (1: as foretold)")
        right.set_title("worse than its error: right of 1", fontsize=8.5)
        notes = point_notes(method_looks, points["criterion"], fills)
        finish(fig, {}, notes)
    return fig


@on_tables
def say_proxy(table: pd.DataFrame, most: int) -> Finding:
    """Rank correlation of error and rise over all recipes and within each pattern; which methods' perplexity rises more
    or less than their error foretells; and how many pairs of one mask have the lower error and yet the higher
    perplexity, with the `most` clearest of those whose two differences have p below 0.05.

    `table` is that of `proxy`. p values are corrected for all methods, or all pairs, of the table (Holm).
    """
    points, solvers = _points(table), table[table["measure"] == RESIDUAL]
    patterns = {"all": points} | dict(tuple(points.groupby("pattern", sort=False)))
    ranks = ", ".join(
        f"{name} {spearman(some['error'], some['rise']):.2f} (n = {len(some)})" for name, some in patterns.items()
    )
    lines = [f"- Rank correlation of held-out error with the rise of perplexity: {ranks}."]
    one = pd.Series(1.0, [name for name in solvers.columns if name.startswith("seed ")])
    corrected = holm([compare(row, one, ratio=True).p for _, row in solvers.iterrows()])
    for (_, row), p in zip(solvers.iterrows(), corrected, strict=True):
        verdict = ("more" if row["value"] > 1 else "less") + " than its error foretells" if decided(p) else "undecided"
        lines.append(f"- **{say_method(row['method'])}**: {row['value']:.2f}{say_half(row, '.2f')} times ({verdict}).")
    return Finding("\n".join([*lines, _contradictions(table, most)]))


def _contradictions(table: pd.DataFrame, most: int) -> str:
    """How many pairs of methods on one mask have error and perplexity in opposite orders, and the clearest."""
    rows = table[table["measure"] != RESIDUAL].set_index(["pattern", "criterion", "method", "measure"])
    pairs = []
    for (pattern, criterion), some in table[table["measure"] == RISE].groupby(["pattern", "criterion"], sort=False):
        methods = list(some["method"])
        for place, first in enumerate(methods):
            for second in methods[place + 1 :]:
                pair = [
                    compare(*(rows.loc[(pattern, criterion, name, measure)] for name in (first, second)), ratio=True)
                    for measure in (HELD_OUT_ERROR, RISE)
                ]
                pairs.append((pattern, criterion, first, second, *pair))
    corrected = holm([float(np.maximum(error.p, rise.p)) for *_, error, rise in pairs])
    opposed = [
        (
            float(np.maximum(error.p, rise.p)),
            p,
            pattern,
            criterion,
            *((one, other) if error.difference < 0 else (other, one)),
        )
        for (pattern, criterion, one, other, error, rise), p in zip(pairs, corrected, strict=True)
        if error.difference * rise.difference < 0
    ]
    clear = sorted(pair for pair in opposed if decided(pair[0]))
    said = "; ".join(
        f"{say_criterion(criterion)} {pattern}, {say_method(lower)} against {say_method(higher)}"
        for *_, pattern, criterion, lower, higher in clear[:most]
    )
    return (
        f"- Of {len(pairs)} pairs of methods on a mask, {len(opposed)} have the lower error and the higher perplexity;"
        f" both differences have p < {LEVEL:g} in {len(clear)}, after Holm's correction in"
        f" {sum(decided(p) for _, p, *_ in opposed)}{f' (lower error first: {said})' if said else ''}."
    )


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """A row per recipe: [pattern, criterion, method, error, rise]."""
    wide = table[table["measure"] != RESIDUAL].pivot_table(
        index=RECIPE_COLUMNS, columns="measure", values="value", sort=False
    )
    return wide.rename(columns={HELD_OUT_ERROR: "error", RISE: "rise"}).reset_index()
