"""One error, read three ways: as the papers do, without the first token of each window, and by the typical token.

In large decoders a few tokens have activations so large that they hold nearly all of the mean square; an error divided
by it then says what becomes of those tokens. Table, figure and findings of notebook 01.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.present.finding import Finding
from analysis.present.panels import RELATIVE_ERROR, draw_lines, finish, label_axes, log_scale, panel_grid
from analysis.present.style import Look, in_style, looks, say_split
from analysis.present.tables import TO_LR, choose, on_tables, over_seeds
from analysis.schema import CALIBRATION

READINGS = {
    "relative_error": "all tokens\n(the papers' mean square)",
    "relative_error_rest": "without each window's\nfirst token",
    "relative_error_median": "median token\n(its own relative error)",
}
HOLDERS = {"energy_first": "first tokens", "energy_top": "largest 1 %"}
SHARE = "who holds the dense\nmean square"
HOLDER_LOOKS = {"first tokens": Look("#000000", "o", "-"), "largest 1 %": Look("#777777", "s", (0, (4, 1.5)))}
LOUD = 0.5  # share of the mean square above which a handful of tokens decides the papers' error


@on_tables
def readings_profile(blocks: pd.DataFrame, *, criterion=None, split: str = CALIBRATION) -> pd.DataFrame:
    """Total error of one text at every block's output in three readings, and how much of the dense mean square few
    tokens hold: [criterion, split, reading, method, block, ...].

    In the rows of reading `SHARE`, `method` says who holds: the first tokens, or the largest hundredth.
    """
    rows = choose(blocks, kind="total", criterion=criterion, split=split)
    key = ["criterion", "split", "method", "block"]
    parts = [
        over_seeds(rows, key, column, paired=TO_LR, ratio=True).assign(reading=title)
        for column, title in READINGS.items()
    ]
    first = rows[rows["method"] == rows["method"].iloc[0]]  # the dense stream is the same for every method
    for column, holder in HOLDERS.items():
        parts.append(over_seeds(first, key, column).assign(reading=SHARE, method=holder))
    table = pd.concat(parts, ignore_index=True)
    first_columns = ["criterion", "split", "reading"]
    return table[[*first_columns, *table.columns.drop(first_columns)]]


@on_tables
def plot_readings(table: pd.DataFrame) -> Figure:
    """The three readings beside one another on one log scale, and the share that few tokens hold, from 0 to 1.

    `table` is that of `readings_profile`; one row of panels for each criterion.
    """
    styles = looks(table.loc[table["reading"] != SHARE, "method"])
    with in_style():
        fig, panels = panel_grid(table, "criterion", "reading", height=1.9, sharey=False)
        for (criterion, reading), ax in panels.items():
            rows = table[(table["criterion"] == criterion) & (table["reading"] == reading)]
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if reading != SHARE:
                draw_lines(ax, rows, "block", styles)
                continue
            for holder, look in HOLDER_LOOKS.items():
                one = rows[rows["method"] == holder]
                ax.plot(
                    one["block"],
                    one["value"],
                    color=look.color,
                    marker=look.marker,
                    linestyle=look.line,
                    gid=f"holder {holder}",
                    label=holder,
                )
            ax.set_ylim(-0.03, 1.03)
            ax.legend(loc="best", fontsize=7)
        drawn = [ax for (_, reading), ax in panels.items() if reading != SHARE]
        for place, ax in enumerate(drawn[1:], start=1):
            ax.sharey(drawn[0])
            ax.tick_params(labelleft=place % len(READINGS) == 0)
        drawn[0].autoscale_view()
        log_scale(drawn)
        label_axes(panels, "block", dict.fromkeys(table["criterion"].unique(), RELATIVE_ERROR))
        finish(fig, styles)
    return fig


@on_tables
def say_holders(blocks: pd.DataFrame) -> Finding:
    """Which share of the dense mean square few tokens hold at most, over all blocks and texts, and whether figures of
    the papers' error are therefore to be read with care.
    """
    said, loud = [], False
    for column, holder in {
        "energy_first": "the windows’ first tokens",
        "energy_top": "the largest 1 % of tokens",
    }.items():
        most = blocks.loc[blocks[column].idxmax()]
        said.append(f"{holder} hold at most {most[column]:.0%} (block {most['block']})")
        loud = loud or most[column] > LOUD
    shares = f"of the dense mean square, {' and '.join(said)}"
    if loud:
        return Finding(
            f"**Careful**: {shares}. The error over all tokens is mostly theirs; see the other readings below."
        )
    return Finding(f"{shares[0].upper()}{shares[1:]}: no handful of tokens decides the error.")


@on_tables
def say_readings(table: pd.DataFrame) -> Finding:
    """Whether a handful of tokens decides the papers' error, and whether the readings put the methods in one order."""
    lines = []
    for (criterion, split), rows in table.groupby(["criterion", "split"], sort=False):
        held = rows[rows["reading"] == SHARE].set_index(["method", "block"])["value"]
        holder, block = held.idxmax()
        sentence = (
            f"- **{criterion}**, {say_split(split)}: the {holder.replace('first tokens', 'windows’ first tokens')}"
            f"{' of all tokens' if '%' in holder else ''} hold up to {held.max():.0%} of the dense mean square"
            f" (block {block})"
        )
        if held.max() > LOUD:
            sentence += ", so that the papers' error says little about the others"
        last = rows[(rows["block"] == rows["block"].max()) & (rows["reading"] != SHARE)]
        orders = {
            reading: list(part.sort_values("value")["method"]) for reading, part in last.groupby("reading", sort=False)
        }
        told = {reading.replace("\n", " "): " < ".join(order) for reading, order in orders.items()}
        same = len(set(told.values())) == 1
        sentence += ". At the last block all readings order the methods alike: " if same else ". At the last block: "
        sentence += next(iter(told.values())) if same else "; ".join(f"{name}: {order}" for name, order in told.items())
        lines.append(sentence + ".")
    return Finding("\n".join(lines))
