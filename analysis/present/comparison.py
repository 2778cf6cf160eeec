"""Whether figures drawn again say what the ones there say: their csv files, number by number.

Other machines, thread counts and library versions round differently, and a mask chosen by a hair then falls otherwise:
numbers may differ by `TOLERANCE`, and a mean, its interval and its seeds by half of the interval that is there. What
was counted and what is written must be the same. Measured times and memory are those of the machine: they are left out.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.errors import UsageError
from analysis.present.rows import read_csv
from analysis.present.statistics import seed_columns

TOLERANCE = 1e-3  # relative
ROUNDING = 1e-12  # what is less apart is the same
SAME, NEAR, DIFFERENT = "same", "within its interval", "differs"
NEW, MISSING = "not there yet", "not drawn again"
MEASURED = re.compile(r"second|latency|throughput|\btimes|peak_memory|faster|^front$|one window|several windows", re.I)
GOVERNED = ("value", "accuracy", "low", "high")  # what the interval of a row speaks of


def compare_figures(there: Path, again: Path, names: Iterable[str] | None = None) -> pd.DataFrame:
    """One row for each figure: [figure, rows, difference, where, left_out, verdict].

    there, again: folders of figures. names: those to compare, all that lie in either by default. difference: the
    largest of any number, relative, and `where` its column; left_out: what was measured and so not compared. verdict:
    "same" (to `TOLERANCE`), "within its interval", "differs", or that one of the two is missing. Raises UsageError
    where there is nothing to compare.
    """
    found = {folder: {file.stem for file in folder.glob("*.csv")} for folder in (there, again)}
    chosen = sorted(names if names is not None else found[there] | found[again])
    if not chosen:
        raise UsageError(f"compare figures: no csv of a figure lies in {there}")
    rows = []
    for name in chosen:
        if name not in found[there] or name not in found[again]:
            rows.append((name, 0, np.nan, "", "", NEW if name in found[again] else MISSING))
            continue
        tables = [read_csv(folder / f"{name}.csv") for folder in (there, again)]
        rows.append((name, len(tables[0]), *compare_tables(*tables)))
    return pd.DataFrame(rows, columns=["figure", "rows", "difference", "where", "left_out", "verdict"])


def compare_tables(there: pd.DataFrame, again: pd.DataFrame) -> tuple[float, str, str, str]:
    """Largest relative difference, its column, what was left out, and the verdict, for two tables of one figure."""
    if set(there) != set(again):
        return np.nan, ", ".join(sorted(set(there) ^ set(again))), "", DIFFERENT
    if len(there) != len(again):
        return np.nan, f"{len(again)} rows", "", DIFFERENT
    numbers = [name for name in there if there[name].dtype.kind == "f" or again[name].dtype.kind == "f"]
    measured = [name for name in there if MEASURED.search(name)]
    words = [name for name in there if name not in (*numbers, *measured)]
    for name in words:
        if (there[name] != again[name]).any():
            return np.nan, name, "", DIFFERENT
    timed = _timed(there)
    left_out = [*measured, *sorted({word for word, rows in timed.items() if rows.any()})]
    compared = ~np.logical_or.reduce([np.zeros(len(there), bool), *timed.values()])
    half = ((there["high"] - there["low"]) / 2).to_numpy() if {"low", "high"} <= set(there) else np.zeros(len(there))
    governed = {*GOVERNED, *seed_columns(there)}
    most, where, verdict = 0.0, "", SAME
    for name in numbers:
        if name in measured:
            continue
        one, other = there[name].to_numpy(float)[compared], again[name].to_numpy(float)[compared]
        same = np.isnan(one) & np.isnan(other) | (one == other) | (np.abs(other - one) < ROUNDING)
        apart = np.where(same, 0.0, np.abs(other - one))
        relative = np.divide(apart, np.abs(one), out=np.where(apart == 0, 0.0, np.inf), where=np.abs(one) > 0)
        relative[np.isnan(apart)] = np.inf  # a number on one side only
        far = relative > TOLERANCE
        near = far & (apart <= half[compared]) if name in governed else far & False
        if len(relative) and relative.max() > most:
            most, where = float(relative.max()), name
        verdict = DIFFERENT if (far & ~near).any() or verdict == DIFFERENT else NEAR if near.any() else verdict
    return most, where, ", ".join(left_out), verdict


def _timed(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a table's column `measure` names that depends on the machine, such as latency, and the rows of it."""
    if "measure" not in table:
        return {}
    named = table["measure"]
    return {word: (named == word).to_numpy() for word in dict.fromkeys(named) if MEASURED.search(str(word))}
