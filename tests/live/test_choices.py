"""What the recipe builder's settings stand for."""

import argparse
import shlex
from dataclasses import replace

import pytest

from analysis.commands import prune
from analysis.commands.arguments import Parser
from analysis.errors import AnalysisError
from analysis.live.choices import RecipeChoice
from analysis.recipe.menus import METHODS, UNITS, from_menus
from analysis.recipe.recipe import Recipe
from analysis.recipe.steps import steps
from analysis.study.job import grid


@pytest.mark.parametrize("method", METHODS)
def test_the_parts_of_a_method_are_its_recipe(method):
    parts = METHODS[method]
    trained = parts["solver"] in ("gradient", "retrain")
    options = "[epochs=3,lr=0.001]" if trained else ""
    made = from_menus(criterion="wanda", pattern="2:4", refinement="swaps", epochs=3, lr=1e-3, **parts)
    assert made == Recipe.parse(f"wanda+swaps-2:4 {method}{options}")


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_of_the_menu_is_one(unit):
    words = unit.replace(",", "").split()
    made = from_menus(criterion="wanda", pattern="50%", solver="gradient", unit=unit).unit
    assert (made.width if made.name == "block" else made.name) == (int(words[0]) if words[0].isdecimal() else unit)


def test_the_python_and_the_command_do_the_same_job():
    choice = RecipeChoice(criterion="sparsegpt", held_out=("lab:stories", "lab:entries"), samples=4, length=64, seed=2)
    names: dict = {}
    exec(choice.code().replace("run_study(grid(", "list(grid(").replace("study = ", "jobs = "), names)
    assert names["jobs"] == [choice.job()]
    assert grid(model="lab", recipes="wanda-50% LR", samples=1, calibration="lab:stories", length=8)
    parser = Parser(prog="analysis")
    prune.add(parser.add_subparsers(parser_class=Parser))
    asked: argparse.Namespace = parser.parse_args(shlex.split(choice.command())[1:])
    from analysis.study.job import Contents

    assert prune.read_job(asked, Contents()).digest() == choice.job().digest()


def test_what_does_not_go_together_is_one_error():
    with pytest.raises(AnalysisError, match="ridge"):
        replace(RecipeChoice(), solver="ridge").recipe()


def test_steps_say_what_a_recipe_does_and_nothing_else():
    plain, refined = steps(Recipe.parse("wanda-50% LR")), steps(Recipe.parse("magnitude+swaps-2:4 BR+GP+CR[epochs=7]"))
    assert len(plain) == 4 and not any("target" in step for step in plain)
    assert "2 blocks, 1 of them shared" in refined[0] and "pattern 2:4" in refined[1] and "SparseSwaps" in refined[2]
    assert "7 epochs" in refined[5] and "dense stream" in refined[4]
    assert steps(Recipe.parse("sparsegpt-50% retrain"))[0].startswith("Take the next unit of all blocks together")
