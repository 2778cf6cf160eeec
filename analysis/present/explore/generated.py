"""What the model writes itself beside corpora: the text, its loss under the model, and how far each is from the first.

Tables are those of `analysis.live.texts`: `OwnText` and `Distances`.
"""

from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.present.explore.shell import explorer, many, slider
from analysis.present.explore.text import LINE, MOST_NATS, STEP, draw_tokens, lines_of
from analysis.present.panels import finish
from analysis.present.style import WIDTH, apart, in_style, say_source, source_looks
from analysis.present.tables import check_table, choose, on_tables

if TYPE_CHECKING:
    from ipywidgets import VBox


@on_tables
def source_losses(tokens: pd.DataFrame) -> pd.DataFrame:
    """Mean loss under the model and how far its tokens lie apart: [source, nats, spread, tokens], nats per token,
    spread their standard deviation.
    """
    check_table("own text", tokens, "source", "nats")
    return tokens.groupby("source", sort=False)["nats"].agg(nats="mean", spread="std", tokens="size").reset_index()


@on_tables
def draw_sources(
    tokens: pd.DataFrame, distances: pd.DataFrame, window: int = 0, sources: tuple[str, ...] = ()
) -> Figure:
    """One window of each source, darker where the model's loss is larger; below, the mean loss of each source, and how
    far its hidden states are from the first source's, block by block.
    """
    chosen = sources or tuple(dict.fromkeys(tokens["source"]))
    rows, lines = choose(tokens, source=chosen), choose(distances, source=chosen)
    one = choose(rows, window=window)
    placed = {name: lines_of(list(some["token"])) for name, some in one.groupby("source", sort=False)}
    counts = {name: places[-1][0] + 1 for name, places in placed.items()}
    styles, told = source_looks(dict.fromkeys(tokens["source"])), source_losses(rows).set_index("source")
    with in_style():
        text = sum(STEP * count + 0.34 for count in counts.values())
        height = text + 3.0
        fig = plt.figure(figsize=(WIDTH, height), layout="none")
        plt.close(fig)
        colors, norm, top = mpl.colormaps["Blues"], Normalize(0, MOST_NATS), height - 0.1
        for name, places in placed.items():
            deep = STEP * counts[name]
            top -= deep + 0.34
            ax = fig.add_axes((0.01, top / height, 0.98, deep / height))
            ax.set_axis_off()
            ax.set(xlim=(0, LINE + 1), ylim=(counts[name], 0))
            ax.set_title(say_source(name), loc="left", fontsize=8.5, fontweight="bold", color=styles[name].color, pad=3)
            plain = one[one["source"] == name].assign(given=False, agrees=True, dense_nats=float("nan"))
            draw_tokens(ax, places, plain, "the model itself", colors, norm)
        bar = fig.add_axes((0.3, 2.5 / height, 0.4, 0.1 / height))
        fig.colorbar(ScalarMappable(norm, colors), cax=bar, orientation="horizontal").set_label(
            "loss of a token, nats", fontsize=8
        )
        left = fig.add_axes((0.2, 0.45 / height, 0.27, 1.4 / height))
        right = fig.add_axes((0.6, 0.45 / height, 0.38, 1.4 / height))
        left.barh(
            range(len(told)), told["nats"], color=[styles[name].color for name in told.index], gid="loss of a source"
        )
        left.set_yticks(range(len(told)), [say_source(name) for name in told.index])
        left.invert_yaxis()
        left.grid(True, axis="x")
        left.set(xlabel="nats per token", title="loss under the model")
        for name, some in lines.groupby("source", sort=False):
            look = styles[name]
            right.plot(
                some["block"],
                some["distance"],
                color=look.color,
                marker=look.marker,
                linestyle=look.line,
                gid=f"source {say_source(name)}",
            )
        right.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        right.set(
            xlabel="block", ylabel="|S − S'| / |S'|", title=f"distance from {say_source(distances['source'].iloc[0])}"
        )
        finish(fig, {})
    return fig


def explore_sources(tokens: pd.DataFrame, distances: pd.DataFrame) -> "VBox":
    """Controls over `draw_sources`: which window, which sources."""
    names = list(dict.fromkeys(tokens["source"]))
    controls = {
        "window": slider("window", sorted(map(int, tokens["window"].unique())), 0),
        "sources": many("text", [(word, name) for name, word in apart(names, say_source).items()]),
    }
    return explorer(controls, lambda **values: draw_sources(tokens, distances, **values))
