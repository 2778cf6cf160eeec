"""Calibration error against test error: how both follow the number of windows and the epochs.
Tables, figures and findings of notebook 02.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.errors import UsageError
from analysis.present.finding import Finding, say_points, say_ratio
from analysis.present.panels import (
    MEASURES,
    RELATIVE_ERROR,
    amount,
    draw_lines,
    draw_named,
    finish,
    handle,
    label_axes,
    log_scale,
    number_axis,
    panel_grid,
    plain_number,
    share_log_scale,
)
from analysis.present.paper import CALIBRATION_AND_TEST, MODELS
from analysis.present.statistics import compare, decided, holm
from analysis.present.style import METHOD_LOOKS, Look, in_style, looks, say_criterion, say_method, say_split
from analysis.present.tables import TO_LR, above_dense, choose, last_block, on_tables, over_seeds
from analysis.schema import CALIBRATION

ABOVE_DENSE = "perplexity above dense"
STEPS = ("LR", "BR", "BR+GP", "BR+GP+CR")  # each adds to the one before
CALIBRATION_LOOK = Look("#000000", "o", (0, (3, 1.5)))
TEXT_LOOKS = [Look("#6A3D9A", "s", "-"), Look("#B8860B", "^", "-"), Look("#44AA99", "D", "-")]


@on_tables
def sample_size(blocks: pd.DataFrame, perplexity: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Relative error at the last block, and by how many per cent perplexity exceeds the dense model's on the same
    windows: [measure, criterion, split, method, samples, ...].
    """
    error = last_block(blocks, criterion=criterion, split=split).assign(measure=RELATIVE_ERROR)
    rows = above_dense(choose(perplexity, criterion=criterion, split=split))
    text = over_seeds(rows, ["criterion", "split", "method", "samples"], "above", paired=TO_LR)
    both = pd.concat([error, text.assign(measure=ABOVE_DENSE)], ignore_index=True)
    return both[["measure", *both.columns.drop("measure")]]


@on_tables
def epochs(steps: pd.DataFrame, *, criterion=None, split=None) -> pd.DataFrame:
    """Error of the unit that first trains the last block over its error before the first step: [criterion, split,
    method, samples, epoch, ..., lowest].

    Ratios within a run, so methods with other targets can be compared in shape. Calibration error is taken at the
    epoch's end, as held-out error is, where runs have select=calibration; else it is the mean over the epoch's steps.
    `lowest` marks, on each line, the epoch with the lowest error: where a held-out line turns up again, the unit
    overfits. Raises UsageError for a run that looked at held-out text at its end alone.
    """
    rows = choose(steps, criterion=criterion, split=split)
    rows = rows[rows["last_block"] == rows["last_block"].max()]
    rows = rows[rows["unit"] == rows.groupby("run")["unit"].transform("min")]
    start = rows[rows["epoch"] == 0].set_index(["run", "split"])["error"]
    own = list(zip(rows["run"], rows["split"], strict=True))
    if unseen := sorted(set(own) - set(start.index)):
        raise UsageError(
            f"epochs: {unseen[0][0]} has no error on {say_split(unseen[0][1])} from before its first step; a run that"
            " is watched needs held_out_every=1"
        )
    left = rows["error"].to_numpy() / start.loc[own].to_numpy()
    line = ["criterion", "split", "method", "samples"]
    out = over_seeds(rows.assign(left=left), [*line, "epoch"], "left", ratio=True)
    return out.assign(lowest=out.index.isin(out.groupby(line)["value"].idxmin()))


@on_tables
def plot_sample_size(table: pd.DataFrame) -> Figure:
    """Final error and perplexity above the dense model's against the number of calibration windows, one column of
    panels per split.

    `table` is that of `sample_size`: relative errors on a log scale, perplexities in per cent above the dense model's
    (0: none lost), each on one scale for all splits. Rings: on a text that was never seen, a step of reconstruction
    ends above the step before it.
    """
    with in_style():
        fig, panels = panel_grid(table, "measure", "split", height=2.3, sharey="row")
        sizes, styles = sorted(table["samples"].unique()), looks(table["method"])
        for (measure, split), ax in panels.items():
            rows = table[(table["measure"] == measure) & (table["split"] == split)]
            draw_lines(ax, rows, "samples", styles)
            back = _steps_back(rows) if split != CALIBRATION else rows.iloc[:0]
            _ring(ax, back["samples"], back["value"])
            number_axis(ax, sizes)
            ax.yaxis.set_major_formatter(FuncFormatter(plain_number))
            if measure == ABOVE_DENSE:
                ax.hlines(0, sizes[0], sizes[-1], color="black", linestyle=METHOD_LOOKS["dense"].line, linewidth=1.2)
        share_log_scale([ax for (measure, _), ax in panels.items() if measure == RELATIVE_ERROR])
        names = MEASURES | {ABOVE_DENSE: "perplexity,\n% above dense"}
        label_axes(panels, "calibration windows", {name: names.get(name, name) for name in table["measure"].unique()})
        notes = [handle(METHOD_LOOKS["dense"], "dense"), _ring_note("held-out: worse than the step before")]
        finish(fig, styles, notes)
    return fig


def _ring(ax: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    ax.scatter(x, y, s=75, facecolors="none", edgecolors="black", linewidths=1.1, zorder=5)


def _ring_note(word: str) -> Line2D:
    ring = Look("black", "o", "")
    return handle(ring, word, fillstyle="none", markersize=8)


def _steps_back(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one panel whose method ends above the step before it."""
    at = rows.set_index(["method", "samples"])["value"]
    before = dict(zip(STEPS[1:], STEPS, strict=False))
    behind = [
        (before.get(row.method), row.samples) in at.index and row.value > at[before[row.method], row.samples]
        for row in rows.itertuples()
    ]
    return rows[behind]


@on_tables
def plot_epochs(table: pd.DataFrame) -> Figure:
    """What is left of the last block's error while it is optimised: calibration (dashed) against held-out texts, a ring
    at each held-out minimum.

    `table` is that of `epochs`; one row of panels per method, one column per number of calibration windows. Where a
    solid line turns up after its ring while the dashed one goes on falling, reconstruction overfits.
    """
    with in_style():
        fig, panels = panel_grid(table, "method", "samples", height=2.0, sharey=True)
        styles = _text_looks(table["split"])
        for (method, samples), ax in panels.items():
            rows = table[(table["method"] == method) & (table["samples"] == samples)]
            draw_named(ax, rows, "epoch", "split", styles, "split")
            best = rows[rows["lowest"] & (rows["split"] != CALIBRATION)]
            _ring(ax, best["epoch"], best["value"])
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        log_scale(panels.values())
        label_axes(
            panels,
            "epoch",
            {method: f"error over its start\n{say_method(method)}" for method in table["method"].unique()},
        )
        notes = [handle(look, say_split(split)) for split, look in styles.items()]
        finish(fig, {}, [*notes, _ring_note("lowest held-out")])
    return fig


def _text_looks(splits) -> dict[str, Look]:
    """The look of calibration text and of each held-out one."""
    texts = [split for split in dict.fromkeys(splits) if split != CALIBRATION]
    return {CALIBRATION: CALIBRATION_LOOK} | {
        split: TEXT_LOOKS[place % len(TEXT_LOOKS)] for place, split in enumerate(texts)
    }


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
        [(say_split(split), amount(samples, "window")) for split, samples in ratios.columns]
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
            f"- **{say_criterion(criterion)} {method}**: held-out over calibration error, {fewest} → {most}"
            f" windows: {', '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_overfitting(epochs: pd.DataFrame) -> Finding:
    """Per held-out text and number of windows: the epoch at which each method's line is lowest, how much it has risen
    again by the last epoch, and what calibration error has fallen to meanwhile."""
    lines = []
    held_out = epochs[epochs["split"] != CALIBRATION]
    at = epochs.set_index(["split", "samples", "method", "epoch"])
    for (split, samples), rows in held_out.groupby(["split", "samples"], sort=False):
        parts = []
        for method, line in rows.groupby("method", sort=False):
            best, last = line.loc[line["value"].idxmin()], line.loc[line["epoch"].idxmax()]
            part = f"{method} epoch {best['epoch']} of {last['epoch']}"
            if best["epoch"] < last["epoch"]:
                seen = [
                    at.loc[(CALIBRATION, samples, method, epoch), "value"] for epoch in (best["epoch"], last["epoch"])
                ]
                rise = compare(last, best, ratio=True)
                part += (
                    f" (then {say_ratio(rise)}, while calibration error goes from {100 * seen[0]:.0f} to"
                    f" {100 * seen[1]:.0f} % of its start)"
                )
            parts.append(part)
        lines.append(f"- {say_split(split)}, {amount(samples, 'window')}: lowest at {'; '.join(parts)}.")
    return Finding("\n".join(lines))


@on_tables
def say_last_step(sizes: pd.DataFrame, *, before: str = "BR+GP", after: str = "BR+GP+CR") -> Finding:
    """What the last step, CR, changes of held-out error and of perplexity, per held-out text and number of windows.

    `sizes` is the table of `sample_size`. Paired within seeds, t tests corrected by Holm for all comparisons of the
    sentence. 2406.15524 (tables 2 and 4): CR lowers the error on calibration text of both its models, and raises it on
    other text for the larger one, which has 772 weights of a block for every calibration token.
    """
    rows = sizes[sizes["method"].isin((before, after))].set_index(
        ["measure", "criterion", "split", "samples", "method"]
    )
    places = [place for place in dict.fromkeys(key[:-1] for key in rows.index) if place[2] != CALIBRATION]
    places = [place for place in places if {(*place, before), (*place, after)} <= set(rows.index)]
    if not places:
        return Finding(f"- {before} and {after} were not both run, so there is nothing to compare.")
    changes = {
        place: compare(rows.loc[(*place, after)], rows.loc[(*place, before)], ratio=place[0] == RELATIVE_ERROR)
        for place in places
    }
    corrected = dict(zip(places, holm([change.p for change in changes.values()]), strict=True))
    lines = []
    for criterion, split in dict.fromkeys((place[1], place[2]) for place in places):
        parts = []
        for place in (place for place in places if place[1:3] == (criterion, split)):
            change = changes[place]
            size = say_ratio(change) if place[0] == RELATIVE_ERROR else say_points(change)
            verdict = "undecided" if not decided(corrected[place]) else "higher" if change.difference > 0 else "lower"
            what = "error" if place[0] == RELATIVE_ERROR else "perplexity"
            parts.append(f"{amount(place[3], 'window')}: {what} {size}, {verdict}")
        lines.append(
            f"- **{say_criterion(criterion)}**, {say_split(split)}, {after} against {before}: {'; '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_worth(perplexity: pd.DataFrame) -> Finding:
    """Per held-out text and method: from how many calibration windows on its perplexity is below LR's."""
    lines = []
    pruned = perplexity[(perplexity["split"] != CALIBRATION) & (perplexity["method"] != "dense")]
    for (criterion, split), rows in pruned.groupby(["criterion", "split"], sort=False):
        wide = rows.pivot(index="samples", columns="method", values="value")
        parts = []
        for method in [name for name in looks(wide) if name != "LR"]:
            wins = wide[method] < wide["LR"]
            from_here = wins[::-1].cummin()[::-1]  # True where this and every larger number of windows wins
            parts.append(
                f"{method} from {amount(from_here.idxmax(), 'window')}"
                if from_here.any()
                else f"{method} at none of {', '.join(map(str, wide.index))}"
            )
        said = f"perplexity below LR's for {'; '.join(parts)}" if parts else "LR alone was run"
        lines.append(f"- **{say_criterion(criterion)}**, {say_split(split)}: {said}.")
    return Finding("\n".join(lines))
