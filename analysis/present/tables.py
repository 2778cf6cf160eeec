"""From a study's tables to the rows that a figure shows: pick, take the mean over seeds, put in reading order.

Every function takes a table of a study (its columns are in `analysis.records`) and returns a new tidy table with
columns `value` (mean over seeds), `std` (standard deviation over seeds, 0 for one) and `seeds` (how many). Figures draw
such tables and nothing else, so what is saved beside a figure is what it shows.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.errors import UsageError
from analysis.present.style import CRITERIA, LEVELS, METHODS, REFINEMENTS, say_method, say_split, unit_order
from analysis.records import CALIBRATION

KINDS = ("total", "inherited", "local")
STREAMS = {
    ("sparse", "sparse"): "BR",
    ("sparse", "dense"): "BR+GP",
    ("dense", "dense"): "IR",
}  # (student, target): the method known for it
NO_UNIT = (*LEVELS, "retrain")  # methods whose unit is not a choice


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean and standard deviation of `value` over seeds, one row for each combination of `by`, in reading order.

    Raises UsageError if two rows of one combination share a seed: the table then mixes what `by` does not tell apart.
    """
    if table.empty:
        raise UsageError(f"figure table by {', '.join(by)}: no rows are left after choosing")
    twice = table[table.duplicated([*by, "seed"], keep=False)]
    if len(twice):
        differ = [name for name in table.columns if name not in (*by, "seed", value) and twice[name].nunique() > 1]
        raise UsageError(
            f"figure table by {', '.join(by)}: {len(twice)} rows share a seed; choose among"
            f" {', '.join(differ) or 'runs'}"
        )
    groups = table.groupby(list(by), sort=False, observed=True)[value]
    out = groups.agg(value="mean", std=lambda v: v.std(ddof=0), seeds="count").reset_index()
    return _in_order(out)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by measure, pattern, criterion, split, kind, method, refinement, unit, added text (all in their own order),
    then by the numbers.
    """
    orders = {
        "measure": [],
        "pattern": [],
        "criterion": list(CRITERIA),
        "split": [CALIBRATION],
        "kind": list(KINDS),
        "method": list(METHODS),
        "streams": list(METHODS),
        "refinement": list(REFINEMENTS),
        "granularity": unit_order(table.get("granularity", [])),
        "calibration": [],
        "added": [],
    }
    keys = [
        name for name in (*orders, "samples", "added_samples", "weights", "epochs", "block", "epoch") if name in table
    ]

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
            raise UsageError(
                f"choose rows: {name} {', '.join(map(str, missing))} is not in the table; it has"
                f" {', '.join(map(str, there))}"
            )
        table = table[table[name].isin(values)]
    return table


def block_profile(blocks: pd.DataFrame, *, kind="total", criterion=None, split=None) -> pd.DataFrame:
    """Relative error at every block's output: [criterion, split, kind, method, block, value, std, seeds].

    The error is the mean squared difference over the mean square of the dense output: `total` between dense and sparse
    stream, `inherited` between a dense block's outputs on both, `local` between pruned and dense block on the sparse
    stream. The first block inherits nothing; its zero has no place on a log scale and is left out.
    """
    rows = choose(blocks, kind=kind, criterion=criterion, split=split)
    rows = rows[(rows["kind"] != "inherited") | (rows["block"] > 0)]
    return over_seeds(rows, ["criterion", "split", "kind", "method", "block"], "relative_error")


def last_block(blocks: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Total relative error at the last block, the one number of the papers' tables: [criterion, split, method, samples,
    ...].
    """
    rows = choose(blocks, kind="total", criterion=criterion, split=split)
    rows = rows[rows["block"] == rows["block"].max()]
    return over_seeds(rows, ["criterion", "split", "method", "samples"], "relative_error")


def perplexities(perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Perplexity of every pruned model and, as method "dense", of the dense one: [criterion, split, method, samples,
    ...].
    """
    rows = _with_dense(choose(perplexity, criterion=criterion, split=split), ["criterion", "split", "samples"])
    return over_seeds(rows, ["criterion", "split", "method", "samples"], "perplexity")


def sample_size(blocks: pd.DataFrame, perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """`last_block` and `perplexities` in one table, told apart by a first column `measure`."""
    error = last_block(blocks, criterion=criterion, split=split).assign(measure="relative error")
    text = perplexities(perplexity, criterion=criterion, split=split).assign(measure="perplexity")
    both = pd.concat([error, text], ignore_index=True)
    return both[["measure", *both.columns.drop("measure")]]


def epochs(steps: pd.DataFrame, *, unit: int = -1, criterion=None, split=None) -> pd.DataFrame:
    """Relative error of one unit's output while it is optimised: [criterion, split, method, samples, epoch, ...,
    lowest].

    `unit` counts from the front, or from the back if negative (a method with overlapping windows has one unit more).
    `lowest` marks, on each line, the epoch with the lowest error: where the held-out line turns up again, the unit
    overfits.
    """
    rows = choose(steps, criterion=criterion, split=split)
    count = rows.groupby(["run"])["unit"].transform("max") + 1
    rows = rows[rows["unit"] == (unit if unit >= 0 else count + unit)]
    line = ["criterion", "split", "method", "samples"]
    out = over_seeds(rows, [*line, "epoch"], "relative_error")
    return out.assign(lowest=out.index.isin(out.groupby(line)["value"].idxmin()))


def cost_by_method(cost: pd.DataFrame) -> pd.DataFrame:
    """What each method took: [criterion, method, seconds, solve_seconds, solve_tokens, trained_at_once,
    peak_memory_mib].

    Means over its runs: seconds in all and in the solver, tokens the solver saw, most parameters trained at once; the
    memory is the most that any run held.
    """
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


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A table of values with one column per split: rows (criterion, method, samples), for reading rather than
    drawing.
    """
    wide = table.pivot_table(
        index=["criterion", "method", "samples"], columns="split", values="value", sort=False, observed=True
    )
    return wide.rename(columns=say_split).rename_axis(columns=None).round(3)


def granularity(blocks: pd.DataFrame, perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Perplexity and total relative error at the last block by unit: [measure, criterion, split, method, streams,
    granularity, ...].

    `method` is the bare word (BR, BR+GP, IR, ridge, LR, dense), `streams` the gradient method with the same student and
    target streams, `granularity` what was solved at once; LR and the dense model have neither.
    """
    by = ["criterion", "split", "method", "streams", "granularity"]
    text = _with_dense(choose(perplexity, criterion=criterion, split=split), ["criterion", "split"])
    error = choose(blocks, kind="total", criterion=criterion, split=split)
    error = error[error["block"] == error["block"].max()]
    parts = {"perplexity": (text, "perplexity"), "relative error": (error, "relative_error")}
    both = [
        over_seeds(_by_streams(rows), by, value).assign(measure=measure) for measure, (rows, value) in parts.items()
    ]
    table = pd.concat(both, ignore_index=True)
    return table[["measure", *table.columns.drop("measure")]]


def cost_of_units(perplexity: pd.DataFrame, cost: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Held-out perplexity beside what the solver took: [price, criterion, split, method, streams, granularity, ...,
    cost, front].

    price: "MiB the solver holds" or "seconds in the solver"; cost: its mean over seeds. front: no other method, streams
    or unit is both at least as cheap and at least as good. LR and the dense model cost nothing: their cost is missing.
    """
    by = ["criterion", "split", "method", "streams", "granularity"]
    rows = _by_streams(_priced(_with_dense(_held_out(perplexity, criterion, split), ["criterion", "split"]), cost))
    parts = []
    for price, column in {
        "MiB the solver holds": "solver_memory_mib",
        "seconds in the solver": "solve_seconds",
    }.items():
        part = over_seeds(rows, by, "perplexity").merge(
            over_seeds(rows, by, column)[[*by, "value"]].rename(columns={"value": "cost"}), on=by
        )
        part["cost"] = part["cost"].where(~part["method"].isin(LEVELS))
        part["front"] = False
        for _, panel in part.groupby(["criterion", "split"], sort=False):
            part.loc[panel.index, "front"] = _front(panel["cost"], panel["value"])
        parts.append(part.assign(price=price))
    table = pd.concat(parts, ignore_index=True)
    return table[["price", *table.columns.drop("price")]]


def criteria(perplexity: pd.DataFrame, *, pattern=None, split=None) -> pd.DataFrame:
    """Held-out perplexity of every criterion: [pattern, criterion, refinement, split, method, value, std, seeds];
    "dense" is the dense model.
    """
    by = ["pattern", "split", "criterion", "refinement", "method"]
    rows = _with_dense(choose(_held_out(perplexity, None, split), pattern=pattern), ["pattern", "split", "criterion"])
    rows = rows.assign(refinement=rows["refinement"].where(rows["method"] != "dense", "none"))
    return over_seeds(rows, by, "perplexity")


def layer_changes(layers: pd.DataFrame, *, method: str = "LR", pattern=None) -> pd.DataFrame:
    """What a refinement leaves of each matrix's error, before any reconstruction: [pattern, criterion, refinement,
    block, matrix, ...].

    `value` is the squared difference from the dense matrix's outputs under the refined mask over that under the plain
    one, on the calibration text. `method` chooses the runs it is read from: with LR the streams are those of the masks
    alone.
    """
    rows = choose(layers[layers["action"].isin(("swaps", "fw"))], method=method, pattern=pattern)
    rows = rows.assign(left=rows["error_after"] / rows["error_before"])
    return over_seeds(rows, ["pattern", "criterion", "refinement", "block", "matrix"], "left")


def budgets(
    perplexity: pd.DataFrame, steps: pd.DataFrame, cost: pd.DataFrame, *, criterion=None, split=None
) -> pd.DataFrame:
    """Held-out perplexity by what training was given: [criterion, split, method, samples, epochs, ..., tokens,
    solve_seconds, solver_memory_mib].

    epochs: done, 0 for LR and the dense model. tokens: calibration tokens times epochs, what passes every trained
    weight however the model is cut into units. seconds and memory are the solver's, means over seeds.
    """
    by = ["criterion", "split", "method", "samples", "epochs"]
    prices = ["tokens", "solve_seconds", "solver_memory_mib"]
    rows = _priced(_with_dense(_held_out(perplexity, criterion, split), ["criterion", "split", "samples"]), cost)
    epochs = rows["run"].map(steps.groupby("run")["epoch"].max()).fillna(0)
    nothing = rows["method"].isin(LEVELS)
    rows = rows.assign(
        epochs=epochs.mask(nothing, 0).astype(int), **{name: rows[name].mask(nothing, 0) for name in prices}
    )
    means = rows.groupby(by, sort=False)[prices].mean().reset_index()
    return over_seeds(rows, by, "perplexity").merge(means, on=by)


def solver_costs(cost: pd.DataFrame) -> pd.DataFrame:
    """What the solver of each run took: [run, solve_seconds, tokens, trained_at_once, solver_memory_mib].

    seconds are summed over units, the rest is the most of any unit: tokens that pass a trained weight, parameters
    trained at once, MiB held at once. Zeros for a run without a solver.
    """
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


def units_side_by_side(prices: pd.DataFrame) -> pd.DataFrame:
    """`cost_of_units` for reading: rows (method, streams, unit), columns perplexity per held-out text and what each
    price came to.
    """
    key = ["criterion", "method", "streams", "granularity"]
    solved = prices[prices["cost"].notna()]
    text = (
        solved.pivot_table(index=key, columns="split", values="value", sort=False, observed=True)
        .rename(columns=say_split)
        .round(3)
    )
    paid = solved.pivot_table(index=key, columns="price", values="cost", sort=False, observed=True).round(2)
    return text.join(paid).rename_axis(columns=None)


def training_costs(budget: pd.DataFrame) -> pd.DataFrame:
    """Prices of `budgets` for reading: rows (method, samples, epochs), columns tokens, seconds and memory."""
    trained = budget[budget["epochs"] > 0].drop_duplicates(["method", "samples", "epochs"])
    wide = trained.set_index(["method", "samples", "epochs"])[["tokens", "solve_seconds", "solver_memory_mib"]]
    return wide.round(2).rename(index=say_method, level="method")


def _held_out(perplexity: pd.DataFrame, criterion, split) -> pd.DataFrame:
    rows = choose(perplexity, criterion=criterion, split=split)
    return rows[rows["split"] != CALIBRATION]


def _priced(perplexity: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """Each row with what its run's solver took; `tokens` is then the solver's."""
    return perplexity.drop(columns="tokens").merge(solver_costs(cost), on="run", validate="many_to_one")


def _with_dense(perplexity: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Rows of pruned models and, as method "dense", of the dense one: every run measures it anew on windows of its own
    seed, one is kept.
    """
    rows = perplexity.assign(method=perplexity["method"].where(perplexity["which"] == "pruned", "dense"))
    dense = rows["method"] == "dense"
    return pd.concat([rows[dense].drop_duplicates([*by, "seed"]), rows[~dense]])


def _by_streams(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the bare word in `method`, a column `streams`, and no granularity for a method that has no choice of
    it.
    """
    method = table["method"].str.partition("[")[0]
    without = method.isin(NO_UNIT)
    streams = pd.Series(
        [STREAMS[pair] for pair in zip(table["student"], table["target"], strict=True)], index=table.index
    )
    return table.assign(
        method=method, streams=streams.mask(without, ""), granularity=table["granularity"].mask(without, "")
    )


def _front(cost: pd.Series, value: pd.Series) -> list[bool]:
    """Which points no other point dominates (at least as cheap and as good, and one of them truly); never those without
    a cost.
    """
    pairs = list(zip(cost, value, strict=True))
    return [c == c and not any((a <= c and b <= v) and (a, b) != (c, v) for a, b in pairs) for c, v in pairs]
