"""The tables a run leaves, column by column, and their way to disk and back. No torch.

One run writes the `TABLES`; a study puts `JOB_COLUMNS` in front of each and reads many runs as one table. Every row
says which text it is about (`split`: "calibration", or the label of a held-out text), which task, or whose cost it is.
"""

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from analysis.errors import StoreError

CALIBRATION = "calibration"
VALIDATION = "validation"


@dataclass(frozen=True)
class Column:
    """One column: name, pandas dtype, unit ("" = none), and what it says; `values` where only some words are
    possible.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    values: tuple[str, ...] = ()


_SPLIT = Column(
    "split",
    "str",
    "",
    "calibration (windows added to it included), validation (what select=held-out and penalty=held-out choose on), or"
    " the label of a held-out text",
)
_BLOCK = Column("block", "int64", "", "index of the transformer block, from 0")
_MATRIX = Column("matrix", "str", "", "name of the matrix within its block")
_UNIT = Column("unit", "int64", "", "index of the unit, from 0; -1 for work on the whole model")
_ERROR = Column(
    "error",
    "float64",
    "mean square",
    "squared difference, mean over real tokens and hidden entries; nats per token where the model is retrained",
)
_RELATIVE = Column("relative_error", "float64", "", "error divided by the mean square of what it is compared with")
_WHICH = Column("which", "str", "", "the dense or the pruned model", ("dense", "pruned"))
_TOKENS = Column("tokens", "int64", "tokens", "real tokens seen; 0 for tasks, where they are not counted")

TABLES: dict[str, tuple[Column, ...]] = {
    "blocks": (
        _BLOCK,
        _SPLIT,
        Column(
            "kind",
            "str",
            "",
            "total, inherited, local, or cross (total less the other two)",
            ("total", "inherited", "local", "cross"),
        ),
        _ERROR,
        _RELATIVE,
        Column(
            "relative_error_rest", "float64", "", "the same without the first token of each window, above and below"
        ),
        Column(
            "relative_error_median",
            "float64",
            "",
            "median over real tokens of a token's own relative error; none of cross",
        ),
        Column("energy_first", "float64", "", "share of the dense mean square held by the first token of each window"),
        Column("energy_top", "float64", "", "share of it held by the hundredth of the tokens with the largest outputs"),
    ),
    "positions": (
        _BLOCK,
        _SPLIT,
        Column("at", "str", "", "tokens of the text, or tokens that stand for pictures", ("text", "image")),
        Column("kind", "str", "", "total, inherited or local, as in blocks", ("total", "inherited", "local")),
        _ERROR,
        _RELATIVE,
    ),
    "distribution": (
        _SPLIT,
        Column(
            "over",
            "str",
            "",
            "what the total error at the last block is looked at one by one: real tokens, or windows by their mean",
            ("tokens", "windows"),
        ),
        Column("quantile", "float64", "", "share of them whose error is at most this"),
        _ERROR,
        _RELATIVE,
    ),
    "steps": (
        _UNIT,
        Column("first_block", "int64", "", "first block of the unit"),
        Column("last_block", "int64", "", "last block of the unit"),
        Column("part", "str", "", "what of its blocks: all of them (empty), attention, mlp, or a matrix"),
        Column("epoch", "int64", "epochs", "epochs done; 0 is before the first step"),
        Column("step", "int64", "steps", "optimiser steps done"),
        _SPLIT,
        _ERROR,
        _RELATIVE,
    ),
    "matrices": (
        _BLOCK,
        _MATRIX,
        Column("rows", "int64", "", "outputs of the matrix"),
        Column("columns", "int64", "", "inputs of the matrix"),
        Column("kept", "int64", "weights", "weights the mask keeps"),
        Column("sparsity", "float64", "", "share of weights removed"),
    ),
    "experts": (
        _BLOCK,
        Column("matrix", "str", "", "a matrix of one expert, such as mlp.experts.3.down_proj, or the expert"),
        Column("tokens", "int64", "tokens", "calibration tokens that went to the expert when masks were chosen"),
        Column("share", "float64", "", "that share of all calibration tokens"),
        Column(
            "rule",
            "str",
            "",
            "what its statistics were made of where these are fewer than its inputs; empty where they are not",
            ("", "shrink", "all-tokens", "magnitude"),
        ),
    ),
    "expert_errors": (
        _BLOCK,
        Column("expert", "int64", "", "index of the expert in its block, from 0"),
        _SPLIT,
        Column("tokens", "int64", "tokens", "real tokens that the dense model sends there"),
        Column("share", "float64", "", "that share of all real tokens; over the experts, as many as a token goes to"),
        Column(
            "error",
            "float64",
            "mean square",
            "squared difference of the pruned expert's output from the dense one's, mean over these tokens and hidden"
            " entries, both given what the dense model gives it; nan without tokens",
        ),
        Column("relative_error", "float64", "", "error divided by the mean square of the dense expert's output"),
    ),
    "overlap": (
        _BLOCK,
        _MATRIX,
        Column("mask", "str", "", "a mask: its criterion, and its refinement where it has one"),
        Column("other", "str", "", "the mask it is compared with, or dense"),
        Column("shared", "float64", "", "weights that both keep over those that either keeps (Jaccard)"),
        Column(
            "apart",
            "float64",
            "",
            "squared difference of the matrix's outputs under the two masks over the mean square of the dense ones,"
            " kept weights as they are",
        ),
        Column("apart_refitted", "float64", "", "the same, kept weights refitted by least squares under each mask"),
    ),
    "structures": (
        _BLOCK,
        Column(
            "kind",
            "str",
            "",
            "heads (KV groups, where a group goes as one), neurons, the whole block, its half, or its experts",
            ("heads", "neurons", "blocks", "attention", "mlp", "experts"),
        ),
        Column("structures", "int64", "structures", "how many the dense block has"),
        Column("kept", "int64", "structures", "how many stay"),
    ),
    "layers": (
        _BLOCK,
        _MATRIX,
        Column("action", "str", "", "what was done to its mask or its weights: a refinement, a repair or a solver"),
        Column(
            "error_before",
            "float64",
            "mean square",
            "squared difference of its outputs from the wanted ones, mean over tokens and rows, under the plain mask;"
            " wanted are the dense matrix's on the same inputs, after a repair with target=dense the dense model's own,"
            " what the residual stream inherited included",
        ),
        Column("error_after", "float64", "mean square", "the same afterwards"),
        Column("steps", "int64", "steps", "swaps done, or iterations; 0 for closed forms"),
    ),
    "cost": (
        _UNIT,
        Column(
            "stage",
            "str",
            "",
            "what was done: structures, record, statistics, mask, repair, target, solve, advance, measure, resume,"
            " tasks",
        ),
        Column("seconds", "float64", "s", "wall-clock time"),
        Column("peak_memory_mib", "float64", "MiB", "most memory held during the stage, on the device that did it"),
        Column(
            "solver_memory_mib",
            "float64",
            "MiB",
            "what a solver held at once, counted: weights, gradients, moments, saved activations, inputs and targets; 0"
            " elsewhere",
        ),
        _TOKENS,
        Column("trainable_parameters", "int64", "parameters", "parameters trained"),
    ),
    "perplexity": (
        _SPLIT,
        _WHICH,
        Column("nats_per_token", "float64", "nats", "mean negative log-likelihood of a predicted token"),
        Column("perplexity", "float64", "", "exp(nats_per_token)"),
        Column("tokens", "int64", "tokens", "tokens predicted"),
        Column("windows", "int64", "windows", "windows read"),
        Column("context", "int64", "tokens", "length of a window"),
    ),
    "scores": (
        _SPLIT,
        _WHICH,
        Column(
            "metric",
            "str",
            "",
            "what the answers to labelled examples are scored by",
            ("accuracy", "matthews", "spearman", "f1"),
        ),
        Column("score", "float64", "", "higher is better, 1 is perfect"),
        Column("standard_error", "float64", "", "of the score, over examples"),
        Column(
            "loss", "float64", "", "the model's own loss, mean over examples: nats, or squared difference of scores"
        ),
        Column("examples", "int64", "examples", "examples answered"),
    ),
    "texts": (
        _BLOCK,
        Column("split", "str", "", "label of a held-out text"),
        Column(
            "distance",
            "float64",
            "",
            "|S - S'| / |S'| (Frobenius): S = mean of h h^T over tokens, h the dense model's output there, on the"
            " calibration text (windows added included); S' on this text",
        ),
    ),
    "size": (
        Column(
            "which",
            "str",
            "",
            "the dense model, or the pruned one with removed structures cut out",
            ("dense", "pruned"),
        ),
        Column("parameters", "int64", "parameters", "all of them, tied ones once"),
        Column(
            "flops_per_token",
            "int64",
            "FLOPs",
            "two for every multiply-add of a token's forward: matrices, attention over one window, output head",
        ),
        Column("latency_ms", "float64", "ms", "forward of one window, median"),
        Column("tokens_per_second", "float64", "tokens/s", "forward of several windows at once, median"),
    ),
    "zero_shot": (
        Column("task", "str", "", "name of the task, as typed"),
        _WHICH,
        Column("documents", "int64", "documents", "questions asked"),
        Column("choices", "float64", "choices", "mean number of choices of a question; 0: answered in writing"),
        Column("chance", "float64", "", "accuracy of guessing"),
        Column(
            "accuracy",
            "float64",
            "",
            "share of questions whose right choice has the highest log-likelihood; in writing, of answers that match"
            " word for word",
        ),
        Column("standard_error", "float64", "", "of the accuracy, over questions"),
        Column(
            "accuracy_norm",
            "float64",
            "",
            "share of questions whose right choice has the highest log-likelihood a character (the harness's"
            " acc_norm); nan where it has none",
        ),
        Column("standard_error_norm", "float64", "", "of accuracy_norm, over questions"),
        Column("left_out", "int64", "documents", "questions drawn but longer than the model's context, not asked"),
    ),
    "token_kinds": (
        Column("kind", "str", "", "what a word is in the lab's world: punctuation, name, fact and so on (`lab.kinds`)"),
        _WHICH,
        Column("nats_per_token", "float64", "nats", "mean negative log-likelihood of a token of such words"),
        Column("tokens", "int64", "tokens", "how many of them, in whole held-out documents of the lab"),
    ),
    "numerics": (
        _BLOCK,
        _MATRIX,
        Column("rule", "str", "", "the named rule that was used"),
        Column("value", "float64", "", "how much of it: what the rule's name says"),
    ),
}

OF_STUDIES = ("expert_errors", "overlap", "token_kinds")
"""Tables that only jobs of notebooks ask for."""

JOB_COLUMNS: tuple[Column, ...] = (
    Column("run", "str", "", "name of the run folder"),
    Column("model", "str", "", "the dense model, as typed"),
    Column("recipe", "str", "", "the recipe's text, without its seed where that is the job's"),
    Column("criterion", "str", "", "how weights were scored"),
    Column("refinement", "str", "", "how the mask was improved: none, swaps, fw"),
    Column("pattern", "str", "", "sparsity, or N:M"),
    Column("method", "str", "", "how kept weights were changed"),
    Column("granularity", "str", "", "what was reconstructed at once"),
    Column("student", "str", "", "the stream that feeds the pruned unit"),
    Column("target", "str", "", "the stream that feeds the dense unit"),
    Column("calibration", "str", "", "source of the calibration windows, as typed"),
    Column("samples", "int64", "windows", "calibration windows"),
    Column("added", "str", "", "source of the windows added to them, as typed; empty for none"),
    Column("added_samples", "int64", "windows", "windows added"),
    Column("length", "int64", "tokens", "length of a window"),
    Column("seed", "int64", "", "of the windows drawn, and of the recipe"),
)
JOB_FIELDS = [column.name for column in JOB_COLUMNS]


def study_columns(name: str) -> tuple[Column, ...]:
    """Columns of table `name` as a study reads it: the job's, then the table's own."""
    return (*JOB_COLUMNS, *TABLES[name])


def validate(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with exactly the columns of run table `name`, in order and dtype; a frame without rows may lack columns.

    Raises StoreError naming the table and the missing, unknown or wrong columns, values that are missing, unknown or of
    the wrong type. NaN is a value in float columns only.
    """
    return conform(name, frame, TABLES[name])


def conform(name: str, frame: pd.DataFrame, columns: tuple[Column, ...]) -> pd.DataFrame:
    """`validate` against columns of one's choice, such as `study_columns(name)`."""
    names = [column.name for column in columns]
    if frame.empty and not len(frame.columns):
        return _empty(columns).copy()
    missing, unknown = [n for n in names if n not in frame.columns], [n for n in frame.columns if n not in names]
    if missing or unknown or len(frame.columns) != len(names):
        problems = [
            f"{word} {', '.join(map(str, which))}"
            for word, which in (("lacks", missing), ("has unknown", unknown))
            if which
        ]
        raise StoreError(
            f"table {name}: {' and '.join(problems) or 'has a column twice'}; its columns are {', '.join(names)}"
        )
    typed = {column.name: _typed(name, column, frame[column.name]) for column in columns}
    if list(frame.columns) == names and all(frame[name].dtype == values.dtype for name, values in typed.items()):
        return frame.reset_index(drop=True)
    return pd.DataFrame(typed).reset_index(drop=True)


@cache
def _empty(columns: tuple[Column, ...]) -> pd.DataFrame:
    return pd.DataFrame({column.name: pd.Series(dtype=column.dtype) for column in columns})


def _typed(name: str, column: Column, values: pd.Series) -> pd.Series:
    """One column in its dtype, or StoreError naming the first value that does not fit. Looks at single values only
    where their own dtype does not tell.
    """
    kind, same = values.dtype.kind, values.dtype.name == column.dtype
    if same and column.dtype in ("float64", "int64"):
        return values
    if column.dtype != "str" and (kind in "iu" or (kind == "f" and column.dtype == "float64")):
        return values.astype(column.dtype)
    if column.dtype != "float64" and values.isna().any():
        raise StoreError(
            f"table {name}, column {column.name}: row {int(values.isna().to_numpy().argmax())} has no value"
        )
    if column.values:
        right = values.isin(column.values)
    elif same:
        return values
    elif column.dtype == "str":
        right = (
            pd.Series(True, values.index)
            if isinstance(values.dtype, pd.StringDtype)
            else values.map(lambda value: isinstance(value, str))
        )
    else:
        right = values.map(lambda value: pd.api.types.is_number(value) and (column.dtype != "int64" or value % 1 == 0))
    right = right.astype(bool)
    if not right.all():
        wrong = values.iloc[int((~right).to_numpy().argmax())]
        raise StoreError(
            f"table {name}, column {column.name}: {getattr(wrong, 'item', lambda: wrong)()!r} is not"
            f" {' or '.join(column.values) or column.dtype}"
        )
    return values.astype(column.dtype)


def to_parquet(name: str, frame: pd.DataFrame) -> bytes:
    """Table `name`, validated, as the bytes of a parquet file."""
    buffer = io.BytesIO()
    validate(name, frame).to_parquet(buffer, index=False)
    return buffer.getvalue()


def from_parquet(name: str, data: bytes | None) -> pd.DataFrame:
    """Table `name` out of `to_parquet`'s bytes, its columns checked; without rows where there are none. Raises
    StoreError for anything else.
    """
    if data is None:
        return _empty(TABLES[name]).copy()
    try:
        frame = pd.read_parquet(io.BytesIO(data))
    except (OSError, ValueError) as error:  # pyarrow's errors are kinds of these
        raise StoreError(f"table {name}: not a readable parquet file ({error})") from error
    if [(column, str(dtype)) for column, dtype in frame.dtypes.items()] == [
        (column.name, column.dtype) for column in TABLES[name]
    ]:
        return frame  # as `to_parquet` left it
    return validate(name, frame)


def to_csv(frame: pd.DataFrame, path: Path) -> None:
    """Any table as csv, floats to their last digit."""
    frame.to_csv(path, index=False, lineterminator="\n")
