"""Published protocols, from a file, against definitions written out here: the papers' windows, the harness's sums."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch

from analysis.errors import AnalysisError
from analysis.measure.perplexity import perplexity
from analysis.measure.rolling import rolling
from analysis.text.load import load_tokens
from tests.helpers.writers import tiny_writer

WORDS = "the red cat sees a dog and the old bird has no town but likes the river".split()  # noqa: SIM905
PAGES = [" ".join(WORDS[(start * 5 + step * (start + 1)) % 17] for step in range(20 + 7 * start)) for start in range(5)]


@torch.no_grad()
def log_likelihood(model, read: list[int], predicted: list[int]) -> float:
    scores = model(torch.tensor([read])).logits[0].double().log_softmax(-1)[-len(predicted) :]
    return sum(scores[place, token].item() for place, token in enumerate(predicted))


@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_the_papers_perplexity_from_a_file(form, tmp_path):
    """SparseGPT, Wanda: the split joined by blank lines, tokenised whole, then windows in order."""
    loaded, length = tiny_writer(), 16
    rows = ["", *PAGES, "", " "]
    path = tmp_path / f"test.{form}"
    path.write_text("\n\n".join(rows) if form == "txt" else "\n".join(json.dumps({"text": row}) for row in rows))
    stream = loaded.tokenizer("\n\n".join(rows))["input_ids"]
    windows = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    losses = [-log_likelihood(loaded.model, window[:-1], window[1:]) / (length - 1) for window in windows]
    read = load_tokens(str(path), loaded, length=length, separator="none")
    assert read.ids.tolist() == windows and read.provenance["separator"].startswith("none")
    assert perplexity(loaded.model, read).perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    with_slice = load_tokens(f"{path}[:4]", loaded, length=length, separator="none") if form == "jsonl" else None
    assert with_slice is None or with_slice.ids.flatten().tolist() == stream[: with_slice.ids.numel()]


@pytest.mark.slow
@pytest.mark.parametrize("length", [7, 16, 48])
@pytest.mark.parametrize("bos", ["auto", "none"])
def test_word_and_byte_perplexity_are_the_harnesss(length, bos):
    """Every token is predicted once, behind the start token or as much of what precedes it as fits."""
    from tokenizers.processors import TemplateProcessing

    loaded = tiny_writer()
    end = loaded.tokenizer.eos_token_id
    loaded.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", end)]
    )
    nats = 0.0
    for page in PAGES:
        ids = loaded.tokenizer(page, add_special_tokens=bos == "auto")["input_ids"]
        behind = [end, *ids]
        for place in range(len(ids)):  # one token at a time, with the context its window gives it
            first = place // length * length
            last = min(first + length, len(ids))
            begin = max(0, last - length)
            nats -= log_likelihood(loaded.model, behind[begin : place + 1], [ids[place]])
    result = rolling(loaded, loaded.tokenizer, PAGES, length=length, bos=bos)
    words, size = sum(len(re.split(r"\s+", page)) for page in PAGES), sum(len(page.encode()) for page in PAGES)
    assert result.nats == pytest.approx(nats, rel=1e-5) and (result.words, result.bytes) == (words, size)
    assert result.word_perplexity == pytest.approx(math.exp(nats / words), rel=1e-5)
    assert result.byte_perplexity == pytest.approx(math.exp(nats / size), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-5)


@pytest.mark.slow
def test_the_installed_harness_agrees():
    from analysis.measure.zero_shot import _harness

    loaded = tiny_writer()
    harness = _harness(
        loaded.model, loaded.tokenizer, 1, SimpleNamespace(reset=lambda **_: None, update=lambda _: None)
    )
    harness.asked = []
    requests = [SimpleNamespace(args=(page,)) for page in PAGES]
    assert rolling(loaded, loaded.tokenizer, PAGES, length=48).nats == pytest.approx(
        -sum(harness.loglikelihood_rolling(requests, disable_tqdm=True)), rel=1e-5
    )


def test_what_cannot_be_rolled_is_told():
    loaded = tiny_writer()
    for model, tokenizer, pages, length, message in (
        (loaded, loaded.tokenizer, PAGES, 49, "longer than the model's context of 48"),
        (loaded, loaded.tokenizer, PAGES, 1, "length must be a whole number of at least 2"),
        (loaded, None, PAGES, 8, "needs a tokenizer"),
        (loaded, loaded.tokenizer, [], 8, "no token to predict in 0 documents"),
    ):
        with pytest.raises(AnalysisError, match=message):
            rolling(model, tokenizer, pages, length=length)
