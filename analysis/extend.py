"""Words from outside the package: a criterion, a pattern or a solver of one's own, usable wherever a recipe is.

    from analysis import Word, register_criterion
    from analysis.recipe.fields import share

    def mixed(weight, statistics, generator, *, mix):
        wanda = weight.abs() * (statistics.diagonal / statistics.tokens).sqrt()
        return mix * weight.abs() + (1 - mix) * wanda

    register_criterion(
        Word("mixed", "Mixed", "magnitude and Wanda, mixed", evidence="diagonal", version="1",
             options={"mix": share(0.5, meaning="the share of magnitude")}),
        mixed,
    )
    Recipe.parse("mixed-50%[mix=0.3] BR+GP")

`Word.version` identifies the function in digests of runs: raise it whenever the function changes. Options have a
default and a type (the builders of `recipe/fields.py`) and reach the function by name. A word holds for the process
that registers it; the worker processes of a study import the modules of the functions, so register in a module that can
be imported.
"""

import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from analysis.errors import UsageError, quoted
from analysis.masks.criteria import SCORES
from analysis.masks.patterns import PATTERNS
from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.solvers import SOLVERS
from analysis.pruning.steps import SolverSteps, Step, reads_both
from analysis.recipe.parts import Criterion, Pattern, Solver
from analysis.recipe.recipe import RECIPE_PARTS, Recipe
from analysis.recipe.words import (
    CRITERION_WORDS,
    DEPTH_WORDS,
    EXPERT_WORDS,
    KIND_WORDS,
    METHOD_WORDS,
    SOLVER_WORDS,
    STRUCTURED_WORDS,
    Word,
    outside,
    structure,
)
from analysis.structured.criteria import STRUCTURE_SCORES

REGISTERED: tuple[tuple[dict[str, Word], dict[str, Any]], ...] = (
    (CRITERION_WORDS, SCORES),
    (STRUCTURED_WORDS, STRUCTURE_SCORES),
    (KIND_WORDS, PATTERNS),
    (SOLVER_WORDS, SOLVERS),
)
WORD_NAME = re.compile(r"[A-Za-z]\w*(-[A-Za-z]\w*)*")
CLAIMED = {"settings", "unit", "repair", "method", "more", *(f for f in Recipe.__dataclass_fields__)}


def register_criterion(word: Word, scores: Callable[..., Tensor]) -> None:
    """A criterion of single weights.

    word    evidence: None, "diagonal" or "gram" of the matrix's input; implies {"group": "matrix" or "row"}, where
            scores compete unless the recipe says otherwise (matrix by default)
    scores  (weight (out, in), `Statistics` of its input or None, generator, **options) -> (out, in), larger = keep; the
            weight must not change, randomness comes from the generator alone

    Raises UsageError for a word that is taken, cannot be read in a recipe or lacks something.
    """
    problems = _problems(word, scores, Criterion, CRITERION_WORDS, (None, "diagonal", "gram"))
    group = word.implies.get("group", "matrix")
    if group not in ("matrix", "row"):
        problems.append(f"group {group!r} is none of matrix, row")
    _refuse("criterion", word, problems)
    _add(replace(word, implies={"group": group}), CRITERION_WORDS, scores, SCORES)


def register_structured_criterion(word: Word, scores: Callable[..., Tensor]) -> None:
    """A criterion of whole structures.

    word    evidence: None, "statistics" or "gradients"; implies {"rule": "sum" or "threshold"}, the rule of a global
            budget (`structured/budget.py`; sum by default)
    scores  (structure, `Evidence`, generator, **options) -> (count,), larger = keep

    Raises UsageError as `register_criterion`.
    """
    problems = _problems(word, scores, Criterion, STRUCTURED_WORDS, (None, "statistics", "gradients"))
    rule = word.implies.get("rule", "sum")
    if rule not in ("sum", "threshold"):
        problems.append(f"rule {rule!r} is none of sum, threshold")
    _refuse("structured criterion", word, problems)
    _add(replace(word, implies={"rule": rule}), STRUCTURED_WORDS, scores, STRUCTURE_SCORES)


def register_pattern(word: Word, choose: Callable[..., Tensor]) -> None:
    """A pattern of single weights, written `wanda-WORD-50%`.

    choose  (scores (out, in), share to remove, **options) -> (out, in) bool, True = kept. It must keep exactly
            size - round(share * size) weights of each matrix, which is checked

    Raises UsageError as `register_criterion`.
    """
    _refuse("pattern", word, _problems(word, choose, Pattern, KIND_WORDS, (None,)))
    _add(replace(word, group="weights"), KIND_WORDS, choose, PATTERNS)
    CHOOSERS[word.name] = CHOOSERS["weights"]


def register_solver(word: Word, solve: Step | SolverSteps) -> None:
    """A solver that goes through the units matrix by matrix, and the method of the same name, on the sparse streams
    unless the recipe says otherwise.

    solve  (state, visit, meter) -> None, see `pruning/steps.py`: changes the kept weights of the visit's blocks in
           place; or a `SolverSteps`, for one that needs more than to read both streams

    Raises UsageError as `register_criterion`.
    """
    problems = _problems(word, solve, Solver, SOLVER_WORDS, (None, "diagonal", "gram"))
    if isinstance(word.name, str) and word.name in METHOD_WORDS:
        problems.append("the name is that of a method")
    _refuse("solver", word, problems)
    steps = solve if isinstance(solve, SolverSteps) else SolverSteps(solve, reads=reads_both)
    _add(replace(word, implies={"unit": "matrix"}), SOLVER_WORDS, steps, SOLVERS)
    METHOD_WORDS[word.name] = replace(
        word, group="weights", options={}, implies=structure(word.name, {"name": "matrix"})
    )


def _add(word: Word, words: MutableMapping[str, Word], function: Any, functions: MutableMapping[str, Any]) -> None:
    words[word.name], functions[word.name] = word, function


def _refuse(kind: str, word: Word, problems: list[str]) -> None:
    if problems:
        raise UsageError(f"{kind} {quoted(word.name)} cannot be registered: " + "; ".join(problems))


def _problems(
    word: Word, function: object, part: type, words: Mapping[str, Word], evidence: tuple[str | None, ...]
) -> list[str]:
    """What is wrong with a word for one part of a recipe, and with its function, a sentence each. Raises UsageError for
    what is no word at all.
    """
    if not isinstance(word, Word):
        raise UsageError(f"register: the word must be a Word, got {quoted(word)}")
    if not isinstance(word.options, Mapping) or not isinstance(word.implies, Mapping):
        raise UsageError(f"register: options and implies of {quoted(word.name)} must be dicts")
    problems = []
    if not callable(function) and not isinstance(function, SolverSteps):
        problems.append(f"its function must be one, got {quoted(function)}")
    texts = {key: getattr(word, key) for key in ("name", "label", "meaning", "source", "version")}
    wrong = [f"{key} must be a text, got {quoted(value)}" for key, value in texts.items() if not isinstance(value, str)]
    if wrong:
        return problems + wrong
    if not WORD_NAME.fullmatch(word.name) or len(word.name) > 60:
        problems.append("a name is letters and digits, with single dashes between, as in my-criterion")
    if word.name in words:
        problems.append("the name is taken; choose another")
    elif clash := _ambiguous(word.name, part):
        problems.append(f"recipes could not tell it from {clash}; choose another name")
    problems += [f"no {key} given" for key in ("label", "meaning", "version") if not getattr(word, key)]
    if word.evidence not in evidence:
        problems.append(f"evidence {quoted(word.evidence)} is none of {', '.join(map(repr, evidence))}")
    for name, option in word.options.items():
        rule = getattr(option, "metadata", {}).get("rule")
        if not isinstance(name, str) or not name.isidentifier():
            problems.append(f"option {quoted(name)} is no Python name")
        elif rule is None or not rule.meaning:
            problems.append(f"option {name!r} is not made by recipe/fields.py, as in share(0.5, meaning='...')")
        elif _unfit(rule, option.default):
            problems.append(f"option {name!r}: its default {quoted(option.default)} is not what the option may be")
        if name in CLAIMED or any(name in _claimed(other, other is part) for other in RECIPE_PARTS.values()):
            problems.append(f"option {name!r} is an option of other words already; choose another")
    return problems


def _unfit(rule: Any, default: object) -> bool:
    """Whether a rule refuses its own default."""
    try:
        return default is not None and rule.coerce(default) is None
    except ValueError:
        return True


def _claimed(part: Any, same: bool) -> set[str]:
    """The options of a part that a new word of the `same` part, or of another one, cannot have."""
    fields_of_part = set(part.__dataclass_fields__)
    return fields_of_part if same else fields_of_part | set(part.declared())


def _ambiguous(name: str, part: type) -> str:
    """What a recipe's `criterion-kind-50%` could not be told from with this name, if anything."""
    criteria = {*CRITERION_WORDS, *STRUCTURED_WORDS, *DEPTH_WORDS, *EXPERT_WORDS} | (
        {name} if part is Criterion else set()
    )
    kinds = {kind for kind in KIND_WORDS if kind != "weights"} | ({name} if part is Pattern else set())
    return next((f"{c}-{k}" for c in sorted(criteria) for k in sorted(kinds) if f"{c}-{k}" in criteria), "")


def modules() -> list[str]:
    """The modules to import where the words registered here must be known too, as in a study's worker processes.

    Raises UsageError for a function of a script or a notebook, which nothing can import.
    """
    registered = [
        getattr(
            functions[name].solve if isinstance(functions[name], SolverSteps) else functions[name], "__module__", ""
        )
        for words, functions in REGISTERED
        for name in outside(words)
    ]
    if "__main__" in registered:
        raise UsageError(
            "words registered in a script or a notebook are unknown to worker processes; register them in a module"
            " that can be imported, or run with workers=1"
        )
    return sorted(set(registered))
