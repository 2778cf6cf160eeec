"""Zero-shot accuracy on multiple-choice tasks, asked through EleutherAI's lm-evaluation-harness (the papers' "Zero-Shot
Accuracy").

A question is a query and some choices; the model answers with the choice of the highest log-likelihood, summed over the
tokens that follow the query and one space, not divided by their number (the harness's `acc`, which the papers report).
Nothing is put before the query: no examples, and no beginning-of-text token but the one the tokenizer itself adds.
Right for the lab's queries, which are pieces of documents as its training windows are; a model that wants a token in
front has it from its tokenizer.
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
from analysis.models.anatomy import evaluating
from analysis.models.load import embedding_rows, unwrapped
from analysis.models.quiet import quiet
from analysis.models.task_heads import head
from analysis.progress import bar
from analysis.text.tasks import check_tasks, chosen, task_fingerprint, task_items
from analysis.windows import check_count

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOGITS = 2**27
"""Most logits of a batch, where its size is left open: 512 MiB in float32."""
ROWS = {"cpu": 16}
"""Most sequences of a batch by kind of device, where its size is left open; 64 on accelerators. Small ones suit a CPU's
cache, and hold little padding."""


@dataclass(frozen=True)
class TaskScore:
    """Accuracy on one task: `documents` questions with `choices` choices each on average, which guessing answers with
    accuracy `chance`.

    `standard_error` is that of the mean over questions, sqrt(a (1 - a) / (n - 1)).
    """

    task: str
    documents: int
    choices: float
    chance: float
    accuracy: float
    standard_error: float


@dataclass(frozen=True)
class Answer:
    """One question answered: log-likelihood (nats) of each choice after the query, and whether the highest is a true
    one.
    """

    log_likelihoods: tuple[float, ...]
    right: bool


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
    """Score of each task, in the order given. Arguments and errors are those of `answers`."""
    answered = answers(model, tokenizer, tasks, documents=documents, seed=seed, batch=batch, bos=bos)
    return [_score(task, given) for task, given in answered.items()]


def _score(task: str, answered: list[Answer]) -> TaskScore:
    choices = [len(answer.log_likelihoods) for answer in answered]
    accuracy = statistics.fmean(answer.right for answer in answered)
    error = math.sqrt(accuracy * (1 - accuracy) / (len(answered) - 1))
    return TaskScore(
        task,
        len(answered),
        statistics.fmean(choices),
        statistics.fmean(1 / number for number in choices),
        accuracy,
        error,
    )


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
    fewer is asked whole.
    seed: of the lab's items, and of the choice among the others. batch: sequences per forward pass; None: up to 64 (16
    on a CPU), fewer where long ones meet a large vocabulary. bos: "none" leaves out the special tokens that the
    tokenizer puts in front of a query by itself. Batching changes nothing but rounding. The model, its
    tokenizer and the global random state stay as they are. Raises UsageError for an unknown task or one that is not
    multiple choice, and for an encoder, DataError for a broken file, a hub task whose data cannot be had, or a question
    longer than the model's context (nothing is cut off), ModelError where there is no fitting tokenizer, NumericalError
    where a log-likelihood is not finite.
    """
    check_tasks(tasks)
    check_count("zero_shot", "documents", documents, least=2)
    if batch is not None:
        check_count("zero_shot", "batch", batch)
    if (answered := head(model)) != "next token":
        raise UsageError(
            f"zero_shot: multiple choice is for language models, and {type(model).__name__} answers with {answered};"
            " its own examples score it (`examples:NAME`)"
        )
    if tokenizer is None or (tokenizer.bos_token_id is None and tokenizer.eos_token_id is None):
        lack = "no tokenizer" if tokenizer is None else "a tokenizer without a token for the beginning or end of text"
        raise ModelError(f"zero_shot: {lack}; the harness needs one")
    if not tasks:
        return {}
    with _silence():
        from lm_eval.evaluator import evaluate

        built = {
            name: (
                _hub_task(name)
                if name.startswith("hub:")
                else _local_task(name, task_fingerprint(name), documents, seed)
            )
            for name in tasks
        }
        rows = {
            name: sorted(chosen(len(task.eval_docs), documents, seed))
            for name, task in built.items()
            if name.startswith("hub:")
        }
    network = unwrapped(model)
    with evaluating(network), bar(desc="tasks", unit="choice") as progress, _silence():
        results = evaluate(
            _harness(network, tokenizer, batch, progress, bos), {"tasks": built}, samples=rows, bootstrap_iters=0
        )
    return {name: [_answer(row, f"zero_shot: {name}") for row in results["samples"][name]] for name in tasks}


def _answer(row: dict, where: str) -> Answer:
    likelihoods = tuple(float(likelihood) for likelihood, _ in row["filtered_resps"])
    if not all(map(math.isfinite, likelihoods)):
        raise NumericalError(
            f"{where}, question {row['doc_id']}: a log-likelihood is not finite"
            f" ({', '.join(f'{value:g}' for value in likelihoods)})"
        )
    return Answer(likelihoods, bool(row["acc"]))


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
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: int | None, progress: tqdm, bos: str = "auto"
) -> "HFLM":
    """The harness's model around ours. Its tokenizer is a copy, for the harness gives it a padding token."""
    from lm_eval.models.huggingface import HFLM

    class Harness(HFLM):
        def loglikelihood(self, requests, disable_tqdm=True):
            self.asked = requests
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests, **options):
            lengths = [len(query) + len(choice) - 1 for _, query, choice in requests]  # the last token is not read
            for request, length in zip(self.asked, lengths):
                if length > self.max_length:
                    raise DataError(
                        f"zero_shot: {request.task_name}: the question that begins {request.args[0][:40]!r} has"
                        f" {length} tokens with choice {request.idx}, more than the model's context of"
                        f" {self.max_length}; leave such questions out, or take a model with a longer context"
                    )
            if batch is None:
                self.batch_size_per_gpu = max(
                    1, min(ROWS.get(model.device.type, 64), LOGITS // (max(lengths) * embedding_rows(model)))
                )
            progress.reset(total=len(requests))
            return super()._loglikelihood_tokens(requests, **options)

        def _model_call(self, inps, *args, **options):
            progress.update(len(inps))
            return super()._model_call(inps, *args, **options)

    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
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
    metric = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
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
            "metric_list": [metric],
        }
    )


@cache
def _manager():
    from lm_eval.tasks import TaskManager

    return TaskManager()


@cache
def _hub_task(name: str) -> "Task":
    """One of the harness's own tasks with its data, and no examples before the question."""
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
