"""Tables of figures: what is picked, how seeds are averaged, what order rows have, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import calibration, compounding, criteria, granularity, retraining, tables
from analysis.schema import conform, study_columns


@pytest.mark.parametrize("name", ["blocks", "perplexity", "steps"])
def test_the_made_up_tables_are_a_studys(name, request):
    conform(name, request.getfixturevalue(name), study_columns(name))


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
        and row["std"] == pytest.approx(np.std(values))
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


def test_the_first_block_inherits_nothing_and_the_last_is_the_papers_number(blocks):
    rows = blocks[blocks["samples"] == 32]
    profile = compounding.block_profile(rows, kind=list(tables.KINDS))
    assert (
        profile[profile["kind"] == "inherited"]["block"].min() == 1
        and profile[profile["kind"] == "local"]["block"].min() == 0
    )
    last = tables.last_block(rows)
    merged = last.merge(
        profile[(profile["kind"] == "total") & (profile["block"] == 7)], on=["criterion", "split", "method"]
    )
    assert np.array_equal(merged["value_x"], merged["value_y"]) and len(merged) == len(last)


def test_the_dense_model_is_counted_once_however_many_runs_measured_it(perplexity):
    out = tables.perplexities(perplexity)
    dense = out[out["method"] == "dense"]
    assert (dense["seeds"] == 2).all() and (dense["std"] == 0).all()
    assert len(dense) == 3 * 3 * 3
    assert set(tables.perplexities(perplexity, split="stories")["split"]) == {"stories"}


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


def test_sizes_come_fine_to_coarse_with_bare_methods_and_their_streams(sizes):
    out = granularity.granularity(sizes.blocks, sizes.perplexity)
    assert list(out["measure"].unique()) == ["perplexity", "relative error"]
    line = out[(out["measure"] == "perplexity") & (out["split"] == "calibration")]
    assert list(line[line["method"] == "BR+GP"]["granularity"]) == [
        "matrix",
        "sub-block",
        "1 block",
        "2 blocks",
        "model",
    ]
    assert list(line[line["method"] == "ridge"]["streams"]) == ["BR", "BR+GP", "IR"] and set(
        line[line["method"] == "ridge"]["granularity"]
    ) == {"matrix"}
    assert line[line["method"].isin(["LR", "dense"])][["streams", "granularity"]].to_numpy().tolist() == [
        ["", ""],
        ["", ""],
    ]
    assert "dense" not in set(out[out["measure"] == "relative error"]["method"]) and (out["seeds"] == 2).all()
    runs = sizes.perplexity[
        (sizes.perplexity["method"] == "IR[unit=sub-block]")
        & (sizes.perplexity["split"] == "calibration")
        & (sizes.perplexity["which"] == "pruned")
    ]
    row = line[(line["method"] == "IR") & (line["granularity"] == "sub-block")].iloc[0]
    assert row["value"] == pytest.approx(runs["perplexity"].mean()) and row["std"] == pytest.approx(
        np.std(runs["perplexity"])
    )
    error = out[(out["measure"] == "relative error") & (out["method"] == "LR") & (out["split"] == "calibration")][
        "value"
    ].item()
    last = sizes.blocks[
        (sizes.blocks["method"] == "LR") & (sizes.blocks["split"] == "calibration") & (sizes.blocks["block"] == 2)
    ]
    assert error == pytest.approx(last["relative_error"].mean())


def test_the_front_holds_exactly_the_points_that_no_other_beats(sizes):
    out = granularity.cost_of_units(sizes.perplexity, sizes.cost)
    assert "calibration" not in set(out["split"]) and set(out[out["cost"].isna()]["method"]) == {"LR", "dense"}
    for _, panel in out.groupby(["price", "split"]):
        points = panel[panel["cost"].notna()].to_dict("records")
        for one in points:
            better = [
                p
                for p in points
                if p["cost"] <= one["cost"]
                and p["value"] <= one["value"]
                and (p["cost"] < one["cost"] or p["value"] < one["value"])
            ]
            assert one["front"] == (not better)
        assert not panel[panel["cost"].isna()]["front"].any() and any(p["front"] for p in points)
    memory = (
        out[(out["price"] == "MiB the solver holds") & (out["method"] == "BR")]
        .drop_duplicates("granularity")
        .set_index("granularity")["cost"]
    )
    # the most of three visits
    assert memory.to_dict() == {"matrix": 4.5, "sub-block": 7.0, "1 block": 12.0, "2 blocks": 22.0, "model": 32.0}
    wide = granularity.units_side_by_side(out)
    assert wide.loc[
        ("wanda", "BR", "BR", "2 blocks"), "MiB the solver holds"
    ] == 22.0 and "LR" not in wide.index.get_level_values("method")


def test_two_optimisers_in_one_granularity_table_are_refused(sizes):
    again = sizes.perplexity[sizes.perplexity["method"] == "BR"].assign(recipe="wanda-50% BR[lr=1e-3]", run="other")
    with pytest.raises(UsageError, match="choose among.*recipe"):
        granularity.granularity(sizes.blocks, pd.concat([sizes.perplexity, again]))


def test_criteria_keep_their_patterns_in_the_order_given_and_one_dense_row_each(masks):
    out = criteria.criteria(masks.perplexity)
    assert list(out["pattern"].unique()) == ["60%", "2:4"] and list(out["criterion"].unique()) == [
        "magnitude",
        "wanda",
        "ria",
        "sparsegpt",
    ]
    one = out[(out["pattern"] == "2:4") & (out["criterion"] == "ria") & (out["split"] == "lab:stories/held-out")]
    assert sorted(zip(one["method"], one["refinement"], strict=True)) == [
        ("BR+GP", "none"),
        ("BR+GP", "swaps"),
        ("LR", "fw"),
        ("LR", "none"),
        ("LR", "swaps"),
        ("dense", "none"),
    ]
    assert set(criteria.criteria(masks.perplexity, pattern="2:4", split="lab:entries/held-out")["split"]) == {
        "lab:entries/held-out"
    }
    with pytest.raises(UsageError, match="pattern 50% is not in the table"):
        criteria.criteria(masks.perplexity, pattern="50%")


def test_layers_are_the_error_left_and_come_from_the_masks_alone(masks):
    out = criteria.layer_changes(masks.layers)
    assert len(out) == 2 * 4 * 2 * 3 and set(out["refinement"]) == {"swaps", "fw"}
    assert out.groupby("block")["value"].first().tolist() == pytest.approx([0.5125, 0.5625, 0.6125]) and out[
        "std"
    ].to_numpy() == pytest.approx(0.0125)
    with pytest.raises(UsageError, match="method BR is not in the table"):
        criteria.layer_changes(masks.layers, method="BR")


def test_budgets_count_tokens_once_however_many_units_and_seconds_over_all(spent):
    out = retraining.budgets(spent.perplexity, spent.steps, spent.cost).set_index(
        ["split", "method", "samples", "epochs"]
    )
    local, whole = (out.loc[("lab:stories/held-out", method, 32, 4)] for method in ("BR+GP", "retrain"))
    assert local["tokens"] == whole["tokens"] == 128 * 32 * 4
    assert local["solve_seconds"] == pytest.approx(3 * 0.1 * 4 * 32) and local["solver_memory_mib"] == 12.0
    nothing = out.loc[[key for key in out.index if key[1] in ("LR", "dense")]]
    assert (nothing[["tokens", "solve_seconds", "solver_memory_mib"]] == 0).all(axis=None) and set(
        nothing.index.get_level_values("epochs")
    ) == {0}
    assert (out["seeds"] == 2).all() and "calibration" not in out.index.get_level_values("split")
    costs = retraining.training_costs(out.reset_index())
    assert costs.loc[("retrain, MaskLoRA", 8, 4), "tokens"] == 4096 and len(costs) == 5 * 4
