"""What a word computes today is what was written down of its revision: results in a store are recognised by it.

Where a test fails because a change means to change results, raise `revision` of the words that it names (`SCHEMA` in
`analysis/storage.py` for what is measured of every run), then

    python tests/pruning/test_words.py      # writes words.json anew; refuses numbers of the same revisions that differ
"""

import json
import math
from pathlib import Path

import pytest
import torch

from analysis import storage
from analysis.pruning.loop import prune
from analysis.recipe import words
from analysis.recipe.recipe import Recipe
from tests.helpers.recipes import MEASURED, OF_EXPERTS, RECIPES, mixture, model
from tests.helpers.small import windows

FILE = Path(__file__).with_name("words.json")
NEAR = 1e-5


def run(recipe: Recipe, measure: bool = False, dense=model):
    held_out = {"other": windows(2, 8, seed=1)} if measure else None
    return prune(dense(), recipe, windows(4, 8), held_out, measure=measure, precision=torch.float64)


def numbers(text: str) -> dict:
    """Versions of a recipe's words, and what they do to a model: a sum over its masks, and one over the changes of its
    parameters, each with weights of its own.
    """
    recipe, made = Recipe.parse(text), mixture if text in OF_EXPERTS else model
    pruned, dense = run(recipe, dense=made), dict(made().named_parameters())
    source = torch.Generator().manual_seed(1)
    draw = lambda like: torch.rand(like.shape, generator=source, dtype=torch.float64)
    kept = sum(float((mask * draw(mask)).sum()) for _, mask in sorted(pruned.masks.items()))
    change = 0.0
    for name, parameter in sorted(pruned.model.named_parameters()):
        before = dense.get(name, torch.zeros_like(parameter))
        before = before if before.shape == parameter.shape else torch.zeros_like(parameter)
        mask = pruned.masks.get(name.removesuffix(".weight"), torch.ones_like(parameter))
        change += float(((parameter - before * mask).abs() * draw(parameter)).sum())
    return {"versions": recipe.versions(), "numbers": [kept, change]}


def measured() -> dict:
    """The schema, and a sum over every column of numbers that a run measures, but times and memory."""
    tables = run(Recipe.parse(MEASURED), measure=True).tables
    sums = {
        f"{name}.{column}": sum(place * value for place, value in enumerate(table[column], 1))
        for name, table in sorted(tables.items())
        for column in sorted(table.columns)
        if name != "cost" and len(table) and table[column].dtype == "float64" and table[column].notna().all()
    }
    return {"versions": {"schema": str(storage.SCHEMA)}, "numbers": list(sums.values())}


def same(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=NEAR, abs_tol=1e-9) for a, b in zip(one, other, strict=True)
    )


def check(known: dict | None, now: dict) -> None:
    assert known, "not written down yet: run `python tests/pruning/test_words.py`"
    assert known["versions"] == now["versions"], "write words.json anew: run `python tests/pruning/test_words.py`"
    assert same(known["numbers"], now["numbers"]), f"other results: raise the revision of one of {now['versions']}"


@pytest.mark.slow
@pytest.mark.parametrize("text", [*RECIPES, *OF_EXPERTS])
def test_a_word_computes_what_its_revision_says(text):
    check(json.loads(FILE.read_text()).get(text), numbers(text))


@pytest.mark.slow
def test_what_is_measured_is_what_the_schema_says():
    check(json.loads(FILE.read_text()).get("tables"), measured())


def test_every_word_is_in_one_of_the_recipes():
    tables = {
        "criterion": {**words.CRITERION_WORDS, **words.STRUCTURED_WORDS, **words.DEPTH_WORDS, **words.EXPERT_WORDS},
        "refinement": words.REFINEMENT_WORDS,
        "pattern": words.KIND_WORDS,
        "unit": words.UNIT_WORDS,
        "solver": words.SOLVER_WORDS,
        "repair": words.REPAIR_WORDS,
    }
    own = {f"{kind} {name}" for kind, records in tables.items() for name in records.keys() - words.outside(records)}
    assert own <= {word for text in [*RECIPES, *OF_EXPERTS] for word in Recipe.parse(text).versions()}


def write() -> None:
    """Write every number down; SystemExit where some differ though no version does."""
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    now = {text: numbers(text) for text in [*RECIPES, *OF_EXPERTS]} | {"tables": measured()}
    for text, entry in now.items():
        known = before.get(text, {"versions": None})
        if known["versions"] == entry["versions"] and not same(known["numbers"], entry["numbers"]):
            raise SystemExit(f"{text}: other results, and none of {entry['versions']} was raised")
    FILE.write_text(json.dumps(now, indent=1) + "\n")


if __name__ == "__main__":
    write()
