"""Text to token ids: tokenising, what stands between documents, and whether model and tokenizer know the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.errors import DataError, UsageError
from analysis.models.load import LoadedModel, embedding_rows
from analysis.progress import bar
from analysis.text.hub import Hub
from analysis.text.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from analysis.windows import Windows

TEXTS_PER_CALL = 256  # of the tokenizer
MOST_UNKNOWN = 0.5  # share of unknown tokens above which a tokenizer cannot read a text


def select_tokenizer(
    label: str, model: LoadedModel | None, tokenizer: PreTrainedTokenizerBase | None, length: int
) -> PreTrainedTokenizerBase:
    """The tokenizer to read source `label` with: the model's own, or the one given where there is no model.

    Raises UsageError unless exactly one of the two is given, where the model has no tokenizer, or where windows of
    `length` tokens are longer than its context.
    """
    if model is None and tokenizer is not None and hasattr(tokenizer, "convert_ids_to_tokens"):
        return tokenizer
    if not isinstance(model, LoadedModel) or tokenizer is not None:
        raise UsageError(
            f"{label}: is read with a loaded model or with a tokenizer alone; give a model from load_model, or"
            " tokenizer=TOKENIZER"
        )
    if model.tokenizer is None:
        raise UsageError(
            f"model {model.name}: has no tokenizer to read text with; put its tokenizer files in the model's folder"
        )
    if model.context is not None and length > model.context:
        raise UsageError(
            f"model {model.name}: a window of {length} tokens is longer than its context of {model.context}; give a"
            " shorter length"
        )
    return model.tokenizer


def check_known(
    windows: Windows, tokenizer: PreTrainedTokenizerBase, model: LoadedModel | None, source: Source
) -> None:
    """Raise DataError where the tokenizer does not know the text, UsageError where the model does not know the
    tokenizer's ids.
    """
    largest = int(windows.ids.max())
    if model is not None and largest >= (rows := embedding_rows(model.model)):
        raise UsageError(
            f"{source.label}: token id {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}) is beyond the {rows}"
            f" embeddings of model {model.name}; give the model's own tokenizer"
        )
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown != tokenizer.eos_token_id:
        share = ((windows.ids == unknown) & windows.mask).sum().item() / windows.tokens
        if share > MOST_UNKNOWN:
            raise DataError(
                f"{source.label}: {share:.0%} of its tokens are unknown to the tokenizer ({tokenizer.unk_token!r}); "
                "give text in the language and script the model was trained on, or the model's own tokenizer"
            )


def tokenise_joined(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, corpus: Hub, length: int) -> np.ndarray:
    """The rows as one text, tokenised whole, cut to the windows the corpus is defined to have: (tokens,) int32."""
    (stream,) = tokenise([(corpus.joiner or "").join(texts)], tokenizer)
    return stream if corpus.windows is None else stream[: corpus.windows * length]


def tokenise_enough(
    texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, *, length: int, samples: int, mode: str, step: int
) -> list[np.ndarray]:
    """Documents off an endless stream, `step` at a time, until they hold `samples` windows: tokens for a stream,
    documents one by one, long ones for crops.
    """
    documents: list[np.ndarray] = []
    have, tried, needed = 0, 0, samples * length if mode == "stream" else samples
    with bar(total=needed, desc="documents", unit="token" if mode == "stream" else "document") as progress:
        while have < needed and (have or tried < 256):  # after 256 documents too short for a crop, the cut says so
            batch = tokenise(list(islice(texts, step)), tokenizer)
            counts = [
                len(document) if mode == "stream" else mode == "documents" or len(document) > length
                for document in batch
            ]
            documents += batch
            have, tried = have + sum(counts), tried + len(batch)
            progress.update(sum(counts))
    return documents if mode != "documents" else documents[:samples]


def tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, desc: str | None = None) -> list[np.ndarray]:
    """Token ids of each text, int32 arrays, without special tokens. Raises DataError for a row that is no text."""
    documents: list[np.ndarray] = []
    starts = range(0, len(texts), TEXTS_PER_CALL)
    for start in bar(starts, desc=desc, unit="batch") if desc and len(starts) > 4 else starts:
        batch = list(texts[start : start + TEXTS_PER_CALL])
        for number, text in enumerate(batch, start):
            if not isinstance(text, str):
                raise DataError(f"{desc or 'tokens'}: row {number} is of type {type(text).__name__}, not text")
        ids = encode(tokenizer, desc or "tokens", batch, add_special_tokens=False, return_attention_mask=False)[
            "input_ids"
        ]
        documents += [np.asarray(row, dtype=np.int32) for row in ids]
    return documents


def encode(tokenizer: PreTrainedTokenizerBase, what: str, *texts: Any, **options: Any) -> Any:
    """What a tokenizer makes of texts. Raises DataError where it cannot: a word is unknown, and it has no token for
    that.
    """
    try:
        return tokenizer(*texts, verbose=False, **options)
    except Exception as error:  # the library raises no class of its own
        raise DataError(
            f"{what}: the tokenizer cannot read this text ({error}); give text in the words of its vocabulary, or a"
            " tokenizer with an unknown token"
        ) from error


def boundary(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, str]:
    """The token that stands between documents of a stream, and the rule that chose it, in words."""
    for name in ("eos", "bos"):
        token_id = getattr(tokenizer, f"{name}_token_id", None)
        if token_id is not None:
            return token_id, f"{name} token {token_id} {getattr(tokenizer, f'{name}_token')!r} between documents"
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return (
        (newline[-1], f"newline token {newline[-1]} between documents")
        if newline
        else (None, "none: the tokenizer has no end, start or newline token")
    )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hexadecimal digits that tell tokenizers apart: vocabulary, merges and rules, not names or folders."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        rules = json.loads(backend.to_str())
        rules = {
            key: value for key, value in rules.items() if key not in ("truncation", "padding")
        }  # state of the last call
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    ends = [getattr(tokenizer, name, None) for name in ("eos_token_id", "bos_token_id")]
    return hashlib.sha256(json.dumps([rules, ends], sort_keys=True).encode()).hexdigest()[:16]
