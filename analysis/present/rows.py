"""The csv beside a figure: what it shows, one row for each seed, so that every test can be made again from it."""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis.errors import UsageError
from analysis.present.statistics import SEED, seed_columns

EACH = ["seed", "seed_value"]  # what a row of the csv says of one seed


def to_csv(table: pd.DataFrame) -> str:
    """A drawn table as csv: each of its rows once for every seed, with that seed's value (`seed`, `seed_value`) at the
    end and the mean and interval of the row repeated; as it is where it carries no seeds. Numbers to their last digit.
    """
    names, table = seed_columns(table), table.reset_index(drop=True)
    if names:
        long = table.drop(columns=names).assign(seed=0, seed_value=0.0)
        parts = [
            long.assign(seed=int(name[len(SEED) :]), seed_value=table[name])[table[name].notna()] for name in names
        ]
        seedless = table[names].isna().all(axis=1)
        parts.append(long[seedless].assign(seed=-1, seed_value=float("nan")))
        table = pd.concat(parts).sort_index(kind="stable")
    return table.to_csv(index=False, lineterminator="\n", na_rep="nan")


def read_csv(path: str | Path) -> pd.DataFrame:
    """The drawn table that `to_csv` wrote: a row for each group of seeds, the value of every seed in a column of its
    own, at the end. Raises UsageError for a file that is no csv.
    """
    try:
        text = Path(path).read_text("utf-8")
        words = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as csv ({error})") from error
    table = pd.DataFrame({name: _typed(words[name]) for name in words})
    if not set(EACH) <= set(table):
        return table
    keys = [name for name in table if name not in EACH]
    group = pd.Series(list(_groups(table, words[keys])), index=table.index)
    out = table[~group.duplicated()][keys].reset_index(drop=True)
    for seed in sorted(set(table["seed"]) - {-1}):
        own = table["seed"] == seed
        out[f"{SEED}{seed}"] = pd.Series(table["seed_value"][own].to_numpy(), index=group[own]).reindex(out.index)
    return out


def _groups(table: pd.DataFrame, keys: pd.DataFrame) -> Iterator[int]:
    """The number of the drawn row that each row belongs to: a new one where anything but the seed changes, or the seed
    does not grow.
    """
    number, before = -1, None
    for key, seed in zip(keys.itertuples(index=False, name=None), table["seed"], strict=True):
        number += before is None or key != before[0] or seed <= before[1]
        before = key, seed
        yield number


def _typed(column: pd.Series) -> pd.Series:
    """Whole numbers, numbers or truths where all words are; "nan" is no number, an empty word is a word."""
    for kind in ("int64", "float64"):
        try:
            return column.astype(kind)
        except (ValueError, OverflowError):
            continue
    return column == "True" if set(column) <= {"True", "False"} and len(column) else column
