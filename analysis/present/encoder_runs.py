"""What the figures of notebook 09 share: an encoder's runs read as tasks, kinds of structures, shares and repairs.

A task is a model with its labelled examples; its column is named after the examples. What a mask removed is counted
from the masks, not read off the recipe, in two shares: of the structures of its kind, and of all parameters of the
model.
"""

import re
from collections import Counter
from collections.abc import Mapping

import pandas as pd
from matplotlib.lines import Line2D

from analysis.errors import UsageError
from analysis.present.panels import Panels, handle
from analysis.present.structured_decoder import REPAIR_LABELS, REPAIRED
from analysis.present.style import Look, apart, dealt, say_method, say_model, say_source
from analysis.present.tables import on_tables
from analysis.schema import CALIBRATION

WEIGHTS_ALONE = "LIAR[bias=false]"
REPAIR_LOOKS = REPAIRED | {WEIGHTS_ALONE: Look("#CC79A7", "D", (0, (1.5, 1.2)))}
NAMES = REPAIR_LABELS | {WEIGHTS_ALONE: "LIAR, weights alone"}
METRIC_LABELS = {"accuracy": "accuracy", "matthews": "Matthews", "spearman": "Spearman", "f1": "F1"}
ENOUGH, HALF = 98.0, 50.0  # per cent of the dense score, with so many of all parameters removed: the paper's abstract
TABLE = re.compile(
    r"(?P<folder>.*[/\\])?((?P<part>train|dev|test|valid|validation)|[^/\\]+?)\.([ct]sv|jsonl|ndjson)(\.(gz|zst|bz2))?"
    r"(#[^\[\]]*)?(?P<slice>\[[^\[\]]*\])?",
    re.IGNORECASE,
)
"""Labelled examples in a file."""
TASK = ["task", "metric"]
PLACE = ["task", "kind", "removed"]


@on_tables
def held_out_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of the pruned models on the first held-out text, with task, kind and `dense` (the dense model's score in
    the same run, on the same examples). Raises UsageError where there is none.
    """
    rows = first_text(scores, "scores")
    rows = rows.assign(task=tasks(rows), kind=kinds(rows))
    dense = rows[rows["which"] == "dense"].set_index("run")["score"]
    return rows[rows["which"] == "pruned"].assign(dense=lambda part: part["run"].map(dense))


@on_tables
def first_text(table: pd.DataFrame, purpose: str) -> pd.DataFrame:
    """The rows of the first held-out text. Raises UsageError where there is none."""
    rows = table[table["split"] != CALIBRATION]
    if rows.empty:
        raise UsageError(
            f"{purpose}: no run was measured on held-out examples; give encoders with a head, and labelled examples"
            " (examples:NAME or examples:PATH.tsv) held out"
        )
    first = rows.groupby("run")["split"].transform("first")
    return rows[rows["split"] == first]


@on_tables
def with_shares(rows: pd.DataFrame, structures: pd.DataFrame) -> pd.DataFrame:
    """Rows with `removed`: the share of the structures of its kind that a task's pattern removed, in whole per cent;
    mean over the runs of one task, pattern and criterion, which may differ where one budget is shared by all layers.
    """
    counts = structures.groupby("run")[["structures", "kept"]].sum()
    share = rows["run"].map(100 * (1 - counts["kept"] / counts["structures"]))
    return rows.assign(removed=_mean_of_pattern(rows, share).round())


@on_tables
def with_parameters(rows: pd.DataFrame, matrices: pd.DataFrame, size: pd.DataFrame) -> pd.DataFrame:
    """Rows with `parameters`: the share of all the model's parameters that the masks removed, in per cent, to a tenth;
    means as in `with_shares`. Weights are counted in `matrices`, the dense model's parameters in `size`, by any run of
    the model. Raises UsageError for a model that no run measured.
    """
    gone = (matrices["rows"] * matrices["columns"] - matrices["kept"]).groupby(matrices["run"]).sum()
    whole = size[size["which"] == "dense"].groupby("model")["parameters"].first()
    if missing := sorted(set(rows["model"]) - set(whole.index)):
        raise UsageError(
            f"shares of all parameters: no run of {', '.join(missing)} was measured; give the runs of one repair"
            " shrink=True (`choices.timed`)"
        )
    share = 100 * rows["run"].map(gone) / rows["model"].map(whole)
    return rows.assign(parameters=_mean_of_pattern(rows, share).round(1))


def _mean_of_pattern(rows: pd.DataFrame, share: pd.Series) -> pd.Series:
    return share.groupby([rows[name] for name in ("model", "calibration", "pattern", "criterion")]).transform("mean")


@on_tables
def kinds(rows: pd.DataFrame) -> pd.Series:
    """heads, neurons or structures (both)."""
    return rows["pattern"].str.rpartition("-")[0]


@on_tables
def tasks(rows: pd.DataFrame) -> pd.Series:
    """The name of each row's task: its examples, or its model where several read the same ones; both where that is not
    enough.
    """
    pairs = rows[["model", "calibration"]].drop_duplicates()
    shared = set(pairs[pairs.duplicated("calibration", keep=False)]["calibration"])
    models, examples = apart(pairs["model"], say_model), apart(pairs["calibration"], _say_examples)
    names = {
        (model, source): models[model] if source in shared else examples[source]
        for model, source in pairs.itertuples(index=False)
    }
    count = Counter(names.values())
    names = {
        (model, source): name if count[name] == 1 else f"{models[model]}, {examples[source]}"
        for (model, source), name in names.items()
    }
    return pd.Series(
        [names[pair] for pair in zip(rows["model"], rows["calibration"], strict=True)], index=rows.index, dtype=object
    )


def _say_examples(source: str) -> str:
    """A set by its name, a table by its file's, and by its folder's where the file is a part of what lies there."""
    bare = source.removeprefix("examples:")
    table = TABLE.fullmatch(bare)
    if table is None:
        return say_source(bare) if bare == source else bare.partition("/")[0].partition("[")[0]
    folder, part, slice = table["folder"], table["part"], table["slice"] or ""
    return say_source(folder.rstrip("/\\") + slice if folder and part else bare)


@on_tables
def in_order(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Tasks, kinds, patterns and criteria as they were run, methods as in `REPAIR_LOOKS`, then the numbers."""
    orders = {
        name: list(dict.fromkeys(rows[name]))
        for name in ("over", "task", "kind", "pattern", "criterion")
        if name in table and name in rows
    }
    orders["method"] = [*REPAIR_LOOKS, *(name for name in dict.fromkeys(rows["method"]) if name not in REPAIR_LOOKS)]
    keys = [*orders, *(name for name in ("removed", "samples", "quantile") if name in table)]
    return table.sort_values(
        keys,
        key=lambda column: column.map(orders[column.name].index) if column.name in orders else column,
        kind="stable",
        ignore_index=True,
    )


def repair_looks(methods: pd.Series) -> dict[str, Look]:
    """The look of each repair, others in the spare ones."""
    seen = set(methods)
    return dealt([*(name for name in REPAIR_LOOKS if name in seen), *methods], REPAIR_LOOKS)


def repair_handles(styles: Mapping[str, Look], **more) -> list[Line2D]:
    """Entries of a legend for the repairs."""
    return [handle(look, say_repair(name), **more) for name, look in styles.items()]


def say_repair(method: str) -> str:
    """How figures and findings of encoders write a repair."""
    return NAMES.get(method, say_method(method))


@on_tables
def task_titles(panels: Panels, table: pd.DataFrame) -> None:
    """The metric below each task's name."""
    metrics = table.drop_duplicates("task").set_index("task")["metric"]
    first = next(iter(panels))[0]
    for (row, task), ax in panels.items():
        if row == first:
            ax.set_title(say_scored(task, metrics[task]))


def say_scored(task: str, metric: str) -> str:
    """A task, and what it is scored by below."""
    return f"{task}\n{METRIC_LABELS[metric]}"


def say_kind(kind: str) -> str:
    """How figures and findings write what was removed."""
    return "heads and neurons" if kind == "structures" else kind
