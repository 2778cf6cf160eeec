"""One block, its three errors side by side, for a reader who meets them first. Table, figure and finding of notebook
00.
"""

import re

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.errors import UsageError
from analysis.present.finding import Finding
from analysis.present.panels import RELATIVE_ERROR, finish, panel_grid
from analysis.present.style import in_style, looks, say_method, say_split
from analysis.present.tables import choose, on_tables, over_seeds

KINDS = {"inherited": "#56B4E9", "local": "#E69F00", "total": "#4D4D4D"}
SAID = {
    "inherited": "inherited: untouched block, wrong input",
    "local": "local: pruned block, same input",
    "total": "total: both",
}


@on_tables
def one_block(blocks: pd.DataFrame, block: int) -> pd.DataFrame:
    """Total, inherited and local relative error at one block's output (the first is 0): [split, method, kind, block,
    value, ...].
    """
    rows = choose(blocks, kind=list(KINDS), block=block)
    return over_seeds(rows, ["split", "method", "kind", "block"], "relative_error")


@on_tables
def plot_one_block(table: pd.DataFrame) -> Figure:
    """Three bars for each method: what a block inherits, what it does wrong itself, and the error of both at once.

    `table` is that of `one_block`; one panel per text, on one scale.
    """
    methods = list(looks(table["method"]))
    height = 0.8 / len(KINDS)
    with in_style():
        fig, panels = panel_grid(table.assign(row=""), "row", "split", height=0.55 * len(methods) + 0.5, sharey=True)
        for (_, split), ax in panels.items():
            rows = table[table["split"] == split].set_index(["method", "kind"])["value"]
            for number, (kind, color) in enumerate(KINDS.items()):
                places = [place + (number - 1) * height for place in range(len(methods))]
                values = [rows[method, kind] for method in methods]
                ax.barh(places, values, height=0.9 * height, color=color, zorder=2, gid=f"kind {kind}")
                for place, value in zip(places, values):
                    ax.annotate(
                        f"{value:.3f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8
                    )
            ax.set_yticks(range(len(methods)), [say_method(method) for method in methods])
            ax.tick_params(axis="y", labelsize=9, length=0)
            ax.grid(axis="y", visible=False)
            ax.grid(axis="x", visible=True)
            ax.set_xlim(0, 1.18 * table["value"].max())
            ax.set_title(say_split(split))
        next(iter(panels.values())).invert_yaxis()
        fig.supxlabel(f"{RELATIVE_ERROR} at the output of block {table['block'].iloc[0]}", fontsize=9)
        finish(fig, {}, [Patch(color=color, label=SAID[kind]) for kind, color in KINDS.items()])
    return fig


@on_tables
def say_one_block(table: pd.DataFrame) -> Finding:
    """Per text and method: the three errors, and how far the total is from the sum of the other two."""
    lines = []
    for (split, method), rows in table.groupby(["split", "method"], sort=False):
        value = rows.set_index("kind")["value"]
        both = value["inherited"] + value["local"]
        apart = "less" if value["total"] < both else "more"
        lines.append(
            f"- **{say_method(method)}**, {say_split(split)}: inherited {value['inherited']:.3f}, local"
            f" {value['local']:.3f}, total {value['total']:.3f}: {abs(value['total'] / both - 1):.0%} {apart} than the"
            " other two added up."
        )
    return Finding("\n".join(lines))


@on_tables
def say_texts(written: pd.DataFrame) -> Finding:
    """Texts side by side: a row per prompt, a column per model; a new line within a text is written as "/", what would
    end a cell or make it bold in characters that look alike. Raises UsageError where a cell is no text.
    """
    if not written.map(lambda cell: isinstance(cell, str)).all(axis=None):
        raise UsageError("say_texts: every cell must be a text, as in the table of continuations")
    head = [[_cell(str(name)) for name in written.columns], ["---"] * len(written.columns)]
    rows = [*head, *written.map(_cell).to_numpy().tolist()]
    return Finding("\n".join(f"| {' | '.join(row)} |" for row in rows))


def _cell(text: str) -> str:
    return re.sub(r"\r\n?|\n", " / ", text.replace("|", "¦").replace("**", "∗∗")).strip() or "–"
