"""How the parts of an error add up or cancel: inherited + local + cross = total, block by block. Table, figure and
finding of notebook 01.

The total error of a block is no sum of what it inherits and what it does wrong itself: the cross term, twice their mean
product, is positive where the block errs in the direction of what came before and negative where it undoes it.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis.present.finding import Finding
from analysis.present.panels import finish, label_axes, panel_grid
from analysis.present.style import METHOD_LOOKS, in_style, say_criterion, say_method, say_split
from analysis.present.tables import choose, on_tables, over_seeds

PARTS = {"inherited": "#56B4E9", "local": "#E69F00", "cross": "#4D4D4D"}
SAID = {"inherited": "inherited", "local": "local", "cross": "cross (below zero: the block undoes what it inherits)"}
RUN = ["run", "split", "block"]
FAR = 10  # times the total: parts beyond it, which cancel, get an axis that is logarithmic outside the total


@on_tables
def cancellation(blocks: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Each part of every block's error as a share of the block's total: [criterion, split, method, kind, block, value,
    ...].

    Shares are taken within a run; those of one block add up to 1. The first block inherits nothing: its local error is
    all of it.
    """
    rows = choose(blocks, criterion=criterion, split=split)
    total = rows[rows["kind"] == "total"].set_index(RUN)["relative_error"]
    parts = rows[rows["kind"].isin(PARTS)]
    share = parts["relative_error"].to_numpy() / total.loc[pd.MultiIndex.from_frame(parts[RUN])].to_numpy()
    return over_seeds(parts.assign(share=share), ["criterion", "split", "method", "kind", "block"], "share")


@on_tables
def plot_cancellation(table: pd.DataFrame) -> Figure:
    """A signed stack for every block: what is inherited and local above zero, what cancels below; the total is 1.

    `table` is that of `cancellation` for one criterion; one column of panels per method, one row per text. Where parts
    of a block cancel to a small rest of themselves, the axis is logarithmic beyond -1 and 1.
    """
    table = table.assign(order=table["method"].map({name: place for place, name in enumerate(METHOD_LOOKS)}))
    table = table.sort_values("order", kind="stable")
    far = table["value"].abs().max() > FAR
    with in_style():
        fig, panels = panel_grid(table, "split", "method", height=1.75, sharey=True)
        for (split, method), ax in panels.items():
            rows = table[(table["split"] == split) & (table["method"] == method)]
            wide = rows.pivot(index="block", columns="kind", values="value")[list(PARTS)]
            for kind, color in PARTS.items():
                before = wide[list(PARTS)[: list(PARTS).index(kind)]]
                value = wide[kind]
                base = before.clip(lower=0).sum(axis=1).where(value > 0, before.clip(upper=0).sum(axis=1))
                ax.bar(
                    wide.index, value, bottom=base, width=0.8, color=color, linewidth=0, zorder=2, gid=f"kind {kind}"
                )
            ax.axhline(0, color="#333333", linewidth=0.8, zorder=3)
            ax.axhline(1, color="#333333", linewidth=0.9, linestyle=(0, (3, 1.5)), zorder=3)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            if far:
                ax.set_yscale("symlog", linthresh=1)
                ax.yaxis.set_minor_locator(NullLocator())
            else:
                ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{100 * value:,.0f}"))
            ax.set_title(say_method(method) if split == table["split"].iloc[0] else "")
        label_axes(panels, "block", {split: say_split(split) for split in table["split"].unique()})
        fig.supylabel("share of the block's total error, %", fontsize=9)
        total = Line2D([], [], color="#333333", linewidth=0.9, linestyle=(0, (3, 1.5)), label="total")
        finish(fig, {}, [*(Patch(color=color, label=SAID[kind]) for kind, color in PARTS.items()), total])
    return fig


@on_tables
def say_cancellation(table: pd.DataFrame) -> Finding:
    """Per criterion, text and method: what the last block's total error is made of, and at how many of the blocks that
    inherit anything the cross term lies below zero with its whole interval.
    """
    lines = []
    for (criterion, split, method), rows in table.groupby(["criterion", "split", "method"], sort=False):
        last = rows[rows["block"] == rows["block"].max()].set_index("kind")["value"]
        cross = rows[(rows["kind"] == "cross") & (rows["block"] > 0)]
        parts = ", ".join(f"{kind} {last[kind]:+.0%}" for kind in PARTS)
        several = (cross["seeds"] > 1).all()
        below = int((cross["high" if several else "value"] < 0).sum())
        surely = ", with the whole 95 % interval," if several and below else ""
        lines.append(
            f"- **{say_criterion(criterion)} {say_method(method)}**, {say_split(split)}: the total error at"
            f" the last block is {parts}; the cross term is{surely} below zero at {below} of {len(cross)} blocks."
        )
    return Finding("\n".join(lines))
