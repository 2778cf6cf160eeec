"""Attention and MLP pruned alone: which half of a block costs more, beside table 7 of 2406.15524. Table, figure and
finding of notebook 01.
"""

from collections.abc import Sequence
from math import nan

import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.finding import Finding
from analysis.present.panels import category_axis, draw_points, finish, handle, label_axes, panel_grid, percent_axis
from analysis.present.paper import HALVES
from analysis.present.style import Look, in_style, looks, say_method, say_split
from analysis.present.tables import held_out, on_tables, over_seeds
from analysis.recipe.recipe import Recipe

LOOKS = {"attention": Look("#0072B2", "o", "-"), "MLP": Look("#D55E00", "s", "-"), "both": Look("#4D4D4D", "D", "-")}
PARTS = tuple(LOOKS)
DIFFERENCE = "attention less MLP"


@on_tables
def halves(perplexity: pd.DataFrame, matrices: Sequence[str], *, split: str | None = None) -> pd.DataFrame:
    """How far perplexity on a held-out text (None: the first) rises above the dense model's where only one half of
    every block is pruned, in per cent: [split, criterion, part, method, value, ...].

    part: attention, MLP, both, or the difference of the first two within a seed, in percentage points. matrices: those
    of attention and those of the MLP, each as `skip` of a pattern names them. Raises UsageError for other than two
    lists, and where one of the three was not run.
    """
    if len(matrices) != 2:
        raise UsageError(f"halves: two lists of matrices are needed, attention's and the MLP's; got {len(matrices)}")
    rows = held_out(perplexity, None, split)
    rows = rows[rows["split"] == rows["split"].iloc[0]]
    named = {matrices[1]: "attention", matrices[0]: "MLP", None: "both"}
    part = {text: named.get(Recipe.parse(text).pattern.skip) for text in rows["recipe"].unique()}
    if missing := [name for name in PARTS if name not in part.values()]:
        raise UsageError(
            f"halves: no run prunes {', '.join(missing)}; give recipes without skip, with skip={matrices[0]} and with"
            f" skip={matrices[1]}"
        )
    dense = rows[rows["which"] == "dense"].set_index("run")["perplexity"]
    pruned = rows[rows["which"] == "pruned"]
    pruned = pruned.assign(
        part=pruned["recipe"].map(part), value=100 * (pruned["perplexity"] / pruned["run"].map(dense) - 1)
    )
    wide = pruned.pivot(index=["split", "criterion", "method", "seed"], columns="part", values="value").reset_index()
    apart = wide.assign(part=DIFFERENCE, value=wide["attention"] - wide["MLP"])
    key = ["split", "criterion", "method", "seed", "part", "value"]
    return over_seeds(pd.concat([pruned[key], apart[key]]), ["split", "criterion", "part", "method"], "value")


@on_tables
def beside_halves(table: pd.DataFrame) -> pd.DataFrame:
    """The rise of perplexity for each half and method, here and for the paper's OPT-125M with SparseGPT (WikiText-2),
    in per cent. `table` is that of `halves`.
    """
    ours = table.set_index(["part", "method"])["value"]
    paper = HALVES.set_index(["part", "method"])["increase"]
    order = [(part, method) for part in PARTS for method in table["method"].unique()]
    return pd.DataFrame({"here, %": ours, "paper, OPT-125M, %": paper}).reindex(order).round(2)


@on_tables
def plot_halves(table: pd.DataFrame) -> Figure:
    """How far perplexity rises above the dense model's where attention, the MLP or both are pruned, from method to
    method, in per cent; log scale, linear below 1 %.

    `table` is that of `halves`. Bars: 95 % intervals of the mean over seeds, which may leave the panel. Hollow:
    OPT-125M with SparseGPT (table 7 of 2406.15524).
    """
    with in_style():
        rows = table[table["part"].isin(PARTS)].assign(row="")
        methods = list(looks(rows["method"]))
        known = HALVES[HALVES["method"].isin(methods)].rename(columns={"increase": "value"}).assign(low=nan, high=nan)
        fig, panels = panel_grid(rows, "row", "split", height=2.9, sharey=True)
        for (_, split), ax in panels.items():
            ax.set_title(f"perplexity on {say_split(split)}")
            for place, (part, look) in enumerate(LOOKS.items()):
                for some, hollow in ((rows[rows["split"] == split], False), (known, True)):
                    own = some[some["part"] == part]
                    x = own["method"].map(methods.index) + 0.06 * (place - 1) + 0.25 * hollow
                    gid = f"{'paper' if hollow else 'here'} {part}"
                    draw_points(ax, x, own, color=look.color, marker=look.marker, gid=gid, hollow=hollow)
            category_axis(ax, ["mask" if name == "LR" else say_method(name) for name in methods])
        percent_axis(panels.values(), pd.concat([rows["value"], known["value"]]))
        label_axes(panels, "", {"": "% above dense"})
        notes = [
            handle(look, f"{part} alone" if part != "both" else part, linestyle="") for part, look in LOOKS.items()
        ]
        notes.append(handle(Look("#4D4D4D", "o", ""), "the paper: OPT-125M, SparseGPT", markerfacecolor="white"))
        finish(fig, {}, notes)
    return fig


@on_tables
def say_halves(table: pd.DataFrame) -> Finding:
    """Per method: what pruning attention alone, the MLP alone and both costs, and which half costs more."""
    lines = []
    for (split, method), rows in table.groupby(["split", "method"], sort=False):
        rows = rows.set_index("part")
        said = ", ".join(f"{part} {rows['value'][part]:+.1f} %" for part in PARTS)
        apart = rows.loc[DIFFERENCE]
        more = "attention" if apart["value"] > 0 else "the MLP"
        sure = apart["seeds"] > 1 and (apart["low"] > 0 or apart["high"] < 0)
        verdict = f"{more} alone costs more" if sure else "no difference between the halves is shown"
        interval = f" ({apart['low']:+.1f} to {apart['high']:+.1f} points)" if apart["seeds"] > 1 else ""
        lines.append(
            f"- **{say_method(method)}**, perplexity on {say_split(split)}: {said}; {verdict}: attention less MLP"
            f" {apart['value']:+.1f}{interval}."
        )
    return Finding("\n".join(lines))
