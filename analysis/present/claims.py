"""What the papers claim about granularity, criteria and retraining, beside what the tables show: computed, never typed
in.

Each function takes a table of `analysis.present.tables` and says what is in it and whether that agrees with the claim.
The claims of 2510.14444 are those of its abstracts: no table of it could be read, so none of its numbers are quoted.
"""

import pandas as pd

from analysis.errors import UsageError
from analysis.present.findings import Finding
from analysis.present.paper import REFINED
from analysis.present.style import CRITERIA, REFINEMENT_NAMES, looks, say_method, say_split
from analysis.records import CALIBRATION


def say_free_lunch(table: pd.DataFrame, within: float) -> Finding:
    """Per held-out text and choice of streams: the unit with the lowest perplexity, and which units lie within `within`
    percent of it.

    `table` is that of `tables.granularity`. 2510.14444 (v2, v3) claims that quality is essentially constant over units
    that hold at least one non-linear submodule: from the sub-block up.
    """
    lines = []
    for (criterion, split, streams), rows in _by_unit(table).groupby(["criterion", "split", "streams"], sort=False):
        best = rows.loc[rows["value"].idxmin()]
        above = 100 * (rows["value"] / best["value"] - 1)
        near = [_unit(unit) for unit in rows.loc[above <= within, "granularity"]]
        coarse = above[rows["granularity"] != "matrix"]
        sizes = coarse.set_axis(rows.loc[coarse.index, "granularity"])
        flatness = _flatness(sizes, within) if len(coarse) > 1 else ""
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)} {streams}**, {say_split(split)}: lowest with"
            f" {_unit(best['granularity'])} ({_value(best)}); "
            f"within {within:g} %:"
            f" {', '.join(near)}{flatness}."
        )
    return Finding("\n".join(lines))


def say_matrix(table: pd.DataFrame) -> Finding:
    """Per held-out text and choice of streams: one matrix at once against one sub-block at once, by gradient and in
    closed form.

    2510.14444 (v3) claims that reconstructing single matrices is consistently worse.
    """
    lines = []
    text = table[(table["measure"] == "perplexity") & (table["split"] != CALIBRATION)]
    for (criterion, split, streams), rows in text[text["streams"] != ""].groupby(
        ["criterion", "split", "streams"], sort=False
    ):
        at = rows.set_index(["method", "granularity"])
        where = f"- **{CRITERIA.get(criterion, criterion)} {streams}**, {say_split(split)}"
        if (streams, "sub-block") not in at.index:
            lines.append(f"{where}: no sub-blocks were run, so there is nothing to compare a matrix with.")
            continue
        half = at.loc[(streams, "sub-block")]
        parts = []
        for method, words in ((streams, "matrices by gradient"), ("ridge", "matrices in closed form")):
            if (method, "matrix") in at.index:
                one = at.loc[(method, "matrix")]
                parts.append(f"{words} {_value(one)}, {_more(one, half)}")
        worse = [part for part in parts if "more" in part]
        verdict = (
            "as the paper claims"
            if len(worse) == len(parts)
            else "against the paper's claim"
            if not worse
            else "in part against the paper's claim"
        )
        lines.append(
            f"{where}: sub-blocks {_value(half)}; {'; '.join(parts)}: {verdict}."
            if parts
            else f"{where}: no single matrices were run."
        )
    return Finding("\n".join(lines))


def say_cheapest(table: pd.DataFrame, within: float) -> Finding:
    """Per held-out text and price: the cheapest way within `within` percent of the best perplexity, and what the others
    pay.

    `table` is that of `tables.cost_of_units`.
    """
    lines = []
    for (criterion, split, price), rows in table[table["cost"].notna()].groupby(
        ["criterion", "split", "price"], sort=False
    ):
        best = rows.loc[rows["value"].idxmin()]
        near = rows[rows["value"] <= best["value"] * (1 + within / 100)]
        cheap = near.loc[near["cost"].idxmin()]
        most = rows.loc[rows["cost"].idxmax()]
        saved = (
            "which is the best itself"
            if cheap.name == best.name
            else _times(best["cost"] / cheap["cost"], "than the best")
        )
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {price}: best {_point(best)} at"
            f" {best['cost']:.3g}; cheapest within {within:g} % {_point(cheap)} at {cheap['cost']:.3g}, {saved} and"
            f" {_times(most['cost'] / cheap['cost'], 'than the dearest')}, {_point(most)}."
        )
    return Finding("\n".join(lines))


def say_spread(table: pd.DataFrame) -> Finding:
    """Per pattern and held-out text: how far the criteria lie apart before and after reconstruction, masks as chosen.

    `table` is that of `tables.criteria`. 2510.14444 (v2) claims that the criterion matters less after reconstruction.
    """
    lines = []
    plain = table[(table["refinement"] == "none") & (table["method"] != "dense")]
    for (pattern, split), rows in plain.groupby(["pattern", "split"], sort=False):
        wide = rows.pivot(index="criterion", columns="method", values="value")
        parts, spreads = [], []
        for method in looks(wide):
            best, worst = wide[method].idxmin(), wide[method].idxmax()
            spreads.append(100 * (wide[method].max() / wide[method].min() - 1))
            parts.append(
                f"{say_method(method)} {spreads[-1]:.2g} % ({CRITERIA[best]} {wide[method].min():.3f} to"
                f" {CRITERIA[worst]} {wide[method].max():.3f})"
            )
        shrinks = all(spread < spreads[0] for spread in spreads[1:])
        verdict = (
            "the criterion matters less after reconstruction, as the paper claims"
            if shrinks
            else "the gap does not shrink, against the paper's claim"
        )
        lines.append(
            f"- **{pattern}**, {say_split(split)}: worst criterion over best"
            f" {'; '.join(parts)}{'; ' + verdict if len(spreads) > 1 else ''}."
        )
    return Finding("\n".join(lines))


def say_refined(table: pd.DataFrame) -> Finding:
    """Per pattern and held-out text: what each refinement does to perplexity before and after reconstruction, per
    criterion.
    """
    lines = []
    for (pattern, split), rows in table[table["method"] != "dense"].groupby(["pattern", "split"], sort=False):
        parts = []
        for (method, refinement), some in rows[rows["refinement"] != "none"].groupby(
            ["method", "refinement"], sort=False
        ):
            base = rows[(rows["method"] == method) & (rows["refinement"] == "none")].set_index("criterion")["value"]
            change = 100 * (some.set_index("criterion")["value"] / base - 1)
            words = ", ".join(f"{CRITERIA[criterion]} {percent:+.1f} %" for criterion, percent in change.items())
            parts.append(f"{say_method(method)} with {REFINEMENT_NAMES[refinement]}: {words}")
        lines.append(f"- **{pattern}**, {say_split(split)}: {'; '.join(parts) or 'no refinement was run'}.")
    return Finding("\n".join(lines))


def say_layers(changes: pd.DataFrame) -> Finding:
    """Per pattern and refinement: how much of the matrices' own error it removes, in the mean over matrices and at
    most.

    `changes` is that of `tables.layer_changes`. The papers: up to 60 % less than Wanda's with swaps (2512.10922), up to
    80 % and typically 20 to 40 % with Frank-Wolfe (2510.13713).
    """
    lines = []
    for (pattern, refinement), rows in changes.groupby(["pattern", "refinement"], sort=False):
        parts = []
        for criterion, some in rows.groupby("criterion", sort=False):
            less = 100 * (1 - some["value"])
            parts.append(f"{CRITERIA[criterion]} {less.mean():.0f} % (at most {less.max():.0f} %)")
        lines.append(
            f"- **{pattern}, {REFINEMENT_NAMES[refinement]}**: error of a matrix lower by {', '.join(parts)} in the"
            " mean."
        )
    return Finding("\n".join(lines))


def beside_refinement(table: pd.DataFrame) -> pd.DataFrame:
    """Perplexity with Frank-Wolfe's mask over that with the criterion's own, before reconstruction, ours beside table 1
    of 2510.13713.

    `table` is that of `tables.criteria`. Rows (pattern, criterion); columns: one per held-out text, then the least and
    the most of the paper's six models. Below 1 the refinement helps. The paper gives Wanda and RIA at 50 %, 60 % and
    2:4.
    """
    key = ["pattern", "criterion"]
    rows = table[(table["method"] == "LR")]
    wide = rows.pivot_table(index=[*key, "split"], columns="refinement", values="value", sort=False)
    if "fw" not in wide:
        raise UsageError("beside the paper's refinement: the table has no runs with fw; add it to the refinements")
    out = (wide["fw"] / wide["none"]).unstack("split").rename(columns=say_split)
    ratio = (REFINED["fw"] / REFINED["none"]).groupby([REFINED[name] for name in key])
    out["paper, least"], out["paper, most"] = ratio.min(), ratio.max()
    return out.reindex(rows.set_index(key).index.unique()).rename_axis(columns=None).round(3)


def say_equal_tokens(budget: pd.DataFrame) -> Finding:
    """Per held-out text, number of windows and of epochs: the methods from best to worst, all having seen the same text
    equally often.

    `budget` is that of `tables.budgets`.
    """
    lines = []
    for (criterion, split, samples, epochs), rows in _trained(budget).groupby(
        ["criterion", "split", "samples", "epochs"], sort=False
    ):
        order = rows.sort_values("value")
        said = ", ".join(f"{say_method(row.method)} {row.value:.3f}" for row in order.itertuples())
        lines.append(
            (
                samples,
                epochs,
                (
                    f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {samples} windows,"
                    f" {_epochs(epochs)}: {said}."
                ),
            )
        )
    return Finding("\n".join(line for *_, line in sorted(lines, key=lambda line: line[:2])))


def say_equal_time(budget: pd.DataFrame) -> Finding:
    """Per held-out text and number of windows: the best method within the time in which every method has finished at
    least once, and within the time after which the fastest has no longer run."""
    lines = []
    for (criterion, split, samples), rows in _trained(budget).groupby(["criterion", "split", "samples"], sort=False):
        seconds = rows.groupby("method")["solve_seconds"]
        parts = []
        everyone, longest = seconds.min().max(), seconds.max().min()
        for limit in [everyone, longest] if longest > everyone else [everyone]:
            done = rows[rows["solve_seconds"] <= limit]
            best = done.loc[done.groupby("method")["value"].idxmin()].sort_values("value")
            said = ", ".join(
                f"{say_method(row.method)} {row.value:.3f} ({_epochs(row.epochs)})" for row in best.itertuples()
            )
            parts.append(f"within {limit:.3g} s {said}")
        lines.append(
            f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {samples} windows: {'; '.join(parts)}."
        )
    return Finding("\n".join(lines))


def say_less(budget: pd.DataFrame) -> Finding:
    """Per held-out text and retraining method: the least text and the least time with which a local method is at least
    as good as its best.

    2510.14444 (v2) claims that local reconstruction matches parameter-efficient retraining (MaskLoRA, norms and biases)
    with more than 10 times less data and compute; of full retraining and of distillation it is not said.
    """
    lines = []
    for (criterion, split), rows in _above_dense(budget).groupby(["criterion", "split"], sort=False):
        again = rows["method"].str.startswith("retrain")
        for method, runs in rows[again].groupby("method", sort=False):
            best = runs.loc[runs["above"].idxmin()]
            said = f"at best {_value(best)} with {best['samples']} windows and {_epochs(best['epochs'])}"
            where = f"- **{CRITERIA.get(criterion, criterion)}**, {say_split(split)}, {say_method(method)}: {said}"
            enough = rows[~again & (rows["above"] <= best["above"])]
            claimed = "train=" in method
            if enough.empty:
                lines.append(f"{where}; no local run is as good{', against the claim' * claimed}.")
                continue
            tokens, fast = enough.loc[enough["tokens"].idxmin()], enough.loc[enough["solve_seconds"].idxmin()]
            text, time = tokens["tokens"] / best["tokens"], fast["solve_seconds"] / best["solve_seconds"]
            found = (
                f"{say_method(tokens['method'])} is there with {100 * text:.3g} % of its tokens,"
                f" {say_method(fast['method'])} with {100 * time:.3g} % of its time"
            )
            verdict = (
                "more than 10 times less of both, as claimed"
                if max(text, time) < 0.1
                else "a match, but not with more than 10 times less of both"
            )
            lines.append(f"{where}; {found}{': ' + verdict if claimed else ''}.")
    return Finding("\n".join(lines))


def say_memory(budget: pd.DataFrame) -> Finding:
    """What each method's solver holds at once, as a multiple of the least, for the fewest windows."""
    trained = _trained(budget)
    fewest = trained[trained["samples"] == trained["samples"].min()]
    held = fewest.groupby("method", sort=False)["solver_memory_mib"].max().sort_values()
    (least, mib), *others = held.items()
    said = ", ".join(f"{say_method(method)} {more / mib:.2g} times that ({more:.3g} MiB)" for method, more in others)
    return Finding(
        f"- With {fewest['samples'].iloc[0]} windows the solver holds least with {say_method(least)}, {mib:.3g} MiB;"
        f" {said}."
    )


def _by_unit(table: pd.DataFrame) -> pd.DataFrame:
    """Held-out perplexities of gradient methods by unit."""
    solved = (table["streams"] != "") & (table["method"] != "ridge")
    return table[solved & (table["measure"] == "perplexity") & (table["split"] != CALIBRATION)]


def _trained(budget: pd.DataFrame) -> pd.DataFrame:
    rows = budget[budget["epochs"] > 0]
    if rows.empty:
        raise UsageError("finding about budgets: the table has no trained runs")
    return rows


def _above_dense(budget: pd.DataFrame) -> pd.DataFrame:
    """Trained runs with a column `above`, perplexity over the dense model's: held-out windows that repeat calibration
    text are left out, so other numbers of windows are measured on almost, but not quite, the same text."""
    key = ["criterion", "split", "samples"]
    dense = budget[budget["method"] == "dense"].set_index(key)["value"].rename("dense")
    rows = _trained(budget).join(dense, on=key)
    return rows.assign(above=rows["value"] / rows["dense"])


def _epochs(number: int) -> str:
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def _flatness(above: pd.Series, within: float) -> str:
    """What units above a matrix, given in percent above the best, say about a flat region."""
    far = above[above > within]
    if far.empty:
        return "; flat over all sizes above a matrix, as the paper claims"
    outside = ", ".join(f"{_unit(unit)} {percent:.1f} % above" for unit, percent in far.items())
    most = len(far) < len(above) / 2
    flat = "flat over most sizes above a matrix, as the paper claims of a wide range"
    return f"; {flat if most else 'not flat, against the claim'}; outside: {outside}"


def _unit(granularity: str) -> str:
    return {"matrix": "matrices", "sub-block": "sub-blocks", "model": "the whole model"}.get(granularity, granularity)


def _point(row: pd.Series) -> str:
    return (
        f"{row['method'] if row['method'] == row['streams'] else row['method'] + ' like ' + row['streams']} by"
        f" {_unit(row['granularity'])} ({row['value']:.3f})"
    )


def _value(row: pd.Series) -> str:
    return f"{row['value']:.3f}" + (f" ± {row['std']:.3f}" if row["seeds"] > 1 else "")


def _more(one: pd.Series, other: pd.Series) -> str:
    percent = 100 * (one["value"] / other["value"] - 1)
    return f"{percent:.1f} % more" if percent >= 0 else f"{-percent:.1f} % less"


def _times(ratio: float, what: str) -> str:
    return f"{ratio:.2g} times less {what}" if ratio >= 1 else f"{1 / ratio:.2g} times more {what}"
