"""One small explorer of a study's block errors, for a reader in JupyterLab.

It shows what `compounding` draws from a table that is already there: moving a control never prunes anything. `draw` is
the whole of its behaviour, without widgets, so that it is tested without a browser and any choice can be saved as a
figure.
"""

import io
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from analysis.present.compounding import block_profile, plot_block_profile
from analysis.present.tables import DRAWN_KINDS, on_tables

if TYPE_CHECKING:
    from ipywidgets import VBox


@on_tables
def draw(blocks: pd.DataFrame, criterion: str, split: str, kind: str) -> Figure:
    """Block errors of one criterion, text and kind (total, inherited or local), one line per method."""
    table = block_profile(blocks, kind=kind, criterion=criterion, split=split)
    return plot_block_profile(table, columns="kind")


@on_tables
def explore(blocks: pd.DataFrame) -> "VBox":
    """Three menus (criterion, text, kind of error) over `draw`; `blocks` is a study's table of that name.

    The figure is an image widget, redrawn when a menu changes. An output widget would make headless execution hang now
    and then: nbclient answers it on the channel on which it waits for the cell (nbclient issue 312).
    """
    from ipywidgets import Dropdown, HBox, Image, VBox

    menus = {name: Dropdown(options=list(blocks[name].unique()), description=name) for name in ("criterion", "split")}
    menus["kind"] = Dropdown(options=DRAWN_KINDS, description="error")
    image = Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})

    def redraw(_change: object = None) -> None:
        buffer = io.BytesIO()
        draw(blocks, **{name: menu.value for name, menu in menus.items()}).savefig(buffer, format="png", dpi=110)
        image.value = buffer.getvalue()

    for menu in menus.values():
        menu.observe(redraw, "value")
    redraw()
    return VBox([HBox(list(menus.values())), image])
