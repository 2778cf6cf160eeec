"""Whether it matters which heads and neurons of an encoder go, once the others are repaired. Tables, figures and
findings of notebook 09.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.present.encoder_runs import (
    TASK,
    held_out_scores,
    in_order,
    repair_handles,
    repair_looks,
    say_kind,
    say_repair,
    task_titles,
)
from analysis.present.finding import Finding
from analysis.present.panels import category_rows, finish, handle, panel_grid
from analysis.present.statistics import decided, holm, paired, seed_columns
from analysis.present.style import METHOD_LOOKS, Look, in_style, say_criterion
from analysis.present.tables import on_tables, over_seeds

COLORS = "YlOrBr"
SCALE = {"#FFF7BC": "few points of 100 lost", "#993404": "many"}
LIGHT = 0.62  # share of the scale from which numbers on it are white
GUESS = Look("#777777", "", (0, (5, 3)))


@on_tables
def lost(scores: pd.DataFrame, chance: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Points of a hundred that the held-out score lies below the dense model's on the same examples: [task, metric,
    pattern, criterion, method, value, ..., guessing].

    guessing: the points that guessing would lose, NaN where it is not known. chance: {calibration source: score of
    guessing}. Raises UsageError where no run was scored on held-out examples.
    """
    rows = held_out_scores(scores)
    guessed = rows["calibration"].map(dict(chance or {})).astype(float)
    rows = rows.assign(lost=100 * (rows["dense"] - rows["score"]), guessing=100 * (rows["dense"] - guessed))
    by = [*TASK, "pattern", "criterion", "method"]
    means = rows.groupby(by, sort=False)["guessing"].mean()
    return in_order(over_seeds(rows, by, "lost").join(means, on=by), rows)


@on_tables
def plot_crossed(table: pd.DataFrame) -> Figure:
    """Points lost by every criterion (down) with every repair (across), as numbers on a heat map.

    `table` is that of `lost`; one column of panels per pattern, one row per task. In brackets: no better than guessing.
    """
    with in_style():
        styles, names = repair_looks(table["method"]), list(dict.fromkeys(table["criterion"]))
        fig, panels = panel_grid(table, "task", "pattern", height=0.26 * len(names) + 1.3, sharey=True)
        top = max(1.0, table["value"].max())
        places = 1 if top < 10 else 0
        for (task, pattern), ax in panels.items():
            rows = table[(table["task"] == task) & (table["pattern"] == pattern)]
            cells = rows.pivot(index="criterion", columns="method", values="value").reindex(names)[list(styles)]
            drawn = ax.pcolormesh(
                np.ma.masked_invalid(cells.to_numpy()), cmap=COLORS, vmin=0, vmax=top, edgecolors="white", linewidth=1
            )
            drawn.set_gid(f"lost {task} {pattern}")
            for row in rows.itertuples():
                guessed = row.value >= row.guessing
                ax.text(
                    list(styles).index(row.method) + 0.5,
                    names.index(row.criterion) + 0.5,
                    f"({row.value:.{places}f})" if guessed else f"{row.value:.{places}f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if row.value > LIGHT * top else "black",
                )
            words = [say_repair(name) for name in styles]
            ax.set_xticks(np.arange(len(styles)) + 0.5, words, rotation=35, ha="right", rotation_mode="anchor")
            ax.set_yticks(np.arange(len(names)) + 0.5, [say_criterion(name) for name in names])
            ax.set(xlim=(0, len(styles)), ylim=(len(names), 0))
            ax.tick_params(length=0)
            ax.grid(visible=False)
            ax.set_title(f"{task}: {_say_pattern(pattern)}")
        scale = [handle(Look(color, "s", ""), word, markersize=8) for color, word in SCALE.items()]
        finish(fig, {}, [*scale, handle(Look("none", "", ""), "(in brackets: no better than guessing)")])
    return fig


@on_tables
def plot_lost(table: pd.DataFrame) -> Figure:
    """Points lost by every criterion, one row each, a point with its interval for each repair; one column of panels per
    task, one row per pattern. `table` is that of `lost`. Dotted: the dense model; dashed: guessing.
    """
    with in_style():
        styles, names = repair_looks(table["method"]), list(dict.fromkeys(table["criterion"]))
        fig, panels = panel_grid(table, "pattern", "task", height=0.42 * len(names) + 0.5, sharey=True)
        for (pattern, task), ax in panels.items():
            rows = table[(table["pattern"] == pattern) & (table["task"] == task)]
            for place, (method, look) in enumerate(styles.items()):
                some = rows[rows["method"] == method]
                y = some["criterion"].map(names.index) + 0.14 * (place - (len(styles) - 1) / 2)
                ax.plot(
                    some["value"],
                    y,
                    color=look.color,
                    marker=look.marker,
                    linestyle="",
                    zorder=3,
                    gid=f"method {method}",
                )
                ax.hlines(y, some["low"], some["high"], color=look.color, linewidth=1, alpha=0.6, zorder=2)
            dense, guessing = METHOD_LOOKS["dense"], rows["guessing"].mean()
            ax.axvline(0, color=dense.color, linestyle=dense.line, linewidth=1.2, zorder=1, gid="dense")
            if guessing == guessing:
                ax.axvline(guessing, color=GUESS.color, linestyle=GUESS.line, linewidth=1.2, zorder=1, gid="chance")
            category_rows(ax, [say_criterion(name) for name in names])
            ax.set_xlabel("points of 100 lost")
            ax.grid(axis="x")
        task_titles(panels, table)
        for (pattern, task), ax in panels.items():
            if task == table["task"].iloc[0]:
                ax.set_ylabel(_say_pattern(pattern))
        levels = [handle(METHOD_LOOKS["dense"], "dense")]
        if table["guessing"].notna().any():
            levels.append(handle(GUESS, "guessing"))
        finish(fig, {}, [*repair_handles(styles, linestyle=""), *levels])
    return fig


@on_tables
def say_crossed(table: pd.DataFrame) -> Finding:
    """Per task and pattern: the points between the best and the worst criterion with each repair.

    `table` is that of `lost` for several criteria.
    """
    lines = []
    for (task, pattern), rows in table.groupby(["task", "pattern"], sort=False):
        gaps = rows.groupby("method", sort=False)["value"].agg(lambda points: points.max() - points.min())
        parts = ", ".join(f"{say_repair(method)} {gap:.1f}" for method, gap in gaps.items())
        lines.append(f"- **{task}, {_say_pattern(pattern)}**: {parts}.")
    return Finding("\n".join(lines))


@on_tables
def say_lost(table: pd.DataFrame) -> Finding:
    """Per task and repair: the best and the worst criterion and the points between them; and whether repairing closes
    the gap (that between the worst and the best of a seed that all have, paired t, Holm's correction over the repairs).
    """
    lines = []
    for (task, pattern), rows in table.groupby(["task", "pattern"], sort=False):
        gaps, parts = {}, []
        for method, some in rows.groupby("method", sort=False):
            best, worst = some.loc[some["value"].idxmin()], some.loc[some["value"].idxmax()]
            seeds = some[seed_columns(some)]
            gaps[method] = seeds.max(skipna=False) - seeds.min(skipna=False)
            one, other = (f"{say_criterion(row['criterion'])} {row['value']:.1f}" for row in (best, worst))
            parts.append(f"{say_repair(method)}: {one} to {other}, {worst['value'] - best['value']:.1f} apart")
        verdict = ""
        if "LR" in gaps and len(gaps) > 1:
            found = {method: paired(gap, gaps["LR"]) for method, gap in gaps.items() if method != "LR"}
            sure = [decided(p) for p in holm([change.p for change in found.values()])]
            said: dict[str, list[str]] = {}
            for (method, change), ok in zip(found.items(), sure, strict=True):
                way = "closer together" if change.difference < 0 else "farther apart"
                said.setdefault(way if ok else "closer or farther (undecided)", []).append(say_repair(method))
            words = "; ".join(f"{way} with {', '.join(names)}" for way, names in said.items())
            verdict = f" Beside those without repair, criteria lie {words}."
        lines.append(f"- **{task}, {_say_pattern(pattern)}**, points lost: {'; '.join(parts)}.{verdict}")
    return Finding("\n".join(lines))


def _say_pattern(pattern: str) -> str:
    """ "neurons-70%" as "70 % of neurons"; options stay behind it."""
    kind, _, rest = pattern.partition("-")
    share, _, options = rest.partition("%")
    return f"{share} % of {say_kind(kind)}{' ' + options if options else ''}" if rest else pattern
