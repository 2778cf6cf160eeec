"""Criteria and refinements: tables, and claims that turn round when a number does."""

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.present import criteria

STORIES = "lab:stories/held-out"


def test_criteria_are_told_above_the_dense_model_of_the_same_run(masks):
    out = criteria.criteria(masks.perplexity)
    assert list(out["pattern"].unique()) == ["60%", "2:4"] and list(out["criterion"].unique()) == [
        "magnitude",
        "wanda",
        "ria",
        "sparsegpt",
    ]
    one = out[(out["pattern"] == "2:4") & (out["criterion"] == "ria") & (out["split"] == STORIES)]
    assert sorted(zip(one["method"], one["refinement"], strict=True)) == [
        ("BR+GP", "none"),
        ("BR+GP", "swaps"),
        ("LR", "fw"),
        ("LR", "none"),
        ("LR", "swaps"),
    ]
    rows = masks.perplexity
    rows = rows[(rows["split"] == STORIES) & (rows["recipe"] == "ria+fw-2:4 LR")].pivot(
        index="seed", columns="which", values="perplexity"
    )
    above = 100 * (rows["pruned"] / rows["dense"] - 1)
    assert len(above) > 1 and one[one["refinement"] == "fw"]["value"].item() == pytest.approx(above.mean())
    assert set(criteria.criteria(masks.perplexity, pattern="2:4", split="lab:entries/held-out")["split"]) == {
        "lab:entries/held-out"
    }
    with pytest.raises(UsageError, match="pattern 50% is not in the table"):
        criteria.criteria(masks.perplexity, pattern="50%")


def test_layers_are_the_error_left_and_come_from_the_masks_alone(masks):
    out = criteria.layer_changes(masks.layers)
    assert len(out) == 2 * 4 * 2 * 3 and set(out["refinement"]) == {"swaps", "fw"}
    assert out.groupby("block")["value"].first().tolist() == pytest.approx([0.5125, 0.5625, 0.6125]) and out[
        ["seed 0", "seed 1"]
    ].iloc[0].tolist() == pytest.approx([0.5, 0.525])
    with pytest.raises(UsageError, match="method BR is not in the table"):
        criteria.layer_changes(masks.layers, method="BR")


def level(table, value, **where):
    """The table with `value` in the rows that hold what `where` says, and near it in three seeds."""
    rows = np.logical_and.reduce([table[name] == word for name, word in where.items()]) if where else slice(None)
    table = table.copy()
    table.loc[rows, "value"] = value
    for number in range(3):
        table.loc[rows, f"seed {number}"] = value + 1e-3 * (number - 1) * (1 + value / 10)
    return table


def test_the_spread_of_criteria_before_and_after(masks):
    table = level(level(criteria.criteria(masks.perplexity, split=STORIES), 5.0), 0.0, criterion="wanda")
    table = level(table, 50.0, criterion="magnitude", method="LR")
    table = level(table, 10.0, criterion="magnitude", method="BR+GP")
    said = criteria.say_spread(table)
    assert said.count("LR 50 % (Wanda 0.0 % above dense to Magnitude 50.0 %)") == 2 and said.count("BR+GP 10 %") == 2
    assert said.endswith("smaller in 2 of 2 cases, decided in 2; that it is larger is decided in 0.")
    worse = criteria.say_spread(level(table, 90.0, criterion="magnitude", method="BR+GP", pattern="2:4"))
    assert worse.endswith("smaller in 1 of 2 cases, decided in 1; that it is larger is decided in 1.")
    shaky = table.assign(**{"seed 0": np.where(table["method"] == "LR", 5.0, table["seed 0"])})
    assert criteria.say_spread(shaky).endswith("decided in 0; that it is larger is decided in 0.")


def test_the_spread_is_that_of_seeds_that_all_criteria_have(masks):
    table = level(level(criteria.criteria(masks.perplexity, split=STORIES), 5.0), 1700.0, criterion="magnitude")
    magnitude = table["criterion"] == "magnitude"
    some = magnitude & (table["method"] == "BR+GP")
    for name in ("seed 1", "seed 2"):
        table[name] = table[name].mask(some)
    said = criteria.say_spread(table)
    assert "LR 1600 % (" in said and said.endswith(
        "smaller in 0 of 2 cases, decided in 0; that it is larger is decided in 0."
    )
    none = criteria.say_spread(table.assign(**{"seed 0": table["seed 0"].mask(some)}))
    assert "paper claims" not in none


def test_whether_a_criterion_comes_first(masks):
    table = level(level(criteria.criteria(masks.perplexity, split=STORIES), 5.0), 4.0, criterion="wanda")
    table = level(table, 3.0, criterion="ria", method="BR+GP")
    said = criteria.say_rival(table)
    assert "LR 1 of 4: Magnitude +1.0, RIA +1.0, SparseGPT +1.0; BR+GP 2 of 4: Magnitude +1.0, RIA -1.0" in said
    assert said.endswith("Wanda comes first after reconstruction in 0 of 2 cases; the paper says that it can.")
    shaky = table.assign(**{"seed 0": np.where(table["criterion"] == "ria", 9.0, table["seed 0"])})
    assert "RIA +1.0 (undecided)" not in said and "(undecided)" in criteria.say_rival(shaky)
    with pytest.raises(UsageError, match="beside random: the table has no runs with it"):
        criteria.say_rival(table, criterion="random")


def test_what_refinement_does_to_perplexity_before_and_after(masks):
    table = level(criteria.criteria(masks.perplexity, split=STORIES), 20.0)
    table = level(table, -10.0, refinement="swaps", method="LR", criterion="ria")
    said = criteria.say_refined(table)
    assert said.count("LR with SparseSwaps: (Magnitude +0.0 %), (Wanda +0.0 %), RIA -25.0 %") == 2
    assert "BR+GP with SparseSwaps: (Magnitude +0.0 %)" in said and "BR+GP with SparseFW" not in said


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
    ratio = (100 + value[STORIES, "2:4", "ria", "fw", "LR"]) / (100 + value[STORIES, "2:4", "ria", "none", "LR"])
    assert out.loc[("2:4", "ria"), "held-out stories"] == pytest.approx(ratio, abs=6e-4)
    assert out.loc[("60%", "wanda"), ["paper, least", "paper, most"]].tolist() == [
        round(17.97 / 21.53, 3),
        round(11.99 / 11.44, 3),
    ]
    assert np.isnan(out.loc[("60%", "magnitude"), "paper, least"])
    with pytest.raises(UsageError, match="no runs with fw"):
        criteria.beside_refinement(table[table["refinement"] != "fw"])
