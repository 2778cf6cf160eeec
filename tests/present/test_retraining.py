"""Local reconstruction against retraining: tables, and claims that turn round when a number does."""

import pytest

from analysis.errors import UsageError
from analysis.present import retraining
from tests.helpers.tables import put

STORIES = "lab:stories/held-out"


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


@pytest.fixture
def budget(spent):
    return retraining.budgets(spent.perplexity, spent.steps, spent.cost, split=STORIES)


def test_the_order_at_equal_tokens(budget):
    said = retraining.say_equal_tokens(put(budget, 0.5, method="retrain", epochs=4, samples=32))
    assert (
        said.count("\n") == 3
        and "32 windows, 4 epochs: retrain, all 0.500" in said
        and said.splitlines()[0].startswith("- **Wanda**, held-out stories, 8 windows, 1 epoch:")
    )


def test_at_equal_time_only_runs_that_were_done_by_then_count(budget):
    table = budget.assign(
        value=2.0, solve_seconds=budget["epochs"] * budget["method"].map(lambda name: 1.0 if name == "retrain" else 3.0)
    )
    table = put(table, 1.0, method="BR+GP", epochs=4)
    said = retraining.say_equal_time(table).splitlines()[0]
    assert "within 3 s" in said and "within 4 s" in said and "BR+GP 2.000 (1 epoch)" in said and "1.000" not in said
    with pytest.raises(UsageError, match="no trained runs"):
        retraining.say_equal_time(table[table["epochs"] == 0])


def test_how_much_less_text_and_time_is_as_good(budget):
    table = put(budget.assign(value=2.0), 1.0, method="dense")
    lora = "retrain[train=masklora]"
    table = put(put(table, 1.5, method=lora, samples=32, epochs=4), 1.4, method="BR+GP", samples=8, epochs=1)
    table["solve_seconds"] = table["tokens"] * table["method"].map(lambda name: 1.0 if name == "BR+GP" else 2.0)
    whole, distilled, said = retraining.say_less(table).splitlines()
    assert (
        "MaskLoRA: at best 1.500 ± 0.005 with 32 windows and 4 epochs; BR+GP is there with 6.25 % of its tokens, BR+GP"
        " with 3.12 % of its time: " in said
    )
    assert said.endswith("more than 10 times less of both, as claimed.")
    # nobody claimed it of them
    assert "retrain, all" in whole and "distilled" in distilled and "claim" not in whole + distilled
    near = retraining.say_less(
        put(table, 1.3, method=lora, samples=8, epochs=4).assign(
            value=lambda rows: rows["value"].where(rows["method"] != "BR+GP", 1.3)
        )
    )
    assert near.endswith("a match, but not with more than 10 times less of both.")
    better = retraining.say_less(
        put(put(table, 1.2, method=lora, samples=8), 1.2, method="retrain", samples=8)
    ).splitlines()
    assert better[0].endswith("no local run is as good.") and better[2].endswith(
        "no local run is as good, against the claim."
    )


def test_memory_is_told_as_multiples_of_the_least(budget):
    assert (
        "With 8 windows the solver holds least with BR+GP, sub-blocks, 7 MiB; BR+GP 1.7 times that (12 MiB), "
        in retraining.say_memory(budget)
    )
