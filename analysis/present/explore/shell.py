"""The shell of every explorer: controls above one view, which shows a figure as svg, or one message.

The drawing is matplotlib's, the same as in the static figure. Its points and bars, which bear a `gid`, get svg titles:
the browser shows them at the mouse without a kernel. A view is an HTML widget, so the last drawing is saved with the
notebook; an output widget would make headless execution hang now and then (nbclient issue 312).
"""

import asyncio
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.errors import AnalysisError
from analysis.present.style import in_style

if TYPE_CHECKING:
    from ipywidgets import HTML, Box, VBox, Widget

WAIT = 0.15  # seconds without another move after which an explorer redraws


def svg(fig: Figure) -> str:
    """A figure as svg that fits its place, with its label as alternative text and a title at every marked point."""
    with in_style():
        text = io.StringIO()
        fig.savefig(text, format="svg", metadata={"Date": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    for gid, artists in _marked(fig).items():
        body = _titled(body, gid, artists)
    tag, rest = body[: body.index(">")], body[body.index(">") :]
    label = html.escape(str(fig.get_label()) or "figure")
    size = f"width:100%;max-width:{fig.get_figwidth() * 100:.0f}px;height:auto;background:white"
    tag = re.sub(r' (width|height)="[\d.]+pt"', "", tag)
    return f'{tag} role="img" aria-label="{label}" style="{size}"{rest}'


Titles = list[tuple[float, float, str]]  # places in points of the svg, and what stands there


def _marked(fig: Figure) -> dict[str, list[Titles]]:
    """By gid, in drawing order: the titles of each artist."""
    found: dict[str, list[Titles]] = {}
    for ax in fig.axes:
        for artist in sorted(ax.get_children(), key=lambda one: one.get_zorder()):
            gid = artist.get_gid()
            if gid and isinstance(artist, Line2D):
                found.setdefault(gid, []).append(_points(ax, artist))
            elif gid and isinstance(artist, Rectangle):
                x, value = artist.get_x() + artist.get_width() / 2, artist.get_height()
                found.setdefault(gid, []).append([(0, 0, f"{_name(gid)}, {x:g}: {value:.3g}")])
    return found


def _name(gid: str) -> str:
    """What a gid such as "method BR+GP" names."""
    return gid.partition(" ")[2] or gid


def _points(ax: Axes, line: Line2D) -> Titles:
    points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    figure = ax.get_figure(root=True)
    assert figure is not None
    with np.errstate(all="ignore"):
        places = ax.transData.transform(points) * 72 / figure.dpi
    height, name = figure.get_figheight() * 72, _name(str(line.get_gid()))
    return [
        (px, height - py, f"{name}, {x:g}: {y:.4g}")
        for (x, y), (px, py) in zip(points, places, strict=True)
        if np.isfinite([x, y, px, py]).all()
    ]


def _titled(body: str, gid: str, artists: list[Titles]) -> str:
    """`body` with a title in every mark of this gid: a marker is told by its place, anything else has one title."""
    start = f'<g id="{html.escape(gid)}">'
    first, *parts = body.split(start)
    if len(parts) != len(artists):
        return body
    out = [first]
    for part, titles in zip(parts, artists, strict=True):
        mine, following, rest = part.partition("<g id=")
        if "<use " in mine:
            mine = re.sub(r'<use ([^>]*?x="([\d.-]+)" y="([\d.-]+)"[^>]*)/>', partial(_with_title, titles), mine)
        elif len(titles) == 1:
            mine = f"<title>{html.escape(titles[0][2])}</title>{mine}"
        out.append(mine + following + rest)
    return start.join(out)


def _with_title(titles: Titles, found: re.Match) -> str:
    x, y = float(found[2]), float(found[3])
    near = [title for px, py, title in titles if abs(px - x) < 0.1 and abs(py - y) < 0.1]
    return f"<use {found[1]}><title>{html.escape(near[0])}</title></use>" if near else found[0]


def message(text: str) -> str:
    """One message in the place of a figure."""
    look = "border-left:4px solid #D55E00;padding:6px 10px;max-width:800px;line-height:1.4"
    return f'<div role="alert" style="{look}">{html.escape(text)}</div>'


def said(error: Exception) -> str:
    """What went wrong in one sentence: the project's own errors speak for themselves, others with their kind."""
    return str(error) if isinstance(error, AnalysisError) else f"{type(error).__name__}: {error}"


def shown(draw: Callable[[], Figure | str]) -> str:
    """What a view shows: the figure or the html that `draw` gives, or what went wrong, in one sentence."""
    try:
        made = draw()
    except Exception as error:  # shown where the reader looks; widgets would swallow it
        return message(said(error))
    return svg(made) if isinstance(made, Figure) else made


class Later:
    """Calls a function once a moment after the last of several calls; at once where no event loop runs."""

    def __init__(self, act: Callable[[], object], wait: float = WAIT):
        self._act, self._wait = act, wait
        self._waiting: asyncio.TimerHandle | None = None

    def __call__(self, _change: object = None) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._act()
            return
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = loop.call_later(self._wait, self._act)


def view(html_text: str = "") -> "HTML":
    """An empty place for a figure."""
    from ipywidgets import HTML

    place = HTML(html_text, layout={"width": "100%", "overflow": "hidden"})
    place.add_class("explorer-view")
    return place


def explorer(
    controls: Mapping[str, "Widget"], draw: Callable[..., Figure | str], place: "HTML | None" = None
) -> "VBox":
    """Controls above a view of `draw(**values)`, redrawn a moment after the last move.

    controls: by the name of the argument they stand for; their traits, and the view's, are saved with the notebook.
    """
    from ipywidgets import VBox

    place = place or view()

    def redraw() -> None:
        place.value = shown(lambda: draw(**{name: control.value for name, control in controls.items()}))

    later = Later(redraw)
    for control in controls.values():
        control.observe(later, "value")
    redraw()
    return VBox([row(controls.values()), place])


def row(widgets: Iterable["Widget"]) -> "Box":
    """Widgets beside one another, in as many lines as they need."""
    from ipywidgets import Box

    return Box(
        list(widgets), layout={"display": "flex", "flex_flow": "row wrap", "align_items": "center", "width": "100%"}
    )


def menu(name: str, options: Any, value: Any = None, width: str = "260px") -> "Widget":
    """One of several: options are words, or pairs of a label and its value."""
    from ipywidgets import Dropdown

    options = list(options)
    first = options[0][1] if isinstance(options[0], tuple) else options[0]
    return Dropdown(
        options=options,
        value=first if value is None else value,
        description=name,
        layout={"width": width, "margin": "2px 10px 2px 2px"},
        style={"description_width": "max-content"},
    )


def slider(name: str, options: Sequence[Any], value: Any = None, width: str = "300px") -> "Widget":
    """One of several that have an order; it moves the figure when let go."""
    from ipywidgets import SelectionSlider

    return SelectionSlider(
        options=list(options),
        value=list(options)[-1] if value is None else value,
        description=name,
        continuous_update=False,
        layout={"width": width, "margin": "2px 10px 2px 2px"},
        style={"description_width": "max-content"},
    )


def many(name: str, options: Sequence[Any], chosen: Sequence[Any] | None = None) -> "Widget":
    """Any of several, each a button that stays down; `value` is the tuple of those that are."""
    import traitlets
    from ipywidgets import HBox, Label, ToggleButton

    pairs = [one if isinstance(one, tuple) else (str(one), one) for one in options]
    wanted = [value for _, value in pairs] if chosen is None else list(chosen)

    class Many(HBox):
        value = traitlets.Tuple()

    buttons = [
        ToggleButton(value=value in wanted, description=label, tooltip=f"{name}: {label}", layout={"width": "auto"})
        for label, value in pairs
    ]
    box = Many(
        [Label(name), *buttons], layout={"flex_flow": "row wrap", "align_items": "center", "margin": "0 12px 0 2px"}
    )

    def gather(_change: object = None) -> None:
        box.value = tuple(value for (_, value), button in zip(pairs, buttons, strict=True) if button.value)

    for button in buttons:
        button.observe(gather, "value")
    gather()
    return box
