"""Units at their plateaus: where a plateau is, and what the sentences make of it."""

import pytest

from analysis.present import convergence
from analysis.study.grids import recipes
from tests.helpers.studies import study
from tests.helpers.tables import put

STORIES = "lab:stories/held-out"


@pytest.fixture(scope="module")
def table():
    chosen = recipes(["wanda"], "50%", ["BR+GP"], units=["matrix", "sub-block", "model"], epochs=[1, 2, 4])
    ran = study([*chosen, *recipes(["wanda"], "50%", ["LR", "ridge"])])
    return convergence.convergence(ran.perplexity, ran.cost, ran.steps, ran.matrices, 0.5, split=STORIES)


def test_units_are_rows_by_epochs_with_their_operations(table):
    assert set(table["streams"]) == {"BR+GP"} and len(table) == 3 * 3  # neither LR nor a closed form
    for _, line in table.groupby("granularity"):
        assert list(line["epochs"]) == [1, 2, 4]
        assert list(line["gflops"] / line["gflops"].iloc[0]) == pytest.approx([1, 2, 4])
        assert line["plateau"].sum() == 1 and line["memory_mib"].nunique() == 1


@pytest.mark.parametrize(
    ("values", "place", "falling"),
    [
        ([20.0, 10.0, 9.9], 1, False),  # the last run adds less than half a per cent
        ([20.0, 10.0, 5.0], 2, True),
        ([10.0, 12.0, 9.8], 0, False),
        ([10.0, 12.0, 5.0], 2, True),  # a bump on the way is no plateau
    ],
)
def test_a_plateau_is_where_no_longer_run_adds_more(values, place, falling):
    found = convergence.plateau(values, 0.5)
    assert found == (place, falling)


def test_the_table_marks_it(monkeypatch, table):
    line = table[table["granularity"] == "model"]
    place, falling = convergence.plateau(list(line["value"]), 0.5)
    assert list(line["plateau"]).index(True) == place and line["falling"].iloc[place] == falling


@pytest.fixture
def by_hand(table):
    """Plateaus after 4 epochs, sub-blocks lowest by a margin in each seed."""
    seeds = [name for name in table if name.startswith("seed ")]
    level = table["granularity"].map({"matrix": 5.0, "sub-block": 2.0, "model": 2.1})
    out = table.assign(plateau=table["epochs"] == 4, falling=False, value=level + (table["epochs"] < 4) * 3)
    out[seeds] = out["value"].to_numpy()[:, None] * [0.999, 1.001]
    return put(out, 9.0, granularity="model", epochs=1)


def test_what_is_said_of_plateaus_and_of_the_fewest_epochs(by_hand):
    first, second = convergence.say_convergence(by_hand).splitlines()
    assert "the whole model 2.1 % above dense after 4 epochs" in first
    assert "sizes above a matrix lie 4.0 points apart after 1 epochs and 0.1 at their plateaus" in second
    assert "matrices +3.0 points [+3.0, +3.0] (worse)" in second and "the whole model +0.1 points" in second
    falling = convergence.say_convergence(by_hand.assign(falling=by_hand["plateau"]))
    assert "after more than 4 epochs" in falling
    assert "against sub-blocks" not in convergence.say_convergence(by_hand[by_hand["granularity"] != "sub-block"])


@pytest.mark.slow
def test_every_run_is_drawn_over_operations_and_ends_over_memory(by_hand):
    fig = convergence.plot_convergence(by_hand)
    drawn = [
        {
            (line.get_gid(), x, y)
            for line in ax.lines
            if (line.get_gid() or "").startswith("unit")
            for x, y in line.get_xydata()
        }
        for ax in fig.axes
    ]
    rows = list(by_hand.itertuples())
    assert drawn[0] == {(f"unit {row.granularity}", row.gflops, row.value) for row in rows}
    assert drawn[1] == {(f"unit {row.granularity}", row.memory_mib, row.value) for row in rows if row.epochs in (1, 4)}
