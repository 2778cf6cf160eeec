"""Where fitting the calibration text harms: what each step of reconstruction changes in calibration error, held-out
error and perplexity, against how many weights it has for each token of calibration text. Table, figure and finding of
notebook 07.

The ratio counts the prunable weights of one block, which is what a unit of reconstruction trains or a part of it; by
the same count the papers' models can stand in the figure.
"""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.errors import UsageError
from analysis.present.final import CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY, against
from analysis.present.finding import Finding, enumerated
from analysis.present.panels import draw_points, finish, handle, label_axes, log_scale, panel_grid, plain_axis
from analysis.present.paper import OVERLAP
from analysis.present.statistics import decided, holm, paired, seed_columns
from analysis.present.style import Look, in_style, say_criterion, say_method, say_model
from analysis.present.tables import on_tables, over_seeds
from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe

MEASURES = (CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY)
OTHERS = {"BR+GP+CR": "BR+GP", "BR+CR": "BR"}
"""What a method is compared with; every other one is compared with the mask alone, LR."""
STEP = ["criterion", "pattern", "method", "other", "epochs"]
POINT = ["model", "samples", "ratio"]
MARKERS = "os^vXP<>"
PAPERS = {"OPT-125M": Look("#000000", "D", ""), "LLaMA-7B": Look("#D55E00", "p", "")}
HARM = "#f8e3dc"
RATIO = "prunable weights of a block per calibration token"


@on_tables
def block_weights(matrices: pd.DataFrame) -> pd.Series:
    """Prunable weights of a block of each model, the mean over its blocks."""
    entries = matrices.assign(entries=matrices["rows"] * matrices["columns"])
    blocks = entries.groupby(["model", "run", "block"], sort=False)["entries"].sum()
    return blocks.groupby("model", sort=False).mean()


@on_tables
def effects(ends: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """What every run changes against the run it adds a step to, with the same seed and texts, in per cent: the job's
    columns, `other`, `epochs` (0 where nothing is trained), `ratio` (prunable weights of a block per calibration
    token), `measure`, `value`.

    `ends` is that of `final.ends`. CR is compared with the same without it, everything else with the mask alone. Raises
    UsageError where there is nothing to compare a method with.
    """
    pruned = ends[(ends["which"] == "pruned") & ends["measure"].isin(MEASURES)]
    recipes = pruned["recipe"].map({text: Recipe.parse(text) for text in pruned["recipe"].unique()})
    tokens = (pruned["samples"] + pruned["added_samples"]) * pruned["length"]
    pruned = pruned.assign(
        epochs=[recipe.solver.epochs if recipe.solver.name in TRAINED else 0 for recipe in recipes],
        ratio=pruned["model"].map(block_weights(matrices)) / tokens,
    )
    parts = []
    for method in [name for name in dict.fromkeys(pruned["method"]) if name != "LR"]:
        other = OTHERS.get(method, "LR")
        rows, base = (pruned[pruned["method"] == name] for name in (method, other))
        if base.empty:
            raise UsageError(
                f"effect of {method}: no run of {other} to compare it with; the methods are"
                f" {', '.join(dict.fromkeys(pruned['method']))}"
            )
        same = ["criterion", "pattern", *POINT, *(["epochs"] if other != "LR" else [])]
        changed = against(rows, base, same)
        if changed.empty:
            used = [enumerated([str(n) for n in sorted(runs["samples"].unique())]) for runs in (rows, base)]
            raise UsageError(
                f"effect of {method}: no run of {other} with its masks, model, windows and seed to compare it with;"
                f" {method} was run on {used[0]} windows, {other} on {used[1]}"
            )
        parts.append(changed.assign(other=other))
    if not parts:
        raise UsageError("effects: no method but LR was run; give one to compare with it")
    return pd.concat(parts, ignore_index=True)


@on_tables
def pitfall(effects: pd.DataFrame) -> pd.DataFrame:
    """Effects over seeds, with those the paper prints for CR: [measure, criterion, pattern, method, other, epochs,
    model, samples, ratio, source, value, low, high, seeds].

    `effects` is that of the function of this name. source: "here", or "paper" for tables 1 to 4 of 2406.15524 (256
    windows of 1,024 tokens of C4, errors and perplexity on C4, one draw, so without an interval; OPT-125M's errors are
    printed to one digit).
    """
    table = _over_seeds(effects).assign(source="here")
    steps = table[table["method"] == "BR+GP+CR"].drop_duplicates(["criterion", "pattern"])
    known = OVERLAP[OVERLAP["criterion"].isin(steps[steps["pattern"] == "50%"]["criterion"])]
    if known.empty:
        return table
    paper = known.drop(columns="weights").assign(
        pattern="50%",
        method="BR+GP+CR",
        other="BR+GP",
        epochs=steps["epochs"].min(),
        seeds=1,
        paired="",
        source="paper",
    )
    return pd.concat([table, paper], ignore_index=True)


@on_tables
def plot_pitfall(table: pd.DataFrame) -> Figure:
    """Change in per cent against prunable weights of a block per calibration token, one row of panels for each step
    of reconstruction, one column per measure, one line per model over its numbers of windows.

    `table` is that of `pitfall`. Above the level line a step harms; bars are 95 % intervals. Hollow marks are the
    paper's models.
    """
    table = table.assign(step=[_say_step(*key) for key in table[["method", "other", "epochs"]].itertuples(index=False)])
    looks = model_looks(table)
    with in_style():
        fig, panels = panel_grid(table, "step", "measure", height=1.55, sharey=False)
        for (step, measure), ax in panels.items():
            rows = table[(table["step"] == step) & (table["measure"] == measure)]
            ax.axhline(0, color="#333333", linewidth=0.9, zorder=2)
            for (source, model), line in rows.groupby(["source", "model"], sort=False):
                line, look = line.sort_values("ratio"), looks[model]
                ax.plot(line["ratio"], line["value"], color=look.color, linewidth=1.1, zorder=3)
                draw_points(
                    ax, line["ratio"], line, color=look.color, marker=look.marker, gid=f"model {model}",
                    hollow=source == "paper", size=6 if source == "paper" else 4.5,
                )  # fmt: skip
            plain_axis(ax.yaxis)
            _shade_harm(ax)
        log_scale(panels.values(), "x")
        label_axes(panels, "", {step: step.replace(", ", "\n") + "\nchange, %" for step in table["step"].unique()})
        fig.supxlabel(RATIO, fontsize=9)
        notes = [
            handle(look, f"{say_model(model)}{' (paper)' * (model in PAPERS)}", markerfacecolor="white")
            if model in PAPERS
            else handle(look, say_model(model))
            for model, look in looks.items()
        ]
        finish(fig, {}, [*notes, Line2D([], [], color=HARM, linewidth=7, label="harm")])
    return fig


@on_tables
def model_looks(table: pd.DataFrame) -> dict[str, Look]:
    """The look of each model, from the smallest to the largest block: dark to light, the papers' in their own."""
    sizes = (table["ratio"] * table["samples"]).groupby(table["model"]).max().sort_values()
    ours = [model for model in sizes.index if model not in PAPERS]
    shades = [to_hex(colormaps["viridis"](0.82 * place / max(len(ours) - 1, 1))) for place in range(len(ours))]
    made = {model: Look(shade, marker, "-") for model, shade, marker in zip(ours, shades, cycle(MARKERS), strict=False)}
    return made | {model: look for model, look in PAPERS.items() if model in sizes}


@on_tables
def crossings(effects: pd.DataFrame) -> pd.DataFrame:
    """Where a straight line through a seed's effects, against the logarithm of the ratio, rises through zero: one row
    for each step, measure and seed [measure, criterion, ..., epochs, seed, value], `value` the ratio's logarithm to
    base 10.

    NaN where there are fewer than three ratios, where the line does not rise, or does so outside of them.
    """
    rows = []
    for key, some in effects.groupby(["measure", *STEP, "seed"], sort=False):
        at = np.log10(some["ratio"].to_numpy())
        where = float("nan")
        if len(set(at)) > 2:
            slope, start = np.polyfit(at, some["value"].to_numpy(), 1)
            zero = -start / slope if slope > 0 else float("nan")
            where = zero if at.min() <= zero <= at.max() else float("nan")
        rows.append(dict(zip(["measure", *STEP, "seed"], key, strict=True)) | {"value": where})
    return pd.DataFrame(rows)


@on_tables
def say_pitfall(effects: pd.DataFrame) -> Finding:
    """Per step of reconstruction and measure: at how many points its whole interval lies below zero and above it (and
    at how many of them by Holm's correction for all points of that measure), the first ratio at which it harms, and
    where a straight line through the points of each seed crosses zero.
    """
    table = _over_seeds(effects)
    where = crossings(effects)
    lines = []
    for key, rows in table.groupby(STEP, sort=False):
        criterion, pattern, method, other, epochs = key
        same = (where[STEP] == list(key)).all(axis=1)
        said = [
            _say_measure(measure, part.sort_values("ratio"), where[same & (where["measure"] == measure)])
            for measure, part in rows.groupby("measure", sort=False)
        ]
        lines.append(
            f"- **{_say_step(method, other, epochs)}** ({say_criterion(criterion)} {pattern}): {'; '.join(said)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_effects(effects: pd.DataFrame) -> Finding:
    """Per step of reconstruction, at each ratio: what it changes in every measure, with its interval."""
    table = _over_seeds(effects)
    lines = []
    for key, rows in table.groupby([*STEP, *POINT], sort=False):
        criterion, pattern, method, other, epochs = key[: len(STEP)]
        said = [
            f"{row['measure']} {row['value']:+.1f} %"
            + (f" ({row['low']:+.1f} to {row['high']:+.1f})" if row["seeds"] > 1 else "")
            for _, row in rows.iterrows()
        ]
        lines.append(
            f"- **{_say_step(method, other, epochs)}** ({say_criterion(criterion)} {pattern}): " + ", ".join(said) + "."
        )
    return Finding("\n".join(lines))


def _say_measure(measure: str, rows: pd.DataFrame, where: pd.DataFrame) -> str:
    """What becomes of one measure; `rows` come by ratio."""
    low, high = rows["value"].min(), rows["value"].max()
    said = f"{measure} changes by {low:+.1f} to {high:+.1f} %"
    if (rows["seeds"] < 2).any():
        return said + " (one draw of texts: no interval)"
    each = rows[seed_columns(rows)].to_numpy(float)
    several = np.array([decided(p) for p in holm([paired(values, 0 * values).p for values in each])])
    counts = [
        f"{word} at {int(sure.sum())} ({int((sure & several).sum())} by Holm)"
        for word, sure in (("lower", rows["high"] < 0), ("higher", rows["low"] > 0))
    ]
    said += f", with its whole interval {' and '.join(counts)} of {len(rows)} points"
    harms = rows[rows["low"] > 0]
    if len(harms):
        first = harms.iloc[0]
        said += (
            f", higher first at {first['ratio']:.0f} weights per token ({say_model(first['model'])}, {first['samples']}"
            f" {'window' if first['samples'] == 1 else 'windows'}: {first['value']:+.1f} %, {first['low']:+.1f} to"
            f" {first['high']:+.1f})"
        )
    if len(harms) < len(rows) and where["value"].notna().all():
        mean = over_seeds(where, ["measure"], "value").iloc[0]
        zero, low, high = (f"{10 ** mean[name]:.0f}" for name in ("value", "low", "high"))
        said += f"; the line crosses zero at {zero} ({low} to {high})"
    return said


def _over_seeds(effects: pd.DataFrame) -> pd.DataFrame:
    """Effects over seeds, those of CR before the others'."""
    table = over_seeds(effects, ["measure", *STEP, *POINT], "value")
    return table.sort_values("method", key=lambda column: ~column.isin(OTHERS), kind="stable", ignore_index=True)


def _say_step(method: str, other: str, epochs: int) -> str:
    """What is added to what, as in "CR added to BR+GP, 10 epochs"."""
    added = method.removeprefix(f"{other}+")
    name = say_method(added) if added == method else added
    return f"{name} {'against' if added == method else 'added to'} {other}" + (f", {epochs} epochs" if epochs else "")


def _shade_harm(ax: Axes) -> None:
    """Everything above zero in a pale red, with room for it where nothing harms."""
    low, high = ax.get_ylim()
    high = max(high, 0.12 * (high - low), 0.12 * -low)
    ax.set_ylim(low, high)
    ax.axhspan(0, high, color=HARM, linewidth=0, zorder=0)
