"""Local reconstruction against retraining at equal tokens, time and memory. Tables, figures and findings of
notebook 06.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.finding import Finding, say_value
from analysis.present.panels import (
    draw_levels,
    draw_lines,
    finish,
    label_axes,
    log_scale,
    number_axis,
    panel_grid,
    without_markers,
)
from analysis.present.style import CRITERIA, LEVELS, in_style, looks, say_method, say_split
from analysis.present.tables import TO_DENSE, held_out, on_tables, over_seeds, priced, with_dense


@on_tables
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
    rows = priced(with_dense(held_out(perplexity, criterion, split), ["criterion", "split", "samples"]), cost)
    epochs = rows["run"].map(steps.groupby("run")["epoch"].max()).fillna(0)
    nothing = rows["method"].isin(LEVELS)
    rows = rows.assign(
        epochs=epochs.mask(nothing, 0).astype(int), **{name: rows[name].mask(nothing, 0) for name in prices}
    )
    means = rows.groupby(by, sort=False)[prices].mean().reset_index()
    return over_seeds(rows, by, "perplexity", paired=TO_DENSE | {"epochs": 0}, ratio=True).merge(means, on=by)


@on_tables
def training_costs(budget: pd.DataFrame) -> pd.DataFrame:
    """Prices of `budgets` for reading: rows (method, samples, epochs), columns tokens, seconds and memory."""
    trained = budget[budget["epochs"] > 0].drop_duplicates(["method", "samples", "epochs"])
    wide = trained.set_index(["method", "samples", "epochs"])[["tokens", "solve_seconds", "solver_memory_mib"]]
    return wide.round(2).rename(index=say_method, level="method")


@on_tables
def plot_budget(table: pd.DataFrame) -> Figure:
    """Held-out perplexity against the tokens and the seconds that training took, one line per method through its
    numbers of epochs.

    `table` is that of `budgets` for one number of windows; left: tokens that pass every trained weight, right:
    seconds in the solver; one row of panels per held-out text. Level lines: LR and the dense model, which train
    nothing.
    """
    prices = ["tokens", "solve_seconds"]
    with in_style():
        splits = list(table["split"].unique())
        places = pd.DataFrame([(split, price) for split in splits for price in prices], columns=["split", "price"])
        fig, panels = panel_grid(places, "split", "price", height=2.6, sharey="row", sharex="col")
        for (split, price), ax in panels.items():
            panel_rows = table[table["split"] == split]
            draw_lines(ax, panel_rows[~panel_rows["method"].isin(LEVELS)], price)
        for price in prices:
            log_scale([ax for (_, column), ax in panels.items() if column == price], "x")
        for (split, _), ax in panels.items():
            low, high = ax.get_xlim()
            draw_levels(ax, table[(table["split"] == split) & table["method"].isin(LEVELS)], (low, high))
            ax.set_xlim(low, high)
        for split in splits:
            log_scale([ax for (row, _), ax in panels.items() if row == split])
        label_axes(panels, "", {split: f"perplexity\n{say_split(split)}" for split in splits})
        finish(fig, without_markers(looks(table["method"])))
    return fig


@on_tables
def plot_more_text(table: pd.DataFrame) -> Figure:
    """Held-out perplexity against the number of calibration windows, one column of panels per number of epochs, one
    line per method.

    `table` is that of `budgets`. Methods of one panel and one x have seen the same text equally often.
    """
    with in_style():
        trained = table[~table["method"].isin(LEVELS)]
        fig, panels = panel_grid(trained, "split", "epochs", height=2.4, sharey="row")
        sizes = sorted(trained["samples"].unique())
        for (split, epochs), ax in panels.items():
            panel_rows = table[(table["split"] == split) & (table["epochs"].isin((0, epochs)))]
            draw_lines(ax, panel_rows, "samples")
            number_axis(ax, sizes)
        for split in trained["split"].unique():
            log_scale([ax for (row, _), ax in panels.items() if row == split])
        label_axes(
            panels,
            "calibration windows",
            {split: f"perplexity\n{say_split(split)}" for split in trained["split"].unique()},
        )
        finish(fig, looks(table["method"]))
    return fig


@on_tables
def say_equal_tokens(budget: pd.DataFrame) -> Finding:
    """Per held-out text, number of windows and of epochs: the methods from best to worst, all having seen the same text
    equally often.

    `budget` is that of `budgets`.
    """
    lines = []
    for (criterion, split, samples, epochs), rows in _trained(budget).groupby(
        ["criterion", "split", "samples", "epochs"], sort=False
    ):
        order = rows.sort_values("value")
        said = ", ".join(f"{say_method(row.method)} {row.value:.3f}" for row in order.itertuples())
        lines.append(
            (
                samples,
                epochs,
                (
                    f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {samples} windows,"
                    f" {_epochs(epochs)}: {said}."
                ),
            )
        )
    return Finding("\n".join(line for *_, line in sorted(lines, key=lambda line: line[:2])))


@on_tables
def say_equal_time(budget: pd.DataFrame) -> Finding:
    """Per held-out text and number of windows: the best method within the time in which every method has finished at
    least once, and within the time after which the fastest has no longer run."""
    lines = []
    for (criterion, split, samples), rows in _trained(budget).groupby(["criterion", "split", "samples"], sort=False):
        seconds = rows.groupby("method")["solve_seconds"]
        parts = []
        everyone, longest = seconds.min().max(), seconds.max().min()
        for limit in [everyone, longest] if longest > everyone else [everyone]:
            done = rows[rows["solve_seconds"] <= limit]
            best = done.loc[done.groupby("method")["value"].idxmin()].sort_values("value")
            said = ", ".join(
                f"{say_method(row.method)} {row.value:.3f} ({_epochs(row.epochs)})" for row in best.itertuples()
            )
            parts.append(f"within {limit:.3g} s {said}")
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {samples} windows: {'; '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_less(budget: pd.DataFrame) -> Finding:
    """Per held-out text and retraining method: the least text and the least time with which a local method is at least
    as good as its best.

    2510.14444 (v2) claims that local reconstruction matches parameter-efficient retraining (MaskLoRA, norms and biases)
    with more than 10 times less data and compute; of full retraining and of distillation it is not said.
    """
    lines = []
    for (criterion, split), rows in _above_dense(budget).groupby(["criterion", "split"], sort=False):
        again = rows["method"].str.startswith("retrain")
        for method, runs in rows[again].groupby("method", sort=False):
            best = runs.loc[runs["above"].idxmin()]
            said = f"at best {say_value(best)} with {best['samples']} windows and {_epochs(best['epochs'])}"
            where = f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {say_method(method)}: {said}"
            enough = rows[~again & (rows["above"] <= best["above"])]
            claimed = "train=" in method
            if enough.empty:
                lines.append(f"{where}; no local run is as good{', against the claim' * claimed}.")
                continue
            tokens, fast = enough.loc[enough["tokens"].idxmin()], enough.loc[enough["solve_seconds"].idxmin()]
            text, time = tokens["tokens"] / best["tokens"], fast["solve_seconds"] / best["solve_seconds"]
            cheapest = (
                f"{say_method(tokens['method'])} is there with {100 * text:.3g} % of its tokens,"
                f" {say_method(fast['method'])} with {100 * time:.3g} % of its time"
            )
            verdict = (
                "more than 10 times less of both, as claimed"
                if max(text, time) < 0.1
                else "a match, but not with more than 10 times less of both"
            )
            lines.append(f"{where}; {cheapest}{': ' + verdict if claimed else ''}.")
    return Finding("\n".join(lines))


@on_tables
def say_memory(budget: pd.DataFrame) -> Finding:
    """What each method's solver holds at once, as a multiple of the least, for the fewest windows."""
    trained = _trained(budget)
    fewest = trained[trained["samples"] == trained["samples"].min()]
    held = fewest.groupby("method", sort=False)["solver_memory_mib"].max().sort_values()
    (least, mib), *others = held.items()
    said = ", ".join(f"{say_method(method)} {more / mib:.2g} times that ({more:.3g} MiB)" for method, more in others)
    return Finding(
        f"- With {fewest['samples'].iloc[0]} windows the solver holds least with {say_method(least)}, {mib:.3g} MiB;"
        f" {said}."
    )


def _trained(budget: pd.DataFrame) -> pd.DataFrame:
    rows = budget[budget["epochs"] > 0]
    if rows.empty:
        raise UsageError("finding about budgets: the table has no trained runs")
    return rows


def _above_dense(budget: pd.DataFrame) -> pd.DataFrame:
    """Trained runs with a column `above`, perplexity over the dense model's: held-out windows that repeat calibration
    text are left out, so other numbers of windows are measured on almost, but not quite, the same text."""
    key = ["criterion", "split", "samples"]
    dense = budget[budget["method"] == "dense"].set_index(key)["value"].rename("dense")
    rows = _trained(budget).join(dense, on=key)
    return rows.assign(above=rows["value"] / rows["dense"])


def _epochs(number: int) -> str:
    return f"{number} epoch" if number == 1 else f"{number} epochs"
