"""Loss by kind of word: the same as counted token by token, and refused where it means nothing."""

from itertools import islice

import pytest
import torch

from analysis.errors import ModelError, NumericalError, UsageError
from analysis.lab.kinds import KINDS, told
from analysis.measure.token_kinds import UNCOUNTED, check_told, kind_losses, told_documents
from analysis.models.load import load_model
from tests.helpers.encoders import encoder


@pytest.fixture(scope="module")
def lab():
    return load_model("lab/tiny")


@pytest.fixture(scope="module")
def documents(lab):
    return told_documents(lab.model, lab.tokenizer, documents=4, seed=3)


def test_a_token_is_of_the_kind_of_its_first_character(lab, documents):
    kinds = list(KINDS)
    written = {document.text: words for document, words in islice(told("mixed", split="held-out", seed=3), 4)}
    for ids, row in zip(documents.ids, documents.kinds):
        assert ids[0] == lab.tokenizer.eos_token_id and row[0] == UNCOUNTED
        count = int((row != UNCOUNTED).sum())
        text = lab.tokenizer.decode(ids[1 : count + 1])
        words = next(words for whole, words in written.items() if whole.startswith(text))
        place = 0
        for token, kind in zip(ids[1 : count + 1].tolist(), row[1 : count + 1].tolist()):
            piece = lab.tokenizer.decode([token])
            assert kinds[kind] == next(k for _, end, k in words if place < end), piece
            place += len(piece)


def test_losses_are_those_of_single_tokens(lab, documents):
    losses = kind_losses(lab.model, documents, batch=3)
    found: dict[str, list[float]] = {}
    with torch.inference_mode():
        for ids, row in zip(documents.ids, documents.kinds):
            ids = ids[: int((row != UNCOUNTED).sum()) + 1]
            scores = lab.model(ids[None]).logits[0].log_softmax(-1)
            for place in range(1, len(ids)):
                found.setdefault(list(KINDS)[row[place]], []).append(-float(scores[place - 1, ids[place]]))
    assert {kind: count for kind, (_, count) in losses.items()} == {kind: len(of) for kind, of in found.items()}
    for kind, (nats, _) in losses.items():
        assert nats == pytest.approx(sum(found[kind]) / len(found[kind]), abs=2e-5)


def test_the_first_documents_of_more_are_those_of_fewer(lab, documents):
    fewer = told_documents(lab.model, lab.tokenizer, documents=2, seed=3)
    rows = {tuple(ids[kinds != UNCOUNTED].tolist()) for ids, kinds in zip(documents.ids, documents.kinds)}
    assert {tuple(ids[kinds != UNCOUNTED].tolist()) for ids, kinds in zip(fewer.ids, fewer.kinds)} <= rows


@pytest.mark.slow
def test_what_cannot_be_told_is_refused(lab, documents):
    with pytest.raises(UsageError, match="no language model"):
        check_told(encoder("bert"), lab.tokenizer)
    with pytest.raises(ModelError, match="no tokenizer"):
        check_told(lab.model, None)
    broken = load_model("lab/tiny").model
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match="not finite"):
        kind_losses(broken, documents)
