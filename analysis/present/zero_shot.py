"""Does lower error mean a better model? Zero-shot accuracy beside perplexity and held-out error, over many recipes.
Tables, figures and findings of notebook 08.

Accuracy is between 0 and 1 in tables and in per cent in figures and sentences. Models are compared within seeds, which
draw the same text for all of them; all are asked the same questions. The standard error of an accuracy is that of the
questions.
"""

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.final import ACCURACY, HELD_OUT_ERROR, PERPLEXITY, say_rank, spearman
from analysis.present.finding import Finding, enumerated, say_half
from analysis.present.panels import finish, handle, log_scale, panel_grid, pattern_fills, point_notes
from analysis.present.paper import ACCURACY as PAPER_ACCURACY
from analysis.present.paper import MODELS, RESULTS
from analysis.present.statistics import LEVEL, compare, holm, leaders
from analysis.present.style import (
    CRITERION_LOOKS,
    OTHERS,
    apart,
    in_style,
    looks,
    say_criterion,
    say_method,
    say_source,
    say_task,
)
from analysis.present.tables import on_tables, over_seeds
from analysis.schema import TABLES

RUN_COLUMNS = ["pattern", "criterion", "method", "added", "added_samples"]
UNPRUNED = {"method": "dense", "pattern": "", "criterion": "", "added": "", "added_samples": 0}
RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 10.5,
    "fillstyle": "none",
    "color": "black",
    "markeredgewidth": 0.8,
}


@on_tables
def scores(ends: pd.DataFrame, zero_shot: pd.DataFrame) -> pd.DataFrame:
    """One row per recipe, the dense model last: the columns of `RUN_COLUMNS`, then [accuracy, low, high, seeds, paired,
    "seed 0", ..., standard_error, perplexity, error, chance].

    accuracy: mean over tasks and seeds; standard_error: of the mean over tasks, from the questions of one seed; low,
    high: interval of the difference from the dense model; perplexity and error: held-out, means over seeds (the dense
    model has no error: 0); chance: of guessing in all tasks. Raises UsageError where no tasks were asked.
    """
    if zero_shot.empty:
        raise UsageError("zero-shot scores: the runs were asked no tasks; give grid tasks=['lab:yes-no', ...]")
    errors = (
        zero_shot.assign(square=zero_shot["standard_error"] ** 2)
        .groupby(["run", "which"])["square"]
        .agg(lambda squares: squares.sum() ** 0.5 / len(squares))
    )
    rows = _dense_last(ends).join(errors.rename("standard_error"), on=["run", "which"])
    accuracy = over_seeds(rows[rows["measure"] == ACCURACY], RUN_COLUMNS, "value", paired=UNPRUNED)
    accuracy = accuracy.rename(columns={"value": "accuracy"})
    out = accuracy.join(rows[rows["measure"] == ACCURACY].groupby(RUN_COLUMNS)["standard_error"].mean(), on=RUN_COLUMNS)
    for name, measure in {"perplexity": PERPLEXITY, "error": HELD_OUT_ERROR}.items():
        out = out.join(
            rows[rows["measure"] == measure].groupby(RUN_COLUMNS)["value"].mean().rename(name), on=RUN_COLUMNS
        )
    out["error"] = out["error"].fillna(0.0)
    out["chance"] = zero_shot.drop_duplicates("task")["chance"].mean()
    dense = out["method"] == "dense"
    return pd.concat([out[~dense], out[dense]], ignore_index=True)


@on_tables
def by_task(zero_shot: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each task and in the mean, by pattern and method: [group, task, ..., lost, chance, by_questions].

    value: mean over criteria and seeds; low, high: interval of its difference from the dense model over seeds, which
    all ask the same questions; lost: the dense model's accuracy less it; by_questions: half of a 95 % interval of that
    from the number of questions, as if each model had been asked its own. Groups: the dense model, then pattern by
    pattern each method, runs with added windows behind it, of each text and, where one has several, each amount; the
    task "mean" stands last.
    """
    own = {column.name for column in TABLES["zero_shot"]} - {"which"}
    runs = zero_shot.assign(square=zero_shot["standard_error"] ** 2).groupby(
        [name for name in zero_shot.columns if name not in own], sort=False
    )
    mean = runs[["chance", "accuracy"]].mean().assign(standard_error=runs["square"].sum() ** 0.5 / runs.size())
    rows = pd.concat([zero_shot, mean.reset_index().assign(task="mean")], ignore_index=True)
    dense = rows["which"] == "dense"
    added = rows[rows["added_samples"] > 0]
    several = added.groupby("added")["added_samples"].nunique() > 1
    amounts = (added["added_samples"].astype(str) + " of ").where(added["added"].map(several), "")
    behind = " + " + amounts + added["added"].map(apart(added["added"], say_source))
    words = rows["pattern"] + " " + rows["method"].map(say_method) + behind.reindex(rows.index, fill_value="")
    rows = rows.assign(group=words.mask(dense, "dense"))
    rows = pd.concat([rows[dense].drop_duplicates(["task", "seed"]), rows[~dense]])
    each = rows.groupby(["group", "task", "seed"], sort=False)["accuracy"].mean().reset_index()
    out = over_seeds(each, ["group", "task"], "accuracy", paired={"group": "dense"})
    out["lost"] = out["task"].map(out[out["group"] == "dense"].set_index("task")["value"]) - out["value"]
    out["chance"] = out["task"].map(rows.drop_duplicates("task").set_index("task")["chance"])
    error = rows.groupby(["group", "task"])["standard_error"].mean()
    unpruned = out["task"].map(error["dense"])
    out["by_questions"] = 1.96 * np.hypot(out.join(error, on=["group", "task"])["standard_error"], unpruned)
    patterns = rows.drop_duplicates("group").set_index("group")["pattern"]
    order = ["", *dict.fromkeys(patterns)]
    patterns["dense"] = ""
    groups = sorted(dict.fromkeys(out["group"]), key=lambda group: order.index(patterns[group]))
    return out.sort_values("group", key=lambda column: column.map(groups.index), kind="stable", ignore_index=True)


@on_tables
def disagreements(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of recipes of one pattern, the second with the lower perplexity: [pattern, first, second, perplexity,
    accuracy, low, high, p, corrected].

    perplexity, accuracy: second less first, the latter in points with its 95 % interval. p: of a paired t test of the
    accuracies within seeds (missing for a single seed); corrected: for all the pairs of the table (Holm).
    """
    rows, pruned = [], table[table["method"] != "dense"]
    for pattern, some in pruned.groupby("pattern", sort=False):
        order = [row for _, row in some.sort_values("perplexity", ascending=False).iterrows()]
        for place, first in enumerate(order):
            for second in order[place + 1 :]:
                gained = compare(second, first)
                percent = (100 * number for number in gained[:3])
                fluent = second["perplexity"] - first["perplexity"]
                rows.append((pattern, _name(first), _name(second), fluent, *percent, gained.p))
    pairs = pd.DataFrame(rows, columns=["pattern", "first", "second", "perplexity", "accuracy", "low", "high", "p"])
    return pairs.assign(corrected=holm(list(pairs["p"])))


@on_tables
def plot_scores(table: pd.DataFrame) -> Figure:
    """Mean accuracy against held-out perplexity and against held-out error: a point per recipe, colour by method, shape
    by criterion, filling by pattern.

    `table` is that of `scores`. Bars are intervals of the difference from the dense model; level lines: the dense model
    (dotted) and guessing (dashed); the rank correlations over the pruned models, all and of each pattern, stand above
    each panel; a ring marks runs with windows added to the calibration text.
    """
    xs = {"perplexity": "held-out perplexity", "error": "held-out relative error at the last block"}
    with in_style():
        pruned, dense = table[table["method"] != "dense"], table[table["method"] == "dense"].iloc[0]
        method_looks, fills = (looks(pruned["method"]), pattern_fills(pruned["pattern"]))
        fig, panels = panel_grid(
            pd.DataFrame({"row": [""] * 2, "x": list(xs)}), "row", "x", height=3.1, sharey=True, sharex=False
        )
        for (_, x), ax in panels.items():
            for row in pruned.itertuples():
                look, place = method_looks[row.method], getattr(row, x)
                ax.vlines(place, 100 * row.low, 100 * row.high, color=look.color, linewidth=0.8, alpha=0.35, zorder=2)
                ax.plot(
                    [place],
                    [100 * row.accuracy],
                    color=look.color,
                    marker=CRITERION_LOOKS.get(row.criterion, OTHERS[0]).marker,
                    fillstyle=fills[row.pattern],
                    markerfacecoloralt="white",
                    markersize=5.5,
                    linestyle="",
                    zorder=3,
                    gid=f"recipe {_name(row)}",
                )
                if row.added_samples:
                    ax.plot([place], [100 * row.accuracy], linestyle="", zorder=4, gid="added", **RING)
            if x == "perplexity":
                ax.plot(
                    [dense[x]],
                    [100 * dense["accuracy"]],
                    color="black",
                    marker="*",
                    markersize=10,
                    linestyle="",
                    gid="dense point",
                )
            log_scale([ax], "x")
            ax.axhline(100 * dense["accuracy"], color="black", linestyle=(0, (1, 1.2)), linewidth=1.2, gid="dense")
            ax.axhline(100 * dense["chance"], color="#777777", linestyle=(0, (5, 3)), linewidth=1.0, gid="chance")
            ax.set_title(_say_ranks(pruned, x), fontsize=8.5)
            ax.set_xlabel(xs[x])
        panels["", "perplexity"].set_ylabel("mean zero-shot accuracy, %")
        notes = point_notes(method_looks, pruned["criterion"], fills)
        if (pruned["added_samples"] > 0).any():
            notes.append(handle(OTHERS[0], "text added", linestyle="", **RING))
        notes += [
            handle(looks(["dense"])["dense"], "dense"),
            handle(OTHERS[0], "guessing", color="#777777", marker="", linestyle=(0, (5, 3))),
        ]
        finish(fig, {}, notes)
    return fig


@on_tables
def plot_tasks(table: pd.DataFrame) -> Figure:
    """Accuracy in per cent of every task and group of recipes, the darker the more of the dense model's accuracy is
    lost; pale where the loss lies within the interval over seeds or within that over questions. The larger half of the
    two stands beside the means.

    `table` is that of `by_task`; the chance of guessing stands below each task's name, groups are in order of pattern,
    runs with added text behind those of their pattern.
    """
    with in_style():
        groups, tasks = list(dict.fromkeys(table["group"])), list(dict.fromkeys(table["task"]))
        wide = table.pivot(index="group", columns="task", values="value").loc[groups, tasks]
        lost = 100 * table.pivot(index="group", columns="task", values="lost").loc[groups, tasks]
        chance = table.drop_duplicates("task").set_index("task")["chance"]
        fig, panels = panel_grid(
            pd.DataFrame({"row": [""], "column": [""]}), "row", "column", height=0.25 * len(groups) + 0.55, sharey=False
        )
        ax = panels["", ""]
        most = max(1.0, float(lost.to_numpy().max()))
        half = 100 * table["by_questions"].clip(lower=(table["high"] - table["low"]) / 2)
        halves = table.assign(half=half).pivot(index="group", columns="task", values="half").loc[groups, tasks]
        unsure = lost.abs() <= halves
        image = ax.imshow(lost, cmap="Blues", vmin=0, vmax=most, aspect="auto")
        for i in range(len(groups)):
            for j in range(len(tasks)):
                pale = groups[i] != "dense" and unsure.iat[i, j]
                color = "white" if lost.iat[i, j] > 0.6 * most else "#8a8a8a" if pale else "black"
                bar = f" ± {halves.iat[i, j]:.0f}" if tasks[j] == "mean" and groups[i] != "dense" else ""
                ax.text(j, i, f"{100 * wide.iat[i, j]:.0f}{bar}", ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(
            range(len(tasks)),
            [f"{_narrow(word)}\n({100 * chance[task]:.0f})" for task, word in apart(tasks, say_task).items()],
        )
        ax.set_yticks(range(len(groups)), groups)
        ax.axvline(len(tasks) - 1.5, color="white", linewidth=3)
        ax.grid(False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
        ax.xaxis.set_ticks_position("top")
        fig.colorbar(image, ax=ax, label="lost, points", shrink=0.9, pad=0.01, aspect=18)
        finish(fig, {})
    return fig


@on_tables
def say_ranks(table: pd.DataFrame) -> Finding:
    """Rank correlation of accuracy with perplexity and with held-out error over all pruned models and within each
    pattern, with the number of points.
    """
    pruned = table[table["method"] != "dense"]
    parts = {"all patterns": pruned} | (
        dict(tuple(pruned.groupby("pattern", sort=False))) if pruned["pattern"].nunique() > 1 else {}
    )
    lines = [
        f"- **{name}** (n = {len(rows)}): accuracy with perplexity"
        f" {spearman(rows['perplexity'], rows['accuracy']):.2f}, with held-out error"
        f" {spearman(rows['error'], rows['accuracy']):.2f}; perplexity with held-out error"
        f" {spearman(rows['perplexity'], rows['error']):.2f}."
        for name, rows in parts.items()
    ]
    dense = table[table["method"] == "dense"].iloc[0]
    said = (
        f"- The dense model has {_percent(dense)}, guessing would have {100 * dense['chance']:.1f} %; the pruned ones"
        " lie between "
    )
    return Finding(
        "\n".join(
            [*lines, said + f"{100 * pruned['accuracy'].min():.1f} % and {100 * pruned['accuracy'].max():.1f} %."]
        )
    )


@on_tables
def say_disagreements(pairs: pd.DataFrame, most: int) -> Finding:
    """How often a lower perplexity goes with a higher and with a lower accuracy, how many of these differences a test
    confirms, and the `most` clearest pairs where accuracy is lower.
    """
    parts = []
    for word, some in {
        "also more accurate": pairs[pairs["accuracy"] > 0],
        "less accurate": pairs[pairs["accuracy"] < 0],
    }.items():
        sure = [int((some[column] < LEVEL).sum()) for column in ("p", "corrected")]
        parts.append(f"{word} in {len(some)} ({sure[0]} with p < {LEVEL:g}, {sure[1]} after Holm's correction)")
    lines = [
        f"- Of {len(pairs)} pairs of recipes of one pattern, the one with the lower perplexity is {', '.join(parts)},"
        f" equal in {int((pairs['accuracy'] == 0).sum())}."
    ]
    worst = pairs[(pairs["accuracy"] < 0) & (pairs["p"] < LEVEL)].sort_values("p", kind="stable")
    lines += [
        f"- {row.pattern}: from {row.first} to {row.second} perplexity falls by {-row.perplexity:.2f}, "
        f"accuracy by {-row.accuracy:.1f} ± {(row.high - row.low) / 2:.1f} points (p = {row.p:.2g}, corrected"
        f" {row.corrected:.2g})."
        for row in worst.head(most).itertuples()
    ]
    return Finding("\n".join(lines))


@on_tables
def say_order(table: pd.DataFrame) -> Finding:
    """Per pattern and criterion: the method with the best accuracy and the one with the best perplexity, all of those
    that tie, and whether the mask alone (LR) has the best accuracy.
    """
    lines = []
    without_added = table[(table["method"] != "dense") & (table["added_samples"] == 0)]
    for (pattern, criterion), rows in without_added.groupby(["pattern", "criterion"], sort=False):
        rows = rows.set_index("method")
        right, fluent = leaders(rows["accuracy"]), leaders(rows["perplexity"], lowest=True)
        shared = set(right) & set(fluent)
        verdict = "the same" if right == fluent else "one of them" if shared else "another"
        said = enumerated([f"{_percent(rows.loc[name])} with {say_method(name)}" for name in right])
        alone = ", LR itself, as with SparseGPT on LLaMA-7B in the paper" if right == ["LR"] else ""
        lines.append(
            f"- **{say_criterion(criterion)} {pattern}**: best accuracy {said}{alone}; best perplexity"
            f" {rows['perplexity'].min():.3f} with {enumerated([say_method(name) for name in fluent])}: {verdict}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_tasks(table: pd.DataFrame) -> Finding:
    """Per group: the task that loses most of the dense model's accuracy and the one that loses least, in points, and
    the mean.
    """
    lines = []
    for group, rows in table[table["group"] != "dense"].groupby("group", sort=False):
        lost = 100 * rows.set_index("task")["lost"]
        each = lost.drop("mean")
        most, least = (f"{say_task(name)} ({each[name]:.1f})" for name in (each.idxmax(), each.idxmin()))
        lines.append(f"- **{group}**: most {most}, least {least}, in the mean {lost['mean']:.1f} points.")
    return Finding("\n".join(lines))


@on_tables
def beside_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations with mean accuracy, ours beside those over the twelve recipes of tables 1 and 3 of 2406.15524.

    Rows: here, and the paper's models; columns: with perplexity (the paper's is WikiText-2's), with the error (the
    paper's is on calibration data), points.
    """
    pruned = table[table["method"] != "dense"]
    rows = {
        "here": (
            spearman(pruned["perplexity"], pruned["accuracy"]),
            spearman(pruned["error"], pruned["accuracy"]),
            len(pruned),
        )
    }
    paper = RESULTS.merge(PAPER_ACCURACY, on=["model", "criterion", "method"])
    for model in MODELS:
        some = paper[paper["model"] == model]
        rows[f"paper, {model}"] = (
            spearman(some["wikitext2"], some["accuracy"]),
            spearman(some["error"], some["accuracy"]),
            len(some),
        )
    return pd.DataFrame.from_dict(rows, orient="index", columns=["with perplexity", "with error", "recipes"]).round(2)


def _dense_last(ends: pd.DataFrame) -> pd.DataFrame:
    """`ends` with the dense model as method "dense" without recipe, once per measure and seed."""
    dense = ends["which"] == "dense"
    bare = (
        ends[dense]
        .assign(pattern="", criterion="", method="dense", added="", added_samples=0)
        .drop_duplicates(["measure", "seed"])
    )
    pruned = ends[~dense]
    return pd.concat(
        [
            pruned.assign(added=pruned["added"].where(pruned["added_samples"] > 0, "")).drop_duplicates(
                ["measure", "run", *RUN_COLUMNS]
            ),
            bare,
        ],
        ignore_index=True,
    )


def _say_ranks(pruned: pd.DataFrame, x: str) -> str:
    """Rank correlation with accuracy over all recipes and, where there are several patterns, of each."""
    patterns = list(pruned.groupby("pattern", sort=False))
    each = ", ".join(f"{pattern}: {spearman(rows[x], rows['accuracy']):.2f}" for pattern, rows in patterns)
    return say_rank(pruned[x], pruned["accuracy"]) + (f"; {each}" if len(patterns) > 1 else "")


def _narrow(word: str) -> str:
    """A long word in two lines, where it has a hyphen or an underscore."""
    return re.sub(r"([-_])", r"\1\n", word, count=1) if len(word) > 9 else word


def _percent(row: pd.Series) -> str:
    return f"{100 * row['accuracy']:.1f} %{say_half(100 * row[['low', 'high']], '.1f')}"


def _name(row: Any) -> str:
    added = f" + {row.added_samples} of {say_source(row.added)}" if row.added_samples else ""
    return f"{say_criterion(row.criterion)} {say_method(row.method)}{added}"
