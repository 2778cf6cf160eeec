"""Criteria and refinements: tables, and claims that turn round when a number does."""

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.present import criteria
from tests.helpers.tables import put

STORIES = "lab:stories/held-out"


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
    assert out.groupby("block")["value"].first().tolist() == pytest.approx([0.5125, 0.5625, 0.6125])
    assert (out["seed 1"] - out["seed 0"]).to_numpy() == pytest.approx(0.025)
    with pytest.raises(UsageError, match="method BR is not in the table"):
        criteria.layer_changes(masks.layers, method="BR")


def test_the_spread_of_criteria_before_and_after(masks):
    table = criteria.criteria(masks.perplexity, split=STORIES)
    table = put(table.assign(value=2.1), 2.0, criterion="wanda")
    table = put(put(table, 3.0, criterion="magnitude", method="LR"), 2.2, criterion="magnitude", method="BR+GP")
    said = criteria.say_spread(table)
    assert (
        said.count("LR 50 % (Wanda 2.000 to Magnitude 3.000)") == 2
        and said.count("BR+GP 10 %") == 2
        and said.count("as the paper claims") == 2
    )
    worse = criteria.say_spread(put(table, 9.0, criterion="magnitude", method="BR+GP", pattern="2:4"))
    assert worse.count("the gap does not shrink, against the paper's claim") == 1


def test_what_refinement_does_to_perplexity_before_and_after(masks):
    table = put(
        criteria.criteria(masks.perplexity, split=STORIES).assign(value=2.0),
        1.5,
        refinement="swaps",
        method="LR",
        criterion="ria",
    )
    said = criteria.say_refined(table)
    assert said.count("LR with SparseSwaps: Magnitude +0.0 %, Wanda +0.0 %, RIA -25.0 %") == 2
    assert "BR+GP with SparseSwaps: Magnitude +0.0 %" in said and "BR+GP with SparseFW" not in said


def test_what_refinement_does_to_matrices(masks):
    said = criteria.say_layers(criteria.layer_changes(masks.layers, pattern="2:4"))
    assert (
        said.splitlines()[0]
        == "- **2:4, SparseSwaps**: error of a matrix lower by Magnitude 44 % (at most 49 %), Wanda 44 % (at most 49"
        " %), RIA 44 % (at most 49 %), SparseGPT 44 % (at most 49 %) in the mean."
    )


def test_frank_wolfe_beside_the_papers(masks):
    table = criteria.criteria(masks.perplexity)
    out = criteria.beside_refinement(table)
    value = table.set_index(["split", "pattern", "criterion", "refinement", "method"])["value"]
    ratio = value[STORIES, "2:4", "ria", "fw", "LR"] / value[STORIES, "2:4", "ria", "none", "LR"]
    assert out.loc[("2:4", "ria"), "held-out stories"] == pytest.approx(ratio, abs=6e-4)
    assert out.loc[("60%", "wanda"), ["paper, least", "paper, most"]].tolist() == [
        round(17.97 / 21.53, 3),
        round(11.99 / 11.44, 3),
    ]
    assert np.isnan(out.loc[("60%", "magnitude"), "paper, least"])
    with pytest.raises(UsageError, match="no runs with fw"):
        criteria.beside_refinement(table[table["refinement"] != "fw"])
