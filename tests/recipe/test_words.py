"""One record per word: every word has its function and every function its word; options, labels and docs come from the
records.
"""

import ast
import doctest
import inspect
from dataclasses import fields

import pytest

from analysis.masks.criteria import SCORES, SWEEPS
from analysis.masks.refine import REFINERS
from analysis.present.style import CRITERIA, CRITERION_LOOKS, REFINEMENT_NAMES, REFINEMENTS, say_method
from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.solvers import REPAIRS, SOLVERS
from analysis.recipe import parts, recipe, words
from analysis.recipe.recipe import RECIPE_PARTS, Recipe
from analysis.structured.criteria import STRUCTURE_SCORES

KINDS = {
    "criteria": words.CRITERION_WORDS,
    "structured": words.STRUCTURED_WORDS,
    "refinements": words.REFINEMENT_WORDS,
    "kinds": words.KIND_WORDS,
    "units": words.UNIT_WORDS,
    "solvers": words.SOLVER_WORDS,
    "repairs": words.REPAIR_WORDS,
    "methods": words.METHOD_WORDS,
    "settings": words.SETTING_WORDS,
}


@pytest.mark.parametrize(
    "records, functions",
    [
        (words.CRITERION_WORDS, SCORES),
        (words.STRUCTURED_WORDS, STRUCTURE_SCORES),
        ({name for name in words.REFINEMENT_WORDS if name != "none"}, REFINERS),
        (words.KIND_WORDS, CHOOSERS),
        (words.SOLVER_WORDS, SOLVERS),
        (words.REPAIR_WORDS, REPAIRS),
        ({name for name, word in words.CRITERION_WORDS.items() if word.sweeps}, SWEEPS),
    ],
    ids=["criteria", "structured criteria", "refinements", "kinds", "solvers", "repairs", "sweeps"],
)
def test_every_word_has_a_function_and_every_function_a_word(records, functions):
    assert set(records) == set(functions)


@pytest.mark.parametrize("records", KINDS.values(), ids=KINDS)
def test_every_record_says_what_it_must(records):
    for name, word in records.items():
        assert word.name == name and word.label and word.meaning and not word.meaning.endswith("."), name
        assert all(declared.metadata["rule"].meaning for declared in word.options.values()), name
        assert not word.version, "the package's own words have no version"
    assert len({word.label for word in records.values()}) == len(records)


def test_every_option_of_a_word_is_a_field_of_its_part_and_of_no_other_word():
    for part in RECIPE_PARTS.values():
        own = {f.name for f in fields(part)}
        declared = [(name, word.name) for records in part.WORDS for word in records.values() for name in word.options]
        assert {name for name, _ in declared} <= own and not part.declared()
        for f in fields(part):
            rule = f.metadata.get("rule")
            if rule is not None and rule.only:
                assert set(rule.only) == {word for name, word in declared if name == f.name}, f.name


def test_methods_stand_for_words_that_there_are():
    for name, word in words.METHOD_WORDS.items():
        assert word.implies["solver"]["name"] in words.SOLVER_WORDS, name
        assert word.implies["unit"]["name"] in words.UNIT_WORDS and word.implies["repair"]["name"] in words.REPAIR_WORDS
    solvers = {word.implies["solver"]["name"] for word in words.METHOD_WORDS.values()}
    assert solvers == set(words.SOLVER_WORDS), "a solver that no method uses"
    assert all(set(word.implies) == set(parts.TRAINED) for word in words.SETTING_WORDS.values())


def test_figures_write_the_labels_of_the_words_in_their_own_order():
    criteria = words.STRUCTURED_WORDS | words.CRITERION_WORDS
    assert dict(CRITERIA) == {name: word.label for name, word in criteria.items()}
    assert list(CRITERIA)[:5] == list(CRITERION_LOOKS) == ["magnitude", "wanda", "ria", "sparsegpt", "random"]
    assert list(REFINEMENT_NAMES) == list(REFINEMENTS) == list(words.REFINEMENT_WORDS)
    assert (say_method("retrain"), say_method("BR+GP"), say_method("new")) == ("retrain, all", "BR+GP", "new")
    assert say_method("BR+GP[unit=sub-block]") == "BR+GP, sub-blocks"


def test_every_field_of_every_part_has_its_line():
    for module, classes in ((parts, RECIPE_PARTS.values()), (recipe, [Recipe])):
        defined = {node.name: node.body for node in ast.parse(inspect.getsource(module)).body if hasattr(node, "body")}
        for part in classes:
            body = defined[part.__name__]
            described = {
                item.target.id
                for item, after in zip(body, body[1:], strict=False)
                if isinstance(item, ast.AnnAssign) and isinstance(after, ast.Expr)
            }
            assert described == {f.name for f in fields(part)}, part.__name__


def test_the_example_of_the_module_is_true():
    results = doctest.testmod(recipe)
    assert results.attempted == 2 and results.failed == 0
