"""What text does to reconstruction: windows added to the calibration text, how self-generated text is written, and
which text represents what the model was trained on. Tables, figures and findings of notebook 03.

Tables start from `ends.ends`. Changes are taken within a seed, from the run without added windows, and then averaged.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.final import (
    ACCURACY,
    HELD_OUT_ERROR,
    PERPLEXITY,
    against,
    by_chance,
    say_change,
    say_rank,
    spearman,
)
from analysis.present.finding import Finding, say_half, say_number
from analysis.present.panels import (
    amount,
    category_axis,
    category_rows,
    draw_named,
    finish,
    handle,
    label_points,
    log_scale,
    panel_grid,
    plain_axis,
)
from analysis.present.statistics import LEVEL, Paired, decided, holm, paired, seed_columns
from analysis.present.style import apart, in_style, say_criterion, say_method, say_source, source_looks
from analysis.present.tables import choose, on_tables, over_seeds
from analysis.schema import CALIBRATION

RECIPE_COLUMNS = ["pattern", "criterion", "method"]
RISE = "perplexity above\nthe dense model's, %"
ADDED_MEASURES = (HELD_OUT_ERROR, PERPLEXITY, ACCURACY)
DISTANCE, NATS = "distance", "nats"  # columns of `representatives`


@on_tables
def added(ends: pd.DataFrame, *, sources=None, samples=None, longer: pd.DataFrame | None = None) -> pd.DataFrame:
    """What windows added to the calibration text change: [measure, pattern, criterion, method, added, added_samples,
    ..., level].

    sources, samples: of the added windows, all by default. value: change of held-out error and perplexity in per cent,
    of accuracy in points, against the run without added windows of the same recipe and seed, whose rows are 0; level:
    the quantity itself. longer: `ends` of runs without added windows that were trained for more epochs, drawn beside
    the most windows as the source "" (nothing).
    """
    pruned = ends[(ends["which"] == "pruned") & ends["measure"].isin(ADDED_MEASURES)]
    base = pruned[pruned["added_samples"] == 0]
    if base.empty:
        raise UsageError("added text: no run without added windows; put 0 into the numbers of windows to add")
    by = ["measure", *RECIPE_COLUMNS, "added", "added_samples"]
    chosen = choose(pruned[pruned["added"] != ""], added=sources, added_samples=samples)
    if longer is not None:
        alone = longer[(longer["which"] == "pruned") & longer["measure"].isin(ADDED_MEASURES)]
        chosen = pd.concat(
            [chosen, alone.assign(added="", added_samples=chosen["added_samples"].max())], ignore_index=True
        )
    changed = against(chosen, base, RECIPE_COLUMNS)
    level = over_seeds(changed, by, "level").rename(columns={"value": "level"})
    return over_seeds(changed, by, "value").merge(level[[*by, "level"]], on=by)


@on_tables
def settings(ends: pd.DataFrame, samples: int) -> pd.DataFrame:
    """What every text, added in `samples` windows, changes against plain sampling, the first self-generated one:
    [measure, pattern, criterion, method, added, ...], the lowest held-out error of the first recipe first.

    value: change within a seed as in `added`, plain sampling in the place of no added windows; it has no row itself.
    Raises UsageError where none of the texts is self-generated.
    """
    chosen = ends[(ends["which"] == "pruned") & ends["measure"].isin(ADDED_MEASURES) & (ends["added"] != "")]
    chosen = choose(chosen, added_samples=samples)
    written = [source for source in dict.fromkeys(chosen["added"]) if source.startswith("self")]
    if not written:
        raise UsageError(
            f"settings: none of the added texts {', '.join(dict.fromkeys(chosen['added']))} is self-generated"
        )
    plain = chosen["added"] == written[0]
    changed = against(chosen[~plain], chosen[plain], RECIPE_COLUMNS)
    if changed.empty:
        raise UsageError(f"settings: {written[0]} is the only added text; give others to compare with it")
    out = over_seeds(changed, ["measure", *RECIPE_COLUMNS, "added"], "value")
    first = out.iloc[0][["measure", *RECIPE_COLUMNS]]
    order = list(out[(out[first.index] == first).all(axis=1)].sort_values("value")["added"])
    places = {"added": order} | {name: list(dict.fromkeys(out[name])) for name in first.index}
    return out.sort_values(
        [*first.index, "added"], key=lambda column: column.map(places[str(column.name)].index), ignore_index=True
    )


@on_tables
def representatives(
    ends: pd.DataFrame, texts: pd.DataFrame, perplexity: pd.DataFrame, *, split: str | None = None
) -> pd.DataFrame:
    """Each calibration text against held-out text: [measure, pattern, criterion, method, calibration, ...,
    distance, nats].

    value: held-out error, or how far perplexity rises above the dense model's in per cent; distance: of the second
    moments of the dense model's hidden states on the calibration text from those on the held-out text, median over
    blocks (a few tokens with outsized states rule single ones); nats: the dense model's loss per token of the
    calibration text. Both are means over seeds, and known before anything is pruned. Only runs without added windows
    count.
    """
    dense = (
        ends[(ends["which"] == "dense") & (ends["measure"] == PERPLEXITY)]
        .drop_duplicates("run")
        .set_index("run")["value"]
    )
    unmixed = ends[
        (ends["which"] == "pruned") & (ends["added_samples"] == 0) & ends["measure"].isin((HELD_OUT_ERROR, PERPLEXITY))
    ]
    rise = unmixed["measure"] == PERPLEXITY
    unmixed = unmixed.assign(
        value=unmixed["value"].mask(rise, 100 * (unmixed["value"] / unmixed["run"].map(dense) - 1)),
        measure=unmixed["measure"].mask(rise, RISE),
    )
    out = over_seeds(
        unmixed.drop_duplicates(["measure", *RECIPE_COLUMNS, "calibration", "seed", "value"]),
        ["measure", *RECIPE_COLUMNS, "calibration"],
        "value",
    )
    split = split or next(name for name in texts["split"] if name != CALIBRATION)
    far = (
        texts[(texts["split"] == split) & (texts["added_samples"] == 0)]
        .groupby(["calibration", "seed"])["distance"]
        .median()
    )
    loss = perplexity[
        (perplexity["split"] == CALIBRATION) & (perplexity["which"] == "dense") & (perplexity["added_samples"] == 0)
    ]
    out["distance"] = out["calibration"].map(far.groupby("calibration").mean())
    out["nats"] = out["calibration"].map(loss.groupby("calibration")["nats_per_token"].mean())
    return out


@on_tables
def plot_added(table: pd.DataFrame) -> Figure:
    """Change of held-out error, perplexity and accuracy against the number of added windows, one line per source; one
    row per recipe.

    `table` is that of `added`; its places across are the numbers of windows, evenly spaced. The level line is no
    change; where every interval of a panel holds it, the panel says so.
    """
    with in_style():
        table = table.assign(recipe=_recipe(table), place=table["added_samples"].map(_places(table)))
        fig, panels = panel_grid(table, "recipe", "measure", height=2.5, sharey=False)
        styles = source_looks(table["added"])
        for (recipe, measure), ax in panels.items():
            ax.axhline(0, color="#999999", linewidth=0.8, zorder=1)
            draw_named(
                ax,
                table[(table["recipe"] == recipe) & (table["measure"] == measure)],
                "place",
                "added",
                styles,
                "source",
            )
            category_axis(ax, [str(number) for number in _places(table)])
            plain_axis(ax.yaxis)
            if _undecided(table[(table["recipe"] == recipe) & (table["measure"] == measure)]):
                ax.text(0.03, 0.03, "no difference shown", transform=ax.transAxes, fontsize=8, color="#555555")
        _titles(panels, table)
        for (recipe, measure), ax in panels.items():
            ax.set_ylabel(recipe if measure == table["measure"].iloc[0] else "")
        fig.supxlabel("windows added to the calibration text", fontsize=9)
        finish(fig, {}, [handle(styles[source], word) for source, word in apart(styles, say_source).items()])
    return fig


@on_tables
def plot_settings(table: pd.DataFrame) -> Figure:
    """How self-generated text is written: the change from plain sampling that every other text brings, a row per
    text; one panel per measure, one row of panels per recipe.

    `table` is that of `settings`. Bars are intervals of the paired difference; the line at 0 is plain sampling.
    """
    with in_style():
        table = table.assign(recipe=_recipe(table))
        sources = list(dict.fromkeys(table["added"]))
        fig, panels = panel_grid(
            table, "recipe", "measure", height=0.9 + 0.24 * len(sources), sharey=True, sharex="col"
        )
        for (recipe, measure), ax in panels.items():
            ax.axvline(0, color="#999999", linewidth=0.8, zorder=1)
            for row in table[(table["recipe"] == recipe) & (table["measure"] == measure)].itertuples():
                place, color = sources.index(row.added), _color(row.added)
                ax.plot(
                    [row.value], [place], color=color, marker="o", linestyle="", zorder=3, gid=f"source {row.added}"
                )
                if row.low == row.low:
                    ax.hlines(place, row.low, row.high, color=color, linewidth=1, alpha=0.6, zorder=2)
            category_rows(ax, list(apart(sources, say_source).values()))
            ax.tick_params(labelleft=measure == table["measure"].iloc[0])
            plain_axis(ax.xaxis)
            ax.set_ylabel(recipe if measure == table["measure"].iloc[0] else "")
        _titles(panels, table)
        fig.supxlabel("against plain sampling", fontsize=9)
        finish(fig, {})
    return fig


@on_tables
def plot_representatives(table: pd.DataFrame) -> Figure:
    """Held-out error and increase of perplexity of each recipe calibrated on each text, against how far the text is
    from the held-out one.

    `table` is that of `representatives`. Left: distance of second moments; right: the dense model's loss on the text.
    The rank correlation of each panel stands above it, with how often a random order has one as large.
    Bars are intervals and may leave the panel.
    """
    xs = {
        DISTANCE: "distance of second moments from\nthe held-out text, median over blocks",
        NATS: "dense model's loss on the\ncalibration text, nats per token",
    }
    with in_style():
        recipe = "" if len(table[RECIPE_COLUMNS].drop_duplicates()) == 1 else _recipe(table) + "\n"
        table = table.assign(row=recipe + table["measure"])
        places = pd.DataFrame([(row, x) for row in dict.fromkeys(table["row"]) for x in xs], columns=["row", "x"])
        fig, panels = panel_grid(places, "row", "x", height=2.6, sharey="row", sharex="col")
        for (row, x), ax in panels.items():
            rows = table[table["row"] == row]
            for source, one in rows.groupby("calibration", sort=False):
                ax.plot(
                    one[x],
                    one["value"],
                    color=_color(source),
                    marker="o",
                    linestyle="",
                    zorder=3,
                    gid=f"source {source}",
                )
                if one["low"].notna().any():
                    ax.vlines(one[x], one["low"], one["high"], color="#999999", linewidth=1, zorder=2)
            ax.margins(x=0.14, y=0.14)
            ax.set_title(f"{say_rank(rows[x], rows['value'])}, {_say_p(rows[x], rows['value'])}", fontsize=8.5)
        for row in dict.fromkeys(table["row"]):
            if (table[table["row"] == row]["value"] > 0).all():
                log_scale([ax for (name, _), ax in panels.items() if name == row])
        for (row, x), ax in panels.items():
            ax.set_ylabel(row if x == DISTANCE else "")
            ax.set_xlabel(xs[x] if row == places["row"].iloc[-1] else "")
        finish(fig, {})
        names = apart(table["calibration"], say_source)
        for (row, x), ax in panels.items():
            rows = table[table["row"] == row]
            label_points(ax, rows[x], rows["value"], [names[source] for source in rows["calibration"]])
    return fig


@on_tables
def say_closing(table: pd.DataFrame, right: str) -> Finding:
    """Per recipe, measure and added text: the change with the most windows that the measure was taken with, and what
    share it is of the one that `right`, real text, brings.

    `table` is that of `added`. The share is (e(0) - e(added)) / (e(0) - e(right)), from the means over seeds.
    """
    lines = []
    for (pattern, criterion, method, measure), rows in table.groupby([*RECIPE_COLUMNS, "measure"], sort=False):
        count = rows.loc[rows["added"] != "", "added_samples"].max()
        at = rows[rows["added_samples"] == count].set_index("added")
        if right not in at.index:
            raise UsageError(f"share of the gap: {right} is none of the added texts {', '.join(at.index)}")
        real = at.loc[right, "value"]
        better = real > 0 if measure == ACCURACY else real < 0
        parts = [f"{say_source(right)} {_change(at.loc[right], measure)}"]
        for source, row in at.drop(index=right).iterrows():
            share = f", {row['value'] / real:.0%} of that" if better else ""
            parts.append(f"{say_source(source)} {_change(row, measure)}{share}")
        words = "" if better else " (real text of the right kind does not help here, so there is no gap to close)"
        lines.append(
            f"- **{say_criterion(criterion)} {pattern} {say_method(method)}**, {measure},"
            f" {amount(count, 'window')} added: {'; '.join(parts)}{words}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_settings(table: pd.DataFrame) -> Finding:
    """Per recipe and measure: what each text changes against plain sampling, from best to worst, and which changes a
    paired t test confirms, corrected for there being several (Holm).

    `table` is that of `settings`.
    """
    lines = []
    for (pattern, criterion, method, measure), rows in table.groupby([*RECIPE_COLUMNS, "measure"], sort=False):
        rows = rows.sort_values("value", ascending=measure != ACCURACY)
        said = ", ".join(f"{say_source(row['added'])} {_change(row, measure)}" for _, row in rows.iterrows())
        confirmed = [decided(p) for p in holm([changes(row).p for _, row in rows.iterrows()])]
        verdict = f"confirmed (p < {LEVEL:g}): {', '.join(map(say_source, rows['added'][confirmed])) or 'none'}"
        verdict = verdict if rows["seeds"].max() > 1 else "one seed, so nothing can be decided"
        lines.append(f"- **{say_criterion(criterion)} {pattern} {say_method(method)}**, {measure}: {said}; {verdict}.")
    return Finding("\n".join(lines))


@on_tables
def say_representative(table: pd.DataFrame) -> Finding:
    """Per recipe and measure: the best and the worst calibration texts, and how well each of the two looks at the texts
    foretells their order; p is that of `final.by_chance`.
    """
    lines = []
    for (pattern, criterion, method, measure), rows in table.groupby([*RECIPE_COLUMNS, "measure"], sort=False):
        order = [
            f"{say_source(row.calibration)} {say_number(row.value)}" for row in rows.sort_values("value").itertuples()
        ]
        rows = rows.dropna(subset=[DISTANCE, NATS, "value"])
        by = {"distance of second moments": rows[DISTANCE], "dense loss": rows[NATS]}
        said = ", ".join(
            f"{name} {spearman(known, rows['value']):.2f} ({_say_p(known, rows['value'])})"
            for name, known in by.items()
        )
        lines.append(
            f"- **{say_criterion(criterion)} {pattern} {say_method(method)}**,"
            f" {measure.replace(chr(10), ' ')}: {', '.join(order)}. Rank correlation over {len(rows)} texts with"
            f" {said}."
        )
    return Finding("\n".join(lines))


@on_tables
def levels(table: pd.DataFrame) -> pd.DataFrame:
    """`added` for reading: the quantities themselves, rows (recipe, measure, added text), one column per number of
    added windows.
    """
    return (
        table.pivot_table(
            index=[*RECIPE_COLUMNS, "measure", "added"], columns="added_samples", values="level", sort=False
        )
        .rename(index=say_source, level="added")
        .round(4)
    )


def _recipe(table: pd.DataFrame) -> pd.Series:
    return table["criterion"].map(say_criterion) + " " + table["pattern"] + "\n" + table["method"].map(say_method)


def _color(source: str) -> str:
    """Self-generated text apart from all others."""
    return "#0072B2" if source.startswith("self") else "#4D4D4D"


def _undecided(rows: pd.DataFrame) -> bool:
    """Whether there are intervals, and all of them hold 0."""
    bars = rows[(rows["added_samples"] > 0) & rows["low"].notna()]
    return len(bars) > 0 and bool(((bars["low"] <= 0) & (bars["high"] >= 0)).all())


def changes(row: pd.Series) -> Paired:
    """The t test of a row's values, themselves changes within a seed, against 0."""
    values = row[seed_columns(row.index)].astype(float)
    return paired(values, 0 * values)


def _say_p(one: pd.Series, other: pd.Series) -> str:
    p = by_chance(one, other)
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _places(table: pd.DataFrame) -> dict[int, int]:
    return {number: place for place, number in enumerate(sorted(table["added_samples"].unique()))}


def _titles(panels: dict, table: pd.DataFrame) -> None:
    first = next(iter(panels))[0]
    for (recipe, measure), ax in panels.items():
        ax.set_title(say_change(measure) if recipe == first else "")


def _change(row: pd.Series, measure: str) -> str:
    unit = " points" if measure == ACCURACY else " %"
    return f"{row['value']:+.1f}" + say_half(row, ".1f") + unit
