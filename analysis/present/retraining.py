"""Local reconstruction against retraining at equal tokens, time and memory. Tables, figures and findings of
notebook 06.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.finding import Finding, say_number, say_points
from analysis.present.panels import amount, finish, log_scale, panel_grid
from analysis.present.statistics import SEED, compare, decided, holm, seed_columns
from analysis.present.style import LEVELS, Look, in_style, looks, say_criterion, say_method, say_split
from analysis.present.tables import TO_LR, above_dense, held_out, on_tables, over_seeds, priced

FULL, LORA = "retrain", "retrain[train=masklora]"
PEFT = "train="  # in the words of methods that retrain few numbers
NAME_HEIGHT = 0.055  # of a line's name, in heights of a panel


@on_tables
def budgets(
    perplexity: pd.DataFrame, steps: pd.DataFrame, cost: pd.DataFrame, *, criterion=None, split=None
) -> pd.DataFrame:
    """Per cent that held-out perplexity lies above the dense model's, by what training was given: [criterion, split,
    method, samples, epochs, ..., text, tokens, solve_seconds, solver_memory_mib].

    Per cents are taken within a run, on the same windows; intervals are of the difference from LR within a seed.
    epochs: done, 0 for LR. text: calibration tokens, each counted once. tokens: those times epochs, what passes every
    trained weight however the model is cut into units. seconds and memory are the solver's, means over seeds.
    """
    by = ["criterion", "split", "method", "samples", "epochs"]
    prices = ["tokens", "solve_seconds", "solver_memory_mib"]
    rows = priced(above_dense(held_out(perplexity, criterion, split)), cost)
    epochs = rows["run"].map(steps.groupby("run")["epoch"].max()).fillna(0)
    nothing = rows["method"].isin(LEVELS)
    rows = rows.assign(
        epochs=epochs.mask(nothing, 0).astype(int),
        text=rows["samples"] * rows["length"],
        **{name: rows[name].mask(nothing, 0) for name in prices},
    )
    means = rows.groupby(by, sort=False)[["text", *prices]].mean().reset_index()
    return over_seeds(rows, by, "above", paired=TO_LR | {"epochs": 0}).merge(means, on=by)


@on_tables
def training_costs(budget: pd.DataFrame) -> pd.DataFrame:
    """Prices of `budgets` for reading: rows (method, samples, epochs), columns tokens, seconds and memory."""
    trained = budget[budget["epochs"] > 0].drop_duplicates(["method", "samples", "epochs"])
    wide = trained.set_index(["method", "samples", "epochs"])[["tokens", "solve_seconds", "solver_memory_mib"]]
    return wide.round(2).rename(index=say_method, level="method")


@on_tables
def at_their_best(budget: pd.DataFrame) -> pd.DataFrame:
    """`budgets` with one row for each method and number of windows: its best number of epochs, chosen for each seed on
    the held-out windows of the other seeds, so that what is reported was not chosen on.

    [criterion, split, method, samples, ..., text, tokens, epochs]: epochs and tokens are means over seeds. Where no
    other seed has all numbers of epochs that a seed has, as with a single one, the choice is made on that one.
    """
    by, names = ["criterion", "split", "method", "samples"], seed_columns(budget)
    rows = []
    for place, line in budget.groupby(by, sort=False):
        for name in names:
            there = line[line[name].notna()]
            others = there[[other for other in names if other != name]].dropna(axis=1)
            if there.empty:
                continue
            chosen = there.loc[(there[name] if others.empty else others.mean(axis=1)).idxmin()]
            rows.append(
                dict(zip(by, place, strict=True))
                | {"seed": int(name.removeprefix(SEED)), "above": chosen[name]}
                | {column: chosen[column] for column in ("text", "tokens", "epochs")}
            )
    table = pd.DataFrame(rows)
    means = table.groupby(by, sort=False)[["text", "tokens", "epochs"]].mean().reset_index()
    return over_seeds(table, by, "above", paired=TO_LR).merge(means, on=by)


@on_tables
def plot_budget(table: pd.DataFrame) -> Figure:
    """Perplexity above the dense model's against the tokens that training saw, one line per method through its numbers
    of epochs, named at its end.

    `table` is that of `budgets` for one number of windows; one panel per held-out text. Bars at the end: intervals of
    the difference from LR within a seed, for the longest runs. Level line: LR, which trains nothing.
    """
    return _named_lines(table, "tokens", "tokens in training: windows × length × epochs")


@on_tables
def plot_more_text(table: pd.DataFrame) -> Figure:
    """Perplexity above the dense model's against how much different text there is, one line per method, named at its
    end.

    `table` is that of `at_their_best`. Bars as in `plot_budget`, for the most text.
    """
    return _named_lines(table, "text", "different calibration tokens, each method with its best number of epochs")


def _named_lines(table: pd.DataFrame, x: str, word: str) -> Figure:
    """One line per method over column `x`; right of the panel its interval at the end of the line, and its name."""
    with in_style():
        splits, styles = list(table["split"].unique()), looks(table["method"])
        fig, panels = panel_grid(table.assign(one=""), "split", "one", height=3.6, sharey=False)
        for (split, _), ax in panels.items():
            rows = table[table["split"] == split].sort_values(x)
            for method in looks(rows["method"]):
                line, look = rows[rows["method"] == method], styles[method]
                gid = f"method {method}"
                if method in LEVELS and x == "tokens":
                    ax.axhline(line["value"].iloc[-1], color=look.color, linestyle=look.line, linewidth=1.2, gid=gid)
                    continue
                marker = "" if method in LEVELS else look.marker
                ax.plot(line[x], line["value"], color=look.color, marker=marker, linestyle=look.line, zorder=3, gid=gid)
            log_scale([ax], "x")
            ax.set_ylim(bottom=min(0, rows["value"].min()))
            ax.set_title("")
            ax.set_ylabel(f"perplexity, % above dense\n{say_split(split)}")
            _name_ends(ax, rows.groupby("method", sort=False).tail(1).set_index("method"), styles)
        panels[splits[-1], ""].set_xlabel(word)
        finish(fig, {})
    return fig


def _name_ends(ax: Axes, ends: pd.DataFrame, styles: dict[str, Look]) -> None:
    """Right of a panel: each line's interval, side by side, and its name, moved up or down until none covers
    another.
    """
    along = ax.get_yaxis_transform()
    ends = ends.sort_values("value")
    low, high = ax.get_ylim()
    at = _apart((ends["value"] - low) / (high - low), NAME_HEIGHT)
    name_x = 1.03 + 0.014 * len(ends)
    for place, ((method, row), height) in enumerate(zip(ends.iterrows(), at, strict=True)):
        color, x = styles[str(method)].color, 1.02 + 0.014 * place
        mark: dict[str, Any] = {"transform": along, "color": color, "clip_on": False}
        ax.plot([x], [row["value"]], marker=styles[str(method)].marker or "_", markersize=4, gid="end", **mark)
        if row["low"] == row["low"]:
            ax.plot([x, x], [row["low"], row["high"]], linewidth=1.4, gid="interval", **mark)
        ax.text(name_x, height, say_method(str(method)), color=color, fontsize=8, va="center", transform=ax.transAxes)


def _apart(heights, least: float) -> list[float]:
    """Heights in rising order, moved as little as their order allows until neighbours are `least` apart."""
    blocks: list[tuple[float, int]] = []  # centre, names
    for height in heights:
        blocks.append((height, 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < least * (blocks[-1][1] + blocks[-2][1]) / 2:
            (one, few), (other, many) = blocks.pop(), blocks.pop()
            blocks.append(((one * few + other * many) / (few + many), few + many))
    return [centre + least * (place - (names - 1) / 2) for centre, names in blocks for place in range(names)]


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
        said = ", ".join(f"{say_method(row.method)} {row.value:.1f}" for row in rows.sort_values("value").itertuples())
        text = (
            f"- **{say_criterion(criterion)}**, {say_split(split)}, {amount(samples, 'window')},"
            f" {amount(epochs, 'epoch')}, per cent above dense: {said}."
        )
        lines.append((samples, epochs, text))
    return Finding("\n".join(line for *_, line in sorted(lines, key=lambda line: line[:2])))


@on_tables
def say_baselines(best: pd.DataFrame) -> Finding:
    """Per held-out text and number of windows: full retraining against MaskLoRA, which trains a part of what it trains.

    `best` is that of `at_their_best`. Where the part does better than the whole, full retraining was not given what it
    needs (learning rate, epochs), or little text punishes freedom.
    """
    rows = best.set_index(["criterion", "split", "samples", "method"])
    places = [
        place
        for place in dict.fromkeys(key[:-1] for key in rows.index)
        if {(*place, FULL), (*place, LORA)} <= set(rows.index)
    ]
    if not places:
        return Finding(f"- {say_method(FULL)} and {say_method(LORA)} were not both run.")
    changes = [compare(rows.loc[(*place, FULL)], rows.loc[(*place, LORA)]) for place in places]
    lines = []
    for (criterion, split, samples), change, p in zip(
        places, changes, holm([change.p for change in changes]), strict=True
    ):
        verdict = "undecided" if not decided(p) else "worse" if change.difference > 0 else "better"
        lines.append(
            f"- **{say_criterion(criterion)}**, {say_split(split)}, {amount(samples, 'window')}:"
            f" {say_method(FULL)} {rows.loc[(criterion, split, samples, FULL), 'value']:.1f} % above dense,"
            f" {say_method(LORA)} {rows.loc[(criterion, split, samples, LORA), 'value']:.1f} %:"
            f" {say_points(change)}, {verdict}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_less(best: pd.DataFrame) -> Finding:
    """Per held-out text and retraining method: how many times less text a local method needs to be as good as its best.

    `best` is that of `at_their_best`; as good: a mean no higher. Texts grow in steps, so the number lies between two:
    with the text given the local method is as good, with the step before it is not. 2510.14444 (v2) claims that local
    reconstruction matches parameter-efficient retraining (MaskLoRA, norms and biases) with more than 10 times less data
    and compute; of full retraining and of distillation it is not said.
    """
    lines = []
    rows = best[~best["method"].isin(LEVELS)]
    for (criterion, split), text in rows.groupby(["criterion", "split"], sort=False):
        again = text["method"].str.startswith("retrain")
        for method, runs in text[again].groupby("method", sort=False):
            lines.append(
                f"- **{say_criterion(criterion)}**, {say_split(split)}, {_say_less(method, runs, text[~again])}."
            )
    return Finding("\n".join(lines))


def _say_less(method: str, runs: pd.DataFrame, local: pd.DataFrame) -> str:
    """One retraining method against all local ones, in words."""
    top = runs.loc[runs["value"].idxmin()]
    claimed = PEFT in method
    said = f"{say_method(method)}: at best {top['value']:.1f} % above dense, with {top['text']:,.0f} tokens of text"
    enough = local[local["value"] <= top["value"]]
    if local.empty:
        return f"{said}; no local method was run"
    if enough.empty:
        return f"{said}; no local run is as good{', against the claim' * claimed}"
    one = enough.loc[enough["text"].idxmin()]
    before = local[(local["method"] == one["method"]) & (local["text"] < one["text"])]["text"]
    least, most = top["text"] / one["text"], top["text"] / before.max() if len(before) else None
    times = (
        f"at least {say_number(least)} times less"
        if most is None
        else f"{say_number(least)} to {say_number(most)} times less"
    )
    compute = top["tokens"] / one["tokens"]
    said += (
        f"; {say_method(one['method'])} is as good with {one['text']:,.0f} ({say_points(compare(one, top))}): {times}"
        f" text, {_say_times(compute)} tokens in training"
    )
    verdict = (
        "more than 10 times less text, as claimed"
        if least > 10
        else "not 10 times less text, against the claim"
        if most is not None and most <= 10
        else "whether it is more than 10 times less text stays open"
    )
    return f"{said}: {verdict}" if claimed else said


def _say_times(ratio: float) -> str:
    return f"{say_number(ratio, 2)} times fewer" if ratio >= 1 else f"{say_number(1 / ratio, 2)} times more"


@on_tables
def say_memory(budget: pd.DataFrame) -> Finding:
    """What each method's solver holds at once, as a multiple of the least, for the fewest windows."""
    trained = _trained(budget)
    fewest = trained[trained["samples"] == trained["samples"].min()]
    held = fewest.groupby("method", sort=False)["solver_memory_mib"].max().sort_values()
    (least, mib), *others = held.items()
    said = [f"{say_method(least)}, {say_number(mib)} MiB"]
    if others:
        times = (
            f"{say_method(name)} {say_number(more / mib, 2)} times that ({say_number(more)} MiB)"
            for name, more in others
        )
        said.append(", ".join(times))
    return Finding(
        f"- With {amount(fewest['samples'].iloc[0], 'window')} the solver holds least with {'; '.join(said)}."
    )


def _trained(budget: pd.DataFrame) -> pd.DataFrame:
    rows = budget[budget["epochs"] > 0]
    if rows.empty:
        raise UsageError("finding about budgets: the table has no trained runs")
    return rows
