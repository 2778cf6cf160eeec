"""What runs ended with: which rows are taken, and what a change is measured from."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.errors import UsageError
from analysis.present.final import (
    ACCURACY,
    CALIBRATION_ERROR,
    HELD_OUT_ERROR,
    PERPLEXITY,
    against,
    by_chance,
    ends,
    say_change,
    say_rank,
    spearman,
)

ENTRIES = "lab:entries/held-out"


def test_every_number_is_the_runs_own(mixed):
    out = ends(mixed.blocks, mixed.perplexity, mixed.zero_shot, split=ENTRIES).drop_duplicates(
        ["run", "measure", "which", "added"]
    )
    for run in list(dict.fromkeys(out["run"]))[:5]:
        rows = (
            out[(out["run"] == run) & (out["which"] == "pruned")]
            .drop_duplicates("measure")
            .set_index("measure")["value"]
        )
        blocks = (
            mixed.blocks[(mixed.blocks["run"] == run) & (mixed.blocks["block"] == 2)]
            .drop_duplicates("split")
            .set_index("split")["relative_error"]
        )
        assert rows[CALIBRATION_ERROR] == blocks["calibration"] and rows[HELD_OUT_ERROR] == blocks[ENTRIES]
        text = mixed.perplexity[
            (mixed.perplexity["run"] == run)
            & (mixed.perplexity["split"] == ENTRIES)
            & (mixed.perplexity["which"] == "pruned")
        ]
        assert rows[PERPLEXITY] == text["perplexity"].iloc[0]
        asked = mixed.zero_shot[
            (mixed.zero_shot["run"] == run) & (mixed.zero_shot["which"] == "pruned")
        ].drop_duplicates("task")
        assert rows[ACCURACY] == pytest.approx(asked["accuracy"].mean()) and len(asked) == 2
    assert set(out[out["which"] == "dense"]["measure"]) == {PERPLEXITY, ACCURACY}


def test_the_first_held_out_text_is_taken_and_another_only_by_name(mixed):
    first = ends(mixed.blocks, mixed.perplexity)
    assert first.equals(ends(mixed.blocks, mixed.perplexity, split="lab:stories/held-out")) and ACCURACY not in set(
        first["measure"]
    )
    assert not first.equals(ends(mixed.blocks, mixed.perplexity, split=ENTRIES))
    with pytest.raises(
        UsageError,
        match="held-out text 'lab:news' is not in the table; it has lab:stories/held-out, lab:entries/held-out",
    ):
        ends(mixed.blocks, mixed.perplexity, split="lab:news")
    with pytest.raises(UsageError, match="there are no runs, or none with held-out text"):
        ends(mixed.blocks, mixed.perplexity[mixed.perplexity["split"] == "calibration"])


def test_models_of_different_depth_each_end_at_their_own_last_block(models):
    shallow = models.blocks[(models.blocks["model"] != "lab") | (models.blocks["block"] < 2)]
    out = ends(shallow, models.perplexity)
    assert set(out[out["measure"] == HELD_OUT_ERROR]["model"]) == {"lab", "lab/small", "lab/large"}


def test_a_change_is_taken_within_a_seed_in_per_cent_or_points(mixed):
    rows = ends(mixed.blocks, mixed.perplexity, mixed.zero_shot)
    rows = rows[(rows["which"] == "pruned") & (rows["calibration"] == "lab:stories") & (rows["method"] == "BR+GP")]
    base = rows[rows["added_samples"] == 0]
    out = against(rows[rows["added"] == "self"], base, ["method"])
    for row in out.itertuples():
        before = base[(base["measure"] == row.measure) & (base["seed"] == row.seed)]["value"].iloc[0]
        expected = 100 * (row.level - before) if row.measure == ACCURACY else 100 * (row.level / before - 1)
        assert row.value == pytest.approx(expected)
    with pytest.raises(UsageError, match="several values"):
        against(rows, rows, ["method"])
    assert say_change(ACCURACY).endswith("points") and say_change(PERPLEXITY).endswith("%")


def test_rank_correlation_against_the_formula_for_ranks_without_ties():
    one, other = (pd.Series(values) for values in np.random.default_rng(0).normal(size=(2, 9)))
    d = one.rank() - other.rank()
    assert spearman(one, other) == pytest.approx(1 - 6 * (d**2).sum() / (9 * 80)) and spearman(
        one, -one
    ) == pytest.approx(-1)
    assert np.isnan(spearman(one, other * 0)) and say_rank(one, one) == "ρ = 1.00 (n = 9)"


def test_how_often_a_random_order_is_as_far_from_none_against_the_table_of_spearmans_test():
    ranks = pd.Series(range(5), dtype=float)
    assert by_chance(ranks, ranks) == pytest.approx(2 / 120)
    assert by_chance(ranks, pd.Series([0.0, 1, 2, 4, 3])) == pytest.approx(2 * 5 / 120)  # ρ = 0.9: exact p 0.083
    many = pd.Series(np.random.default_rng(1).normal(size=(12)))
    other = many + pd.Series(np.random.default_rng(2).normal(size=12)) * 2
    assert (
        by_chance(many, other) == by_chance(many, other) == pytest.approx(stats.spearmanr(many, other).pvalue, abs=0.01)
    )
    assert np.isnan(by_chance(ranks, ranks * 0))


def test_pairs_with_a_missing_number_are_none():
    one, other = pd.Series([1, np.nan, 3, 4, 2, 5.0]), pd.Series([2.0, 9, 1, 3, 4, np.nan])
    there = [0, 2, 3, 4]
    assert spearman(one, other) == spearman(one[there], other[there])
    assert by_chance(one, other) == by_chance(one[there], other[there]) > 0.5
    assert say_rank(one, other).endswith("(n = 4)")
