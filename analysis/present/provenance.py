"""Where a figure comes from (commit, versions, parameters, runs), and the files it is saved as: the same bytes for the
same table.
"""

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pandas as pd
from matplotlib.figure import Figure

from analysis import paths, storage
from analysis.errors import UsageError
from analysis.present.footer import commit, footed, footer
from analysis.present.rows import to_csv
from analysis.present.style import in_style
from analysis.present.tables import check_table

_PLACE = re.compile(r"(?<![^+:=,\s])(?:~[^/\\+]*|\.\.?|[A-Za-z]:)?[/\\](?=\S)(?:[^/\\+#]*[/\\])*")
"""The folders in front of a file's name, at the start of a text or behind a `+`, a prefix or a label."""
_NAME = re.compile(r"\w[\w.+= -]{0,99}")


def provenance(namespace: Mapping[str, Any], *tables: pd.DataFrame, **derived: Any) -> dict[str, Any]:
    """What a figure was made from: the notebook's preset, all its parameters and the runs behind `tables`.

    namespace: the notebook's `globals()`, in which parameters are the names in capitals; they are kept in lower case.
    FIGURES is left out, being a folder of this computer, and so are the folders of files and models. derived: what the
    notebook made of its parameters and a reader should not have to make again. What the notebook's studies say of the
    models of these runs ("dequantised from Q4_1") is `model_notes`. Raises UsageError where there is no PRESET, or a
    table tells no runs.
    """
    if not isinstance(namespace, Mapping):
        raise UsageError(f"provenance: a notebook's globals() are needed, got {type(namespace).__name__}")
    for table in tables:
        check_table("provenance", table, "run", rows=False)
    parameters = {name: value for name, value in namespace.items() if name.isupper() and not name.startswith("_")}
    if "PRESET" not in parameters:
        raise UsageError("provenance: no parameter PRESET among the names given; give a notebook's globals()")
    preset = parameters.pop("PRESET")
    parameters.pop("FIGURES", None)
    runs = sorted({str(run) for table in tables for run in table["run"].unique()})
    named = {name.lower(): value for name, value in parameters.items()}
    told = {"model_notes": notes} if (notes := _notes(namespace, set(runs))) else {}
    return {"preset": preset, "parameters": _without_folders(named | derived), "runs": runs, **told}


def _notes(namespace: Mapping[str, Any], runs: set[str]) -> list[str]:
    """What the studies among a notebook's names say of the models of these runs, such as "dequantised from Q4_1"."""
    known = [getattr(value, "provenance", None) for value in namespace.values()]
    studies = [origin["runs"] for origin in known if isinstance(origin, Mapping) and "runs" in origin]
    return sorted({note for study in studies for run in runs & set(study) for note in study[run].get("notes", ())})


def _without_folders(value: Any) -> Any:
    """The value with every path that names a place of this computer (from the root, the home or the folder above) cut
    to its last name.
    """
    if isinstance(value, Mapping):
        return {_without_folders(key): _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    return _PLACE.sub("", value.rstrip("/\\")) if isinstance(value, str) else value


def save_figure(
    fig: Figure, name: str, table: pd.DataFrame, provenance: Mapping, folder: str | Path | None = None
) -> Path:
    """Write `name`.svg, .png, .csv (the plotted rows, once for each seed) and .json (where they come from); returns the
    folder.

    `provenance` is what the function of that name returns. What it says of model, masks, text and seeds stands in small
    type below the figure and is the title of its svg, whose description is the figure's label; figures of the preset
    "smoke" carry that word, so that a trial can never pass for a result. Without `folder` they go to
    `data/runs/figures/PRESET`; only the suite writes `figures/`. The same figure, table, provenance and commit give the
    same bytes; the four files appear together. Raises UsageError for a name that is none (letters, digits, spaces and
    `_.+=-`, at most 100), a `folder` that is a file or a table without rows, StoreError where the disk refuses.
    """
    if not isinstance(fig, Figure):
        raise UsageError(f"save figure: fig must be a matplotlib Figure, got {type(fig).__name__}")
    preset = provenance.get("preset") if isinstance(provenance, Mapping) else None
    for what, word in {"name": name, "preset": preset}.items():
        if not isinstance(word, str) or not _NAME.fullmatch(word):
            raise UsageError(
                f"save figure: {what} {word!r:.60} is no name of files; use at most 100 letters, digits, spaces and"
                " _.+=-"
            )
    check_table(f"save figure {name}", table)
    folder = paths.runs() / "figures" / str(preset) if folder in (None, "") else paths.expanded(folder)
    with storage.explained(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"save figure {name}: {folder} is a file, a folder is needed")
    if preset == "smoke":
        _watermark(fig)
    said = table.select_dtypes(["object", "string"])
    rows = to_csv(table.assign(**{name: column.map(_without_folders) for name, column in said.items()}))
    about = {"figure": name, **provenance, "rows": len(table), "sha256_csv": storage.sha256(rows.encode())}
    about |= {"commit": commit(), "versions": _versions()}
    words = footer(provenance, table, about["commit"])
    with storage.explained(folder), storage.placing(folder, f"{name}.json") as fresh:
        with in_style(), footed(fig, words) as box:
            title = name.replace("_", " ") + (f": {words}" if words else "")
            write_svg(fig, fresh / f"{name}.svg", title, str(fig.get_label()), bbox_inches=box)
            fig.savefig(fresh / f"{name}.png", metadata={"Software": None}, bbox_inches=box)
        (fresh / f"{name}.csv").write_bytes(rows.encode())
        written = json.dumps(about, indent=2, sort_keys=True, default=str) + "\n"
        (fresh / f"{name}.json").write_bytes(written.encode())
    return folder


def write_svg(fig: Figure, path: Path, title: str, description: str, **options: Any) -> None:
    """A figure as svg that says what it is to who cannot see it: with a title and a description, without a date.

    options: of matplotlib's `savefig`.
    """
    fig.savefig(path, metadata={"Date": None, "Title": title}, **options)
    if description:
        svg = path.read_text("utf-8").replace("</title>", f"</title>\n <desc>{escape(description)}</desc>", 1)
        path.write_text(svg, "utf-8", newline="\n")


def _watermark(fig: Figure) -> None:
    """The word "smoke" in the corner, once however often the figure is saved."""
    if not any(text.get_text() == "smoke" for text in fig.texts):
        fig.text(0.005, 0.005, "smoke", ha="left", va="bottom", color="#b0b0b0", fontsize=11, style="italic")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | storage.versions(
        "torch", "transformers", "numpy", "pandas", "matplotlib"
    )
