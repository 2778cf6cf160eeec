"""What is forgotten first: how much more a pruned model pays for each kind of word in the lab's world, where it is
known what every word is. Table, figure and finding of notebook 08.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.errors import UsageError
from analysis.present.finding import Finding, say_half
from analysis.present.panels import amount, category_rows, finish, handle, panel_grid, plain_axis
from analysis.present.statistics import LEVEL, compare, decided, holm
from analysis.present.style import in_style, looks, say_criterion, say_method
from analysis.present.tables import on_tables, over_seeds

RECIPE_COLUMNS = ["pattern", "criterion", "method"]
OFFSET = 0.22  # rows between two methods of one kind
CONTRASTS = [  # named before anything was run
    ("fact, well known", "fact, little known"),
    ("fact, well known", "function word"),
    ("number or date", "function word"),
    ("name", "function word"),
    ("name", "said before"),
]


@on_tables
def forgotten(token_kinds: pd.DataFrame) -> pd.DataFrame:
    """What each kind of word costs the pruned model more than the dense one: [pattern, criterion, method, kind, ...,
    dense, tokens].

    value: rise of the loss in nats per token of that kind, within a seed, whose documents are the same for all models;
    dense: the dense model's loss; tokens: of that kind; both means over seeds. Raises UsageError where no run told the
    kinds apart.
    """
    if token_kinds.empty:
        raise UsageError("what is forgotten: no run told kinds of word apart; give grid token_kinds=64")
    by = ["run", *RECIPE_COLUMNS, "kind", "seed"]
    wide = token_kinds.pivot_table(index=by, columns="which", values="nats_per_token", sort=False)
    rows = (wide["pruned"] - wide["dense"]).rename("value").reset_index()
    out = over_seeds(rows, [*RECIPE_COLUMNS, "kind"], "value")
    dense = token_kinds[token_kinds["which"] == "dense"].groupby("kind")[["nats_per_token", "tokens"]].mean()
    return out.join(dense.rename(columns={"nats_per_token": "dense"}), on="kind")


@on_tables
def plot_forgotten(table: pd.DataFrame) -> Figure:
    """Rise of the loss on each kind of word, a row per kind and a point per method; a panel per pattern, a row of
    panels per criterion.

    `table` is that of `forgotten`. Bars are intervals. Kinds stand in the order in which the first method loses them
    under the first pattern; behind each, the dense model's loss. Every panel has a scale of its own, from 0.
    """
    with in_style():
        kinds, methods = _order(table), looks(table["method"])
        fig, panels = panel_grid(
            table.assign(row=table["criterion"].map(say_criterion)),
            "row",
            "pattern",
            height=0.36 * len(kinds) + 0.6,
            sharey=True,
            sharex=False,
        )
        dense = table.drop_duplicates("kind").set_index("kind")["dense"]
        middle = (len(methods) - 1) / 2
        for (criterion, pattern), ax in panels.items():
            some = table[(table["criterion"].map(say_criterion) == criterion) & (table["pattern"] == pattern)]
            ax.axvline(0, color="#999999", linewidth=0.8, zorder=1)
            for number, (method, look) in enumerate(methods.items()):
                rows = some[some["method"] == method]
                places = [kinds.index(kind) + OFFSET * (number - middle) for kind in rows["kind"]]
                _draw_points_across(ax, places, rows, look.color, look.marker, f"method {method}")
            category_rows(ax, [f"{kind} ({dense[kind]:.2f})" for kind in kinds])
            ax.set_xlim(right=1.05 * max(ax.get_xlim()[1], 0))
            plain_axis(ax.xaxis)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.grid(True, axis="x")
            if len({row for row, _ in panels}) > 1:
                ax.set_ylabel(criterion if pattern == table["pattern"].iloc[0] else "")
        fig.supxlabel("rise of the loss, nats per token of that kind (in brackets: the dense model's loss)", fontsize=9)
        notes = [handle(look._replace(line=""), say_method(name)) for name, look in methods.items()]
        finish(fig, {}, notes)
    return fig


def _draw_points_across(ax, places, rows: pd.DataFrame, color: str, marker, gid: str) -> None:
    """Markers at the values of `rows`, each with its interval along x."""
    ax.plot(rows["value"], places, color=color, marker=marker, markersize=4.5, linestyle="", zorder=4, gid=gid)
    if rows["low"].notna().any():
        ax.hlines(places, rows["low"], rows["high"], color=color, linewidth=1, alpha=0.6, zorder=3)


@on_tables
def say_forgotten(table: pd.DataFrame) -> Finding:
    """Per pattern and criterion: kinds of word from the one whose loss rises most under the first method to the one
    whose loss rises least, and the largest and the smallest share of it that each other method leaves; then how the
    named contrasts come out under the first method.

    `table` is that of `forgotten`. p: of paired t tests within seeds; corrected for all contrasts and patterns (Holm).
    """
    lines, first = [], table["method"].iloc[0]
    for (pattern, criterion), rows in table.groupby(["pattern", "criterion"], sort=False):
        alone = rows[rows["method"] == first].set_index("kind")
        ranked = alone.sort_values("value", ascending=False)
        said = ", ".join(f"{kind} {row['value']:+.3f}{say_half(row, '.3f')}" for kind, row in ranked.iterrows())
        lines.append(f"- **{say_criterion(criterion)} {pattern} {say_method(first)}**, nats: {said}.")
        for method, repaired in rows[rows["method"] != first].groupby("method", sort=False):
            left = (repaired.set_index("kind")["value"] / alone["value"]).sort_values()
            most, least = (f"{left.iloc[place]:.0%} of {left.index[place]}" for place in (-1, 0))
            lines.append(f"  - {say_method(method)} leaves most, {most}, and least, {least}.")
    return Finding("\n".join([*lines, *_contrasts(table[table["method"] == first])]))


def _contrasts(table: pd.DataFrame) -> list[str]:
    rows = table.set_index([*RECIPE_COLUMNS, "kind"])
    recipes = dict.fromkeys(key[:-1] for key in rows.index)
    tested = {
        (recipe, *pair): compare(*(rows.loc[(*recipe, kind)] for kind in pair))
        for recipe in recipes
        for pair in CONTRASTS
        if all((*recipe, kind) in rows.index for kind in pair)
    }
    corrected = dict(zip(tested, holm([result.p for result in tested.values()]), strict=True))
    lines = []
    for one, other in CONTRASTS:
        own = {key: result for key, result in tested.items() if key[1:] == (one, other)}
        parts = []
        for word, sign in (("more", 1), ("less", -1)):
            some = [key for key, result in own.items() if sign * result.difference > 0]
            sure = sum(decided(own[key].p) for key in some), sum(decided(corrected[key]) for key in some)
            parts.append(f"{word} in {len(some)} (p < {LEVEL:g} in {sure[0]}, in {sure[1]} after Holm's correction)")
        if own:
            method = say_method(table["method"].iloc[0])
            number = amount(len(own), "pattern" if table["criterion"].nunique() == 1 else "mask")
            lines.append(f"- {method}, *{one}* against *{other}*, {number}: rises {', '.join(parts)}.")
    return lines


def _order(table: pd.DataFrame) -> list[str]:
    first = table.iloc[0]
    rows = table[(table[RECIPE_COLUMNS] == first[RECIPE_COLUMNS]).all(axis=1)]
    return list(rows.sort_values("value", ascending=False)["kind"])
