"""One run as plain data: a model, a recipe, and the texts it sees and is measured on. No torch.

`Job.identity` says everything that decides the result; from it follow the name of a stored run, whether a folder of
`analysis prune` holds this run, and what is recomputed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from analysis import storage
from analysis.errors import AnalysisError, UsageError, count_problem, suggest
from analysis.lab.versions import DOCUMENTS, WORD_KINDS
from analysis.models.dtypes import ASKED, resolved_dtype
from analysis.models.hub import fingerprint
from analysis.models.load import PLACEMENTS
from analysis.pruning.checks import (
    header_misfits,
    label_problem,
    misfits,
    shrink_problem,
    streaming_problems,
    validation_problem,
)
from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe
from analysis.recipe.shares import NO_OWL, OWL
from analysis.reconstruction.schedule import every_problem
from analysis.text.sources import BOS, MODES, endless_error, parse_source, source_fingerprint
from analysis.text.tasks import check_tasks, task_fingerprint

SMALLEST = {
    "samples": 1,
    "held_out_samples": 1,
    "length": 2,
    "seed": 0,
    "added_samples": 0,
    "documents": 2,
    "token_kinds": 0,
}
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class Contents:
    """What names stand for now: fingerprints of models, sources and tasks, each read once."""

    def __init__(self) -> None:
        self.model = cache(fingerprint)
        self.dtype = cache(resolved_dtype)
        self.source = cache(source_fingerprint)
        self.task = cache(task_fingerprint)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a model, a recipe, and the texts it sees and is measured on.

    calibration: a source; held_out: {label: source} or (label, source) pairs, kept as pairs. Where a lab source names
    no half, calibration reads "train" and held-out texts "held-out". samples, held_out_samples: windows of `length`
    tokens of each (held_out_samples None = as many as samples). seed: which windows are drawn; the recipe has a seed of
    its own for masks and training order. separator: between documents of plain-text files. mode: how windows are cut
    (`text.cut`; None: as is usual for the source). bos: where beginning-of-text tokens stand in them
    (`text.tokens.specials`). drop_overlap: held-out windows that repeat calibration text are dropped however many
    they are (`windows.disjoint`). dtype: as in `load_model`. device "auto" takes what there is,
    and is served what any device computed; a named device is served only its own kind's results.

    added: a source of `added_samples` more windows, put behind the calibration windows (`study.run.draw`);
    `recipe.added` says who sees them. With 0 of them the run is that without. tasks: multiple-choice tasks that the
    dense and the pruned model answer, `documents` questions of each, the same ones for every seed. shrink: measure size
    and speed of the model with removed structures cut out (table `size`), beside the dense one's. compared: recipes
    whose masks are compared with each other, matrix by matrix (table `overlap`), on the calibration windows; their seed
    is this recipe's. token_kinds: held-out documents of the lab on which the loss of both models is told apart by kind
    of word (table `token_kinds`), drawn by the seed; 0 for none. expert_errors: measure what became of each expert of a
    mixture on every text (table of that name).

    validation: a source of `held_out_samples` windows that `select=held-out` and `penalty=held-out` choose on; None: a
    quarter of the calibration windows is set aside for it (`pruning.validation`). held_out_every: after every how many
    epochs the held-out error of gradient units is taken; "end", or "auto" (`schedule.held_out_epochs`). full_test: the
    perplexity of both models on every window of the held-out texts too, as the papers take it (`study.run.whole`).
    placement: where the models' weights are, "resident" in memory or "streamed", in files but for the blocks at work;
    it changes no result and is no part of the identity.

    Raises UsageError listing everything that is wrong, RecipeError for a recipe text that is.
    """

    model: str
    recipe: Recipe
    calibration: str
    held_out: tuple[tuple[str, str], ...] = ()
    samples: int
    held_out_samples: int | None = None
    length: int
    seed: int = 0
    dtype: str | None = None
    device: str = "auto"
    separator: str | None = None
    mode: str | None = None
    bos: str = "auto"
    drop_overlap: bool = False
    added: str | None = None
    added_samples: int = 0
    tasks: tuple[str, ...] = ()
    documents: int = 100
    shrink: bool = False
    compared: tuple[Recipe, ...] = ()
    validation: str | None = None
    held_out_every: int | str = "auto"
    full_test: bool = False
    token_kinds: int = 0
    expert_errors: bool = False
    placement: str = "resident"

    def __post_init__(self) -> None:
        if isinstance(self.recipe, str):
            object.__setattr__(self, "recipe", Recipe.parse(self.recipe))
        if isinstance(self.model, Path):
            object.__setattr__(self, "model", str(self.model))
        object.__setattr__(self, "held_out", _pairs(self.held_out))
        object.__setattr__(self, "added", self.added or None)
        object.__setattr__(self, "validation", self.validation or None)
        object.__setattr__(self, "tasks", _listed("tasks", self.tasks, str))
        compared = _listed("compared", self.compared, str, Recipe)
        compared = tuple(Recipe.parse(recipe) if isinstance(recipe, str) else recipe for recipe in compared)
        object.__setattr__(self, "compared", compared)
        problems: list[object] = list(job_problems(self._fields()))
        if not isinstance(self.recipe, Recipe):
            problems.insert(0, f"recipe must be a Recipe or its text, got {self.recipe!r}")
        if problems:
            raise UsageError(f"{self._named()}: " + "; ".join(map(str, problems)))

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _named(self) -> str:
        """What it is called in messages, whatever its fields hold."""
        try:
            return f"job {self}"
        except (TypeError, ValueError):  # a number of thousands of digits
            return "job"

    def __str__(self) -> str:
        added = f" and {self.added_samples} of {self.added}" if self.added_samples else ""
        return (
            f"{self.recipe} on {self.model}, {self.samples} x {self.length} tokens of {self.calibration}{added}, seed"
            f" {self.seed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the recipe in its text form; `Job(**job.to_dict())` is the same job."""
        texts = {"recipe": str(self.recipe), "compared": [str(recipe) for recipe in self.compared]}
        return asdict(self) | texts | {"held_out": dict(self.held_out), "tasks": list(self.tasks)}

    def columns(self, run: str) -> dict[str, Any]:
        """What stands in front of each of its rows in a study (`schema.JOB_COLUMNS`)."""
        recipe = self.recipe
        return {
            "run": run,
            "model": self.model,
            "recipe": recipe.label if recipe.seed == self.seed else str(recipe),
            "criterion": recipe.criterion.name,
            "refinement": recipe.refinement.name,
            "pattern": str(recipe.pattern),
            "method": recipe.method,
            "granularity": str(recipe.unit),
            "student": recipe.student,
            "target": recipe.target,
            "calibration": self.calibration,
            "samples": self.samples,
            "added": self.added or "",
            "added_samples": self.added_samples,
            "length": self.length,
            "seed": self.seed,
        }

    def identity(self, contents: Contents | None = None) -> dict[str, Any]:
        """Everything that decides the result, as JSON-ready values: contents of model, texts and tasks rather than
        their names, and nothing that this run does not use. Raises AnalysisError for contents that are not there.
        """
        contents = contents or Contents()
        model = contents.model(self.model)
        pattern = self.recipe.pattern.resolve(self.recipe.criterion.name)
        return {
            "recipe": str(replace(self.recipe, pattern=pattern)),
            "words": self.recipe.versions(),
            "model content": model,
            "calibration content": contents.source(self.calibration, model),
            "held-out content": [[label, contents.source(source, model)] for label, source in self.held_out],
            "added content": contents.source(self.added, model) if self.added and self.added_samples else None,
            "added_samples": self.added_samples,
            "tasks": [[task, contents.task(task)] for task in self.tasks],
            "documents": self.documents if self.tasks else None,
            "samples": self.samples,
            "held_out_samples": self.held_out_samples or self.samples,
            "length": self.length,
            "seed": self.seed,
            "separator": self.separator,
            "mode": self.mode,
            "bos": self.bos,
            "drop_overlap": self.drop_overlap,
            "device": self.device.partition(":")[0],
            "dtype": contents.dtype(self.model, self.dtype),
            "shrink": self.shrink,
            **({"compared": [str(recipe) for recipe in self.masks]} if self.compared else {}),
            **self._chosen(contents, model),
            **({"token kinds": [self.token_kinds, WORD_KINDS, DOCUMENTS]} if self.token_kinds else {}),
            **({"expert errors": True} if self.expert_errors else {}),
        }

    def _chosen(self, contents: Contents, model: str) -> dict[str, Any]:
        """The part of the identity that only runs have which select on validation text or say how held-out text is
        looked at: that of every other run is as it was before there were such.
        """
        given = None if self.validation is None else contents.source(self.validation, model)
        said = self.held_out_every != "auto" and self.recipe.solver.name in TRAINED
        return {
            **({"validation content": given or "set aside"} if self.recipe.selects else {}),
            **({"held_out_every": self.held_out_every} if said else {}),
            **({"full_test": True} if self.full_test else {}),
        }

    @property
    def masks(self) -> tuple[Recipe, ...]:
        """The recipes of `compared` with the seed of this recipe, their patterns as their criteria read them."""
        return tuple(
            replace(one, seed=self.recipe.seed, pattern=one.pattern.resolve(one.criterion.name))
            for one in self.compared
        )

    def digest(self, contents: Contents | None = None) -> str:
        """sha256 of `identity`, and of the schema of what is stored. No torch."""
        return storage.identity_digest(self.identity(contents))


def job_problems(
    values: Mapping[str, Any], named: Callable[[str], str] = str, contents: Contents | None = None
) -> Iterator[AnalysisError]:
    """Everything that is wrong with the fields of a job, one error each.

    values: by field name, counts that are not asked for left out; held_out as pairs, a recipe that is no Recipe is
    passed over. named: how a field is called in messages, such as `--held-out`. contents: if given, model, texts and
    tasks must be there, and the headers of the
    model's weight files fit the recipe.
    """
    recipe, labels = values["recipe"], [label for label, _ in values["held_out"]]
    yield from map(UsageError, _plain_problems(values, labels, named))
    words = {
        "source": [
            values["calibration"],
            *(source for _, source in values["held_out"]),
            *filter(None, [values["added"], values["validation"]]),
        ],
        "task": values["tasks"],
    }
    if odd := [f"{kind} {word!r}" for kind, given in words.items() for word in given if not isinstance(word, str)]:
        yield UsageError(f"{', '.join(odd)}: must be a text, such as 'lab:stories' or 'lab:yes-no'")
        return
    errors: dict[str, AnalysisError] = {}

    def attempt(check: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except AnalysisError as error:
            errors.setdefault(str(error), error)

    attempt(check_tasks, values["tasks"])
    for _, source in values["held_out"] if values["full_test"] is True else ():
        attempt(_check_ends, source, named("full_test"))
    if contents is None:
        for source in words["source"]:
            attempt(parse_source, source)
    else:
        model = attempt(contents.model, values["model"])
        for source in words["source"]:
            attempt(contents.source, source, model or "unknown")
        for task in values["tasks"]:
            attempt(contents.task, task)
        if model and isinstance(recipe, Recipe):
            for misfit in attempt(header_misfits, values["model"], recipe) or ():
                yield UsageError(f"recipe {recipe}: {misfit}")
    yield from errors.values()


def _check_ends(source: str, asked: str) -> None:
    """Raise UsageError for a source without an end, which cannot be read whole."""
    if (parsed := parse_source(source).half("held-out")).endless:
        raise UsageError(f"{asked}: {endless_error(parsed)}")


def _plain_problems(values: Mapping[str, Any], labels: Sequence[str], named: Callable[[str], str]) -> Iterator[str]:
    """What is wrong with the values as they stand, as sentences."""
    recipe = values["recipe"] if isinstance(values["recipe"], Recipe) else None
    if not isinstance(values["model"], str) or not values["model"]:
        yield f"{named('model')} must be a name or a folder, got {values['model']!r}"
    if not (values["separator"] is None or isinstance(values["separator"], str)):
        yield f"{named('separator')} must be a text or None, got {values['separator']!r}"
    if odd := [label for label in labels if not isinstance(label, str)]:
        yield f"{named('held_out')}: labels must be texts, got {odd[0]!r}"
        return
    if not isinstance(values["shrink"], bool):
        yield f"{named('shrink')} must be True or False, got {values['shrink']!r}"
    elif values["shrink"] and recipe is not None and (problem := shrink_problem(recipe)):
        yield f"{named('shrink')}: {problem}"
    if recipe is not None:
        aside = isinstance(values["samples"], int) and values["validation"] is None
        device = str(values["device"]).partition(":")[0]
        yield from misfits(recipe, windows=values["samples"] if aside else None, device=device)
        if values["validation"] is not None and (problem := validation_problem(recipe)):
            yield f"{named('validation')}: {problem}"
    if not isinstance(values["full_test"], bool):
        yield f"{named('full_test')} must be True or False, got {values['full_test']!r}"
    elif values["full_test"] and not labels:
        yield f"{named('full_test')}: there is no held-out text; give one"
    yield from _placement_problems(values, recipe, named)
    yield from _expert_problems(values, recipe, named("expert_errors"))
    if problem := every_problem(values["held_out_every"]):
        yield f"{named('held_out_every')} {problem}"
    yield from _compared_problems(named("compared"), values.get("compared", ()))
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield f"{named('held_out')}: two texts are labelled {label!r}; name them apart"
    if problem := label_problem(labels, selects=recipe is not None and recipe.selects is not None):
        yield f"{named('held_out')}: {problem}"
    if not all(labels):
        yield f"{named('held_out')}: a text has an empty label; name it"
    for name, least in SMALLEST.items():
        if name in values and not (values[name] is None and name == "held_out_samples"):
            yield from filter(None, [count_problem(named(name), values[name], least)])
    if values["dtype"] not in (None, *ASKED):
        yield f"{named('dtype')} must be one of {', '.join(ASKED)}, got {values['dtype']!r}"
    if values["mode"] not in (None, *MODES):
        yield f"{named('mode')} must be one of {', '.join(MODES)}, got {values['mode']!r}"
    if values["bos"] not in BOS:
        yield f"{named('bos')} must be one of {', '.join(BOS)}, got {values['bos']!r}"
    if not isinstance(values["drop_overlap"], bool):
        yield f"{named('drop_overlap')} must be True or False, got {values['drop_overlap']!r}"
    yield from device_problems(named("device"), values["device"])
    if str(values["added"]).startswith("examples:"):
        yield (
            f"{named('added')} {values['added']!r}: labelled examples cannot be added; ask for more of them as"
            " calibration, or give plain text or 'self'"
        )
    if values["added"] is None and values["added_samples"] != 0:
        yield unpaired(named)


def _placement_problems(values: Mapping[str, Any], recipe: Recipe | None, named: Callable[[str], str]) -> Iterator[str]:
    """What is wrong with where the weights shall be, as sentences."""
    asked = values.get("placement", "resident")
    if asked not in PLACEMENTS:
        yield f"{named('placement')} must be one of {', '.join(PLACEMENTS)}, got {asked!r}"
    elif asked == "streamed":
        yield from streaming_problems(recipe) if recipe is not None else ()


def _expert_problems(values: Mapping[str, Any], recipe: Recipe | None, name: str) -> Iterator[str]:
    """What is wrong with asking what became of each expert, as sentences."""
    asked = values.get("expert_errors", False)
    if not isinstance(asked, bool):
        yield f"{name} must be True or False, got {asked!r}"
    elif asked and recipe is not None and recipe.pattern.experts:
        yield f"{name}: {recipe} takes whole experts out, and those that stay are as they were; leave it out"
    elif asked and values.get("placement") == "streamed":
        yield f"{name}: the dense model runs whole for it, and a streamed one is never in memory; leave one of them out"


def mask_word(recipe: Recipe) -> str:
    """How tables call the mask that a recipe chooses: "wanda", or "wanda+swaps"."""
    refined = recipe.refinement.name
    return recipe.criterion.name + (f"+{refined}" if refined != "none" else "")


def _compared_problems(name: str, recipes: Sequence[object]) -> Iterator[str]:
    """What is wrong with recipes whose masks are to be compared, as sentences."""
    if not recipes:
        return
    if odd := [recipe for recipe in recipes if not isinstance(recipe, Recipe)]:
        yield f"{name} must be recipes or their texts, such as 'wanda-50% LR', got {odd[0]!r}"
        return
    made = [recipe for recipe in recipes if isinstance(recipe, Recipe)]
    if kinds := sorted({recipe.pattern.kind for recipe in made} - {"weights"}):
        yield f"{name}: only masks of single weights can be compared, got masks of {', '.join(kinds)}"
    if owl := [recipe for recipe in made if recipe.pattern.shares == OWL]:
        yield f"{name}: {owl[0]}: {NO_OWL}"
    words = [mask_word(recipe) for recipe in made]
    if len(set(words)) < max(2, len(words)):
        yield f"{name}: give at least two masks, each criterion and refinement once, got {', '.join(words)}"


def unpaired(named: Callable[[str], str]) -> str:
    """The sentence on added windows that lack their source, or a source that lacks their number."""
    return f"{named('added')} and {named('added_samples')} go together: a source, and how many windows of it"


def device_problems(name: str, value: object) -> Iterator[str]:
    """The sentence on a device that is none; nothing where it is right."""
    if not DEVICE.fullmatch(str(value)):
        yield f"{name} must be auto, cpu, mps, cuda or cuda:NUMBER, got {value!r}"


def _pairs(held_out: Any) -> tuple[tuple[str, str], ...]:
    """Labelled texts as pairs. Raises UsageError for what has no labels."""
    try:
        if isinstance(held_out, str):
            raise ValueError
        pairs = held_out.items() if isinstance(held_out, Mapping) else held_out
        return tuple((label, source) for label, source in pairs)
    except (TypeError, ValueError):
        form = "{label: source}, such as {'stories': 'lab:stories'}, or pairs of them"
        raise UsageError(f"held_out must be {form}, got {held_out!r}") from None


def _listed(name: str, given: Any, *single: type) -> tuple:
    """What was given, as a tuple: one thing of the types `single` is a list of one. Raises UsageError for no list."""
    if isinstance(given, single):
        return (given,)
    if isinstance(given, (Mapping, bytes)) or not isinstance(given, Iterable):
        raise UsageError(f"{name} must be a list, got {given!r}")
    return tuple(given)


def grid(
    *,
    model: str,
    recipes: str | Recipe | Sequence[str | Recipe],
    samples: int | Sequence[int],
    added_samples: int | Sequence[int] = 0,
    seeds: int | Sequence[int] = (0,),
    **job: Any,
) -> list[Job]:
    """Every recipe at every number of samples and of added ones with every seed; `job` holds the other fields of `Job`,
    the same for all. One recipe, number or seed may stand for a list of one.

    A seed is the job's and the recipe's at once. An empty list makes no job, so that a notebook can leave a part out.
    Raises UsageError for a recipe that brings its own seed.
    """
    given = _listed("recipes", recipes, str, Recipe)
    parsed = [Recipe.parse(recipe) if isinstance(recipe, str) else recipe for recipe in given]
    for recipe in parsed:
        if not isinstance(recipe, Recipe):
            raise UsageError(f"grid: a recipe must be a Recipe or its text, got {recipe!r}")
        if recipe.seed:
            raise UsageError(
                f"grid: recipe {recipe} has a seed of its own; leave it out and give seeds=[{recipe.seed}]"
            )
    counts, more = _listed("samples", samples, int), _listed("added_samples", added_samples, int)
    each = _listed("seeds", seeds, int)
    problems = [problem for seed in each if (problem := count_problem("each of seeds", seed, 0))]
    known = [field.name for field in fields(Job) if field.name not in ("recipe", "seed")]
    if strange := sorted(job.keys() - set(known)):
        problems.append(f"{', '.join(strange)}: {suggest(strange[0], [*known, 'recipes', 'seeds'])}")
    if problems:
        raise UsageError("grid: " + "; ".join(problems))
    return [
        Job(model=model, recipe=replace(recipe, seed=seed), samples=count, added_samples=added, seed=seed, **job)
        for count, added in product(counts, more)
        for recipe in parsed
        for seed in each
    ]
