"""Quality and cost of every unit: tables, and claims that turn round when a number does."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import granularity
from analysis.present.panels import RELATIVE_ERROR
from analysis.present.statistics import seed_columns
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
    assert row["value"] == pytest.approx(runs["perplexity"].mean()) and row["paired"] == "dense"
    error = out[(out["measure"] == "relative error") & (out["method"] == "LR") & (out["split"] == "calibration")][
        "value"
    ].item()
    last = sizes.blocks[
        (sizes.blocks["method"] == "LR") & (sizes.blocks["split"] == "calibration") & (sizes.blocks["block"] == 2)
    ]
    assert error == pytest.approx(last["relative_error"].mean())


def priced(sizes, **chosen):
    return granularity.cost_of_units(sizes.perplexity, sizes.cost, sizes.steps, sizes.matrices, **chosen)


def test_perplexity_above_dense_stands_beside_what_the_solver_took(sizes):
    out = priced(sizes)
    assert "calibration" not in set(out["split"]) and "dense" not in set(out["method"])
    assert (out[out["method"] == "LR"][["memory_mib", "gflops", "seconds"]] == 0).all(axis=None)
    memory = out[out["method"] == "BR"].drop_duplicates("granularity").set_index("granularity")["memory_mib"]
    # the most of three visits
    assert memory.to_dict() == {"matrix": 4.5, "sub-block": 7.0, "1 block": 12.0, "2 blocks": 22.0, "model": 32.0}
    runs = sizes.perplexity[
        (sizes.perplexity["method"] == "IR[unit=sub-block]") & (sizes.perplexity["split"] == STORIES)
    ]
    runs = runs.pivot(index="seed", columns="which", values="perplexity")
    row = out[(out["method"] == "IR") & (out["granularity"] == "sub-block") & (out["split"] == STORIES)].iloc[0]
    assert row["value"] == pytest.approx((100 * (runs["pruned"] / runs["dense"] - 1)).mean())
    wide = granularity.units_side_by_side(out)
    assert wide.loc[("wanda", "BR", "BR", "2 blocks"), "MiB held"] == 22.0
    assert "LR" not in wide.index.get_level_values("method")


def test_operations_are_counted_by_weights_and_tokens():
    run = {"student": "sparse", "target": "sparse"}
    cost = pd.DataFrame(
        [
            {"run": "gradient", "unit": 0, "stage": "record", "tokens": 999},
            *({"run": "gradient", "unit": unit, "stage": "solve", "tokens": 50} for unit in (0, 0, 1)),  # two halves
            {"run": "closed", "unit": 0, "stage": "solve", "tokens": 10},
            {"run": "LR", "unit": -1, "stage": "record", "tokens": 10},
        ]
    )
    steps = pd.DataFrame(
        [
            {"run": "gradient", "unit": unit, "first_block": first, "last_block": last}
            for unit, first, last in [(0, 0, 0), (0, 0, 0), (1, 0, 1)]  # block 0 is trained again with block 1
        ]
    )
    matrices = pd.DataFrame(
        [
            {"run": name, "block": block, "rows": 4, "columns": 6, "kept": 12, **run}
            for name in ("gradient", "closed", "LR")
            for block in (0, 1)
        ]
    )
    flops = granularity.solver_flops(cost, steps, matrices)
    assert flops["gradient"] == 6 * 50 * (24 + 48) and flops["LR"] == 0
    assert flops["closed"] == 2 * (2 * 36 * 10 + 4 * 3**3 / 3)
    dense = granularity.solver_flops(cost, steps, matrices.assign(target="dense"))
    assert dense["closed"] - flops["closed"] == 2 * 2 * 36 * 10  # moments between two streams


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
    seeds = {name: value + 0.001 * n * (value == 2) for n, name in enumerate(seed_columns(table))}
    return table.assign(value=value, low=value - 0.001, high=value + 0.001, **seeds)


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
    def lower(table, **where):
        rows = np.logical_and.reduce([table[name] == word for name, word in where.items()])
        seeds = seed_columns(table)
        return put(table, 0.5, **where).assign(**{name: table[name].mask(rows, table[name] / 4) for name in seeds})

    said = granularity.say_matrix(by_size)
    assert said.count(": as the paper claims.") == 3 and "matrices by gradient 2.000 ± 0.001, 100.0 % more;" in said
    better = lower(by_size, method="ridge", streams="IR")
    assert (
        "matrices in closed form 0.500 ± 0.001, 50.0 % less: in part against the paper's claim"
        in granularity.say_matrix(better)
    )
    both = lower(better, method="IR", granularity="matrix")
    assert granularity.say_matrix(both).count(": against the paper's claim") == 1
    assert "no sub-blocks were run" in granularity.say_matrix(by_size[by_size["granularity"] != "sub-block"])


def test_a_matrix_is_no_worse_where_a_test_over_seeds_does_not_say_so(by_size):
    first, last = seed_columns(by_size)[0], seed_columns(by_size)[-1]
    matrix = by_size["granularity"] == "matrix"
    equal = by_size.assign(**dict.fromkeys(("value", *seed_columns(by_size)), 1.0))
    noisy = by_size.assign(**{first: by_size[first].mask(matrix, 0.9), last: by_size[last].mask(matrix, 3.1)})
    for table in (equal, noisy, by_size.drop(columns=seed_columns(by_size)[1:])):
        said = granularity.say_matrix(table)
        assert said.count("(undecided)") == 6 and said.count("(undecided): undecided.") == 3 and "claim" not in said
    closed = by_size["method"] == "ridge"
    part = granularity.say_matrix(noisy.where(~closed, by_size))
    assert part.count("closed form 2.000 ± 0.001, 100.0 % more: in part as the paper claims.") == 3


def test_the_least_memory_near_the_best_and_what_others_hold(sizes):
    table = put(priced(sizes, split=STORIES).assign(value=50.0), 1.0, method="BR", granularity="2 blocks")
    table = put(table, 1.5, method="IR", granularity="sub-block")
    said = granularity.say_cheapest(table, 1.0)
    assert (
        "best BR by 2 blocks (1.0 % above dense) with 22 MiB; least memory within 1 % IR by sub-blocks (1.5 % above"
        " dense) with 7 MiB, 3.1 times less than the best and 4.6 times less than the most" in said
    )
    assert "which is the best itself" in granularity.say_cheapest(table, 0.1)


def test_an_error_that_misleads_is_told(by_size):
    error = by_size["measure"] == RELATIVE_ERROR
    agrees = put(by_size, 0.5, method="BR", granularity="sub-block")
    said = granularity.say_proxy(agrees).splitlines()
    assert len(said) == 2 and said[1].endswith("BR by sub-blocks has the lowest error and the lowest perplexity.")
    seeds = [name for name in by_size if name.startswith("seed ")]
    table = by_size.copy()
    closed, half = (
        (table["method"] == "ridge") & (table["streams"] == "IR"),
        ((table["method"] == "BR") & (table["granularity"] == "sub-block")),
    )
    table.loc[closed & error, "value"] = 0.1
    table.loc[half & ~error, "value"] = 0.5
    table.loc[half & ~error, seeds], table.loc[closed & ~error, seeds] = [0.5, 1.5], [0.55, 1.65]
    assert (
        "the lowest error has the closed form of IR by matrices (0.1000; BR by sub-blocks 1.0000), the lowest"
        " perplexity BR by sub-blocks; the former's perplexity is +10.0 % [+10.0, +10.0] higher."
        in granularity.say_proxy(table)
    )
