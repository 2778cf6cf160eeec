"""Answers in writing against greedy decoding, token by token; scores beside those of choices."""

import math
from itertools import islice

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from analysis.errors import DataError, NumericalError, UsageError
from analysis.lab.tasks import Item
from analysis.lab.written import written
from analysis.measure import zero_shot as module
from analysis.measure.written import _tokens, written_out
from analysis.measure.zero_shot import answers, check_questions, zero_shot
from analysis.models.load import load_model
from tests.helpers.alphabet import END, byte_model, byte_tokenizer


@pytest.mark.slow
def test_an_answer_is_right_where_greedy_decoding_writes_it(monkeypatch):
    lab = load_model("lab", device="cpu")
    items = [item for name in ("recall", "tracking") for item in islice(written(name), 5)]

    def writes(item) -> bool:
        ids, whole = (lab.tokenizer(text)["input_ids"] for text in (item.query, f"{item.query} {item.choices[0]}"))
        while len(ids) < len(whole):
            ids = [*ids, int(lab.model(torch.tensor([ids])).logits[0, -1].argmax())]
        return ids == whole

    with torch.no_grad():
        expected = [writes(item) for item in items]
    assert set(expected) == {True, False}
    assert written_out(lab.model, lab.tokenizer, items) == expected
    monkeypatch.setattr("analysis.models.logits.LOGITS", 1)  # one at a time
    assert written_out(lab.model, lab.tokenizer, items) == expected


def test_what_a_tokenizer_puts_behind_a_text_need_not_be_written():
    tokenizer = byte_tokenizer(eos_token=END, bos_token="<s>")
    plain = _tokens(tokenizer, Item("ab", ("c",), 0), True)
    begin, end = tokenizer.convert_tokens_to_ids(["<s>", END])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<s> $A {END}", special_tokens=[("<s>", begin), (END, end)]
    )
    assert _tokens(tokenizer, Item("ab", ("c",), 0), True) == ([begin, *plain[0]], plain[1] + 1)
    assert _tokens(tokenizer, Item("ab", ("c",), 0), False) == plain


def test_questions_beyond_the_context_are_left_out_and_what_is_not_finite_is_said():
    tokenizer = byte_tokenizer(eos_token=END)
    items = [Item("a" * 70, ("b",), 0), Item("a", ("b",), 0)]
    model = byte_model()
    assert written_out(model, tokenizer, items)[0] is None
    model.lm_head.weight[3, 3] = math.nan
    with pytest.raises(NumericalError, match="question 1: a logit is not finite"):
        written_out(model, tokenizer, items)


def test_tasks_in_writing_are_scored_beside_choices_in_the_order_given(monkeypatch):
    model, tokenizer = byte_model(context=2048), byte_tokenizer(eos_token=END)
    monkeypatch.setattr(module, "written_out", lambda *_, **__: [True, False, None, False])
    monkeypatch.setattr(
        module, "_answered", lambda asked, model: {name: [module.Answer((0.0, 1.0), True, True)] * 2 for name in asked}
    )
    monkeypatch.setattr(
        module, "_asked", lambda model, tokenizer, tasks, *_: {name: type("Q", (), {"left_out": 0}) for name in tasks}
    )
    scores = zero_shot(model, tokenizer, ["lab:sums", "lab:yes-no", "lab:copying"], documents=4)
    assert [score.task for score in scores] == ["lab:sums", "lab:yes-no", "lab:copying"]
    assert (scores[0].accuracy, scores[0].documents, scores[0].left_out) == (1 / 3, 3, 1)
    assert scores[0].choices == scores[0].chance == 0 and math.isnan(scores[0].accuracy_norm)


def test_what_cannot_be_asked_is_refused():
    model, tokenizer = byte_model(), byte_tokenizer(eos_token=END)
    with pytest.raises(DataError, match="lab:tracking: 0 of 2 questions fit the model's context"):
        zero_shot(model, tokenizer, ["lab:tracking"], documents=2)
    with pytest.raises(UsageError, match="documents must be"):
        check_questions(model, tokenizer, ["lab:sums"], documents=1)
    with pytest.raises(UsageError, match="lab:sums is answered in writing, by no choice"):
        answers(model, tokenizer, ["lab:sums"], documents=2)
