"""The line of small type below a figure: model, masks, text, seeds and commit, so that it still says them when it has
been cut out of its page.
"""

import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from analysis import paths
from analysis.present.style import say_criterion, say_model

STRIP = 0.17  # inches that the line takes below the figure
SIZE = 7.0  # points
MOST = 3  # values that are named one by one


def footer(provenance: Mapping[str, Any], table: pd.DataFrame, commit: str | None) -> str:
    """What a figure says of itself, as in "lab 0.9 M | Wanda 50 % | 16 × 128 tokens | 3 seeds | 1a2b3c4".

    A "+" behind the commit: its code was changed. Read off the drawn table where it tells (the rows measured here, not
    those of a paper), else off the notebook's parameters; what neither tells is left out.
    """
    if "source" in table and (table["source"] == "here").any():
        table = table[table["source"] == "here"]
    known = dict(provenance.get("parameters") or {})

    def values(*names: str) -> list[Any]:
        """Those of the table's first column of these names, else of the first parameter."""
        for name in names:
            if name in table and (found := [one for one in dict.fromkeys(table[name]) if one not in ("", 0)]):
                return found
        given: Any = next((known[name] for name in names if known.get(name) not in (None, "", [])), [])
        return list(given) if isinstance(given, (list, tuple)) else [given]

    models = values("model", "models")  # of those given one for each task, the ones whose task is drawn
    if "task" in table and len(models) == len(values("calibration")):
        drawn = {f"examples:{task}" for task in table["task"]}
        models = [one for one, text in zip(models, values("calibration"), strict=True) if text in drawn] or models
    masks = _few(values("criterion", "criteria"), "criteria", say_criterion)
    removed = _few(
        values("pattern", "patterns", "sparsity", "shares"), "patterns", lambda name: str(name).replace("%", " %")
    )
    samples, length = values("samples"), values("length")
    examples = any(str(text).startswith("examples:") for text in values("calibration"))
    text = _few(sorted(samples), "sizes", str)
    if text and length:
        text += f" examples of at most {length[0]} tokens" if examples else f" × {length[0]} tokens"
    parts = [
        _few(models, "models", _say_model),
        (", " if masks[:1].isdigit() else " ").join(filter(None, (masks, removed))),
        text,
        _say_seeds(table, values("seeds")),
        (commit or "")[:7] + "+" * (commit or "").endswith("+changes"),
    ]
    return " | ".join(filter(None, parts))


@contextmanager
def footed(fig: Figure, words: str) -> Iterator[Bbox]:
    """`fig` with a strip below it that holds the words, while it is saved; yields the box to save. Nothing of the
    figure itself moves.
    """
    width, height = fig.get_size_inches()
    below = STRIP / height
    strip = Rectangle((0, -below), 1, below, transform=fig.transFigure, color="white", zorder=-1, gid="footer strip")
    fig.add_artist(strip)
    line = fig.text(0.995, -0.45 * below, words, ha="right", va="center", fontsize=SIZE, color="#666666", gid="footer")
    for part in (strip, line):
        part.set_in_layout(False)
    room = line.get_window_extent().width / fig.bbox.width
    line.set_fontsize(SIZE * min(1.0, 0.98 / room if room else 1.0))
    try:
        yield Bbox.from_bounds(0, -STRIP, width, height + STRIP)
    finally:
        strip.remove()
        line.remove()


def commit() -> str | None:
    """The commit of the code, with `+changes` if the package or the notebooks differ from it; None outside a
    repository.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=paths.ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "analysis", "notebooks")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git here, a source archive, or no commit yet
        return None


def _few(values: list[Any], noun: str, say: Any) -> str:
    """A few values by name, more by number."""
    return ", ".join(str(say(value)) for value in values) if len(values) <= MOST else f"{len(values)} {noun}"


def _say_seeds(table: pd.DataFrame, given: list[Any]) -> str:
    """How many seeds the rows that have a value are means over, "1 to 3" where that differs."""
    counts = sorted(set(table["seeds"]) - {0}) if "seeds" in table else [len(given)] if given else []
    if not counts:
        return ""
    most = int(counts[-1])
    return f"{most} seed{'s' * (most != 1)}" if len(counts) == 1 else f"{int(counts[0])} to {most} seeds"


@cache
def _say_model(model: str) -> str:
    """A model's name, and the number of parameters of one of the lab's."""
    name = say_model(model)
    if model.partition("/")[0] != "lab":
        return name
    file = paths.lab() / ("decoder" if model == "lab" else model.removeprefix("lab/")) / "model.safetensors"
    try:
        with file.open("rb") as data:
            header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
    except (OSError, ValueError):
        return name
    shapes = (entry["shape"] for entry in header.values() if "shape" in entry)
    return f"{name} {sum(map(math.prod, shapes)) / 1e6:.1f} M"
