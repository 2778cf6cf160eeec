"""How errors grow from block to block, and what they are made of. Table, figure and findings of notebook 01."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.present.finding import Finding
from analysis.present.panels import RELATIVE_ERROR, draw_lines, finish, label_axes, log_scale, panel_grid, say
from analysis.present.paper import MODELS, RESULTS
from analysis.present.style import CRITERIA, METHOD_LOOKS, in_style, looks, say_split
from analysis.present.tables import TO_LR, choose, on_tables, over_seeds
from analysis.schema import CALIBRATION


@on_tables
def block_profile(blocks: pd.DataFrame, *, kind="total", criterion=None, split=None) -> pd.DataFrame:
    """Relative error at every block's output: [criterion, split, kind, method, block, ...].

    The error is the mean squared difference over the mean square of the dense output: `total` between dense and sparse
    stream, `inherited` between a dense block's outputs on both, `local` between pruned and dense block on the sparse
    stream. The first block inherits nothing; its zero has no place on a log scale and is left out.
    """
    rows = choose(blocks, kind=kind, criterion=criterion, split=split)
    rows = rows[(rows["kind"] != "inherited") | (rows["block"] > 0)]
    return over_seeds(
        rows, ["criterion", "split", "kind", "method", "block"], "relative_error", paired=TO_LR, ratio=True
    )


@on_tables
def plot_block_profile(table: pd.DataFrame, *, rows: str = "split", columns: str = "criterion") -> Figure:
    """Relative error at every block's output, one line per method, log scale: how error compounds with depth.

    `table` is that of `block_profile`; `rows` and `columns` name the columns (split, criterion or kind) that its
    panels tell apart. Paper: figures 3, 5 and 6 of 2406.15524, there without the division by the dense output's mean
    square.
    """
    with in_style():
        fig, panels = panel_grid(table, rows, columns, height=1.75, sharey=True)
        for (row, column), ax in panels.items():
            draw_lines(ax, table[(table[rows] == row) & (table[columns] == column)], "block")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        log_scale(panels.values())
        label_axes(panels, "block", {row: say(rows, row) for row in table[rows].unique()})
        fig.supylabel(RELATIVE_ERROR, fontsize=9)
        finish(fig, looks(table["method"]))
    return fig


@on_tables
def beside_results(error: pd.DataFrame, perplexity: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """Final calibration error and perplexity on `split` as ratios to LR, ours beside tables 1 and 3 of 2406.15524.

    `error` and `perplexity` are those of `tables.last_block` and `tables.perplexities` for one number of windows. The
    paper's perplexity is WikiText-2's; `split` None is the first held-out text. Rows (criterion, method), columns
    (measure, model); below 1 means better than LR.
    """
    key = ["criterion", "method"]
    parts = {}
    split = split or next(name for name in perplexity["split"] if name != CALIBRATION)
    tables = {
        "error": error[error["split"] == CALIBRATION],
        "perplexity": perplexity[(perplexity["split"] == split) & (perplexity["method"] != "dense")],
    }
    for measure, column in {"error": "error", "perplexity": "wikitext2"}.items():
        rows = tables[measure]
        parts[f"{measure} / LR", "here"] = rows.assign(ratio=_to_first(rows, "value")).set_index(key)["ratio"]
        for model in MODELS:
            paper = RESULTS[RESULTS["model"] == model]
            parts[f"{measure} / LR", model] = paper.assign(ratio=_to_first(paper, column)).set_index(key)["ratio"]
    return pd.DataFrame(parts).reindex(parts["error / LR", "here"].index).round(3)


@on_tables
def say_order(error: pd.DataFrame) -> Finding:
    """One sentence per criterion and split: the errors at the last block, and whether each method improves on the one
    before.
    """
    lines = []
    for (criterion, split), rows in error.groupby(["criterion", "split"], sort=False):
        rows = rows.set_index("method")["value"].reindex([name for name in METHOD_LOOKS if name in set(rows["method"])])
        path = " → ".join(f"{value:.3g} ({method})" for method, value in rows.items())
        worse = [method for method, step in rows.diff().items() if step > 0]
        change = 100 * (1 - rows.iloc[-1] / rows.iloc[0])
        verdict = f"not lower than the one before: {', '.join(worse)}" if worse else "each method lowers it"
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}: {path}; {_less(change)} in all,"
            f" {verdict}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_parts(profile: pd.DataFrame, split: str = CALIBRATION) -> Finding:
    """How the last block's total error compares with its inherited and its local part, and with the first block's, per
    method.
    """
    lines = []
    profile = profile[profile["split"] == split]
    for (criterion, method), rows in profile.groupby(["criterion", "method"], sort=False):
        total = rows[rows["kind"] == "total"].set_index("block")["value"]
        last = rows[rows["block"] == rows["block"].max()].set_index("kind")["value"]
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)} {method}**, {say_split(split)}: the total error at the last"
            f" block is {total.iloc[-1] / total.iloc[0]:.2g} times that at the first; there the inherited part alone is"
            f" {last['inherited'] / last['total']:.0%} of the total and the local part"
            f" {last['local'] / last['total']:.0%}."
        )
    return Finding("\n".join(lines))


def _to_first(table: pd.DataFrame, value: str, method: str = "LR") -> pd.Series:
    """`value` of every row divided by that of `method` in the same criterion; NaN where that method was not run."""
    first = table[table["method"] == method].set_index("criterion")[value]
    return table[value] / table["criterion"].map(first)


def _less(percent: float) -> str:
    return f"{percent:.0f} % less" if percent >= 0 else f"{-percent:.0f} % more"
