"""The explorers of the site: tables of figures/, as a page can hold them, for `_static/explore.js` to draw.

What is offered is `VIEWS`; docs/explore.md has a place for each.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis import paths
from analysis.present.rows import read_csv
from analysis.present.statistics import seed_columns
from analysis.present.style import (
    CRITERION_LOOKS,
    METHOD_LOOKS,
    say_criterion,
    say_method,
    say_model,
    say_source,
    say_split,
    source_looks,
)

SPLITS = {"calibration": "#000000"}


@dataclass(frozen=True)
class View:
    """One explorer.

    table  the figure whose csv it shows
    y_label  of the axis up; empty: the value of the first menu
    x      column across; lines: column of which every value is a line; menus: columns of which one value is chosen
    first  the values chosen first, where not the first of the table
    log_x, log_y  scales at the start; level: a height that is drawn as a line
    """

    table: str
    x: str
    x_label: str
    y_label: str
    lines: str
    menus: tuple[str, ...]
    first: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False
    level: float | None = None


VIEWS = (
    View(
        "01_compounding_error",
        "block",
        "block",
        "relative error at the block's output",
        "method",
        ("criterion", "split"),
        first=("wanda", "calibration"),
        log_y=True,
    ),
    View(
        "01_total_inherited_local",
        "block",
        "block",
        "relative error at the block's output",
        "method",
        ("criterion", "kind", "split"),
        first=("wanda", "inherited", "calibration"),
    ),
    View(
        "02_optimisation_epochs",
        "epoch",
        "epoch",
        "error over its start",
        "split",
        ("method", "samples"),
        first=("BR+GP+CR", "1"),
        log_y=True,
        level=1,
    ),
    View(
        "07_pitfall",
        "ratio",
        "weights per calibration token",
        "change by the method, %",
        "model",
        ("measure", "method"),
        first=("held-out error", "BR+GP+CR"),
        log_x=True,
        level=0,
    ),
    View(
        "05_criteria",
        "pattern",
        "pattern",
        "held-out perplexity",
        "criterion",
        ("method", "refinement", "split"),
        first=("LR", "none"),
        log_y=True,
    ),
    View(
        "04_granularity",
        "granularity",
        "granularity",
        "",
        "streams",
        ("measure", "split"),
        first=("perplexity", "lab:stories/held-out"),
    ),
)
SAID = {
    "method": say_method,
    "split": say_split,
    "criterion": say_criterion,
    "model": say_model,
    "calibration": say_source,
}
NAMES = {"kind": "part of the error", "split": "text", "samples": "calibration windows", "streams": "method"}


def data(view: View) -> dict[str, Any]:
    """What the page is given of a view: its description, names and colours of its values, and its rows
    [menus..., line, x, mean, low, high, values of the seeds]; numbers that are not finite are null.
    """
    table = read_csv(paths.figures() / f"{view.table}.csv")
    table = table[table[view.x].notna() & (table[view.x].astype(str) != "")]
    if view.x == "block":  # of the papers' models there is the last block alone
        table = table[table.get("source", pd.Series("here", table.index)) == "here"]
    if view.x == "granularity":
        table.loc[table["method"] == "ridge", view.x] = "matrix, ridge"
    named = [*view.menus, view.lines]
    seeds = seed_columns(table)
    rows = [
        [
            *(str(row[name]) for name in named),
            _number(row[view.x]),
            *(_number(row[c]) for c in ("value", "low", "high")),
        ]
        + [[_number(row[seed]) for seed in seeds]]
        for row in table.to_dict("records")
    ]
    present = {name: list(dict.fromkeys(table[name].astype(str))) for name in named}
    return {
        **asdict(view),
        "rows": rows,
        "names": {name: NAMES.get(name, name) for name in named},
        "said": {name: {value: SAID.get(name, str)(value) for value in values} for name, values in present.items()},
        "colours": _colours(view.lines, present[view.lines]),
    }


def _colours(column: str, values: list[str]) -> dict[str, str]:
    known = {name: look.color for looks in (METHOD_LOOKS, CRITERION_LOOKS) for name, look in looks.items()} | SPLITS
    others = source_looks(value for value in values if value not in known)
    return {value: known[value] if value in known else others[value].color for value in values}


def _number(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return None if not math.isfinite(value) else float(f"{value:.5g}")


def script() -> str:
    """All views, as a script that sets `EXPLORED`."""
    return f"window.EXPLORED = {json.dumps({view.table: data(view) for view in VIEWS}, separators=(',', ':'))};"
