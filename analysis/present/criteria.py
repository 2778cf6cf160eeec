"""Criteria and refinements of masks, before and after reconstruction. Tables, figures and findings of notebook 05."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.errors import UsageError
from analysis.present.finding import Finding
from analysis.present.panels import category_axis, draw_levels, draw_points, finish, label_axes, log_scale, panel_grid
from analysis.present.paper import REFINED
from analysis.present.style import CRITERIA, REFINEMENT_NAMES, REFINEMENTS, in_style, looks, say_method, say_split
from analysis.present.tables import TO_DENSE, choose, held_out, on_tables, over_seeds, with_dense


@on_tables
def criteria(perplexity: pd.DataFrame, *, pattern=None, split=None) -> pd.DataFrame:
    """Held-out perplexity of every criterion: [pattern, criterion, refinement, split, method, ...];
    "dense" is the dense model.
    """
    by = ["pattern", "split", "criterion", "refinement", "method"]
    rows = with_dense(choose(held_out(perplexity, None, split), pattern=pattern), ["pattern", "split", "criterion"])
    rows = rows.assign(refinement=rows["refinement"].where(rows["method"] != "dense", "none"))
    return over_seeds(rows, by, "perplexity", paired=TO_DENSE | {"refinement": "none"}, ratio=True)


@on_tables
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


@on_tables
def plot_criteria(table: pd.DataFrame) -> Figure:
    """Perplexity of every criterion, with its mask as chosen and refined, before (hollow) and after reconstruction
    (filled).

    `table` is that of `criteria`; one column of panels per pattern, each with a log scale of its own, one row
    per held-out text; dotted: the dense model.
    """
    with in_style():
        criteria = [name for name in CRITERIA if name in set(table["criterion"])]
        fig, panels = panel_grid(table, "split", "pattern", height=2.4, sharey=False)
        marked = {method: look.marker for method, look in looks(table["method"]).items() if method != "dense"}
        for (split, pattern), ax in panels.items():
            panel_rows = table[(table["split"] == split) & (table["pattern"] == pattern)]
            dense = panel_rows[panel_rows["method"] == "dense"].drop_duplicates("method")
            draw_levels(ax, dense, (-0.5, len(criteria) - 0.5))
            for (refinement, method), rows in panel_rows[panel_rows["method"] != "dense"].groupby(
                ["refinement", "method"], sort=False
            ):
                x = rows["criterion"].map(criteria.index) + _aside(refinement, table)
                draw_points(
                    ax,
                    x,
                    rows,
                    color=REFINEMENTS[refinement].color,
                    marker=marked[method],
                    hollow=method == "LR",
                    size=4.5,
                    gid=f"method {method} {refinement}",
                )
            category_axis(ax, [CRITERIA[name] for name in criteria], rotation=45)
        for ax in panels.values():
            log_scale([ax])
        label_axes(panels, "", {split: f"perplexity\n{say_split(split)}" for split in table["split"].unique()})
        notes = [
            Line2D(
                [],
                [],
                color="black",
                marker=marker,
                linestyle="",
                markerfacecolor="white" if method == "LR" else "black",
                label="mask alone" if method == "LR" else f"after {say_method(method)}",
            )
            for method, marker in marked.items()
        ]
        finish(fig, looks(["dense"]), [*_refinement_legend(table), *notes])
    return fig


@on_tables
def plot_layers(table: pd.DataFrame) -> Figure:
    """What a refinement leaves of every matrix's error: one dot per matrix, within each criterion from the first block
    to the last.

    `table` is that of `layer_changes`; one panel per pattern. 1 is the plain mask's error; lower is better.
    """
    with in_style():
        criteria = [name for name in CRITERIA if name in set(table["criterion"])]
        table = table.assign(row="")
        fig, panels = panel_grid(table, "row", "pattern", height=2.3, sharey=True)
        last = max(1, table["block"].max())
        for (_, pattern), ax in panels.items():
            panel_rows = table[table["pattern"] == pattern]
            for refinement, rows in panel_rows.groupby("refinement", sort=False):
                x = (
                    rows["criterion"].map(criteria.index)
                    + _aside(refinement, table)
                    + 0.22 * (rows["block"] / last - 0.5)
                )
                ax.plot(
                    x,
                    rows["value"],
                    color=REFINEMENTS[refinement].color,
                    marker=".",
                    markersize=3.5,
                    linestyle="",
                    alpha=0.8,
                    gid=f"refinement {refinement}",
                )
            category_axis(ax, [CRITERIA[name] for name in criteria], rotation=45)
            ax.set_ylim(0, 1.02)
        label_axes(panels, "", {"": "error left of the\nplain mask's"})
        finish(fig, {}, _refinement_legend(table))
    return fig


@on_tables
def say_spread(table: pd.DataFrame) -> Finding:
    """Per pattern and held-out text: how far the criteria lie apart before and after reconstruction, masks as chosen.

    `table` is that of `criteria`. 2510.14444 (v2) claims that the criterion matters less after reconstruction.
    """
    lines = []
    plain = table[(table["refinement"] == "none") & (table["method"] != "dense")]
    for (pattern, split), rows in plain.groupby(["pattern", "split"], sort=False):
        wide = rows.pivot(index="criterion", columns="method", values="value")
        parts, spreads = [], []
        for method in looks(wide):
            best, worst = wide[method].idxmin(), wide[method].idxmax()
            spreads.append(100 * (wide[method].max() / wide[method].min() - 1))
            parts.append(
                f"{say_method(method)} {spreads[-1]:.2g} % ({CRITERIA[best]} {wide[method].min():.3f} to"
                f" {CRITERIA[worst]} {wide[method].max():.3f})"
            )
        shrinks = all(spread < spreads[0] for spread in spreads[1:])
        verdict = (
            "the criterion matters less after reconstruction, as the paper claims"
            if shrinks
            else "the gap does not shrink, against the paper's claim"
        )
        lines.append(
            f"- **{pattern}**, {say_split(split)}: worst criterion over best"
            f" {'; '.join(parts)}{'; ' + verdict if len(spreads) > 1 else ''}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_refined(table: pd.DataFrame) -> Finding:
    """Per pattern and held-out text: what each refinement does to perplexity before and after reconstruction, per
    criterion.
    """
    lines = []
    for (pattern, split), rows in table[table["method"] != "dense"].groupby(["pattern", "split"], sort=False):
        parts = []
        for (method, refinement), some in rows[rows["refinement"] != "none"].groupby(
            ["method", "refinement"], sort=False
        ):
            base = rows[(rows["method"] == method) & (rows["refinement"] == "none")].set_index("criterion")["value"]
            change = 100 * (some.set_index("criterion")["value"] / base - 1)
            words = ", ".join(f"{CRITERIA[criterion]} {percent:+.1f} %" for criterion, percent in change.items())
            parts.append(f"{say_method(method)} with {REFINEMENT_NAMES[refinement]}: {words}")
        lines.append(f"- **{pattern}**, {say_split(split)}: {'; '.join(parts) or 'no refinement was run'}.")
    return Finding("\n".join(lines))


@on_tables
def say_layers(changes: pd.DataFrame) -> Finding:
    """Per pattern and refinement: how much of the matrices' own error it removes, in the mean over matrices and at
    most.

    `changes` is that of `layer_changes`. The papers: up to 60 % less than Wanda's with swaps (2512.10922), up to
    80 % and typically 20 to 40 % with Frank-Wolfe (2510.13713).
    """
    lines = []
    for (pattern, refinement), rows in changes.groupby(["pattern", "refinement"], sort=False):
        parts = []
        for criterion, some in rows.groupby("criterion", sort=False):
            less = 100 * (1 - some["value"])
            parts.append(f"{CRITERIA[criterion]} {less.mean():.0f} % (at most {less.max():.0f} %)")
        lines.append(
            f"- **{pattern}, {REFINEMENT_NAMES[refinement]}**: error of a matrix lower by {', '.join(parts)} in the"
            " mean."
        )
    return Finding("\n".join(lines))


@on_tables
def beside_refinement(table: pd.DataFrame) -> pd.DataFrame:
    """Perplexity with Frank-Wolfe's mask over that with the criterion's own, before reconstruction, ours beside table 1
    of 2510.13713.

    `table` is that of `criteria`. Rows (pattern, criterion); columns: one per held-out text, then the least and
    the most of the paper's six models. Below 1 the refinement helps. The paper gives Wanda and RIA at 50 %, 60 % and
    2:4.
    """
    key = ["pattern", "criterion"]
    rows = table[(table["method"] == "LR")]
    wide = rows.pivot_table(index=[*key, "split"], columns="refinement", values="value", sort=False)
    if "fw" not in wide:
        raise UsageError("beside the paper's refinement: the table has no runs with fw; add it to the refinements")
    out = (wide["fw"] / wide["none"]).unstack("split").rename(columns=say_split)
    ratio = (REFINED["fw"] / REFINED["none"]).groupby([REFINED[name] for name in key])
    out["paper, least"], out["paper, most"] = ratio.min(), ratio.max()
    return out.reindex(rows.set_index(key).index.unique()).rename_axis(columns=None).round(3)


def _aside(refinement: str, table: pd.DataFrame) -> float:
    """How far right of its criterion's place a refinement is drawn."""
    refinements = [name for name in REFINEMENTS if name in set(table["refinement"])]
    return 0.26 * (refinements.index(refinement) - (len(refinements) - 1) / 2)


def _refinement_legend(table: pd.DataFrame) -> list[Line2D]:
    refinements = set(table["refinement"])
    return [
        Line2D([], [], color=look.color, marker="s", linestyle="", label=REFINEMENT_NAMES[name])
        for name, look in REFINEMENTS.items()
        if name in refinements
    ]
