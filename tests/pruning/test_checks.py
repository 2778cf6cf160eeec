"""What a recipe asks: every rule once, from whatever is known, before torch is."""

import subprocess
import sys

import pytest

from analysis import paths
from analysis.models.shape import model_shape
from analysis.pruning.checks import label_problem, misfits, shape_misfits, shrink_problem
from analysis.recipe.recipe import Recipe

SHAPES = {"0.q_proj": (8, 20), "0.down_proj": (20, 6)}


@pytest.mark.parametrize(
    "recipe, known, said",
    [
        ("wanda-50% BR[width=9]", {"blocks": 8}, "width=9: the model has 8 blocks"),
        ("wanda-50% BR[width=9,overlap=1]", {"blocks": 8}, None),
        ("wanda-50% retrain", {"answers": "classes"}, "this model answers with classes"),
        ("wanda-50% retrain", {"answers": "next token"}, None),
        ("wanda-2:4 LR", {"shapes": SHAPES}, "does not divide the inputs of 1 matrices, the first is 0.down_proj"),
        ("wanda-2:4 LR", {"shapes": SHAPES, "oriented": False}, None),
        (
            "wanda-50% BR[train=masklora,rank=7]",
            {"shapes": SHAPES, "oriented": False},
            "rank=7 is above the rank of 1 matrices, the smallest is 0.down_proj; give a rank of at most 6",
        ),
        ("wanda-50% BR[select=held-out]", {"windows": 1}, "select=held-out sets some of the calibration windows aside"),
        ("flap-neurons-50% LIAR[penalty=held-out]", {"windows": 1}, "penalty=held-out sets some"),
        ("flap-neurons-50% LIAR[penalty=held-out]", {"windows": 2}, None),
        ("wanda-50% BR", {"windows": 1}, None),
        ("reap-experts-50% LR", {"has": ()}, "pattern experts-50% removes a mixture's experts, and this model has"),
        ("reap-experts-50% LR", {"has": {"experts"}}, None),
        ("wanda-50%[starved=magnitude] LR", {"has": ()}, "starved speak of a mixture's experts"),
        ("wanda-50% retrain[train=projector]", {"has": {"pictures"}}, "train=projector is of models that read"),
        ("wanda-50% retrain[train=language]", {"has": {"pictures"}}, None),
        ("wanda-50% retrain[train=language]", {"has": ()}, "train=language is of models that read pictures"),
    ],
)
def test_each_rule_speaks_where_its_facts_are_known(recipe, known, said):
    parsed = Recipe.parse(recipe)
    assert misfits(parsed) == []
    problems = misfits(parsed, **known)
    assert len(problems) == (said is not None) and all(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    "recipe, said",
    [
        ("wanda-99.9999999% LR", "would remove every weight"),
        ("wanda-2:7 LR", "does not divide the inputs"),
        ("wanda-50%[skip=first:99] LR", "skip=first:99 leaves nothing to prune in 8 blocks"),
        ("wanda-50%[skip=nothing_proj] LR", "no pruned matrix is named nothing_proj"),
        ("influence-blocks-99% LR", "blocks-99% cannot be taken out of 8 blocks"),
        ("wanda-50% BR[train=masklora,rank=500]", "rank=500 is above the rank"),
        ("wanda-50% BR+GP", None),
    ],
)
def test_a_shape_is_refused_what_the_model_would_be(recipe, said):
    problems = shape_misfits(Recipe.parse(recipe), model_shape("lab"), "cpu")
    assert len(problems) == (said is not None) and all(said in problem for problem in problems), problems


def test_labels_and_shrinking():
    assert label_problem(["a"]) is None and "'calibration' is taken" in label_problem(["a", "calibration"])
    assert label_problem(["validation"]) is None
    assert "'validation' is taken" in label_problem(["a", "validation"], selects=True)
    assert shrink_problem(Recipe.parse("flap-neurons-50% LR")) is None
    assert "wanda-50% LR removes single weights" in shrink_problem(Recipe.parse("wanda-50% LR"))


@pytest.mark.slow
def test_checking_loads_no_torch():
    code = "import sys, analysis.pruning.checks, analysis.study.job; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
