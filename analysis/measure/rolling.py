"""Word and byte perplexity of whole documents, summed as EleutherAI's lm-evaluation-harness sums them
(`loglikelihood_rolling`): every token is predicted once, the first behind the beginning-of-text token.

result = rolling(loaded.model, loaded.tokenizer, documents, length=2048)
print(f"{result.word_perplexity:.2f} over {result.words} words")
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from analysis.errors import DataError, ModelError, NumericalError, UsageError
from analysis.models.anatomy import evaluating
from analysis.models.context import usable_context
from analysis.models.load import LoadedModel, check_model, unwrapped
from analysis.models.logits import portion, split_model, vocabulary
from analysis.models.task_heads import head
from analysis.progress import bar
from analysis.windows import check_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rolling:
    """How well a model predicts documents; lower is better.

    `nats`: negative log-likelihood of all documents. `words` are what white space parts, `bytes` those of UTF-8.
    """

    documents: int
    tokens: int
    words: int
    bytes: int
    nats: float

    @property
    def word_perplexity(self) -> float:
        """exp(nats per word)."""
        return _exp(self.nats / self.words)

    @property
    def byte_perplexity(self) -> float:
        """exp(nats per byte)."""
        return _exp(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """nats per byte / ln 2."""
        return self.nats / self.bytes / math.log(2)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 709 else math.inf


@torch.inference_mode()
def rolling(
    model: LoadedModel | nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    documents: Sequence[str],
    *,
    length: int,
    bos: str = "auto",
    label: str = "text",
) -> Rolling:
    """Log-likelihood of documents in windows of at most `length` tokens, the harness's `max_length`.

    A document is read as its tokenizer makes it, special tokens included (bos "none": without), behind the
    beginning-of-text token, else the end-of-text token. Windows follow each other; the last one of a document reaches
    back as far as it can, and only its new tokens count. Losses are float32, summed in float64; no more logits are held
    than `logits.LOGITS`. Raises UsageError where the model is no language model or has a shorter context, ModelError
    without a fitting tokenizer, DataError where there is nothing to predict, NumericalError where a loss is not finite.
    """
    check_model("rolling", model)
    network, where = unwrapped(model), f"rolling on {label!r}"
    check_count(where, "length", length, least=2)
    if (answered := head(network)) != "next token":
        raise UsageError(f"{where}: {type(network).__name__} answers with {answered}, it is no language model")
    context = usable_context(network)
    if context is not None and length > context:
        raise UsageError(f"{where}: windows of {length} tokens are longer than the model's context of {context}")
    prefix = None if tokenizer is None else _first_known(tokenizer.bos_token_id, tokenizer.eos_token_id)
    if tokenizer is None or prefix is None:
        raise ModelError(f"{where}: needs a tokenizer with a token for the beginning or end of text")
    nats, tokens = 0.0, 0
    split = split_model(network) if length > portion(vocabulary(network)) else None
    size = length if split is None else split.portion
    with evaluating(network):
        for number, text in enumerate(bar(documents, desc=f"rolling {label}", unit="document")):
            own = bos != "none" and not text.startswith(tokenizer.decode([prefix]))
            document = tokenizer(text, add_special_tokens=own, verbose=False)["input_ids"]
            for read, predicted in _windows(document, prefix, length):
                ids = torch.tensor([read], device=network.device)
                seen = network(input_ids=ids, use_cache=False).logits[0] if split is None else split.hidden(ids)[0]
                targets = torch.tensor(predicted, device=seen.device)
                loss = 0.0
                for part, answers in zip(seen[-len(predicted) :].split(size), targets.split(size)):
                    logits = part if split is None else split.logits(part[None])[0]
                    loss += cross_entropy(logits.float(), answers, reduction="none").double().sum().item()
                if not math.isfinite(loss):
                    raise NumericalError(f"{where}: the loss of document {number} is not finite")
                nats += loss
            tokens += len(document)
    if not tokens:
        raise DataError(f"{where}: no token to predict in {len(documents)} documents")
    words = sum(len(re.split(r"\s+", text)) for text in documents)
    return Rolling(len(documents), tokens, words, sum(len(text.encode()) for text in documents), nats)


def _first_known(*ids: int | None) -> int | None:
    return next((number for number in ids if number is not None), None)


def _windows(ids: list[int], prefix: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """(tokens read, at most `length`; tokens predicted at the last of them) until every token of `ids` is predicted."""
    for start in range(0, len(ids), length):
        stop = min(start + length, len(ids))
        first = stop - length - 1 if start else -1
        yield ([prefix] if first < 0 else []) + ids[max(first, 0) : stop - 1], ids[start:stop]
