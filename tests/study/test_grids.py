"""From a notebook's parameters to recipes, jobs and labelled texts."""

import pytest

from analysis.errors import RecipeError, UsageError
from analysis.recipe.recipe import Recipe
from analysis.study.grids import closed_forms, grids, halved, labelled, recipes, retrained, structured
from analysis.study.job import grid


def test_every_criterion_with_every_method_and_the_solver_where_there_is_one():
    made = recipes(["wanda", "sparsegpt"], "2:4", ["LR", "BR+GP+CR"], lr=2e-3, epochs=20)
    words = [(recipe.criterion.name, str(recipe.pattern), recipe.method) for recipe in made]
    assert words == [
        (criterion, "2:4", method) for criterion in ("wanda", "sparsegpt") for method in ("LR", "BR+GP+CR")
    ]
    assert [recipe.solver.name for recipe in made] == ["none", "gradient"] * 2
    assert made[1].solver.lr == 2e-3 and made[1].solver.epochs == 20
    assert recipes(["wanda"], "50%", ["BR"])[0].solver.lr == 2e-4  # the paper's, where nothing is said


def test_patterns_and_refinements_multiply_and_iterations_go_to_frank_wolfe():
    made = recipes(["wanda"], ["60%", "2:4"], ["LR"], refinements=["none", "swaps", "fw"], iterations=7)
    assert [str(recipe) for recipe in made] == [
        "wanda-60% LR",
        "wanda+swaps-60% LR",
        "wanda+fw-60%[iterations=7] LR",
        "wanda-2:4 LR",
        "wanda+swaps-2:4 LR",
        "wanda+fw-2:4[iterations=7] LR",
    ]
    assert recipes(["wanda"], "50%", ["LR"], refinements=["fw"])[0].refinement.iterations == 2000


def test_units_go_to_the_methods_that_train_units_and_to_no_others():
    units = ["matrix", "sub-block", "1", "2", "model"]
    made = recipes(["wanda"], "50%", ["LR", "ridge", "retrain", "BR+GP", "IR"], units=units, epochs=3)
    assert [str(recipe.unit) for recipe in made[:3]] == ["1 block", "matrix", "model"]
    assert [str(recipe.unit) for recipe in made[3:]] == ["matrix", "sub-block", "1 block", "2 blocks", "model"] * 2
    assert [(recipe.student, recipe.target) for recipe in made[3::5]] == [("sparse", "dense"), ("dense", "dense")]
    assert [recipe.solver.epochs for recipe in made[2:]] == [3] * 11


def test_a_methods_own_options_win_over_the_common_ones():
    plain, distilled, slow = recipes(
        ["wanda"],
        "50%",
        ["retrain", "retrain[objective=distill]", "retrain[lr=0.0002,train=masklora]"],
        lr=2e-3,
        epochs=4,
    )
    # also where the own value is the default
    assert [recipe.solver.lr for recipe in (plain, distilled, slow)] == [2e-3, 2e-3, 2e-4]
    assert (
        distilled.solver.objective == "distill"
        and slow.solver.train == "masklora"
        and {r.solver.epochs for r in (plain, distilled, slow)} == {4}
    )


def test_a_list_of_values_gives_one_recipe_each_where_something_is_trained():
    made = recipes(["wanda"], "50%", ["LR", "BR", "retrain[lr=1e-3]"], lr=[2e-3, 4e-3], epochs=[1, 5])
    assert [(r.method, r.solver.lr, r.solver.epochs) for r in made[1:]] == [
        ("BR", 2e-3, 1),
        ("BR", 2e-3, 5),
        ("BR", 4e-3, 1),
        ("BR", 4e-3, 5),
        ("retrain", 1e-3, 1),
        ("retrain", 1e-3, 5),
    ]
    assert made[0].method == "LR" and len(made) == 7


def test_settings_stand_for_their_options_and_numbers_beside_them_win():
    (made,) = recipes(["wanda"], "50%", ["IR"], units=["2"], settings="paper2", epochs=3)
    assert made == Recipe.parse("wanda-50% IR[width=2,settings=paper2,epochs=3]") and made.solver.batch == 2


@pytest.mark.parametrize(
    "words, options, told",
    [
        ((["wand"], "50%", ["LR"]), {}, "wanda"),
        ((["wanda"], "150%", ["LR"]), {}, "150%"),
        ((["wanda"], ["50%", "4:2"], ["LR"]), {}, "4:2"),
        ((["wanda"], "50%", ["BR+PG"]), {}, "BR\\+GP"),
        ((["wanda"], "50%", ["BR"]), {"lr": -1}, "lr"),
        ((["wanda"], "50%", ["BR"]), {"epoch": 3}, "epochs"),
        ((["wanda"], "50%", ["LR"]), {"refinements": ["swap"]}, "swaps"),
        ((["wanda"], "50%", ["BR"]), {"units": ["half"]}, "sub-block"),
        ((["wanda"], "50%", ["BR"]), {"units": ["0"]}, "width"),
        ((["wanda"], "50%", ["LR"]), {"refinements": ["fw"], "iterations": 0}, "iterations"),
    ],
)
def test_words_and_numbers_that_are_none(words, options, told):
    with pytest.raises(RecipeError, match=told):
        recipes(*words, **options)


def test_the_closed_form_of_each_choice_of_streams_once():
    words = closed_forms(["LR", "BR", "BR+CR", "BR+GP", "IR", "retrain"])
    assert [r.method for r in recipes(["wanda"], "50%", words)] == [
        "ridge",
        "ridge[target=dense]",
        "ridge[student=dense,target=dense]",
    ]
    assert closed_forms(["LR"]) == []
    with pytest.raises(RecipeError, match="BRR"):
        closed_forms(["BRR"])


def test_retraining_in_words_with_a_rate_each():
    made = recipes(
        ["wanda"],
        "50%",
        retrained(["all", "distilled", "masklora", "norms-biases"], [1e-5, 2e-4, 1e-3, 4e-3]),
        lr=7.0,
        epochs=2,
    )
    assert [r.method for r in made] == [
        "retrain",
        "retrain[objective=distill]",
        "retrain[train=masklora]",
        "retrain[train=norms-biases]",
    ]
    assert [r.solver.lr for r in made] == [1e-5, 2e-4, 1e-3, 4e-3] and {r.solver.epochs for r in made} == {2}
    with pytest.raises(UsageError, match="lora is none of all, distilled, masklora, norms-biases"):
        retrained(["lora"], [1e-3])
    with pytest.raises(UsageError, match="1 learning rates for 2 kinds"):
        retrained(["all", "masklora"], [1e-3])


def test_texts_by_the_name_tables_give_them():
    assert labelled(["lab:stories/held-out", "corpus/a.txt[80%:]"]) == {
        "lab:stories/held-out": "lab:stories/held-out",
        "a.txt[80%:]": "corpus/a.txt[80%:]",
    }
    with pytest.raises(UsageError, match="same name"):
        labelled(["one/a.txt", "two/a.txt"])
    with pytest.raises(UsageError, match="held-out texts: none given"):
        labelled([])


def test_each_half_of_every_block_alone_and_both():
    assert halved("50%", ["q_proj+k_proj", "up_proj"]) == ["50%[skip=up_proj]", "50%[skip=q_proj+k_proj]", "50%"]
    for wrong in ([], ["q_proj"]):
        with pytest.raises(UsageError, match="two lists of matrices are needed"):
            halved("50%", wrong)


def test_one_grid_after_another_for_every_value():
    common = {
        "recipes": ["wanda-50% LR", "wanda-50% BR"],
        "samples": 4,
        "seeds": [0, 1],
        "calibration": "lab:mixed",
        "length": 16,
    }
    made = grids("added", ["self", "lab:recipes"], model="lab", added_samples=[0, 8], **common)
    assert made == grid(model="lab", added="self", added_samples=[0, 8], **common) + grid(
        model="lab", added="lab:recipes", added_samples=[0, 8], **common
    )
    assert [job.model for job in grids("model", ["lab/small", "lab"], **common)] == ["lab/small"] * 4 + ["lab"] * 4
    assert grids("model", [], **common) == []
    with pytest.raises(UsageError, match="unknown register 'rhymes'"):
        grids("added", ["lab:mixed", "lab:rhymes"], model="lab", **common)


def test_every_kind_of_structure_at_every_share_with_its_own_scope():
    made = structured(["neurons", "heads"], ["25%", "50%"], ["uniform", "global"])
    assert made == ["neurons-25%", "neurons-50%", "heads-25%[scope=global]", "heads-50%[scope=global]"]
    assert [recipe.pattern.scope for recipe in recipes(["flap"], made, ["LIAR"])] == [
        "uniform",
        "uniform",
        "global",
        "global",
    ]
    with pytest.raises(UsageError, match="layers is none of heads, neurons, structures"):
        structured(["layers"], ["50%"], ["uniform"])
    with pytest.raises(UsageError, match="1 scopes for 2 kinds"):
        structured(["neurons", "heads"], ["50%"], ["uniform"])
