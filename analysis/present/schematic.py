"""The four methods in one picture: which weights are trained, on which input, towards which output.

python -m analysis.present.schematic figures/methods.svg
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from analysis.present.provenance import write_svg
from analysis.present.style import METHOD_LOOKS, WIDTH, in_style

BLOCKS = 4
GAP, SIDE = 1.0, 0.62  # distance of two blocks' centres, and a block's width; a lane is one unit long per block
DENSE, SPARSE = 1.0, 0.0  # heights of the two streams
INK, FAINT = "#333333", "#9a9a9a"
CAPTIONS = {
    "LR": "the mask alone: nothing is trained",
    "BR": "each block against its dense self\non the same, sparse input",
    "BR+GP": "the target comes from the dense stream:\nearlier errors can be undone",
    "BR+GP+CR": "two blocks at once, the next two\noverlap by one",
}


def draw_methods() -> Figure:
    """LR, BR, BR+GP and BR+GP+CR side by side: the dense stream above, the sparse stream below.

    The second block is being reconstructed, so block 1 is done and later ones wait (LR has none that wait).
    """
    with in_style():
        fig, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.3), layout="none")
        plt.close(fig)  # off pyplot's list: whoever asked for it shows it
        fig.subplots_adjust(left=0.075, right=0.99, top=0.885, bottom=0.115, wspace=0.06, hspace=0.42)
        for ax, method in zip(axes.flat, CAPTIONS):
            _draw_method(ax, method)
        for ax in axes[:, 0]:
            for height, stream in ((DENSE, "dense\nstream"), (SPARSE, "sparse\nstream")):
                ax.text(-0.68, height, stream, ha="right", va="center", fontsize=9, color=INK)
        _draw_legend(fig)
    return fig


def save_methods(path: Path) -> None:
    """`draw_methods` as an svg file, the same bytes each time."""
    description = " ".join((draw_methods.__doc__ or "").split())
    with in_style():
        write_svg(draw_methods(), path, "The methods LR, BR, BR+GP and BR+GP+CR", description)


def _draw_method(ax: Axes, method: str) -> None:
    color = METHOD_LOOKS[method].color
    last = {"LR": -1, "BR": 1, "BR+GP": 1, "BR+GP+CR": 2}[method]  # the unit is blocks 1 (from 0) to `last`
    ax.set_axis_off()
    ax.set_xlim(-0.62, BLOCKS - 0.3)
    ax.set_ylim(-0.66, 1.4)
    ax.text(-0.5, 1.92, method, fontsize=12, fontweight="bold", color=color, va="top")
    ax.text(BLOCKS - 0.42, 1.92, CAPTIONS[method], fontsize=9, color=INK, va="top", ha="right", linespacing=1.25)
    for height in (DENSE, SPARSE):
        for position in range(BLOCKS + 1):
            fed = not (method == "BR" and height == DENSE and position in (1, 2))  # the dense stream goes by
            _arrow(
                ax,
                (position - GAP + SIDE / 2, height),
                (min(position - SIDE / 2, BLOCKS - 0.36), height),
                INK if fed else FAINT,
                fed,
            )
    for block in range(BLOCKS):
        _draw_block(ax, block, DENSE, "dense", color)
        trained, pruned = 1 <= block <= last, method == "LR" or block <= last
        _draw_block(ax, block, SPARSE, "trained" if trained else "pruned" if pruned else "waiting", color)
    if method == "BR":  # the dense block is fed by the sparse stream
        ax.plot([0.5, 0.5], [SPARSE, DENSE - 0.17], color=color, lw=2, zorder=4)
        _arrow(ax, (0.5, DENSE - 0.18), (1 - SIDE / 2, DENSE - 0.18), color, width=2)
    if last > 0:
        _arrow(ax, (last + 0.5, SPARSE), (last + 0.5, DENSE), color, style="<|-|>", width=2)
    if method == "BR+GP+CR":
        _outline(ax, 1, 2, color, "-", 0.0)
        _outline(ax, 2, 3, color, (0, (3, 2)), 0.1)
        ax.text(3 + SIDE / 2 + 0.08, -0.63, "next", fontsize=8.5, color=color, ha="right", va="center")


def _draw_block(ax: Axes, block: int, height: float, state: str, color: str) -> None:
    """A box with its number: dense (white), pruned (hatched), trained (hatched, in colour) or waiting (dotted)."""
    looks: dict[str, dict[str, Any]] = {
        "dense": {"facecolor": "white", "edgecolor": INK},
        "pruned": {"facecolor": "#f0f0f0", "edgecolor": "#777777", "hatch": "////"},
        "trained": {"facecolor": "white", "edgecolor": color, "hatch": "////", "linewidth": 2.4},
        "waiting": {"facecolor": "white", "edgecolor": FAINT, "linestyle": (0, (1.5, 1.5))},
    }
    corner = (block - SIDE / 2, height - 0.27)
    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.08", "zorder": 3, "linewidth": 1.2}
    style |= looks[state]
    ax.add_patch(FancyBboxPatch(corner, SIDE, 0.54, **style))
    plate = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    ink = FAINT if state == "waiting" else INK
    ax.text(block, height, str(block + 1), ha="center", va="center", fontsize=10, color=ink, bbox=plate, zorder=4)


def _outline(ax: Axes, first: int, last: int, color: str, line, inset: float) -> None:
    """The border of a unit of several blocks."""
    corner = (first - SIDE / 2 - 0.09, -0.37 - inset)
    size = (last - first + SIDE + 0.18, 0.74 + 2 * inset)
    style = "round,pad=0,rounding_size=0.1"
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, fill=False, ec=color, ls=line, lw=1.6, zorder=5))


def _arrow(ax: Axes, start, end, color: str, solid: bool = True, style: str = "-|>", width: float = 1.2) -> None:
    line = "-" if solid else (0, (1.5, 1.5))
    ends: dict[str, Any] = {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 7 + 2 * width}
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle=style, color=color, lw=width, ls=line, zorder=6, **ends))


def _draw_legend(fig: Figure) -> None:
    ax = fig.add_axes((0.03, 0.0, 0.95, 0.085))
    ax.set_axis_off()
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 10)
    boxes: dict[str, dict[str, Any]] = {
        "dense block": {"facecolor": "white", "edgecolor": INK},
        "pruned": {"facecolor": "#f0f0f0", "edgecolor": "#777777", "hatch": "////"},
        "pruned, being trained": {
            "facecolor": "white",
            "edgecolor": METHOD_LOOKS["BR"].color,
            "hatch": "////",
            "lw": 2.4,
        },
        "not pruned yet": {"facecolor": "white", "edgecolor": FAINT, "linestyle": (0, (1.5, 1.5))},
    }
    for left, (label, look) in zip((0.5, 17, 28, 52), boxes.items()):
        ax.add_patch(FancyBboxPatch((left, 3), 3.2, 4, boxstyle="round,pad=0,rounding_size=0.6", **look))
        ax.text(left + 4.2, 5, label, va="center", fontsize=9, color=INK)
    _arrow(ax, (72, 1), (72, 9), METHOD_LOOKS["BR"].color, style="<|-|>", width=2)
    ax.text(73.5, 5, "difference made small", va="center", fontsize=9, color=INK)


if __name__ == "__main__":
    save_methods(Path(sys.argv[1]))
