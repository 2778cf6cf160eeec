"""Intervals, paired tests and Holm's correction against scipy and against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.errors import UsageError
from analysis.present import statistics
from analysis.present.rows import read_csv, to_csv
from analysis.present.tables import over_seeds

VALUES = [[1.0, 2.0, 4.0], [3.0, np.nan, 3.5], [2.0, np.nan, np.nan], [5.0, 5.0, 5.0]]


def test_intervals_are_students_and_one_value_has_none():
    half = statistics.half_width(VALUES)
    for row, got in zip(VALUES, half, strict=True):
        known = [value for value in row if value == value]
        if len(known) == 1:
            assert math.isnan(got)
        else:
            assert got == pytest.approx(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))


@pytest.mark.parametrize("ratio", [False, True])
def test_a_paired_test_is_scipys_on_the_shared_seeds(ratio):
    one, other = np.array([1.2, 1.5, 1.4, np.nan, 2.0]), np.array([1.0, 1.1, 1.3, 4.0, np.nan])
    found = statistics.paired(one, other, ratio=ratio)
    a, b = (np.log(x[:3]) if ratio else x[:3] for x in (one, other))
    wanted = stats.ttest_rel(a, b)
    interval = wanted.confidence_interval()
    assert found == pytest.approx(
        ((a - b).mean(), interval.low, interval.high, wanted.statistic, wanted.df, wanted.pvalue)
    )


def test_what_cannot_be_tested_has_no_p():
    assert math.isnan(statistics.paired([1.0], [2.0]).p) and statistics.paired([1.0], [2.0]).difference == -1
    assert math.isnan(statistics.paired([1.0, 2.0], [2.0, 3.0]).p) and not statistics.decided(math.nan)
    assert statistics.paired([1.0, 2.0], [1.0, 2.0])[3:] == (0.0, 1, 1.0)
    assert math.isnan(statistics.paired([0.0, 1.0], [1.0, 1.0], ratio=True).p)  # 0 has no logarithm


def test_what_rounding_parts_is_equal():
    assert statistics.paired([0.1 + 0.2, 0.7, 0.4], [0.3, 0.7, 0.1 * 4]) == (0.0, 0.0, 0.0, 0.0, 2, 1.0)
    swapped = statistics.paired([0.1, 0.2, 0.3], [0.2, 0.3, 0.1])
    assert (swapped.difference, swapped.t, swapped.p) == (0.0, 0.0, 1.0) and swapped.low < 0 < swapped.high
    assert statistics.paired([1e-14, 3e-14], [0.0, 0.0]).difference == pytest.approx(2e-14)  # small


def test_holm_by_hand():
    assert statistics.holm([0.01, math.nan, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, math.nan, 0.06, 0.06, 0.02], nan_ok=True
    )
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0] and statistics.holm([]) == []


def test_differences_of_questions_are_tested_by_their_standard_errors():
    assert statistics.by_questions(0.1, 0.03, 0.04) == pytest.approx(2 * stats.norm.sf(2))
    assert math.isnan(statistics.by_questions(0.1, 0.0, 0.0))


@pytest.fixture
def runs():
    """Two methods on two texts; text moves both alike, and BR of text b lacks a seed."""
    rows = [
        {"split": split, "method": method, "seed": seed, "error": level * (1 + seed) * (1 + 0.01 * seed * (level < 1))}
        for split in "ab"
        for method, level in {"LR": 1.0, "BR": 0.5}.items()
        for seed in (0, 1, 3)
        if (split, method, seed) != ("b", "BR", 3)
    ]
    return pd.DataFrame(rows)


def test_a_paired_interval_leaves_out_what_moves_all_alike(runs):
    out = over_seeds(runs, ["split", "method"], "error", paired={"method": "LR"}, ratio=True)
    assert list(out.columns) == [
        *("split", "method", "value", "low", "high", "seeds", "paired"),
        *("seed 0", "seed 1", "seed 3"),
    ]
    row = out[(out["split"] == "a") & (out["method"] == "BR")].iloc[0]
    apart = np.log([0.5, 0.505, 0.515])
    half = stats.t.ppf(0.975, 2) * stats.sem(apart)
    assert (row["low"], row["high"]) == pytest.approx((row["value"] * np.exp(-half), row["value"] * np.exp(half)))
    assert row["paired"] == "LR" and row["seeds"] == 3
    reference, short = out[out["method"] == "LR"], out[(out["split"] == "b") & (out["method"] == "BR")].iloc[0]
    assert reference[["low", "high"]].isna().all(axis=None) and set(reference["paired"]) == {""}
    assert short["seeds"] == 2 and np.isnan(short["seed 3"])
    plain = over_seeds(runs, ["split", "method"], "error")
    row = plain[(plain["split"] == "a") & (plain["method"] == "BR")].iloc[0]
    assert row["high"] - row["value"] == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem([0.5, 1.01, 2.06]))
    compared = statistics.compare(out.iloc[1], out.iloc[0], ratio=True)
    assert compared.difference == pytest.approx(apart.mean()) and compared.df == 2


def test_without_the_reference_an_interval_is_that_of_the_mean(runs):
    alone = over_seeds(runs[runs["method"] == "BR"], ["split", "method"], "error", paired={"method": "LR"})
    assert set(alone["paired"]) == {""} and alone["low"].notna().all()
    one = over_seeds(runs[runs["seed"] == 0], ["split", "method"], "error", paired={"method": "LR"})
    assert one["low"].isna().all() and one["high"].isna().all()
    with pytest.raises(UsageError, match="paired names model, which does not tell its rows apart"):
        over_seeds(runs, ["split", "method"], "error", paired={"model": "lab"})


def test_the_csv_has_a_row_for_each_seed_and_gives_the_table_back(runs, tmp_path):
    table = over_seeds(runs, ["split", "method"], "error", paired={"method": "LR"}, ratio=True)
    table = table.assign(empty="", mark=[True, False, True, False], third=table["value"] / 3, unit=["", "x", "", "y"])
    table.index = [0, 0, 5, 5]
    path = tmp_path / "x.csv"
    path.write_text(to_csv(table), "utf-8")
    long = pd.read_csv(path)
    assert len(long) == len(runs) and long["seed"].tolist() == [0, 1, 3] * 3 + [0, 1]
    assert (
        long["seed_value"].tolist()
        == runs.sort_values(["split", "method", "seed"], ascending=[True, False, True])["error"].tolist()
    )
    order = [name for name in table if not name.startswith("seed ")]
    pd.testing.assert_frame_equal(
        read_csv(path), table[[*order, "seed 0", "seed 1", "seed 3"]].reset_index(drop=True), check_exact=True
    )


def test_a_table_without_seeds_goes_to_csv_as_it_is(tmp_path):
    table = pd.DataFrame({"task": ["a", ""], "value": [1 / 3, math.nan], "count": [1, 2]})
    (tmp_path / "x.csv").write_text(to_csv(table), "utf-8")
    pd.testing.assert_frame_equal(read_csv(tmp_path / "x.csv"), table, check_exact=True)
    assert len(pd.read_csv(tmp_path / "x.csv")) == 2
    with pytest.raises(UsageError, match=r"none.csv: cannot be read as csv"):
        read_csv(tmp_path / "none.csv")


def test_a_row_that_carries_no_seed_is_kept(runs, tmp_path):
    table = over_seeds(runs, ["split", "method"], "error")
    table = pd.concat([table, table.iloc[:1].assign(method="paper", **dict.fromkeys(["seed 0", "seed 1", "seed 3"]))])
    (tmp_path / "x.csv").write_text(to_csv(table), "utf-8")
    again = read_csv(tmp_path / "x.csv")
    assert again["method"].tolist()[-1] == "paper" and again.filter(like="seed ").iloc[-1].isna().all()
