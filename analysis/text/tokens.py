"""Text to token ids: tokenising, what stands between documents, and whether model and tokenizer know the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.errors import DataError, UsageError, suggest
from analysis.models.load import LoadedModel, embedding_rows
from analysis.progress import bar
from analysis.text.sources import BOS, Source

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


@dataclass(frozen=True)
class Specials:
    """The special tokens of a text's windows.

    before, after: what stands around each document. between: what stands between two of a stream where nothing stands
    around them, None for nothing. head: what every window begins with, () for nothing. words: the rule, for provenance.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    between: int | None = None
    head: tuple[int, ...] = ()
    words: str = ""

    @property
    def start(self) -> tuple[int, ...]:
        """What a text of the model's own is written behind."""
        return self.head or self.before

    def around(self, document: np.ndarray, most: int | None = None) -> np.ndarray:
        """A document (tokens,) with what stands around it, once where it is written there already, as chat templates
        do; the text cut so that both make at most `most` tokens. An empty one stays empty.
        """
        room = None if most is None else max(most - len(self.before) - len(self.after), 0)
        if not len(document) or not (self.before or self.after):
            return document
        if self.before and tuple(document[: len(self.before)]) == self.before:
            document = document[len(self.before) :]
        if self.after and tuple(document[-len(self.after) :]) == self.after:
            document = document[: -len(self.after)]
        return np.concatenate([self.before, document[:room], self.after], dtype=np.int32, casting="unsafe")

    def headed(self, windows: Windows) -> Windows:
        """The windows (N, T) with their first tokens, which nobody predicts, replaced by `head`."""
        if not self.head:
            return windows
        ids = windows.ids.clone()
        ids[:, : len(self.head)] = ids.new_tensor(self.head)
        return replace(windows, ids=ids)


def specials(
    tokenizer: PreTrainedTokenizerBase,
    bos: str = "auto",
    *,
    mode: str = "stream",
    joined: bool = False,
    model: LoadedModel | None = None,
) -> Specials:
    """Which special tokens the windows of a text have; `joined`: one whose rows make one document.

    bos "auto": around each document what the tokenizer itself puts there; where it puts nothing, `boundary` stands
    between documents. Windows cut out of the middle begin as they fall, as in the codes of SparseGPT and Wanda (one
    token in front of the whole text) and in the harness (`measure.rolling`). "every": besides, every window begins with
    the beginning-of-text token (the tokenizer's, else that of the model's config), which takes the place of its first
    token: for models that read nothing right without, such as Gemma. "none": no special tokens but the boundary.
    Raises UsageError for another word, or where "every" finds no such token.
    """
    if bos not in BOS:
        raise UsageError(f"bos {bos!r}: is unknown; {suggest(bos, BOS)}")
    before, after = ((), ()) if bos == "none" else put_around(tokenizer)
    head: tuple[int, ...] = ()
    if bos == "every":
        config = None if model is None else model.model.config.get_text_config()
        single = getattr(tokenizer, "bos_token_id", None)
        single = getattr(config, "bos_token_id", None) if single is None else single
        head = before or (() if single is None else (single,))
        if not head:
            raise UsageError(
                "bos 'every': neither tokenizer nor config names a beginning-of-text token; leave bos at 'auto'"
            )
        before = head if mode == "documents" else before
    between, words = (None, "none: rows are one text") if joined or before or after else boundary(tokenizer)
    places = {"before each document": before, "after each document": after, "at the head of every window": head}
    put = [f"{_named(tokenizer, ids)} {place}" for place, ids in places.items() if ids]
    if not (before or after):
        put.insert(0, words if mode == "stream" else "none: no window spans two documents")
    return Specials(before, after, between, head, ", ".join(put))


def put_around(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens a tokenizer puts before and after a text by itself; none where it puts them otherwise."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for start in range(len(whole) - len(plain) + 1 if plain else 0):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()


def _named(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return " ".join(f"{token!r}" for token in tokenizer.convert_ids_to_tokens(list(ids)))


def tokenise_joined(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, joiner: str, most: int | None, special: Specials
) -> np.ndarray:
    """The rows as one text, tokenised whole, its first `most` tokens (None: all): (tokens,) int32."""
    (stream,) = tokenise([joiner.join(texts)], tokenizer)
    return special.around(stream)[:most]


def tokenise_enough(
    texts: Iterator[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    samples: int,
    mode: str,
    step: int,
    special: Specials = Specials(),
) -> list[np.ndarray]:
    """Documents off an endless stream, `step` at a time, until they hold `samples` windows: tokens for a stream,
    documents one by one, long ones for crops.
    """
    documents: list[np.ndarray] = []
    have, tried, needed = 0, 0, samples * length if mode == "stream" else samples
    with bar(total=needed, desc="documents", unit="token" if mode == "stream" else "document") as progress:
        while have < needed and (have or tried < 256):  # after 256 documents too short for a crop, the cut says so
            batch = tokenise(list(islice(texts, step)), tokenizer)
            batch = [special.around(row, length if mode == "documents" else None) for row in batch]
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
