"""What of an encoder's score survives when whole heads or neurons go, and what each closed-form repair gives back.
Tables and figures of notebook 09; what they say is in `structured_findings`.

Scores are told in per cent of the dense model's, and every comparison with it is made within a seed, which draws the
same examples for both. Shares removed are told twice: of the structures of a kind, and of all parameters of the model.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.errors import UsageError
from analysis.present.encoder_runs import (
    ENOUGH,
    HALF,
    PLACE,
    TASK,
    held_out_scores,
    in_order,
    kinds,
    repair_handles,
    repair_looks,
    say_kind,
    say_scored,
    task_titles,
    tasks,
    with_parameters,
    with_shares,
)
from analysis.present.panels import Panels, finish, handle, label_axes, number_axis, panel_grid, plain_axis
from analysis.present.style import METHOD_LOOKS, Look, in_style
from analysis.present.tables import on_tables, over_seeds

NORMAL = 1.96  # standard errors on either side of 95 per cent of a normal distribution
SIZES = {
    "parameters": "parameters",
    "flops_per_token": "FLOPs per token",
    "latency_ms": "latency, ms",
    "tokens_per_second": "tokens per second",
}
LITTLE = 75.0  # per cent of the dense score: where all is above, scales do not begin at 0
GUESS = Look("#777777", "", (0, (5, 3)))
PAPER = Look("#000000", "*", "")


@on_tables
def survival(
    scores: pd.DataFrame,
    structures: pd.DataFrame,
    matrices: pd.DataFrame,
    size: pd.DataFrame,
    chance: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Held-out score in per cent of the dense model's, by what was removed: [task, metric, kind, criterion, method,
    removed, pattern, samples, value, ..., parameters, score, dense, error, guessing].

    kind: heads, neurons, or structures (both). removed, parameters: per cent removed of the structures of that kind and
    of all parameters. samples: calibration examples. score, dense: the scores themselves; error: standard error of
    `value` from the examples of one seed; guessing: in per cent of the dense score, NaN where it is not known; means
    over seeds. chance: {calibration source: score of guessing}. With one seed, the interval is that of its examples.
    Raises UsageError where no run was scored on held-out examples.
    """
    rows = with_parameters(with_shares(held_out_scores(scores), structures), matrices, size)
    whole = rows["dense"] / 100
    guessed = rows["calibration"].map(dict(chance or {})).astype(float)
    rows = rows.assign(kept=rows["score"] / whole, error=rows["standard_error"] / whole, guessing=guessed / whole)
    by = [*TASK, "kind", "criterion", "method", "removed", "pattern", "samples"]
    means = rows.groupby(by, sort=False)[["parameters", "score", "dense", "error", "guessing"]].mean()
    out = over_seeds(rows, by, "kept").join(means, on=by)
    alone = out["seeds"] == 1
    out["low"] = out["low"].where(~alone, out["value"] - NORMAL * out["error"])
    out["high"] = out["high"].where(~alone, out["value"] + NORMAL * out["error"])
    return in_order(out, rows)


@on_tables
def plot_survival(table: pd.DataFrame) -> Figure:
    """Score kept against the share of all parameters removed, one line per repair; one column per task, one row per
    kind of structure (of a single task one column), all on the same two scales. Below it at the ticks: the share of the
    structures.

    `table` is that of `survival` for one criterion. Dotted: the dense model; dashed: guessing; star: the claim of
    2407.13331's abstract, LIAR on BERT-base. Intervals may leave the panel.
    """
    with in_style():
        styles, alone = repair_looks(table["method"]), table["task"].nunique() == 1
        places = ("task", "kind") if alone else ("kind", "task")
        fig, panels = panel_grid(table, *places, height=2.7 if alone else 2.05, sharey=True, sharex=False)
        right = max(HALF, table["parameters"].max()) + 5
        for place, ax in panels.items():
            kind, task = reversed(place) if alone else place
            rows = table[(table["kind"] == kind) & (table["task"] == task)]
            _draw_repairs(ax, rows, "parameters", styles, [0.45 * place for place in _places(styles)])
            ax.plot(
                [HALF],
                [ENOUGH],
                color=PAPER.color,
                marker=PAPER.marker,
                markerfacecolor="white",
                markersize=9,
                linestyle="",
                zorder=5,
                gid="paper",
            )
            ticks = rows.drop_duplicates("removed").set_index("parameters")["removed"].sort_index()
            ax.set_xticks(list(ticks.index), [f"{share:.0f}\n{of_kind:g}" for share, of_kind in ticks.items()])
            ax.set_xlim(0, right)
            ax.set_xlabel(f"% of parameters removed,\n% of {say_kind(kind)}")
            if alone:
                ax.set_title(say_kind(kind))
        if alone:
            words = say_scored(*table[["task", "metric"]].iloc[0]).replace("\n", ", ") + "\n% of the dense score"
            next(iter(panels.values())).set_ylabel(words)
        else:
            task_titles(panels, table)
            for (_, task), ax in panels.items():
                if task == table["task"].iloc[0]:
                    ax.set_ylabel("% of the dense score")
        _finish(fig, panels, table, styles, paper=True)
    return fig


@on_tables
def plot_examples(table: pd.DataFrame) -> Figure:
    """Score kept against the number of calibration examples, log scale, one line per repair; one column per task, one
    row per kind and share of structures: the first of each task, the second, and so on, since one share of all
    parameters is another of the structures in each model. `table` is that of `survival`; levels as in `plot_survival`.

    Intervals may leave the panel.
    """
    with in_style():
        styles = repair_looks(table["method"])
        place = table.groupby(["task", "kind"])["removed"].rank(method="dense")
        table = table.assign(row=list(zip(table["kind"], place, strict=True)))
        shares = {row: (_span(rows["removed"]), _span(rows["parameters"])) for row, rows in table.groupby("row")}
        fig, panels = panel_grid(table, "row", "task", height=2.4, sharey=True)
        for (row, task), ax in panels.items():
            rows = table[(table["row"] == row) & (table["task"] == task)]
            _draw_repairs(ax, rows, "samples", styles, [1.05**place for place in _places(styles)], log=True)
            number_axis(ax, sorted(rows["samples"].unique()))
        words = {
            row: f"{shares[row][0]} % of {say_kind(row[0])}\n({shares[row][1]} % of parameters):\n% of the dense score"
            for row in table["row"].unique()
        }
        task_titles(panels, table)
        label_axes(panels, "calibration examples", words)
        _finish(fig, panels, table, styles)
    return fig


def _span(shares: pd.Series) -> str:
    """Shares in whole per cent: the one that all are, or the least and the greatest."""
    return " to ".join(dict.fromkeys(f"{share:.0f}" for share in (shares.min(), shares.max())))


def _places(styles: Mapping[str, Look]) -> list[float]:
    return [place - (len(styles) - 1) / 2 for place in range(len(styles))]


def _draw_repairs(
    ax: Axes, rows: pd.DataFrame, x: str, styles: Mapping[str, Look], aside: Sequence[float], *, log: bool = False
) -> None:
    """One panel: the repairs' lines with bars, side by side, the dense model's level, and that of guessing where it is
    known.
    """
    for (method, look), shift in zip(styles.items(), aside, strict=True):
        some = rows[rows["method"] == method].sort_values(x)
        at = some[x] * shift if log else some[x] + shift
        ax.plot(
            at,
            some["value"],
            color=look.color,
            marker=look.marker,
            markersize=4,
            linestyle=look.line,
            linewidth=1.2,
            zorder=3,
            gid=f"method {method}",
        )
        ax.vlines(at, some["low"], some["high"], color=look.color, linewidth=1, alpha=0.5, zorder=2)
    dense, guessing = METHOD_LOOKS["dense"], rows["guessing"].mean()
    ax.axhline(100, color=dense.color, linestyle=dense.line, linewidth=1.2, zorder=1, gid="dense")
    if guessing == guessing:
        ax.axhline(guessing, color=GUESS.color, linestyle=GUESS.line, linewidth=1.2, zorder=1, gid="chance")


def _finish(
    fig: Figure, panels: Panels, table: pd.DataFrame, styles: Mapping[str, Look], *, paper: bool = False
) -> None:
    """From 0 to somewhat above the dense model's score; from what is lost on where that is little."""
    first = next(iter(panels.values()))
    least, most = table["value"].min(), table["value"].max()
    if least > LITTLE:
        least, most = table["low"].min(), table["high"].max()
        edge = 0.08 * (max(most, 100.0) - least)
        first.set_ylim(least - edge, max(most, 100.0) + edge)
    else:
        first.set_ylim(min(0.0, 1.05 * least), max(108.0, 1.03 * most))
    plain_axis(first.yaxis)
    levels: list[Line2D] = [handle(METHOD_LOOKS["dense"], "dense")]
    if table["guessing"].notna().any():
        levels.append(handle(GUESS, "guessing"))
    if paper:
        levels.append(handle(PAPER, "paper's claim (LIAR, BERT-base)", markerfacecolor="white", markersize=9))
    finish(fig, {}, [*repair_handles(styles), *levels])


@on_tables
def sizes(size: pd.DataFrame, structures: pd.DataFrame) -> pd.DataFrame:
    """How large and how fast the dense models are, and what is left of them once removed structures are cut out: rows
    (task, kind, removed), means over runs.

    Columns (measure, model): parameters, floating-point operations per token at the length of the examples, ms for one
    example, tokens per second where eight are read at once. Raises UsageError where nothing was measured.
    """
    if size.empty:
        raise UsageError("sizes: no run was measured; give the runs of one repair shrink=True (`choices.timed`)")
    rows = with_shares(size.assign(task=tasks(size), kind=kinds(size)), structures).rename(columns=SIZES)
    means = rows.groupby([*PLACE, "which"], sort=False)[list(SIZES.values())].mean().unstack("which")
    means = means.reindex(rows.drop_duplicates(PLACE).set_index(PLACE).index).rename_axis(columns=[None, None]).round(2)
    return means.astype({column: "int64" for column in means if column[0] != SIZES["latency_ms"]})
