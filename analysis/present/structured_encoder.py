"""What of an encoder's score survives when whole heads or neurons go, and what each closed-form repair gives back.
Tables, figures and findings of notebook 09.

A task is a model with its labelled examples; its column is named after the examples. Scores lie between 0 and 1
(correlations may fall below), and every comparison with the dense model is made within a seed, which draws the same
examples for both. What a mask removed is counted from the masks, not read off the recipe.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.errors import UsageError
from analysis.present.finding import Finding
from analysis.present.panels import (
    Panels,
    category_axis,
    draw_named,
    finish,
    handle,
    label_axes,
    log_scale,
    panel_grid,
    plain_axis,
    plain_number,
)
from analysis.present.statistics import LEVEL, compare, decided, holm
from analysis.present.structured_decoder import REPAIR_LABELS, REPAIRED
from analysis.present.style import CRITERIA, METHOD_LOOKS, OTHERS, Look, in_style, say_method, say_model, say_source
from analysis.present.tables import TO_LR, on_tables, over_seeds
from analysis.schema import CALIBRATION

WEIGHTS_ALONE = "LIAR[bias=false]"
REPAIR_LOOKS = REPAIRED | {WEIGHTS_ALONE: Look("#CC79A7", "D", (0, (1.5, 1.2)))}
NAMES = REPAIR_LABELS | {WEIGHTS_ALONE: "LIAR, weights alone"}
OVER = {"tokens": "single tokens", "windows": "whole examples"}
METRIC_LABELS = {"accuracy": "accuracy", "matthews": "Matthews", "spearman": "Spearman", "f1": "F1"}
ENOUGH = 0.98  # of the dense score: what the paper's abstract claims at half of the parameters
HALF = 50.0
# repairs and simpler ones
ORDER = [
    ("compensate", "LR"),
    ("scale", "LR"),
    ("LIAR", "LR"),
    ("LIAR", "compensate"),
    ("LIAR", "scale"),
    ("LIAR+GP", "LIAR"),
    ("BR+GP[repair=liar]", "LIAR"),
]
TASK = ["task", "metric"]
UNPRUNED = {"method": "dense", "criterion": "", "removed": 0.0}
PLACE = ["task", "kind", "removed"]
SIZES = {
    "parameters": "parameters",
    "flops_per_token": "FLOPs per token",
    "latency_ms": "latency, ms",
    "tokens_per_second": "tokens per second",
}
GUESS = Look("#777777", "", (0, (5, 3)))


@on_tables
def survival(scores: pd.DataFrame, structures: pd.DataFrame, chance: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Held-out score by what was removed: [task, metric, kind, criterion, method, removed, ..., kept, error, chance].

    kind: heads, neurons, or structures (both); removed: per cent of the structures of that kind, rounded. kept: the
    score over the dense model's, mean over seeds; error: standard error of a score from the examples of one seed. The
    dense model is method "dense" with 0 % removed, once for each kind. chance: {calibration source: score of guessing}.
    Raises UsageError where no run was scored on held-out examples.
    """
    rows = _held_out(scores)
    rows = _counted(rows, structures).assign(kept=rows["score"] / rows["dense"])
    dense = rows.assign(
        method="dense", criterion="", removed=0.0, score=rows["dense"], standard_error=rows["dense_error"], kept=1.0
    )
    rows = pd.concat([rows, dense.drop_duplicates([*TASK, "kind", "seed"])], ignore_index=True)
    by = [*TASK, "kind", "criterion", "method", "removed"]
    means = rows.groupby(by, sort=False)[["kept", "standard_error"]].mean().rename(columns={"standard_error": "error"})
    out = over_seeds(rows, by, "score", paired=UNPRUNED).join(means, on=by)
    out["chance"] = (
        out["task"]
        .map(rows.drop_duplicates("task").set_index("task")["calibration"].map(dict(chance or {})))
        .astype(float)
    )
    return _sorted(out, rows)


@on_tables
def lost(scores: pd.DataFrame) -> pd.DataFrame:
    """Points of a hundred that the held-out score lies below the dense model's: [task, metric, pattern, criterion,
    method, ...]. Raises as `survival`.
    """
    rows = _held_out(scores)
    rows = rows.assign(lost=100 * (rows["dense"] - rows["score"]))
    return _sorted(over_seeds(rows, [*TASK, "pattern", "criterion", "method"], "lost"), rows)


@on_tables
def spread(distribution: pd.DataFrame) -> pd.DataFrame:
    """Relative error at the last block on held-out examples, token by token and example by example: [over, task,
    pattern, criterion, method, quantile, ...].

    value: what so large a share (`quantile`) of tokens, or of examples in the mean over their tokens, stay below.
    Raises UsageError where nothing held out was measured.
    """
    held_out = _first_text(distribution, "distribution")
    rows = held_out.assign(task=_tasks(held_out))
    return _sorted(
        over_seeds(
            rows,
            ["over", "task", "pattern", "criterion", "method", "quantile"],
            "relative_error",
            paired=TO_LR,
            ratio=True,
        ),
        rows,
    )


@on_tables
def plot_survival(table: pd.DataFrame) -> Figure:
    """Score against the share removed, one line per repair; one column per task, one row for heads and one for neurons.

    `table` is that of `survival` for one criterion. Dotted: the dense model; dashed: guessing, where that is known and
    near.
    """
    with in_style():
        styles = _looks(table["method"])
        fig, panels = panel_grid(table, "kind", "task", height=2.05, sharey=False, sharex="row")
        for (kind, task), ax in panels.items():
            _draw_shares(ax, table[(table["kind"] == kind) & (table["task"] == task)], styles)
        _titles(panels, table)
        label_axes(panels, "", dict.fromkeys(table["kind"], "held-out score"))
        for (kind, _), ax in panels.items():
            ax.set_xlabel(f"{kind} removed, %")
        finish(fig, {}, [*_legend(styles), *_level_handles(table)])
    return fig


@on_tables
def plot_crossed(table: pd.DataFrame) -> Figure:
    """Score against the share removed, one line per repair; one column per criterion, one row for each task's heads and
    one for its neurons.

    `table` is that of `survival`. Lines as in `plot_survival`; a row's panels share their axes, so that criteria can be
    compared.
    """
    with in_style():
        styles, table = _looks(table["method"]), table.assign(row=list(zip(table["task"], table["kind"], strict=True)))
        fig, panels = panel_grid(
            table[table["method"] != "dense"], "row", "criterion", height=1.75, sharey="row", sharex="row"
        )
        for (row, criterion), ax in panels.items():
            _draw_shares(ax, table[(table["row"] == row) & table["criterion"].isin([criterion, ""])], styles)
        label_axes(panels, "", {(task, kind): f"{task}, {kind}:\nheld-out score" for task, kind in table["row"]})
        for ax in panels.values():
            ax.set_xlabel("removed, %")
        finish(fig, {}, [*_legend(styles), *_level_handles(table)])
    return fig


def _draw_shares(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Look]) -> None:
    """One panel: the repairs' lines over the shares removed, the dense model's level, and that of guessing where it is
    known.
    """
    pruned, dense = rows[rows["method"] != "dense"], rows[rows["method"] == "dense"].iloc[0]
    draw_named(ax, pruned, "removed", "method", styles, "method")
    _level(ax, dense["value"], METHOD_LOOKS["dense"], "dense")
    if dense["chance"] == dense["chance"]:
        line = Line2D(
            [0, 1],
            [dense["chance"]] * 2,
            transform=ax.get_yaxis_transform(),
            color=GUESS.color,
            linestyle=GUESS.line,
            linewidth=1.2,
            zorder=1,
            gid="chance",
        )
        ax.add_artist(line)  # unlike axhline it leaves the limits alone: far below all scores it would flatten them
    ax.set_xticks(sorted(pruned["removed"].unique()))
    ax.xaxis.set_major_formatter(plain_number)
    plain_axis(ax.yaxis)


def _level_handles(table: pd.DataFrame) -> list:
    return [
        handle(METHOD_LOOKS["dense"], "dense"),
        *([handle(GUESS, "guessing")] if table["chance"].notna().any() else []),
    ]


@on_tables
def plot_lost(table: pd.DataFrame) -> Figure:
    """Points lost against the criterion, one line per repair; one column per task, one row per pattern. `table` is that
    of `lost`.
    """
    with in_style():
        styles, names = _looks(table["method"]), list(dict.fromkeys(table["criterion"]))
        fig, panels = panel_grid(table, "pattern", "task", height=2.6, sharey=True)
        for (pattern, task), ax in panels.items():
            rows = table[(table["pattern"] == pattern) & (table["task"] == task)]
            draw_named(ax, rows.assign(place=rows["criterion"].map(names.index)), "place", "method", styles, "method")
            _level(ax, 0, METHOD_LOOKS["dense"], "dense")
            category_axis(ax, [CRITERIA.get(name, name) for name in names], rotation=35)
        _titles(panels, table)
        label_axes(
            panels,
            "",
            {pattern: f"{pattern.replace('-', ' ')}:\npoints lost" for pattern in dict.fromkeys(table["pattern"])},
        )
        finish(fig, {}, [*_legend(styles), handle(METHOD_LOOKS["dense"], "dense")])
    return fig


@on_tables
def plot_spread(table: pd.DataFrame) -> Figure:
    """Error of single tokens (above) and of whole examples (below) under each repair, log scale: one column per task.

    `table` is that of `spread` for one pattern and criterion. Box: the middle half; line: from 5 to 95 per cent; point:
    the median.
    """
    with in_style():
        styles = _looks(table["method"])
        fig, panels = panel_grid(table, "over", "task", height=1.9, sharey="row")
        for (over, task), ax in panels.items():
            for place, (method, look) in enumerate(styles.items()):
                at = table[(table["over"] == over) & (table["task"] == task) & (table["method"] == method)].set_index(
                    "quantile"
                )["value"]
                ax.vlines(place, at[0.05], at[0.95], color=look.color, linewidth=1.2, zorder=2, gid=f"most {method}")
                ax.vlines(
                    place, at[0.25], at[0.75], color=look.color, linewidth=9, alpha=0.4, zorder=2, gid=f"half {method}"
                )
                ax.plot(
                    [place],
                    [at[0.5]],
                    color=look.color,
                    marker=look.marker,
                    linestyle="",
                    zorder=3,
                    gid=f"median {method}",
                )
            ax.set(xlim=(-0.6, len(styles) - 0.4), xticks=[])
        for over in dict.fromkeys(table["over"]):
            log_scale([ax for (row, _), ax in panels.items() if row == over])
        label_axes(panels, "", {over: f"{OVER[over]}:\nrelative error" for over in dict.fromkeys(table["over"])})
        finish(fig, {}, [handle(look, _say(name), linestyle="") for name, look in styles.items()])
    return fig


@on_tables
def say_survival(table: pd.DataFrame) -> Finding:
    """Per task and kind: the dense score, up to which share each repair keeps 98 per cent of it, and the scores at the
    highest share.
    """
    lines = []
    for (task, metric, kind), rows in table.groupby([*TASK, "kind"], sort=False):
        pruned, dense = rows[rows["method"] != "dense"], rows[rows["method"] == "dense"].iloc[0]
        reach = ", ".join(f"{_say(method)} {_reach(line)}" for method, line in pruned.groupby("method", sort=False))
        last = pruned[pruned["removed"] == pruned["removed"].max()]
        ends = ", ".join(f"{_say(row.method)} {row.value:.3f}" for row in last.itertuples())
        lines.append(
            f"- **{task}, {kind}**: dense {METRIC_LABELS[metric]} {dense['value']:.3f}."
            f" {100 * ENOUGH:.0f} % of it is kept up"
            f" to: {reach}. With {last['removed'].iloc[0]:g} % removed: {ends}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_order(table: pd.DataFrame) -> Finding:
    """Each repair against a simpler one, over all tasks, kinds and shares: at how many it scores higher, at how many of
    them by a paired t test within seeds, corrected for the number of shares (Holm), and by how much in the mean.
    """
    key = [*TASK, "kind", "criterion", "removed"]
    methods = {name: rows.set_index(key) for name, rows in table[table["method"] != "dense"].groupby("method")}
    lines = []
    for other, one in ((other, one) for other, one in ORDER if {other, one} <= set(methods)):
        places = methods[other].index.intersection(methods[one].index, sort=False)
        pairs = [(methods[other].loc[place], methods[one].loc[place]) for place in places]
        gain = np.array([a["value"] - b["value"] for a, b in pairs])
        sure = np.array([decided(p) for p in holm([compare(a, b).p for a, b in pairs])])
        clear = ", ".join(
            f"{word} at {int(found.sum())} of {len(gain)} shares ({int((found & sure).sum())} with p < {LEVEL:g})"
            for word, found in {"higher": gain > 0, "lower": gain < 0}.items()
        )
        lines.append(f"- **{_say(other)}** against {_say(one)}: {clear}, {100 * gain.mean():+.1f} points in the mean.")
    return Finding("\n".join(lines))


@on_tables
def say_crossed(table: pd.DataFrame) -> Finding:
    """Per task and kind: the points between the best and the worst criterion with each repair, at every share that all
    criteria were run at.

    `table` is that of `survival` for several criteria.
    """
    lines = []
    for (task, kind), rows in table[table["method"] != "dense"].groupby(["task", "kind"], sort=False):
        wide = 100 * rows.pivot(index=["method", "removed"], columns="criterion", values="value").dropna()
        gaps = (wide.max(axis=1) - wide.min(axis=1)).unstack().reindex(rows["method"].unique()).dropna(how="all")
        shares = ", ".join(f"{share:g}" for share in gaps)
        parts = "; ".join(f"{_say(method)} {', '.join(f'{gap:.1f}' for gap in row)}" for method, row in gaps.iterrows())
        lines.append(f"- **{task}, {kind}**, with {shares} % removed: {parts}.")
    return Finding("\n".join(lines))


@on_tables
def say_lost(table: pd.DataFrame) -> Finding:
    """Per task and repair: the best and the worst criterion and the points between them; and whether repairing closes
    the gap.
    """
    lines = []
    for (task, pattern), rows in table.groupby(["task", "pattern"], sort=False):
        gaps, parts = {}, []
        for method, some in rows.groupby("method", sort=False):
            best, worst = some.loc[some["value"].idxmin()], some.loc[some["value"].idxmax()]
            gaps[method] = worst["value"] - best["value"]
            one, other = (
                f"{CRITERIA.get(row['criterion'], row['criterion'])} {row['value']:.1f}" for row in (best, worst)
            )
            parts.append(f"{_say(method)}: {one} to {other}, {gaps[method]:.1f} apart")
        closed = [_say(method) for method, gap in gaps.items() if method != "LR" and gap < gaps.get("LR", -np.inf)]
        verdict = (
            f"Criteria lie closer together than without repair with {', '.join(closed)}."
            if closed
            else "No repair brings the criteria closer together."
        )
        lines.append(
            f"- **{task}, {pattern}**, points lost: {'; '.join(parts)}. {verdict if 'LR' in gaps else ''}".rstrip()
        )
    return Finding("\n".join(lines))


@on_tables
def say_spread(table: pd.DataFrame) -> Finding:
    """Per task: the median error of tokens and of examples under each repair over that of the mask alone, and how far
    the worst twentieth lies above the median.
    """
    lines = []
    for (over, task), rows in table.groupby(["over", "task"], sort=False):
        wide = rows.pivot(index="method", columns="quantile", values="value").reindex(
            [name for name in REPAIR_LOOKS if name in set(rows["method"])]
        )
        first = wide.index[0]
        parts = [
            f"{_say(method)} {row[0.5] / wide.loc[first, 0.5]:.2f} ({row[0.95] / row[0.5]:.1f})"
            for method, row in wide.iterrows()
        ]
        lines.append(
            f"- **{task}**, {OVER[over]}, median over that of {_say(first)} (in brackets: 95 % quantile over median):"
            f" {', '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_parts(table: pd.DataFrame) -> Finding:
    """Per task, kind and share: points that moving the bias alone, the weights alone and both give back, and which of
    the two alone gives more.

    Raises UsageError unless LR, compensate, LIAR[bias=false] and LIAR were all run.
    """
    needed, lines = {"LR": "", "compensate": "bias", WEIGHTS_ALONE: "weights", "LIAR": "both"}, []
    if missing := [method for method in needed if method not in set(table["method"])]:
        raise UsageError(
            f"what bias and weights give back: no runs of {', '.join(missing)}; put {', '.join(needed)} into the parts"
        )
    for (task, kind), rows in table[table["method"] != "dense"].groupby(["task", "kind"], sort=False):
        wide = 100 * rows.pivot(index="removed", columns="method", values="value")
        gains = wide[list(needed)[1:]].sub(wide["LR"], axis=0).rename(columns=needed)
        parts = [
            f"{removed:g} % removed: " + ", ".join(f"{word} {gain:+.1f}" for word, gain in row.items())
            for removed, row in gains.iterrows()
        ]
        more, both = (
            int((gains["weights"] > gains["bias"]).sum()),
            int((gains["both"] >= gains[["bias", "weights"]].max(axis=1)).sum()),
        )
        verdict = (
            f"weights give more than the bias at {more} of {len(gains)} shares, both together at least as much as"
            f" either at {both}"
        )
        lines.append(f"- **{task}, {kind}**, points given back, {'; '.join(parts)}; {verdict}.")
    return Finding("\n".join(lines))


@on_tables
def sizes(size: pd.DataFrame, structures: pd.DataFrame) -> pd.DataFrame:
    """How large and how fast the dense models are, and what is left of them once removed structures are cut out: rows
    (task, kind, removed), means over runs.

    Columns (measure, model): parameters, floating-point operations per token at the length of the examples, ms for one
    example, tokens per second where eight are read at once. Raises UsageError where nothing was measured.
    """
    if size.empty:
        raise UsageError("sizes: no run was measured; give the runs of one repair shrink=True (`choices.timed`)")
    rows = _counted(size.assign(task=_tasks(size)), structures).rename(columns=SIZES)
    means = rows.groupby([*PLACE, "which"], sort=False)[list(SIZES.values())].mean().unstack("which")
    means = means.reindex(rows.drop_duplicates(PLACE).set_index(PLACE).index).rename_axis(columns=[None, None]).round(2)
    return means.astype({column: "int64" for column in means if column[0] != SIZES["latency_ms"]})


@on_tables
def beside_claims(
    table: pd.DataFrame, cost: pd.DataFrame, sized: pd.DataFrame, *, removed: float = HALF
) -> pd.DataFrame:
    """Per cent of the dense score that each repair keeps where `removed` per cent (or the nearest share run) are gone,
    and the seconds it took, beside the claims of 2407.13331.

    The paper's are of BERT-base and of parameters, ours of structures; the table says how many parameters these are.
    Rows (task, kind, removed). seconds: scores, masks and repairs of one run, mean over its runs at all shares. sized:
    the table of `sizes` at the same shares.
    """
    pruned = table[table["method"] != "dense"]
    away = (pruned["removed"] - removed).abs()
    near = pruned[away == away.groupby([pruned["task"], pruned["kind"]]).transform("min")]
    out = (100 * near.pivot(index=PLACE, columns="method", values="kept")).round(1)
    out = out[[name for name in REPAIR_LOOKS if name in out]].rename(columns=lambda name: f"{_say(name)}, %")
    work = cost[cost["stage"].isin(("structures", "statistics", "mask", "repair"))]
    work = work.assign(task=_tasks(work), kind=_kinds(work))
    spent = (
        work[work["method"] == "LIAR"]
        .groupby(["task", "kind", "run"])["seconds"]
        .sum()
        .groupby(["task", "kind"])
        .mean()
        .round(2)
    )
    left = sized["parameters"].reindex(out.index)
    out.insert(0, "parameters removed, %", (100 * (1 - left["pruned"] / left["dense"])).round(1))
    out["seconds, LIAR"] = [spent.get((task, kind), np.nan) for task, kind, _ in out.index]
    order = pruned.drop_duplicates(["task", "kind"])[["task", "kind"]].itertuples(index=False)
    out = out.reindex([row for task, kind in order for row in out.index if row[:2] == (task, kind)])
    paper = pd.DataFrame(
        {"parameters removed, %": HALF, "LIAR, %": 100 * ENOUGH},
        index=pd.MultiIndex.from_tuples([("paper, BERT-base", "parameters", HALF)], names=out.index.names),
    )
    return pd.concat([out, paper]).rename_axis(columns=None)


def _held_out(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of the pruned models on the first held-out text, with task, `dense` and `dense_error` (the dense model's
    of the same run).
    """
    rows = _first_text(scores, "scores")
    rows = rows.assign(task=_tasks(rows))
    dense = rows[rows["which"] == "dense"].set_index("run")
    return rows[rows["which"] == "pruned"].assign(
        dense=lambda part: part["run"].map(dense["score"]),
        dense_error=lambda part: part["run"].map(dense["standard_error"]),
    )


def _counted(rows: pd.DataFrame, structures: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs with `kind`, and `removed`, the share of its structures that the run's masks removed, in per cent,
    rounded.
    """
    counts = structures.groupby("run")[["structures", "kept"]].sum()
    share = (100 * (1 - counts["kept"] / counts["structures"])).round()
    return rows.assign(removed=rows["run"].map(share), kind=_kinds(rows))


def _kinds(rows: pd.DataFrame) -> pd.Series:
    return rows["pattern"].str.rpartition("-")[0]


def _first_text(table: pd.DataFrame, purpose: str) -> pd.DataFrame:
    rows = table[table["split"] != CALIBRATION]
    if rows.empty:
        raise UsageError(
            f"{purpose}: no run was measured on held-out examples; give encoders with a head, and labelled examples"
            " (examples:NAME or examples:PATH.tsv) held out"
        )
    first = rows.groupby("run")["split"].transform("first")
    return rows[rows["split"] == first]


def _tasks(rows: pd.DataFrame) -> pd.Series:
    """The name of each row's task: its examples; its model too where several read the same ones."""
    pairs = rows[["model", "calibration"]].drop_duplicates()
    shared = set(pairs[pairs.duplicated("calibration", keep=False)]["calibration"])
    names = {
        tuple(pair): say_model(pair[0]) if pair[1] in shared else _say_examples(pair[1])
        for pair in pairs.itertuples(index=False)
    }
    return pd.Series(
        [names[pair] for pair in zip(rows["model"], rows["calibration"], strict=True)], index=rows.index, dtype=object
    )


def _say_examples(source: str) -> str:
    """A set by its name, a table by its file's."""
    bare = source.removeprefix("examples:")
    return (
        say_source(bare)
        if ".tsv" in bare or ".csv" in bare or bare == source
        else bare.partition("/")[0].partition("[")[0]
    )


def _reach(line: pd.DataFrame) -> str:
    """The largest share removed up to which every smaller one keeps enough, too."""
    line = line.sort_values("removed")
    kept = line["removed"][(line["kept"] >= ENOUGH).cummin()]
    return f"{kept.iloc[-1]:g} %" if len(kept) else f"less than {line['removed'].iloc[0]:g} %"


def _sorted(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Tasks, kinds, patterns and criteria as they were run, methods as in `LOOKS`, then the numbers."""
    orders = {
        name: list(dict.fromkeys(rows[name]))
        for name in ("over", "task", "kind", "pattern", "criterion")
        if name in table and name in rows
    }
    orders["method"] = [*REPAIR_LOOKS, *(name for name in dict.fromkeys(rows["method"]) if name not in REPAIR_LOOKS)]
    keys = [*orders, *(name for name in ("removed", "quantile") if name in table)]
    return table.sort_values(
        keys,
        key=lambda column: column.map(orders[column.name].index) if column.name in orders else column,
        kind="stable",
        ignore_index=True,
    )


def _looks(methods: pd.Series) -> dict[str, Look]:
    """The look of each repair, others in the spare ones."""
    seen = [name for name in dict.fromkeys(methods) if name != "dense"]
    spare = iter(OTHERS * len(seen))
    return {name: REPAIR_LOOKS[name] for name in REPAIR_LOOKS if name in seen} | {
        name: next(spare) for name in seen if name not in REPAIR_LOOKS
    }


def _legend(styles: Mapping[str, Look]) -> list:
    return [handle(look, _say(name)) for name, look in styles.items()]


def _say(method: str) -> str:
    return NAMES.get(method, say_method(method))


def _level(ax: Axes, value: float, look: Look, name: str) -> None:
    ax.axhline(value, color=look.color, linestyle=look.line, linewidth=1.2, zorder=1, gid=name)


def _titles(panels: Panels, table: pd.DataFrame) -> None:
    """The metric below each task's name."""
    metrics = table.drop_duplicates("task").set_index("task")["metric"]
    first = next(iter(panels))[0]
    for (row, task), ax in panels.items():
        if row == first:
            ax.set_title(f"{task}\n{METRIC_LABELS[metrics[task]]}")
