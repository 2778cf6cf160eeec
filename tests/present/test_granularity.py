"""Quality and cost of every unit: tables, and claims that turn round when a number does."""

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import granularity
from tests.helpers.tables import put

STORIES = "lab:stories/held-out"


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
    assert row["value"] == pytest.approx(runs["perplexity"].mean()) and list(row[["seed 0", "seed 1"]]) == list(
        runs.sort_values("seed")["perplexity"]
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


@pytest.fixture
def by_size(sizes):
    """A granularity table of one text whose numbers a test sets: 1 with sub-blocks, more elsewhere."""
    table = granularity.granularity(sizes.blocks, sizes.perplexity, split=["calibration", STORIES])
    levels = {"matrix": 2.0, "sub-block": 1.0, "1 block": 1.004, "2 blocks": 1.009, "model": 1.005, "": 3.0}
    value = table["granularity"].map(levels)
    return table.assign(value=value, low=value - 0.001, high=value + 0.001)


def test_the_flat_region_is_seen_or_not_and_its_units_named(by_size):
    said = granularity.say_free_lunch(by_size, 1.0)
    assert said.count("\n") == 2 and "**Wanda IR**, held-out stories: lowest with sub-blocks (1.000 ± 0.001)" in said
    assert (
        said.count(
            "within 1 %: sub-blocks, 1 block, 2 blocks, the whole model; flat over all sizes above a matrix, as the"
            " paper claims."
        )
        == 3
    )
    one = granularity.say_free_lunch(put(by_size, 1.1, method="BR", granularity="model"), 1.0)
    assert one.count("over all sizes") == 2
    assert (
        "within 1 %: sub-blocks, 1 block, 2 blocks; flat over most sizes above a matrix, as the paper claims of a wide"
        " range; outside: the whole model 10.0 % above." in one
    )
    two = granularity.say_free_lunch(
        put(put(by_size, 1.1, method="BR", granularity="model"), 1.2, method="BR", granularity="2 blocks"), 1.0
    )
    assert "not flat, against the claim; outside: 2 blocks 20.0 % above, the whole model 10.0 % above." in two
    assert (
        granularity.say_free_lunch(by_size[by_size["granularity"].isin(["matrix", "sub-block"])], 1.0).count(
            "within 1 %: sub-blocks."
        )
        == 3
    )


def test_matrices_are_compared_with_sub_blocks_by_gradient_and_in_closed_form(by_size):
    said = granularity.say_matrix(by_size)
    assert said.count("as the paper claims") == 3 and "matrices by gradient 2.000 ± 0.001, 100.0 % more" in said
    better = put(by_size, 0.5, method="ridge", streams="IR")
    assert (
        "matrices in closed form 0.500 ± 0.001, 50.0 % less: in part against the paper's claim"
        in granularity.say_matrix(better)
    )
    both = put(better, 0.5, method="IR", granularity="matrix")
    assert granularity.say_matrix(both).count(": against the paper's claim") == 1
    assert "no sub-blocks were run" in granularity.say_matrix(by_size[by_size["granularity"] != "sub-block"])


def test_the_cheapest_near_the_best_and_what_others_pay(sizes):
    table = granularity.cost_of_units(sizes.perplexity, sizes.cost, split=STORIES)
    table = put(
        put(table.assign(value=2.0), 1.0, method="BR", granularity="2 blocks"),
        1.005,
        method="IR",
        granularity="sub-block",
    )
    memory = granularity.say_cheapest(table, 1.0).splitlines()[0]
    assert (
        "best BR by 2 blocks (1.000) at 22; cheapest within 1 % IR by sub-blocks (1.005) at 7, 3.1 times less than the"
        " best and 4.6 times less than the dearest" in memory
    )
    assert "which is the best itself" in granularity.say_cheapest(table, 0.1).splitlines()[0]
