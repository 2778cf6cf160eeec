"""Runs laid over one another: the error of each at every block, and what each ended with. Tables and figure of the
recipe builder.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.present.panels import RELATIVE_ERROR, finish, handle, label_axes, log_scale, panel_grid
from analysis.present.style import SOURCE_LOOKS, in_style, say_model, say_source, say_split
from analysis.present.tables import check_table, on_tables
from analysis.schema import CALIBRATION

MOST = 6  # runs in the figure: as many as there are looks
SAID = {"model": say_model, "calibration": say_source, "added": say_source}
_OPTIONS = re.compile(r"\[([^\]]*)\]")


@on_tables
def history(blocks: pd.DataFrame, seed: int | None = None) -> dict[str, pd.DataFrame]:
    """The last `MOST` runs of a study by what the figure calls them, model and texts where there are several; of one
    seed, by default the first.
    """
    seed = blocks["seed"].min() if seed is None else seed
    mine = blocks[blocks["seed"] == seed]
    several = [name for name in SAID if mine[name].nunique() > 1]
    runs = {}
    for (label, samples, length, *words), rows in mine.groupby(["recipe", "samples", "length", *several], sort=False):
        said = [SAID[name](word) for name, word in zip(several, words, strict=True)]
        runs[", ".join([label, *said, f"{samples} × {length}"])] = rows
    return dict(list(runs.items())[-MOST:])


def overlay(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Total error at every block of some runs, the last `MOST` of them: [name, split, block, value, place]. runs: block
    errors by what the legend calls them; place: among all, which decides a run's look as long as it is shown.
    """
    columns = ["split", "block", "relative_error", "name", "place"]
    parts = [
        rows[rows["kind"] == "total"][columns[:3]].assign(name=name, place=place)
        for place, (name, rows) in enumerate(runs.items())
    ]
    table = pd.concat(parts[-MOST:], ignore_index=True) if parts else pd.DataFrame(columns=columns)
    check_table("recipe builder", table)
    return table.rename(columns={"relative_error": "value"})[["name", "split", "block", "value", "place"]]


def short(names: Iterable[str]) -> dict[str, str]:
    """Names of runs without what is the same in all of them: their windows, options of their training."""
    names = list(names)
    options = [set(found[1].split(",")) for name in names if (found := _OPTIONS.search(name))]
    same = set.intersection(*options) if len(options) > 1 else set()
    if len(names) > 1 and len({name.rpartition(", ")[2] for name in names}) == 1:
        cut = {name: name.rpartition(", ")[0] for name in names}
    else:
        cut = {name: name for name in names}

    def without(found: re.Match) -> str:
        left = [one for one in found[1].split(",") if one not in same]
        return f"[{','.join(left)}]" if left else ""

    return {name: _OPTIONS.sub(without, one) for name, one in cut.items()}


@on_tables
def draw_overlay(table: pd.DataFrame, growing: str = "", blocks: int | None = None) -> Figure:
    """Total relative error at every block's output, one line per run.

    `table` is that of `overlay`. growing: the run under way, drawn thick; blocks: how many the model has.
    """
    last = int(table["block"].max() if blocks is None else blocks - 1)
    places = table.drop_duplicates("name").set_index("name")["place"]
    styles = {name: SOURCE_LOOKS[place % MOST] for name, place in places.items()}
    words = short(styles)
    first = [split for split in dict.fromkeys(table["split"]) if split == CALIBRATION]
    splits = first + [split for split in dict.fromkeys(table["split"]) if split != CALIBRATION][: 2 - len(first)]
    table = table[table["split"].isin(splits)].assign(row=RELATIVE_ERROR)
    with in_style():
        fig, panels = panel_grid(table, "row", "split", height=2.6, sharey=True)
        for (_, split), ax in panels.items():
            for name, look in styles.items():
                rows = table[(table["name"] == name) & (table["split"] == split)].sort_values("block")
                wide = 3.0 if name == growing else 1.6
                ax.plot(
                    rows["block"],
                    rows["value"],
                    color=look.color,
                    marker=look.marker,
                    linestyle=look.line,
                    linewidth=wide,
                    zorder=3,
                    gid=f"run {name}",
                )
            ax.set_xlim(-0.4, last + 0.4)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        log_scale(panels.values())
        label_axes(panels, "block", {RELATIVE_ERROR: RELATIVE_ERROR})
        finish(fig, {}, [handle(look, words[name]) for name, look in styles.items()])
    return fig


def outcome(name: str, blocks: pd.DataFrame, perplexity: pd.DataFrame, cost: pd.DataFrame) -> dict[str, Any]:
    """One row of the builder's table: what a run ended with, by headings."""
    total = blocks[blocks["kind"] == "total"]
    ends = total[total["block"] == total["block"].max()].set_index("split")["relative_error"]
    text = {which: rows.set_index("split")["perplexity"] for which, rows in perplexity.groupby("which")}
    found: dict[str, Any] = {"run": name}
    for split in ends.index:
        found[f"error, {say_split(split)}"] = f"{ends[split]:.4f}"
    for split in text.get("pruned", ()).index if text else ():
        found[f"perplexity, {say_split(split)}"] = f"{text['dense'][split]:.3f} → {text['pruned'][split]:.3f}"
    return found | {"seconds": f"{cost['seconds'].sum():.1f}"}
