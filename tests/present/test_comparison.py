"""Figures drawn again beside those that are there: what may differ, what may not, and what is left out."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present.comparison import DIFFERENT, MISSING, NEAR, NEW, SAME, compare_figures, compare_tables
from analysis.present.rows import to_csv

TABLE = pd.DataFrame(
    {
        "measure": ["perplexity", "one window"],
        "value": [2.0, 1.5],
        "low": [1.9, 1.4],
        "high": [2.1, 1.6],
        "seeds": 2,
        "seed 0": [1.95, 1.4],
        "seed 1": [2.05, 1.6],
        "level": [np.nan, 7.0],
        "solve_seconds": [3.0, 4.0],
    }
)


def changed(column, row, value):
    table = TABLE.copy()
    table[column] = table[column].astype(object)
    table.at[row, column] = value
    return table.infer_objects()


@pytest.mark.parametrize(
    ("again", "verdict", "where"),
    [
        (TABLE, SAME, ""),
        (changed("value", 0, 2.001), SAME, "value"),  # to a thousandth
        (changed("value", 0, 2.05), NEAR, "value"),  # half of its interval is 0.1
        (changed("seed 1", 0, 2.1), NEAR, "seed 1"),
        (changed("value", 0, 2.2), DIFFERENT, "value"),
        (changed("value", 1, 9.0), SAME, ""),  # the ratio of two times
        (changed("solve_seconds", 0, 9.0), SAME, ""),
        (changed("level", 1, 9.0), SAME, ""),
        (changed("level", 0, 9.0), DIFFERENT, "level"),  # a number where there was none
        (changed("seeds", 0, 3), DIFFERENT, "seeds"),
        (changed("measure", 0, "accuracy"), DIFFERENT, "measure"),
        (TABLE[:1], DIFFERENT, "1 rows"),
        (TABLE.assign(more=1.0), DIFFERENT, "more"),
    ],
)
def test_what_may_differ_and_what_may_not(again, verdict, where):
    _, found, left_out, said = compare_tables(TABLE, again)
    assert (said, found) == (verdict, where)
    assert left_out == ("solve_seconds, one window" if where not in ("seeds", "measure", "1 rows", "more") else "")


def test_a_difference_outside_the_interval_is_the_same_where_there_is_none():
    plain = TABLE.assign(low=np.nan, high=np.nan)
    assert compare_tables(plain, plain.assign(value=[2.05, 1.5]))[0] == pytest.approx(0.025)
    assert compare_tables(plain, plain.assign(value=[2.05, 1.5]))[3] == DIFFERENT


def test_a_name_that_reads_like_a_time_is_a_name():
    one = TABLE.assign(measure="perplexity", split="financial-times.txt", faster=[1.2, 1.3])
    assert compare_tables(one, one.assign(faster=[2.4, 2.6]))[3] == SAME, "measured"
    assert compare_tables(one, one.assign(value=[6.0, 4.5]))[2:] == ("solve_seconds, faster", DIFFERENT)


def test_nothing_and_its_rounding_are_the_same():
    assert compare_tables(TABLE.assign(value=0.0), TABLE.assign(value=1e-17))[3] == SAME


def test_folders_are_compared_figure_by_figure(tmp_path):
    for folder, figures in {"there": ("a", "b", "c"), "again": ("b", "c", "d")}.items():
        (tmp_path / folder).mkdir()
        for name in figures:
            table = TABLE.assign(value=[9.0, 1.5]) if (folder, name) == ("again", "c") else TABLE
            (tmp_path / folder / f"{name}.csv").write_text(to_csv(table), "utf-8")
    out = compare_figures(tmp_path / "there", tmp_path / "again")
    assert dict(zip(out["figure"], out["verdict"])) == {"a": MISSING, "b": SAME, "c": DIFFERENT, "d": NEW}
    assert out.set_index("figure")["rows"].to_dict() == {"a": 0, "b": 2, "c": 2, "d": 0}
    assert compare_figures(tmp_path / "there", tmp_path / "again", ["b"])["figure"].tolist() == ["b"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no csv of a figure lies in"):
        compare_figures(tmp_path / "none", tmp_path / "none")
