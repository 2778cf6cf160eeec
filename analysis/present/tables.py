"""From a study's tables to the rows that a figure shows: pick, take the mean over seeds, put in reading order.

Every function takes a table of a study (its columns are in `analysis.schema`) and returns a new tidy table with the
columns of `over_seeds`: `value` (mean over seeds), `low` and `high` (its 95 % interval), `seeds` (how many), and the
value of every seed. Figures draw such tables and nothing else, so what is saved beside a figure is what it shows.
"""

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.statistics import SEED, intervals
from analysis.present.style import CRITERIA, METHOD_LOOKS, REFINEMENTS, say_split, unit_order
from analysis.schema import CALIBRATION, JOB_FIELDS

P = ParamSpec("P")
R = TypeVar("R")
DRAWN_KINDS = ("total", "inherited", "local", "cross")
TO_LR, TO_DENSE = {"method": "LR"}, {"method": "dense"}  # what errors and perplexities are paired with


def on_tables(function: Callable[P, R]) -> Callable[P, R]:
    """A function of tables, which says in a UsageError where one is none or lacks a column, or a row, that it reads.

    A figure that it draws is labelled with the first paragraph of its docstring, the description that its svg carries.
    """
    signature = inspect.signature(function)
    kinds = {name: str(one.annotation) for name, one in signature.parameters.items() if one.kind != one.VAR_POSITIONAL}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        values = signature.bind(*args, **kwargs).arguments
        tables = {
            name: values[name]
            for name, kind in kinds.items()
            if "DataFrame" in kind and name in values and not (values[name] is None and "None" in kind)
        }
        for name, table in tables.items():
            check_table(f"{function.__name__}: {name}", table, rows=False)
        try:
            out = function(*args, **kwargs)
        except KeyError as error:
            if "pandas" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts:
                raise
            shown = "; ".join(f"{name} has {', '.join(map(str, table)) or 'none'}" for name, table in tables.items())
            raise UsageError(
                f"{function.__name__}: {str(error.args[0])!r} is no column and no row there; {shown}"
            ) from error
        if isinstance(out, Figure):
            out.set_label(" ".join((inspect.getdoc(function) or "").partition("\n\n")[0].replace("`", "").split()))
        return out

    return checked


def check_table(what: str, table: object, *columns: str, rows: bool = True) -> None:
    """Raise UsageError unless `table` is a DataFrame with these columns and, where `rows` are needed, any."""
    if not isinstance(table, pd.DataFrame):
        raise UsageError(f"{what}: a table (pandas DataFrame) is needed, got {type(table).__name__}")
    if missing := [name for name in columns if name not in table]:
        raise UsageError(
            f"{what}: the table has no column {', '.join(map(str, missing))}; it has"
            f" {', '.join(map(str, table.columns)) or 'none'}"
        )
    if rows and table.empty:
        raise UsageError(f"{what}: no rows are left after choosing")


def over_seeds(
    table: pd.DataFrame,
    by: Sequence[str],
    value: str,
    *,
    paired: Mapping[str, object] | None = None,
    ratio: bool = False,
) -> pd.DataFrame:
    """Mean of `value` over seeds with its 95 % interval, one row for each combination of `by`, in reading order.

    Columns: `by`, then value (the mean), low and high (the interval by t, missing for a single seed), seeds (how many),
    paired (see below), and "seed 0", "seed 1", ...: the value of each seed, missing where it was not run.

    paired: the row that others are compared with, such as {"method": "LR"}: the same `by` but for these columns. The
    interval is then that of the difference within a seed, drawn around the mean: a seed draws text for all rows alike,
    and what that adds to all of them widens nothing. Column `paired` names the reference; the reference itself has no
    interval, a row without one that of its own mean (`paired` empty). ratio: differences are those of logarithms,
    right for errors and perplexities; low and high then lie a common factor below and above.

    Raises UsageError if two rows of one combination share a seed (the table then mixes what `by` does not tell apart),
    or if `paired` names a column that is not in `by`.
    """
    what = f"figure table by {', '.join(by)}"
    check_table(what, table, *by, "seed", value)
    if unknown := [name for name in paired or () if name not in by]:
        raise UsageError(f"{what}: paired names {', '.join(unknown)}, which does not tell its rows apart")
    twice = table[table.duplicated([*by, "seed"], keep=False)]
    if len(twice):
        differ = [name for name in table.columns if name not in (*by, "seed", value) and twice[name].nunique() > 1]
        raise UsageError(f"{what}: {len(twice)} rows share a seed; choose among {', '.join(differ) or 'runs'}")
    groups = table.groupby(list(by), sort=False, observed=True, dropna=False)
    out = groups[value].agg(value="mean", seeds="count").reset_index()
    each = np.full((len(out), table["seed"].nunique()), np.nan)
    seeds = sorted(table["seed"].unique())
    each[groups.ngroup(), table["seed"].map(seeds.index)] = table[value]
    values = pd.DataFrame(each, columns=[f"{SEED}{seed}" for seed in seeds], index=out.index)
    half, names = intervals(values, out[list(by)], paired, ratio)
    low, high = (out["value"] * np.exp(sign * half) if ratio else out["value"] + sign * half for sign in (-1, 1))
    return _in_order(
        pd.concat(
            [
                out[[*by, "value"]],
                pd.DataFrame({"low": low, "high": high, "seeds": out["seeds"], "paired": names}),
                values,
            ],
            axis=1,
        )
    )


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by measure, pattern, criterion, split, kind, method, refinement, unit, added text (all in their own order),
    then by the numbers.
    """
    orders = {
        "measure": [],
        "pattern": [],
        "criterion": list(CRITERIA),
        "split": [CALIBRATION],
        "kind": list(DRAWN_KINDS),
        "method": list(METHOD_LOOKS),
        "streams": list(METHOD_LOOKS),
        "refinement": list(REFINEMENTS),
        "granularity": unit_order(table.get("granularity", [])),
        "calibration": [],
        "added": [],
    }
    keys = [
        name for name in (*orders, "samples", "added_samples", "weights", "epochs", "block", "epoch") if name in table
    ]

    def rank(column: pd.Series) -> pd.Series:
        order = orders.get(column.name)
        if order is None:
            return column
        seen = list(dict.fromkeys(column))
        places = {name: i for i, name in enumerate([*order, *(name for name in seen if name not in order)])}
        return column.map(places)

    return table.sort_values(keys, key=rank, kind="stable", ignore_index=True)


def choose(table: pd.DataFrame, **wanted) -> pd.DataFrame:
    """The rows whose columns hold the wanted values (one value or several); None leaves a column alone.

    Raises UsageError naming the column, what was asked for and what there is, if a value is nowhere in it.
    """
    wanted = {name: values for name, values in wanted.items() if values is not None}
    check_table("choose rows", table, *wanted, rows=False)
    for name, values in wanted.items():
        values = [values] if isinstance(values, (str, int, float)) else list(values)
        available = list(dict.fromkeys(table[name]))
        missing = [value for value in values if value not in available]
        if missing:
            raise UsageError(
                f"choose rows: {name} {', '.join(map(str, missing))} is not in the table; it has"
                f" {', '.join(map(str, available))}"
            )
        table = table[table[name].isin(values)]
    return table


@on_tables
def last_block(blocks: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Total relative error at the last block, the one number of the papers' tables: [criterion, split, method, samples,
    ...].
    """
    rows = choose(blocks, kind="total", criterion=criterion, split=split)
    rows = rows[rows["block"] == rows["block"].max()]
    return over_seeds(rows, ["criterion", "split", "method", "samples"], "relative_error", paired=TO_LR, ratio=True)


@on_tables
def perplexities(perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Perplexity of every pruned model and, as method "dense", of the dense one: [criterion, split, method, samples,
    ...].
    """
    rows = with_dense(choose(perplexity, criterion=criterion, split=split), ["criterion", "split", "samples"])
    return over_seeds(rows, ["criterion", "split", "method", "samples"], "perplexity", paired=TO_DENSE, ratio=True)


@on_tables
def cost_by_method(cost: pd.DataFrame) -> pd.DataFrame:
    """What each method took: [criterion, method, seconds, solve_seconds, solve_tokens, trained_at_once,
    peak_memory_mib].

    Means over its runs: seconds in all and in the solver, tokens the solver saw, most parameters trained at once; the
    memory is the most that any run held.
    """
    check_table("cost by method", cost, "run", "criterion", "method", "stage", "seconds", "tokens", rows=False)
    cost = once(cost)
    solve = cost["stage"] == "solve"
    cost = cost.assign(solve_seconds=cost["seconds"].where(solve, 0), solve_tokens=cost["tokens"].where(solve, 0))
    runs = (
        cost.groupby(["criterion", "method", "run"], sort=False)
        .agg(
            seconds=("seconds", "sum"),
            solve_seconds=("solve_seconds", "sum"),
            solve_tokens=("solve_tokens", "sum"),
            trained_at_once=("trainable_parameters", "max"),
            peak_memory_mib=("peak_memory_mib", "max"),
        )
        .reset_index()
    )
    means = dict.fromkeys(("seconds", "solve_seconds", "solve_tokens", "trained_at_once"), "mean") | {
        "peak_memory_mib": "max"
    }
    return _in_order(runs.groupby(["criterion", "method"], sort=False).agg(means).reset_index()).round(2)


@on_tables
def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A table of values with one column per split: rows (criterion, method, samples), for reading rather than
    drawing.
    """
    check_table("side by side", table, "criterion", "method", "samples", "split", "value", rows=False)
    wide = table.pivot_table(
        index=["criterion", "method", "samples"], columns="split", values="value", sort=False, observed=True
    )
    return wide.rename(columns=say_split).rename_axis(columns=None).round(3)


@on_tables
def once(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run once: jobs that ask for the same run, such as one that adds no windows of this text and one
    that adds none of that, each have all its rows.
    """
    check_table("rows of each run once", rows, "run", rows=False)
    jobs = rows.groupby([name for name in JOB_FIELDS if name in rows], sort=False, dropna=False)
    number = jobs.ngroup()
    return rows[number == number.groupby(rows["run"], sort=False).transform("first")]


@on_tables
def solver_costs(cost: pd.DataFrame) -> pd.DataFrame:
    """What the solver of each run took: [run, solve_seconds, tokens, trained_at_once, solver_memory_mib].

    seconds are summed over units, the rest is the most of any unit: tokens that pass a trained weight, parameters
    trained at once, MiB held at once. Zeros for a run without a solver.
    """
    check_table("solver costs", cost, "run", "stage", "seconds", "tokens", rows=False)
    cost = once(cost)
    solve = (
        cost[cost["stage"] == "solve"]
        .groupby("run", sort=False)
        .agg(
            solve_seconds=("seconds", "sum"),
            tokens=("tokens", "max"),
            trained_at_once=("trainable_parameters", "max"),
            solver_memory_mib=("solver_memory_mib", "max"),
        )
    )
    return solve.reindex(pd.unique(cost["run"]), fill_value=0).rename_axis("run").reset_index()


@on_tables
def held_out(perplexity: pd.DataFrame, criterion, split) -> pd.DataFrame:
    """The chosen rows without those of the calibration text."""
    rows = choose(perplexity, criterion=criterion, split=split)
    return rows[rows["split"] != CALIBRATION]


@on_tables
def priced(perplexity: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """Each row with what its run's solver took; `tokens` is then the solver's."""
    return perplexity.drop(columns="tokens").merge(solver_costs(cost), on="run", validate="many_to_one")


@on_tables
def with_dense(perplexity: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Rows of pruned models and, as method "dense", of the dense one: every run measures it anew on windows of its own
    seed, one is kept.
    """
    rows = perplexity.assign(method=perplexity["method"].where(perplexity["which"] == "pruned", "dense"))
    dense = rows["method"] == "dense"
    return pd.concat([rows[dense].drop_duplicates([*by, "seed"]), rows[~dense]])


@on_tables
def above_dense(perplexity: pd.DataFrame) -> pd.DataFrame:
    """Rows of pruned models with `above`: by how many per cent their perplexity exceeds that of the dense model of the
    same run, on the same windows.
    """
    key = ["run", "split"]
    dense = perplexity[perplexity["which"] == "dense"].set_index(key)["perplexity"].rename("dense")
    pruned = perplexity[perplexity["which"] == "pruned"].join(dense, on=key)
    return pruned.assign(above=100 * (pruned["perplexity"] / pruned["dense"] - 1)).drop(columns="dense")
