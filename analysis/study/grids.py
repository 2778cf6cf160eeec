"""From a notebook's parameters to what `grid` takes: lists of words in, recipes, jobs and labelled texts out. No
torch.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from analysis.errors import UsageError
from analysis.recipe.notation import brackets
from analysis.recipe.parts import TRAINED, WHOLE, Pattern
from analysis.recipe.recipe import Recipe
from analysis.study.job import Job, grid
from analysis.text.example_sets import example_set
from analysis.text.sources import parse_source

RETRAINING = {  # kind: what it adds to `retrain`
    "all": "",
    "distilled": "objective=distill,",
    "masklora": "train=masklora,",
    "norms-biases": "train=norms-biases,",
    "projector": "train=projector,",
    "language": "train=language,",
    "logits": "train=language,objective=distill,",
    "states": "train=language,objective=hidden,",
}


def recipes(
    criteria: Sequence[str],
    pattern: str | Sequence[str],
    methods: Sequence[str],
    *,
    refinements: Sequence[str] = ("none",),
    units: Sequence[str] = (),
    iterations: int | None = None,
    **solver: Any,
) -> list[Recipe]:
    """Every pattern with every criterion, refinement and method, in this order.

        recipes(["wanda", "sparsegpt"], ["50%", "2:4"], ["LR", "BR+GP"], refinements=["none", "swaps"], lr=2e-3,
        epochs=20)
        recipes(["wanda"], "50%", ["LR", "BR", "ridge"], units=["matrix", "sub-block", "1", "2", "model"])

    units: what reconstruction solves at once, "2" being two blocks; each in turn for the methods that take gradient
    steps on units, while LR, ridge and retrain, whose unit is part of their name, come once. iterations: of the
    refinement "fw". solver: lr, epochs, batch, settings, ... for the methods that train, a list for each of its values;
    an option in a method's own brackets, as in `retrain[lr=5e-4]`, wins.

    Raises RecipeError for a word or a number that is none.
    """
    patterns = [pattern] if isinstance(pattern, str) else pattern
    made = []
    for shape, criterion, refinement, method in product(patterns, criteria, refinements, methods):
        refined = "" if refinement == "none" else f"+{refinement}"
        recipe = Recipe.parse(f"{criterion}{refined}-{shape} {method}")
        bracketed = re.findall(r"(\w+)=", method)
        common = {
            name: value for name, value in solver.items() if name not in bracketed and recipe.solver.name in TRAINED
        }
        unit_words = units if units and recipe.solver.name == "gradient" else [None]
        made += [_completed(recipe, unit, iterations, options) for unit, options in product(unit_words, _each(common))]
    return made


def _each(options: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict for every combination of the values that are lists."""
    values = [value if isinstance(value, (list, tuple)) else [value] for value in options.values()]
    return [dict(zip(options, chosen, strict=True)) for chosen in product(*values)]


def structured(kinds: Sequence[str], shares: Sequence[str], scopes: Sequence[str]) -> list[str]:
    """Patterns of whole structures, each kind at every share, with the scope that goes with the kind.

        structured(["neurons", "heads"], ["25%", "50%"], ["uniform", "global"])     # ["neurons-25%", "neurons-50%",
        "heads-25%[scope=global]", "heads-50%[scope=global]"]

    Raises UsageError for a word that is no kind of structure, or another number of scopes.
    """
    if unknown := [kind for kind in kinds if kind not in WHOLE]:
        raise UsageError(f"whole structures: {', '.join(unknown)} is none of {', '.join(WHOLE)}")
    if len(scopes) != len(kinds):
        raise UsageError(
            f"whole structures: {len(scopes)} scopes for {len(kinds)} kinds ({', '.join(kinds)}); give one for each"
        )
    options = [brackets({} if scope == Pattern.scope else {"scope": scope}) for scope in scopes]
    return [f"{kind}-{share}{option}" for kind, option in zip(kinds, options, strict=True) for share in shares]


def halved(sparsity: str, halves: Sequence[str]) -> list[str]:
    """A pattern on the first half of every block alone, on the second alone, and on both.

        halved("50%", ["q_proj+k_proj", "up_proj"])     # ["50%[skip=up_proj]", "50%[skip=q_proj+k_proj]", "50%"]

    halves: the matrices of each, as `skip` of a pattern names them. Raises UsageError for other than two.
    """
    if len(halves) != 2:
        raise UsageError(f"halves: two lists of matrices are needed, attention's and the MLP's; got {len(halves)}")
    return [f"{sparsity}[skip={halves[1]}]", f"{sparsity}[skip={halves[0]}]", sparsity]


def closed_forms(methods: Sequence[str]) -> list[str]:
    """`ridge` with the streams of each of the methods that reconstruct units, each once.

        closed_forms(["LR", "BR", "BR+GP"])     # ["ridge[student=sparse,target=sparse]",
        "ridge[student=sparse,target=dense]"]

    Raises RecipeError for a word that is no method.
    """
    made = [Recipe.parse(f"magnitude-50% {method}") for method in methods]
    return list(
        dict.fromkeys(f"ridge[student={r.student},target={r.target}]" for r in made if r.solver.name == "gradient")
    )


def retrained(kinds: Sequence[str], rates: Sequence[float]) -> list[str]:
    """The words of `RETRAINING` as methods, each with its own learning rate.

        retrained(["all", "masklora"], [2e-4, 1e-3])     # ["retrain[lr=0.0002]", "retrain[train=masklora,lr=0.001]"]

    Raises UsageError for another word, or another number of rates.
    """
    if unknown := [kind for kind in kinds if kind not in RETRAINING]:
        raise UsageError(f"retraining: {', '.join(unknown)} is none of {', '.join(RETRAINING)}")
    if len(rates) != len(kinds):
        raise UsageError(
            f"retraining: {len(rates)} learning rates for {len(kinds)} kinds ({', '.join(kinds)}); give one for each"
        )
    return [f"retrain[{RETRAINING[kind]}lr={rate}]" for kind, rate in zip(kinds, rates, strict=True)]


def _completed(recipe: Recipe, unit: str | None, iterations: int | None, options: dict[str, Any]) -> Recipe:
    """`recipe` with the unit, Frank-Wolfe's iterations and the solver's options."""
    data = recipe.to_dict()
    if options:
        data["solver"] = {"name": recipe.solver.name} | recipe.solver.changed() | options
    if recipe.refinement.name == "fw" and iterations is not None:
        data["refinement"] |= {"iterations": iterations}
    if unit is not None:
        data["unit"] = (
            {"name": "block", "width": int(unit), "overlap": recipe.unit.overlap}
            if unit.isdecimal()
            else {"name": unit}
        )
    return Recipe.from_dict(data)


def grids(name: str, values: Sequence[Any], **arguments: Any) -> list[Job]:
    """`grid` with `arguments`, once for each value of the argument `name`, one after another.

        grids("model", ["lab/small", "lab/large"], recipes=chosen, samples=16, calibration="lab:mixed", length=128)
        grids("added", ["self", "lab:recipes"], added_samples=[0, 16], recipes=chosen, ...)

    Raises UsageError as `grid` does.
    """
    return [job for value in values for job in grid(**{name: value}, **arguments)]


def timed(jobs: Iterable[Job], criterion: str, method: str) -> list[Job]:
    """The jobs, those of one criterion and one method measuring size and speed (`shrink=True`), which hardly depend on
    how what stays was repaired.
    """
    return [
        replace(job, shrink=job.shrink or (job.recipe.criterion.name, job.recipe.method) == (criterion, method))
        for job in jobs
    ]


def paired(models: Sequence[str], calibration: Sequence[str], held_out: Sequence[str], **arguments: Any) -> list[Job]:
    """`grid` with `arguments` for every model, each with the calibration text and the held-out text of its own place;
    one text goes to all models.

        paired(["lab/encoder-truth", "lab/encoder-answers"], ["examples:truth", "examples:answers"], ["examples:truth",
        "examples:answers"], recipes=chosen, ...)

    Held-out texts are all labelled "held-out", so that the tables of several tasks can be compared. Raises UsageError
    as `grid` does, and where the numbers do not fit.
    """
    texts = {"calibration": calibration, "held-out": held_out}
    if odd := [
        f"{len(sources)} {name} texts" for name, sources in texts.items() if len(sources) not in (1, len(models))
    ]:
        raise UsageError(
            f"pairs: {len(models)} models and {' and '.join(odd)}; give one text for each model in the same order, or"
            " one for all"
        )
    calibration_texts, held_out_texts = (
        list(sources) * (len(models) if len(sources) == 1 else 1) for sources in texts.values()
    )
    return [
        job
        for model, text, held_out_text in zip(models, calibration_texts, held_out_texts, strict=True)
        for job in grid(model=model, calibration=text, held_out={"held-out": held_out_text}, **arguments)
    ]


def guessing(sources: Sequence[str]) -> dict[str, float]:
    """The score of guessing for each source of labelled examples where it is known: one in so many classes, 0 for
    correlations; not for tables and spans.
    """
    example_sets = {source: example_set(name) for source, name in ((s, parse_source(s).name) for s in sources)}
    by_metric = {
        "accuracy": lambda what: 1 / len(what.classes),
        "matthews": lambda what: 0.0,
        "spearman": lambda what: 0.0,
    }
    return {
        source: by_metric[what.metric](what)
        for source, what in example_sets.items()
        if what is not None and what.metric in by_metric
    }


def labelled(sources: Sequence[str]) -> dict[str, str]:
    """Sources by the name tables give them (the source without its folders). Raises UsageError if there is none, or two
    have one name.
    """
    if not sources:
        raise UsageError("held-out texts: none given; give at least one to measure on")
    out = {parse_source(source).label: source for source in sources}
    if len(out) < len(sources):
        raise UsageError(
            f"held-out texts {', '.join(sources)}: two have the same name; give each text once, in files of different"
            " names"
        )
    return out
