"""The two streams in one picture: what flows through the untouched model, what flows through the pruned one, and the
three differences between them that are measured at a block.

python -m analysis.present.two_streams figures
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from analysis.present.provenance import write_svg
from analysis.present.style import WIDTH, in_style

DENSE, COPY, SPARSE = 2.0, 1.0, 0.0  # heights of the dense stream, of the copy of block 3, and of the sparse stream
BLOCKS = (1, 2, 3, 4)
OPENED = 3  # the block whose outputs are compared
INK, FAINT, TOTAL, INHERITED, LOCAL = "#333333", "#8a8a8a", "#333333", "#0072B2", "#D55E00"
STEP, SIDE = 1.35, 0.62


def draw_streams() -> Figure:
    """Text enters an untouched and a pruned model; at block 3 their outputs differ by what the block inherits and by
    what it does wrong itself.
    """
    with in_style():
        fig, ax = plt.subplots(figsize=(WIDTH, 3.7), layout="none")
        plt.close(fig)
        fig.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.01)
        ax.set_axis_off()
        ax.set_xlim(-1.42, 7.0)
        ax.set_ylim(-0.72, 2.62)
        _box(ax, -0.95, 1.0, "text,\nembedded", width=0.88)
        for height, stream in ((DENSE, "dense stream"), (SPARSE, "sparse stream")):
            _elbow(ax, (-0.51, 1.0), (_at(1) - SIDE / 2, height))
            for block in BLOCKS:
                _box(ax, _at(block), height, str(block), pruned=height == SPARSE)
            for block in BLOCKS[:-1]:
                _arrow(ax, (_at(block) + SIDE / 2, height), (_at(block + 1) - SIDE / 2, height))
            _arrow(ax, (_at(4) + SIDE / 2, height), (_at(4) + 1.0, height))
            ax.text(_at(4) + 1.08, height, stream, va="center", fontsize=10, fontweight="bold", color=INK)
        ax.text(_at(1) - SIDE / 2, DENSE + 0.42, "the untouched model", fontsize=9.5, color=INK)
        ax.text(_at(1) - SIDE / 2, SPARSE - 0.54, "the pruned model", fontsize=9.5, color=INK)
        _compare(ax)
    return fig


def save_streams(folder: Path) -> None:
    """`draw_streams` as streams.svg and streams.png, the same bytes each time."""
    description = " ".join((draw_streams.__doc__ or "").split())
    with in_style():
        fig = draw_streams()
        write_svg(fig, folder / "streams.svg", "The dense and the sparse stream", description)
        fig.savefig(folder / "streams.png", metadata={"Software": None})


def _compare(ax: Axes) -> None:
    """The untouched block 3 once more, fed by the sparse stream, and the three differences."""
    before, behind = _at(OPENED) - STEP / 2 - 0.06, _at(OPENED) + STEP / 2 - 0.1
    _box(ax, _at(OPENED), COPY, str(OPENED), faint=True)
    ax.plot([before, before], [SPARSE, COPY], color=FAINT, lw=1.2, ls=(0, (2, 1.5)), zorder=1)
    _arrow(ax, (before, COPY), (_at(OPENED) - SIDE / 2, COPY), color=FAINT)
    ax.text(before - 0.08, COPY + 0.04, "the untouched block 3,\nfed by the sparse stream", **_note("right"))
    _arrow(ax, (_at(OPENED) + SIDE / 2, COPY), (behind, COPY), color=FAINT)
    for height in (DENSE, COPY, SPARSE):
        ax.plot([behind], [height], "o", color=INK, ms=5, zorder=6)
    _difference(ax, behind, DENSE, COPY, INHERITED)
    _difference(ax, behind, COPY, SPARSE, LOCAL)
    far = _at(4) + 0.66
    _difference(ax, far, DENSE, SPARSE, TOTAL)
    for x, y, words, more, color in (
        (behind, 1.48, "inherited", "same block,\nwrong input", INHERITED),
        (behind, 0.66, "local", "same input,\npruned block", LOCAL),
        (far, 1.0, "total", "both at once", TOTAL),
    ):
        ax.text(x + 0.1, y, words, fontsize=10, color=color, va="bottom", fontweight="bold")
        ax.text(x + 0.1, y - 0.04, more, fontsize=8.5, color=color, va="top", linespacing=1.2)


def _at(block: int) -> float:
    return 0.55 + (block - 1) * STEP


def _note(side: str) -> dict[str, Any]:
    return {"ha": side, "va": "center", "fontsize": 8.5, "color": "#666666", "linespacing": 1.25}


def _box(
    ax: Axes, x: float, y: float, words: str, *, width: float = SIDE, pruned: bool = False, faint: bool = False
) -> None:
    """A rounded box with its words: white, hatched where pruned, dotted where it is only asked."""
    look: dict[str, Any] = {"facecolor": "white", "edgecolor": FAINT if faint else INK, "linewidth": 1.2}
    look |= {"facecolor": "#f0f0f0", "hatch": "////", "edgecolor": "#777777"} if pruned else {}
    look |= {"linestyle": (0, (2, 1.5))} if faint else {}
    corner, height = (x - width / 2, y - 0.3), 0.6
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.08", zorder=3, **look))
    plate = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"} if pruned else None
    ax.text(x, y, words, ha="center", va="center", fontsize=9.5, color=INK, bbox=plate, zorder=4)


def _arrow(ax: Axes, start, end, color: str = INK, style: str = "-|>", width: float = 1.2) -> None:
    ends: dict[str, Any] = {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 8 + 2 * width}
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle=style, color=color, lw=width, zorder=5, **ends))


def _elbow(ax: Axes, start, end) -> None:
    """From a point to the side, up or down, and on to another point."""
    turn = start[0] + 0.22
    ax.plot([start[0], turn, turn], [start[1], start[1], end[1]], color=INK, lw=1.2, zorder=1)
    _arrow(ax, (turn, end[1]), end)


def _difference(ax: Axes, x: float, top: float, bottom: float, color: str) -> None:
    _arrow(ax, (x, top - 0.06), (x, bottom + 0.06), color, style="<|-|>", width=2)


if __name__ == "__main__":
    save_streams(Path(sys.argv[1]))
