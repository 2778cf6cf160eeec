"""How well a model answers labelled examples: accuracy, Matthews correlation, Spearman correlation, or F1 of the words
of an answer. A model without a head answers pairs of sentences with the cosine of their embeddings.

result = score(encoder, load_tokens("examples:truth", encoder, samples=500, length=64, split="held-out"))
print(f"{result.metric} {result.score:.3f} +- {result.standard_error:.3f} over {result.examples} examples")
"""

import math
import re
import string
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis.errors import NumericalError, UsageError
from analysis.models.anatomy import evaluating
from analysis.models.context import usable_context
from analysis.models.embeddings import cosines, pooled
from analysis.models.load import LoadedModel, check_measured, unwrapped
from analysis.models.logits import portion
from analysis.models.task_heads import head, inputs
from analysis.progress import bar
from analysis.windows import Labelled, Windows, check_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METRICS: dict[str, tuple[str, ...]] = {
    "accuracy": ("classification",),
    "matthews": ("classification",),
    "spearman": ("regression", "embedding"),
    "f1": ("span",),
}
"""What may be scored, and the heads that answer it."""
RESAMPLES = 200
"""Bootstrap samples behind the standard error of a correlation."""
LONGEST_ANSWER = 30
"""Most tokens of a predicted answer, as in BERT's evaluation of SQuAD (Devlin et al. 2019)."""


@dataclass(frozen=True)
class Score:
    """A model's answers to `examples` labelled examples; higher `score` is better, lower `loss`.

    score: share of right classes ("accuracy"), correlation of classes ("matthews") or of ranks ("spearman"), or mean F1
    between the words of the predicted and the true answer ("f1"), none in per cent. standard_error: of the mean over
    examples (accuracy sqrt(a (1 - a) / (n - 1)), F1), of correlations the standard deviation over 200 bootstrap samples
    of the examples, drawn from a fixed seed. loss: mean over examples of the cross entropy (nats; of spans the mean
    over first and last token) or of the squared error (of cosines with respect to scores from 0 to 1). pearson:
    Pearson's correlation of scores or cosines, None where the metric is another.
    """

    metric: str
    score: float
    standard_error: float
    loss: float
    examples: int
    pearson: float | None = None


@torch.inference_mode()
def score(model: LoadedModel | nn.Module, windows: Windows, *, batch: int | None = None) -> Score:
    """Score of an encoder, loaded by `load_model` or not, on labelled windows (N, T), at least two, `batch` of them per
    forward (None: 16 on a CPU, 64 elsewhere). Of an encoder without a head the windows are sentences, and the examples
    pairs of them.

    Windows are read in order of length, each batch cut behind its last real token, and padding is left out of
    everything, the choice of a span included: it changes nothing but rounding. Losses are float32, averaged in float64.
    A correlation with answers that are all the same is not defined; it counts as 0, in bootstrap samples too: such a
    model knows no more than one that guesses. Raises UsageError where the windows have no labels, are fewer than two,
    ask for another head than the model's, or do not fit its context; NumericalError where an answer is not finite,
    naming the example.
    """
    check_measured("score", model, windows)
    model = unwrapped(model)
    if batch is None:
        batch = 16 if model.device.type == "cpu" else 64
    check_count("score", "batch", batch)
    labelled = _check_fit(model, windows)
    order = torch.argsort(windows.mask.sum(1), stable=True, descending=True)
    answers, losses = [], []
    embedding = labelled.head == "embedding"
    with evaluating(model):
        for rows in bar(order.split(batch), desc=f"scores {windows.label}", unit="batch"):
            answer, loss = (_embedded if embedding else _answer)(model, _taken(windows, rows))
            if not bool(torch.isfinite(loss).all()):
                first = rows[int((~torch.isfinite(loss)).nonzero()[0])]
                raise NumericalError(
                    f"score on {windows.label!r}: the answer to example {first} (of {len(windows)}) is not finite"
                )
            answers.append(answer)
            losses.append(loss)
    back = torch.argsort(order)
    answered, lost = torch.cat(answers)[back], torch.cat(losses)[back]
    if embedding:
        answered, first = cosines(answered, labelled.pairs, f"score on {windows.label!r}")
        labelled = labelled.take(first)
        lost = (answered - labelled.labels).double().square()
    value, error = _scored(labelled, answered)
    both = (
        None if labelled.metric != "spearman" else pearson(answered.double().numpy(), labelled.labels.double().numpy())
    )
    return Score(labelled.metric, value, error, lost.mean().item(), len(answered), both)


def _taken(windows: Windows, rows: Tensor) -> Windows:
    """The windows `rows`, cut behind the last real token."""
    part = windows.take(rows)
    return part.trimmed(part.end)


def _answer(model: "PreTrainedModel", windows: Windows) -> tuple[Tensor, Tensor]:
    """Answers and losses of B windows on the CPU: classes (B,), scores (B,), or first and last tokens (B, 2); losses
    float64 (B,).
    """
    result, labelled = model(**inputs(windows, slice(None), model.device)), windows.answers
    if labelled.head == "span":
        assert labelled.offsets is not None
        starts, ends = (
            logits.float().cpu().masked_fill(~windows.mask, -torch.inf)
            for logits in (result.start_logits, result.end_logits)
        )  # (B, T)
        losses = [
            cross_entropy(logits, labels, reduction="none")
            for logits, labels in zip((starts, ends), labelled.labels.unbind(1))
        ]
        return _spans(starts, ends, labelled.offsets), (losses[0] + losses[1]).double() / 2
    logits = result.logits.float().cpu()  # (B, C), or (B, 1) of a regression
    if labelled.head == "regression":
        return logits.squeeze(1), (logits.squeeze(1) - labelled.labels).double().square()
    return logits.argmax(1), cross_entropy(logits, labelled.labels, reduction="none").double()


def _embedded(model: "PreTrainedModel", windows: Windows) -> tuple[Tensor, Tensor]:
    """Embeddings (B, H) of B sentences on the CPU, and in the place of losses (B,) what is finite where they are."""
    arguments = inputs(windows, slice(None), model.device)
    vectors = pooled(model, model(**arguments).last_hidden_state, arguments["attention_mask"]).cpu()
    return vectors, vectors.double().sum(1)


def _spans(starts: Tensor, ends: Tensor, offsets: Tensor) -> Tensor:
    """First and last token (B, 2) of the likeliest span inside the passage, at most LONGEST tokens long: logits (B, T),
    offsets (B, T, 2).
    """
    passage = offsets[..., 1] > offsets[..., 0]  # (B, T)
    starts, ends = (logits.masked_fill(~passage, -torch.inf) for logits in (starts, ends))
    length = starts.shape[1]
    if len(starts) > (rows := portion(length**2)):
        parts = zip(starts.split(rows), ends.split(rows), offsets.split(rows))
        return torch.cat([_spans(*part) for part in parts])
    allowed = torch.ones(length, length, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)  # [first, last]
    sums = (starts[:, :, None] + ends[:, None, :]).masked_fill(~allowed, -torch.inf)  # (B, T, T)
    best = sums.flatten(1).argmax(1)
    return torch.stack([best // length, best % length], 1)


def _scored(labelled: Labelled, answers: Tensor) -> tuple[float, float]:
    """Score and standard error of the answers."""
    if labelled.metric == "f1":
        values = [_f1(labelled, row, first, last) for row, (first, last) in enumerate(answers.tolist())]
        return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    predicted, true = answers.double().numpy(), labelled.labels.double().numpy()
    if labelled.metric == "accuracy":
        share = float((predicted == true).mean())
        return share, math.sqrt(share * (1 - share) / (len(true) - 1))
    correlation = matthews if labelled.metric == "matthews" else spearman
    draws = np.random.default_rng(0).integers(len(true), size=(RESAMPLES, len(true)))
    return correlation(predicted, true), float(
        np.std([correlation(predicted[rows], true[rows]) for rows in draws], ddof=1)
    )


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Matthews correlation of classes (N,) and (N,), for any number of classes (Gorodkin 2004); 0 where either holds
    one class only.
    """
    classes = np.union1d(predicted, true)
    return _correlation(predicted[:, None] == classes, true[:, None] == classes)


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Spearman's rank correlation of (N,) and (N,), ties at their mean rank; 0 where either holds one value only."""
    return _correlation(*(_ranks(values)[:, None] for values in (predicted, true)))


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation of (N,) and (N,); 0 where either holds one value only."""
    return _correlation(predicted[:, None], true[:, None])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of (N, K) and (N, K), covariances summed over K."""
    x, y = (values - values.mean(0) for values in (x.astype(float), y.astype(float)))
    variances = (x * x).sum() * (y * y).sum()
    return float((x * y).sum() / math.sqrt(variances)) if variances else 0.0


def _f1(labelled: Labelled, row: int, first: int, last: int) -> float:
    assert labelled.offsets is not None
    passage, *answers = labelled.texts[row]
    predicted = passage[int(labelled.offsets[row, first, 0]) : int(labelled.offsets[row, last, 1])]
    return max(words_f1(predicted, answer) for answer in answers)


def words_f1(predicted: str, right: str) -> float:
    """F1 of the words two answers share, as SQuAD scores it (Rajpurkar et al. 2016, section 6.1): in lower case,
    without punctuation and articles.

    Two answers of which nothing is left agree, as in SQuAD 2.0.
    """
    predicted_words, right_words = normalised(predicted), normalised(right)
    if not predicted_words or not right_words:
        return float(predicted_words == right_words)
    shared = (Counter(predicted_words) & Counter(right_words)).total()
    return 2 * shared / (len(predicted_words) + len(right_words))


def normalised(text: str) -> list[str]:
    """The words of an answer as SQuAD compares them."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _check_fit(model: "PreTrainedModel", windows: Windows) -> Labelled:
    """The labels, where the model can answer them."""
    where, answered, labelled = f"score on {windows.label!r}", head(model), windows.labelled
    if labelled is None:
        raise UsageError(
            f"{where}: the windows have no labels; draw them from labelled examples, such as examples:truth"
        )
    if labelled.head != answered:
        raise UsageError(
            f"{where}: the examples ask for {labelled.head}, {type(model).__name__} answers with {answered}; give"
            " examples that go with the model"
        )
    if answered not in METRICS.get(labelled.metric, ()):
        metrics = [metric for metric, answers in METRICS.items() if answered in answers]
        raise UsageError(f"{where}: metric {labelled.metric!r} cannot score {answered}; possible: {', '.join(metrics)}")
    noun, least = ("sentence", 4) if answered == "embedding" else ("example", 2)
    if len(windows) < least:
        raise UsageError(
            f"{where}: {len(windows)} {noun}{'s' if len(windows) > 1 else ''}; a score with its error needs at least 2"
            " examples"
        )
    context = usable_context(model)
    if context is not None and windows.length > context:
        raise UsageError(
            f"{where}: windows of {windows.length} tokens are longer than the model's context of {context}"
        )
    classes = model.config.num_labels or 0
    if answered == "classification" and (largest := int(labelled.labels.max())) >= classes:
        raise UsageError(
            f"{where}: class {largest} is none of the {classes} classes of the model; give examples"
            " that go with the model"
        )
    return labelled
