"""What the size of the model changes: overfitting, what overlapping units do, and the distance between criteria.
Tables, figures and findings of notebook 07.

Tables start from `ends.ends`; a model's size is the number of its prunable weights, the entries of all matrices that
are pruned.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.errors import UsageError
from analysis.present.final import CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY, against
from analysis.present.finding import Finding
from analysis.present.panels import (
    draw_lines,
    draw_named,
    finish,
    handle,
    label_axes,
    log_scale,
    panel_grid,
    plain_axis,
    size_axis,
)
from analysis.present.paper import CALIBRATION_AND_TEST, DENSE, PRUNABLE, RESULTS
from analysis.present.style import CRITERIA, CRITERION_LOOKS, Look, in_style, looks, say_count, say_method, say_model
from analysis.present.tables import TO_LR, on_tables, over_seeds

GAP, INCREASE = "held-out / calibration error", "perplexity increase, %"
# what CR changes
CHANGED = {
    CALIBRATION_ERROR: Look("#777777", "v", (0, (3, 1.5))),
    HELD_OUT_ERROR: Look("#CC79A7", "D", "-"),
    PERPLEXITY: Look("#000000", "o", "-"),
}
BY = ["pattern", "criterion", "method", "model", "weights"]


@on_tables
def weights(matrices: pd.DataFrame) -> pd.Series:
    """Prunable weights of each model: rows times columns, summed over the matrices of one of its runs."""
    entries = matrices.assign(entries=matrices["rows"] * matrices["columns"])
    return entries.groupby(["model", "run"], sort=False)["entries"].sum().groupby("model", sort=False).max()


@on_tables
def overfitting(ends: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """Overfitting by the size of the model: [measure, pattern, criterion, method, model, weights, ...].

    measure: held-out error over calibration error, both total at the last block and of one run; held-out error.
    """
    wide = _wide(ends, matrices)
    parts = {GAP: wide[HELD_OUT_ERROR] / wide[CALIBRATION_ERROR], HELD_OUT_ERROR: wide[HELD_OUT_ERROR]}
    return pd.concat(
        [
            over_seeds(wide.assign(measure=name, value=value), ["measure", *BY], "value", paired=TO_LR, ratio=True)
            for name, value in parts.items()
        ],
        ignore_index=True,
    )


@on_tables
def damage(ends: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """How far perplexity rises above the dense model's, in per cent, by the size of the model: [pattern, criterion,
    method, model, weights, value, ...].
    """
    wide = _wide(ends, matrices)
    dense = ends[(ends["which"] == "dense") & (ends["measure"] == PERPLEXITY)].set_index("run")["value"]
    return over_seeds(wide.assign(value=100 * (wide[PERPLEXITY] / wide["run"].map(dense) - 1)), BY, "value")


@on_tables
def overlap(ends: pd.DataFrame, matrices: pd.DataFrame, *, one: str = "BR+GP+CR", other: str = "BR+GP") -> pd.DataFrame:
    """What method `one` changes against `other` by the size of the model, per cent within a seed: [measure, pattern,
    criterion, model, weights, ...].

    measure: calibration error, held-out error, perplexity. Raises UsageError where one of the two methods was not run.
    """
    pruned = _sized(ends[ends["which"] == "pruned"], matrices)
    if missing := {one, other} - set(pruned["method"]):
        raise UsageError(
            f"what {one} changes against {other}: no runs of {', '.join(sorted(missing))}; the methods are"
            f" {', '.join(dict.fromkeys(pruned['method']))}"
        )
    by = ["pattern", "criterion", "model", "weights"]
    rows = pruned[pruned["measure"].isin(CHANGED)]
    return over_seeds(
        against(rows[rows["method"] == one], rows[rows["method"] == other], by), ["measure", *by], "value"
    )


@on_tables
def plot_overfitting(table: pd.DataFrame) -> Figure:
    """Held-out over calibration error, and held-out error itself, against the number of prunable weights: one line per
    method, one column per criterion.

    `table` is that of `overfitting`. 1 in the upper row is no overfitting.
    """
    words = {GAP: "held-out error over\ncalibration error", HELD_OUT_ERROR: "held-out error"}
    with in_style():
        fig, panels = panel_grid(table, "measure", "criterion", height=2.2, sharey="row")
        for (measure, criterion), ax in panels.items():
            draw_lines(ax, table[(table["measure"] == measure) & (table["criterion"] == criterion)], "weights")
            size_axis(ax, table["weights"])
        for measure in dict.fromkeys(table["measure"]):
            log_scale([ax for (row, _), ax in panels.items() if row == measure])
        label_axes(panels, "prunable weights", words)
        finish(fig, looks(table["method"]))
    return fig


@on_tables
def plot_overlap(table: pd.DataFrame) -> Figure:
    """What overlapping units (CR) change in calibration error, held-out error and perplexity, against the number of
    prunable weights.

    `table` is that of `overlap`; one panel per criterion. Below the level line CR helps.
    """
    with in_style():
        table = table.assign(row="")
        fig, panels = panel_grid(table, "row", "criterion", height=2.5, sharey=True)
        for (_, criterion), ax in panels.items():
            ax.axhline(0, color="#999999", linewidth=0.8, zorder=1)
            draw_named(ax, table[table["criterion"] == criterion], "weights", "measure", CHANGED, "measure")
            size_axis(ax, table["weights"])
            plain_axis(ax.yaxis)
        label_axes(panels, "prunable weights", {"": "change by CR, %"})
        finish(fig, {}, [handle(look, name) for name, look in CHANGED.items()])
    return fig


@on_tables
def plot_criteria_gap(table: pd.DataFrame) -> Figure:
    """Increase of perplexity over the dense model against the number of prunable weights, log scale: one line per
    criterion, one panel per method.

    `table` is that of `damage`. The distance between the lines is what the criterion is worth.
    """
    with in_style():
        table = table.assign(row="")
        fig, panels = panel_grid(table, "row", "method", height=2.6, sharey=True)
        for (_, method), ax in panels.items():
            draw_named(
                ax, table[table["method"] == method], "weights", "criterion", _criterion_looks(table), "criterion"
            )
            size_axis(ax, table["weights"])
            ax.set_title(say_method(method))
        if (table["value"] > 0).all():
            log_scale(panels.values())
        label_axes(panels, "prunable weights", {"": "perplexity above\nthe dense model's, %"})
        finish(
            fig,
            {},
            [
                Line2D([], [], color=look.color, marker=look.marker, label=CRITERIA.get(name, name))
                for name, look in _criterion_looks(table).items()
            ],
        )
    return fig


@on_tables
def say_overfitting(table: pd.DataFrame) -> Finding:
    """Per criterion and method: held-out over calibration error from the smallest to the largest model, and whether it
    grows at every step.
    """
    return Finding(
        "\n".join(_course(rows, key, "grows", "does not grow") for key, rows in _lines(table[table["measure"] == GAP]))
    )


@on_tables
def say_overlap(table: pd.DataFrame) -> Finding:
    """Per criterion: what CR changes in each measure from the smallest to the largest model, and where it lowers one
    error and raises the other.
    """
    lines = []
    for (pattern, criterion), rows in table.groupby(["pattern", "criterion"], sort=False):
        wide = rows.pivot_table(index=["weights", "model"], columns="measure", values="value", sort=False).sort_index()
        said = "; ".join(
            f"{say_model(model)}: " + ", ".join(f"{name} {row[name]:+.1f} %" for name in CHANGED)
            for (_, model), row in wide.iterrows()
        )
        torn = [
            say_model(model) for (_, model), row in wide.iterrows() if row[CALIBRATION_ERROR] < 0 < row[HELD_OUT_ERROR]
        ]
        words = "better on calibration and worse on held-out text"
        verdict = f"{words}, as for LLaMA-7B in the paper: {', '.join(torn)}" if torn else f"nowhere {words}"
        lines.append(f"- **{CRITERIA.get(criterion, criterion)} {pattern}**: {said}; {verdict}.")
    return Finding("\n".join(lines))


@on_tables
def say_criteria_gap(table: pd.DataFrame) -> Finding:
    """Per method: the worst criterion's increase of perplexity over the best one's, from the smallest to the largest
    model.
    """
    lines = []
    for (pattern, method), some in table.groupby(["pattern", "method"], sort=False):
        ends = some.sort_values("weights").groupby(["weights", "model"], sort=False)
        parts, ratios = [], []
        for (_, model), at in ends:
            best, worst = at.loc[at["value"].idxmin()], at.loc[at["value"].idxmax()]
            ratios.append(worst["value"] / best["value"])
            one, other = (f"{row['value']:.3g} % ({CRITERIA[row['criterion']]})" for row in (worst, best))
            parts.append(f"{say_model(model)} {one} over {other}, {ratios[-1]:.2g} times")
        shrinks = all(b < a for a, b in zip(ratios, ratios[1:], strict=False))
        verdict = (
            ""
            if len(ratios) < 2
            else "; the gap shrinks with size"
            if shrinks
            else "; the gap does not shrink at every step"
        )
        lines.append(f"- **{say_method(method)}, {pattern}**: {'; '.join(parts)}{verdict}.")
    return Finding("\n".join(lines))


@on_tables
def beside_sizes(overfit: pd.DataFrame, damaged: pd.DataFrame) -> pd.DataFrame:
    """Held-out over calibration error and perplexity increase in per cent, ours beside tables 1 to 4 of 2406.15524
    (errors on C4, perplexity of WikiText-2).

    The tables are those of `overfitting` and of `damage`. Rows (criterion, method), columns (measure, model with its
    prunable weights).
    """
    key = ["criterion", "method"]
    out = {}
    for measure, table in {GAP: overfit[overfit["measure"] == GAP], INCREASE: damaged}.items():
        for (count, model), some in table.groupby(["weights", "model"]):
            out[measure, f"{say_model(model)}, {say_count(count)}"] = some.set_index(key)["value"]
        for model, count in PRUNABLE.items():
            gap = CALIBRATION_AND_TEST[CALIBRATION_AND_TEST["model"] == model].set_index(key)
            text = RESULTS[RESULTS["model"] == model].set_index(key)
            paper = (
                gap["c4"] / gap["calibration"]
                if measure == GAP
                else 100 * (text["wikitext2"] / DENSE[model]["wikitext2"] - 1)
            )
            out[measure, f"paper, {model}, {say_count(count)}"] = paper
    return pd.DataFrame(out).reindex(damaged.set_index(key).index.unique()).round(2)


def _wide(ends: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """One row per run of a pruned model, a column per measure."""
    return (
        _sized(ends[ends["which"] == "pruned"], matrices)
        .pivot_table(index=[*BY, "seed", "run"], columns="measure", values="value", sort=False)
        .reset_index()
    )


def _sized(rows: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(weights=rows["model"].map(weights(matrices)))


def _lines(table: pd.DataFrame):
    for (pattern, criterion, method), rows in table.groupby(["pattern", "criterion", "method"], sort=False):
        yield f"{CRITERIA.get(criterion, criterion)} {pattern} {say_method(method)}", rows.sort_values("weights")


def _course(rows: pd.DataFrame, name: str, yes: str, no: str) -> str:
    path = " → ".join(f"{row.value:.2f} ({say_model(row.model)})" for row in rows.itertuples())
    verdict = (
        ""
        if len(rows) < 2
        else f"; {yes} with size"
        if rows["value"].is_monotonic_increasing
        else f"; {no} at every step"
    )
    return f"- **{name}**: {path}{verdict}."


def _criterion_looks(table: pd.DataFrame) -> dict[str, Look]:
    return {name: look for name, look in CRITERION_LOOKS.items() if name in set(table["criterion"])}
