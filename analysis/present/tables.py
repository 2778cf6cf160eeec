"""From a study's tables to the rows that a figure shows: pick, take the mean over seeds, put in reading order.

Every function takes a table of a study (its columns are in `analysis.records`) and returns a new tidy table with columns
`value` (mean over seeds), `std` (standard deviation over seeds, 0 for one) and `seeds` (how many). Figures draw such
tables and nothing else, so what is saved beside a figure is what it shows.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.errors import UsageError
from analysis.present.style import CRITERIA, METHODS, say_split
from analysis.records import CALIBRATION

KINDS = ("total", "inherited", "local")


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean and standard deviation of `value` over seeds, one row for each combination of `by`, in reading order.

    Raises UsageError if two rows of one combination share a seed: the table then mixes what `by` does not tell apart.
    """
    if table.empty:
        raise UsageError(f"figure table by {', '.join(by)}: no rows are left after choosing")
    twice = table[table.duplicated([*by, "seed"], keep=False)]
    if len(twice):
        differ = [name for name in table.columns if name not in (*by, "seed", value) and twice[name].nunique() > 1]
        raise UsageError(f"figure table by {', '.join(by)}: {len(twice)} rows share a seed; choose among {', '.join(differ) or 'runs'}")
    groups = table.groupby(list(by), sort=False, observed=True)[value]
    out = groups.agg(value="mean", std=lambda v: v.std(ddof=0), seeds="count").reset_index()
    return _in_order(out)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by criterion, split, kind, method (all in their own order), then by the numbers."""
    orders = {"criterion": list(CRITERIA), "kind": list(KINDS), "method": list(METHODS), "split": [CALIBRATION]}
    keys = [name for name in ("criterion", "split", "kind", "method", "samples", "block", "epoch") if name in table]

    def rank(column: pd.Series) -> pd.Series:
        known = orders.get(column.name)
        if known is None:
            return column
        seen = list(dict.fromkeys(column))
        places = {name: i for i, name in enumerate([*known, *(name for name in seen if name not in known)])}
        return column.map(places)

    return table.sort_values(keys, key=rank, kind="stable", ignore_index=True)


def choose(table: pd.DataFrame, **wanted) -> pd.DataFrame:
    """The rows whose columns hold the wanted values (one value or several); None leaves a column alone.

    Raises UsageError naming the column, what was asked for and what there is, if a value is nowhere in it.
    """
    for name, values in wanted.items():
        if values is None:
            continue
        values = [values] if isinstance(values, (str, int, float)) else list(values)
        there = list(dict.fromkeys(table[name]))
        missing = [value for value in values if value not in there]
        if missing:
            raise UsageError(f"choose rows: {name} {', '.join(map(str, missing))} is not in the table; it has {', '.join(map(str, there))}")
        table = table[table[name].isin(values)]
    return table


def block_profile(blocks: pd.DataFrame, *, kind="total", criterion=None, split=None) -> pd.DataFrame:
    """Relative error at every block's output: [criterion, split, kind, method, block, value, std, seeds].

    The error is the mean squared difference over the mean square of the dense output: `total` between dense and sparse stream,
    `inherited` between a dense block's outputs on both, `local` between pruned and dense block on the sparse stream. The first
    block inherits nothing; its zero has no place on a log scale and is left out.
    """
    rows = choose(blocks, kind=kind, criterion=criterion, split=split)
    rows = rows[(rows["kind"] != "inherited") | (rows["block"] > 0)]
    return over_seeds(rows, ["criterion", "split", "kind", "method", "block"], "relative_error")


def last_block(blocks: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Total relative error at the last block, the one number of the papers' tables: [criterion, split, method, samples, ...]."""
    rows = choose(blocks, kind="total", criterion=criterion, split=split)
    rows = rows[rows["block"] == rows["block"].max()]
    return over_seeds(rows, ["criterion", "split", "method", "samples"], "relative_error")


def perplexities(perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Perplexity of every pruned model and, as method "dense", of the dense one: [criterion, split, method, samples, ...]."""
    rows = choose(perplexity, criterion=criterion, split=split)
    rows = rows.assign(method=rows["method"].where(rows["which"] == "pruned", "dense"))
    dense = rows["method"] == "dense"  # every run measures the same dense model on windows of its own seed
    rows = pd.concat([rows[dense].drop_duplicates(["criterion", "split", "samples", "seed"]), rows[~dense]])
    return over_seeds(rows, ["criterion", "split", "method", "samples"], "perplexity")


def sample_size(blocks: pd.DataFrame, perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """`last_block` and `perplexities` in one table, told apart by a first column `measure`."""
    error = last_block(blocks, criterion=criterion, split=split).assign(measure="relative error")
    text = perplexities(perplexity, criterion=criterion, split=split).assign(measure="perplexity")
    both = pd.concat([error, text], ignore_index=True)
    return both[["measure", *both.columns.drop("measure")]]


def epochs(steps: pd.DataFrame, *, unit: int = -1, criterion=None, split=None) -> pd.DataFrame:
    """Relative error of one unit's output while it is optimised: [criterion, split, method, samples, epoch, ..., lowest].

    `unit` counts from the front, or from the back if negative (a method with overlapping windows has one unit more).
    `lowest` marks, on each line, the epoch with the lowest error: where the held-out line turns up again, the unit overfits.
    """
    rows = choose(steps, criterion=criterion, split=split)
    count = rows.groupby(["run"])["unit"].transform("max") + 1
    rows = rows[rows["unit"] == (unit if unit >= 0 else count + unit)]
    line = ["criterion", "split", "method", "samples"]
    out = over_seeds(rows, [*line, "epoch"], "relative_error")
    return out.assign(lowest=out.index.isin(out.groupby(line)["value"].idxmin()))


def cost_by_method(cost: pd.DataFrame) -> pd.DataFrame:
    """What each method took: [criterion, method, seconds, solve_seconds, solve_tokens, trained_at_once, peak_memory_mib].

    Means over its runs: seconds in all and in the solver, tokens the solver saw, most parameters trained at once; the memory is
    the most that any run held.
    """
    solve = cost["stage"] == "solve"
    cost = cost.assign(solve_seconds=cost["seconds"].where(solve, 0), solve_tokens=cost["tokens"].where(solve, 0))
    runs = cost.groupby(["criterion", "method", "run"], sort=False).agg(
        seconds=("seconds", "sum"), solve_seconds=("solve_seconds", "sum"), solve_tokens=("solve_tokens", "sum"),
        trained_at_once=("trainable_parameters", "max"), peak_memory_mib=("peak_memory_mib", "max"),
    ).reset_index()  # fmt: skip
    means = {name: "mean" for name in ("seconds", "solve_seconds", "solve_tokens", "trained_at_once")} | {"peak_memory_mib": "max"}
    return _in_order(runs.groupby(["criterion", "method"], sort=False).agg(means).reset_index()).round(2)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A table of values with one column per split: rows (criterion, method, samples), for reading rather than drawing."""
    wide = table.pivot_table(index=["criterion", "method", "samples"], columns="split", values="value", sort=False, observed=True)
    return wide.rename(columns=say_split).rename_axis(columns=None).round(3)
