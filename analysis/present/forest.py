"""How the papers' claims fare: the margin of every claim on every model, above zero where it holds, with its 95 %
interval. Verdicts, figure and page, made from the table that `benchmarks/claims.py` writes.

A row of that table is one number. kind "seed": measured with one seed. "summary": the mean of several seeds of which
no single value was kept, with their standard deviation. "paper": what the source itself prints, for a model of its own.
"""

from collections.abc import Sequence
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.special import stdtr, stdtrit

from analysis.errors import UsageError
from analysis.present.panels import plain_number
from analysis.present.statistics import LEVEL, decided, holm
from analysis.present.style import WIDTH, in_style
from analysis.present.tables import on_tables

CLAIM = ["about", "claim", "source", "evidence", "unit", "guess"]
"""What tells a claim apart and says it."""
COLUMNS = [*CLAIM, "model", "options", "kind", "seed", "value", "std", "seeds", "commit", "versions"]
"""std: of a summary, over `seeds` seeds; NaN in other rows. seed: -1 where the row is not of one."""
SEEDWISE, SUMMARY, PAPER = KINDS = ("seed", "summary", "paper")
FIGURE = "figure "
"""How the options of a row begin whose value was computed from the csv of the committed figure named then."""
HOLDS, FAILS, UNDECIDED = VERDICTS = ("holds", "fails", "undecided")
COLORS = {HOLDS: "#0072B2", FAILS: "#D55E00", UNDECIDED: "#777777"}
MARKERS = {"lab": "o", "stories260K": "s", "lab/large": "^", "lab/small": "v", "lab/tiny": "<", "lab/experts": "P"}
SPARE = ">Xd*"  # of other models, in the order of the table
HOLLOW = {"LLaMA-7B": "p", "OPT-125M": "D"}  # of the papers' models; all others share one
OTHERS = "h"
ROW, LINE, TOP, BOTTOM = 0.2, 0.12, 0.7, 0.45  # inches of a claim, of a further line of its words, around the rows
LEFT, WORDS = 0.57, 68  # share of the width that the words take, and letters in a line of them
TICKS = (-300, -100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300)


@on_tables
def fates(claims: pd.DataFrame) -> pd.DataFrame:
    """The verdict on each claim on each model, in the order of the table: `CLAIM`, model, options, kind, value (mean
    over seeds), low and high (its 95 % interval by t), seeds, p (two-sided, of the mean against 0), holm (p corrected
    for all verdicts of the table), verdict, by_holm (whether it stands after that correction).

    A claim holds where its interval lies above zero, fails where it lies below, else it is undecided, as it is with
    less than two seeds. A value that no seed changes is its own interval; it needs no test, so p is NaN and the verdict
    stands. Raises UsageError for a kind that is none, a seed given twice, or seeds and a summary of one claim and
    model.
    """
    if unknown := sorted(set(claims["kind"]) - set(KINDS)):
        raise UsageError(f"claims: kind {unknown[0]!r} is none of {', '.join(KINDS)}")
    measured = claims[claims["kind"] != PAPER]
    if measured.empty:
        raise UsageError("claims: nothing was measured; the table holds the papers' own values alone")
    keys = [*CLAIM, "model"]
    if (twice := measured.duplicated([*keys, "seed"])).any():
        row = measured[twice].iloc[0]
        raise UsageError(f"claims: seed {row['seed']} of {row['claim']!r} on {row['model']} is given twice")
    if (mixed := measured.groupby(keys, dropna=False)["kind"].nunique() > 1).any():
        raise UsageError(f"claims: {mixed.idxmax()[1]!r} on {mixed.idxmax()[-1]} has both seeds and a summary")
    table = pd.DataFrame([_fate(dict(zip(keys, key)), rows) for key, rows in measured.groupby(keys, sort=False)])
    table["holm"] = holm(table["p"].tolist())
    return table.assign(by_holm=(table["verdict"] != UNDECIDED) & (table["p"].isna() | table["holm"].map(decided)))


def _fate(key: dict[str, str], rows: pd.DataFrame) -> dict[str, object]:
    """One claim on one model: mean, interval, p and verdict, from values by seed or from their summary."""
    first = rows.iloc[0]
    if first["kind"] == SUMMARY:
        mean, deviation, count = first["value"], first["std"], int(first["seeds"])
    else:
        mean, deviation, count = rows["value"].mean(), rows["value"].std(ddof=1), len(rows)
    half, p = np.nan, np.nan
    if count > 1:
        error = deviation / np.sqrt(count)
        half = stdtrit(count - 1, 1 - LEVEL / 2) * error
        p = float(2 * stdtr(count - 1, -abs(mean) / error)) if error > 1e-9 * abs(mean) else np.nan
    verdict = HOLDS if mean - half > 0 else FAILS if mean + half < 0 else UNDECIDED
    measured = {
        "options": first["options"],
        "kind": first["kind"],
        "value": mean,
        "low": mean - half,
        "high": mean + half,
        "seeds": count,
    }
    return key | measured | {"p": p, "verdict": verdict}


@on_tables
def plot_forest(claims: pd.DataFrame) -> Figure:
    """The margin of every claim, above zero where it holds, with its 95 % interval: one row for each claim, grouped by
    paper, one marker for each model, in the colour of its verdict; hollow marks are the paper's own models.

    The axis is linear between -1 and 1 and logarithmic outside; its unit, per cent or points, is the claim's. Raises
    UsageError for more models than there are marks.
    """
    table, known = fates(claims), claims[claims["kind"] == PAPER]
    models = list(dict.fromkeys(table["model"]))
    others = [model for model in models if model not in MARKERS]
    if len(others) > len(SPARE):
        raise UsageError(
            f"claims: {len(others)} models beside the lab's ({', '.join(others)}) cannot be told apart in one figure;"
            f" draw at most {len(SPARE)} of them at once"
        )
    markers = MARKERS | dict(zip(others, SPARE, strict=False))
    markers = {model: markers[model] for model in models}
    lines = _lines(table)
    heights = np.array([ROW + LINE * words.count("\n") for *_, words in lines])
    tall = float(heights.sum()) + TOP + BOTTOM
    with in_style():
        fig = plt.figure(figsize=(WIDTH, tall), layout="none")
        plt.close(fig)
        ax = fig.add_axes((LEFT, BOTTOM / tall, 0.985 - LEFT, heights.sum() / tall))
        ax.axvline(0, color="#333333", linewidth=0.9, zorder=2)
        places = np.cumsum(heights) - heights / 2
        for place in (place for place, (_, claim, _) in zip(places, lines) if claim):
            ax.axhline(place, color="#ededed", zorder=0)
        for (source, claim, words), place in zip(lines, places):
            ax.text(
                -0.015, place, words, transform=ax.get_yaxis_transform(), ha="right", va="center", linespacing=1.05,
                fontsize=7.5 if claim else 9, fontweight="normal" if claim else "bold",
            )  # fmt: skip
            if claim:
                rows, own = (some[(some["source"] == source) & (some["claim"] == claim)] for some in (table, known))
                _draw_claim(ax, place, rows, own, markers)
        ax.set(ylim=(heights.sum(), 0), xlabel="margin, in the claim's unit (above 0 it holds)")
        _symmetric_axis(ax)
        notes = [_note("black", marker, model) for model, marker in markers.items()]
        notes += [_note(color, "s", verdict) for verdict, color in COLORS.items()]
        named = [model for model in HOLLOW if model in set(known["model"])]
        notes += [_note("black", HOLLOW[model], f"{model} (paper)", hollow=True) for model in named]
        if set(known["model"]) - set(HOLLOW):
            notes.append(_note("black", OTHERS, "other models (papers)", hollow=True))
        fig.legend(handles=notes, loc="upper center", ncols=4, fontsize=8.5)
        fig.set_layout_engine("none")
    return fig


def _lines(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What stands on the left, from top to bottom: (paper, "", paper) before its claims, then (paper, claim, its
    words).
    """
    out = []
    for source, rows in table.groupby("source", sort=False):
        out.append((source, "", source))
        out += [(source, claim, "\n".join(wrap(claim, WORDS))) for claim in dict.fromkeys(rows["claim"])]
    return out


def _draw_claim(ax: Axes, place: float, rows: pd.DataFrame, known: pd.DataFrame, markers: dict[str, str]) -> None:
    """One claim: its models side by side around the height `place`, the papers' at it."""
    for model, value in known[["model", "value"]].itertuples(index=False):
        ax.plot(
            value, place, color="black", marker=HOLLOW.get(model, OTHERS), markersize=5, markerfacecolor="white",
            markeredgewidth=0.8, linestyle="", zorder=3, gid=f"paper {model}",
        )  # fmt: skip
    step = 0.06
    first = place - step * (len(rows) - 1) / 2
    for number, row in enumerate(rows.itertuples()):
        height, color = first + step * number, COLORS[row.verdict]
        ax.plot([row.low, row.high], [height] * 2, color=color, linewidth=1.2, zorder=4)
        ax.plot(
            row.value, height, color=color, marker=markers[row.model], markersize=4, linestyle="", zorder=5,
            gid=f"model {row.model}",
        )  # fmt: skip


def _symmetric_axis(ax: Axes) -> None:
    ax.set_xscale("symlog", linthresh=1, linscale=0.6)
    ax.xaxis.set_major_locator(FixedLocator(TICKS))
    ax.xaxis.set_major_formatter(FuncFormatter(plain_number))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")


def _note(color: str, marker: str, word: str, hollow: bool = False) -> Line2D:
    face = "white" if hollow else color
    return Line2D([], [], color=color, marker=marker, markerfacecolor=face, linestyle="", label=word)


@on_tables
def page(
    claims: pd.DataFrame, elsewhere: Sequence[tuple[str, str, str]] = (), figures: Sequence[str] = ("claims",)
) -> str:
    """The claims as a page of Markdown: a table for each paper with every verdict, where it was tested, the papers' own
    values beside, what was run, guesses at why a claim does not hold, and claims without a row.

    elsewhere: (claim, source, where it is tested or why not); figures: names of those that draw the claims.
    """
    table, known = fates(claims), claims[claims["kind"] == PAPER]
    counts = [f"{int((table['verdict'] == verdict).sum())} {verdict.replace('holds', 'hold')}" for verdict in VERDICTS]
    counts = [counts[0], counts[1].replace("fails", "fail"), f"{counts[2].split()[0]} are undecided"]
    stand = int(table["by_holm"].sum())
    settled = int((table["verdict"] != UNDECIDED).sum())
    lines = [
        "# Claims of the papers, held against models at hand",
        "",
        *(f"![Margins of claims with their intervals]({_picture(name)})" for name in figures),
        "",
        "Numbers are margins: above zero the claim holds. Mean over seeds with its 95 % interval by t; a claim *holds*"
        " where the whole interval lies above zero, *fails* where it lies below, and is *undecided* otherwise. A seed"
        " draws text and masks anew; there is one trained model of each kind, so an interval says nothing about others."
        f" Of {len(table)} verdicts {', '.join(counts)}; ° marks those of the {settled} decided ones that Holm's"
        f" correction for all of them takes back ({settled - stand}). \\* marks intervals from a mean and a standard"
        " deviation of which the single seeds were not kept. Rows that name a figure come from its csv; its json has"
        " all parameters. Rows by seed: [claims.csv](claims.csv).",
        "",
        *_settings(table),
    ]
    for source, rows in table.groupby("source", sort=False):
        models = list(dict.fromkeys(rows["model"]))
        heads = ("claim", "evidence", "tested in", "margin in", *models, "the papers' models")
        lines += ["", f"## {source}", "", _row(*heads), _row(*["---"] * len(heads))]
        for claim, fate in rows.groupby("claim", sort=False):
            first, by_model = fate.iloc[0], fate.set_index("model")
            cells = [_cell(by_model.loc[model]) if model in by_model.index else "–" for model in models]
            own = known[(known["source"] == source) & (known["claim"] == claim)]
            said = ", ".join(f"{row.model} {row.value:+.1f}" for row in own.itertuples())
            words = (claim, first["evidence"], _where(first["options"]), first["unit"])
            lines.append(_row(*words, *cells, said or "–"))
    lines += ["", *_guesses(table)]
    if elsewhere:
        lines += ["", "## Claims without a row here", ""]
        lines += [f"- {claim} ({source}): {where}." for claim, source, where in elsewhere]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _where(options: str) -> str:
    """A link to the figure that a row was computed from, or "runs"."""
    name = options.removeprefix(FIGURE)
    return "runs" if name == options else f"[{name}]({_picture(name)})"


def _picture(name: str) -> str:
    return f"../figures/{name}.svg"


def _cell(fate: pd.Series) -> str:
    """A verdict, its mean and interval, and its marks."""
    marks = "\\*" * (fate["kind"] == SUMMARY)
    marks += "°" * (fate["verdict"] != UNDECIDED and not fate["by_holm"])
    within = f"[{fate['low']:+.1f}, {fate['high']:+.1f}]" if fate["seeds"] > 1 else "(one seed)"
    return f"**{fate['verdict']}**{marks} {fate['value']:+.1f} {within}"


def _settings(table: pd.DataFrame) -> list[str]:
    """What each model was run with, by the kind of claim."""
    runs = table.drop_duplicates(["model", "about", "options"])
    runs = runs[~runs["options"].str.startswith(FIGURE)]
    return [f"- **{row.model}**, claims on {row.about}: {row.options}" for row in runs.itertuples()]


def _guesses(table: pd.DataFrame) -> list[str]:
    """Why claims may not hold, those of one guess together."""
    lines = ["## Where a claim does not hold, a guess at why", ""]
    for guess, rows in table[table["verdict"] != HOLDS].groupby("guess", sort=False):
        where = rows.groupby("claim", sort=False)["model"].agg(", ".join)
        lines.append(f"- {'; '.join(f'{claim} ({models})' for claim, models in where.items())}. {guess or 'No guess.'}")
    return lines
