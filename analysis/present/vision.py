"""Models that read pictures, their language part made smaller: what is lost, what each recovery gives back, with how
much text, and where the error lies. Tables of notebook 13; findings are in `vision_findings.py`, figures in
`vision_figures.py`.

A recovery is what is done to a model from which blocks or structures were taken. Losses are nats per token of the text
beside held-out pictures, above the dense model's on the same windows; shares are those of the weights in the language
part's blocks, as they were met.
"""

from typing import Any

import pandas as pd

from analysis.errors import UsageError
from analysis.present.depth import excess, first_text, share
from analysis.present.style import Look, say_method
from analysis.present.tables import on_tables, over_seeds
from analysis.recipe.recipe import Recipe

BLOCKS = "BR+GP"
NOTHING, CLOSED, LOCAL, PROJECTOR, STATES = "nothing", "closed form", "local", "projector", "states"
RECOVERIES = {
    NOTHING: Look("#D55E00", "o", "-"),
    CLOSED: Look("#009E73", "^", "-"),
    LOCAL: Look("#CC79A7", "D", "-"),
    PROJECTOR: Look("#0072B2", "s", (0, (5, 1.2))),
    "language": Look("#882255", "X", (0, (5, 1.2))),
    "lora": Look("#B8860B", "h", (0, (3, 1.2, 1, 1.2))),
    "logits": Look("#332288", "p", (0, (1.5, 1.2))),
    STATES: Look("#56B4E9", "P", (0, (5, 1.2))),
}
"""Recoveries in the order figures show them; dashed ones train through the whole model."""
LABELS = {
    NOTHING: "nothing",
    CLOSED: "closed form",
    LOCAL: f"blocks ({BLOCKS})",
    PROJECTOR: "projector",
    "language": "language part",
    "lora": "MaskLoRA",
    "logits": "logits",
    STATES: "hidden states",
}
RETRAINED = {
    ("projector", "ce"): PROJECTOR,
    ("language", "ce"): "language",
    ("masklora", "ce"): "lora",
    ("language", "distill"): "logits",
    ("language", "hidden"): STATES,
}
WAYS = {"depth": "whole blocks", "width": "heads and neurons"}
MEAN = "mean"
ALL = "all"
BESIDE_NOTHING = {"recovery": NOTHING}
TO_NOTHING: dict[str, Any] = {"paired": BESIDE_NOTHING, "ratio": True}
KINDS = {"text": "text", "image": "pictures"}
TEXT_ERROR, IMAGE_ERROR, LOSS = "error at text", "error at pictures", "loss above dense"
MEASURES = (TEXT_ERROR, IMAGE_ERROR, LOSS)


def recovery(recipe: str) -> str:
    """What a recipe's text does to what stays: a word of `RECOVERIES`, or its method where that is none of them."""
    read = Recipe.parse(recipe)
    match read.solver.name:
        case "none":
            return NOTHING if read.repair.name == "none" else CLOSED
        case "gradient":
            own = read.repair.name == "none" and read.method.partition("[")[0] == BLOCKS
            return LOCAL if own else read.method
        case "retrain" if read.repair.name == "none":
            return RETRAINED.get((read.solver.train, read.solver.objective), read.method)
        case _:
            return read.method


def way(recipe: str) -> str:
    """ "depth" where a recipe takes out whole blocks or halves, "width" where whole structures, else its pattern."""
    pattern = Recipe.parse(recipe).pattern
    return "depth" if pattern.depth else "width" if pattern.whole else str(pattern)


@on_tables
def named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `way` and `recovery` of each row's recipe: its method where another one of its way has the same
    word.
    """
    words = {text: (way(text), recovery(text)) for text in table["recipe"].unique()}
    methods: dict[tuple[str, str], set[str]] = {}
    for text, word in words.items():
        methods.setdefault(word, set()).add(Recipe.parse(text).method)
    words = {
        text: (word[0], Recipe.parse(text).method) if len(methods[word]) > 1 else word for text, word in words.items()
    }
    return table.assign(
        way=[words[text][0] for text in table["recipe"]], recovery=[words[text][1] for text in table["recipe"]]
    )


@on_tables
def met(matrices: pd.DataFrame) -> pd.DataFrame:
    """Per cent of the weights in the language part's blocks that are gone: [way, pattern, value, ...], mean over runs
    of a seed and over seeds.
    """
    sizes = matrices.assign(size=matrices["rows"] * matrices["columns"])
    runs = sizes.groupby(["recipe", "pattern", "seed", "run"], sort=False)[["size", "kept"]].sum().reset_index()
    runs = named(runs.assign(removed=100 * (1 - runs["kept"] / runs["size"])))
    each = runs.groupby(["way", "pattern", "seed"], sort=False)["removed"].mean().reset_index()
    return over_seeds(each, ["way", "pattern"], "removed")


@on_tables
def recovered(perplexity: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """Nats per token above the dense model on the first held-out text: [way, pattern, recovery, value, ...,
    removed]. Intervals are those of the ratio to what is lost without recovery, within a seed.
    """
    rows = excess(perplexity)
    out = over_seeds(
        named(rows[rows["split"] == first_text(rows)]), ["way", "pattern", "recovery"], "excess", **TO_NOTHING
    )
    return ordered(with_share(out, matrices))


@on_tables
def with_share(table: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """The table with `removed`: the share that its pattern met, in per cent."""
    shares = met(matrices).set_index(["way", "pattern"])["value"].rename("removed")
    return table.join(shares, on=["way", "pattern"])


@on_tables
def answered(zero_shot: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """Per cent of the answers that are right: [task, way, pattern, recovery, value, ..., dense, error, chance,
    spread, removed]; and over all tasks (`MEAN`) per cent of the dense model's accuracy, mean over tasks (as 2507.20749
    has it), where `dense` is 100. Intervals are those of the difference to no recovery within a seed.

    dense: the dense model's, error: its standard error over the questions, chance: that of guessing, spread: the
    value's standard error over the questions. Raises UsageError where nothing was asked.
    """
    if zero_shot.empty:
        raise UsageError("answers: the runs were asked nothing; give grid tasks=['pictures:colour', ...]")
    key = ["run", "task"]
    dense = zero_shot[zero_shot["which"] == "dense"].set_index(key)[["accuracy", "standard_error"]]
    dense = dense.rename(columns={"accuracy": "dense", "standard_error": "error"})
    rows = zero_shot[zero_shot["which"] == "pruned"].join(dense, on=key)
    if (unable := rows["dense"] == 0).any():
        raise UsageError(f"answers: the dense model is right in no question of {rows.loc[unable, 'task'].iloc[0]}")
    numbers = ["accuracy", "dense", "error", "chance", "spread"]
    rows = rows.assign(spread=rows["standard_error"])
    points = rows.assign(**{name: 100 * rows[name] for name in numbers})
    kept = points.assign(**{name: 100 * points[name] / points["dense"] for name in numbers})
    by = ["recipe", "pattern", "seed", "run"]
    squares = kept.assign(**{name: kept[name] ** 2 for name in ("error", "spread")}).groupby(by, sort=False)[numbers]
    means = squares.mean()
    means = means.assign(**{name: (means[name] / squares.size()) ** 0.5 for name in ("error", "spread")})
    each = named(pd.concat([points, means.reset_index().assign(task=MEAN)], ignore_index=True))
    groups = ["task", "way", "pattern", "recovery"]
    beside = each.groupby(groups, sort=False)[numbers[1:]].mean()
    out = ordered(
        with_share(over_seeds(each, groups, "accuracy", paired=BESIDE_NOTHING).join(beside, on=groups), matrices)
    )
    order = [MEAN, *dict.fromkeys(zero_shot["task"])]
    return out.sort_values("task", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


@on_tables
def fed(perplexity: pd.DataFrame) -> pd.DataFrame:
    """Nats per token above the dense model by calibration windows: [way, pattern, recovery, samples, value, ...]; those
    recoveries that were run with several numbers of windows, and none at all.
    """
    rows = excess(perplexity)
    rows = named(rows[rows["split"] == first_text(rows)])
    several = rows.groupby(["way", "pattern", "recovery"])["samples"].transform("nunique") > 1
    if not several.any():
        raise UsageError("by windows: every recovery has one number of calibration windows; give grid samples several")
    return ordered(over_seeds(rows[several], ["way", "pattern", "recovery", "samples"], "excess", **TO_NOTHING))


@on_tables
def placed(positions: pd.DataFrame, share: str) -> pd.DataFrame:
    """Total relative error at the end of each block of the dense model, at text and at picture positions, on the first
    held-out text: [way, pattern, at, recovery, block, value, ...]. share: as patterns name it, such as "25%".

    What a seed takes out has no error in that seed. Raises UsageError where no run took out that share.
    """
    rows = positions[(positions["kind"] == "total") & (positions["split"] == first_text(positions))]
    rows = rows[rows["pattern"].str.partition("-")[2] == share]
    if rows.empty:
        raise UsageError(
            f"by positions: no run takes out {share}; the runs take {', '.join(set(positions['pattern']))}"
        )
    by = ["way", "pattern", "at", "recovery", "block"]
    return ordered(over_seeds(named(rows), by, "relative_error", **TO_NOTHING))


@on_tables
def counted(positions: pd.DataFrame, perplexity: pd.DataFrame) -> pd.DataFrame:
    """By which tokens count in statistics and local losses: error at the last block at text and at picture positions,
    and loss above dense, on the first held-out text: [measure, mask, method, tokens, value, ...]. Intervals are those
    of the ratio to all tokens within a seed.
    """
    rows = positions[(positions["kind"] == "total") & (positions["split"] == first_text(positions))]
    last = rows[rows["block"] == rows["block"].max()]
    errors = last.assign(
        measure=last["at"].map({"text": TEXT_ERROR, "image": IMAGE_ERROR}), number=last["relative_error"]
    )
    losses = excess(perplexity)
    losses = losses[losses["split"] == first_text(losses)].assign(measure=LOSS)
    losses = losses.assign(number=losses["excess"])
    names = ["measure", "recipe", "criterion", "pattern", "method", "seed", "number"]
    both = pd.concat([errors[names], losses[names]], ignore_index=True)
    both = both.assign(
        mask=both["criterion"] + "-" + both["pattern"],
        tokens=both["recipe"].map({text: Recipe.parse(text).tokens for text in both["recipe"].unique()}),
    )
    out = over_seeds(both, ["measure", "mask", "method", "tokens"], "number", paired={"tokens": ALL}, ratio=True)
    order = [ALL, "text", "image"]
    out = out.sort_values("tokens", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
    return out.sort_values("measure", key=lambda names: names.map(MEASURES.index), kind="stable", ignore_index=True)


@on_tables
def costs(cost: pd.DataFrame) -> pd.DataFrame:
    """What each recovery takes, mean over its runs: [recovery], tokens that its training reads, parameters it trains at
    once, seconds of repairs and solver.
    """
    rows = named(cost[cost["stage"].isin(["solve", "repair"])])
    solve = rows["stage"] == "solve"
    rows = rows.assign(tokens=rows["tokens"].where(solve, 0), trained=rows["trainable_parameters"].where(solve, 0))
    runs = rows.groupby(["recovery", "run"], sort=False).agg(
        tokens=("tokens", "max"), trained=("trained", "max"), seconds=("seconds", "sum")
    )
    means = runs.groupby("recovery", sort=False).mean().round(1)
    order = [name for name in RECOVERIES if name in means.index and name != NOTHING]
    columns = {"tokens": "tokens in training", "trained": "parameters trained at once"}
    return means.loc[order].rename(index=say, columns=columns)


@on_tables
def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by way, then by the share of their pattern, then as `RECOVERIES` are."""
    ways, names = [*WAYS], recoveries_of(rows["recovery"])
    keys = {"way": lambda way: ways.index(way) if way in ways else len(ways), "pattern": share, "recovery": names.index}
    return rows.sort_values([*keys], key=lambda column: column.map(keys[column.name]), kind="stable", ignore_index=True)


def recoveries_of(names) -> list[str]:
    """Recoveries in the order figures show them, unknown ones last."""
    present = set(names)
    return [name for name in RECOVERIES if name in present] + sorted(present - set(RECOVERIES))


def say(name: str) -> str:
    """How legends and findings write a recovery."""
    return LABELS.get(name) or say_method(name)
