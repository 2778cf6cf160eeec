"""Zero-shot accuracy on multiple-choice tasks, asked through EleutherAI's lm-evaluation-harness (the papers' "Zero-Shot
Accuracy").

A question is a query and some choices; the model answers with the choice of the highest log-likelihood, summed over the
tokens that follow the query and one space (the harness's `acc`, which the papers report), or of the highest divided by
the choice's number of characters (`acc_norm`, which tables of HellaSwag, ARC and OpenBookQA often hold).
Nothing is put before the query: no examples, and no beginning-of-text token but the one the tokenizer itself adds.
Right for the lab's queries, which are pieces of documents as its training windows are; a model that wants a token in
front has it from its tokenizer. Questions longer than the context are left out and counted; nothing is cut off.

Tasks of the lab that are answered in writing are scored by exact match instead (`measure/written.py`).
"""

import contextlib
import copy
import io
import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from torch import nn
from tqdm import tqdm

from analysis.errors import DataError, ModelError, NumericalError, UsageError
from analysis.measure.pictured import BATCH, check_pictured, choice_likelihoods, drawn
from analysis.measure.written import written_out
from analysis.models.anatomy import evaluating
from analysis.models.context import usable_context
from analysis.models.load import embedding_rows, unwrapped
from analysis.models.logits import portion
from analysis.models.quiet import quiet
from analysis.models.task_heads import head
from analysis.progress import bar
from analysis.text.tasks import check_tasks, chosen, in_writing, is_pictured, task_fingerprint, task_items
from analysis.windows import check_count

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from analysis.lab.pictures import Question, Scene

ROWS = {"cpu": 16}
"""Most sequences of a batch by kind of device, where its size is left open; 64 on accelerators. Small ones suit a CPU's
cache, and hold little padding."""


@dataclass(frozen=True)
class TaskScore:
    """Accuracy on one task: `documents` questions with `choices` choices each on average, which guessing answers with
    accuracy `chance`.

    `standard_error` is that of the mean over questions, sqrt(a (1 - a) / (n - 1)). accuracy_norm and
    standard_error_norm: by log-likelihood a character (`acc_norm`), nan for a hub task that the harness does not score
    so. left_out: questions drawn but longer than the model's context, not among `documents`. Of a task answered in
    writing accuracy is the share of answers that match word for word; choices and chance are 0, accuracy_norm is nan.
    """

    task: str
    documents: int
    choices: float
    chance: float
    accuracy: float
    standard_error: float
    accuracy_norm: float
    standard_error_norm: float
    left_out: int


@dataclass(frozen=True)
class Answer:
    """One question answered: log-likelihood (nats) of each choice after the query, whether the highest is a true one,
    and whether the highest a character is (None where the harness does not score the task so).
    """

    log_likelihoods: tuple[float, ...]
    right: bool
    right_norm: bool | None


def zero_shot(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    tasks: Sequence[str],
    *,
    documents: int = 100,
    seed: int = 0,
    batch: int | None = None,
    bos: str = "auto",
) -> list[TaskScore]:
    """Score of each task, in the order given, be it answered in writing or by a choice. Arguments and errors are those
    of `answers`.
    """
    check_tasks(tasks)
    by_choice = [task for task in tasks if not in_writing(task)]
    asked, pictured = _split(model, tokenizer, by_choice, documents, seed, batch, bos)
    answered = _answered(asked, model) | _answered_pictures(pictured, model, tokenizer, batch)
    scores = {task: _score(task, answered[task], asked[task].left_out if task in asked else 0) for task in by_choice}
    for task in filter(in_writing, tasks):
        scores[task] = _score_written(task, model, tokenizer, documents, seed, bos)
    return [scores[task] for task in tasks]


def _score_written(task: str, model: nn.Module, tokenizer, documents: int, seed: int, bos: str) -> TaskScore:
    """Raises DataError where fewer than two questions fit the model's context."""
    found = written_out(model, tokenizer, task_items(task, documents=documents, seed=seed), bos=bos)
    right = [answer for answer in found if answer is not None]
    if len(right) < 2:
        raise DataError(
            f"zero_shot: {task}: {len(right)} of {documents} questions fit the model's context, and an accuracy needs"
            " at least 2"
        )
    return TaskScore(task, len(right), 0.0, 0.0, *_mean(right), math.nan, math.nan, documents - len(right))


def _score(task: str, answered: list[Answer], left_out: int) -> TaskScore:
    choices = [len(answer.log_likelihoods) for answer in answered]
    norms = [answer.right_norm for answer in answered if answer.right_norm is not None]
    return TaskScore(
        task,
        len(answered),
        statistics.fmean(choices),
        statistics.fmean(1 / number for number in choices),
        *_mean([answer.right for answer in answered]),
        *(_mean(norms) if norms else (math.nan, math.nan)),
        left_out,
    )


def _mean(right: Sequence[bool]) -> tuple[float, float]:
    accuracy = statistics.fmean(right)
    return accuracy, math.sqrt(accuracy * (1 - accuracy) / (len(right) - 1))


def answers(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    tasks: Sequence[str],
    *,
    documents: int = 100,
    seed: int = 0,
    batch: int | None = None,
    bos: str = "auto",
) -> dict[str, list[Answer]]:
    """What a model in memory, wherever it lies, answers to each question of each task; task -> answers.

    tasks: names as in `analysis.text.tasks`. documents: questions per task, at least 2; a file or hub task that has
    fewer is asked whole, and questions longer than the model's context are left out.
    seed: of the lab's items, and of the choice among the others. batch: sequences per forward pass; None: up to 64 (16
    on a CPU), fewer where long ones meet a large vocabulary. bos: "none" leaves out the special tokens that the
    tokenizer puts in front of a query by itself. Batching changes nothing but rounding. The model, its
    tokenizer and the global random state stay as they are. Raises UsageError for an unknown task or one that is not
    multiple choice, and for an encoder, DataError for a broken file, a hub task whose data cannot be had, or a task of
    which fewer than 2 questions fit the context, ModelError where there is no fitting tokenizer, NumericalError where a
    log-likelihood is not finite.
    """
    asked, pictured = _split(model, tokenizer, tasks, documents, seed, batch, bos)
    answered = _answered(asked, model) | _answered_pictures(pictured, model, tokenizer, batch)
    return {task: answered[task] for task in tasks}


def check_questions(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    tasks: Sequence[str],
    *,
    documents: int = 100,
    seed: int = 0,
    bos: str = "auto",
) -> None:
    """Raise what `answers` would but NumericalError, without asking anything: the tasks are known, their questions are
    here, enough of them fit the model's context.
    """
    check_tasks(tasks)
    _check_asked(model, tokenizer, documents)
    _split(model, tokenizer, [task for task in tasks if not in_writing(task)], documents, seed, None, bos)


def _split(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    tasks: Sequence[str],
    documents: int,
    seed: int,
    batch: int | None,
    bos: str,
) -> tuple["dict[str, _Questions]", "dict[str, list[tuple[Scene, Question]]]"]:
    """What is asked through the harness, and what is asked about pictures, by task."""
    check_tasks(tasks)
    pictured = [task for task in tasks if is_pictured(task)]
    others = [task for task in tasks if task not in pictured]
    asked = _asked(model, tokenizer, others, documents, seed, batch, bos)
    if pictured:
        check_pictured(model, tokenizer)
    return asked, {task: drawn(task.removeprefix("pictures:"), documents, seed) for task in pictured}


def _answered_pictures(
    asked: "dict[str, list[tuple[Scene, Question]]]",
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    batch: int | None,
) -> dict[str, list[Answer]]:
    answered = {}
    for task, given in asked.items():
        rows = zip(given, choice_likelihoods(model, tokenizer, given, batch=batch or BATCH), strict=True)
        answered[task] = [_about_picture(task, number, one, row) for number, ((_, one), row) in enumerate(rows)]
    return answered


def _about_picture(task: str, number: int, question: "Question", likelihoods: tuple[float, ...]) -> Answer:
    row = {
        "doc_id": number,
        "filtered_resps": [(value, None) for value in likelihoods],
        "acc": likelihoods.index(max(likelihoods)) == question.gold,
    }
    norms = [value / len(choice) for value, choice in zip(likelihoods, question.choices, strict=True)]
    return _answer(row | {"acc_norm": norms.index(max(norms)) == question.gold}, f"zero_shot: {task}")


@dataclass(frozen=True, eq=False)
class _Questions:
    """A task of the harness, which of its rows are asked, how many of those drawn are too long, and who is asked."""

    task: "Task"
    rows: list[int]
    left_out: int
    harness: "HFLM"


def _asked(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    tasks: Sequence[str],
    documents: int,
    seed: int,
    batch: int | None = None,
    bos: str = "auto",
) -> dict[str, _Questions]:
    check_tasks(tasks)
    if batch is not None:
        check_count("zero_shot", "batch", batch)
    if written := [task for task in tasks if in_writing(task)]:
        raise UsageError(f"answers: {', '.join(written)} is answered in writing, by no choice; zero_shot scores it")
    _check_asked(model, tokenizer, documents)
    if not tasks or tokenizer is None:
        return {}
    assert tokenizer is not None  # as just checked
    with evaluating(unwrapped(model)), _silence():
        harness = _harness(unwrapped(model), tokenizer, batch, bos)
        return {name: _questions(harness, name, documents, seed) for name in tasks}


def _check_asked(model: nn.Module, tokenizer, documents: int) -> None:
    """Raise where questions of any kind cannot be asked."""
    check_count("zero_shot", "documents", documents, least=2)
    if (answered := head(model)) != "next token":
        raise UsageError(
            f"zero_shot: multiple choice is for language models, and {type(model).__name__} answers with {answered};"
            " its own examples score it (`examples:NAME`)"
        )
    if tokenizer is None or (tokenizer.bos_token_id is None and tokenizer.eos_token_id is None):
        lack = "no tokenizer" if tokenizer is None else "a tokenizer without a token for the beginning or end of text"
        raise ModelError(f"zero_shot: {lack}; the harness needs one")


def _questions(harness: "HFLM", name: str, documents: int, seed: int) -> _Questions:
    """The questions of one task that fit the context. Raises DataError where fewer than two do."""
    if name.startswith("hub:"):
        task = _hub_task(name)
        drawn = sorted(chosen(len(task.eval_docs), documents, seed))
    else:
        task = _local_task(name, task_fingerprint(name), documents, seed)
        drawn = list(range(len(task.eval_docs)))
    task.build_all_requests(samples=drawn)
    lengths = harness.lengths(task.instances)
    long = {drawn[request.doc_id] for request, length in zip(task.instances, lengths) if length > harness.max_length}
    if len(drawn) - len(long) < 2:
        raise DataError(
            f"zero_shot: {name}: {len(long)} of {len(drawn)} questions are longer than the model's context of"
            f" {harness.max_length} tokens (the longest has {max(lengths)}), and an accuracy needs at least 2; take"
            " shorter questions or a model with a longer context"
        )
    return _Questions(task, [row for row in drawn if row not in long], len(long), harness)


def _answered(asked: dict[str, _Questions], model: nn.Module) -> dict[str, list[Answer]]:
    if not asked:
        return {}
    harness = next(iter(asked.values())).harness
    with evaluating(unwrapped(model)), bar(desc="tasks", unit="choice") as progress, _silence():
        from lm_eval.evaluator import evaluate

        harness.progress = progress
        tasks = [questions.task for questions in asked.values()]
        results = evaluate(
            harness,
            {"tasks": dict(zip(asked, tasks))},
            samples={name: questions.rows for name, questions in asked.items()},
            bootstrap_iters=0,
        )
    return {name: [_answer(row, f"zero_shot: {name}") for row in results["samples"][name]] for name in asked}


def _answer(row: dict, where: str) -> Answer:
    likelihoods = tuple(float(likelihood) for likelihood, _ in row["filtered_resps"])
    if not all(map(math.isfinite, likelihoods)):
        raise NumericalError(
            f"{where}, question {row['doc_id']}: a log-likelihood is not finite"
            f" ({', '.join(f'{value:g}' for value in likelihoods)})"
        )
    return Answer(likelihoods, bool(row["acc"]), bool(row["acc_norm"]) if "acc_norm" in row else None)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No log lines, bars or warnings of the harness and its libraries while open; errors still rise."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _harness(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: int | None, bos: str = "auto"
) -> "HFLM":
    """The harness's model around ours. Its tokenizer is a copy, for the harness gives it a padding token."""
    from lm_eval.models.huggingface import HFLM

    class Harness(HFLM):
        progress = tqdm(disable=True)
        measuring = False

        def lengths(self, requests) -> list[int]:
            """Tokens the model reads of each request: all but the last, which is only predicted."""
            self.measuring = True
            try:
                return super().loglikelihood(requests, disable_tqdm=True)
            finally:
                self.measuring = False

        def loglikelihood(self, requests, disable_tqdm=True):
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests, **options):
            lengths = [len(query) + len(choice) - 1 for _, query, choice in requests]
            if self.measuring:
                return lengths
            if batch is None:
                self.batch_size_per_gpu = max(
                    1, min(ROWS.get(model.device.type, 64), portion(embedding_rows(model)) // max(lengths))
                )
            self.progress.reset(total=len(requests))
            return super()._loglikelihood_tokens(requests, **options)

        def _model_call(self, inps, *args, **options):
            self.progress.update(len(inps))
            return super()._model_call(inps, *args, **options)

    context = usable_context(model)
    return Harness(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),
        batch_size=batch or 1,
        max_length=context,
        add_bos_token=False if bos == "none" else None,
        softmax_dtype="float32",
    )


@lru_cache(maxsize=64)
def _local_task(name: str, fingerprint: str, documents: int, seed: int) -> "Task":
    """A task of the harness over items in memory, kept for the next model. `fingerprint` makes a changed file another
    task.
    """
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = Dataset.from_list(
        [
            {"query": item.query, "choices": list(item.choices), "gold": item.gold}
            for item in task_items(name, documents=documents, seed=seed)
        ]
    )
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": rows},
            "test_split": "test",
            "output_type": "multiple_choice",
            "num_fewshot": 0,
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "target_delimiter": " ",
            "metric_list": metrics,
        }
    )


@cache
def _manager():
    from lm_eval.tasks import TaskManager

    return TaskManager()


def task_dataset(name: str) -> tuple[str, str | None, str]:
    """The dataset of the hub behind one of the harness's own tasks, its configuration and revision, as
    its file says; nothing is downloaded. Raises UsageError for a task that the harness does not have.
    """
    config = _checked_manager(name).task_index[name.removeprefix("hub:")].cfg or {}
    revision = (config.get("dataset_kwargs") or {}).get("revision") or "main"
    return str(config.get("dataset_path") or ""), config.get("dataset_name"), str(revision)


def _checked_manager(name: str):
    """The harness's list of tasks, which has this one. Raises UsageError where it has not."""
    manager, task_name = _manager(), name.removeprefix("hub:")
    if task_name not in manager.all_subtasks:
        if task_name in manager.all_tasks:
            raise UsageError(f"task {name!r}: is a group of tasks; name one of them")
        similar = " or ".join(get_close_matches(task_name, manager.all_subtasks, 3))
        raise UsageError(
            f"task {name!r}: lm-eval has no such task; "
            + (f"did you mean {similar}? " if similar else "")
            + "`lm-eval ls tasks` lists them"
        )
    return manager


@cache
def _hub_task(name: str) -> "Task":
    """One of the harness's own tasks with its data, and no examples before the question."""
    manager, task_name = _checked_manager(name), name.removeprefix("hub:")
    try:
        (task,) = manager.load([task_name])["tasks"].values()
    except Exception as error:  # datasets and the hub raise every kind of error
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"task {name!r}: its data set could not be loaded ({type(error).__name__}: {line}); where there is no"
            ' network, put its questions in a file, one {"query": ..., "choices": [...], "gold": number} per line,'
            " and name that file instead"
        ) from error
    if task.OUTPUT_TYPE != "multiple_choice" or "acc" not in task.higher_is_better():
        raise UsageError(
            f"task {name!r}: is scored by {', '.join(task.higher_is_better())} on {task.OUTPUT_TYPE}, not by accuracy"
            " on multiple choice"
        )
    task.set_config("num_fewshot", 0)
    return task
