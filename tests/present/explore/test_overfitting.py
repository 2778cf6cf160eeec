"""The overfitting explorer: pure functions of tables and a choice."""

from dataclasses import replace

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import calibration
from analysis.present.explore import overfitting


@pytest.fixture
def parts(steps, blocks):
    wanda = blocks[blocks["criterion"] == "wanda"]
    rows = [
        {"run": run, "block": block, "matrix": name, "rows": 64, "columns": 128}
        for run in wanda["run"].unique()
        for block in range(8)
        for name in ("q", "up")
    ]
    return steps[steps["criterion"] == steps["criterion"].iloc[0]], wanda, pd.DataFrame(rows)


def test_weights_per_token_are_a_blocks_weights_over_the_tokens(parts):
    _, blocks, matrices = parts
    assert overfitting.ratios(blocks, matrices) == {n: 2 * 64 * 128 / (n * 128) for n in (8, 32, 128)}


def test_the_gap_is_held_out_over_calibration_error_at_the_last_block(parts):
    _, blocks, matrices = parts
    found = overfitting.gaps(blocks, matrices, "entries").set_index(["method", "samples"])
    one = blocks[
        (blocks["method"] == "BR") & (blocks["samples"] == 8) & (blocks["block"] == 7) & (blocks["kind"] == "total")
    ]
    mean = one.groupby("split")["relative_error"].mean()
    assert found.loc[("BR", 8), "value"] == pytest.approx(mean["entries"] / mean["calibration"])
    assert found.loc[("BR", 8), "ratio"] == 16.0


def test_the_course_ends_at_the_chosen_epoch(parts):
    steps, _, _ = parts
    first = overfitting.first_choice(steps)
    whole, half = (overfitting.course(steps, replace(first, epoch=epoch)) for epoch in (first.epoch, 1))
    assert whole["epoch"].max() == first.epoch > 1 == half["epoch"].max()
    every = calibration.epochs(steps)
    assert set(whole["value"]) <= set(every["value"]) and set(whole["split"]) == {"calibration", first.split}


def test_several_criteria_are_refused_rather_than_mixed(parts, blocks):
    with pytest.raises(UsageError, match="one criterion of magnitude, wanda, sparsegpt"):
        overfitting.gaps(blocks, parts[2], "entries")


@pytest.mark.slow
def test_moving_a_control_moves_the_figure_and_the_scale_stays(parts):
    steps, blocks, matrices = parts
    first = overfitting.first_choice(steps)
    long, short = (
        overfitting.draw_overfitting(steps, blocks, matrices, replace(first, epoch=epoch)) for epoch in (first.epoch, 1)
    )
    assert long.axes[0].get_ylim() == short.axes[0].get_ylim() and long.axes[0].get_xlim() == short.axes[0].get_xlim()
    assert max(map(len, (line.get_xdata() for line in short.axes[0].lines))) == 2
    box = overfitting.explore_overfitting(steps, blocks, matrices)
    before = box.children[1].value
    box.children[0].children[2].value = 1
    assert before.startswith("<svg") and box.children[1].value != before
