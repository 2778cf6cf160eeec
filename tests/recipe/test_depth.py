"""Patterns of blocks: written and read back, how many go, and every misfit named."""

import itertools

import pytest

from analysis.errors import RecipeError, UsageError
from analysis.recipe.depth import removable, removed_count, runs
from analysis.recipe.parts import DEPTH, Pattern
from analysis.recipe.recipe import Recipe
from analysis.recipe.words import DEPTH_METHODS, DEPTH_WORDS, WEIGHT_METHODS

GOOD = [
    "influence-blocks-25% LR",
    "perplexity-blocks-2[skip=first:2+last:1,contiguous=true] refit+GP",
    "gain-attention-12.5% BR+GP[unit=sub-block]",
    "random-mlp-3 patch[form=bias]",
    "angular-blocks-3 replace[penalty=held-out,seed=3]",
    "influence-blocks-25% BR+GP+CR[repair=refit,penalty=0.1]",
    "deepest-blocks-1 retrain[objective=distill]",
]


@pytest.mark.parametrize("text", GOOD)
def test_the_text_and_the_table_say_the_same(text):
    recipe = Recipe.parse(text)
    assert str(recipe) == text
    assert Recipe.from_toml(recipe.to_toml()) == recipe == Recipe.from_dict(recipe.to_dict())
    assert recipe.masks_first and recipe.pattern.depth and not recipe.pattern.whole


def test_every_combination_is_a_recipe_of_its_own():
    methods = [*(name for name in WEIGHT_METHODS if name != "ridge"), *DEPTH_METHODS]
    words = [word for word in DEPTH_WORDS if word != "angular"]
    texts = [
        f"{word}-{kind}-2 {method}"
        for word, kind, method in itertools.product(words, DEPTH, methods)
        if kind == "blocks" or not method.startswith("ghost")
    ]
    assert len({Recipe.parse(text).digest() for text in texts}) == len(texts)
    one, other, third = (Recipe.parse(f"influence-blocks-{amount} LR").digest() for amount in ("2", "3", "25%"))
    assert len({one, other, third}) == 3


WRONG = [
    ("wanda-blocks-25% LR", "wanda does not score blocks; blocks take random, influence, angular"),
    ("influence-25% LR", "influence scores blocks: influence-blocks-25%, influence-attention-25%, influence-mlp-25%;"),
    ("influence-heads-25% LR", "influence scores single weights; heads take"),
    ("influence-blocks-2:4 LR", "N:M is a pattern of single weights; blocks take a share, as in blocks-50%"),
    ("influence-blocks-0 LR", "number must be a whole number of at least 1, got 0"),
    ("flap-heads-2 LR", "number is an option of kind=blocks or attention or mlp, not of kind=heads"),
    ("flap-heads-50%[contiguous=true] LR", "contiguous is an option of kind=blocks or attention or mlp"),
    ("influence-blocks-2[shares=0.5+0.2] LR", "shares=0.5+0.2 does not go with blocks"),
    ("influence-blocks-2[skip=down_proj] LR", "skip=down_proj: down_proj is a matrix"),
    ("influence-mlp-2 ghost+GP", "ghost stands in the place of whole blocks; mlp take LR, BR,"),
    ("angular-mlp-2 LR", "angular compares runs of whole blocks; mlp take random, influence, perplexity"),
    ("angular-blocks-2[contiguous=true] LR", "contiguous=true is what angular does anyway"),
    ("influence+swaps-blocks-2 LR", "+swaps exchanges single weights; write influence-blocks-2"),
    ("influence-blocks-2 ridge", "ridge refits matrices that lost single weights; blocks take LR, BR"),
    ("influence-blocks-2 BR[unit=sub-block]", "unit=sub-block: a whole block takes over for those removed behind it"),
    ("influence-blocks-2 LIAR", "LIAR makes up for whole structures, of a pattern such as heads-50%"),
    ("flap-heads-50% refit", "refit makes up for blocks, of a pattern such as blocks-25% or attention-25% or mlp-25%;"),
    ("wanda-50% BR[repair=patch]", "repair=patch makes up for blocks"),
    ("influence-blocks-2 refit[form=bias]", "form is an option of patch, not of refit"),
    (
        "influence-blocks-2[statistics=dense] LR",
        "statistics=dense does not apply: influence chooses on the dense model",
    ),
    ("deepest-blocks-2[added=all] LR", "added=all does not apply to deepest without refinement"),
]


@pytest.mark.parametrize("text, said", WRONG)
def test_wrong_recipes_are_refused_by_name(text, said):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text)
    assert any(problem.startswith(said) or said in problem for problem in caught.value.problems), caught.value


def test_a_share_and_a_number_at_once_are_refused():
    with pytest.raises(RecipeError, match=r"blocks take a share \(blocks-25%\) or a number \(blocks-2\): one of them"):
        Pattern(kind="blocks", sparsity=0.25, number=2)


def test_how_many_go_and_which_may():
    count = lambda text, blocks=8: removed_count(Recipe.parse(f"random-{text} LR").pattern, blocks)
    assert [count(text) for text in ("blocks-25%", "mlp-50%", "attention-3", "blocks-0%", "blocks-12.5%")] == [
        2,
        4,
        3,
        0,
        1,
    ]
    assert count("blocks-33%", 6) == 2  # within a hundredth
    pattern = Recipe.parse("random-blocks-2[skip=first:1+5+last:1] LR").pattern
    assert removable(pattern, 8) == [1, 2, 3, 4, 6]
    assert [list(run) for run in runs([1, 2, 3, 5, 6], 2)] == [[1, 2], [2, 3], [5, 6]]


@pytest.mark.parametrize(
    "text, blocks, said",
    [
        ("blocks-25%", 6, r"blocks-25% cannot be taken out of 6 blocks; possible are 0%, 16.7%, .*blocks-2$"),
        ("blocks-8", 8, "blocks-8 would take out 8 of 8; one must stay: at most 7 can go"),
        ("mlp-5[skip=first:2+last:2]", 8, r"5 of 8; one must stay and skip=first:2\+last:2 keeps 4: at most 4 can go"),
        ("blocks-3[contiguous=true,skip=2+5]", 8, "no run of 3 blocks is free to go"),
        ("blocks-2[skip=9]", 8, "skip=9: there is no block 9; the model has 8, from 0 to 7"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_by_name(text, blocks, said):
    with pytest.raises(UsageError, match=said):
        removed_count(Recipe.parse(f"influence-{text} LR").pattern, blocks)
