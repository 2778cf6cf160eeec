"""Calibration against test error: tables, and sentences beside the paper's numbers."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import calibration, tables
from analysis.present.finding import say_ratio
from analysis.present.panels import RELATIVE_ERROR
from analysis.present.statistics import compare


def test_one_table_holds_both_measures_and_perplexity_is_over_the_runs_own_dense_model(blocks, perplexity):
    out = calibration.sample_size(blocks, perplexity, criterion="wanda")
    assert list(out["measure"].unique()) == [RELATIVE_ERROR, calibration.ABOVE_DENSE]
    runs = perplexity[(perplexity["criterion"] == "wanda") & (perplexity["split"] == "stories")]
    runs = runs[(runs["method"] == "BR") & (runs["samples"] == 8)].pivot(
        index="seed", columns="which", values="perplexity"
    )
    row = out[(out["measure"] == calibration.ABOVE_DENSE) & (out["split"] == "stories")]
    row = row[(row["method"] == "BR") & (row["samples"] == 8)].iloc[0]
    assert row["value"] == pytest.approx((100 * (runs["pruned"] / runs["dense"] - 1)).mean())


def test_a_run_that_saw_held_out_text_at_its_end_alone_cannot_be_told_by_epochs(steps):
    seldom = steps[(steps["split"] != "stories") | (steps["epoch"] == steps["epoch"].max())]
    with pytest.raises(UsageError, match="no error on held-out stories .* held_out_every=1"):
        calibration.epochs(seldom, criterion="wanda")


def test_the_lowest_epoch_of_every_line(steps):
    out = calibration.epochs(steps, criterion="wanda")
    for _, line in out.groupby(["split", "method", "samples"]):
        assert line["lowest"].sum() == 1
        assert line.loc[line["lowest"], "value"].item() == line["value"].min()
    few = out[(out["split"] == "stories") & (out["samples"] == 8) & out["lowest"]]
    assert (few["epoch"] < 10).all()


def test_errors_are_those_of_the_unit_that_first_trains_the_last_block_over_their_start(steps):
    got = calibration.epochs(steps, criterion="wanda").set_index(["split", "method", "samples", "epoch"])["value"]
    one = steps[(steps["criterion"] == "wanda") & (steps["unit"] == 7)]  # with overlap a later unit trains it again
    parts = one.pivot_table(index=["run", "split", "method", "samples"], columns="epoch", values="error")
    expected = parts.div(parts[0], axis=0).groupby(["split", "method", "samples"]).mean().stack()
    pd.testing.assert_series_equal(got.sort_index(), expected.sort_index(), check_names=False)


def test_the_gap_beside_the_papers(blocks):
    error = tables.last_block(blocks, criterion="wanda")
    out = calibration.beside_gap(error)
    value = error.set_index(["split", "method", "samples"])["value"]
    assert out.loc[("wanda", "BR"), ("held-out stories", "8 windows")] == pytest.approx(
        value["stories", "BR", 8] / value["calibration", "BR", 8], abs=6e-3
    )
    assert out.loc[("wanda", "BR+GP+CR"), ("paper, C4", "LLaMA-7B")] == pytest.approx(2.31 / 0.38, abs=6e-3)
    assert np.isnan(out.loc[("wanda", "LR"), ("paper, C4", "LLaMA-7B")])


def test_overfitting_names_the_epoch_the_rise_and_what_calibration_did_meanwhile(steps):
    table = calibration.epochs(steps, criterion="wanda", split=["calibration", "stories"])
    said = calibration.say_overfitting(table)
    at = table[(table["samples"] == 8) & (table["method"] == "BR")].set_index(["split", "epoch"])
    line = at.loc["stories", "value"]
    rise = compare(at.loc[("stories", 10)], at.loc[("stories", line.idxmin())], ratio=True)
    seen = [f"{100 * at.loc[('calibration', epoch), 'value']:.0f}" for epoch in (line.idxmin(), 10)]
    assert (
        f"BR epoch {line.idxmin()} of 10 (then {say_ratio(rise)}, while calibration error goes from {seen[0]} to"
        f" {seen[1]} % of its start)" in said
    )


@pytest.mark.parametrize(
    ("factor", "noise", "verdict"), [(1.3, 0.001, "higher"), (0.8, 0.001, "lower"), (1.01, 0.3, "undecided")]
)
def test_the_last_step_is_judged_within_seeds(blocks, perplexity, factor, noise, verdict):
    table = calibration.sample_size(blocks, perplexity, criterion="wanda", split=["calibration", "stories"])
    table = table[(table["samples"] == 8) & (table["measure"] == RELATIVE_ERROR)].reset_index(drop=True)
    gp, cr = (
        table.index[(table["method"] == method) & (table["split"] == "stories")][0] for method in ("BR+GP", "BR+GP+CR")
    )
    seeds = [name for name in table if name.startswith("seed ")]
    table.loc[gp, seeds] = [1.0, 3.0]  # what the text adds to both does not count
    table.loc[cr, seeds] = [factor * (1 + noise), 3 * factor * (1 - noise)]
    said = calibration.say_last_step(table)
    assert said.count("windows") == 1 and said.endswith(f", {verdict}.") and "held-out stories" in said
    assert "not both run" in calibration.say_last_step(table[table["method"] != "BR+GP"])


def test_rings_stand_where_a_step_ends_above_the_one_before(blocks, perplexity):
    table = calibration.sample_size(blocks, perplexity, criterion="wanda", split=["calibration", "stories"])
    best = table["value"].min()
    table.loc[(table["method"] == "BR+GP") & (table["samples"] == 32), "value"] = 0.9 * best
    fig = calibration.plot_sample_size(table)
    rings = [
        [
            tuple(point)
            for one in ax.collections
            if len(one.get_facecolor()) == 0
            for point in np.asarray(one.get_offsets())
        ]
        for ax in fig.axes
    ]
    row = table[(table["method"] == "BR+GP+CR") & (table["samples"] == 32) & (table["split"] == "stories")]
    for place, (measure, split) in enumerate(dict.fromkeys(zip(table["measure"], table["split"], strict=True))):
        value = row[row["measure"] == measure]["value"].item()
        assert ((32.0, value) in rings[place]) == (split == "stories"), (measure, split)


def test_worth_is_from_where_every_larger_number_of_windows_wins(perplexity):
    table = tables.perplexities(perplexity, criterion="wanda", split="stories")
    value = table.set_index(["method", "samples"])["value"]
    table.loc[(table["method"] == "BR"), "value"] = 2 * value["LR", 8]
    table.loc[(table["method"] == "BR+GP"), "value"] = [1.0, 2 * value["LR", 8], 1.0]
    said = calibration.say_worth(table)
    assert "BR at none of 8, 32, 128" in said and "BR+GP from 128 windows" in said


def test_every_method_is_told_whether_it_is_worth_it(perplexity):
    table = tables.perplexities(perplexity, criterion="wanda", split="stories")
    other = table.assign(method=table["method"].replace("BR+GP", "BR+GP[loss=cosine]"))
    assert "; BR+GP[loss=cosine] from 8 windows." in calibration.say_worth(other)
    alone = calibration.say_worth(table[table["method"] == "LR"])
    assert alone == "- **Wanda**, held-out stories: LR alone was run."
