"""Where reconstruction does harm: one method against another on next to no calibration text, with more and more windows
added to both. Table, figure and finding of notebook 03.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.final import CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY, against
from analysis.present.finding import Finding, say_half
from analysis.present.generated_text import changes
from analysis.present.panels import category_axis, draw_named, finish, handle, panel_grid, plain_axis
from analysis.present.statistics import LEVEL, decided, holm
from analysis.present.style import apart, in_style, say_criterion, say_method, say_source, source_looks
from analysis.present.tables import choose, on_tables, over_seeds

MEASURES = (CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY)


@on_tables
def harm(ends: pd.DataFrame, base: str, method: str) -> pd.DataFrame:
    """`method` against `base`, trained on the same windows: [measure, pattern, criterion, method, against, samples,
    added, added_samples, ...].

    value: change of error or perplexity in per cent within a seed, from the run of `base` with the same calibration and
    added windows; held-out text is the first of the runs. Raises UsageError where either method is not in the table.
    """
    pruned = choose(ends[(ends["which"] == "pruned") & ends["measure"].isin(MEASURES)], method=[base, method])
    alike = ["pattern", "criterion", "samples", "added", "added_samples"]
    changed = against(pruned[pruned["method"] == method], pruned[pruned["method"] == base], alike)
    if changed.empty:
        raise UsageError(f"harm: no run of {method} has one of {base} with the same windows")
    by = ["measure", "pattern", "criterion", "method", "against", "samples", "added", "added_samples"]
    return over_seeds(changed.assign(against=base), by, "value")


@on_tables
def plot_harm(table: pd.DataFrame) -> Figure:
    """Change from one method to the other against the number of windows added to both, one line per source; a panel per
    measure, a row per recipe. Above the line at 0 the second method does harm.

    `table` is that of `harm`. Bands are intervals of the paired difference.
    """
    with in_style():
        table = table.assign(recipe=_recipe(table))
        places = {number: place for place, number in enumerate(sorted(table["added_samples"].unique()))}
        table = table.assign(place=table["added_samples"].map(places))
        fig, panels = panel_grid(table, "recipe", "measure", height=2.5, sharey=False)
        styles = source_looks(table["added"])
        for (recipe, measure), ax in panels.items():
            ax.axhline(0, color="#999999", linewidth=0.8, zorder=1)
            rows = table[(table["recipe"] == recipe) & (table["measure"] == measure)]
            draw_named(ax, rows, "place", "added", styles, "source")
            category_axis(ax, [str(number) for number in places])
            plain_axis(ax.yaxis)
            ax.set_title(f"{measure}, change in %" if recipe == table["recipe"].iloc[0] else "")
            ax.set_ylabel(recipe if measure == table["measure"].iloc[0] else "")
        count = table["samples"].iloc[0]
        fig.supxlabel(f"windows added to the {count} that calibrate{'s' if count == 1 else ''}", fontsize=9)
        finish(fig, {}, [handle(styles[source], word) for source, word in apart(styles, say_source).items()])
    return fig


@on_tables
def say_harm(table: pd.DataFrame) -> Finding:
    """Per recipe, measure and added text: the change from one method to the other at every number of added windows, and
    which changes a paired t test confirms as harm or gain, corrected for all of the table (Holm), of which rows without
    added windows are one for all texts.
    """
    tested = table.drop_duplicates(["pattern", "criterion", "measure", "value"])
    p = holm([changes(row).p for _, row in tested.iterrows()])
    corrected = dict(zip(zip(tested["measure"], tested["value"], strict=True), p, strict=True))
    lines = []
    keys = ["pattern", "criterion", "method", "against", "measure", "added"]
    for (pattern, criterion, method, base, measure, added), rows in table.groupby(keys, sort=False):
        said = []
        for _, row in rows.iterrows():
            sure = decided(corrected[measure, row["value"]])
            verdict = ("harm" if row["value"] > 0 else "gain") if sure else "undecided"
            said.append(f"{row['added_samples']}: {row['value']:+.1f}{say_half(row, '.1f')} % ({verdict})")
        lines.append(
            f"- **{say_criterion(criterion)} {pattern} {say_method(method)}** against {say_method(base)},"
            f" {measure}, windows of {say_source(added)} added: {', '.join(said)}."
        )
    number = sum(one == one for one in p)
    rule = f"p < {LEVEL:g} after Holm's correction for {number}" if number else "nothing could be tested"
    return Finding("\n".join([*lines, f"- Harm and gain: {rule}."]))


def _recipe(table: pd.DataFrame) -> pd.Series:
    criteria = table["criterion"].map(say_criterion)
    return (
        criteria
        + " "
        + table["pattern"]
        + "\n"
        + table["method"].map(say_method)
        + " against\n"
        + table["against"].map(say_method)
    )
