"""Calibration error against test error: how both follow the number of windows and the epochs.
Tables, figures and findings of notebook 02.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.present.finding import Finding
from analysis.present.panels import (
    MEASURES,
    RELATIVE_ERROR,
    draw_lines,
    finish,
    label_axes,
    log_scale,
    number_axis,
    panel_grid,
    plain_number,
    share_log_scale,
)
from analysis.present.paper import CALIBRATION_AND_TEST, MODELS
from analysis.present.style import CRITERIA, METHOD_LOOKS, in_style, looks, say_split
from analysis.present.tables import choose, last_block, on_tables, over_seeds, perplexities
from analysis.schema import CALIBRATION


@on_tables
def sample_size(blocks: pd.DataFrame, perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """`last_block` and `perplexities` in one table, told apart by a first column `measure`."""
    error = last_block(blocks, criterion=criterion, split=split).assign(measure="relative error")
    text = perplexities(perplexity, criterion=criterion, split=split).assign(measure="perplexity")
    both = pd.concat([error, text], ignore_index=True)
    return both[["measure", *both.columns.drop("measure")]]


@on_tables
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
    out = over_seeds(rows, [*line, "epoch"], "relative_error", paired={"epoch": 0}, ratio=True)
    return out.assign(lowest=out.index.isin(out.groupby(line)["value"].idxmin()))


@on_tables
def plot_sample_size(table: pd.DataFrame) -> Figure:
    """Final error and perplexity against the number of calibration windows, one column of panels per split.

    `table` is that of `sample_size`: rows with `measure` "relative error" (drawn on a log scale shared by all
    splits) or "perplexity" (on its own scale per split, with the dense model as a dotted black line).
    """
    with in_style():
        fig, panels = panel_grid(table, "measure", "split", height=2.1, sharey=False)
        sizes = sorted(table["samples"].unique())
        for (measure, split), ax in panels.items():
            draw_lines(ax, table[(table["measure"] == measure) & (table["split"] == split)], "samples")
            number_axis(ax, sizes)
            ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
        share_log_scale([ax for (measure, _), ax in panels.items() if measure == RELATIVE_ERROR])
        label_axes(
            panels, "calibration windows", {name: MEASURES.get(name, name) for name in table["measure"].unique()}
        )
        finish(fig, looks(table["method"]))
    return fig


@on_tables
def plot_epochs(table: pd.DataFrame) -> Figure:
    """Error of one unit while it is optimised: calibration (dashed) against held-out (solid), a ring at the held-out
    minimum.

    `table` is that of `epochs`; one column of panels per number of calibration windows, one row per held-out
    register. Where the solid line turns up after its ring while the dashed one goes on falling, reconstruction
    overfits.
    """
    with in_style():
        held_out = table[table["split"] != CALIBRATION]
        fig, panels = panel_grid(held_out, "split", "samples", height=2.1, sharey=True)
        for (split, samples), ax in panels.items():
            panel_rows = table[table["samples"] == samples]
            draw_lines(ax, panel_rows[panel_rows["split"] == CALIBRATION], "epoch", line=(0, (3, 1.5)), hollow=True)
            draw_lines(ax, panel_rows[panel_rows["split"] == split], "epoch", line="-")
            best = panel_rows[(panel_rows["split"] == split) & panel_rows["lowest"]]
            ax.scatter(
                best["epoch"], best["value"], s=75, facecolors="none", edgecolors="black", linewidths=1.1, zorder=5
            )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        log_scale(panels.values())
        label_axes(panels, "epoch", {split: say_split(split) for split in held_out["split"].unique()})
        fig.supylabel(f"{RELATIVE_ERROR} of the unit", fontsize=9)
        notes = [
            Line2D([], [], color="black", linestyle=(0, (3, 1.5)), label="calibration"),
            Line2D([], [], color="black", label="held-out"),
            Line2D(
                [], [], color="black", marker="o", fillstyle="none", markersize=8, linestyle="", label="lowest held-out"
            ),
        ]
        finish(fig, looks(table["method"]), notes)
    return fig


@on_tables
def beside_gap(error: pd.DataFrame) -> pd.DataFrame:
    """Held-out error over calibration error at the last block, ours beside tables 2 and 4 of 2406.15524 (there on C4's
    test text).

    `error` is that of `tables.last_block`. Rows (criterion, method), columns: one per held-out text and number of
    windows, then the paper's models. 1 means no gap; the paper gives BR+GP and BR+GP+CR only.
    """
    key = ["criterion", "method"]
    wide = error.pivot_table(index=[*key, "samples"], columns="split", values="value", observed=True, sort=False)
    ratios = wide.drop(columns=CALIBRATION).div(wide[CALIBRATION], axis=0).unstack("samples")
    ratios.columns = pd.MultiIndex.from_tuples(
        [(say_split(split), f"{samples} windows") for split, samples in ratios.columns]
    )
    for model in MODELS:
        paper = CALIBRATION_AND_TEST[CALIBRATION_AND_TEST["model"] == model].set_index(key)
        ratios["paper, C4", model] = paper["c4"] / paper["calibration"]
    return ratios.reindex(error.set_index(key).index.unique()).round(2)


@on_tables
def say_gap(error: pd.DataFrame) -> Finding:
    """How far held-out error lies above calibration error with the fewest and with the most windows, per method and
    text.
    """
    lines = []
    wide = error.pivot_table(
        index=["criterion", "method", "samples"], columns="split", values="value", sort=False, observed=True
    )
    ratios = wide.drop(columns=CALIBRATION).div(wide[CALIBRATION], axis=0)
    for (criterion, method), rows in ratios.groupby(["criterion", "method"], sort=False):
        ends = rows.xs((criterion, method)).sort_index().iloc[[0, -1]]
        fewest, most = ends.index
        parts = [f"{say_split(split)} {ends[split].iloc[0]:.2f} → {ends[split].iloc[1]:.2f} times" for split in ends]
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)} {method}**: held-out over calibration error, {fewest} → {most}"
            f" windows: {', '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_overfitting(epochs: pd.DataFrame) -> Finding:
    """At which epoch each held-out line is lowest, and how much it has risen again by the last epoch."""
    lines = []
    held_out = epochs[epochs["split"] != CALIBRATION]
    for (split, samples), rows in held_out.groupby(["split", "samples"], sort=False):
        parts = []
        for method, line in rows.groupby("method", sort=False):
            best, last = line.loc[line["value"].idxmin()], line.loc[line["epoch"].idxmax()]
            rise = 100 * (last["value"] / best["value"] - 1)
            parts.append(
                f"{method} epoch {best['epoch']} of {last['epoch']}" + (f" (then +{rise:.1f} %)" if rise > 0 else "")
            )
        lines.append(f"- {say_split(split)}, {samples} windows: lowest at {'; '.join(parts)}.")
    return Finding("\n".join(lines))


@on_tables
def say_worth(perplexity: pd.DataFrame) -> Finding:
    """Per held-out text and method: from how many calibration windows on its perplexity is below LR's."""
    lines = []
    pruned = perplexity[(perplexity["split"] != CALIBRATION) & (perplexity["method"] != "dense")]
    for (criterion, split), rows in pruned.groupby(["criterion", "split"], sort=False):
        wide = rows.pivot(index="samples", columns="method", values="value")
        parts = []
        for method in [name for name in METHOD_LOOKS if name in wide and name != "LR"]:
            wins = wide[method] < wide["LR"]
            from_here = wins[::-1].cummin()[::-1]  # True where this and every larger number of windows wins
            parts.append(
                f"{method} from {from_here.idxmax()} windows"
                if from_here.any()
                else f"{method} at none of {', '.join(map(str, wide.index))}"
            )
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}: perplexity below LR's for"
            f" {'; '.join(parts)}."
        )
    return Finding("\n".join(lines))
