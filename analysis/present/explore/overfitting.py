"""Overfitting: one run's error while it is optimised, the gap between held-out and calibration error as it opens, and
where the gap ends for every number of windows, told as weights per calibration token.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.errors import UsageError
from analysis.present.calibration import CALIBRATION_LOOK, TEXT_LOOKS, epochs
from analysis.present.explore.shell import explorer, menu, slider
from analysis.present.panels import amount, draw_lines, finish, handle, log_scale, number_axis
from analysis.present.style import WIDTH, in_style, looks, say_method, say_split
from analysis.present.tables import check_table, choose, last_block, on_tables
from analysis.schema import CALIBRATION

if TYPE_CHECKING:
    from ipywidgets import VBox

WINDOWS, RATIO = "calibration windows", "weights per calibration token"
AXES = (RATIO, WINDOWS)


@dataclass(frozen=True)
class FitChoice:
    """Which watched run, up to which epoch, on which held-out text; along: what the right axis counts (`AXES`)."""

    method: str
    samples: int
    epoch: int
    split: str
    along: str = RATIO


@on_tables
def course(steps: pd.DataFrame, choice: FitChoice) -> pd.DataFrame:
    """Error over its start of the unit that first trains the last block, up to the chosen epoch: [split, epoch, value,
    ...], the calibration text and the chosen one.
    """
    rows = choose(epochs(steps), method=choice.method, samples=choice.samples, split=(CALIBRATION, choice.split))
    return rows[rows["epoch"] <= choice.epoch].reset_index(drop=True)


@on_tables
def gaps(blocks: pd.DataFrame, matrices: pd.DataFrame, split: str) -> pd.DataFrame:
    """Held-out error over calibration error at the last block: [method, samples, value, low, high, ratio], `ratio` the
    prunable weights of one block for every calibration token (772 for LLaMA-7B with
    the text of 2406.15524, section 3.1).
    """
    check_table("weights per token", matrices, "run", "block", "rows", "columns")
    error = last_block(blocks, split=(CALIBRATION, split))
    if error["criterion"].nunique() > 1:
        raise UsageError(f"overfitting: choose one criterion of {', '.join(error['criterion'].unique())}")
    wide = error.pivot_table(index=["method", "samples"], columns="split", values="value", sort=False, observed=True)
    out = (wide[split] / wide[CALIBRATION]).rename("value").reset_index()
    return out.assign(low=float("nan"), high=float("nan"), ratio=out["samples"].map(ratios(blocks, matrices)))


@on_tables
def ratios(blocks: pd.DataFrame, matrices: pd.DataFrame) -> dict[int, float]:
    """By number of windows: prunable weights of one block (mean over blocks) for every calibration token."""
    one = matrices[matrices["run"] == matrices["run"].iloc[0]]
    weights = (one["rows"] * one["columns"]).groupby(one["block"]).sum().mean()
    length = blocks["length"].iloc[0]
    return {int(samples): float(weights / (samples * length)) for samples in sorted(blocks["samples"].unique())}


@on_tables
def draw_overfitting(steps: pd.DataFrame, blocks: pd.DataFrame, matrices: pd.DataFrame, choice: FitChoice) -> Figure:
    """Left: error over its start while one run is optimised, calibration and held-out, the gap shaded. Right: where the
    gap ends, held-out over calibration error at the last block, for every number of windows and method.
    """
    line, ends = course(steps, choice), gaps(blocks, matrices, choice.split)
    seen, held = (line[line["split"] == split] for split in (CALIBRATION, choice.split))
    everything = choose(epochs(steps), split=(CALIBRATION, choice.split))
    with in_style():
        fig = plt.figure(figsize=(WIDTH, 3.4))
        plt.close(fig)
        left, right = fig.subplots(1, 2)
        for rows, look in ((seen, CALIBRATION_LOOK), (held, TEXT_LOOKS[0])):
            left.plot(
                rows["epoch"],
                rows["value"],
                color=look.color,
                marker=look.marker,
                linestyle=look.line,
                gid=f"split {rows['split'].iloc[0]}",
            )
        left.fill_between(seen["epoch"], seen["value"], held["value"], color="#D55E00", alpha=0.15, linewidth=0)
        left.set_xlim(-0.3, everything["epoch"].max() + 0.3)
        left.set_ylim(0.95 * everything["value"].min(), 1.05 * everything["value"].max())
        left.set(
            xlabel="epoch",
            ylabel="error over its start",
            title=f"{say_method(choice.method)}, {amount(choice.samples, 'window')}",
        )
        left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        log_scale([left])
        x = "ratio" if choice.along == RATIO else "samples"
        styles = looks(ends["method"])
        draw_lines(right, ends, x, styles)
        right.axhline(1, color="#333333", linewidth=0.9, linestyle=(0, (3, 1.5)), zorder=1)
        mine = ends[(ends["method"] == choice.method) & (ends["samples"] == choice.samples)]
        right.scatter(mine[x], mine["value"], s=85, facecolors="none", edgecolors="black", linewidths=1.2, zorder=5)
        number_axis(right, sorted(set(ends[x].round(1) if x == "ratio" else ends[x])))
        right.set(xlabel=choice.along, ylabel="held-out over calibration error", title="where the gap ends")
        notes = [handle(CALIBRATION_LOOK, CALIBRATION), handle(TEXT_LOOKS[0], say_split(choice.split))]
        finish(fig, styles, notes)
    return fig


@on_tables
def first_choice(steps: pd.DataFrame) -> FitChoice:
    """What is shown first: the last method, on the fewest windows, to its end."""
    if steps.empty:
        raise UsageError("overfitting: no run was watched while it was optimised; take methods that train")
    split = next(name for name in dict.fromkeys(steps["split"]) if name != CALIBRATION)
    return FitChoice(steps["method"].iloc[-1], int(steps["samples"].min()), int(steps["epoch"].max()), split)


def explore_overfitting(steps: pd.DataFrame, blocks: pd.DataFrame, matrices: pd.DataFrame) -> "VBox":
    """Controls over `draw_overfitting`. steps: of runs that were watched; blocks, matrices: of runs on several numbers
    of windows. Beyond these, the recipe builder runs whatever is asked.
    """
    first = first_choice(steps)
    methods = [(say_method(name), name) for name in dict.fromkeys(steps["method"])]
    splits = [(say_split(name), name) for name in dict.fromkeys(steps["split"]) if name != CALIBRATION]
    controls = {
        "method": menu("method", methods, first.method),
        "samples": slider("windows", sorted(map(int, steps["samples"].unique())), first.samples),
        "epoch": slider("epochs", sorted(map(int, steps["epoch"].unique())), first.epoch),
        "split": menu("text", splits, first.split),
        "along": menu("axis", AXES, width="330px"),
    }
    return explorer(controls, lambda **values: draw_overfitting(steps, blocks, matrices, FitChoice(**values)))
