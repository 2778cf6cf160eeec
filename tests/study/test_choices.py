"""From a notebook's parameters to recipes and labelled texts."""

import pytest

from analysis.errors import RecipeError, UsageError
from analysis.study.choices import labelled, recipes


def test_every_criterion_with_every_method_and_the_solver_where_there_is_one():
    made = recipes(["wanda", "sparsegpt"], "2:4", ["LR", "BR+GP+CR"], lr=2e-3, epochs=20)
    words = [(recipe.criterion.name, str(recipe.pattern), recipe.method) for recipe in made]
    assert words == [(criterion, "2:4", method) for criterion in ("wanda", "sparsegpt") for method in ("LR", "BR+GP+CR")]
    assert [recipe.solver.name for recipe in made] == ["none", "gradient"] * 2
    assert made[1].solver.lr == 2e-3 and made[1].solver.epochs == 20
    assert recipes(["wanda"], "50%", ["BR"])[0].solver.lr == 2e-4  # the paper's, where nothing is said


@pytest.mark.parametrize("wrong", [(["wand"], "50%", ["LR"]), (["wanda"], "150%", ["LR"]), (["wanda"], "50%", ["BR+PG"]), (["wanda"], "50%", ["BR"], {"lr": -1})])  # fmt: skip
def test_words_and_numbers_that_are_none(wrong):
    *words, solver = wrong if isinstance(wrong[-1], dict) else (*wrong, {})
    with pytest.raises(RecipeError):
        recipes(*words, **solver)


def test_texts_by_the_name_tables_give_them():
    assert labelled(["lab:stories/held-out", "corpus/a.txt[80%:]"]) == {"lab:stories/held-out": "lab:stories/held-out", "a.txt[80%:]": "corpus/a.txt[80%:]"}
    with pytest.raises(UsageError, match="same name"):
        labelled(["one/a.txt", "two/a.txt"])
