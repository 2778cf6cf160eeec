"""What the package exports, called with what it does not take: only errors of the project's own, each in few words."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from analysis import AnalysisError, Recipe, Windows, Word
from analysis.errors import StoreError, UsageError
from analysis.recipe.fields import count
from tests.helpers.small import VOCABULARY, small_llama, windows

MODEL, TEXT = small_llama(blocks=1), windows(2, length=8)
NAN, HUGE = float("nan"), 10**5000
THINGS = (None, "", "x" * 70_000, b"x", True, -1, 2**70, HUGE, NAN, 1.5, [], ["x"], {}, {"x": 1}, object(), torch, 1j)
NUMBERS = (torch.ones(3), np.ones(3))


def unlike(*fits):
    """All of THINGS but those that a parameter takes."""
    kinds = tuple(kind for kind in fits if isinstance(kind, type))
    return [
        thing for thing in (*THINGS, *NUMBERS) if not any(thing is fit for fit in fits) and type(thing) not in kinds
    ]


def prune(**given):
    return analysis.prune(
        **{"model": MODEL, "recipe": "magnitude-50% LR", "calibration": TEXT, "measure": False} | given
    )


def ids(values, mask=None):
    made = torch.as_tensor(values)
    return Windows(made, torch.ones(made.shape, dtype=torch.bool) if mask is None else mask)


RESULT = prune()
PRUNE = {
    "model": [*unlike(), "lab", torch.nn.Linear(2, 2), Path("lab")],
    "recipe": [*unlike(), Path("nowhere.toml"), "wanda-50%", {"method": "LR"}, Recipe],
    "calibration": [*unlike(), [TEXT], {"a": TEXT}, TEXT.ids],
    "held_out": [*unlike(None, dict), {"x": 1}, TEXT, [("a", TEXT)], {"": TEXT}, {5: TEXT}, {"calibration": TEXT}],
    "checkpoint": [b"x", True, -1, NAN, HUGE, "", "\0", "~nosuchuser/x", [], {}, object(), torch.ones(3)],
    "measure": unlike(bool),
    "precision": [*unlike(), torch.float16, torch.bfloat16, torch.int64, "float32"],
}


@pytest.mark.parametrize("name", PRUNE)
def test_prune_refuses_what_is_no_argument(name):
    for value in PRUNE[name]:
        with pytest.raises(UsageError) as caught:
            prune(**{name: value})
        assert len(str(caught.value)) < 1500 and (name == "recipe" or name in str(caught.value)), str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "link/x", "file/x"])
def test_a_folder_that_cannot_be_made_is_told_in_few_words(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "link")
    (tmp_path / "file").write_text("mine")
    for write in (lambda: prune(checkpoint=tmp_path / name), lambda: RESULT.save(tmp_path / name)):
        with pytest.raises(StoreError) as caught:
            write()
        assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: ids([[1, 2, VOCABULARY]]), f"vocabulary is 0 to {VOCABULARY - 1}"),
        (lambda: ids([[1, -1, 2]]), "-1|negative"),
        (lambda: ids([[1.0, 2.5]]), "whole|float"),
        (lambda: ids(torch.zeros(0, 8, dtype=torch.long)), "window"),
        (lambda: ids(torch.zeros(2, 0, dtype=torch.long)), "token"),
        (lambda: ids(torch.ones(1, 65, dtype=torch.long)), "context of 64"),
        (lambda: ids([[1, 2]], torch.zeros(1, 2, dtype=torch.bool)), "token"),
    ],
)
def test_prune_refuses_windows_that_the_model_cannot_take(wrong, said):
    with pytest.raises(AnalysisError, match=said):
        prune(calibration=wrong())
    with pytest.raises(AnalysisError, match=said):
        prune(held_out={"mine": wrong()})


def test_prune_takes_a_recipe_in_each_of_its_forms(tmp_path):
    recipe = Recipe.parse("magnitude-50% LR")
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    masks = [prune(recipe=form).masks for form in (recipe, str(recipe), tmp_path / "recipe.toml", recipe.to_dict())]
    assert all(torch.equal(mask, other[name]) for other in masks[1:] for name, mask in masks[0].items())


def test_saving_refuses_what_is_no_folder(tmp_path):
    for thing in (None, "", "\0", "~nosuchuser/x", b"x", True, -1, NAN, HUGE, [], {}, object(), torch.ones(3)):
        with pytest.raises(UsageError):
            RESULT.save(thing)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(UsageError, match="is a file, or a link that leads nowhere"):
            RESULT.save(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("make", [Recipe.parse, Recipe.from_toml, Recipe.from_dict, Recipe.from_file, Recipe.of])
def test_recipes_are_read_from_nothing_else(make):
    for thing in unlike():
        with pytest.raises(AnalysisError) as caught:
            make(thing)
        assert len(str(caught.value)) < 1500, (thing, str(caught.value)[:300])
    for part in (make, partial(Recipe, *[None] * 4), *(partial(Recipe, *[thing] * 4) for thing in unlike())):
        with pytest.raises(AnalysisError):
            part("x") if part is make else part()


REGISTERED = {
    "register_criterion": lambda *args: torch.ones(2, 2),
    "register_structured_criterion": lambda *args: torch.ones(2),
    "register_pattern": lambda *args: torch.ones(2, 2) > 0,
    "register_solver": lambda *args: None,
}
GOOD = {"name": "mine", "label": "Mine", "meaning": "of my own", "version": "1"}


@pytest.mark.parametrize("register", REGISTERED)
def test_registering_refuses_what_is_no_word_and_no_function(register):
    function, word = REGISTERED[register], Word(**GOOD)
    for thing in unlike():
        with pytest.raises(UsageError):
            getattr(analysis, register)(thing, function)
        if not callable(thing):
            with pytest.raises(UsageError, match="its function must be one"):
                getattr(analysis, register)(word, thing)
    for key in GOOD:
        for thing in (None, 5, "", ["x"], HUGE):
            with pytest.raises(UsageError):
                getattr(analysis, register)(Word(**GOOD | {key: thing}), function)
    wrong = count(0, 1, meaning="its default is none of its values")
    for more in ({"options": 5}, {"options": {5: wrong}}, {"options": {"own": wrong}}, {"options": {"own": 5}}):
        with pytest.raises(UsageError):
            getattr(analysis, register)(Word(**GOOD | more), function)


def test_nothing_was_changed_on_the_way():
    assert all(torch.equal(a, b) for a, b in zip(MODEL.parameters(), copy.deepcopy(small_llama(blocks=1)).parameters()))
