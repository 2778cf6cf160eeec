"""Criteria and refinements of masks, before and after reconstruction. Tables, figures and findings of notebook 05.

Perplexity is told in per cent above the dense model's on the same windows, which a seed draws for both: what the
windows of a seed add is in both, and every pattern fits one scale.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.errors import UsageError
from analysis.present.finding import Finding, say_number
from analysis.present.panels import category_axis, draw_points, finish, handle, label_axes, panel_grid, percent_axis
from analysis.present.paper import REFINED
from analysis.present.statistics import compare, decided, holm, paired, seed_columns
from analysis.present.style import (
    CRITERIA,
    CRITERION_LOOKS,
    OTHERS,
    REFINEMENT_NAMES,
    REFINEMENTS,
    Look,
    in_style,
    looks,
    say_criterion,
    say_method,
    say_split,
)
from analysis.present.tables import choose, held_out, on_tables, over_seeds

TYPICAL = (0.6, 0.8)  # of a matrix's error: what SparseFW typically leaves of it (2510.13713)


@on_tables
def criteria(perplexity: pd.DataFrame, *, pattern=None, split=None) -> pd.DataFrame:
    """Held-out perplexity of every criterion in per cent above the dense model's on the same windows: [pattern,
    criterion, refinement, split, method, value, ...].
    """
    rows = choose(held_out(perplexity, None, split), pattern=pattern)
    dense = rows[rows["which"] == "dense"].set_index(["run", "split"])["perplexity"]
    pruned = rows[rows["which"] == "pruned"].set_index(["run", "split"])
    pruned = pruned.assign(above=100 * (pruned["perplexity"] / dense - 1)).reset_index()
    return over_seeds(pruned, ["pattern", "split", "criterion", "refinement", "method"], "above")


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
    """From the mask alone to reconstruction, one line per criterion: perplexity in per cent above the dense model's.

    `table` is that of `criteria`; one column of panels per pattern, one row per held-out text and refinement of the
    mask, all on one log scale (linear below 1 %). Dotted in the rows of refined masks: the same criterion's mask as
    chosen. Bars are intervals and may leave the panel.
    """
    with in_style():
        methods, styles = list(looks(table["method"])), _criterion_looks(table["criterion"])
        order = [name for name in REFINEMENTS if name in set(table["refinement"])]
        table = table.sort_values("refinement", key=lambda column: column.map(order.index), kind="stable")
        table = table.assign(row=list(zip(table["split"], table["refinement"], strict=True)))
        fig, panels = panel_grid(table, "row", "pattern", height=1.75, sharey=True)
        for (row, pattern), ax in panels.items():
            rows = table[(table["row"] == row) & (table["pattern"] == pattern)]
            for place, (criterion, look) in enumerate(styles.items()):
                aside = 0.05 * (place - (len(styles) - 1) / 2)
                if row[1] != "none":
                    plain = table[(table["row"] == (row[0], "none")) & (table["pattern"] == pattern)]
                    _draw_slope(ax, plain[plain["criterion"] == criterion], methods, aside, look, "plain")
                _draw_slope(ax, rows[rows["criterion"] == criterion], methods, aside, look, "criterion")
            category_axis(ax, ["mask" if name == "LR" else say_method(name) for name in methods])
            ax.set_xlim(-0.35, len(methods) - 0.65)
        percent_axis(panels.values(), table["value"])
        names = {}
        for (split, refinement), rows in table.groupby(["split", "refinement"], sort=False):
            text = f"\n{say_split(split)}" if table["split"].nunique() > 1 else ""
            alone = " alone" if set(rows["method"]) == {"LR"} and len(methods) > 1 else ""
            names[split, refinement] = f"{REFINEMENT_NAMES[refinement]}{alone}{text}\n% above dense"
        label_axes(panels, "", names)
        handles = [handle(look, say_criterion(name)) for name, look in styles.items()]
        if len(order) > 1:
            handles.append(handle(Look("#4D4D4D", "", (0, (1, 1.5))), "its mask as chosen"))
        finish(fig, {}, handles)
    return fig


def _draw_slope(ax: Axes, rows: pd.DataFrame, methods: list[str], aside: float, look: Look, kind: str) -> None:
    """One criterion's values from method to method, with bars; a `plain` mask's is a thin line without either."""
    rows = rows.sort_values("method", key=lambda column: column.map(methods.index))
    x = rows["method"].map(methods.index) + aside
    plain = kind == "plain"
    ax.plot(
        x,
        rows["value"],
        color=look.color,
        linestyle=(0, (1, 1.5)) if plain else look.line,
        linewidth=1 if plain else 1.3,
        marker="",
        zorder=2,
        gid=f"slope {kind} {rows['criterion'].iloc[0]}" if len(rows) else None,
    )
    if len(rows) and not plain:
        gid = f"criterion {rows['criterion'].iloc[0]}"
        draw_points(ax, x, rows, color=look.color, marker=look.marker, gid=gid, size=4.5)


@on_tables
def plot_layers(table: pd.DataFrame) -> Figure:
    """What a refinement leaves of the matrices' errors: a box for each criterion and refinement.

    `table` is that of `layer_changes`; one panel per pattern. Box: the middle half of all matrices, line in it: the
    median, whiskers: from 5 to 95 per cent. 1 is the plain mask's error; lower is better. Shaded: what is typically
    left according to 2510.13713.
    """
    with in_style():
        criteria = [name for name in CRITERIA if name in set(table["criterion"])]
        table = table.assign(row="")
        fig, panels = panel_grid(table, "row", "pattern", height=2.5, sharey=True)
        for (_, pattern), ax in panels.items():
            ax.axhspan(*TYPICAL, color="#d9d9d9", alpha=0.6, linewidth=0, zorder=0, gid="typical")
            ax.axhline(1, color="black", linestyle=(0, (1, 1.2)), linewidth=1.2, zorder=1, gid="plain")
            panel_rows = table[table["pattern"] == pattern]
            for (criterion, refinement), rows in panel_rows.groupby(["criterion", "refinement"], sort=False):
                _draw_box(
                    ax,
                    criteria.index(criterion) + _aside(refinement, table),
                    rows["value"],
                    REFINEMENTS[refinement].color,
                    f"{criterion} {refinement}",
                )
            category_axis(ax, [say_criterion(name) for name in criteria], rotation=45)
            ax.set_ylim(0, 1.05)
        label_axes(panels, "", {"": "error of a matrix's output,\nover the plain mask's"})
        notes = [
            handle(Look("black", "", (0, (1, 1.2))), "plain mask"),
            handle(Look("#d9d9d9", "", "-"), "typical of SparseFW (its paper)", linewidth=7),
        ]
        finish(fig, {}, [*_refinement_legend(table), *notes])
    return fig


def _draw_box(ax: Axes, x: float, values: pd.Series, color: str, name: str) -> None:
    drawn = ax.boxplot(
        [values],
        positions=[x],
        widths=0.3,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": color, "edgecolor": color, "alpha": 0.45, "linewidth": 0.8},
        medianprops={"color": color, "linewidth": 2},
        whiskerprops={"color": color, "linewidth": 1},
        capprops={"color": color, "linewidth": 1},
    )
    drawn["medians"][0].set_gid(f"median {name}")


@on_tables
def say_spread(table: pd.DataFrame) -> Finding:
    """Per pattern and held-out text: how far the criteria lie apart before and after reconstruction, masks as chosen,
    and whether they lie closer after it (paired t, over the seeds that all have, of the worst one's perplexity over the
    best one's, Holm's correction over all cases).

    `table` is that of `criteria`. 2510.14444 (v2) claims that the criterion matters less after reconstruction.
    """
    cases, lines = [], []
    plain = table[table["refinement"] == "none"]
    for (pattern, split), rows in plain.groupby(["pattern", "split"], sort=False):
        parts, apart = [], {}
        for method in looks(rows["method"]):
            wide = rows[rows["method"] == method].set_index("criterion")
            best, worst = wide["value"].idxmin(), wide["value"].idxmax()
            seeds = wide[seed_columns(wide)]
            apart[method] = _change(seeds.max(skipna=False), seeds.min(skipna=False))
            parts.append(
                f"{say_method(method)} {say_number(_change(wide['value'].max(), wide['value'].min()), 2)} %"
                f" ({say_criterion(best)} {wide['value'].min():.1f} % above dense to {say_criterion(worst)}"
                f" {wide['value'].max():.1f} %)"
            )
        first, *after = apart
        found = [paired(apart[method], apart[first]) for method in after]
        cases += [case for case in found if case.difference == case.difference]
        lines.append(
            f"- **{pattern}**, {say_split(split)}: perplexity of the worst criterion over that of the best"
            f" {'; '.join(parts)}."
        )
    if cases:
        sure = [decided(p) for p in holm([case.p for case in cases])]
        less = sum(ok and case.difference < 0 for ok, case in zip(sure, cases, strict=True))
        more = sum(ok and case.difference > 0 for ok, case in zip(sure, cases, strict=True))
        smaller = sum(case.difference < 0 for case in cases)
        lines.append(
            f"\nThe paper claims that the criterion matters less after reconstruction. Here the distance is smaller in"
            f" {smaller} of {len(cases)} cases, decided in {less}; that it is larger is decided in {more}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_rival(table: pd.DataFrame, *, criterion: str = "wanda") -> Finding:
    """Per pattern and held-out text: which place a criterion takes before and after reconstruction, masks as chosen,
    and how far others lie above or below it (paired t over seeds, Holm's correction over the others).

    `table` is that of `criteria`. 2510.14444 (v1) claims that Wanda, reconstructed, can beat more complex criteria.
    """
    lines, places = [], []
    plain = table[table["refinement"] == "none"]
    for (pattern, split), rows in plain.groupby(["pattern", "split"], sort=False):
        parts = []
        for method in looks(rows["method"]):
            wide = rows[rows["method"] == method].set_index("criterion")
            if criterion not in wide.index:
                raise UsageError(f"beside {criterion}: the table has no runs with it; it has {', '.join(wide.index)}")
            place = int((wide["value"] < wide.loc[criterion, "value"]).sum()) + 1
            others = [name for name in wide.index if name != criterion]
            found = [compare(wide.loc[name], wide.loc[criterion]) for name in others]
            sure = [decided(p) for p in holm([one.p for one in found])]
            words = ", ".join(
                f"{say_criterion(name)} {one.difference:+.1f}{'' if ok else ' (undecided)'}"
                for name, one, ok in zip(others, found, sure, strict=True)
            )
            parts.append(f"{say_method(method)} {place} of {len(wide)}: {words}")
            if method != "LR":
                places.append(place)
        lines.append(
            f"- **{pattern}**, {say_split(split)}, points above or below {say_criterion(criterion)}:"
            f" {'; '.join(parts)}."
        )
    if places:
        lines.append(
            f"\n{say_criterion(criterion)} comes first after reconstruction in {places.count(1)} of {len(places)}"
            " cases; the paper says that it can."
        )
    return Finding("\n".join(lines))


@on_tables
def say_refined(table: pd.DataFrame) -> Finding:
    """Per pattern and held-out text: what each refinement does to perplexity before and after reconstruction, per
    criterion; in brackets what a paired t over seeds does not decide (Holm's correction within the pattern).
    """
    lines = []
    for (pattern, split), rows in table.groupby(["pattern", "split"], sort=False):
        found = []
        for (method, refinement), some in rows[rows["refinement"] != "none"].groupby(
            ["method", "refinement"], sort=False
        ):
            base = rows[(rows["method"] == method) & (rows["refinement"] == "none")].set_index("criterion")
            some = some.set_index("criterion")
            found += [(method, refinement, name, some.loc[name], base.loc[name]) for name in some.index]
        sure = [decided(p) for p in holm([compare(one, plain).p for *_, one, plain in found])]
        parts: dict[str, list[str]] = {}
        for (method, refinement, name, one, plain), ok in zip(found, sure, strict=True):
            words = f"{say_criterion(name)} {_change(one['value'], plain['value']):+.1f} %"
            where = f"{say_method(method)} with {REFINEMENT_NAMES[refinement]}"
            parts.setdefault(where, []).append(words if ok else f"({words})")
        said = "; ".join(f"{where}: {', '.join(words)}" for where, words in parts.items())
        lines.append(f"- **{pattern}**, {say_split(split)}: {said or 'no refinement was run'}.")
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
            parts.append(f"{say_criterion(criterion)} {less.mean():.0f} % (at most {less.max():.0f} %)")
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
    out = (1 + _change(wide["fw"], wide["none"]) / 100).unstack("split").rename(columns=say_split)
    ratio = (REFINED["fw"] / REFINED["none"]).groupby([REFINED[name] for name in key])
    out["paper, least"], out["paper, most"] = ratio.min(), ratio.max()
    return out.reindex(rows.set_index(key).index.unique()).rename_axis(columns=None).round(3)


def _change(one, other):
    """How far one perplexity lies above another, in per cent; both are given in per cent above the dense model's."""
    return 100 * ((100 + one) / (100 + other) - 1)


def _criterion_looks(criteria: pd.Series) -> dict[str, Look]:
    """The look of each criterion, in their order; others share spare ones."""
    seen = list(dict.fromkeys(criteria))
    known = [name for name in CRITERIA if name in seen]
    return {
        name: CRITERION_LOOKS.get(name, OTHERS[place % len(OTHERS)])
        for place, name in enumerate([*known, *(name for name in seen if name not in known)])
    }


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
