"""One record per word: every word has its function and every function its word; options, labels and docs come from the
records.
"""

import ast
import doctest
import inspect
import os
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import RecipeError, UsageError
from analysis.masks.criteria import SCORES, SWEEPS
from analysis.masks.refine import REFINERS
from analysis.present.style import CRITERIA, CRITERION_LOOKS, REFINEMENT_NAMES, REFINEMENTS, say_method
from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.solvers import REPAIRS, SOLVERS
from analysis.recipe import parts, recipe, words
from analysis.recipe.fields import positive
from analysis.recipe.parts import Pattern
from analysis.recipe.recipe import RECIPE_PARTS, Recipe
from analysis.structured.criteria import STRUCTURE_SCORES
from analysis.structured.depth_criteria import DEPTH_COSTS
from analysis.structured.experts import EXPERT_SCORES

KINDS = {
    "criteria": words.CRITERION_WORDS,
    "structured": words.STRUCTURED_WORDS,
    "depth": words.DEPTH_WORDS,
    "experts": words.EXPERT_WORDS,
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
        (words.DEPTH_WORDS, DEPTH_COSTS),
        (words.EXPERT_WORDS, EXPERT_SCORES),
        ({name for name in words.REFINEMENT_WORDS if name != "none"}, REFINERS),
        (words.KIND_WORDS, CHOOSERS),
        (words.SOLVER_WORDS, SOLVERS),
        (words.REPAIR_WORDS, REPAIRS),
        ({name for name, word in words.CRITERION_WORDS.items() if word.sweeps}, SWEEPS),
    ],
    ids=[
        "criteria",
        "structured criteria",
        "criteria of blocks",
        "criteria of experts",
        "refinements",
        "kinds",
        "solvers",
        "repairs",
        "sweeps",
    ],
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
    criteria = words.DEPTH_WORDS | words.EXPERT_WORDS | words.STRUCTURED_WORDS | words.CRITERION_WORDS
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


NOTHING_S = ("", "x" * 70_000, True, None, [], {}, object(), 1j, b"1", np.ones(3), np.array("a"))
NO_NUMBERS = (float("nan"), float("inf"), -float("inf"), -1, -1e-30, 1e31, 1e301, 10**400, -(10**5000), 2**70)


def _options():
    """(part, word or None, option, rule) of every option of every part and word."""
    for part in RECIPE_PARTS.values():
        for records in part.WORDS:
            for word in records.values():
                for name, declared in word.options.items():
                    yield part, word.name, name, declared
        for f in fields(part):
            if f.name != "more" and not f.metadata["rule"].only:
                yield part, None, f.name, f


@pytest.mark.parametrize(
    "part, word, name, declared", list(_options()), ids=lambda value: getattr(value, "__name__", None)
)
def test_no_option_takes_what_it_cannot_be(part, word, name, declared):
    """Of the wrong type, not finite, negative, or larger than any computer holds: refused when the part is made, in a
    few words that say what is valid.
    """
    rule = declared.metadata["rule"]
    numeric = rule.kind in (int, float) and rule.read is None
    bad = [*NOTHING_S, *(NO_NUMBERS if numeric else (5.5, -1, float("nan"), 10**5000))]
    if rule.kind is bool:
        bad.remove(True)
    if declared.default is None:
        bad.remove(None)
    named = {} if word is None else {part.KEY: word}
    least = {f.name: "none" for f in fields(part) if f.default is MISSING and f.name not in (name, *named)}
    least |= {"keep": {"of": 4}, "of": {"keep": 2}, "sparsity": {}}.get(
        name, {"sparsity": 0.5} if part is Pattern else {}
    )
    for value in bad:
        with pytest.raises(RecipeError, match="must be|is unknown|is outside|would keep") as caught:
            part(**least | named | {name: value})
        assert len(str(caught.value)) < 2000, (name, str(caught.value)[:300])
    if numeric and isinstance(declared.default, (int, float)):
        assert rule.coerce(declared.default) == declared.default


def test_what_would_be_zero_in_float32_is_not_above_it():
    with pytest.raises(ValueError, match="must be a number above 0, got 1e-40"):
        positive(1.0).metadata["rule"].coerce(1e-40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        f"wanda-{'1' * 5000}:4 LR",
        f"wanda-2:{'4' * 5000} LR",
        f"wanda-{'1' * 5000}% LR",
        f"wanda-50% BR[epochs={'1' * 5000}]",
        f"wanda-50% BR[seed={2**70}]",
        f"wanda-50%[skip=first:{'1' * 5000}] LR",
        f"wanda-50%[shares={'1' * 5000}:0.5] LR",
        f"wanda-50%[shares={'0.5+' * 5000}x] LR",
        f"{'w' * 60_000}-50% LR",
        f"wanda-50% BR[{'x' * 60_000}=1]",
        f"wanda-50% {'BR ' * 20_000}",
        "wanda-50% LR[" + ",".join(f"x{number}=1" for number in range(5000)) + "]",
    ],
    ids=lambda text: text[:22],
)
def test_recipes_of_any_length_are_refused_in_few_words(text):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text)
    assert len(str(caught.value)) < 12_000


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 50_000,
        "seed = " + "1" * 5000,
        "[pattern]\nkeep = 2\nof = " + "1" * 4000,
        "[pattern]\nkind = ['weights']\nkeep = 2\nof = 4",
        "[solver]\nsettings = ['paper1']",
        "[unit]\nname = 1979-05-27",
        "x" * 60_000,
    ],
    ids=lambda text: text[:22],
)
def test_toml_that_is_no_recipe_is_refused_in_few_words(text, tmp_path):
    (tmp_path / "recipe.toml").write_text(text)
    for read in (lambda: Recipe.from_toml(text), lambda: Recipe.of(tmp_path / "recipe.toml")):
        with pytest.raises(RecipeError) as caught:
            read()
        assert len(str(caught.value)) < 3000


def test_recipe_files_are_read_whole_or_refused(tmp_path):
    recipe = Recipe.parse("wanda-50% BR+GP[lr=1e-3]")
    good = tmp_path / "good.toml"
    good.write_bytes(b"\xef\xbb\xbf" + recipe.to_toml().encode())
    assert Recipe.of(good) == Recipe.from_file(str(good)) == Recipe.of(recipe) == Recipe.of(recipe.to_dict()) == recipe
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(2**40)
    said = {
        "pipe": "a pipe or a device",
        "loop": "links",
        "latin.toml": "no UTF-8 text",
        "huge.toml": "larger than 1 MiB",
        ".": "a folder",
        "nowhere": "No such file",
        "x" * 300: "too long",
    }
    for name, reason in said.items():
        with pytest.raises(UsageError, match=f"cannot be read .*{reason}"):
            Recipe.from_file(tmp_path / name)
    with pytest.raises(UsageError, match="a pipe or a device"):
        Recipe.of(Path("/dev/zero"))
    reading, writing = os.pipe()
    with open(writing, "w") as file:
        file.write(recipe.to_toml())
    assert Recipe.from_file(f"/dev/fd/{reading}") == recipe
    os.close(reading)
    os.mkfifo(tmp_path / "pipe.json")
    for name, text in {"deep.json": "[" * 50_000, "digits.json": f"[{'1' * 5000}]", "wide.csv": "1" * 200_000}.items():
        (tmp_path / name).write_text(text)
    for name in ("pipe.json", "deep.json", "digits.json", "wide.csv"):
        with pytest.raises(RecipeError, match="shares cannot be read"):
            Recipe.parse(f"wanda-50%[shares={tmp_path / name}] LR")


def test_wagner_s_code_goes_by_rows_for_wanda_and_ria():
    for name in ("half", "block", "retrain"):
        groups = [
            recipe.pattern.resolve(recipe.criterion.name).group
            for recipe in (Recipe.parse(f"wagner-{criterion}-{name}") for criterion in ("magnitude", "wanda", "ria"))
        ]
        assert groups == ["matrix", "row", "row"]
