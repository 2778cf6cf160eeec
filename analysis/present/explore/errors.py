"""How errors compound: any methods of one group of runs, any part of the error, any reading of it, as lines or stacked.

A group are the runs that differ in criterion, method and seed alone, so that their lines may stand in one panel.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.cancellation import cancellation, plot_cancellation
from analysis.present.compounding import block_profile, plot_block_profile
from analysis.present.explore.shell import explorer, many, menu
from analysis.present.panels import plain_axis
from analysis.present.readings import plot_readings, readings_profile
from analysis.present.style import looks, say_criterion, say_method, say_split
from analysis.present.tables import DRAWN_KINDS, choose, on_tables
from analysis.recipe.words import METHOD_WORDS
from analysis.schema import CALIBRATION

if TYPE_CHECKING:
    from ipywidgets import VBox

LINES, STACK, TOKENS = "lines", "signed stack", "few tokens' share"
VIEWS = (LINES, STACK, TOKENS)
TOLD = {
    "all tokens": "relative_error",
    "without first tokens": "relative_error_rest",
    "median token": "relative_error_median",
}
SAME = ["model", "pattern", "refinement", "calibration", "samples", "added", "added_samples", "length"]


@dataclass(frozen=True)
class ErrorChoice:
    """What of the errors is shown; empty: all there is. reading: of `TOLD`; scale: "log" or "linear"."""

    criterion: str
    methods: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("total",)
    view: str = LINES
    reading: str = "all tokens"
    scale: str = "log"


@on_tables
def groups(blocks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows that one figure may hold, by what they have in common in words. Runs without training stand in every group
    of their model, pattern and text, whatever the training of the others.
    """
    method_part = blocks["recipe"].str.rpartition(" ")[2]
    options = method_part.str.extract(r"\[(.*)\]$")[0].fillna("")
    options = options.map(
        lambda text: ", ".join(one for one in text.split(",") if re.match(r"(epochs|lr|batch)=", one))
    )
    untrained = ~blocks["method"].map(_trains)
    found = {}
    for key, rows in blocks.groupby(SAME, sort=False, dropna=False):
        model, pattern, refinement, calibration, samples, added, added_samples, length = key
        trained = list(dict.fromkeys(options[rows.index][~untrained[rows.index]])) or [""]
        refined = "" if refinement == "none" else f" + {refinement}"
        more = f" and {added_samples} of {added}" if added_samples else ""
        said = f"{model}, {pattern}{refined}, {samples} × {length} tokens of {calibration}{more}"
        for training in trained:
            mine = rows[untrained[rows.index] | (options[rows.index] == training)]
            found[said + (f", {training}" if training else "")] = mine
    return found


def _trains(method: str) -> bool:
    """Whether a method takes steps; the mask alone and closed forms do not."""
    word = METHOD_WORDS.get(method.partition("[")[0])
    return word is None or word.implies.get("solver", {}).get("name") not in ("none", "ridge")


@on_tables
def error_rows(blocks: pd.DataFrame, choice: ErrorChoice) -> pd.DataFrame:
    """The chosen rows, `relative_error` in the chosen reading. Raises UsageError for a choice that has none."""
    column = TOLD[choice.reading]
    splits = choice.splits or tuple(blocks["split"].unique())
    methods = choice.methods or tuple(blocks["method"].unique())
    rows = choose(blocks, criterion=choice.criterion, method=methods, split=splits)
    if column not in rows:
        raise UsageError(f"errors: these runs have no {column}; take the reading 'all tokens'")
    return rows.assign(relative_error=rows[column]).dropna(subset="relative_error")


@on_tables
def draw_errors(blocks: pd.DataFrame, choice: ErrorChoice) -> Figure:
    """Relative error at every block's output of the chosen methods, texts and parts."""
    rows = error_rows(blocks, choice)
    if choice.view == TOKENS:
        split = (choice.splits or (CALIBRATION,))[0]
        return plot_readings(
            readings_profile(
                choose(blocks, method=tuple(rows["method"].unique())), criterion=choice.criterion, split=split
            )
        )
    if choice.view == STACK:
        if choice.reading == "median token":
            raise UsageError("signed stack: medians do not add up; take another reading, or lines")
        return plot_cancellation(cancellation(rows, criterion=choice.criterion))
    profile = block_profile(rows, kind=choice.kinds or DRAWN_KINDS)
    fig = plot_block_profile(profile, columns="kind")
    if choice.scale == "linear":
        for ax in fig.axes:
            if ax.get_yscale() == "log":
                ax.set_yscale("linear")
                plain_axis(ax.yaxis)
                ax.set_ylim(bottom=0)
    return fig


def first_choice(blocks: pd.DataFrame) -> ErrorChoice:
    """What an explorer of these runs shows first: the first criterion, calibration and one held-out text."""
    splits = list(dict.fromkeys(blocks["split"]))
    chosen = [CALIBRATION] * (CALIBRATION in splits) + [one for one in splits if one != CALIBRATION][:1]
    return ErrorChoice(criterion=blocks["criterion"].iloc[0], splits=tuple(chosen), kinds=("total", "cross"))


def explore_errors(blocks: pd.DataFrame, stored: Callable[[], pd.DataFrame] | None = None) -> "VBox":
    """Controls over `draw_errors`. blocks: a study's table; stored: the table of all runs of the store, read when a
    reader asks for them.
    """
    from ipywidgets import VBox

    sources: dict[str, Callable[[], pd.DataFrame]] = {"this notebook's": lambda: blocks}
    if stored is not None:
        sources["all stored"] = stored
    source = menu("runs", list(sources))
    body = VBox()

    def open_source(_change: object = None) -> None:
        found = groups(sources[source.value]())
        group = menu("group", list(found), width="560px")
        inside = VBox()

        def open_group(_change: object = None) -> None:
            inside.children = [_controls(found[group.value])]

        group.observe(open_group, "value")
        open_group()
        body.children = [group, inside]

    source.observe(open_source, "value")
    open_source()
    return VBox([source, body] if len(sources) > 1 else [body])


def _controls(rows: pd.DataFrame) -> "VBox":
    first = first_choice(rows)
    criteria = [(say_criterion(name), name) for name in dict.fromkeys(rows["criterion"])]
    splits = [(say_split(name), name) for name in dict.fromkeys(rows["split"])]
    controls = {
        "criterion": menu("criterion", criteria, first.criterion),
        "view": menu("show", VIEWS),
        "reading": menu("over", list(TOLD)),
        "scale": menu("scale", ("log", "linear"), width="150px"),
        "methods": many("methods", [(say_method(name), name) for name in looks(rows["method"])]),
        "splits": many("text", splits, first.splits),
        "kinds": many("error", DRAWN_KINDS, first.kinds),
    }
    return explorer(controls, lambda **values: draw_errors(rows, replace(first, **values)))
