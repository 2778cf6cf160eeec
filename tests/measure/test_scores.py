"""Scores of labelled examples: against hand-made answers, scipy and scikit-learn, the model's own loss, and with and
without padding.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as tf
from torch import nn

from analysis.errors import DataError, NumericalError, UsageError
from analysis.measure.scores import matthews, normalised, score, spearman, words_f1
from analysis.models.task_heads import inputs
from analysis.windows import Labelled, Windows
from tests.helpers.encoders import encoder, sentence_pairs
from tests.helpers.families import VOCABULARY

ASKED = {"bert": "classification", "roberta": "classification", "distilbert": "classification", "bert_span": "span"}


def labelled_windows(head: str, n: int = 9, length: int = 20, *, padded: bool = True, seed: int = 0) -> Windows:
    """Random windows with random answers; passages of spans are tokens 3 up to the last but one, two characters to a
    token.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY, (n, length), generator=generator)
    sizes = torch.randint(8, length + 1, (n,), generator=generator) if padded else torch.full((n,), length)
    mask = torch.arange(length) < sizes[:, None]
    ids[~mask] = 0
    if head == "span":
        offsets, texts, labels = torch.zeros(n, length, 2, dtype=torch.long), [], []
        for row, size in enumerate(sizes.tolist()):
            words = [f"w{number % 10}"[:2] for number in range(size - 4)]
            places = torch.arange(size - 4)
            offsets[row, 3 : size - 1] = torch.stack([places * 3, places * 3 + 2], 1)
            first = 3 + row % (size - 5)
            labels.append((first, first + 1))
            texts.append((" ".join(words), " ".join(words[first - 3 : first - 1])))
        told = Labelled("span", "f1", torch.tensor(labels), texts=tuple(texts), offsets=offsets)
    elif head == "regression":
        told = Labelled("regression", "spearman", torch.rand(n, generator=generator) * 5)
    else:
        told = Labelled("classification", "accuracy", torch.randint(0, 2, (n,), generator=generator), ("no", "yes"))
    return Windows(ids, mask, "examples:made", labelled=told)


def model_of(name: str, head: str):
    if head == "regression":
        import transformers as tf

        torch.manual_seed(3)
        size = dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64
        )
        config = tf.BertConfig(vocab_size=VOCABULARY, num_labels=1, **size)
        return tf.BertForSequenceClassification(config).eval()
    return encoder(name)


class Oracle(nn.Module):
    """Answers what it is told, whatever it reads: the row is written in the first id."""

    def __init__(self, kind: str, answers):
        super().__init__()
        self.__class__ = type(kind, (Oracle,), {})
        self.answers, self.config = answers, SimpleNamespace(num_labels=1 if answers.ndim == 1 else answers.shape[-1])
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask, **_):
        rows, width = input_ids[:, 0], input_ids.shape[1]
        if type(self).__name__.endswith("ForQuestionAnswering"):
            return SimpleNamespace(start_logits=self.answers[rows, 0, :width], end_logits=self.answers[rows, 1, :width])
        return SimpleNamespace(logits=self.answers[rows].reshape(len(rows), -1))


def asked(labelled: Labelled, mask=None) -> Windows:
    """Windows whose first id is their number."""
    n = len(labelled.labels)
    mask = torch.ones(n, 12, dtype=torch.bool) if mask is None else mask
    ids = torch.arange(n)[:, None].expand(n, mask.shape[1]).clone()
    return Windows(ids, mask, "examples:made", labelled=labelled)


def classes(metric: str, labels) -> Windows:
    return asked(Labelled("classification", metric, torch.tensor(labels), tuple("abc")))


def test_accuracy_and_its_error_by_hand():
    logits = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0], [2.0, 0, 0], [2.0, 0, 0]])
    result = score(Oracle("OneForSequenceClassification", logits), classes("accuracy", [0, 1, 2, 0, 1]))
    right, wrong = np.log(np.exp(2) + 2) - 2, np.log(np.exp(2) + 2)
    assert (result.metric, result.examples, result.score) == ("accuracy", 5, 0.8)
    assert result.standard_error == pytest.approx((0.8 * 0.2 / 4) ** 0.5) and result.loss == pytest.approx(
        (4 * right + wrong) / 5
    )


@pytest.mark.slow
def test_correlations_are_those_of_scipy_and_scikit_learn():
    from scipy.stats import spearmanr
    from sklearn.metrics import matthews_corrcoef

    draw = np.random.default_rng(0)
    for ties in (3, 50, 10**6):
        one, other = draw.integers(ties, size=200), draw.integers(ties, size=200)
        assert spearman(one, one + other) == pytest.approx(spearmanr(one, one + other).statistic, abs=1e-12)
    for kinds in (2, 3, 7):
        one, other = draw.integers(kinds, size=200), draw.integers(kinds, size=200)
        other[:120] = one[:120]
        assert matthews(one, other) == pytest.approx(matthews_corrcoef(other, one), abs=1e-12)


def test_a_model_that_always_says_the_same_scores_nothing():
    draws = torch.randn(64, generator=torch.Generator().manual_seed(0))
    flat = asked(Labelled("regression", "spearman", draws))
    result = score(Oracle("OneForSequenceClassification", torch.full((64,), 0.5)), flat)
    assert (result.score, result.standard_error) == (0.0, 0.0) and result.loss == pytest.approx(
        float((draws - 0.5).square().mean())
    )
    same = torch.tensor([[1.0, 0.0]] * 6)
    assert score(Oracle("OneForSequenceClassification", same), classes("matthews", [0, 1, 0, 1, 1, 0])).score == 0.0


def test_the_error_of_a_correlation_is_that_of_its_sampling():
    """Spearman of n pairs scatters by about (1 - r^2) / sqrt(n); the bootstrap must say so, alike at every call."""
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(400, generator=generator)
    said = right + torch.randn(400, generator=generator)
    model, windows = Oracle("OneForSequenceClassification", said), asked(Labelled("regression", "spearman", right))
    result = score(model, windows)
    assert 0.6 < result.score < 0.8 and 0.6 < result.standard_error / ((1 - result.score**2) / 20) < 1.6
    assert score(model, windows) == result


@pytest.mark.parametrize(
    ("predicted", "right", "f1"),
    [
        ("The red dog!", "red dog", 1.0),
        ("a dog", "red dog", 2 / 3),
        ("dog dog", "dog", 2 / 3),
        ("cat", "dog", 0.0),
        ("the", "a", 1.0),
        ("the", "dog", 0.0),
        ("", "dog", 0.0),
        ("theatre", "atre", 0.0),
    ],
)
def test_the_f1_of_words_is_squads(predicted, right, f1):
    assert words_f1(predicted, right) == pytest.approx(f1)


def test_answers_are_compared_without_case_marks_and_articles():
    assert normalised("The U.S.'s  an-\tA Theme") == ["uss", "theme"]


def span_logits(*spans: tuple[int, int], length: int = 40) -> torch.Tensor:
    """(N, 2, T): 5 at the first and at the last token, 0 elsewhere."""
    logits = torch.zeros(len(spans), 2, length)
    for row, (first, last) in enumerate(spans):
        logits[row, 0, first] = logits[row, 1, last] = 5.0
    return logits


def test_answers_are_spans_of_the_passage_in_order_and_not_too_long():
    passage = " ".join(f"w{number:02}" for number in range(36))
    offsets = torch.zeros(6, 40, 2, dtype=torch.long)
    offsets[:, 3:39] = torch.stack([torch.arange(36) * 4, torch.arange(36) * 4 + 3], 1)
    texts = tuple((passage, answer) for answer in ("w02 w03", "w02 w03", "w00", "w05", "w09", "w00"))
    told = Labelled(
        "span", "f1", torch.tensor([[5, 6]] * 6), texts=texts[:5] + ((passage, "none", "w00"),), offsets=offsets
    )
    logits = span_logits((5, 6), (5, 5), (3, 37), (8, 3), (1, 12), (3, 3))
    logits[2, 0, 3], logits[2, 1, 3] = 5.0, 1.0  # w00 alone; up to the end of the passage were 35 tokens
    logits[3, 1, 8] = 1.0  # the likeliest end lies before the start
    logits[4, 0, 12] = 4.0  # the likeliest start lies in the question
    result = score(Oracle("OneForQuestionAnswering", logits), asked(told, torch.ones(6, 40, dtype=torch.bool)), batch=4)
    values = [1, 2 / 3, 1, 1, 1, 1]  # the last by its second accepted answer
    assert result.score == pytest.approx(np.mean(values)) and result.standard_error == pytest.approx(
        np.std(values, ddof=1) / 6**0.5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ASKED, "regression"])
def test_the_loss_is_the_models_own_and_batches_change_nothing(name):
    head = ASKED.get(name, name)
    model, windows = model_of(name, head), labelled_windows(head, padded=False)
    own = model(**inputs(windows, slice(None), "cpu", labels=True)).loss.item()
    results = [score(model, windows, batch=batch) for batch in (1, 4, 64)]
    assert all(result.loss == pytest.approx(own, rel=1e-5) and result.examples == 9 for result in results)
    assert len({(result.score, result.standard_error) for result in results}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ASKED, "regression"])
def test_padding_changes_nothing(name):
    head = ASKED.get(name, name)
    model, windows = model_of(name, head), labelled_windows(head)
    whole = score(model, windows)
    losses, scores = [], []
    for row in range(len(windows)):
        size = int(windows.mask[row].sum())
        bare = windows.take(torch.tensor([row, row]))
        told = (
            bare.labelled
            if bare.labelled.offsets is None
            else replace(bare.labelled, offsets=bare.labelled.offsets[:, :size])
        )
        alone = score(model, Windows(bare.ids[:, :size], bare.mask[:, :size], labelled=told))
        losses.append(alone.loss), scores.append(alone.score)
    assert whole.loss == pytest.approx(np.mean(losses), rel=1e-6)
    if head != "regression":  # the correlation of one example is none
        assert whole.score == pytest.approx(np.mean(scores), abs=1e-9)
    more = Windows(
        nn.functional.pad(windows.ids, (0, 7)),
        nn.functional.pad(windows.mask, (0, 7)),
        labelled=(
            windows.labelled
            if head != "span"
            else replace(windows.labelled, offsets=nn.functional.pad(windows.labelled.offsets, (0, 0, 0, 7)))
        ),
    )
    wider = score(model, more)
    assert (wider.score, wider.standard_error) == (whole.score, whole.standard_error) and wider.loss == pytest.approx(
        whole.loss, rel=1e-6
    )


def test_the_mode_of_the_model_is_left_as_it_was():
    model = encoder("bert").train()
    first = score(model, labelled_windows("classification"))
    assert model.training and score(model.eval(), labelled_windows("classification")) == first and not model.training


def test_what_cannot_be_scored_is_refused():
    model, windows = encoder("bert"), labelled_windows("classification")
    for given, message in (
        (replace(windows, labelled=None), "have no labels; draw them from labelled examples"),
        (labelled_windows("span"), "ask for span, BertForSequenceClassification answers with classification"),
        (windows.take(torch.tensor([0])), "1 example; a score with its error needs at least 2"),
        (
            labelled_windows("classification", length=80),
            "windows of 80 tokens are longer than the model's context of 64",
        ),
        (
            replace(windows, labelled=replace(windows.labelled, metric="f1")),
            "metric 'f1' cannot score classification; possible: accuracy, matthews",
        ),
        (
            replace(windows, labelled=replace(windows.labelled, labels=windows.labelled.labels + 1)),
            "class 2 is none of the 2 classes of the model",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            score(model, given)
    with pytest.raises(UsageError, match="batch must be a whole number"):
        score(model, windows, batch=0)


@pytest.mark.parametrize("name", ["bert", "bert_span"])
def test_an_answer_that_is_not_finite_is_named(name):
    model, windows = encoder(name), labelled_windows(ASKED[name])
    windows.ids[4, 1] = 1
    assert not (windows.ids[[0, 1, 2, 3, 5, 6, 7, 8]] == 1).any()
    model.get_input_embeddings().weight[1] = torch.nan
    with pytest.raises(NumericalError, match="the answer to example 4 .of 9. is not finite"):
        score(model, windows)


def test_long_spans_are_found_window_by_window_where_memory_asks_for_it(monkeypatch):
    model, windows = encoder("bert_span"), labelled_windows("span")
    expected = score(model, windows)
    monkeypatch.setattr("analysis.models.logits.LOGITS", 2 * 20 * 20)
    assert score(model, windows) == expected


def test_pairs_of_sentences_are_scored_by_the_cosine_of_their_pooled_states():
    from scipy.stats import spearmanr

    model, windows = encoder("bert_body"), sentence_pairs(12)
    vectors = torch.stack(
        [model(row[real][None]).last_hidden_state[0].mean(0) for row, real in zip(windows.ids, windows.mask)]
    ).double()
    cosine = torch.nn.functional.cosine_similarity(vectors[0::2], vectors[1::2]).numpy()
    true = windows.labelled.labels[::2].double().numpy()
    for given in (windows, windows.take(torch.arange(24).flip(0))):
        result = score(model, given, batch=5)
        assert (result.metric, result.examples) == ("spearman", 12)
        assert result.score == pytest.approx(spearmanr(cosine, true).statistic)
        assert result.pearson == pytest.approx(np.corrcoef(cosine, true)[0, 1], abs=1e-6)
        assert result.loss == pytest.approx(np.square(cosine - true).mean(), rel=1e-5)
    with pytest.raises(DataError, match="sentences stand in pairs"):
        score(model, windows.subset(7))
    with pytest.raises(UsageError, match="2 sentences; a score with its error needs at least 2 examples"):
        score(model, windows.subset(2))


def test_padding_on_the_left_is_left_out_and_nothing_else():
    """Positions are relative, so the model itself answers the same wherever the padding stands."""
    config = tf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=2,
        pad_token_id=0,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.LlamaForSequenceClassification(config).eval()
    right = labelled_windows("classification")
    right = replace(right, ids=right.ids.clamp(min=1).masked_fill(~right.mask, 0), types=None)
    order = right.mask.int().argsort(dim=1, stable=True)
    left = replace(right, ids=right.ids.gather(1, order), mask=right.mask.gather(1, order))
    results = [score(model, windows, batch=4) for windows in (right, left)]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5) and results[0].score == results[1].score
