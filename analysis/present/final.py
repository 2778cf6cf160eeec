"""What every run ended with: errors at its last block, perplexity and accuracy, as one long table that several figures
start from.

Comparisons are made within a seed, which draws calibration and held-out windows alike: what it adds to one run it adds
to the other, and so it cancels in a change and not in two means.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pandas as pd

from analysis.errors import UsageError
from analysis.present.tables import on_tables
from analysis.schema import CALIBRATION, JOB_FIELDS

CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY, ACCURACY = (
    "calibration error",
    "held-out error",
    "perplexity",
    "accuracy",
)


@on_tables
def ends(
    blocks: pd.DataFrame, perplexity: pd.DataFrame, zero_shot: pd.DataFrame | None = None, *, split: str | None = None
) -> pd.DataFrame:
    """One number per row: the job's columns, `measure`, `which` (dense or pruned), `value`.

    Errors are total and relative, at the run's last block; the held-out error and the perplexity are those of `split`
    (None: the first held-out text); accuracy, between 0 and 1, is the mean over the tasks, where there are any. The
    dense model has no error. Raises UsageError where there is no held-out text, or none called `split`.
    """
    texts = [name for name in dict.fromkeys(perplexity["split"]) if name != CALIBRATION]
    if not texts:
        raise UsageError(
            "what runs ended with: there are no runs, or none with held-out text; give at least one of each"
        )
    split = split or texts[0]
    if split not in texts:
        raise UsageError(
            f"what runs ended with: held-out text {split!r} is not in the table; it has {', '.join(texts)}"
        )
    last = blocks[
        (blocks["kind"] == "total") & (blocks["block"] == blocks.groupby("run")["block"].transform("max"))
    ].assign(which="pruned")
    parts = [
        last[last["split"] == CALIBRATION].assign(measure=CALIBRATION_ERROR, value=last["relative_error"]),
        last[last["split"] == split].assign(measure=HELD_OUT_ERROR, value=last["relative_error"]),
        perplexity[perplexity["split"] == split].assign(measure=PERPLEXITY, value=perplexity["perplexity"]),
    ]
    if zero_shot is not None and len(zero_shot):
        mean = zero_shot.groupby([*JOB_FIELDS, "which"], sort=False)["accuracy"].mean().rename("value").reset_index()
        parts.append(mean.assign(measure=ACCURACY))
    return pd.concat([part[[*JOB_FIELDS, "measure", "which", "value"]] for part in parts], ignore_index=True)


@on_tables
def against(rows: pd.DataFrame, base: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """`rows` with `level` (their value) and `value`: its change from the row of `base` with the same measure, `by` and
    seed.

    Changes are in per cent, those of accuracy in percentage points. Rows without one in `base` are left out. Raises
    UsageError where `base` has two values for one of them.
    """
    key = ["measure", *by, "seed"]
    base = base.drop_duplicates([*key, "value"])[[*key, "value"]].rename(columns={"value": "base"})
    if base.duplicated(key).any():
        raise UsageError(
            f"change against a base by {', '.join(key)}: the base has several values for one of them; choose one kind"
            " of run"
        )
    out = rows.merge(base, on=key)
    change = (out["value"] / out["base"] - 1).where(out["measure"] != ACCURACY, out["value"] - out["base"])
    return out.drop(columns="base").assign(level=out["value"], value=100 * change)


def say_change(measure: str) -> str:
    """The unit of a change of `measure`, for a panel's title."""
    return f"{measure},\nchange in {'points' if measure == ACCURACY else '%'}"


def spearman(one: pd.Series, other: pd.Series) -> float:
    """Rank correlation of the pairs without NaN, ties at their mean rank; NaN where one of the two does not vary."""
    one, other = (values.rank() for values in _pairs(one, other))
    return float("nan") if one.nunique() < 2 or other.nunique() < 2 else float(one.corr(other))


def say_rank(one: pd.Series, other: pd.Series) -> str:
    """Rank correlation and number of pairs, as in "ρ = 0.83 (n = 9)"."""
    return f"ρ = {spearman(one, other):.2f} (n = {len(_pairs(one, other)[0])})"


def by_chance(one: pd.Series, other: pd.Series) -> float:
    """How often a random order has a rank correlation at least as far from 0: two-sided p, over all orders of up to
    eight pairs without NaN, else over 20,000 drawn under a fixed seed. NaN where one of the two does not vary.
    """
    observed = spearman(one, other)
    if observed != observed:
        return observed
    fixed, ranks = (np.asarray(values.rank() - values.rank().mean(), dtype=float) for values in _pairs(one, other))
    if len(ranks) <= 8:
        orders = np.array(list(permutations(ranks)))
    else:
        orders = np.random.default_rng(0).permuted(np.tile(ranks, (20_000, 1)), axis=1)
    chance = orders @ fixed / np.sqrt((fixed**2).sum() * (ranks**2).sum())
    return float((np.abs(chance) >= abs(observed) - 1e-9).mean())


def _pairs(one: pd.Series, other: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both, where both have a number."""
    there = one.notna() & other.notna()
    return one[there], other[there]
