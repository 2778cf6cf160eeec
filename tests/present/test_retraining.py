"""Local reconstruction against retraining: tables, and claims that turn round when a number does."""

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.present import retraining
from analysis.present.style import say_method
from tests.helpers.tables import put

STORIES, LORA = "lab:stories/held-out", "retrain[train=masklora]"


def test_budgets_count_tokens_once_however_many_units_and_seconds_over_all(spent):
    out = retraining.budgets(spent.perplexity, spent.steps, spent.cost).set_index(
        ["split", "method", "samples", "epochs"]
    )
    local, whole = (out.loc[("lab:stories/held-out", method, 32, 4)] for method in ("BR+GP", "retrain"))
    assert local["tokens"] == whole["tokens"] == 128 * 32 * 4
    assert local["solve_seconds"] == pytest.approx(3 * 0.1 * 4 * 32) and local["solver_memory_mib"] == 12.0
    assert local["text"] == 128 * 32
    nothing = out.loc[[key for key in out.index if key[1] == "LR"]]
    assert (nothing[["tokens", "solve_seconds", "solver_memory_mib"]] == 0).all(axis=None)
    assert set(nothing.index.get_level_values("epochs")) == {0} and "dense" not in out.index.get_level_values("method")
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
        and "32 windows, 4 epochs, per cent above dense: retrain, all 0.5" in said
        and said.splitlines()[0].startswith("- **Wanda**, held-out stories, 8 windows, 1 epoch, per cent")
    )


def test_epochs_are_chosen_on_the_other_seeds(budget):
    lora = (budget["method"] == LORA) & (budget["samples"] == 8)
    table = budget.copy()
    table.loc[lora & (table["epochs"] == 1), ["seed 0", "seed 1"]] = [9.0, 3.0]
    table.loc[lora & (table["epochs"] == 4), ["seed 0", "seed 1"]] = [2.0, 5.0]
    best = retraining.at_their_best(table).set_index(["method", "samples"]).loc[(LORA, 8)]
    # seed 0 takes the epochs that are best on seed 1, and the other way round
    assert (best["seed 0"], best["seed 1"], best["epochs"]) == (9.0, 5.0, 2.5)
    assert best["text"] == 8 * 128 and best["tokens"] == 8 * 128 * 2.5
    alone = retraining.at_their_best(table.drop(columns="seed 1")).set_index(["method", "samples"]).loc[(LORA, 8)]
    assert alone["seed 0"] == 2.0 and alone["epochs"] == 4


def test_epochs_are_chosen_among_those_that_a_seed_has(budget):
    lora = (budget["method"] == LORA) & (budget["samples"] == 8)

    def chosen(one, four):
        table = budget.copy()
        table.loc[lora & (table["epochs"] == 1), ["seed 0", "seed 1"]] = one
        table.loc[lora & (table["epochs"] == 4), ["seed 0", "seed 1"]] = four
        return retraining.at_their_best(table).set_index(["method", "samples"]).loc[(LORA, 8)]

    alone = chosen([2.0, np.nan], [3.0, np.nan])
    assert (alone["seeds"], alone["seed 0"], alone["epochs"]) == (1, 2.0, 1)
    ragged = chosen([2.0, np.nan], [np.nan, 3.0])
    assert (ragged["seeds"], ragged["seed 0"], ragged["seed 1"], ragged["epochs"]) == (2, 2.0, 3.0, 2.5)


@pytest.fixture
def best(budget):
    """One row for each method and number of windows, whose numbers a test sets: 20 % above dense everywhere."""
    return level(retraining.at_their_best(budget), 20.0)


def level(table, value, **where):
    """Value in every seed, and in the mean, with a little noise."""
    rows = np.logical_and.reduce([table[name] == word for name, word in where.items()] or [np.full(len(table), True)])
    table = table.copy()
    table.loc[rows, ["value", "seed 0", "seed 1"]] = [value, 0.999 * value, 1.001 * value]
    return table


def test_how_many_times_less_text_is_as_good(best):
    table = level(best, 5.0, method=LORA, samples=32)
    table = level(level(table, 9.0, method="BR+GP", samples=8), 4.0, method="BR+GP", samples=32)
    whole, distilled, said = retraining.say_less(table).splitlines()
    assert (
        "MaskLoRA: at best 5.0 % above dense, with 4,096 tokens of text; BR+GP is as good with 4,096 (-1.0 points"
        in said
    )
    assert "1 to 4 times less text" in said and said.endswith("not 10 times less text, against the claim.")
    # nobody claimed it of them
    assert "retrain, all" in whole and "distilled" in distilled and "claim" not in whole + distilled
    early = retraining.say_less(level(table, 4.0, method="BR+GP", samples=8)).splitlines()[-1]
    assert "at least 4 times less text" in early and early.endswith("stays open.")
    far = table.assign(text=table["text"].where(table["samples"] == 32, 100.0))
    much = retraining.say_less(level(far, 4.0, method="BR+GP", samples=8)).splitlines()[-1]
    assert much.endswith("more than 10 times less text, as claimed.")
    none = retraining.say_less(level(table, 20.0, method="BR+GP", samples=32)).splitlines()[-1]
    assert none.endswith("no local run is as good, against the claim.")
    alone = retraining.say_less(table[table["method"].str.startswith("retrain")])
    assert alone.count("; no local method was run.") == 3 and "claim" not in alone


def test_the_whole_is_set_against_its_part(best):
    said = retraining.say_baselines(
        level(level(best, 5.0, method="retrain"), 7.0, method=LORA, samples=32)
    ).splitlines()
    assert said[1].endswith(
        "retrain, all 5.0 % above dense, retrain, MaskLoRA 7.0 %: -2.0 points [-2.0, -2.0], better."
    )
    assert "8 windows" in said[0] and "20.0 %: -15.0 points" in said[0] and said[0].endswith("better.")
    assert "not both run" in retraining.say_baselines(best[best["method"] != LORA])


def test_a_table_without_training_is_refused(budget):
    with pytest.raises(UsageError, match="no trained runs"):
        retraining.say_equal_tokens(budget[budget["epochs"] == 0])


def test_names_keep_apart_and_in_order():
    at = retraining._apart([0.1, 0.11, 0.12, 0.5], 0.05)
    assert at == pytest.approx([0.06, 0.11, 0.16, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["plot_budget", "plot_more_text"])
def test_lines_end_in_a_name_and_an_interval(budget, best, draw):
    table = best if draw == "plot_more_text" else budget[budget["samples"] == 32]
    (ax,) = getattr(retraining, draw)(table).axes
    x = "text" if draw == "plot_more_text" else "tokens"
    drawn = {
        (line.get_gid().removeprefix("method "), *point)
        for line in ax.lines
        if (line.get_gid() or "").startswith("method") and line.get_gid() != "method LR"
        for point in line.get_xydata()
    }
    rows = table[table["method"] != "LR"]
    assert drawn == {(row.method, getattr(row, x), row.value) for row in rows.itertuples()}
    names = [text.get_text() for text in ax.texts]
    assert sorted(names) == sorted(say_method(name) for name in set(table["method"]))
    ends = table.sort_values(x).groupby("method").tail(1)
    intervals = {tuple(line.get_ydata()) for line in ax.lines if line.get_gid() == "interval"}
    assert intervals == {(row.low, row.high) for row in ends[ends["low"].notna()].itertuples()} and len(intervals) == 5


def test_memory_is_told_as_multiples_of_the_least(budget):
    assert (
        "With 8 windows the solver holds least with BR+GP, sub-blocks, 7 MiB; BR+GP 1.7 times that (12 MiB), "
        in retraining.say_memory(budget)
    )
    alone = retraining.say_memory(budget[budget["method"].isin(["LR", "BR+GP"])])
    assert alone == "- With 8 windows the solver holds least with BR+GP, 12 MiB."
