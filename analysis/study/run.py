"""One job carried out: checks, model, windows, masks and reconstruction, tasks, shrinking, tables.

The command line, notebooks and workers all come through here. No torch before a job is carried out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.errors import AnalysisError, OverlapError, UsageError
from analysis.models.dtypes import dtype_word
from analysis.models.hub import fingerprint
from analysis.pruning.checks import header_misfits
from analysis.schema import CALIBRATION, TABLES, VALIDATION, validate
from analysis.study.job import Job, mask_word
from analysis.study.pool import threads
from analysis.study.store import RunFolder, StoredRun
from analysis.text.shared import origins
from analysis.text.sources import parse_source, source_fingerprint
from analysis.text.tasks import task_fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from analysis.measure.quality import DenseModel
    from analysis.measure.token_kinds import ToldDocuments
    from analysis.measure.zero_shot import TaskScore
    from analysis.models.load import LoadedModel
    from analysis.pruning.state import Pruned
    from analysis.windows import Windows


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a job is carried out on: the dense model, the windows of both sides, and those of a validation text that
    the job names.
    """

    dense: "LoadedModel"
    calibration: "Windows"
    held_out: "dict[str, Windows]"
    validation: "Windows | None" = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a job gave: the pruned model, all its tables, where they come from, and the smaller model if wanted."""

    pruned: "Pruned"
    tables: dict[str, pd.DataFrame]
    provenance: dict[str, Any]
    shrunk: "nn.Module | None" = None


@dataclass(eq=False)
class Bench:
    """Carries out jobs, one after another. Between them it keeps the last model, its windows, its answers to tasks and
    what was measured of it, as long as model, texts and tasks are what they were; `reuse=False`, for a single job,
    keeps nothing that only a next one would need.

    say: is told what begins, in one line. threads: that torch computes with; what was kept of others is dropped.
    """

    reuse: bool = True
    say: Callable[[str], object] = lambda message: None
    threads: int | None = None
    key: tuple | None = None
    dense: "LoadedModel | None" = None
    windows: "dict[tuple, Windows]" = field(default_factory=dict)
    answers: "dict[tuple, list[TaskScore]]" = field(default_factory=dict)
    told: "dict[tuple, tuple[ToldDocuments, dict]]" = field(default_factory=dict)  # with the dense model's losses
    memory: "DenseModel | None" = None  # the dense model with what runs find out about it

    def prepare(self, job: Job) -> Inputs:
        """Check what a job asks, load its model and draw its windows. Raises UsageError, ModelError, DataError."""
        if problems := header_misfits(job.model, job.recipe):
            raise UsageError(f"recipe {job.recipe}: " + "; ".join(problems))
        if not job.drop_overlap:
            check_slices(job)
        dense = self._load(job)
        if job.shrink:
            from analysis.pruning.structures import check_pattern_shrinks

            check_pattern_shrinks(dense.model, job.recipe.pattern)
        if job.tasks:
            from analysis.measure.zero_shot import check_questions

            check_questions(dense.model, dense.tokenizer, job.tasks, documents=job.documents, bos=job.bos)
        if job.token_kinds:
            from analysis.measure.token_kinds import check_told

            check_told(dense.model, dense.tokenizer)
        if job.expert_errors:
            from analysis.measure.expert_errors import check_experts

            check_experts(dense.model)
        load = partial(self._tokens, dense, job, split="train")
        calibration = draw(load, job.calibration, job.samples, job.added, job.added_samples)
        held_out = {
            label: self._tokens(dense, job, source, job.held_out_samples or job.samples, split="held-out")
            for label, source in job.held_out
        }
        validation = None
        if job.validation is not None:
            count = job.held_out_samples or job.samples
            drawn = {VALIDATION: self._tokens(dense, job, job.validation, count, split="train")}
            validation = without_shared(job, dense, calibration, drawn)[VALIDATION]
            held_out = without_shared(job, dense, validation, held_out, side=VALIDATION)
        return Inputs(dense, calibration, without_shared(job, dense, calibration, held_out), validation)

    def carry_out(self, job: Job, inputs: Inputs, checkpoint: "Path") -> Outcome:
        """Prune, ask tasks and shrink, resuming from the folder `checkpoint`. Raises AnalysisError as `prune`."""
        from analysis.pruning.loop import prune

        dense, calibration = inputs.dense, inputs.calibration
        model = self.memory if self.memory is not None else dense
        pruned = prune(
            model,
            job.recipe,
            calibration,
            inputs.held_out,
            validation=inputs.validation,
            held_out_every=job.held_out_every,
            checkpoint=checkpoint,
        )
        tables, shrunk = dict(pruned.tables), None
        if job.tasks:
            self.say(f"asking both models {job.documents} questions of {', '.join(job.tasks)}")
            tables |= answer_tables(
                pruned.model, dense, job.tasks, job.documents, self.answers, job.bos, cost=pruned.tables["cost"]
            )
        if job.full_test:
            self.say(f"measuring both models on all of {', '.join(label for label, _ in job.held_out)}")
            texts = {label: self._tokens(dense, job, source, None, split="held-out") for label, source in job.held_out}
            tables |= whole(pruned.model, model, texts, tables)
        if job.token_kinds:
            tables["token_kinds"] = self._token_kinds(job, dense, pruned.model)
        if job.expert_errors:
            from analysis.measure.expert_errors import expert_errors

            texts = {CALIBRATION: calibration, **inputs.held_out}
            tables["expert_errors"] = expert_errors(dense, pruned.model, texts)
        if job.shrink:
            from analysis.measure.size import size_table

            self.say("cutting out what was removed")
            shrunk = pruned.shrink()
            tables["size"] = size_table({"dense": dense.model, "pruned": shrunk}, calibration)
        if job.compared:
            from analysis.measure.mask_overlap import mask_overlaps

            recipes = {mask_word(recipe): recipe for recipe in job.masks}
            self.say(f"comparing the masks of {', '.join(recipes)}")
            tables["overlap"] = mask_overlaps(dense.model, calibration, recipes)
        provenance = {**pruned.provenance, "device": str(dense.device), "dtype": dtype_word(dense.dtype)}
        return Outcome(pruned, tables, provenance, shrunk)

    def _token_kinds(self, job: Job, dense: "LoadedModel", pruned: "nn.Module") -> pd.DataFrame:
        from analysis.measure.token_kinds import kind_losses, told_documents

        key = (job.token_kinds, job.seed)
        if key not in self.told:
            documents = told_documents(dense.model, dense.tokenizer, documents=job.token_kinds, seed=job.seed)
            self.told[key] = documents, kind_losses(dense.model, documents)
        documents, dense_losses = self.told[key]
        losses = {"dense": dense_losses, "pruned": kind_losses(pruned, documents)}
        rows = [
            {"kind": kind, "which": which, "nats_per_token": nats, "tokens": tokens}
            for which, kinds in losses.items()
            for kind, (nats, tokens) in kinds.items()
        ]
        return validate("token_kinds", pd.DataFrame(rows))

    def _load(self, job: Job) -> "LoadedModel":
        from analysis.measure.quality import DenseModel
        from analysis.models.load import load_model

        key = (job.model, fingerprint(job.model), job.device, job.dtype, job.placement, self.threads)
        if self.dense is None or self.key != key:
            self.dense = self.key = self.memory = None  # let go of one model before taking the next
            self.windows.clear()
            self.answers.clear()
            self.told.clear()
            self.say(f"loading {job.model}")
            dense = load_model(job.model, device=job.device, dtype=job.dtype, placement=job.placement)
            self.dense, self.key = dense, key
            self.memory = DenseModel(self.dense) if self.reuse else None
        return self.dense

    def _tokens(self, dense: "LoadedModel", job: Job, source: str, samples: int | None, *, split: str) -> "Windows":
        from analysis.text.load import load_tokens

        content = source_fingerprint(source, dense.fingerprint)
        key = (source, content, samples, job.length, job.seed, job.separator, job.mode, job.bos, split)
        if key not in self.windows:
            self.windows[key] = load_tokens(
                source,
                dense,
                samples=samples,
                length=job.length,
                seed=job.seed,
                separator=job.separator,
                mode=job.mode,
                split=split,
                bos=job.bos,
            )
        return self.windows[key]


def check_slices(job: Job) -> None:
    """Raise OverlapError where the sources of both sides are slices of one text that hold the same documents."""
    from analysis.windows import check_origins

    def origins_of(source: str, split: str) -> list[dict]:
        return origins(parse_source(source).half(split), seed=job.seed, model="the model of the run")

    calibration = [
        origin for source in (job.calibration, job.added) if source for origin in origins_of(source, "train")
    ]
    sides = {f"calibration {job.calibration!r}": calibration}
    if job.validation is not None:
        both = f"calibration {job.calibration!r} and validation {job.validation!r}"
        validation = origins_of(job.validation, "train")
        check_origins(both, calibration, validation)
        sides[f"validation {job.validation!r}"] = validation
    for (side, seen), (label, source) in product(sides.items(), job.held_out):
        check_origins(f"{side} and held-out {label!r}", seen, origins_of(source, "held-out"))


def without_shared(
    job: Job, dense: "LoadedModel", calibration: "Windows", held_out: "dict[str, Windows]", *, side: str = "calibration"
) -> "dict[str, Windows]":
    """The held-out windows that share no text with calibration, or what `side` calls the first. Raises OverlapError as
    `windows.disjoint`.
    """
    from analysis.windows import disjoint

    return disjoint(calibration, held_out, drop=job.drop_overlap, tokenizer=dense.tokenizer, side=side)


def draw(
    load: "Callable[[str, int], Windows]", calibration: str, samples: int, added: str | None, added_samples: int
) -> "Windows":
    """`samples` windows of the source `calibration`, and `added_samples` of the source `added` appended to them.

    load(source, samples): the first so many windows of a source, the same ones for the same arguments. Where both are
    one source, the added windows are those that follow the calibration windows.

    Raises OverlapError where an added window is a calibration window again.
    """
    if added is None or not added_samples:
        return load(calibration, samples)
    from analysis.windows import append

    if added == calibration:
        both = load(calibration, samples + added_samples)
        rest = replace(both, ids=both.ids[samples:], mask=both.mask[samples:])
        first = both.subset(samples)
        rest = replace(rest, provenance={**both.provenance, "samples": added_samples, "tokens": rest.tokens})
    else:
        first, rest = load(calibration, samples), load(added, added_samples)
    rows = {row.tobytes() for row in first.ids.cpu().numpy()}
    if repeated := sum(row.tobytes() in rows for row in rest.ids.cpu().numpy()):
        raise OverlapError(
            f"added {added!r}: {repeated} of {added_samples} windows are calibration windows of {calibration!r} again;"
            " give each its own documents with slices, such as text.txt[:50%] and text.txt[50%:], or the one source"
            " under the same name"
        )
    return append(first, rest)


def whole(
    pruned: "nn.Module", dense: "DenseModel | LoadedModel", texts: "dict[str, Windows]", tables: dict[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """The tables `perplexity`, `scores` and `cost` with rows of both models on whole texts, whose split is "LABEL,
    whole": every window there is, in order, as Shin et al. 2024, section 3.2, take perplexity.

    tables: the tables so far.
    """
    from analysis.measure.cost import Meter
    from analysis.measure.quality import DenseModel, measurable, quality_rows

    known = DenseModel.of(dense)
    named = measurable(known.model, {f"{label}, whole": windows for label, windows in texts.items()})
    meter = Meter(next(pruned.parameters()).device)
    with meter.stage(-1, "measure", tokens=2 * sum(windows.tokens for windows in named.values())):
        rows = quality_rows(known, pruned, named)
    more = {**rows, "cost": meter.rows}
    return {
        name: validate(name, pd.concat([tables[name], pd.DataFrame(new)], ignore_index=True))
        for name, new in more.items()
        if new
    }


def answer_tables(
    pruned: "nn.Module",
    dense: "LoadedModel",
    tasks: Sequence[str],
    documents: int,
    dense_scores: "dict[tuple, list[TaskScore]]",
    bos: str = "auto",
    *,
    cost: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """The tables `zero_shot`, what the dense and the pruned model answer to multiple-choice tasks, and `cost` with what
    asking took.

    cost: the table so far. dense_scores: the dense model's by (tasks and what they hold, documents, bos), looked up
    here and added to, since they are the same for all its runs.
    """
    from analysis.measure.cost import Meter
    from analysis.measure.zero_shot import zero_shot

    asked, meter = tuple((task, task_fingerprint(task)) for task in tasks), Meter(dense.device)
    key = (asked, documents, bos)
    with meter.stage(-1, "tasks"):
        if key not in dense_scores:
            dense_scores[key] = zero_shot(dense.model, dense.tokenizer, tasks, documents=documents, bos=bos)
        scores = {
            "dense": dense_scores[key],
            "pruned": zero_shot(pruned, dense.tokenizer, tasks, documents=documents, bos=bos),
        }
    rows = [{"which": which, **asdict(score)} for which, answers in scores.items() for score in answers]
    answers = pd.DataFrame(rows)[[column.name for column in TABLES["zero_shot"]]]
    cost = pd.concat([cost, pd.DataFrame(meter.rows)], ignore_index=True)
    return {"zero_shot": validate("zero_shot", answers), "cost": validate("cost", cost)}


def run_job(job: Job) -> StoredRun:
    """One job: read from the store, else carried out and stored; a second process asking for it waits for the first.

    Raises the AnalysisError of whatever failed, with the job's name in front.
    """
    with named(job):
        folder = RunFolder(job.digest())
        return folder.read() or store_run(job, folder, Bench(reuse=False), threads(job.model))


def store_run(job: Job, folder: RunFolder, bench: Bench, threads: int) -> StoredRun:
    """Carry out a job with so many threads, or those that it began with, and store it, unless another process has
    meanwhile.
    """
    from analysis.pruning.checkpoint import computing_with, kept_threads
    from analysis.study.fit import memory_told

    with folder.hold():
        if (run := folder.read()) is not None:
            return run
        folder.begin(job.to_dict())
        bench.threads = kept_threads(folder.checkpoint) or threads
        with computing_with(bench.threads), memory_told(job):
            outcome = bench.carry_out(job, bench.prepare(job), folder.checkpoint)
        return folder.write(outcome.tables, outcome.provenance)


def work(item: tuple[Job, RunFolder, int]) -> None:
    """What an executor does with one run of a study, in whatever process: carry it out with so many threads and store
    it.
    """
    job, folder, threads = item
    store_run(job, folder, process_bench(), threads)


@cache
def process_bench() -> Bench:
    """The one bench of this process; `process_bench.cache_clear()` lets go of its model."""
    return Bench()


@contextmanager
def named(job: Job) -> Iterator[None]:
    """Put the job in front of the message of an AnalysisError, and in the notes of any other error."""
    try:
        yield
    except AnalysisError as error:
        error.args = (f"job {job}: {error}", *error.args[1:])
        raise
    except Exception as error:
        error.add_note(f"while running job {job}")
        raise
