"""An atlas of masks: how many kept weights two of them share, and how far apart the functions are that they leave.
Table, figure and finding of notebook 05.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.finding import Finding
from analysis.present.panels import category_axis, finish, handle, log_scale, panel_grid
from analysis.present.statistics import decided, paired, seed_columns
from analysis.present.style import CRITERION_LOOKS, OTHERS, Look, in_style, say_criterion
from analysis.present.tables import on_tables, over_seeds

SHARED, APART, REFITTED = "shared", "apart", "apart_refitted"
DENSE, ALL, RANDOM = "dense", "all", "random"
COLORS = "cividis"
REFINED_LOOKS = [Look("#CC79A7", "D", ""), Look("#56B4E9", "P", ""), *OTHERS]


@on_tables
def overlaps(overlap: pd.DataFrame) -> pd.DataFrame:
    """What pairs of masks have in common, in per cent, mean over blocks: [pattern, measure, matrix, mask, other, value,
    ...].

    measure: shared (kept weights of both over those of either), apart (squared difference of the matrix's outputs over
    the mean square of the dense ones), apart_refitted (the same, kept weights refitted by least squares). matrix: its
    name within the block, or "all", their mean. other: another mask, or "dense". Raises UsageError where no run
    compared masks.
    """
    if overlap.empty:
        raise UsageError("mask atlas: no run compared masks; give grid compared=RECIPES")
    keys = ["pattern", "seed", "matrix", "mask", "other"]
    long = overlap.melt(id_vars=keys, value_vars=[SHARED, APART, REFITTED], var_name="measure", value_name="per_cent")
    long = pd.concat([long.assign(matrix=ALL), long.assign(matrix=long["matrix"].str.rpartition(".")[2])])
    means = (100 * long.groupby(["measure", *keys], sort=False)["per_cent"].mean()).reset_index()
    return over_seeds(means, ["pattern", "measure", "matrix", "mask", "other"], "per_cent")


@on_tables
def plot_atlas(table: pd.DataFrame, *, beside: str = "wanda") -> Figure:
    """Above, every pair of masks: kept weights in common, and how far apart the functions are, below the diagonal with
    the masks alone, above it refitted. Below, the same matrix by matrix for one mask against each other one.

    `table` is that of `overlaps` for one pattern. Raises UsageError for a mask `beside` that is not in it.
    """
    masks = _masks(table)
    if beside not in masks:
        raise UsageError(f"mask atlas: no mask {beside!r} in the table; it has {', '.join(masks)}")
    with in_style():
        places = pd.DataFrame({"row": ["pairs", "pairs", "matrices", "matrices"], "column": [SHARED, APART] * 2})
        fig, panels = panel_grid(places, "row", "column", height=3.0, sharey=False, sharex=False)
        whole = table[table["matrix"] == ALL]
        pairs = {measure: _pairs(whole, measure, [DENSE, *masks]) for measure in (SHARED, APART, REFITTED)}
        inside = np.tril(np.ones((len(masks),) * 2, dtype=bool), -1)
        shared = np.where(inside, pairs[SHARED][1:, 1:], np.nan)
        _draw_heat(panels["pairs", SHARED], shared, masks, Normalize(0, 100))
        both = np.where(np.tri(len(masks) + 1, k=-1, dtype=bool), pairs[APART], pairs[REFITTED])
        np.fill_diagonal(both, np.nan)
        _draw_heat(panels["pairs", APART], both, [DENSE, *masks], LogNorm(np.nanmin(both), np.nanmax(both)))
        panels["pairs", SHARED].set_title("kept weights in common, %\n(of those that either keeps)")
        panels["pairs", APART].set_title("outputs apart, % of mean square:\nbelow as they are, above refitted")
        others = [name for name in masks if name != beside]
        styles = _looks(others)
        kinds = [name for name in dict.fromkeys(table["matrix"]) if name != ALL]
        for measure, hollow in ((SHARED, False), (APART, True), (REFITTED, False)):
            ax = panels["matrices", SHARED if measure == SHARED else APART]
            for place, (name, look) in enumerate(styles.items()):
                rows = _against(table[table["measure"] == measure], beside, name).set_index("matrix").loc[kinds]
                x = np.arange(len(kinds)) + 0.11 * (place - (len(styles) - 1) / 2)
                face = "white" if hollow else look.color
                gid = f"{measure} {name}"
                ax.plot(
                    x, rows["value"], color=look.color, marker=look.marker, markerfacecolor=face, linestyle="", gid=gid
                )
                ax.vlines(x, rows["low"], rows["high"], color=look.color, linewidth=1, alpha=0.5)
            category_axis(ax, kinds, rotation=35)
        panels["matrices", SHARED].set_ylim(0, 105)
        panels["matrices", SHARED].set_ylabel(f"in common with {_say(beside)}, %")
        panels["matrices", APART].set_ylabel(f"apart from {_say(beside)}, %")
        log_scale([panels["matrices", APART]])
        grey = Look("#4D4D4D", "o", "")
        notes = [handle(grey, "as they are", markerfacecolor="white"), handle(grey, "refitted")]
        finish(fig, {}, [*(handle(look, _say(name), linestyle="") for name, look in styles.items()), *notes])
    return fig


def _draw_heat(ax: Axes, values: np.ndarray, names: Sequence[str], norm: Normalize) -> None:
    """Numbers on their colours; NaN is left white."""
    drawn = ax.pcolormesh(np.ma.masked_invalid(values), cmap=COLORS, norm=norm, edgecolors="white", linewidth=1)
    drawn.set_gid("pairs")
    for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
        color = "black" if norm(values[i, j]) > 0.55 else "white"
        word = f"{values[i, j]:.0f}" if values[i, j] >= 9.5 else f"{values[i, j]:.1f}"
        ax.text(j + 0.5, i + 0.5, word, ha="center", va="center", fontsize=7.5, color=color)
    words, places = [_say(name) for name in names], np.arange(len(names)) + 0.5
    ax.set_xticks(places, words, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, words)
    ax.set(xlim=(0, len(names)), ylim=(len(names), 0))
    ax.tick_params(length=0)
    ax.grid(visible=False)


@on_tables
def say_atlas(table: pd.DataFrame) -> Finding:
    """Per pattern: how much masks share and how far apart their functions are, beside how far they are from the dense
    matrix, before and after refitting. Random masks are named apart, as what chance gives.
    """
    lines = []
    for pattern, rows in table[table["matrix"] == ALL].groupby("pattern", sort=False):
        rows = rows.assign(chance=(rows["mask"] == RANDOM) | (rows["other"] == RANDOM), dense=rows["other"] == DENSE)
        chosen = rows[~rows["chance"]]
        between = chosen[~chosen["dense"]].groupby("measure")["value"]
        away = chosen[chosen["dense"]].groupby("measure")["value"].mean()
        low, high = between.min(), between.max()
        chance = rows[rows["chance"] & ~rows["dense"] & (rows["measure"] == SHARED)]["value"]
        random = f" (a random mask shares {chance.mean():.0f} % with any)" if len(chance) else ""
        ratio = _proportion(chosen)
        change = paired(ratio[REFITTED], ratio[APART], ratio=True)
        way = "closer to" if change.difference < 0 else "farther from"
        verdict = (
            f"repair leaves masks {way} each other"
            if decided(change.p)
            else "whether repair leaves masks closer to or farther from each other is undecided"
        )
        lines.append(
            f"- **{pattern}**: two masks share {low[SHARED]:.0f} to {high[SHARED]:.0f} % of the weights they"
            f" keep{random}. Their outputs lie {low[APART]:.1f} to {high[APART]:.1f} % of the mean square apart,"
            f" {ratio[APART].mean():.2f} times as far as from the dense matrix's ({away[APART]:.1f} %, means). Refitted"
            f" they lie {low[REFITTED]:.1f} to {high[REFITTED]:.1f} % apart, {ratio[REFITTED].mean():.2f} times as far"
            f" as from the dense matrix's ({away[REFITTED]:.1f} %). In proportion to that distance, {verdict}."
        )
    return Finding("\n".join(lines))


def _proportion(chosen: pd.DataFrame) -> pd.DataFrame:
    """How far masks are from each other over how far they are from the dense matrix, means over pairs: seeds down,
    measures across.
    """
    seeds = seed_columns(chosen)
    means = chosen.groupby(["measure", "dense"])[seeds].mean()
    return pd.DataFrame({name: means.loc[name, False] / means.loc[name, True] for name in (APART, REFITTED)})


def _pairs(rows: pd.DataFrame, measure: str, names: Sequence[str]) -> np.ndarray:
    """A measure of every pair of names, symmetric; NaN on the diagonal."""
    values = rows[rows["measure"] == measure].pivot(index="mask", columns="other", values="value")
    values = values.reindex(index=names, columns=names).to_numpy()
    return np.where(np.isnan(values), values.T, values)


def _against(rows: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """The rows of a pair, whichever is named first."""
    return rows[rows["mask"].isin((one, other)) & rows["other"].isin((one, other))]


def _masks(table: pd.DataFrame) -> list[str]:
    """All masks, in the order they were run."""
    first = table[table["other"] == DENSE]
    return list(dict.fromkeys(first["mask"]))


def _looks(names: Sequence[str]) -> dict[str, Look]:
    spare = iter(REFINED_LOOKS * len(names))
    return {name: CRITERION_LOOKS[name] if name in CRITERION_LOOKS else next(spare) for name in names}


def _say(mask: str) -> str:
    """ "wanda+swaps" as "Wanda+swaps"."""
    criterion, _, refinement = mask.partition("+")
    word = say_criterion(criterion)
    return f"{word}+{refinement}" if refinement else word
