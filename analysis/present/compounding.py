"""How errors grow from block to block, and what they are made of. Table, figure and findings of notebook 01."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from analysis.present.finding import Finding, say_number
from analysis.present.panels import (
    RELATIVE_ERROR,
    draw_lines,
    finish,
    handle,
    label_axes,
    log_scale,
    panel_grid,
    plain_axis,
    say,
)
from analysis.present.paper import MODELS, RESULTS
from analysis.present.style import Look, in_style, looks, say_criterion, say_method, say_split
from analysis.present.tables import TO_LR, choose, on_tables, over_seeds
from analysis.schema import CALIBRATION

HERE = "here"
INHERITING = ("inherited", "cross")
ABSENT: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 7, "color": "#777777"}


@on_tables
def block_profile(blocks: pd.DataFrame, *, kind="total", criterion=None, split=None) -> pd.DataFrame:
    """Relative error at every block's output: [pattern, criterion, split, kind, method, block, ...].

    The error is the mean squared difference over the mean square of the dense output: `total` between dense and sparse
    stream, `inherited` between a dense block's outputs on both, `local` between pruned and dense block on the sparse
    stream, `cross` what is left of the total, which may lie below zero. The first block inherits nothing; its zeros
    have no place on a log scale and are left out.
    """
    rows = choose(blocks, kind=kind, criterion=criterion, split=split)
    rows = rows[~rows["kind"].isin(INHERITING) | (rows["block"] > 0)]
    key = ["pattern", "criterion", "split", "kind", "method", "block"]
    signed = rows["kind"] == "cross"
    parts = [
        over_seeds(some, key, "relative_error", paired=TO_LR, ratio=ratio)
        for some, ratio in ((rows[~signed], True), (rows[signed], False))
        if len(some) or rows.empty
    ]
    return pd.concat(parts, ignore_index=True)


@on_tables
def with_paper(profile: pd.DataFrame) -> pd.DataFrame:
    """`profile` with the papers' last errors: rows of `source` OPT-125M and LLaMA-7B (tables 1 and 3 of 2406.15524),
    where it has the calibration error of LR for a criterion of theirs at 50 %.

    Only ratios compare, so each is the paper's error over its LR's, times the LR error here.
    """
    ours = profile[(profile["kind"] == "total") & (profile["split"] == CALIBRATION) & (profile["pattern"] == "50%")]
    first = ours[(ours["method"] == "LR") & (ours["block"] == ours["block"].max())]
    rows = RESULTS.assign(ratio=_to_first(RESULTS, "error", ["model", "criterion"])).merge(
        first[["pattern", "criterion", "split", "kind", "block", "value"]], on="criterion"
    )
    rows = rows[rows["method"].isin(ours["method"]) & (rows["method"] != "LR")]
    ghosts = rows.assign(value=rows["value"] * rows["ratio"], seeds=1, paired="", source=rows["model"])
    shown = [name for name in [*profile.columns, "source"] if name in ghosts]
    return pd.concat([profile.assign(source=HERE), ghosts[shown]], ignore_index=True)


@on_tables
def plot_block_profile(table: pd.DataFrame, *, rows: str = "split", columns: str = "criterion") -> Figure:
    """Relative error at every block's output, one line per method, log scale: how error compounds with depth.

    `table` is that of `block_profile`, or of `with_paper`, whose papers' errors are hollow marks right of the last
    block; `rows` and `columns` name the columns (split, criterion or kind) that its panels tell apart. Panels of the
    cross term are linear, on a scale of their own. Paper: figures 3, 5 and 6 of 2406.15524, there without the division
    by the dense output's mean square.
    """
    sources = [name for name in MODELS if "source" in table and name in set(table["source"])]
    first, last = table["block"].min(), table["block"].max()
    gap = max(1, (last - first) / 12)  # from the last block to the papers' marks, and between these
    ticks = [at for at in MaxNLocator(integer=True, nbins=7).tick_values(first, last) if first <= at <= last]
    with in_style():
        fig, panels = panel_grid(table, rows, columns, height=1.75, sharey=False)
        styles = looks(table["method"])
        drawn: dict[str, list[Axes]] = {"log": [], "signed": []}
        for (row, column), ax in panels.items():
            some = table[(table[rows] == row) & (table[columns] == column)]
            ghosts = some[some["source"].isin(sources)] if sources else some.iloc[:0]
            draw_lines(ax, some.drop(ghosts.index), "block", styles)
            ax.xaxis.set_major_locator(FixedLocator(ticks))
            ax.set_xlim(first - 0.4, last + (gap * (0.9 + 0.7 * len(sources)) if sources else 0.4))
            if first == 0 and some["kind"].isin(INHERITING).all():
                ax.text(0, 0.5, "no block before", transform=ax.get_xaxis_transform(), **ABSENT)
            drawn["signed" if (some["kind"] == "cross").all() else "log"].append(ax)
            for place, source in enumerate(sources):
                _draw_ghosts(ax, ghosts[ghosts["source"] == source], last + gap * (0.9 + 0.7 * place), source, styles)
        _share_scales(drawn["log"], drawn["signed"], len(table[columns].unique()))
        label_axes(panels, "block", {row: say(rows, row) for row in table[rows].unique()})
        fig.supylabel(RELATIVE_ERROR, fontsize=9)
        notes = [handle(Look("#555555", "o", ""), "the paper, over its LR", markerfacecolor="white")] if sources else []
        finish(fig, styles, notes)
    return fig


def _draw_ghosts(ax: Axes, rows: pd.DataFrame, x: float, source: str, styles: dict[str, Look]) -> None:
    """The errors of one of the paper's models as hollow marks at `x`, its name above them."""
    for method in looks(rows["method"]):
        value, look = rows.loc[rows["method"] == method, "value"], styles[method]
        ax.plot(
            [x] * len(value),
            value,
            color=look.color,
            marker=look.marker,
            markerfacecolor="white",
            linestyle="",
            zorder=3,
            gid=f"paper {source} {method}",
        )
    if len(rows):
        ax.text(x, 1, source, transform=ax.get_xaxis_transform(), **ABSENT | {"va": "top", "fontsize": 6.5})


def _share_scales(logs: list[Axes], signed: list[Axes], columns: int) -> None:
    """One log scale, numbers at the first column; one linear scale for what may lie below zero, numbers on the
    right.
    """
    for group in (logs, signed):
        for ax in group[1:]:
            ax.sharey(group[0])
        if group:
            group[0].autoscale_view()
    if logs:
        log_scale(logs)
    for place, ax in enumerate(logs):
        ax.tick_params(labelleft=place % max(columns - bool(signed), 1) == 0)
    for ax in signed:
        ax.axhline(0, color="#333333", linewidth=0.8, zorder=1)
        ax.yaxis.tick_right()
        ax.tick_params(right=False)
        plain_axis(ax.yaxis)


@on_tables
def growth(blocks: pd.DataFrame, *, criterion=None) -> pd.DataFrame:
    """The total error at the last block over that at the first, within a run: [criterion, split, method, value,
    ...].
    """
    rows = choose(blocks, kind="total", criterion=criterion).sort_values("block")
    ends = rows.groupby(["run", "criterion", "split", "method", "seed"], sort=False)["relative_error"].agg(
        ["first", "last"]
    )
    ratio = (ends["last"] / ends["first"]).rename("ratio").reset_index()
    return over_seeds(ratio, ["criterion", "split", "method"], "ratio")


@on_tables
def say_growth(table: pd.DataFrame) -> Finding:
    """Per text: by what factor the error changes from the first block to the last for each method, lowest and highest
    of the criteria, and which methods let it grow under every criterion. `table` is that of `growth`.
    """
    lines = []
    for split, rows in table.groupby("split", sort=False):
        said, grows = [], []
        for method, some in rows.groupby("method", sort=False):
            ends = [say_number(value, 2) for value in (some["value"].min(), some["value"].max())]
            said.append(f"{say_method(method)} {' to '.join(dict.fromkeys(ends))}")
            certain = some["low"].where(some["seeds"] > 1, some["value"])
            grows += [say_method(method)] if (certain > 1).all() else []
        verdict = f"it grows with {', '.join(grows)}" if grows else "with no method does it grow under every criterion"
        lines.append(
            f"- **{say_split(split)}**: the last block's error over the first's: {', '.join(said)}; {verdict}."
        )
    return Finding("\n".join(lines))


@on_tables
def beside_results(error: pd.DataFrame, perplexity: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """Final calibration error and perplexity on `split` as ratios to LR, ours beside tables 1 and 3 of 2406.15524.

    `error` and `perplexity` are those of `tables.last_block` and `tables.perplexities` for one number of windows. The
    paper's perplexity is WikiText-2's; `split` None is the first held-out text. Rows (criterion, method), columns
    (measure, model); below 1 means better than LR.
    """
    key = ["criterion", "method"]
    parts = {}
    split = split or next(name for name in perplexity["split"] if name != CALIBRATION)
    tables = {
        "error": error[error["split"] == CALIBRATION],
        "perplexity": perplexity[(perplexity["split"] == split) & (perplexity["method"] != "dense")],
    }
    for measure, column in {"error": "error", "perplexity": "wikitext2"}.items():
        rows = tables[measure]
        parts[f"{measure} / LR", "here"] = rows.assign(ratio=_to_first(rows, "value")).set_index(key)["ratio"]
        for model in MODELS:
            paper = RESULTS[RESULTS["model"] == model]
            parts[f"{measure} / LR", model] = paper.assign(ratio=_to_first(paper, column)).set_index(key)["ratio"]
    return pd.DataFrame(parts).reindex(parts["error / LR", "here"].index).round(3)


@on_tables
def say_order(error: pd.DataFrame) -> Finding:
    """One sentence per criterion and split: the errors at the last block, and whether each method improves on the one
    before.
    """
    lines = []
    for (criterion, split), rows in error.groupby(["criterion", "split"], sort=False):
        rows = rows.set_index("method")["value"].reindex(list(looks(rows["method"])))
        path = " → ".join(f"{say_number(value)} ({method})" for method, value in rows.items())
        worse = [method for method, step in rows.diff().items() if step > 0]
        change = 100 * (1 - rows.iloc[-1] / rows.iloc[0])
        verdict = f"not lower than the one before: {', '.join(worse)}" if worse else "each method lowers it"
        lines.append(
            f"- **{say_criterion(criterion)}**, {say_split(split)}: {path}; {_less(change)} in all, {verdict}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_parts(profile: pd.DataFrame, split: str = CALIBRATION) -> Finding:
    """How the last block's total error compares with its inherited and its local part, and with the first block's, per
    method.
    """
    lines = []
    profile = profile[profile["split"] == split]
    for (criterion, method), rows in profile.groupby(["criterion", "method"], sort=False):
        total = rows[rows["kind"] == "total"].set_index("block")["value"]
        last = rows[rows["block"] == rows["block"].max()].set_index("kind")["value"]
        lines.append(
            f"- **{say_criterion(criterion)} {method}**, {say_split(split)}: the total error at the last"
            f" block is {say_number(total.iloc[-1] / total.iloc[0], 2)} times that at the first; there the inherited"
            f" part alone is {last['inherited'] / last['total']:.0%} of the total and the local part"
            f" {last['local'] / last['total']:.0%}."
        )
    return Finding("\n".join(lines))


def _to_first(table: pd.DataFrame, value: str, by: Sequence[str] = ("criterion",), method: str = "LR") -> pd.Series:
    """`value` of every row divided by that of `method` in the same criterion; NaN where that method was not run."""
    keys = list(by)
    first = table[table["method"] == method].set_index(keys)[value]
    return (
        table[value]
        / first.reindex(pd.MultiIndex.from_frame(table[keys]) if len(keys) > 1 else table[keys[0]]).to_numpy()
    )


def _less(percent: float) -> str:
    return f"{percent:.0f} % less" if percent >= 0 else f"{-percent:.0f} % more"
