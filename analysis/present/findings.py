"""What the figures say, computed: tables beside the paper's numbers and sentences made from the tables, never typed in.

Our models, texts and errors are not the paper's (ours are divided by the mean square of the dense output), so both
sides are given as ratios: to LR of the same criterion, or of held-out to calibration. A ratio has no unit and survives
the change.
"""

import pandas as pd

from analysis.present.paper import CALIBRATION_AND_TEST, MODELS, RESULTS
from analysis.present.style import CRITERIA, METHODS, say_split
from analysis.records import CALIBRATION


class Finding(str):
    """A paragraph that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def _to_first(table: pd.DataFrame, value: str, method: str = "LR") -> pd.Series:
    """`value` of every row divided by that of `method` in the same criterion; NaN where that method was not run."""
    first = table[table["method"] == method].set_index("criterion")[value]
    return table[value] / table["criterion"].map(first)


def beside_results(error: pd.DataFrame, perplexity: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """Final calibration error and perplexity on `split` as ratios to LR, ours beside tables 1 and 3 of 2406.15524.

    `error` and `perplexity` are those of `tables.last_block` and `tables.perplexities` for one number of windows. The
    paper's perplexity is WikiText-2's; `split` None is the first held-out text. Rows (criterion, method), columns
    (measure, model); below 1 means better than LR.
    """
    key = ["criterion", "method"]
    parts = {}
    split = split or next(name for name in perplexity["split"] if name != CALIBRATION)
    ours = {
        "error": error[error["split"] == CALIBRATION],
        "perplexity": perplexity[(perplexity["split"] == split) & (perplexity["method"] != "dense")],
    }
    for measure, column in {"error": "error", "perplexity": "wikitext2"}.items():
        mine = ours[measure]
        parts[f"{measure} / LR", "here"] = mine.assign(ratio=_to_first(mine, "value")).set_index(key)["ratio"]
        for model in MODELS:
            paper = RESULTS[RESULTS["model"] == model]
            parts[f"{measure} / LR", model] = paper.assign(ratio=_to_first(paper, column)).set_index(key)["ratio"]
    return pd.DataFrame(parts).reindex(parts["error / LR", "here"].index).round(3)


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
        [(say_split(split), f"{samples} windows") for split, samples in ratios.columns]
    )
    for model in MODELS:
        paper = CALIBRATION_AND_TEST[CALIBRATION_AND_TEST["model"] == model].set_index(key)
        ratios["paper, C4", model] = paper["c4"] / paper["calibration"]
    return ratios.reindex(error.set_index(key).index.unique()).round(2)


def say_order(error: pd.DataFrame) -> Finding:
    """One sentence per criterion and split: the errors at the last block, and whether each method improves on the one
    before.
    """
    lines = []
    for (criterion, split), rows in error.groupby(["criterion", "split"], sort=False):
        rows = rows.set_index("method")["value"].reindex([name for name in METHODS if name in set(rows["method"])])
        path = " → ".join(f"{value:.3g} ({method})" for method, value in rows.items())
        worse = [method for method, step in rows.diff().items() if step > 0]
        change = 100 * (1 - rows.iloc[-1] / rows.iloc[0])
        verdict = f"not lower than the one before: {', '.join(worse)}" if worse else "each method lowers it"
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}: {path}; {_less(change)} in all,"
            f" {verdict}."
        )
    return Finding("\n".join(lines))


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
            f"- **{CRITERIA.get(criterion, criterion)} {method}**: held-out over calibration error, {fewest} → {most}"
            f" windows: {', '.join(parts)}."
        )
    return Finding("\n".join(lines))


def say_overfitting(epochs: pd.DataFrame) -> Finding:
    """At which epoch each held-out line is lowest, and how much it has risen again by the last epoch."""
    lines = []
    held_out = epochs[epochs["split"] != CALIBRATION]
    for (split, samples), rows in held_out.groupby(["split", "samples"], sort=False):
        parts = []
        for method, line in rows.groupby("method", sort=False):
            best, last = line.loc[line["value"].idxmin()], line.loc[line["epoch"].idxmax()]
            rise = 100 * (last["value"] / best["value"] - 1)
            parts.append(
                f"{method} epoch {best['epoch']} of {last['epoch']}" + (f" (then +{rise:.1f} %)" if rise > 0 else "")
            )
        lines.append(f"- {say_split(split)}, {samples} windows: lowest at {'; '.join(parts)}.")
    return Finding("\n".join(lines))


def say_worth(perplexity: pd.DataFrame) -> Finding:
    """Per held-out text and method: from how many calibration windows on its perplexity is below LR's."""
    lines = []
    pruned = perplexity[(perplexity["split"] != CALIBRATION) & (perplexity["method"] != "dense")]
    for (criterion, split), rows in pruned.groupby(["criterion", "split"], sort=False):
        wide = rows.pivot(index="samples", columns="method", values="value")
        parts = []
        for method in [name for name in METHODS if name in wide and name != "LR"]:
            wins = wide[method] < wide["LR"]
            from_here = wins[::-1].cummin()[::-1]  # True where this and every larger number of windows wins
            parts.append(
                f"{method} from {from_here.idxmax()} windows"
                if from_here.any()
                else f"{method} at none of {', '.join(map(str, wide.index))}"
            )
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}: perplexity below LR's for"
            f" {'; '.join(parts)}."
        )
    return Finding("\n".join(lines))


def _less(percent: float) -> str:
    return f"{percent:.0f} % less" if percent >= 0 else f"{-percent:.0f} % more"
