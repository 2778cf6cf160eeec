"""Recipes: the text form round-trips, every mistake is named at once, the digest means the meaning."""

import itertools
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from analysis.errors import RecipeError, UsageError
from analysis.recipe.parts import WHOLE, Criterion, Pattern, Refinement, Repair, Solver, Unit
from analysis.recipe.presets import PRESETS
from analysis.recipe.recipe import Recipe
from analysis.recipe.words import (
    CRITERION_WORDS,
    REFINEMENT_WORDS,
    REPAIR_METHODS,
    SETTING_WORDS,
    STRUCTURED_WORDS,
    UNIT_WORDS,
    WEIGHT_METHODS,
)

GOOD = [
    "wanda-50% BR+GP+CR",
    "sparsegpt-2:4 LR",
    "magnitude-62.5% BR",
    "random-0% BR+CR[seed=3]",
    "sparsegpt-50%[damping=0.05,group=row] BR+GP[epochs=20,lr=0.002,select=held-out]",
    "sparsegpt-33.3%[columns=64,update=false] BR[batch=2,beta1=0.5,seed=7]",
    "wanda-4:8 IR",
    "wanda+swaps-60%[rounds=20] ridge[target=dense,penalty=0.1]",
    "ria+fw-2:4[exponent=1.0,iterations=300,protect=0.5] IR[unit=sub-block,settings=paper2,lr=0.001]",
    "sparsegpt+swaps-50%[statistics=dense] BR+GP[unit=matrix]",
    "wanda-50%[added=all] BR",
    "magnitude+swaps-50%[group=row,statistics=dense,added=all] BR+GP+CR[seed=2]",
    "magnitude-50% BR[unit=model,loss=relative,train=masklora,rank=4,alpha=8.0]",
    "wanda-50% retrain[objective=distill,warmup=0.1,clip=1.0,select=held-out,patience=2]",
    "magnitude-70% retrain[settings=paper2,train=norms-biases]",
    "wanda-50% BR[width=4,overlap=2]",
    "flap-neurons-50% LIAR",
    "fisher-structures-40%[scope=global,flops=512] LIAR+GP[penalty=0.001]",
    "wanda-sp-heads-50%[heads=queries] LR",
    "flap-structures-20%[scope=global] compensate[student=dense,target=dense]",
    "activation-heads-25%[statistics=dense,added=all] scale[target=dense,penalty=0.0]",
    "magnitude-neurons-62.5% LIAR+GP[penalty=held-out,bias=false,seed=3]",
    "snip-neurons-50% BR+GP[repair=liar,penalty=0.1,epochs=3]",
    "random-structures-50%[heads=queries] BR+GP+CR[repair=compensate]",
    "wanda-sp-neurons-30% IR[unit=sub-block,repair=scale]",
    "fisher-heads-50% retrain[repair=liar,objective=distill]",
    "influence-blocks-25% retrain[objective=hidden,mix=0.3]",
    "flap-neurons-50% LR",
]


@pytest.mark.parametrize("text", GOOD)
def test_text_toml_and_dict_round_trip(text):
    recipe = Recipe.parse(text)
    assert str(recipe) == text
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert hash(Recipe.parse(text)) == hash(recipe)


def test_every_combination_of_criterion_pattern_and_method_round_trips():
    digests = set()
    for parts in itertools.product(CRITERION_WORDS, ("50%", "2:4"), WEIGHT_METHODS):
        recipe = Recipe.parse("{}-{} {}".format(*parts))
        assert (recipe.criterion.name, str(recipe.pattern), recipe.method) == parts, recipe
        assert str(recipe) == recipe.label == "{}-{} {}".format(*parts)
        digests.add(recipe.digest())
    assert len(digests) == len(CRITERION_WORDS) * 2 * len(WEIGHT_METHODS)


@pytest.mark.slow
def test_every_combination_of_structured_criterion_pattern_and_method_round_trips():
    digests, methods = set(), [*(name for name in WEIGHT_METHODS if name != "ridge"), *REPAIR_METHODS]
    for parts in itertools.product(STRUCTURED_WORDS, (f"{kind}-50%" for kind in WHOLE), methods):
        recipe = Recipe.parse("{}-{} {}".format(*parts))
        assert (recipe.criterion.name, str(recipe.pattern), recipe.method) == parts, recipe
        assert str(recipe) == recipe.label == "{}-{} {}".format(*parts)
        assert Recipe.from_toml(recipe.to_toml()) == Recipe.from_dict(recipe.to_dict()) == recipe
        digests.add(recipe.digest())
    assert len(digests) == len(STRUCTURED_WORDS) * 3 * len(methods)


@pytest.mark.parametrize(
    "method, repair, student, target",
    [
        ("LR", "none", "sparse", "sparse"),
        ("compensate", "compensate", "sparse", "sparse"),
        ("scale", "scale", "sparse", "sparse"),
        ("LIAR", "liar", "sparse", "sparse"),
        ("LIAR+GP", "liar", "sparse", "dense"),
    ],
)
def test_repairs_are_methods_without_a_solver(method, repair, student, target):
    recipe = Recipe.parse(f"flap-neurons-50% {method}")
    assert (recipe.solver, recipe.unit, recipe.repair.name, recipe.student, recipe.target) == (
        Solver("none"),
        Unit(),
        repair,
        student,
        target,
    )
    assert Recipe.parse(f"flap-neurons-50% LR[repair={repair}]").repair.name == repair and recipe.changes_weights == (
        method != "LR"
    )


def test_a_repair_before_gradient_steps_is_an_option_of_their_method():
    recipe = Recipe.parse("flap-neurons-50% BR+GP[repair=liar,penalty=0.1,lr=1e-3]")
    assert (recipe.repair, recipe.solver.name, recipe.target) == (Repair("liar", penalty=0.1), "gradient", "dense")
    assert recipe.method == "BR+GP[repair=liar]", "how is not the method's"
    assert Recipe.parse("flap-neurons-50% LIAR[bias=false]").method == "LIAR[bias=false]"
    assert str(Recipe.parse("flap-neurons-50% LR[repair=liar,target=dense]")) == "flap-neurons-50% LIAR+GP"


def test_masks_come_first_where_layers_or_the_loss_are_looked_at():
    first = {
        text: Recipe.parse(f"{text} LR").masks_first
        for text in (
            "flap-heads-50%",
            "flap-heads-50%[scope=global]",
            "snip-heads-50%",
            "fisher-neurons-50%",
            "wanda-50%",
        )
    }
    assert list(first.values()) == [False, True, True, True, False]


def test_a_pattern_of_structures_holds_only_what_it_means():
    assert Pattern(0.5, kind="neurons").to_dict() == {"sparsity": 0.5, "kind": "neurons", "scope": "uniform"}
    assert Pattern(0.5, kind="heads", scope="global", flops=64).to_dict() == {
        "sparsity": 0.5,
        "kind": "heads",
        "heads": "groups",
        "scope": "global",
        "flops": 64,
    }
    assert Pattern(0.5).to_dict() == {"sparsity": 0.5, "kind": "weights", "group": "default"}
    assert Pattern(0.5, kind="heads").resolve("flap") == Pattern(0.5, kind="heads")
    assert Repair("liar", penalty="held-out").penalty == "held-out" and Repair("liar", penalty=1) == Repair(
        "liar", penalty=1.0
    )


@pytest.mark.parametrize(
    "method, solver, unit, student, target",
    [
        ("LR", "none", Unit(width=1, overlap=0), "sparse", "sparse"),
        ("BR", "gradient", Unit(width=1, overlap=0), "sparse", "sparse"),
        ("BR+GP", "gradient", Unit(width=1, overlap=0), "sparse", "dense"),
        ("BR+CR", "gradient", Unit(width=2, overlap=1), "sparse", "sparse"),
        ("BR+GP+CR", "gradient", Unit(width=2, overlap=1), "sparse", "dense"),
        ("IR", "gradient", Unit(), "dense", "dense"),
        ("ridge", "ridge", Unit("matrix"), "sparse", "sparse"),
        ("retrain", "retrain", Unit("model"), "sparse", "sparse"),
    ],
)
def test_methods_are_the_paper_s(method, solver, unit, student, target):
    recipe = Recipe.parse(f"wanda-50% {method}")
    assert (recipe.solver.name, recipe.unit, recipe.student, recipe.target) == (solver, unit, student, target)


def test_the_gradient_preset_is_paper_1_appendix_a():
    assert Solver("gradient").to_dict() == {
        "name": "gradient",
        "loss": "mse",
        "train": "all",
        "epochs": 10,
        "batch": 8,
        "lr": 2e-4,
        "warmup": 0.0,
        "shuffle": True,
        "clip": 0.0,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "select": "last",
    }
    assert Criterion("sparsegpt").to_dict() == {"name": "sparsegpt", "damping": 0.01, "columns": 128, "update": True}


def test_the_settings_of_paper_2_are_its_code_s():
    solver = Recipe.parse("wanda-50% IR[settings=paper2]").solver
    assert (solver.epochs, solver.batch, solver.lr, solver.warmup, solver.shuffle, solver.clip) == (
        1,
        2,
        1e-5,
        0.1,
        False,
        0.0,
    )
    assert Recipe.parse("wanda-50% retrain[settings=paper2]").solver.clip == 1.0, (
        "its retraining clips gradients, its reconstruction does not"
    )
    assert Recipe.parse("wanda-50% BR[settings=paper1]") == Recipe.parse("wanda-50% BR")
    text = (
        'method = "BR"\n[criterion]\nname = "wanda"\n[pattern]\nsparsity = 0.5\n[solver]\nsettings = "paper2"\nepochs'
        " = 3\n"
    )
    assert str(Recipe.from_toml(text)) == "wanda-50% BR[settings=paper2,epochs=3]", (
        "what is written beside the settings wins"
    )
    assert set(SETTING_WORDS) == {"paper1", "paper2"}


def test_a_structure_without_a_name_is_the_nearest_method_with_its_difference():
    recipe = Recipe.parse("wanda-50% BR[target=dense]")
    assert (str(recipe), recipe.method) == ("wanda-50% BR+GP", "BR+GP")
    recipe = replace(recipe, unit=Unit("sub-block"), seed=2)
    assert (recipe.method, recipe.label, str(recipe)) == (
        *("BR+GP[unit=sub-block]", "wanda-50% BR+GP[unit=sub-block]"),
        "wanda-50% BR+GP[unit=sub-block,seed=2]",
    )
    assert Recipe.parse("wanda-50% BR+GP+CR[unit=matrix]").method == "BR+GP[unit=matrix]", (
        "overlap belongs to units of blocks"
    )
    assert Recipe.parse("wanda-50% retrain[train=masklora,lr=1e-3]").method == "retrain[train=masklora]", (
        "what is trained is the method's, how is not"
    )


def test_sparsity_survives_the_text_digit_for_digit():
    for sparsity in (0.1, 1 / 3, 0.07, 1e-5, 0.999999, np.float64(0.55), np.nextafter(0.5, 1)):
        recipe = Recipe(Criterion("wanda"), Pattern(sparsity), Unit(), Solver("none"))
        assert Recipe.parse(str(recipe)).pattern.sparsity == sparsity


def test_groups_default_to_each_paper_s_own():
    groups = {name: Pattern(0.5).resolve(name).group for name in CRITERION_WORDS}
    assert groups == {"random": "matrix", "magnitude": "matrix", "wanda": "row", "sparsegpt": "block", "ria": "matrix"}
    assert Pattern(0.5, group="matrix").resolve("wanda").group == "matrix"
    assert Pattern(keep=2, of=4).resolve("wanda") == Pattern(keep=2, of=4)


def test_digest_is_of_the_meaning():
    digest = Recipe.parse("wanda-50% BR+GP").digest()
    assert len(digest) == 64
    for same in (
        "wanda-50.0% BR+GP[epochs=10,lr=0.0002]",
        "wanda-50%[group=row] BR[target=dense]",
        "wanda-50% BR+GP[batch=8.0,seed=0]",
    ):
        assert Recipe.parse(same).digest() == digest, same
    assert Recipe.parse("wanda-50%[added=solver] BR+GP").digest() == digest
    for other in (
        "wanda-50%[added=all] BR+GP",
        "wanda-50%[group=matrix] BR+GP",
        "wanda-50% BR+GP[seed=1]",
        "wanda-50% BR+GP[lr=0.0003]",
        "magnitude-50% BR+GP",
    ):
        assert Recipe.parse(other).digest() != digest, other


def test_who_sees_added_windows_is_the_solver_unless_said():
    plain, everything = Recipe.parse("wanda-50% BR"), Recipe.parse("wanda-50%[added=all] BR")
    assert (plain.added, everything.added) == ("solver", "all") and "added" not in str(plain)
    assert plain.method == everything.method == "BR" and replace(everything, added="solver") == plain
    text = 'method = "BR"\nadded = "all"\n[criterion]\nname = "wanda"\n[pattern]\nsparsity = 0.5\n'
    assert Recipe.from_toml(text) == everything


def test_numbers_are_coerced_and_equal():
    assert Solver("gradient", batch=8.0) == Solver("gradient", batch=np.int64(8)) == Solver("gradient")
    assert type(Solver("gradient", batch=8.0).batch) is int and type(Solver("gradient", lr=1).lr) is float
    assert repr(Pattern(-0.0)) == repr(Pattern(0))


def test_method_stands_for_its_structure_in_toml():
    text = (
        'method = "BR+GP+CR"\nseed = 4\n[criterion]\nname = "sparsegpt"\ncolumns = 32\n[pattern]\nkeep = 2\nof ='
        " 4\n[solver]\nlr = 1e-3\n[unit]\nwidth = 3\n"
    )
    assert str(Recipe.from_toml(text)) == "sparsegpt-2:4[columns=32] BR+GP+CR[width=3,lr=0.001,seed=4]"


WRONG = [
    ("wnada-50% BR", ["criterion 'wnada' is unknown; did you mean 'wanda'?"]),
    (
        "Wanda-50% br+gp",
        ["criterion 'Wanda' is unknown; did you mean 'wanda'?", "method 'br+gp' is unknown; did you mean 'BR+GP'?"],
    ),
    ("wanda-50% BR+LR", ["method 'BR+LR' is unknown", "valid: LR, BR, BR+GP, BR+CR, BR+GP+CR, IR, ridge, retrain"]),
    ("wanda-50% GP", ["method 'GP' is unknown"]),
    ("wanda-150% BR", ["sparsity 150% is outside 0% to below 100%"]),
    ("wanda-100% BR", ["sparsity 100% is outside"]),
    ("wanda--5% BR", ["sparsity -5% is outside"]),
    ("wanda-50 BR", ["pattern '50' is not understood; write a percentage as 50% or N:M as 2:4"]),
    ("wanda-0:4 BR", ["0:4 would keep 0 of every 4; N:M needs 1 <= N < M"]),
    ("wanda-3:2 BR", ["3:2 would keep 3 of every 2"]),
    ("wanda-4:4 BR", ["4:4 would keep 4 of every 4"]),
    ("wanda--2:4 BR", ["-2:4 would keep -2 of every 4"]),
    ("wanda BR", ["no pattern after 'wanda'"]),
    ("wanda-50%", ["no method given; one of LR, BR,"]),
    ("", ["no pattern after ''", "no method given", "criterion '' is unknown"]),
    ("wanda-50% BR GP", ["'GP' is too much"]),
    ("wanda-50% BR[epochs=-3]", ["epochs must be a whole number of at least 1, got -3"]),
    ("wanda-50% BR[epochs=2.5]", ["epochs must be a whole number of at least 1, got 2.5"]),
    ("wanda-50% BR[epochs=ten]", ["epochs must be a whole number of at least 1, got 'ten'"]),
    ("wanda-50% BR[lr=nan,eps=inf]", ["lr must be a number above 0, got nan", "eps must be a number above 0, got inf"]),
    ("wanda-50% BR[beta1=1]", ["beta1 must be a number from 0 to below 1, got 1"]),
    ("wanda-50% BR[select=best]", ["select 'best' is unknown;"]),
    ("wanda-50% BR[epoch=3]", ["unknown option 'epoch' after 'BR'; did you mean 'epochs'?"]),
    ("wanda-50% BR[epochs]", ["option 'epochs' after 'BR' is not of the form key=value"]),
    ("wanda-50% BR[epochs=1,epochs=2]", ["option 'epochs' is given twice"]),
    ("wanda-50% BR[epochs=1", ["brackets do not match"]),
    ("wanda-50%[epochs=1] BR", ["option 'epochs' belongs to the other word"]),
    ("wanda-50%[damping=0.1] BR", ["damping is an option of sparsegpt, not of wanda"]),
    ("wanda-50%[group=block] BR", ["group=block is SparseGPT's block of columns; wanda takes matrix or row"]),
    ("wanda-50%[group=rows] BR", ["group 'rows' is unknown; did you mean 'row'?"]),
    ("wanda-2:4[group=row] BR", ["group=row does not go with N:M"]),
    ("sparsegpt-50%[update=maybe] LR", ["update must be true or false, got 'maybe'"]),
    ("sparsegpt-50%[columns=0,damping=0] LR", ["columns must be", "damping must be a number above 0, got 0"]),
    (
        "wanda-50% LR[epochs=3,lr=1e-3]",
        [
            "epochs is an option of gradient and retrain, not of LR",
            "lr is an option of gradient and retrain, not of LR",
        ],
    ),
    ("wanda-50% LR[width=2]", ["LR (solver none) trains nothing"]),
    ("wanda-50% BR[width=2,overlap=2]", ["overlap must be below width, got overlap 2 and width 2"]),
    ("wanda+swap-50% BR", ["refinement 'swap' is unknown; did you mean 'swaps'?"]),
    ("wanda+none-50%[rounds=5] BR", ["rounds is an option of swaps, not of a mask without refinement"]),
    (
        "wanda+fw-50%[rounds=5,protect=1] BR",
        ["rounds is an option of swaps, not of fw", "protect must be a number from 0 to below 1, got 1"],
    ),
    ("wanda-50%[exponent=1] BR", ["exponent is an option of ria, not of wanda"]),
    ("magnitude-50%[statistics=dense] BR", ["statistics=dense does not apply to magnitude without refinement"]),
    (
        "magnitude-50%[statistics=dense,added=all] BR",
        ["statistics=dense does not apply to magnitude", "added=all does not apply to magnitude without refinement"],
    ),
    ("random-50%[added=all] LR", ["added=all does not apply to random without refinement, which looks at no inputs"]),
    ("wanda-50%[added=mask] BR", ["added 'mask' is unknown; valid: solver, all"]),
    ("wanda-50% BR[added=all]", ["option 'added' belongs to the other word"]),
    ("wanda-50% BR[unit=layer]", ["unit 'layer' is unknown"]),
    ("wanda-50% BR[unit=matrix,width=2]", ["width is an option of block, not of matrix"]),
    (
        "wanda-50% BR[unit=model,overlap=1]",
        ["overlap is an option of block, not of model", "overlap must be below width"],
    ),
    ("wanda-50% ridge[unit=block]", ["ridge is a closed form for one matrix: unit must be matrix, got 1 block"]),
    (
        "wanda-50% ridge[unit=sub-block,epochs=2]",
        ["unit must be matrix, got sub-block", "epochs is an option of gradient and retrain, not of ridge"],
    ),
    ("wanda-50% retrain[unit=sub-block]", ["retrain trains the whole model: unit must be model, got sub-block"]),
    (
        "wanda-50% retrain[target=dense]",
        ["student and target do not apply to it; objective=distill and objective=hidden follow the dense"],
    ),
    ("wanda-50% retrain[loss=cosine]", ["loss is an option of gradient, not of retrain"]),
    ("wanda-50% BR[student=dense]", ["valid with student=dense: target=dense"]),
    ("wanda-50% IR[target=sparse]", ["valid with student=dense: target=dense"]),
    ("wanda-50% BR[rank=4]", ["rank is an option of train=masklora, not of train=all"]),
    ("wanda-50% retrain[mix=0.3]", ["mix is an option of objective=hidden, not of objective=ce"]),
    ("wanda-50% retrain[objective=hidden,mix=0]", ["mix must be a number above 0, got 0"]),
    ("wanda-50% retrain[objective=hidden,mix=2]", ["mix must be at most 1, got 2"]),
    ("wanda-50% BR[patience=4]", ["patience is an option of select=held-out, not of select=last"]),
    ("wanda-50% BR[settings=paper3]", ["settings 'paper3' are unknown; did you mean 'paper2'?"]),
    ("wanda-50% ridge[settings=paper2]", ["settings is an option of gradient and retrain, not of ridge"]),
    ("shin-wanda-XX", ["no preset has this name; did you mean 'shin-wanda-"]),
    (
        "wanda-neurons-50% LR",
        ["wanda scores single weights; neurons take random, magnitude, activation, wanda-sp, flap, snip, fisher"],
    ),
    ("sparsegpt-structures-50%[damping=0.1] LIAR", ["sparsegpt scores single weights; structures take random"]),
    (
        "flap-50% LR",
        [
            "flap scores whole structures: flap-heads-50%, flap-neurons-50%, flap-structures-50%; single weights take"
            " random, magnitude, wanda, sparsegpt, ria"
        ],
    ),
    ("wanda-sp-2:4 LR", ["wanda-sp scores whole structures"]),
    ("flap-neurons-2:4 LR", ["N:M is a pattern of single weights; neurons take a share, as in neurons-50%"]),
    ("flap-neurons-150% LIAR", ["sparsity 150% is outside"]),
    ("flap-neurons--5% LIAR", ["sparsity -5% is outside"]),
    ("falp-neurons-50% LIAR", ["criterion 'falp' is unknown; did you mean 'flap'?"]),
    (
        "flap-neuron-50% LIAR",
        [
            "pattern 'neuron-50%' is not understood; write a percentage as 50% or N:M as 2:4; of whole structures"
            " heads-50%, neurons-50%"
        ],
    ),
    ("wanda-sp LIAR", ["no pattern after 'wanda-sp'; write wanda-50%, wanda-2:4 or flap-neurons-50%"]),
    ("flap-neurons-50% LIRA", ["method 'LIRA' is unknown; did you mean 'LIAR'?"]),
    ("flap-neurons-50% liar", ["method 'liar' is unknown; did you mean 'LIAR'?"]),
    (
        "flap+swaps-neurons-50% LIAR",
        ["+swaps exchanges single weights; the masks of neurons are taken as they are: write flap-neurons-50%"],
    ),
    (
        "magnitude+fw-heads-50%[group=row] ridge",
        [
            "+fw exchanges single weights",
            "group is an option of kind=weights, not of kind=heads",
            (
                "ridge refits matrices that lost single weights; heads take LR, BR, BR+GP, BR+CR, BR+GP+CR, IR,"
                " retrain, compensate, scale, LIAR, LIAR+GP"
            ),
        ],
    ),
    (
        "wanda-50% LIAR",
        [
            "LIAR makes up for whole structures, of a pattern such as heads-50% or neurons-50% or structures-50%;"
            " single weights take LR, BR,"
        ],
    ),
    ("wanda-2:4 BR+GP[repair=liar]", ["repair=liar makes up for whole structures"]),
    ("flap-neurons-50%[heads=queries] LIAR", ["heads is an option of kind=heads or structures, not of kind=neurons"]),
    ("flap-heads-50%[heads=query] LIAR", ["heads 'query' is unknown; did you mean 'queries'?"]),
    ("flap-heads-50%[flops=64] LIAR", ["flops is an option of scope=global, not of scope=uniform"]),
    ("flap-heads-50%[scope=global,flops=0] LIAR", ["flops must be a whole number of at least 1, got 0"]),
    ("wanda-50%[scope=global] LR", ["scope is an option of kind=heads or neurons or structures, not of kind=weights"]),
    (
        "flap-heads-50%[scope=global,statistics=dense] LIAR",
        ["statistics=dense does not apply: scope=global chooses on the dense model, before the first unit"],
    ),
    ("snip-heads-50%[statistics=dense] LIAR", ["statistics=dense does not apply: snip chooses on the dense model"]),
    ("random-heads-50%[statistics=dense] LIAR", ["statistics=dense does not apply to random without refinement"]),
    (
        "flap-heads-50% LIAR[unit=sub-block]",
        [
            "LIAR repairs one matrix after the other: unit, width and overlap do not apply to it; gradient steps after"
            " it are BR+GP[repair=liar]"
        ],
    ),
    ("flap-heads-50% LIAR[student=dense]", ["valid with student=dense: target=dense"]),
    (
        "flap-heads-50% compensate[penalty=0.1]",
        ["penalty is an option of scale and liar and refit and replace and ghost, not of compensate"],
    ),
    (
        "flap-heads-50% BR+GP[penalty=0.1]",
        [
            "penalty is an option of scale and liar and refit and replace and ghost, not of a method without"
            " repair (LIAR, or BR+GP[repair=liar])"
        ],
    ),
    ("flap-heads-50% LIAR[penalty=best]", ["penalty must be a number of at least 0 or held-out, got 'best'"]),
    ("flap-heads-50% LIAR[epochs=3]", ["epochs is an option of gradient and retrain, not of LR (solver none)"]),
    ("flap-heads-50% retrain[repair=liar,target=dense]", ["retrain follows the model's own loss: student and target"]),
    ("wanda-50% BR[seed=-1]", ["seed must be a whole number of at least 0, got -1"]),
]


@pytest.mark.parametrize("text, said", WRONG)
def test_wrong_recipes_name_what_was_typed_and_what_is_valid(text, said):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text)
    assert str(caught.value).startswith(f"recipe {text!r}: ")
    assert isinstance(caught.value, UsageError)
    for sentence in said:
        assert any(sentence in problem for problem in caught.value.problems), caught.value.problems
    assert len(caught.value.problems) == len({p for p in caught.value.problems if any(s in p for s in said)}), (
        "a problem nobody made"
    )


def test_all_problems_at_once():
    with pytest.raises(RecipeError) as caught:
        Recipe.parse("wnada-150%[group=rows,damp=1] BR+PG[epochs=-2,lr=fast,student=dens,seed=-1] more")
    said = "; ".join(caught.value.problems)
    for item in ("wnada", "150%", "rows", "damp", "BR+PG", "-2", "fast", "dens", "-1", "more"):
        assert item in said
    assert len(caught.value.problems) == 10


@pytest.mark.parametrize(
    "text, said",
    [
        ("recipe", "not TOML"),
        (
            'method = "BR"\ncriterion = "wanda"\n[pattern]\nsparsity = 0.5',
            "criterion must be a table of options, got 'wanda'",
        ),
        ('method = "BR"\n[pattern]\nsparsity = 0.5', "no criterion name given"),
        ('method = "BR"\n[criterion]\nname = "wanda"', "exactly one of them"),
        (
            'method = "BR"\n[criterion]\nname = "wanda"\n[pattern]\nsparsity = 0.5\nkeep = 2\nof = 4',
            "exactly one of them",
        ),
        (
            'method = "BR"\n[criterion]\nname = "wanda"\n[pattern]\nspars = 0.5',
            "unknown pattern option 'spars'; did you mean 'sparsity'?",
        ),
        (
            'method = "BR"\n[criterion]\nname = "wanda"\n[pattern]\nsparsity = "50%"',
            "sparsity must be a number (0.5 means 50%), got '50%'",
        ),
        (
            'method = "BR"\nsead = 1\n[criterion]\nname = "wanda"\n[pattern]\nsparsity = 0.5',
            "unknown key 'sead'; did you mean 'seed'?",
        ),
        ('method = ["BR"]\n[criterion]\nname = "wanda"\n[pattern]\nsparsity = 0.5', "method \"['BR']\" is unknown"),
        ('[criterion]\nname = "wanda"\n[pattern]\nsparsity = 0.5', "no method given"),
        ('[criterion]\nname = "wanda"\n[pattern]\nsparsity = 0.5\n[solver]\nname = "adam"', "solver 'adam' is unknown"),
    ],
)
def test_wrong_toml(text, said):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml(text)
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Criterion("wanda", damping=0.5), "damping is an option of sparsegpt"),
        (lambda: Solver("none", epochs=3), "epochs is an option of gradient"),
        (lambda: Solver("gradient", epochs=True), "epochs must be a whole number of at least 1, got True"),
        (lambda: Pattern(), "exactly one of them"),
        (lambda: Pattern(True), "sparsity must be a number"),
        (lambda: Pattern(50), "sparsity 5000% is outside"),
        (lambda: Pattern(keep=2), "exactly one of them"),
        (lambda: Refinement("swaps", rounds=0), "rounds must be a whole number of at least 1, got 0"),
        (lambda: Unit(width=0), "width must be a whole number of at least 1, got 0"),
        (lambda: Recipe("wanda", Pattern(0.5), Unit(), Solver("none")), "criterion must be a Criterion, got 'wanda'"),
    ],
)
def test_parts_are_checked_when_made_from_python(make, said):
    with pytest.raises(RecipeError) as caught:
        make()
    assert said in str(caught.value)


def test_recipes_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Recipe.parse("wanda-50% BR").seed = 3


@pytest.mark.slow
def test_every_preset_is_one_word_for_a_recipe_with_a_source():
    for name, preset in PRESETS.items():
        recipe = Recipe.parse(name)
        assert " " not in name and preset.source and preset.description
        assert recipe == Recipe.parse(preset.text) == Recipe.parse(str(recipe)), name
    meanings = [Recipe.parse(name).digest() for name in PRESETS]
    assert len(set(meanings)) == len(meanings), "two words for one recipe"
    assert {Recipe.parse(name).criterion.name for name in PRESETS} == {
        "magnitude",
        "wanda",
        "ria",
        "sparsegpt",
        "snip",
        "flap",
        "wanda-sp",
        "fisher",
    }
    assert {Recipe.parse(name).unit.name for name in PRESETS} == set(UNIT_WORDS)
    assert {Recipe.parse(name).refinement.name for name in PRESETS} == set(REFINEMENT_WORDS)
    assert str(Recipe.parse("shin-sparsegpt-CR")) == "sparsegpt-50% BR+GP+CR"


@pytest.mark.slow
def test_importing_recipe_loads_no_torch():
    code = "import sys, analysis.recipe.recipe; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
