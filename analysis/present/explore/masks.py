"""Masks looked at weight by weight: a heat map of two of them, how much rows, columns, heads and neurons keep, and how
far the two agree in every matrix.

The table is that of `analysis.live.masks.Masks`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.errors import UsageError
from analysis.present.explore.shell import explorer, menu, slider
from analysis.present.panels import finish, handle
from analysis.present.style import WIDTH, Look, in_style
from analysis.present.tables import check_table, on_tables

if TYPE_CHECKING:
    from ipywidgets import VBox

STATES = {"kept by neither": "#F2F2F2", "only by A": "#0072B2", "only by B": "#E69F00", "by both": "#4D4D4D"}
A_LOOK, B_LOOK = Look("#0072B2", "", "-"), Look("#E69F00", "", (0, (3, 1.2)))
PART = (16, 32, 64, 128)


@dataclass(frozen=True)
class MaskChoice:
    """Two masks, a matrix of a block, and the part of it that is looked at: from `row` and `column` on, `size` of each;
    size 0: all of it.
    """

    first: str
    second: str
    block: int = 0
    matrix: str = ""
    row: int = 0
    column: int = 0
    size: int = 64


@on_tables
def mask(masks: pd.DataFrame, name: str, block: int, matrix: str) -> np.ndarray:
    """One mask of one matrix, (rows, columns) bool, True = kept. Raises UsageError where there is none."""
    check_table("masks", masks, "mask", "block", "matrix", "rows", "columns", "kept")
    found = masks[(masks["mask"] == name) & (masks["block"] == block) & (masks["matrix"] == matrix)]
    if found.empty:
        raise UsageError(f"masks: {name!r} has no mask for {matrix} of block {block}")
    one = found.iloc[0]
    size = one["rows"] * one["columns"]
    bits = np.unpackbits(np.frombuffer(one["kept"], np.uint8), count=size)
    return bits.reshape(one["rows"], one["columns"]).astype(bool)


@on_tables
def states(masks: pd.DataFrame, choice: MaskChoice) -> np.ndarray:
    """Who keeps each weight of the matrix: 0 neither, 1 only the first mask, 2 only the second, 3 both."""
    first, second = (mask(masks, name, choice.block, choice.matrix) for name in (choice.first, choice.second))
    return first.astype(int) + 2 * second.astype(int)


@on_tables
def kept_shares(masks: pd.DataFrame, choice: MaskChoice) -> pd.DataFrame:
    """Share kept of every row, column and whole structure of the matrix by both masks: [along, place, first, second],
    along: "rows", "columns", or the kind of structure.
    """
    both = [mask(masks, name, choice.block, choice.matrix) for name in (choice.first, choice.second)]
    about = masks[(masks["block"] == choice.block) & (masks["matrix"] == choice.matrix)].iloc[0]
    parts = {"rows": [one.mean(1) for one in both], "columns": [one.mean(0) for one in both]}
    if about["structures"]:
        lines = parts[about["side"]]
        parts[about["kind"]] = [one.reshape(about["structures"], -1).mean(1) for one in lines]
    return pd.concat(
        [
            pd.DataFrame({"along": along, "place": range(len(first)), "first": first, "second": second})
            for along, (first, second) in parts.items()
        ],
        ignore_index=True,
    )


@on_tables
def agreement(masks: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """How far two masks agree in every matrix: [block, matrix, shared, lost, gained]. shared: weights that both keep
    over those that either keeps (Jaccard); lost, gained: weights that only the first or only the second keeps.
    """
    rows = []
    for block, matrix in masks[masks["mask"] == first][["block", "matrix"]].itertuples(index=False):
        a, b = (mask(masks, name, block, matrix) for name in (first, second))
        either = (a | b).sum()
        shared = float((a & b).sum() / either) if either else 1.0
        rows.append(
            {
                "block": block,
                "matrix": matrix,
                "shared": shared,
                "lost": int((a & ~b).sum()),
                "gained": int((b & ~a).sum()),
            }
        )
    return pd.DataFrame(rows)


@on_tables
def draw_masks(masks: pd.DataFrame, choice: MaskChoice) -> Figure:
    """A part of a matrix with who keeps each weight, with the shares kept of its rows and columns; the shares of its
    heads or neurons; and how far both masks agree in every matrix.
    """
    held, shares, shared = (
        states(masks, choice),
        kept_shares(masks, choice),
        agreement(masks, choice.first, choice.second),
    )
    size = choice.size or max(held.shape)
    rows, columns = (slice(start, start + size) for start in _start(held.shape, choice))
    with in_style():
        fig = plt.figure(figsize=(WIDTH, 5.2))
        plt.close(fig)
        grid = fig.add_gridspec(2, 3, width_ratios=(3.2, 1.0, 2.6), height_ratios=(3.4, 1.2))
        main = fig.add_subplot(grid[0, 0])
        right, below = fig.add_subplot(grid[0, 1], sharey=main), fig.add_subplot(grid[1, 0], sharex=main)
        whole, all_of = fig.add_subplot(grid[1, 1:]), fig.add_subplot(grid[0, 2])
        part = held[rows, columns]
        edges = (
            columns.start - 0.5,
            columns.start + part.shape[1] - 0.5,
            rows.start + part.shape[0] - 0.5,
            rows.start - 0.5,
        )
        colors = ListedColormap(list(STATES.values()))
        main.imshow(part, cmap=colors, vmin=-0.5, vmax=3.5, extent=edges, aspect="auto", interpolation="nearest")
        main.grid(False)
        main.set(title=f"block {choice.block}, {choice.matrix}", ylabel="row (output)")
        main.tick_params(labelbottom=False)
        for ax, along, inside in ((right, "rows", rows), (below, "columns", columns)):
            one = shares[(shares["along"] == along) & shares["place"].between(inside.start, inside.stop - 1)]
            for name, look in (("first", A_LOOK), ("second", B_LOOK)):
                across = (one[name], one["place"]) if along == "rows" else (one["place"], one[name])
                ax.plot(*across, color=look.color, linestyle=look.line, linewidth=1.2, gid=f"{along} {name}")
        percent = FuncFormatter(lambda value, _position: f"{100 * value:.0f}")
        right.set(xlabel="kept, %", title="rows")
        right.xaxis.set_major_formatter(percent)
        right.xaxis.set_major_locator(MaxNLocator(3))
        right.tick_params(labelleft=False)
        below.set(xlabel="column (input)", ylabel="kept, %")
        below.yaxis.set_major_formatter(percent)
        _draw_structures(whole, shares)
        _draw_agreement(all_of, shared, choice)
        fig.align_ylabels()
        notes = [Patch(facecolor=color, edgecolor="#999999", label=name) for name, color in STATES.items()]
        marks = [handle(A_LOOK, f"A: {choice.first}"), handle(B_LOOK, f"B: {choice.second}")]
        finish(fig, {}, [*marks, *notes])
    return fig


def _start(shape: tuple[int, int], choice: MaskChoice) -> tuple[int, int]:
    """The first row and column that are shown: those chosen, or the last from which a whole part is left."""
    if not choice.size:
        return 0, 0
    return tuple(max(0, min(start, all_of - choice.size)) for start, all_of in zip((choice.row, choice.column), shape))  # type: ignore[return-value]


def _draw_structures(ax, shares: pd.DataFrame) -> None:
    """Share kept of each head, or of the neurons in their order; of rows where the matrix has no whole structures."""
    kinds = [along for along in dict.fromkeys(shares["along"]) if along not in ("rows", "columns")]
    kind = kinds[0] if kinds else "rows"
    one = shares[shares["along"] == kind]
    if len(one) <= 16:
        for shift, name, look in ((-0.2, "first", A_LOOK), (0.2, "second", B_LOOK)):
            ax.bar(one["place"] + shift, one[name], width=0.36, color=look.color, gid=f"{kind} {name}")
        ax.set_xticks(list(one["place"]))
        ax.set(xlabel=kind, ylabel="kept, %")
    else:
        bins = np.linspace(0, 1, 31)
        for name, look in (("first", A_LOOK), ("second", B_LOOK)):
            ax.hist(one[name], bins=bins, histtype="step", color=look.color, linestyle=look.line, linewidth=1.4)
        ax.set(xlabel=f"kept of each of the {len(one)} {kind}, %", ylabel=kind)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{100 * value:.0f}"))
        return
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{100 * value:.0f}"))


def _draw_agreement(ax, shared: pd.DataFrame, choice: MaskChoice) -> None:
    """Jaccard index of every matrix of every block, the chosen one framed."""
    wide = shared.pivot(index="matrix", columns="block", values="shared").reindex(shared["matrix"].unique())
    ax.imshow(wide.to_numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.grid(False)
    ax.set_yticks(range(len(wide)), [name.rpartition(".")[2] for name in wide.index], fontsize=7)
    ax.set(xlabel="block", title="weights shared, %")
    few = wide.shape[1] <= 12
    for y, name in enumerate(wide.index):
        for x, block in enumerate(wide.columns):
            value = wide.loc[name, block]
            if few:
                ax.text(
                    x,
                    y,
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="black" if value > 0.55 else "white",
                )
            if (name, block) == (choice.matrix, choice.block):
                ax.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2))
    if few:
        ax.set_xticks(range(wide.shape[1]), list(wide.columns))


@on_tables
def first_choice(masks: pd.DataFrame) -> MaskChoice:
    """What is shown first: the first mask against the last, at the first matrix."""
    check_table("masks", masks, "mask", "matrix")
    return MaskChoice(masks["mask"].iloc[0], masks["mask"].iloc[-1], int(masks["block"].min()), masks["matrix"].iloc[0])


def explore_masks(masks: pd.DataFrame) -> "VBox":
    """Controls over `draw_masks`: two of the table's masks, a block, a matrix, and the part of it to be looked at."""
    first = first_choice(masks)
    names, most = list(masks["mask"].unique()), int(max(masks["rows"].max(), masks["columns"].max()))
    starts = list(range(0, most, 16))
    sizes = [(f"{size} × {size}", size) for size in PART if size < most]
    controls = {
        "first": menu("A", names, first.first, "330px"),
        "second": menu("B", names, first.second, "330px"),
        "block": slider("block", sorted(map(int, masks["block"].unique())), first.block),
        "matrix": menu("matrix", list(masks["matrix"].unique()), first.matrix),
        "size": menu("part", [*sizes, ("whole matrix", 0)], sizes[-1][1] if sizes else 0),
        "row": slider("from row", starts, 0),
        "column": slider("from column", starts, 0),
    }
    return explorer(controls, lambda **values: draw_masks(masks, MaskChoice(**values)))
