"""tokens=text and tokens=image: what statistics and losses count of text with pictures."""

import pytest
import torch

from analysis.errors import RecipeError, UsageError
from analysis.models.anatomy import anatomy
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.targets import problem
from analysis.reconstruction.units import pieces
from analysis.streams.streams import input_statistics, open_streams
from tests.helpers.pictured import pictured
from tests.helpers.small import small_llama, windows

STEPS = "epochs=1,batch=2,lr=1e-3"


def test_a_recipe_that_does_not_say_so_is_as_it_was():
    plain = Recipe.parse("wanda-50% BR+GP")
    assert "tokens" not in plain.to_dict() and "tokens" not in str(plain)
    chosen = Recipe.parse("wanda-50%[tokens=text] BR+GP")
    assert Recipe.parse(str(chosen)) == chosen and chosen.digest() != plain.digest()
    assert Recipe.from_dict(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wanda-50%[tokens=pictures] LR", "tokens"),
        ("wanda-50% BR[train=projector]", "train=projector is a part of a whole model that reads pictures"),
        ("magnitude-50%[tokens=text] LR", "tokens=text does not apply: nothing looks at inputs"),
        (
            "magnitude-50%[tokens=image] retrain[objective=hidden]",
            "tokens=image does not apply: nothing looks at inputs",
        ),
        ("flap-neurons-50%[scope=global,tokens=text] LR", "tokens=text does not apply: scope=global looks at whole"),
    ],
)
def test_what_would_do_nothing_is_refused(text, said):
    with pytest.raises(RecipeError, match=said):
        Recipe.parse(text)


def test_text_without_pictures_is_refused():
    with pytest.raises(UsageError, match="tokens=image: the calibration text has no pictures"):
        prune(small_llama(blocks=1), "wanda-50%[tokens=image] LR", windows(2))


@pytest.mark.parametrize("tokens", ["text", "image"])
def test_statistics_and_targets_are_those_of_the_tokens_asked_for(tokens):
    model, given = pictured("llava", padded=True)
    parts = anatomy(model)
    block = parts.blocks[0]
    streams = open_streams(model, parts, "calibration", given, tokens=tokens)
    matrix = block.matrices[0]
    statistics = input_statistics(block, [matrix], streams, streams.dense, "gram", torch.float64)[matrix.name]
    read = block.module.input_layernorm(streams.dense)[given.which(tokens)].double()
    assert statistics.tokens == int(given.which(tokens).sum())
    assert torch.allclose(statistics.gram, read.T @ read, rtol=1e-5, atol=1e-6)
    recipe = Recipe.parse(f"wanda-50%[tokens={tokens}] BR")
    (piece,) = pieces([block], recipe.unit)
    assert torch.equal(problem(piece, piece, streams, recipe).mask, given.which(tokens))


@pytest.mark.slow
@pytest.mark.parametrize("method", [f"BR+GP[{STEPS}]", "ridge"])
def test_what_is_counted_ends_with_the_smaller_error(method):
    model, given = pictured("llava", 6)
    errors = {}
    for tokens in ("text", "image"):
        rows = prune(model, f"wanda-60%[tokens={tokens}] {method}", given).tables["positions"]
        last = rows[(rows.block == rows.block.min()) & (rows.kind == "total")]
        errors[tokens] = last.set_index("at").error
    for tokens, other in (("text", "image"), ("image", "text")):
        assert errors[tokens][tokens] < errors[other][tokens]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ce", "distill", "hidden"])
@pytest.mark.parametrize("train", ["projector", "language", "masklora,rank=2", "all"])
def test_retraining_changes_what_it_names_and_nothing_else(train, objective):
    model, given = pictured("llava", 4)
    plain = prune(model, "wanda-50% LR", given).model.state_dict()
    options = f"train={train},objective={objective},epochs=2,batch=2,lr=1e-3"
    pruned = prune(model, f"wanda-50% retrain[{options}]", given)
    changed = {name for name, value in pruned.model.state_dict().items() if not torch.equal(value, plain[name])}
    part = lambda name: next((p for p in ("vision_tower", "multi_modal_projector") if p in name), "language")
    wanted = {"projector": {"multi_modal_projector"}, "all": {"vision_tower", "multi_modal_projector", "language"}}
    assert {part(name) for name in changed} == wanted.get(train, {"language"})
    steps = pruned.tables["steps"]
    assert steps.error.iloc[-1] < steps.error.iloc[0]


@pytest.mark.parametrize("train", ["projector", "language"])
def test_a_part_that_a_model_does_not_have_is_refused_before_the_work(train):
    with pytest.raises(UsageError, match=f"train={train} is of models that read pictures through a projector"):
        prune(small_llama(blocks=1), f"wanda-50% retrain[train={train}]", windows(2))
