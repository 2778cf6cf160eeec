"""Attention and MLP pruned alone: what each costs, beside the paper, and which half is said to cost more."""

import pytest

from analysis.errors import UsageError
from analysis.present import halves
from analysis.study.grids import recipes
from tests.helpers.studies import study
from tests.helpers.tables import put

MATRICES = ["q_proj+o_proj", "up_proj+down_proj"]


@pytest.fixture(scope="module")
def table():
    patterns = [f"50%[skip={MATRICES[1]}]", f"50%[skip={MATRICES[0]}]", "50%"]
    tables = study(recipes(["wanda"], patterns, ["LR", "BR"], epochs=1), samples=(8,), seeds=(0, 1, 2), blocks=1)
    pruned = tables.perplexity["which"] == "pruned"
    kept_mlp = tables.perplexity["recipe"].str.contains("up_proj")
    kept_attention = tables.perplexity["recipe"].str.contains("q_proj")
    rise = 1.4 - 0.2 * kept_mlp - 0.3 * kept_attention + 0.001 * tables.perplexity["seed"] * kept_mlp
    level = 2.0 + tables.perplexity["seed"]
    return tables.perplexity.assign(perplexity=level * rise.where(pruned, 1.0))


def test_each_half_rises_above_its_own_dense_model(table):
    made = halves.halves(table, MATRICES)
    value = made.set_index(["part", "method"])["value"]
    assert value["attention", "LR"] == pytest.approx(20.1) and value["MLP", "BR"] == pytest.approx(10)
    assert value["both", "LR"] == pytest.approx(40) and value[halves.DIFFERENCE, "LR"] == pytest.approx(10.1)
    beside = halves.beside_halves(made)
    assert beside.loc[("attention", "LR")].tolist() == pytest.approx([20.1, 18.66])
    assert beside.loc[("both", "BR"), "paper, OPT-125M, %"] == pytest.approx(15.47)


def test_a_half_costs_more_only_where_the_interval_says_so(table):
    made = halves.halves(table, MATRICES)
    said = halves.say_halves(made)
    assert (
        "attention +20.1 %, MLP +10.0 %, both +40.0 %; attention alone costs more: attention less MLP +10.1 (" in said
    )
    unclear = made.assign(low=-5.0)
    assert "no difference between the halves is shown" in halves.say_halves(unclear)
    other = put(unclear.assign(high=-1.0), -2.0, part=halves.DIFFERENCE, method="LR")
    assert "; the MLP alone costs more: attention less MLP -2.0 (-5.0 to -1.0 points)" in halves.say_halves(other)


def test_the_figure_has_every_part_here_and_in_the_paper(table):
    made = halves.halves(table, MATRICES)
    (ax,) = halves.plot_halves(made).axes
    drawn = {line.get_gid(): line for line in ax.lines if line.get_gid()}
    assert set(drawn) == {f"{source} {part}" for source in ("here", "paper") for part in halves.PARTS}
    assert list(drawn["here attention"].get_ydata()) == pytest.approx([20.1, 20.1])
    assert list(drawn["paper both"].get_ydata()) == pytest.approx([31.42, 15.47], abs=0.01)
    assert ax.get_yscale() == "symlog" and [text.get_text() for text in ax.get_xticklabels()] == ["mask", "BR"]


def test_without_one_of_the_three_there_is_no_comparison(table):
    with pytest.raises(UsageError, match="no run prunes attention"):
        halves.halves(table[~table["recipe"].str.contains("up_proj")], MATRICES)
    with pytest.raises(UsageError, match="two lists"):
        halves.halves(table, MATRICES[:1])


def test_a_missing_row_is_not_called_a_missing_column_alone(table):
    made = halves.halves(table, MATRICES)
    with pytest.raises(UsageError, match="'MLP' is no column and no row there"):
        halves.say_halves(made[made["part"] != "MLP"])
