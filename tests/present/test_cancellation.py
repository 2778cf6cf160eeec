"""The parts of an error as shares of its total: they add up, are drawn as a signed stack, and are told as they are."""

import numpy as np
import pandas as pd
import pytest

from analysis.present import cancellation
from analysis.present.cancellation import PARTS


@pytest.fixture
def undoing(blocks):
    """Wanda's rows with a cross term of minus three tenths of the local error for CR, none for the others."""
    rows = blocks[(blocks["samples"] == 32) & (blocks["criterion"] == "wanda") & (blocks["split"] != "entries")]
    local = rows[rows["kind"] == "local"].set_index(["run", "split", "block"])["relative_error"]
    same = pd.MultiIndex.from_frame(rows[["run", "split", "block"]])
    cross = -0.3 * local.loc[same].to_numpy() * (rows["method"] == "BR+GP+CR") * (rows["block"] > 0)
    return rows.assign(relative_error=rows["relative_error"].where(rows["kind"] != "cross", cross)).pipe(_summed)


def _summed(rows):
    """The total made what the three parts add up to, and no part inherited by the first block."""
    nothing = (rows["kind"] == "inherited") & (rows["block"] == 0)
    rows = rows.assign(relative_error=rows["relative_error"].where(~nothing, 0.0))
    parts = rows[rows["kind"] != "total"].groupby(["run", "split", "block"])["relative_error"].sum()
    total = parts.loc[pd.MultiIndex.from_frame(rows[["run", "split", "block"]])].to_numpy()
    return rows.assign(relative_error=rows["relative_error"].where(rows["kind"] != "total", total))


def test_the_shares_of_a_block_add_up_to_all_of_it(undoing):
    table = cancellation.cancellation(undoing)
    sums = table.groupby(["split", "method", "block"])["value"].sum()
    assert len(sums) == 2 * 4 * 8 and np.allclose(sums, 1, rtol=0, atol=1e-12)
    value = table.set_index(["split", "method", "kind", "block"])["value"]
    assert value["stories", "LR", "local", 0] == 1 and value["stories", "LR", "inherited", 0] == 0
    assert value["calibration", "BR+GP+CR", "cross", 5] < 0 == value["calibration", "BR+GP", "cross", 5]


@pytest.mark.slow
def test_every_share_is_a_bar_and_the_stack_ends_at_the_total(undoing):
    table = cancellation.cancellation(undoing)
    fig = cancellation.plot_cancellation(table)
    assert [ax.get_title() for ax in fig.axes] == ["LR", "BR", "BR+GP", "BR+GP+CR", "", "", "", ""]
    for ax, (split, method) in zip(
        fig.axes, [(split, method) for split in ("calibration", "stories") for method in table["method"].unique()]
    ):
        some = table[(table["split"] == split) & (table["method"] == method)]
        bars = {box.get_gid().removeprefix("kind "): box for box in ax.patches if box.get_gid()}
        assert set(bars) == set(PARTS)
        heights = [bar.get_height() for bar in ax.patches]
        assert np.allclose(sorted(heights), sorted(some["value"]))
        ends = [bar.get_y() + bar.get_height() for bar in ax.patches]
        bases = [bar.get_y() for bar in ax.patches]
        for block in range(8):
            places = [at for at, bar in enumerate(ax.patches) if round(bar.get_x() + bar.get_width() / 2) == block]
            top, bottom = (pick([v for at in places for v in (ends[at], bases[at])]) for pick in (max, min))
            assert top + bottom == pytest.approx(1)


@pytest.mark.slow
def test_parts_that_cancel_to_a_small_rest_hide_no_other_block(undoing):
    table = cancellation.cancellation(undoing)
    assert {ax.get_yscale() for ax in cancellation.plot_cancellation(table).axes} == {"linear"}
    one = (table["method"] == "BR+GP+CR") & (table["block"] == 3) & (table["split"] == "calibration")
    far = table["value"].where(~one, table["kind"].map({"inherited": 101.0, "local": 100.0, "cross": -200.0}))
    fig = cancellation.plot_cancellation(table.assign(value=far))
    assert {ax.get_yscale() for ax in fig.axes} == {"symlog"}
    bottom, top = fig.axes[0].get_ylim()
    place = lambda ax, value: ax.transAxes.inverted().transform(ax.transData.transform((0, value)))[1]
    assert place(fig.axes[0], 1) - place(fig.axes[0], 0) > 0.1 and bottom < -200 and top > 201


def test_where_blocks_undo_is_counted_and_the_last_block_taken_apart(undoing):
    said = cancellation.say_cancellation(cancellation.cancellation(undoing)).split("\n")
    assert len(said) == 8 and said[0].startswith("- **Wanda LR**, calibration: the total error at the last block is")
    assert all("below zero at 0 of 7 blocks" in line for line in said if "**Wanda BR+GP+CR**" not in line)
    assert "the cross term is, with the whole 95 % interval, below zero at 7 of 7 blocks" in said[3]
    one = cancellation.cancellation(undoing[undoing["seed"] == 0])
    assert "the cross term is below zero at 7 of 7 blocks" in cancellation.say_cancellation(one)
