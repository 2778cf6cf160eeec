"""Decoders that lose whole blocks: what criteria, repairs and searches are worth, what is written afterwards, how fast
it is. Tables and findings of notebook 12; its figures are in `depth_figures.py`.

Perplexity is told as its logarithm over the dense model's on the same windows, in nats per token. All models are asked
the same questions, whatever their seed: a standard error is that of the questions.
"""

from collections.abc import Iterable, Sequence
from math import expm1, isnan

import pandas as pd

from analysis.errors import UsageError
from analysis.present.finding import Finding, enumerated, say_half, say_number
from analysis.present.statistics import decided, holm, leaders, paired, seed_columns
from analysis.present.style import Look, say_criterion, say_method, say_task
from analysis.present.tables import choose, on_tables, over_seeds
from analysis.schema import CALIBRATION

REPAIRS = {
    "LR": Look("#D55E00", "o", "-"),
    "patch+GP": Look("#56B4E9", "P", "-"),
    "replace+GP": Look("#E69F00", "v", "-"),
    "refit+GP": Look("#009E73", "^", "-"),
    "BR+GP[repair=refit]": Look("#CC79A7", "D", "-"),
    "ghost+GP": Look("#777777", "X", (0, (1.5, 1.2))),
}
"""Methods in the order figures show them; the ghost, which no checkpoint holds, stands last."""
LABELS = {
    **{name: f"{name} without GP" for name in ("patch", "replace", "refit", "ghost")},
    "LR": "nothing (LR)",
    "patch+GP": "patch",
    "replace+GP": "replace",
    "refit+GP": "refit",
    "BR+GP[repair=refit]": "refit then BR+GP",
    "ghost+GP": "ghost",
}
WIDTH_LABELS = {"LIAR": "LIAR", "LIAR+GP": "LIAR+GP", "BR+GP[repair=liar]": "LIAR then BR+GP", "LR": "mask alone"}
CRITERION_ORDER = ("influence", "angular", "perplexity", "gain", "random", "deepest")
CHOICES = "choices, mean"
SHAPE = ["pattern", "criterion"]


@on_tables
def excess(perplexity: pd.DataFrame) -> pd.DataFrame:
    """Rows of pruned models with `excess`: nats per token above the dense model of the same run on the same windows."""
    key = ["run", "split"]
    dense = perplexity[perplexity["which"] == "dense"].set_index(key)["nats_per_token"].rename("dense")
    rows = perplexity[perplexity["which"] == "pruned"].join(dense, on=key)
    return rows.assign(excess=rows["nats_per_token"] - rows["dense"])


@on_tables
def first_text(rows: pd.DataFrame) -> str:
    """The first held-out text. Raises UsageError where there is none."""
    texts = [split for split in dict.fromkeys(rows["split"]) if split != CALIBRATION]
    if not texts:
        raise UsageError("depth: the runs have no held-out text; give grid held_out")
    return texts[0]


@on_tables
def repaired(perplexity: pd.DataFrame) -> pd.DataFrame:
    """Nats per token above the dense model on the first held-out text: [pattern, criterion, method, value, ...]."""
    rows = excess(perplexity)
    return over_seeds(rows[rows["split"] == first_text(rows)], [*SHAPE, "method"], "excess")


@on_tables
def searched(perplexity: pd.DataFrame) -> pd.DataFrame:
    """The masks alone (LR), on calibration text and on the first held-out text: [pattern, samples, criterion, split,
    value, ...], nats per token above the dense model.
    """
    rows = excess(perplexity)
    rows = rows[rows["split"].isin([CALIBRATION, first_text(rows)]) & (rows["method"] == "LR")]
    return over_seeds(rows, ["pattern", "samples", "criterion", "split"], "excess")


@on_tables
def profile(blocks: pd.DataFrame, structures: pd.DataFrame, *, criterion: str | None = None) -> pd.DataFrame:
    """Error over the dense model's blocks, of one criterion (None: the first), on the first held-out text, mean over
    the seeds that have one: [pattern, criterion, method, block, removed, value, ...]; `removed`: in which share of the
    seeds the block is gone, and then without a value, unless a group ends there.
    """
    criterion = criterion or str(blocks["criterion"].iloc[0])
    blocks, structures = choose(blocks, criterion=criterion), choose(structures, criterion=criterion)
    rows = blocks[(blocks["split"] == first_text(blocks)) & (blocks["kind"] == "total")]
    key = [*SHAPE, "method", "block"]
    gone = structures.assign(removed=structures["kept"] == 0).drop_duplicates([*key, "seed"])
    shares = gone.groupby(key, sort=False)["removed"].mean().reset_index()
    errors = over_seeds(rows, key, "relative_error", paired={"method": "LR"}, ratio=True)
    out = shares.merge(errors, on=key, how="left")
    return ordered(out.fillna({"seeds": 0, "paired": ""}).astype({"seeds": int}))


@on_tables
def answered(zero_shot: pd.DataFrame, written: Sequence[str]) -> pd.DataFrame:
    """Accuracy in per cent of a writing model by the share of its blocks that is gone: [task, model, criterion,
    pattern, method, value, low, high, seeds, ..., standard_error, removed]; dense at 0, its method "dense".

    task: each of `written`, and the mean over all other tasks (`CHOICES`). standard_error: over questions. Raises
    UsageError where nothing was asked.
    """
    if zero_shot.empty:
        raise UsageError("answers: the runs were asked no tasks; give grid tasks=['lab:copying', ...]")
    dense = zero_shot["which"] == "dense"
    rows = zero_shot.assign(
        task=zero_shot["task"].where(zero_shot["task"].isin(written), CHOICES),
        method=zero_shot["method"].where(~dense, "dense"),
        pattern=zero_shot["pattern"].where(~dense, ""),
        square=zero_shot["standard_error"] ** 2,
    )
    key = ["task", "model", "criterion", "pattern", "method", "seed"]
    asked = rows.groupby(["run", *key], sort=False).agg(
        value=("accuracy", "mean"), squares=("square", "sum"), count=("square", "size")
    )
    asked = asked.reset_index().drop_duplicates(key)
    asked = asked.assign(value=100 * asked["value"], error=100 * asked["squares"] ** 0.5 / asked["count"])
    out = over_seeds(asked, key[:-1], "value")
    errors = asked.groupby(key[:-1], sort=False)["error"].mean().rename("standard_error")
    out = out.join(errors, on=key[:-1])
    order = [*(name for name in written if name in set(out["task"])), CHOICES]
    out = out.assign(removed=out["pattern"].map(share))
    return out.sort_values("task", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


@on_tables
def speeds(size: pd.DataFrame, perplexity: pd.DataFrame, *, criterion: str | None = None) -> pd.DataFrame:
    """Nats above the dense model against how many times faster one window runs: [kind, pattern, criterion, method,
    value, ..., faster, faster_low, faster_high].

    criterion: the one of blocks that is shown (None: all); the ghost, which cannot be cut out, is not.
    Times are those of the runs in `size`, by pattern; single weights, whose zeros no processor skips, stand at 1.
    Raises UsageError where nothing was timed, or a pattern of whole blocks or structures was not.
    """
    if size.empty:
        raise UsageError("speeds: no run was timed; give grid shrink=True for one method of every pattern")
    wide = size.pivot(index=["run", "pattern", "seed"], columns="which", values="latency_ms").reset_index()
    times = over_seeds(wide.assign(faster=wide["dense"] / wide["pruned"]), ["pattern"], "faster").set_index("pattern")
    rows = repaired(perplexity)
    kinds = rows["pattern"].map(lambda pattern: pattern.partition("-")[0] if "-" in pattern else "weights")
    rows = rows.assign(kind=kinds)
    other = rows["kind"].eq("blocks") & (rows["criterion"].ne(criterion or "") if criterion else False)
    rows = rows[~other & ~rows["method"].str.startswith("ghost")].reset_index(drop=True)
    if missing := sorted({row.pattern for row in rows.itertuples() if row.kind != "weights"} - set(times.index)):
        raise UsageError(f"speeds: nobody timed {', '.join(missing)}; give one run of each shrink=True")
    for name, column in (("faster", "value"), ("faster_low", "low"), ("faster_high", "high")):
        rows[name] = [1.0 if row.kind == "weights" else times.loc[row.pattern, column] for row in rows.itertuples()]
    return rows


def share(pattern: str) -> float:
    """Per cent of the blocks that a pattern takes out; 0 for none. Raises UsageError for a number of them."""
    said = pattern.partition("-")[2].partition("[")[0]
    if said and not said.endswith("%"):
        raise UsageError(f"pattern {pattern}: is no share, and what is shown here goes by shares; give blocks-25%")
    return float(said.removesuffix("%") or 0)


@on_tables
def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of `REPAIRS`, within what they were in."""
    places = {name: place for place, name in enumerate(methods_of(rows["method"]))}
    return rows.sort_values("method", key=lambda names: names.map(places), kind="stable", ignore_index=True)


def methods_of(names) -> list[str]:
    """Methods in the order figures show them, unknown ones last."""
    present = set(names)
    return [name for name in REPAIRS if name in present] + sorted(present - set(REPAIRS))


def criteria_of(names) -> list[str]:
    """Criteria in the order figures show them."""
    present = list(dict.fromkeys(names))
    return [name for name in CRITERION_ORDER if name in present] + [n for n in present if n not in CRITERION_ORDER]


def say(method: str) -> str:
    """How legends and findings write a method."""
    return LABELS.get(method) or say_method(method)


def say_pattern(pattern: str) -> str:
    """ "blocks-25%" as "25 % of the blocks"."""
    kind, _, rest = pattern.partition("-")
    return f"{rest.partition('%')[0]} % of the {kind}" if rest.endswith("%") else pattern


# --- findings --------------------------------------------------------------------------------------------------------


@on_tables
def say_repairs(table: pd.DataFrame) -> Finding:
    """Per pattern: the best and the worst criterion with each repair, in per cent above the dense model's perplexity,
    how many nats lie between them, and whether a repair brings them closer together (the distance between the worst
    and the best of a seed that all have, paired against that without repair, Holm's correction over the repairs).

    `table` is that of `repaired`.
    """
    lines = []
    for pattern, rows in table.groupby("pattern", sort=False):
        gaps, parts = {}, []
        for method in methods_of(rows["method"]):
            some = rows[rows["method"] == method]
            best, worst = some.loc[some["value"].idxmin()], some.loc[some["value"].idxmax()]
            seeds = some[seed_columns(some)]
            gaps[method] = seeds.max(skipna=False) - seeds.min(skipna=False)
            gap = gaps[method].mean()
            parts.append(
                f"{say(method)} {_percent(best)} to {_percent(worst)}" + ("" if isnan(gap) else f", {gap:.2f} apart")
            )
        lines.append(f"- **{say_pattern(pattern)}**, per cent above dense: {'; '.join(parts)}.{_say_closer(gaps)}")
    return Finding("\n".join(lines))


def _percent(row: pd.Series) -> str:
    name = say_criterion(row["criterion"])
    return f"{say_number(100 * expm1(row['value']))} ({name})"


def _say_closer(gaps: dict[str, pd.Series]) -> str:
    if "LR" not in gaps or len(gaps) < 2:
        return ""
    found = {method: paired(gap, gaps["LR"]) for method, gap in gaps.items() if method != "LR"}
    sure = [decided(p) for p in holm([change.p for change in found.values()])]
    said: dict[str, list[str]] = {}
    for (method, change), ok in zip(found.items(), sure, strict=True):
        way = "closer together" if change.difference < 0 else "farther apart"
        said.setdefault(way if ok else f"{way} (undecided)", []).append(say(method))
    parts = [f"{way} with {enumerated(names)}" for way, names in said.items()]
    return f" Beside those without repair, criteria lie {'; '.join(parts)}."


@on_tables
def say_back(table: pd.DataFrame) -> Finding:
    """Per pattern: how much of what the mask alone loses, in nats per token, each repair gives back, in per cent, mean
    over criteria; the ghost beside those that leave an ordinary checkpoint.
    """
    lines = []
    for pattern, rows in table.groupby("pattern", sort=False):
        wide = rows.pivot(index="criterion", columns="method", values="value")
        if "LR" not in wide:
            raise UsageError(f"given back: the mask alone (LR) was not run for {pattern}")
        back = (100 * (1 - wide.div(wide["LR"], axis=0))).mean()
        parts = [f"{say(method)} {back[method]:.0f} %" for method in methods_of(back.index) if method != "LR"]
        lines.append(f"- **{say_pattern(pattern)}**: {', '.join(parts)}.")
    return Finding("\n".join(lines))


@on_tables
def say_profile(table: pd.DataFrame) -> Finding:
    """Per pattern: which blocks went, in all seeds and in some, and the error at the last block with each repair over
    that without.
    """
    lines = []
    for (pattern, criterion), rows in table.groupby(SHAPE, sort=False):
        share = rows.groupby("block")["removed"].max()
        some = say_blocks(share.index[(share > 0) & (share < 1)])
        last = rows[rows["block"] == rows["block"].max()].set_index("method")["value"]
        parts = [f"{say(m)} {last[m] / last['LR']:.2f}" for m in methods_of(last.index) if m != "LR" and "LR" in last]
        name = say_criterion(criterion)
        lines.append(
            f"- **{say_pattern(pattern)}** by {name}: gone in every seed: {say_blocks(share.index[share == 1])}"
            f"{f', in some: {some}' * (some != 'none')}; error at the last block, over that of the mask alone:"
            f" {', '.join(parts)}."
        )
    return Finding("\n".join(lines))


def say_blocks(numbers: Iterable[int]) -> str:
    """ "blocks 2 and 3"."""
    words = [str(number) for number in numbers]
    return f"block{'s' * (len(words) > 1)} {enumerated(words)}" if words else "none"


@on_tables
def say_search(table: pd.DataFrame) -> Finding:
    """Per number of windows and pattern: by how many nats more the loss rises on held-out text than on the calibration
    text, for each criterion (paired within seeds, Holm's correction over criteria), and which criterion is best on
    each. `table` is that of `searched`.
    """
    lines = []
    for (samples, pattern), rows in table.groupby(["samples", "pattern"], sort=False):
        gaps, found = {}, {}
        for criterion in criteria_of(rows["criterion"]):
            own = rows[rows["criterion"] == criterion].set_index("split")
            text, names = first_text(own.reset_index()), seed_columns(own)
            found[criterion] = paired(own.loc[text, names].astype(float), own.loc[CALIBRATION, names].astype(float))
            gaps[criterion] = found[criterion].difference
        sure = dict(zip(found, map(decided, holm([change.p for change in found.values()])), strict=True))
        parts = [f"{say_criterion(n)} {gap:+.3f}{'' if sure[n] else ' (undecided)'}" for n, gap in gaps.items()]
        best = [
            say_criterion(name)
            for there in (False, True)
            for name in [rows[(rows["split"] != CALIBRATION) == there].set_index("criterion")["value"].idxmin()]
        ]
        lines.append(
            f"- **{samples} calibration window{'s' * (samples > 1)}, {say_pattern(pattern)}**, held-out less"
            " calibration,"
            f" nats: {', '.join(parts)}; lowest on calibration text: {best[0]}, on held-out text: {best[1]}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_tasks(zero_shot: pd.DataFrame, table: pd.DataFrame) -> Finding:
    """Per pattern and method: the criterion of the lowest perplexity and that of the highest accuracy over the tasks,
    all of those that tie, means over seeds, with both accuracies and the standard error of each from its questions.
    `table` is that of `repaired`.
    """
    rows = zero_shot[zero_shot["which"] == "pruned"].assign(square=lambda rows: rows["standard_error"] ** 2)
    key = ["pattern", "method", "criterion"]
    each = rows.groupby([*key, "seed"], sort=False).agg(
        accuracy=("accuracy", "mean"), squares=("square", "sum"), count=("square", "size")
    )
    each["error"] = each["squares"] ** 0.5 / each["count"]
    means = each.groupby(key, sort=False)[["accuracy", "error"]].mean()
    lines = []
    for (pattern, method), some in means.groupby(["pattern", "method"], sort=False):
        accuracy = some.droplevel(["pattern", "method"])
        own = table[(table["pattern"] == pattern) & (table["method"] == method)].set_index("criterion")["value"]
        low, high = leaders(own, lowest=True), leaders(accuracy["accuracy"])
        first, other = (100 * accuracy.loc[names].mean() for names in (low, high))
        error = (first["error"] + other["error"]) / 2
        alike = set(low) <= set(high)
        others = enumerated(["the same"] * alike + [say_criterion(n) for n in high if not (alike and n in low)])
        others += "" if alike else f" with {other['accuracy']:.0f} %"
        lines.append(
            f"- **{say_pattern(pattern)}, {say(method)}**: lowest perplexity"
            f" {enumerated([say_criterion(n) for n in low])}, accuracy {first['accuracy']:.0f} % (each ±"
            f" {error:.0f}); highest accuracy: {others}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_answers(table: pd.DataFrame) -> Finding:
    """Per task: accuracy of the dense model, and at each share of blocks gone with every method, with the standard
    error over questions. `table` is that of `answered`.
    """
    lines = []
    for task, rows in table.groupby("task", sort=False):
        dense = rows[rows["method"] == "dense"].iloc[0]
        parts = []
        for pattern, some in rows[rows["method"] != "dense"].groupby("pattern", sort=False):
            said = ordered(some).drop_duplicates("method")
            numbers = ", ".join(f"{say(row.method)} {row.value:.0f}" for row in said.itertuples())
            parts.append(f"{share(pattern):g} % gone: {numbers}")
        lines.append(
            f"- **{say_task(task)}**, per cent right: dense {dense['value']:.0f} ±"
            f" {dense['standard_error']:.0f}; {'; '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_speeds(table: pd.DataFrame) -> Finding:
    """Per pattern of blocks: how many times faster one window is, the best of its methods, and what whole structures
    and single weights have at that speed, read off between their measured points.
    """
    lines = []
    others = table[table["kind"] != "blocks"]
    for pattern, rows in table[table["kind"] == "blocks"].groupby("pattern", sort=False):
        top = rows.loc[rows["value"].idxmin()]
        speed = top["faster"]
        parts = []
        for kind, some in others.groupby("kind", sort=False):
            found = [at(speed, own) for _, own in some.groupby(["criterion", "method"], sort=False)]
            reached = [value for value in found if value is not None]
            fastest = some["faster"].max()
            parts.append(
                f"{kind} {say_number(100 * expm1(min(reached)))} %"
                if reached
                else f"{kind} reach {fastest:.2f} times at most"
            )
        others_have = f"at that speed {', '.join(parts)}" if speed > 1 else "no faster than the dense model in the mean"
        lines.append(
            f"- **{say_pattern(pattern)}**, {speed:.2f}{say_half(top, '.2f', 'faster_')} times faster for one window:"
            f" {say_number(100 * expm1(top['value']))} % above the dense model's perplexity ({say(top['method'])});"
            f" {others_have}."
        )
    return Finding("\n".join(lines))


@on_tables
def at(speed: float, rows: pd.DataFrame) -> float | None:
    """What a line through the dense model and measured points has at a speed; None beyond its last point."""
    points = sorted([(1.0, 0.0), *zip(rows["faster"], rows["value"], strict=True)])
    for (left, low), (right, high) in zip(points, points[1:]):
        if left <= speed <= right and not isnan(high):
            return low if right == left else low + (high - low) * (speed - left) / (right - left)
    return None
