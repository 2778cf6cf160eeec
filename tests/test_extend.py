"""Criteria, patterns and solvers from outside the package: usable in recipes, runs, digests, lists and figures."""

import json

import pytest
import torch

import analysis
from analysis import Recipe, Word, extend, prune
from analysis.cli import main
from analysis.errors import RecipeError, SparsityError, UsageError
from analysis.masks.patterns import keep_largest, kept
from analysis.models.anatomy import anatomy
from analysis.present.style import CRITERIA, CRITERION_LOOKS, say_method
from analysis.pruning.choosers import CHOOSERS
from analysis.recipe.fields import amount, count, share
from analysis.recipe.words import KIND_WORDS, METHOD_WORDS
from tests.helpers.small import small_llama, windows


@pytest.fixture(autouse=True)
def as_before():
    """Every dict of words and functions as it was."""
    dicts = [*(d for pair in extend.REGISTERED for d in pair), METHOD_WORDS, CHOOSERS]
    copies = [dict(d) for d in dicts]
    yield
    for d, copy in zip(dicts, copies, strict=True):
        d.clear()
        d.update(copy)


def mixed(weight, statistics, generator, *, mix):
    wanda = weight.abs() * (statistics.diagonal / statistics.tokens).sqrt()
    return mix * weight.abs() + (1 - mix) * wanda


def tiles(scores, share, *, size):
    """Whole tiles of `size` consecutive inputs go; what is left over goes weight by weight."""
    keep, width = kept(scores.numel(), share), scores.shape[1]
    sums = scores.reshape(-1, width // size, size).sum(2)
    best = keep_largest(sums.reshape(1, -1), keep // size).view_as(sums).repeat_interleave(size, 1).view_as(scores)
    free = torch.where(best, -torch.inf, scores.double())
    return best | keep_largest(free.reshape(1, -1), keep - int(best.sum())).view_as(scores)


def rescaled(state, visit, meter):
    """Every row as long as the dense one, as far as the power says."""
    power = state.recipe.solver.options()["power"]
    for index in visit.blocks:
        block, dense = state.pruned.blocks[index], state.dense.blocks[index]
        for matrix, before in zip(block.matrices, dense.matrices, strict=True):
            with meter.stage(visit.index, "solve", tokens=0, trainable=matrix.rows):
                ratio = before.weight().norm(dim=1) / matrix.weight().norm(dim=1).clamp(min=1e-9)
                matrix.assign(matrix.weight() * ratio[:, None] ** power)
            errors = {"error_before": 0.0, "error_after": 0.0, "steps": 0}
            state.rows["layers"].append({"block": index, "matrix": matrix.name, "action": "rescale", **errors})


MIXED = Word(
    "mixed",
    "Mixed",
    "magnitude and Wanda, mixed",
    evidence="diagonal",
    version="1",
    options={"mix": share(0.5, meaning="the share of magnitude")},
    implies={"group": "row"},
)
TILES = Word(
    "tiles",
    "tiles",
    "remove this share of the weights, tile by tile",
    version="1",
    options={"size": count(2, 1, meaning="inputs of a tile")},
)
RESCALE = Word(
    "rescale",
    "Row norms",
    "rows as long as before",
    version="1",
    options={"power": amount(1.0, meaning="0: leave them, 1: as long as before")},
)


def registered():
    analysis.register_criterion(MIXED, mixed)
    analysis.register_pattern(TILES, tiles)
    analysis.register_solver(RESCALE, rescaled)


@pytest.mark.parametrize(
    "text",
    [
        "mixed-50% LR",
        "mixed-50%[mix=0.25] BR+GP[epochs=3]",
        "mixed+swaps-2:4[mix=0.25,rounds=3,added=all] ridge",
        "wanda-tiles-50% LR",
        "mixed-tiles-37.5%[mix=0.25,size=4] rescale[power=0.5,seed=3]",
        "sparsegpt-50% rescale[target=dense]",
    ],
)
def test_words_from_outside_round_trip_with_their_options(text):
    registered()
    recipe = Recipe.parse(text)
    assert str(recipe) == text and hash(recipe) == hash(Recipe.parse(text))
    assert Recipe.from_toml(recipe.to_toml()) == Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.digest() == Recipe.parse(text).digest()


def test_defaults_are_spelled_out_in_the_dict_and_mean_the_same():
    registered()
    plain, said = Recipe.parse("mixed-tiles-50% rescale"), Recipe.parse("mixed-tiles-50%[mix=0.5,size=2.0] rescale")
    assert plain == said and plain.digest() == said.digest() and str(said) == "mixed-tiles-50% rescale"
    assert plain.to_dict()["criterion"] == {"name": "mixed", "mix": 0.5}
    assert plain.to_dict()["pattern"]["size"] == 2 and plain.criterion.options() == {"mix": 0.5}
    assert Recipe.parse("mixed-50% LR").pattern.resolve("mixed").group == "row"


def test_the_digest_changes_with_the_version_and_that_of_other_recipes_does_not():
    wanda = Recipe.parse("wanda-50% LR").digest()
    digests = set()
    for version in ("1", "2"):
        analysis.register_criterion(Word("mixed", "Mixed", "mixed", evidence="diagonal", version=version), mixed)
        digests.add(Recipe.parse("mixed-50% LR").digest())
        for words, functions in extend.REGISTERED[:1]:
            del words["mixed"], functions["mixed"]
    registered()
    assert len(digests) == 2 and Recipe.parse("wanda-50% LR").digest() == wanda


@pytest.mark.parametrize(
    "text, problems",
    [
        ("mixed-50%[mix=2,mix2=1] LR", ["mix must be a number from 0 to below 1, got 2", "unknown option 'mix2'"]),
        ("wanda-50%[mix=0.2] LR", ["mix is an option of mixed, not of wanda"]),
        ("wanda-50%[size=4] LR", ["size is an option of tiles, not of weights"]),
        (
            "sparsegpt-tiles-50% LR",
            ["sparsegpt updates weights while it chooses, by a share or N:M; tiles take random"],
        ),
        ("wanda+swaps-tiles-50% LR", ["+swaps exchanges weights within rows, columns or N:M"]),
        ("wanda-tiles-2:4 LR", ["N:M is a pattern of single weights; tiles take a share, as in tiles-50%"]),
        ("wanda-tiles-50%[group=row] LR", ["group is an option of kind=weights, not of kind=tiles"]),
        ("wanda-50% rescale[unit=block]", ["rescale is a closed form for one matrix: unit must be matrix"]),
        ("wanda-50% rescale[epochs=3]", ["epochs is an option of gradient and retrain, not of rescale"]),
        ("flap-heads-50% rescale", ["rescale refits matrices that lost single weights; heads take LR, BR,"]),
        ("wnada-tiles-50% LR", ["criterion 'wnada' is unknown"]),
    ],
)
def test_what_is_wrong_with_words_from_outside_is_said_as_of_the_package_s_own(text, problems):
    registered()
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text)
    assert len(caught.value.problems) == len(problems), caught.value.problems
    for sentence in problems:
        assert any(sentence in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.slow
def test_a_criterion_from_outside_prunes():
    registered()
    dense, texts = small_llama(blocks=2), windows(6)
    ends = {mix: prune(dense, Recipe.parse(f"mixed-50%[mix={mix}] LR"), texts) for mix in (0, 0.99)}
    wanda = prune(dense, Recipe.parse("wanda-50% LR"), texts)
    assert all(torch.equal(mask, wanda.masks[name]) for name, mask in ends[0].masks.items())
    assert not all(torch.equal(mask, wanda.masks[name]) for name, mask in ends[0.99].masks.items())
    assert all(int(mask[row].sum()) == mask.shape[1] // 2 for mask in ends[0.99].masks.values() for row in (0, -1))


@pytest.mark.slow
def test_a_pattern_from_outside_prunes_and_its_counts_are_checked():
    registered()
    result = prune(small_llama(blocks=2), Recipe.parse("wanda-tiles-50%[size=4] BR[epochs=1]"), windows(6))
    for mask in result.masks.values():
        assert int(mask.sum()) == mask.numel() // 2
        whole = mask.view(mask.shape[0], -1, 4).sum(2)
        assert int(((whole > 0) & (whole < 4)).sum()) <= 1, "a tile stays or goes"
    analysis.register_pattern(
        Word("broken", "broken", "keeps what it likes", version="1"), lambda scores, share: scores > 0
    )
    with pytest.raises(SparsityError, match="keeps .* weights instead of"):
        prune(small_llama(blocks=1), Recipe.parse("magnitude-broken-50% LR"), windows(4))
    analysis.register_pattern(Word("numbers", "numbers", "no mask at all", version="1"), lambda scores, share: scores)
    with pytest.raises(SparsityError, match="must be bool of shape"):
        prune(small_llama(blocks=1), Recipe.parse("magnitude-numbers-50% LR"), windows(4))


@pytest.mark.slow
def test_a_structured_criterion_from_outside_prunes():
    def first(structure, evidence, generator, *, last):
        order = torch.arange(structure.count, dtype=torch.float64)
        return order if last else order.flip(0)

    word = Word("first", "First", "keep the first", version="1", options={"last": count(0, 0, meaning="1: the last")})
    analysis.register_structured_criterion(word, first)
    for last in (0, 1):
        result = prune(small_llama(blocks=1), Recipe.parse(f"first-neurons-50%[last={last}] LR"), windows(4))
        mask = next(iter(result.structure_masks.values()))
        half = len(mask) // 2
        assert mask[:half].all() == (not last) and mask[half:].all() == bool(last)
    with pytest.raises(RecipeError, match="first scores whole structures"):
        Recipe.parse("first-50% LR")


@pytest.mark.slow
def test_a_solver_from_outside_solves():
    registered()
    dense = small_llama(blocks=2)
    result = prune(dense, Recipe.parse("magnitude-50% rescale"), windows(6))
    before = dict(anatomy(dense).matrices())
    for name, matrix in anatomy(result.model).matrices():
        torch.testing.assert_close(matrix.weight().norm(dim=1), before[name].weight().norm(dim=1))
        assert not matrix.weight()[~result.masks[name]].any()
    assert set(result.tables["layers"].action) == {"rescale"} and result.recipe.method == "rescale"
    plain = prune(dense, Recipe.parse("magnitude-50% rescale[power=0.0]"), windows(6))
    alone = prune(dense, Recipe.parse("magnitude-50% LR"), windows(6))
    weights = alone.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in plain.model.state_dict().items())


def test_words_from_outside_are_listed_and_drawn(capsys):
    registered()
    assert main(["list", "recipes", "--json"]) == 0
    rows = {(row["part"], row["word"]): row["meaning"] for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert rows["criterion", "mixed"] == MIXED.meaning and rows["pattern", "tiles-50%"] == TILES.meaning
    assert rows["method", "rescale"] == RESCALE.meaning and "of mixed: the share of magnitude" in rows["option", "mix"]
    assert CRITERIA["mixed"] == "Mixed" and list(CRITERIA)[5] == "mixed" and say_method("rescale") == "Row norms"
    look = CRITERION_LOOKS["mixed"]
    assert all(look.color != other.color for name, other in CRITERION_LOOKS.items() if name != "mixed")


@pytest.mark.parametrize(
    "register, word, problem",
    [
        ("criterion", Word("wanda", "W", "w", version="1"), "the name is taken"),
        ("structured_criterion", Word("flap", "F", "f", version="1"), "the name is taken"),
        ("pattern", Word("heads", "H", "h", version="1"), "the name is taken"),
        ("solver", Word("ridge", "R", "r", version="1"), "the name is taken"),
        ("solver", Word("BR", "B", "b", version="1"), "the name is that of a method"),
        ("criterion", Word("my+own", "M", "m", version="1"), "a name is letters and digits"),
        ("criterion", Word("50%", "M", "m", version="1"), "a name is letters and digits"),
        ("pattern", Word("a b", "M", "m", version="1"), "a name is letters and digits"),
        ("solver", Word("x[y]", "M", "m", version="1"), "a name is letters and digits"),
        ("criterion", Word("wanda-heads", "M", "m", version="1"), "recipes could not tell it from wanda-heads"),
        ("pattern", Word("sp", "M", "m", version="1"), "recipes could not tell it from wanda-sp"),
        ("criterion", Word("own", "M", "m"), "no version given"),
        ("criterion", Word("own", "", "", version="1"), "no label given; no meaning given"),
        ("criterion", Word("own", "M", "m", version="1", evidence="gradients"), "evidence 'gradients' is none of None"),
        ("criterion", Word("own", "M", "m", version="1", implies={"group": "block"}), "group 'block' is none of"),
        (
            "criterion",
            Word("own", "M", "m", version="1", options={"damping": share(0.5, meaning="m")}),
            "option 'damping' is an option of other words already",
        ),
        (
            "pattern",
            Word("own", "M", "m", version="1", options={"seed": count(0, 0, meaning="m")}),
            "option 'seed' is an option of other words already",
        ),
        ("solver", Word("own", "M", "m", version="1", options={"own": 0.5}), "option 'own' is not made by"),
    ],
)
def test_a_word_that_cannot_be_is_refused_in_one_message(register, word, problem):
    with pytest.raises(UsageError) as caught:
        getattr(analysis, f"register_{register}")(word, mixed)
    assert problem in str(caught.value) and "cannot be registered" in str(caught.value)
    assert word.name not in KIND_WORDS or not KIND_WORDS[word.name].version


def test_workers_import_the_modules_of_registered_functions(monkeypatch):
    assert extend.modules() == []
    registered()
    assert extend.modules() == [__name__]
    monkeypatch.setattr(mixed, "__module__", "__main__")
    with pytest.raises(UsageError, match="unknown to worker processes"):
        extend.modules()
