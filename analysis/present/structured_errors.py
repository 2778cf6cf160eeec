"""Where the error of a repaired encoder sits: in few tokens or in all. Table, figure and finding of notebook 09."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.present.encoder_runs import first_text, in_order, repair_handles, repair_looks, say_repair
from analysis.present.encoder_runs import tasks as task_names
from analysis.present.finding import Finding
from analysis.present.panels import finish, handle, label_axes, log_scale, panel_grid
from analysis.present.style import Look, in_style
from analysis.present.tables import TO_LR, on_tables, over_seeds

OVER = {"tokens": "single tokens", "windows": "whole examples"}
GREY = Look("#4D4D4D", "", "-")


@on_tables
def spread(distribution: pd.DataFrame) -> pd.DataFrame:
    """Relative error at the last block on held-out examples, token by token and example by example: [over, task,
    pattern, criterion, method, quantile, value, ...].

    value: what so large a share (`quantile`) of tokens, or of examples in the mean over their tokens, stay below.
    Raises UsageError where nothing held out was measured.
    """
    rows = first_text(distribution, "distribution")
    rows = rows.assign(task=task_names(rows))
    by = ["over", "task", "pattern", "criterion", "method", "quantile"]
    return in_order(over_seeds(rows, by, "relative_error", paired=TO_LR, ratio=True), rows)


@on_tables
def plot_spread(table: pd.DataFrame) -> Figure:
    """Error of single tokens (above) and of whole examples (below) under each repair, log scale: one column per task.

    `table` is that of `spread` for one pattern and criterion. Box: the middle half; line: from 5 to 95 per cent; point:
    the median.
    """
    with in_style():
        styles = repair_looks(table["method"])
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
        boxes = [
            handle(GREY, "5 to 95 %", linewidth=1.2),
            handle(GREY, "middle half", linewidth=7, alpha=0.4),
            handle(GREY, "median", marker=".", linestyle=""),
        ]
        finish(fig, {}, [*repair_handles(styles, linestyle=""), *boxes])
    return fig


@on_tables
def say_spread(table: pd.DataFrame) -> Finding:
    """Per task: the median error of tokens and of examples under each repair over that of the mask alone, and how far
    the worst twentieth lies above the median.
    """
    lines = []
    for (over, task), rows in table.groupby(["over", "task"], sort=False):
        wide = rows.pivot(index="method", columns="quantile", values="value")
        wide = wide.reindex(list(repair_looks(rows["method"])))
        first = wide.index[0]
        parts = [
            f"{say_repair(method)} {row[0.5] / wide.loc[first, 0.5]:.2f} ({row[0.95] / row[0.5]:.1f})"
            for method, row in wide.iterrows()
        ]
        lines.append(
            f"- **{task}**, {OVER[over]}, median over that of {say_repair(first)} (in brackets: 95 % quantile over"
            f" median): {', '.join(parts)}."
        )
    return Finding("\n".join(lines))
