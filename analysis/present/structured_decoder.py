"""What is won and lost when whole heads and neurons go and the model really shrinks: parameters, operations, time,
perplexity, accuracy. Tables and findings of notebook 10; its figures are in `structured_decoder_figures.py`.

How many parameters a mask leaves and how fast the smaller model runs does not depend on how what stays was repaired
(but for biases, well under one per cent), so sizes and times are measured on the runs of one method and stand for all
methods of the same criterion, pattern and seed. Perplexity is that of the first held-out text.
"""

from collections.abc import Sequence
from math import log

import numpy as np
import pandas as pd

from analysis.errors import UsageError
from analysis.present.finding import Finding, say_half, say_number
from analysis.present.statistics import by_questions, compare, decided, holm
from analysis.present.style import METHOD_LOOKS, Look, say_criterion, say_method
from analysis.present.tables import choose, on_tables, over_seeds
from analysis.schema import CALIBRATION

REMOVED, FLOPS, LATENCY, THROUGHPUT = "parameters removed, %", "FLOPs per token", "one window", "several windows"
PERPLEXITY, ACCURACY = "perplexity", "mean zero-shot accuracy, %"
REPAIRED = {
    "LR": METHOD_LOOKS["LR"],
    "compensate": Look("#56B4E9", "P", (0, (4, 1.2))),
    "scale": Look("#E69F00", "v", (0, (3, 1.2, 1, 1.2))),
    "LIAR": Look("#0072B2", "s", "-"),
    "LIAR+GP": Look("#009E73", "^", "-"),
    "BR+GP": Look("#882255", "X", (0, (5, 1.2))),
    "BR+GP[repair=liar]": Look("#CC79A7", "D", "-"),
}
REPAIR_LABELS = {
    "LR": "mask alone (LR)",
    "compensate": "bias compensation",
    "scale": "one scale each",
    "BR+GP[repair=liar]": "LIAR, then BR+GP",
}
KINDS = ("neurons", "heads", "structures")
GAINS = (FLOPS, LATENCY, THROUGHPUT)
SHAPE = ["pattern", "criterion"]
UNPRUNED = {"method": "dense", "pattern": "", "criterion": ""}


@on_tables
def shapes(size: pd.DataFrame) -> pd.DataFrame:
    """What every mask removes and how much faster the smaller model is: [measure, pattern, criterion, ...].

    measure: parameters removed in per cent; operations of the dense model over the pruned one's; the same of the
    latency; tokens per second of the pruned one over the dense one's. Ratios are taken within a run, where both models
    were measured in turn; several methods of one seed count as one. Raises UsageError where nothing was measured.
    """
    if size.empty:
        raise UsageError("shapes: no run was measured; give grid shrink=True for the runs of one method")
    dense, pruned = (size[size["which"] == which].set_index("run") for which in ("dense", "pruned"))
    parts = {
        REMOVED: 100 * (1 - pruned["parameters"] / dense["parameters"]),
        FLOPS: dense["flops_per_token"] / pruned["flops_per_token"],
        LATENCY: dense["latency_ms"] / pruned["latency_ms"],
        THROUGHPUT: pruned["tokens_per_second"] / dense["tokens_per_second"],
    }
    rows = pd.concat([pruned[[*SHAPE, "seed"]].assign(measure=name, value=value) for name, value in parts.items()])
    rows = rows.groupby(["measure", *SHAPE, "seed"], sort=False)["value"].mean().reset_index()
    return over_seeds(rows, ["measure", *SHAPE], "value")


@on_tables
def same_count(size: pd.DataFrame, matrices: pd.DataFrame, *, patterns: Sequence[str] = ()) -> list[str]:
    """Patterns of single weights that leave as many parameters as the masks of whole structures do, smallest first:
    ["12.9%", "36.1%"]; of all structures in `size`, or of those whose patterns are given.

    Shares of the weights of all prunable matrices, biases that a repair made counted as kept, in the mean over seeds
    and to a tenth of a per cent.
    """
    if patterns:  # tables call them without their options
        size = choose(size, pattern=[pattern.partition("[")[0] for pattern in patterns])
    wide = size.pivot(index=["run", *SHAPE], columns="which", values="parameters").reset_index()
    entries = matrices.assign(entries=matrices["rows"] * matrices["columns"]).groupby("run")["entries"].sum()
    share = ((wide["dense"] - wide["pruned"]) / wide["run"].map(entries)).groupby([wide[name] for name in SHAPE]).mean()
    return [f"{100 * value:.1f}%" for value in sorted(set(share.round(3))) if value > 0]


@on_tables
def repaired(perplexity: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """Held-out perplexity by parameters removed: [pattern, criterion, method, ..., kind, removed]; the
    dense model is method "dense" without pattern.

    Runs that differ in what was measured beside perplexity count once. Raises UsageError for a pattern that is not in
    `shapes`.
    """
    rows = _held_out(perplexity)
    rows = rows[rows["method"].eq("dense") | rows["kind"].isin(KINDS)].drop_duplicates([*SHAPE, "method", "seed"])
    out = over_seeds(rows, [*SHAPE, "method"], "perplexity", paired=UNPRUNED, ratio=True)
    removed = shapes[shapes["measure"] == REMOVED].set_index(SHAPE)["value"]
    measured = [row.method == "dense" or (row.pattern, row.criterion) in removed.index for row in out.itertuples()]
    if missing := [
        f"{row.criterion} {row.pattern}" for row in out[~pd.Series(measured)].drop_duplicates(SHAPE).itertuples()
    ]:
        raise UsageError(
            f"parameters removed: nobody measured the size of {', '.join(missing)}; give one run of each shrink=True"
        )
    out["kind"] = out["pattern"].map(_kind)
    out["removed"] = [removed.get((row.pattern, row.criterion), 0.0) for row in out.itertuples()]
    return out


@on_tables
def same_size(
    perplexity: pd.DataFrame, zero_shot: pd.DataFrame, size: pd.DataFrame, matrices: pd.DataFrame
) -> pd.DataFrame:
    """Whole structures beside single weights: [measure, pattern, criterion, method, ..., standard_error, kind,
    removed].

    Only methods that were asked tasks, and the dense model. measure: perplexity, or mean accuracy over the tasks in per
    cent, with its standard error from the questions. kind "weights": single weights. removed: weights that are gone or
    zero, in per cent of all parameters (`size` says how many those are), means over seeds; biases that a repair made
    are not subtracted. Raises UsageError where nobody was asked.
    """
    if zero_shot.empty:
        raise UsageError("same size: the runs were asked no tasks; give grid tasks=['lab:yes-no', ...]")
    gone = matrices.assign(gone=matrices["rows"] * matrices["columns"] - matrices["kept"]).groupby("run")["gone"].sum()
    whole = size[size["which"] == "dense"].groupby("model")["parameters"].max()
    key = [*SHAPE, "method"]
    text = _held_out(perplexity)
    shown = text.merge(_bare(zero_shot)[key].drop_duplicates(), on=key)
    text = shown.drop_duplicates([*key, "seed"]).assign(measure=PERPLEXITY, value=lambda rows: rows["perplexity"])
    means = zero_shot.assign(square=zero_shot["standard_error"] ** 2).groupby(
        ["run", "model", *key, "which", "seed"], sort=False
    )
    asked = means.agg(
        value=("accuracy", "mean"), standard_error=("square", lambda squares: 100 * squares.sum() ** 0.5 / len(squares))
    ).reset_index()
    asked = _bare(asked.assign(measure=ACCURACY, value=100 * asked["value"])).drop_duplicates([*key, "seed"])
    rows = pd.concat([text, asked], ignore_index=True)
    rows["removed"] = (100 * rows["run"].map(gone) / rows["model"].map(whole)).where(rows["method"] != "dense", 0.0)
    parts = [
        over_seeds(some, ["measure", *key], "value", paired=UNPRUNED, ratio=measure == PERPLEXITY)
        for measure, some in rows.groupby("measure", sort=False)
    ]
    out = pd.concat(parts, ignore_index=True)
    more = rows.groupby(["measure", *key])[["standard_error", "removed"]].mean()
    out = out.join(more, on=["measure", *key])
    return out.assign(standard_error=out["standard_error"].fillna(0.0), kind=out["pattern"].map(_kind))


@on_tables
def won_back(table: pd.DataFrame) -> pd.DataFrame:
    """How much of the nats per token that the mask alone (LR) loses each repair wins back, per cent: rows (criterion,
    pattern), columns methods.

    Below 0 a repair adds to the loss. Raises UsageError where LR was not run.
    """
    pruned, (dense,) = apart(table)
    wide = pruned.pivot(index=["criterion", "pattern"], columns="method", values="value")
    wide = wide.reindex(pruned.set_index(["criterion", "pattern"]).index.unique())[list(repair_order(pruned["method"]))]
    if "LR" not in wide:
        raise UsageError(f"won back: the mask alone (LR) was not run; the methods are {', '.join(wide)}")
    nats = wide.map(log)
    share = 100 * nats.rsub(nats["LR"], axis=0).div(nats["LR"] - log(dense.value), axis=0)
    return share.drop(columns="LR").rename(columns=say, index=say_criterion).rename_axis(columns=None).round(0)


@on_tables
def compounding(layers: pd.DataFrame, blocks: pd.DataFrame, repaired: pd.DataFrame) -> pd.DataFrame:
    """What a repair does to one layer and to the model: rows (criterion, pattern, method), three ratios, below 1 =
    better, means over layers and seeds.

    On calibration text: a layer's error after the repair over that before it; the total error at the last block over
    that of the mask alone (LR). On held-out text: perplexity over LR's. Closed forms alone, and only those whose layers
    follow their own inputs (not LIAR+GP, where errors are the dense stream's). Raises UsageError where LR was not run.
    """
    key = [*SHAPE, "method"]
    repaired_layers = layers[(layers["target"] == "sparse") & layers["method"].isin(["compensate", "scale", "LIAR"])]
    layer = (
        (repaired_layers["error_after"] / repaired_layers["error_before"])
        .groupby([repaired_layers[name] for name in key], sort=False)
        .mean()
    )
    last = blocks[
        (blocks["kind"] == "total") & (blocks["split"] == CALIBRATION) & (blocks["block"] == blocks["block"].max())
    ]
    total, text = last.groupby(key)["relative_error"].mean(), repaired.set_index(key)["value"]
    if missing := [
        f"{criterion} {pattern}"
        for pattern, criterion in {place[:2]: 0 for place in layer.index}
        if (pattern, criterion, "LR") not in total.index
    ]:
        raise UsageError(f"compounding: the mask alone (LR) was not run for {', '.join(missing)}")
    places = [
        (pattern, criterion, method)
        for pattern, criterion in repaired[SHAPE].drop_duplicates().itertuples(index=False)
        for method in repair_order(repaired_layers["method"])
    ]
    rows = {
        (say_criterion(criterion), pattern, say(method)): (
            layer[place],
            *(table[place] / table[pattern, criterion, "LR"] for table in (total, text)),
        )
        for place in places
        if place in layer.index
        for pattern, criterion, method in [place]
    }
    names = ["a layer's error, after / before", "error at the last block / LR's", "held-out perplexity / LR's"]
    return pd.DataFrame(
        rows.values(), columns=names, index=pd.MultiIndex.from_tuples(rows, names=["criterion", "pattern", "method"])
    ).round(3)


@on_tables
def say_repairs(table: pd.DataFrame) -> Finding:
    """Per criterion and pattern: perplexity of every repair, the best one, and those that are no better than the mask
    alone.
    """
    pruned, (dense,) = apart(table)
    lines = []
    for (criterion, pattern), rows in pruned.groupby(["criterion", "pattern"], sort=False):
        value = ordered(rows, repair_order(rows["method"])).set_index("method")["value"]
        said = ", ".join(f"{say(name)} {say_number(number)}" for name, number in value.items())
        none = [say(name) for name, number in value.items() if name != "LR" and "LR" in value and number >= value["LR"]]
        verdict = f"lowest: {say(value.idxmin())}" + (
            f"; no lower than the mask alone: {', '.join(none)}" if none else ""
        )
        lines.append(
            f"- **{say_criterion(criterion)} {pattern}**, {rows['removed'].iloc[0]:.1f} % of all parameters (dense"
            f" {say_number(dense.value)}): {said}; {verdict}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_speed(shapes: pd.DataFrame) -> Finding:
    """Per criterion and pattern: parameters gone, operations saved, and how much faster a window and several at once
    run, as measured where the notebook ran.
    """
    lines = []
    for (pattern, criterion), rows in shapes.groupby(SHAPE, sort=False):
        at = rows.set_index("measure")
        few, one, many = (at.loc[name, "value"] for name in GAINS)
        most = max(one, many)
        part = (
            f"at most {100 * (most - 1) / (few - 1):.0f} % of what operations promise"
            if 1 < most <= few
            else "more than operations promise"
        )
        verdict = "no faster" if most <= 1 else part
        lines.append(
            f"- **{say_criterion(criterion)} {pattern}**: {at.loc[REMOVED, 'value']:.1f} % of all parameters gone,"
            f" {few:.2f} times fewer operations; one window {one:.2f}{say_half(at.loc[LATENCY], '.2f')} times"
            f" faster, several at once {many:.2f}{say_half(at.loc[THROUGHPUT], '.2f')}: {verdict}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_same_size(table: pd.DataFrame) -> Finding:
    """Per pattern of whole structures: the best of its methods beside the best one of single weights at the nearest
    parameter count, in perplexity and in accuracy. Both being picked, the test is corrected for all that could have
    been.
    """
    pruned, _ = apart(table)
    lines = []
    for (criterion, pattern), own in pruned[pruned["kind"] != "weights"].groupby(["criterion", "pattern"], sort=False):
        parts = []
        for measure, words in {PERPLEXITY: "perplexity", ACCURACY: "accuracy"}.items():
            sign = 1 if measure == PERPLEXITY else -1
            cut, others = (
                own[own["measure"] == measure],
                pruned[(pruned["kind"] == "weights") & (pruned["measure"] == measure)],
            )
            if cut.empty or others.empty:
                continue
            distance = (others["removed"] - cut["removed"].mean()).abs().round(3)
            near = others[distance == distance.min()]
            one, other = (rows.loc[(sign * rows["value"]).idxmin()] for rows in (cut, near))
            clear = decided(_chance(cut, near, one, other, ratio=measure == PERPLEXITY))
            better = "structures" if sign * (one["value"] - other["value"]) < 0 else "single weights"
            weights_name = f"{say_criterion(other['criterion'])} {other['pattern']} {say_method(other['method'])}"
            verdict = f"better: {better}" if clear else "undecided"
            parts.append(
                f"{words} {_number(one)} ({say(one['method'])}) against {_number(other)} ({weights_name}), {verdict}"
            )
        lines.append(
            f"- **{say_criterion(criterion)} {pattern}**, {own['removed'].mean():.1f} % of all parameters:"
            f" {'; '.join(parts) or 'no single weights were run'}."
        )
    return Finding("\n".join(lines))


def _chance(cut: pd.DataFrame, near: pd.DataFrame, one: pd.Series, other: pd.Series, *, ratio: bool) -> float:
    """p of the difference of two rows that were picked, one from `cut` and one from `near`, corrected for all the pairs
    that could have been (Holm): within seeds, and of accuracies no lower than by the questions, which are the same in
    every seed.
    """
    pairs = {(i, j): (a, b) for i, a in cut.iterrows() for j, b in near.iterrows()}
    p = [compare(a, b, ratio=ratio).p for a, b in pairs.values()]
    if not ratio:
        asked = [
            by_questions(a["value"] - b["value"], a["standard_error"], b["standard_error"]) for a, b in pairs.values()
        ]
        p = np.fmax(p, asked).tolist()
    return dict(zip(pairs, holm(p), strict=True))[one.name, other.name]


def say(method: str) -> str:
    """How legends and findings write a repair."""
    return REPAIR_LABELS.get(method, say_method(method))


def repair_order(methods) -> list[str]:
    """Repairs in the order figures and findings tell them, others behind by name."""
    present = set(methods)
    return [name for name in REPAIRED if name in present] + sorted(present - set(REPAIRED))


@on_tables
def apart(table: pd.DataFrame) -> tuple[pd.DataFrame, list]:
    """The rows of pruned models, and those of the dense one."""
    dense = table["method"] == "dense"
    return table[~dense], list(table[dense].itertuples())


@on_tables
def ordered(rows: pd.DataFrame, styles) -> pd.DataFrame:
    """Rows in the order of the legend."""
    return rows.sort_values(
        "method", key=lambda names: names.map({name: i for i, name in enumerate(styles)}), kind="stable"
    )


def _held_out(perplexity: pd.DataFrame) -> pd.DataFrame:
    """Rows of the first held-out text with `kind`, the dense model's as method "dense". Raises UsageError where there
    is no held-out text.
    """
    split = next((name for name in perplexity["split"] if name != CALIBRATION), None)
    if split is None:
        raise UsageError("held-out perplexity: the runs have no held-out text; give grid held_out")
    rows = _bare(perplexity[perplexity["split"] == split])
    return rows.assign(kind=rows["pattern"].map(_kind))


def _bare(rows: pd.DataFrame) -> pd.DataFrame:
    """The dense model's rows as method "dense" without pattern and criterion."""
    dense = rows["which"] == "dense"
    return rows.assign(
        **{
            name: rows[name].mask(dense, word)
            for name, word in {"method": "dense", "pattern": "", "criterion": ""}.items()
        }
    )


def _kind(pattern: str) -> str:
    kind = pattern.partition("-")[0]
    return kind if kind in KINDS else "weights" if pattern else ""


def _number(row: pd.Series) -> str:
    return (
        say_number(row["value"])
        if row["measure"] == PERPLEXITY
        else f"{row['value']:.1f} % ± {row['standard_error']:.1f}"
    )
