"""Many runs, each done once: jobs in, one table per kind of record out.

    jobs = grid(model="lab", recipes=["wanda-50% LR", "wanda-50% BR"], samples=[32, 256], seeds=[0, 1, 2],
                calibration="lab:mixed", held_out={"stories": "lab:stories"}, held_out_samples=64, length=128)
    study = run_study(jobs)
    study.blocks      # the job's columns, then block, split, kind, error, relative_error

What is in the store is read back without loading torch; an interrupted study goes on where it stopped. On a CPU with
several cores the jobs are shared among processes (`workers`): small models gain little from several threads for one
job.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import schema
from analysis.errors import AnalysisError, UsageError
from analysis.models.hub import fingerprint
from analysis.models.load import DTYPES
from analysis.progress import bar
from analysis.pruning.checks import misfits
from analysis.recipe.recipe import Recipe
from analysis.study.answers import with_answers
from analysis.study.calibration import draw
from analysis.study.pool import affordable, spread, threads
from analysis.study.store import SCHEMA, RunFolder, StoredRun
from analysis.text.sources import parse_source, source_fingerprint
from analysis.text.tasks import check_tasks, task_fingerprint

if TYPE_CHECKING:
    from analysis.measure.quality import DenseModel
    from analysis.measure.zero_shot import TaskScore
    from analysis.models.load import LoadedModel
    from analysis.windows import Windows


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a model, a recipe, and the texts it sees and is measured on.

    calibration: a source; held_out: {label: source} or (label, source) pairs, kept as pairs. Where a lab source names
    no half, calibration reads "train" and held-out texts "held-out". samples, held_out_samples: windows of `length`
    tokens of each (held_out_samples None = as many as samples). seed: which windows are drawn; the recipe has a seed of
    its own for masks and training order. separator: between documents of plain-text files. device "auto" takes what
    there is, and is served what any device computed; a named device is served only its own kind's results.

    added: a source of `added_samples` more windows, put behind the calibration windows (`study/calibration.py`);
    `recipe.added` says who sees them. With 0 of them the run is that without. tasks: multiple-choice tasks that the
    dense and the pruned model answer, `documents` questions of each, the same ones for every seed. shrink: measure size
    and speed of the model with removed structures cut out (table `size`), beside the dense one's.

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
    dtype: str = "float32"
    device: str = "auto"
    separator: str | None = None
    added: str | None = None
    added_samples: int = 0
    tasks: tuple[str, ...] = ()
    documents: int = 100
    shrink: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.recipe, str):
            object.__setattr__(self, "recipe", Recipe.parse(self.recipe))
        pairs = self.held_out.items() if isinstance(self.held_out, Mapping) else self.held_out
        object.__setattr__(self, "held_out", tuple((label, source) for label, source in pairs))
        object.__setattr__(self, "added", self.added or None)
        object.__setattr__(self, "tasks", (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks))
        if problems := list(self._problems()):
            raise UsageError(f"job {self}: " + "; ".join(problems))

    def _problems(self) -> Iterator[str]:
        if not isinstance(self.recipe, Recipe):
            yield f"recipe must be a Recipe or its text, got {self.recipe!r}"
        if not isinstance(self.shrink, bool):
            yield f"shrink must be True or False, got {self.shrink!r}"
        elif self.shrink and isinstance(self.recipe, Recipe) and not self.recipe.pattern.whole:
            yield f"shrink=True: {self.recipe} removes single weights, so no matrix gets smaller"
        labels = [label for label, _ in self.held_out]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            yield f"two held-out texts are labelled {label!r}; name them apart"
        if schema.CALIBRATION in labels:
            yield f"the held-out label {schema.CALIBRATION!r} is taken by the calibration text; choose another"
        if not all(labels):
            yield "a held-out text has an empty label; name it"
        for name, low in (
            ("samples", 1),
            ("held_out_samples", 1),
            ("length", 2),
            ("seed", 0),
            ("added_samples", 0),
            ("documents", 2),
        ):
            value = getattr(self, name)
            if value is None and name == "held_out_samples":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                yield f"{name} must be a whole number of at least {low}, got {value!r}"
        if self.dtype not in DTYPES:
            yield f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}"
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(self.device)):
            yield f"device must be auto, cpu, mps, cuda or cuda:NUMBER, got {self.device!r}"
        if str(self.added).startswith("examples:"):
            yield (
                f"added {self.added!r}: labelled examples cannot be added; ask for more of them as calibration, or give"
                " plain text or 'self'"
            )
        if self.added is None and self.added_samples != 0:
            yield f"{self.added_samples} added windows of no source; give added, such as added='self'"
        words = {
            "source": [self.calibration, *(source for _, source in self.held_out), *filter(None, [self.added])],
            "task": self.tasks,
        }
        if odd := [f"{what} {word!r}" for what, given in words.items() for word in given if not isinstance(word, str)]:
            yield f"{', '.join(odd)}: must be a text, such as 'lab:stories' or 'lab:yes-no'"
            return
        for check, given in [*((parse_source, source) for source in words["source"]), (check_tasks, self.tasks)]:
            try:
                check(given)
            except AnalysisError as error:
                yield str(error)

    def __str__(self) -> str:
        added = f" and {self.added_samples} of {self.added}" if self.added_samples else ""
        return (
            f"{self.recipe} on {self.model}, {self.samples} x {self.length} tokens of {self.calibration}{added}, seed"
            f" {self.seed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the recipe in its text form; `Job(**job.to_dict())` is the same job."""
        return asdict(self) | {"recipe": str(self.recipe), "held_out": dict(self.held_out)}

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

    def digest(self) -> str:
        """sha256 of everything the tables depend on: contents of model and texts rather than their names. No torch."""
        return _Desk().digest(self)


def grid(
    *,
    model: str,
    recipes: Sequence[str | Recipe],
    samples: int | Sequence[int],
    added_samples: int | Sequence[int] = 0,
    seeds: Sequence[int] = (0,),
    **job: Any,
) -> list[Job]:
    """Every recipe at every number of samples and of added ones with every seed; `job` holds the other fields of `Job`,
    the same for all.

    A seed is the job's and the recipe's at once. Raises UsageError for a recipe that brings its own, or nothing to run.
    """
    parsed = [Recipe.parse(recipe) if isinstance(recipe, str) else recipe for recipe in recipes]
    for recipe in parsed:
        if recipe.seed:
            raise UsageError(
                f"grid: recipe {recipe} has a seed of its own; leave it out and give seeds=[{recipe.seed}]"
            )
    counts, more = ([numbers] if isinstance(numbers, int) else numbers for numbers in (samples, added_samples))
    jobs = [
        Job(model=model, recipe=replace(recipe, seed=seed), samples=count, added_samples=added, seed=seed, **job)
        for count, added in product(counts, more)
        for recipe in parsed
        for seed in seeds
    ]
    if not jobs:
        raise UsageError("grid: no jobs; give at least one recipe, number of samples and seed")
    return jobs


@dataclass(frozen=True, eq=False)
class Study:
    """Finished jobs, the names of their runs, and their tables one under another with the job's columns in front
    (`schema.study_columns`).
    """

    jobs: tuple[Job, ...]
    runs: tuple[str, ...]
    blocks: pd.DataFrame
    distribution: pd.DataFrame
    steps: pd.DataFrame
    matrices: pd.DataFrame
    structures: pd.DataFrame
    layers: pd.DataFrame
    cost: pd.DataFrame
    perplexity: pd.DataFrame
    scores: pd.DataFrame
    texts: pd.DataFrame
    size: pd.DataFrame
    zero_shot: pd.DataFrame
    numerics: pd.DataFrame
    provenance: dict[str, Any]  # runs: run name -> job, versions, time, and where its windows come from

    def part(self, jobs: Iterable[Job]) -> "Study":
        """The study of some of its jobs, in their order. Raises UsageError for a job that is none of its own."""
        names = dict(zip(self.jobs, self.runs, strict=True))
        jobs = tuple(dict.fromkeys(jobs))
        if strange := [job for job in jobs if job not in names]:
            raise UsageError(
                f"part of a study: {len(strange)} of {len(jobs)} jobs are not in it, the first is {strange[0]}"
            )
        runs = tuple(names[job] for job in jobs)
        place = {run: number for number, run in enumerate(dict.fromkeys(runs))}
        tables = {}
        for name in schema.TABLES:
            table = getattr(self, name)
            tables[name] = table[table["run"].isin(place)].sort_values(
                "run", key=lambda column: column.map(place), kind="stable", ignore_index=True
            )
        return Study(
            jobs,
            runs,
            **tables,
            provenance=self.provenance | {"runs": {run: self.provenance["runs"][run] for run in place}},
        )


@dataclass(eq=False)
class _Desk:
    """What one study keeps at hand between jobs: fingerprints, the last model used, its token windows and its answers
    to tasks.
    """

    prints: dict[tuple[str, ...], str] = field(default_factory=dict)
    model_key: tuple | None = None
    loaded: "LoadedModel | None" = None
    windows: dict[tuple, "Windows"] = field(default_factory=dict)
    answers: dict[tuple, list["TaskScore"]] = field(default_factory=dict)
    dense: "DenseModel | None" = None  # the loaded model, which keeps what runs find out about it

    def digest(self, job: Job) -> str:
        model = self._print(fingerprint, job.model)
        parts = {
            "schema": SCHEMA,
            "model": model,
            "recipe": job.recipe.digest(),
            "calibration": self._print(source_fingerprint, job.calibration, model),
            "added": (
                [self._print(source_fingerprint, job.added, model), job.added_samples] if job.added_samples else None
            ),
            "held_out": [[label, self._print(source_fingerprint, source, model)] for label, source in job.held_out],
            "tasks": (
                [[[task, self._print(task_fingerprint, task)] for task in job.tasks], job.documents]
                if job.tasks
                else None
            ),
            "shrink": job.shrink,
            "samples": [job.samples, job.held_out_samples or job.samples, job.length, job.seed],
            "numbers": [job.dtype, job.device.partition(":")[0]],
            "separator": job.separator,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _print(self, of: Callable[..., str], *given: str) -> str:
        """`of(*given)`, computed once."""
        key = (of.__name__, *given)
        if key not in self.prints:
            self.prints[key] = of(*given)
        return self.prints[key]

    def prune(self, job: Job, folder: RunFolder) -> StoredRun:
        """Do the work and store it. The only function here that loads torch."""
        from analysis.pruning.loop import prune
        from analysis.pruning.structures import check_pattern_shrinks

        if problems := misfits(job.model, job.recipe):
            raise UsageError("; ".join(problems))
        self._load(job)
        if job.shrink:
            check_pattern_shrinks(self.loaded.model, job.recipe.pattern)
        load = partial(self._tokens, job, split="train")
        calibration = draw(load, job.calibration, job.samples, job.added, job.added_samples)
        held_out = {
            label: self._tokens(job, source, job.held_out_samples or job.samples, split="held-out")
            for label, source in job.held_out
        }
        pruned = prune(self.dense, job.recipe, calibration, held_out, checkpoint=folder.checkpoint)
        tables = with_answers(pruned, self.loaded, job.tasks, job.documents, self.answers)
        if job.shrink:
            from analysis.measure.size import size_table

            tables = tables | {"size": size_table({"dense": self.loaded.model, "pruned": pruned.shrink()}, calibration)}
        provenance = {**pruned.provenance, "device": str(self.loaded.device), "dtype": job.dtype}
        return folder.write(tables, provenance)

    def _load(self, job: Job) -> None:
        from analysis.measure.quality import DenseModel
        from analysis.models.load import load_model

        key = (job.model, job.device, job.dtype)
        if self.model_key != key:
            self.loaded, self.dense, self.model_key = None, None, None  # let go of one model before taking the next
            self.windows.clear()
            self.answers.clear()
            self.loaded, self.model_key = load_model(job.model, device=job.device, dtype=job.dtype), key
            self.dense = DenseModel(self.loaded)

    def _tokens(self, job: Job, source: str, samples: int, *, split: str) -> "Windows":
        from analysis.text.load import load_tokens

        key = (source, samples, job.length, job.seed, job.separator, split)
        if key not in self.windows:
            self.windows[key] = load_tokens(
                source,
                self.loaded,
                samples=samples,
                length=job.length,
                seed=job.seed,
                separator=job.separator,
                split=split,
            )
        return self.windows[key]


def run_job(job: Job) -> StoredRun:
    """One job: read from the store, else pruned and stored; a second process asking for it waits for the first.

    Raises the AnalysisError of whatever failed, with the job's name in front.
    """
    desk = _Desk()
    with _named(job):
        return _run(job, RunFolder(desk.digest(job)), desk)


def run_study(jobs: Iterable[Job], *, progress: bool = True, workers: int | None = None) -> Study:
    """Run what the store lacks and read everything back as one table of each kind, in the order of the jobs.

    progress: one bar over the jobs to be run. workers: processes that share the jobs, each with its share of the cores;
    1 runs them in this process. None: 1 on an accelerator or where one job is to be run, else as many as there are
    jobs, cores, and memory for (`pool.affordable`). Jobs that time a model (`shrink`) come first and alone, in this
    process. Equal jobs are one.

    Raises UsageError where there is no job, and the AnalysisError of a job that fails, with the job's name in front
    (several
    workers: of the first such job in order, once the jobs under way are done); what is finished stays stored.
    """
    jobs = tuple(dict.fromkeys(jobs))
    if not jobs:
        raise UsageError("study: no jobs to run")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise UsageError(
            "study: workers must be a whole number of at least 1, or None for as many as fit this machine, got"
            f" {workers!r}"
        )
    desk = _Desk()
    folders, runs = {}, {}
    for job in jobs:
        with _named(job):
            folders[job] = RunFolder(desk.digest(job))
            runs[job] = folders[job].read()
    models = list(dict.fromkeys(job.model for job in jobs))
    missing = sorted(
        (job for job in jobs if runs[job] is None), key=lambda job: models.index(job.model)
    )  # each model is loaded once
    with closing(_run_missing(missing, folders, desk, workers)) as done:
        told = {"total": len(missing), "desc": f"study: {len(missing)} of {len(jobs)} runs to do", "unit": "run"}
        for job, run in bar(done, **told) if progress and missing else done:
            runs[job] = run
    return _gather({job: (folders[job].name, run) for job, run in runs.items()})


def _run_missing(
    jobs: Sequence[Job], folders: Mapping[Job, RunFolder], desk: _Desk, workers: int | None
) -> Iterator[tuple[Job, StoredRun]]:
    """Every job as it ends; those that time a model before the others, with nothing beside them."""
    timed, others = ([job for job in jobs if job.shrink is alone] for alone in (True, False))
    yield from _run_here(
        timed, folders, _Desk()
    )  # a desk of their own: its model is let go of before workers load theirs
    if workers is None and len(others) > 1:
        workers = affordable({job.model for job in others}, {job.device for job in others})
    workers = min(workers or 1, len(others))
    yield from _run_apart(others, folders, desk, workers) if workers > 1 else _run_here(others, folders, desk)


def _run_here(jobs: Sequence[Job], folders: Mapping[Job, RunFolder], desk: _Desk) -> Iterator[tuple[Job, StoredRun]]:
    for job in jobs:
        with _named(job):
            run = _run(job, folders[job], desk)
        yield job, run


def _run_apart(
    jobs: Sequence[Job], folders: Mapping[Job, RunFolder], desk: _Desk, workers: int
) -> Iterator[tuple[Job, StoredRun]]:
    """Every job by one of several workers, as they end; `desk` reads back what they stored."""
    failures = {}
    with closing(
        spread(_run_in_worker, [(job, folders[job]) for job in jobs], workers=workers, threads=threads(workers))
    ) as answers:
        for number, error in answers:
            job = jobs[number]
            if error is not None:
                failures[number] = error
                continue
            with _named(job):
                run = _run(job, folders[job], desk)
            yield job, run
    if failures:
        first = min(failures)
        with _named(jobs[first]):
            raise failures[first]


def _run_in_worker(asked: tuple[Job, RunFolder]) -> None:
    _run(*asked, _worker_desk())


@cache
def _worker_desk() -> _Desk:
    """The one desk of a worker process."""
    return _Desk()


def _run(job: Job, folder: RunFolder, desk: _Desk) -> StoredRun:
    if (run := folder.read()) is not None:
        return run
    with folder.hold():
        if (run := folder.read()) is not None:  # another process did it while this one waited
            return run
        folder.begin(job.to_dict())
        return desk.prune(job, folder)


@contextmanager
def _named(job: Job) -> Iterator[None]:
    """Put the job in front of the message of an AnalysisError, and in the notes of any other error."""
    try:
        yield
    except AnalysisError as error:
        error.args = (f"job {job}: {error}", *error.args[1:])
        raise
    except Exception as error:
        error.add_note(f"while running job {job}")
        raise


def _gather(runs: Mapping[Job, tuple[str, StoredRun]]) -> Study:
    """One table of each kind out of every run's."""
    front = pd.DataFrame([job.columns(run) for job, (run, _) in runs.items()])
    tables = {}
    for name in schema.TABLES:
        own = [stored.tables[name] for _, stored in runs.values()]
        jobs = front.loc[front.index.repeat([len(table) for table in own])].reset_index(drop=True)
        tables[name] = schema.conform(name, jobs.join(pd.concat(own, ignore_index=True)), schema.study_columns(name))
    about = {
        run: {
            "job": job.to_dict(),
            "versions": s.manifest["versions"],
            "created": s.manifest["created"],
            **s.provenance,
        }
        for job, (run, s) in runs.items()
    }
    return Study(
        tuple(runs), tuple(run for run, _ in runs.values()), **tables, provenance={"schema": SCHEMA, "runs": about}
    )
