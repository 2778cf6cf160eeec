"""Tables of figures: what is picked, how seeds are averaged, what order rows have, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import tables
from analysis.records import conform, study_columns


@pytest.mark.parametrize("name", ["blocks", "perplexity", "steps"])
def test_the_made_up_tables_are_a_studys(name, request):
    conform(name, request.getfixturevalue(name), study_columns(name))


def test_means_over_seeds_against_a_plain_loop(blocks):
    out = tables.block_profile(blocks[blocks["samples"] == 32])
    row = out[(out["criterion"] == "wanda") & (out["split"] == "stories") & (out["method"] == "BR") & (out["block"] == 5)].iloc[0]
    values = [r.relative_error for r in blocks.itertuples() if (r.samples, r.criterion, r.split, r.method, r.block, r.kind) == (32, "wanda", "stories", "BR", 5, "total")]
    assert row["value"] == pytest.approx(np.mean(values)) and row["std"] == pytest.approx(np.std(values)) and row["seeds"] == len(values) == 2


def test_rows_come_in_reading_order(blocks):
    out = tables.block_profile(blocks[blocks["samples"] == 32].sample(frac=1, random_state=0), kind=["local", "total"])
    assert list(out["criterion"].unique()) == ["magnitude", "wanda", "sparsegpt"]
    assert out["split"].iloc[0] == "calibration"
    assert list(out["kind"].unique()) == ["total", "local"]
    assert list(out["method"].unique()) == ["LR", "BR", "BR+GP", "BR+GP+CR"]
    line = out[(out["criterion"] == "wanda") & (out["method"] == "LR") & (out["split"] == "stories") & (out["kind"] == "total")]
    assert list(line["block"]) == sorted(line["block"])


def test_mixing_what_is_not_told_apart_is_refused_and_named(blocks):
    with pytest.raises(UsageError, match="share a seed; choose among.*samples"):
        tables.block_profile(blocks)


def test_choosing_what_is_not_there_says_what_is(blocks):
    with pytest.raises(UsageError, match="criterion wand is not in the table; it has magnitude, wanda, sparsegpt"):
        tables.choose(blocks, criterion="wand")
    with pytest.raises(UsageError, match="no rows are left"):
        tables.over_seeds(blocks.iloc[:0], ["method"], "error")


def test_the_first_block_inherits_nothing_and_the_last_is_the_papers_number(blocks):
    rows = blocks[blocks["samples"] == 32]
    profile = tables.block_profile(rows, kind=list(tables.KINDS))
    assert profile[profile["kind"] == "inherited"]["block"].min() == 1 and profile[profile["kind"] == "local"]["block"].min() == 0
    last = tables.last_block(rows)
    merged = last.merge(profile[(profile["kind"] == "total") & (profile["block"] == 7)], on=["criterion", "split", "method"])
    assert np.array_equal(merged["value_x"], merged["value_y"]) and len(merged) == len(last)


def test_the_dense_model_is_counted_once_however_many_runs_measured_it(perplexity):
    out = tables.perplexities(perplexity)
    dense = out[out["method"] == "dense"]
    assert (dense["seeds"] == 2).all() and (dense["std"] == 0).all()
    assert len(dense) == 3 * 3 * 3
    assert set(tables.perplexities(perplexity, split="stories")["split"]) == {"stories"}


def test_one_table_holds_both_measures(blocks, perplexity):
    out = tables.sample_size(blocks, perplexity, criterion="wanda")
    assert list(out["measure"].unique()) == ["relative error", "perplexity"]
    assert "dense" not in set(out[out["measure"] == "relative error"]["method"])


def test_the_lowest_epoch_of_every_line(steps):
    out = tables.epochs(steps, criterion="wanda")
    for _, line in out.groupby(["split", "method", "samples"]):
        assert line["lowest"].sum() == 1
        assert line.loc[line["lowest"], "value"].item() == line["value"].min()
    few = out[(out["split"] == "stories") & (out["samples"] == 8) & out["lowest"]]
    assert (few["epoch"] < 10).all()


def test_units_count_from_the_back_for_every_method(steps):
    last = tables.epochs(steps, criterion="wanda")
    by_hand = pd.concat([steps[(steps["unit"] == 8) & (steps["method"] == "BR+GP+CR")], steps[(steps["unit"] == 7) & (steps["method"] != "BR+GP+CR")]])
    expected = by_hand[by_hand["criterion"] == "wanda"].groupby(["split", "method", "samples", "epoch"])["relative_error"].mean()
    got = last.set_index(["split", "method", "samples", "epoch"])["value"].sort_index()
    pd.testing.assert_series_equal(got, expected, check_names=False)


def test_cost_is_summed_within_a_run_and_averaged_over_runs():
    stages = [("solve", 4.0, 100.0, 1000, 50), ("solve", 6.0, 300.0, 1000, 70), ("record", 1.0, 200.0, 900, 0)]
    job = {"model": "lab", "recipe": "r", "criterion": "wanda", "pattern": "50%", "method": "BR", "samples": 8, "length": 64, "seed": 0}
    rows = [
        {**job, "run": run, "unit": unit, "stage": stage, "seconds": factor * seconds, "peak_memory_mib": factor * memory, "tokens": tokens, "trainable_parameters": count}
        for run, factor in (("a", 1), ("b", 3))
        for unit, (stage, seconds, memory, tokens, count) in enumerate(stages)
    ]
    cost = pd.DataFrame(rows)[[column.name for column in study_columns("cost")]]
    (row,) = tables.cost_by_method(cost).to_dict("records")
    assert row == {"criterion": "wanda", "method": "BR", "seconds": 22.0, "solve_seconds": 20.0, "solve_tokens": 2000.0, "trained_at_once": 70.0, "peak_memory_mib": 900.0}


def test_side_by_side_is_the_same_numbers_with_a_column_per_text(perplexity):
    long = tables.perplexities(perplexity, criterion="wanda")
    wide = tables.side_by_side(long)
    assert list(wide.columns) == ["calibration", "held-out stories", "held-out entries"]
    value = long.set_index(["split", "method", "samples"])["value"]
    assert wide.loc[("wanda", "BR+GP", 32), "held-out entries"] == pytest.approx(value["entries", "BR+GP", 32], abs=6e-4)
