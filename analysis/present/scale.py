"""What the size of the model changes: overfitting, what overlapping units do, and the distance between criteria.
Tables, figures and findings of notebook 07.

Tables start from `ends.ends`; a model's size is the number of its prunable weights, the entries of all matrices that
are pruned.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.final import CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY, against
from analysis.present.finding import Finding, say_number
from analysis.present.panels import (
    draw_lines,
    draw_named,
    draw_points,
    finish,
    handle,
    label_axes,
    log_scale,
    panel_grid,
    plain_axis,
    size_axis,
    without_markers,
)
from analysis.present.paper import CALIBRATION_AND_TEST, DENSE, OVERLAP, PRUNABLE, RESULTS
from analysis.present.style import METHOD_LOOKS, Look, in_style, looks, say_count, say_criterion, say_method, say_model
from analysis.present.tables import TO_LR, on_tables, over_seeds

GAP, INCREASE = "held-out / calibration error", "perplexity increase, %"
EXCESS, LEFT = "that ratio over LR's", "held-out error over LR's"
HERE = "here"
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

    measure: held-out error over calibration error, both total at the last block and of one run; the same divided by
    that of LR, which has fitted nothing but the mask, on the same texts; held-out error over LR's. Raises UsageError
    where LR was not run.
    """
    wide = _wide(ends, matrices)
    same = ["pattern", "criterion", "model", "seed"]
    mask = wide[wide["method"] == "LR"].set_index(same)
    if mask.empty:
        raise UsageError(
            f"overfitting against LR: no runs of LR; the methods are {', '.join(dict.fromkeys(wide['method']))}"
        )
    mask = mask.reindex(pd.MultiIndex.from_frame(wide[same]))
    gap, own = (some[HELD_OUT_ERROR].to_numpy() / some[CALIBRATION_ERROR].to_numpy() for some in (wide, mask))
    left = wide[HELD_OUT_ERROR].to_numpy() / mask[HELD_OUT_ERROR].to_numpy()
    parts = [
        over_seeds(wide.assign(measure=name, value=value), ["measure", *BY], "value", paired=paired, ratio=True)
        for name, value, paired in ((GAP, gap, TO_LR), (EXCESS, gap / own, None), (LEFT, left, None))
    ]
    return pd.concat(parts, ignore_index=True)


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
    """What method `one` changes against `other` by the size of the model, per cent within a seed, and what CR changes
    in the paper's models: [measure, pattern, criterion, model, weights, source, value, ...].

    measure: calibration error, held-out error, perplexity. source: "here", or "paper" (`paper.OVERLAP`). Raises
    UsageError where one of the two methods was not run, or nothing alike with both.
    """
    pruned = _sized(ends[ends["which"] == "pruned"], matrices)
    if missing := {one, other} - set(pruned["method"]):
        raise UsageError(
            f"what {one} changes against {other}: no runs of {', '.join(sorted(missing))}; the methods are"
            f" {', '.join(dict.fromkeys(pruned['method']))}"
        )
    by = ["pattern", "criterion", "model", "weights"]
    rows = pruned[pruned["measure"].isin(CHANGED)]
    changes = against(rows[rows["method"] == one], rows[rows["method"] == other], by)
    if changes.empty:
        raise UsageError(f"what {one} changes against {other}: no two runs of the same masks, model and seed")
    table = over_seeds(changes, ["measure", *by], "value").assign(source=HERE)
    known = OVERLAP[OVERLAP["criterion"].isin(table.loc[table["pattern"] == "50%", "criterion"])]
    if (one, other) != ("BR+GP+CR", "BR+GP") or known.empty:
        return table
    paper = known.drop(columns=["samples", "ratio"]).assign(pattern="50%", seeds=1, paired="", source="paper")
    return pd.concat([table, paper], ignore_index=True)


@on_tables
def plot_overfitting(table: pd.DataFrame) -> Figure:
    """What each method overfits beyond the mask's own gap, and what it leaves of the mask's held-out error, against the
    number of prunable weights: one line per method, one column per criterion, LR the level line at 1.

    `table` is that of `overfitting`. A method can have the larger gap and still the smaller held-out error.
    """
    words = {EXCESS: "held-out over\ncalibration error,\nover LR's", LEFT: "held-out error\nover LR's"}
    drawn = table[table["measure"].isin(words) & (table["method"] != "LR")]
    with in_style():
        fig, panels = panel_grid(drawn, "measure", "criterion", height=2.2, sharey="row")
        styles = looks(table["method"])
        for (measure, criterion), ax in panels.items():
            ax.axhline(1, color=METHOD_LOOKS["LR"].color, linewidth=1.2, zorder=1)
            draw_lines(ax, drawn[(drawn["measure"] == measure) & (drawn["criterion"] == criterion)], "weights", styles)
            size_axis(ax, drawn["weights"])
        log_scale([ax for (measure, _), ax in panels.items() if measure == EXCESS])
        for (measure, _), ax in panels.items():
            if measure == LEFT:
                ax.set_ylim(bottom=0)
                plain_axis(ax.yaxis)
        label_axes(panels, "prunable weights", words)
        finish(fig, without_markers(styles))
    return fig


@on_tables
def plot_overlap(table: pd.DataFrame) -> Figure:
    """What overlapping units (CR) change in calibration error, held-out error and perplexity, against the number of
    prunable weights.

    `table` is that of `overlap`; one panel per criterion, the paper's models as hollow marks. Below the level line CR
    helps.
    """
    with in_style():
        table = table.assign(row="")
        fig, panels = panel_grid(table, "row", "criterion", height=2.7, sharey=True)
        for (_, criterion), ax in panels.items():
            ours, paper = (
                table[(table["criterion"] == criterion) & (table["source"] == source)] for source in (HERE, "paper")
            )
            ax.axhline(0, color="#333333", linewidth=0.8, zorder=1)
            draw_named(ax, ours, "weights", "measure", CHANGED, "measure")
            for measure, look in CHANGED.items():
                some = paper[paper["measure"] == measure]
                draw_points(
                    ax, some["weights"], some, color=look.color, marker=look.marker, gid=f"paper {measure}", hollow=True
                )
            sizes = ours["weights"]
            size_axis(ax, [sizes.min(), sizes.max(), *paper["weights"]] if len(paper) else sizes)
            ax.annotate(
                "harm above", (0, 0), (3, 2), xycoords=ax.get_yaxis_transform(), textcoords="offset points", fontsize=7
            )
            plain_axis(ax.yaxis)
        label_axes(panels, "prunable weights", {"": "change by CR, %"})
        hollow = handle(Look("#555555", "o", ""), "the paper: OPT-125M, LLaMA-7B", markerfacecolor="white")
        notes = [hollow] if (table["source"] == "paper").any() else []
        finish(fig, {}, [*(handle(look, name) for name, look in CHANGED.items()), *notes])
    return fig


@on_tables
def criteria_gap(ends: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """Perplexity under the worst criterion over that under the best, by method and size of the model, and the same of
    the paper's models: [pattern, method, model, weights, source, worst, best, value, ...].

    Worst and best are told apart by their means over seeds, the ratio is then taken within a seed. source: "here", or
    "paper" for WikiText-2 in tables 1 and 3 of 2406.15524, whose three criteria are magnitude, Wanda and SparseGPT.
    """
    key = ["pattern", "method", "model", "weights"]
    rows = []
    for at, some in _wide(ends, matrices).groupby(key, sort=False):
        by_seed = some.pivot(index="seed", columns="criterion", values=PERPLEXITY)
        means = by_seed.mean()
        worst, best = means.idxmax(), means.idxmin()
        named = dict(zip(key, at, strict=True)) | {"worst": worst, "best": best}
        rows += [named | {"seed": seed, "value": value} for seed, value in (by_seed[worst] / by_seed[best]).items()]
    ours = over_seeds(pd.DataFrame(rows), [*key, "worst", "best"], "value").assign(source=HERE)
    methods = RESULTS["method"].isin(ours.loc[ours["pattern"] == "50%", "method"])
    groups = RESULTS[methods].groupby(["method", "model"], sort=False)
    paper = [
        {
            "pattern": "50%",
            "method": method,
            "model": model,
            "weights": PRUNABLE[model],
            "worst": some.loc[some["wikitext2"].idxmax(), "criterion"],
            "best": some.loc[some["wikitext2"].idxmin(), "criterion"],
            "value": some["wikitext2"].max() / some["wikitext2"].min(),
            "seeds": 1,
            "paired": "",
            "source": "paper",
        }
        for (method, model), some in groups
    ]
    return pd.concat([ours, pd.DataFrame(paper)], ignore_index=True) if paper else ours


@on_tables
def plot_criteria_gap(table: pd.DataFrame) -> Figure:
    """Perplexity under the worst criterion over that under the best, against the number of prunable weights, log scale:
    one line per method, our models beside the paper's.

    `table` is that of `criteria_gap` for one pattern. At 1 the choice of the criterion makes no difference.
    """
    words = {HERE: "here", "paper": "the paper, WikiText-2"}
    with in_style():
        fig, panels = panel_grid(table, "pattern", "source", height=2.7, sharey=False, sharex=False)
        styles = looks(table["method"])
        for (pattern, source), ax in panels.items():
            rows = table[(table["pattern"] == pattern) & (table["source"] == source)]
            ax.axhline(1, color="#999999", linewidth=0.8, zorder=1)
            draw_lines(ax, rows, "weights", styles, hollow=source == "paper")
            size_axis(ax, rows["weights"])
            log_scale([ax])
            ax.set_title(words[source])
        label = "perplexity, worst criterion\nover best"
        label_axes(panels, "prunable weights", dict.fromkeys(table["pattern"], label))
        finish(fig, styles)
    return fig


@on_tables
def say_overfitting(table: pd.DataFrame) -> Finding:
    """Per criterion and method: held-out over calibration error, divided by LR's, from the smallest to the largest
    model, and whether it grows at every step.
    """
    rows = table[(table["measure"] == EXCESS) & (table["method"] != "LR")]
    return Finding("\n".join(_course(some, key, "grows", "does not grow") for key, some in _lines(rows)))


@on_tables
def say_overlap(table: pd.DataFrame) -> Finding:
    """Per criterion: what CR changes in each measure from the smallest to the largest model here, and where it lowers
    one error and raises the other.
    """
    lines = []
    table = table[table["source"] == HERE]
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
        lines.append(f"- **{say_criterion(criterion)} {pattern}**: {said}; {verdict}.")
    return Finding("\n".join(lines))


@on_tables
def say_criteria_gap(table: pd.DataFrame) -> Finding:
    """Per method: perplexity under the worst criterion over that under the best, from the smallest to the largest
    model, beside the paper's. `table` is that of `criteria_gap`.
    """
    lines = []
    for (pattern, method), some in table.groupby(["pattern", "method"], sort=False):
        ours, paper = (some[some["source"] == source].sort_values("weights") for source in (HERE, "paper"))
        said, known = (
            ", ".join(
                f"{say_model(row['model'])} {say_number(row['value'])} ({say_criterion(row['worst'])} over"
                f" {say_criterion(row['best'])})"
                for _, row in rows.iterrows()
            )
            for rows in (ours, paper)
        )
        shrinks = ours["value"].is_monotonic_decreasing
        verdict = "" if len(ours) < 2 else f"; the gap {'shrinks' if shrinks else 'does not shrink'} at every step"
        lines.append(
            f"- **{say_method(method)}, {pattern}**: {said}{verdict}" + (f"; the paper: {known}." if known else ".")
        )
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
        yield f"{say_criterion(criterion)} {pattern} {say_method(method)}", rows.sort_values("weights")


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
