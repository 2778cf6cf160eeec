"""Where a figure comes from (commit, versions, parameters, runs), and the files it is saved as: the same bytes for the
same table.
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import paths, storage
from analysis.errors import UsageError
from analysis.present.style import in_style


def provenance(namespace: Mapping[str, Any], *tables: pd.DataFrame, **derived: Any) -> dict[str, Any]:
    """What a figure was made from: the notebook's preset, all its parameters and the runs behind `tables`.

    namespace: the notebook's `globals()`, in which parameters are the names in capitals; they are kept in lower case.
    FIGURES is left out, being a folder of this computer. derived: what the notebook made of its parameters and a reader
    should not have to make again. Raises UsageError where there is no PRESET.
    """
    parameters = {name: value for name, value in namespace.items() if name.isupper() and not name.startswith("_")}
    if "PRESET" not in parameters:
        raise UsageError("provenance: no parameter PRESET among the names given; give a notebook's globals()")
    preset = parameters.pop("PRESET")
    parameters.pop("FIGURES", None)
    runs = sorted({str(run) for table in tables for run in table["run"].unique()})
    named = {name.lower(): value for name, value in parameters.items()}
    return {"preset": preset, "parameters": named | derived, "runs": runs}


def save_figure(
    fig: Figure, name: str, table: pd.DataFrame, provenance: Mapping, folder: str | Path | None = None
) -> Path:
    """Write `name`.svg, .png, .csv (exactly the plotted rows) and .json (where they come from); returns the folder.

    `provenance` is what the function of that name returns; figures of the preset "smoke" carry that word, so that a
    trial can never pass for a result. Without `folder` they go to `data/runs/figures/PRESET`; only the suite writes
    `figures/`. The same figure, table and provenance give the same bytes. Raises UsageError if `folder` is a file or
    the table has no rows.
    """
    preset = provenance["preset"]
    folder = Path(folder) if folder else paths.runs() / "figures" / preset
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"save figure {name}: {folder} is a file, a folder is needed")
    if table.empty:
        raise UsageError(f"save figure {name}: its table has no rows, so the figure shows nothing")
    if preset == "smoke":
        _watermark(fig)
    with in_style():
        for suffix, metadata in {"svg": {"Date": None}, "png": {"Software": None}}.items():
            with storage.replacing(folder / f"{name}.{suffix}") as partial:
                fig.savefig(partial, metadata=metadata)
    rows = table.to_csv(index=False, lineterminator="\n")
    storage.write(folder / f"{name}.csv", rows)
    about = {"figure": name, **provenance, "rows": len(table), "sha256_csv": storage.sha256(rows.encode())}
    about |= {"commit": _commit(), "versions": _versions()}
    storage.write(folder / f"{name}.json", json.dumps(about, indent=2, sort_keys=True, default=str) + "\n")
    return folder


def _watermark(fig: Figure) -> None:
    """The word "smoke" in the corner, once however often the figure is saved."""
    if not any(text.get_text() == "smoke" for text in fig.texts):
        fig.text(0.005, 0.005, "smoke", ha="left", va="bottom", color="#b0b0b0", fontsize=11, style="italic")


def _commit() -> str | None:
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


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | storage.versions(
        "torch", "transformers", "numpy", "pandas", "matplotlib"
    )
