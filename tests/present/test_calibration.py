"""Calibration against test error: tables, and sentences beside the paper's numbers."""

import numpy as np
import pandas as pd
import pytest

from analysis.present import calibration, tables


def test_one_table_holds_both_measures(blocks, perplexity):
    out = calibration.sample_size(blocks, perplexity, criterion="wanda")
    assert list(out["measure"].unique()) == ["relative error", "perplexity"]
    assert "dense" not in set(out[out["measure"] == "relative error"]["method"])


def test_the_lowest_epoch_of_every_line(steps):
    out = calibration.epochs(steps, criterion="wanda")
    for _, line in out.groupby(["split", "method", "samples"]):
        assert line["lowest"].sum() == 1
        assert line.loc[line["lowest"], "value"].item() == line["value"].min()
    few = out[(out["split"] == "stories") & (out["samples"] == 8) & out["lowest"]]
    assert (few["epoch"] < 10).all()


def test_units_count_from_the_back_for_every_method(steps):
    last = calibration.epochs(steps, criterion="wanda")
    by_hand = pd.concat(
        [
            steps[(steps["unit"] == 8) & (steps["method"] == "BR+GP+CR")],
            steps[(steps["unit"] == 7) & (steps["method"] != "BR+GP+CR")],
        ]
    )
    expected = (
        by_hand[by_hand["criterion"] == "wanda"]
        .groupby(["split", "method", "samples", "epoch"])["relative_error"]
        .mean()
    )
    got = last.set_index(["split", "method", "samples", "epoch"])["value"].sort_index()
    pd.testing.assert_series_equal(got, expected, check_names=False)


def test_the_gap_beside_the_papers(blocks):
    error = tables.last_block(blocks, criterion="wanda")
    out = calibration.beside_gap(error)
    value = error.set_index(["split", "method", "samples"])["value"]
    assert out.loc[("wanda", "BR"), ("held-out stories", "8 windows")] == pytest.approx(
        value["stories", "BR", 8] / value["calibration", "BR", 8], abs=6e-3
    )
    assert out.loc[("wanda", "BR+GP+CR"), ("paper, C4", "LLaMA-7B")] == pytest.approx(2.31 / 0.38, abs=6e-3)
    assert np.isnan(out.loc[("wanda", "LR"), ("paper, C4", "LLaMA-7B")])


def test_overfitting_names_the_epoch_and_the_rise(steps):
    table = calibration.epochs(steps, criterion="wanda", split=["calibration", "stories"])
    said = calibration.say_overfitting(table)
    line = table[(table["split"] == "stories") & (table["samples"] == 8) & (table["method"] == "BR")].set_index(
        "epoch"
    )["value"]
    assert f"BR epoch {line.idxmin()} of 10 (then +{100 * (line[10] / line.min() - 1):.1f} %)" in said


def test_worth_is_from_where_every_larger_number_of_windows_wins(perplexity):
    table = tables.perplexities(perplexity, criterion="wanda", split="stories")
    value = table.set_index(["method", "samples"])["value"]
    table.loc[(table["method"] == "BR"), "value"] = 2 * value["LR", 8]
    table.loc[(table["method"] == "BR+GP"), "value"] = [1.0, 2 * value["LR", 8], 1.0]
    said = calibration.say_worth(table)
    assert "BR at none of 8, 32, 128" in said and "BR+GP from 128 windows" in said
