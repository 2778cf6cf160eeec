"""Tables of figures: what is picked, how seeds are averaged, what order rows have, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import compounding, tables
from analysis.schema import conform, study_columns


@pytest.mark.parametrize("name", ["blocks", "perplexity", "steps"])
def test_the_made_up_tables_are_a_studys(name, request):
    conform(name, request.getfixturevalue(name), study_columns(name))


@pytest.mark.slow
def test_means_over_seeds_against_a_plain_loop(blocks):
    out = compounding.block_profile(blocks[blocks["samples"] == 32])
    row = out[
        (out["criterion"] == "wanda") & (out["split"] == "stories") & (out["method"] == "BR") & (out["block"] == 5)
    ].iloc[0]
    values = [
        r.relative_error
        for r in blocks.itertuples()
        if (r.samples, r.criterion, r.split, r.method, r.block, r.kind) == (32, "wanda", "stories", "BR", 5, "total")
    ]
    assert (
        row["value"] == pytest.approx(np.mean(values))
        and list(row[["seed 0", "seed 1"]]) == values
        and row["seeds"] == len(values) == 2
    )


def test_rows_come_in_reading_order(blocks):
    out = compounding.block_profile(
        blocks[blocks["samples"] == 32].sample(frac=1, random_state=0), kind=["local", "total"]
    )
    assert list(out["criterion"].unique()) == ["magnitude", "wanda", "sparsegpt"]
    assert out["split"].iloc[0] == "calibration"
    assert list(out["kind"].unique()) == ["total", "local"]
    assert list(out["method"].unique()) == ["LR", "BR", "BR+GP", "BR+GP+CR"]
    line = out[
        (out["criterion"] == "wanda") & (out["method"] == "LR") & (out["split"] == "stories") & (out["kind"] == "total")
    ]
    assert list(line["block"]) == sorted(line["block"])


def test_mixing_what_is_not_told_apart_is_refused_and_named(blocks):
    with pytest.raises(UsageError, match="share a seed; choose among.*samples"):
        compounding.block_profile(blocks)


def test_choosing_what_is_not_there_says_what_is(blocks):
    with pytest.raises(UsageError, match="criterion wand is not in the table; it has magnitude, wanda, sparsegpt"):
        tables.choose(blocks, criterion="wand")
    with pytest.raises(UsageError, match="no rows are left"):
        tables.over_seeds(blocks.iloc[:0], ["method"], "error")


def test_the_dense_model_is_counted_once_however_many_runs_measured_it(perplexity):
    out = tables.perplexities(perplexity)
    dense = out[out["method"] == "dense"]
    assert (dense["seeds"] == 2).all() and dense["low"].isna().all()
    assert len(dense) == 3 * 3 * 3
    assert set(tables.perplexities(perplexity, split="stories")["split"]) == {"stories"}


def test_cost_is_summed_within_a_run_and_averaged_over_runs():
    stages = [("solve", 4.0, 100.0, 1000, 50), ("solve", 6.0, 300.0, 1000, 70), ("record", 1.0, 200.0, 900, 0)]
    job = {
        "model": "lab",
        "recipe": "r",
        "criterion": "wanda",
        "refinement": "none",
        "pattern": "50%",
        "method": "BR",
        "granularity": "1 block",
        "student": "sparse",
        "target": "sparse",
        "calibration": "lab:stories",
        "samples": 8,
        "added": "",
        "added_samples": 0,
        "length": 64,
        "seed": 0,
    }
    rows = [
        {
            **job,
            "run": run,
            "unit": unit,
            "stage": stage,
            "seconds": factor * seconds,
            "peak_memory_mib": factor * memory,
            "solver_memory_mib": 1.0,
            "tokens": tokens,
            "trainable_parameters": count,
        }
        for run, factor in (("a", 1), ("b", 3))
        for unit, (stage, seconds, memory, tokens, count) in enumerate(stages)
    ]
    cost = pd.DataFrame(rows)[[column.name for column in study_columns("cost")]]
    (row,) = tables.cost_by_method(cost).to_dict("records")
    assert row == {
        "criterion": "wanda",
        "method": "BR",
        "seconds": 22.0,
        "solve_seconds": 20.0,
        "solve_tokens": 2000.0,
        "trained_at_once": 70.0,
        "peak_memory_mib": 900.0,
    }


def test_side_by_side_is_the_same_numbers_with_a_column_per_text(perplexity):
    long = tables.perplexities(perplexity, criterion="wanda")
    wide = tables.side_by_side(long)
    assert list(wide.columns) == ["calibration", "held-out stories", "held-out entries"]
    value = long.set_index(["split", "method", "samples"])["value"]
    assert wide.loc[("wanda", "BR+GP", 32), "held-out entries"] == pytest.approx(
        value["entries", "BR+GP", 32], abs=6e-4
    )
