"""From a source and a tokenizer to windows.

windows = load_tokens("lab:stories", loaded, samples=64, length=128, seed=0)
held_out = load_tokens("stories.txt[80%:]", tokenizer, samples=200, length=128)
own = load_tokens("self:language=en", loaded, samples=64, length=128)
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.errors import DataError, UsageError
from analysis.progress import bar
from analysis.text.mixtures import mix, order
from analysis.text.readers import read
from analysis.text.sources import LABELLED, SELF, SOURCES, Source, named, parse_source, source_fingerprint

if TYPE_CHECKING:
    from analysis.models.load import LoadedModel
    from analysis.text.generate import Batch
    from analysis.text.windows import Windows

__all__ = [
    "SOURCES",
    "Source",
    "boundary",
    "load_tokens",
    "parse_source",
    "source_fingerprint",
    "tokenise",
    "tokenizer_fingerprint",
]

BATCH = 256  # documents per call of the tokenizer
UNKNOWN = 0.5  # share of unknown tokens above which a tokenizer cannot read a text


def load_tokens(
    source: str | Source,
    tokenizer,
    *,
    samples: int | None = None,
    length: int,
    seed: int = 0,
    separator: str | None = None,
    mode: str | None = None,
    split: str = "train",
) -> "Windows":
    """Windows (samples, length) of token ids out of a source.

    `tokenizer` is a tokenizer, or a loaded model, whose context then bounds `length`; self-generated text needs the
    model. `samples` None = every window there is, in order. `seed` draws the windows, and in the lab and of the model
    the documents. `separator` ends documents of plain-text files (default: `<|endoftext|>` where it occurs, else blank
    lines). `mode` is one of `windows.cut`; by default "stream", and "crop" for hub:c4. `split` is the half of a lab
    register ("train" or "held-out") where the source names none. Labelled examples are read by
    `examples.load_examples`: one window each, special tokens and labels with them, `length` their most tokens.

    Texts are tokenised without special tokens; documents of a stream are joined by the tokenizer's end-of-text token
    (else its beginning-of-text token, else a newline), the joined corpora of the papers by their text (`hub.ALIASES`).
    Lab streams and the model's own text have no end: as many documents are made as the windows need, and the windows
    taken in order, so that fewer are the first of more. So they are of a mixture: `samples` windows in its shares, in
    the order of `mixtures.order`. Raises UsageError for wrong arguments or a tokenizer that does not fit the model,
    DataError for a text that is missing, broken, too short, or unknown to the tokenizer.
    """
    from analysis.text.windows import check_request, cut

    source = (parse_source(source) if isinstance(source, str) else source).half(split)
    check_request(source.label, length, samples, mode or "stream")
    if source.kind == LABELLED:
        from analysis.text.examples import load_examples

        if mode is not None:
            raise UsageError(f"{source.label}: every labelled example is a window of its own; leave mode {mode!r} out")
        return load_examples(source, tokenizer, samples=samples, length=length, seed=seed)
    if source.kind == "mixture":
        return _mixture(source, tokenizer, samples, length=length, seed=seed, separator=separator, mode=mode)
    mode = mode or (source.hub.mode if source.hub else "stream")
    check_request(source.label, length, samples, mode)
    loaded = tokenizer if hasattr(tokenizer, "context") else None
    if loaded is not None:
        tokenizer = tokenizer_of(loaded, length)
    boundary_id, boundaries = boundary(tokenizer)
    endless = source.endless
    if endless and samples is None:
        raise UsageError(endless_error(source))
    batches: list[Batch] = []
    if source.kind == SELF:
        texts, separated = _own(source, loaded, seed, batches), "texts of the model"
    else:
        texts, separated = read(source, seed=seed, separator=separator)
    joiner = source.hub.joiner if source.hub and mode == "stream" else None
    if joiner is not None:
        documents, boundary_id, boundaries = (
            _joined(texts, joiner, tokenizer, source, length),
            None,
            "none: rows are one text",
        )
    elif endless:
        documents = _enough(
            texts,
            tokenizer,
            length=length,
            samples=samples,
            mode=mode,
            step=source.generation.batch if source.generation else 64,
        )
    else:
        texts = list(texts) if source.kind == "lab" else texts
        documents = (
            _Lazy(texts, tokenizer) if mode == "crop" else tokenise(texts, tokenizer, desc=f"tokens of {source.label}")
        )
    windows = cut(
        documents,
        length=length,
        samples=samples,
        seed=seed,
        boundary_id=boundary_id,
        mode=mode,
        shuffle=not endless,
        label=source.label,
    )
    check_known(windows, tokenizer, loaded, source)
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source, getattr(loaded, "fingerprint", None)),
        "slice": source.slice,
        "split": source.hub.split if source.hub else source.split,
        "separator": separated,
        "boundaries": boundaries if mode == "stream" else "none: no window spans two documents",
        "documents": len(documents) if joiner is None else len(texts),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    more = {"available": "unbounded"} if endless else {}
    if source.kind == SELF:
        from analysis.text.generated import tally

        settings = named(source.generation, lambda reference: reference.label).to_dict()
        more["generated"] = {"model": Path(loaded.name).name, "settings": settings, **tally(batches)}
    return replace(windows, provenance=provenance | windows.provenance | more)


def endless_error(source: Source) -> str:
    """What is wrong with asking for all there is of something without an end."""
    if source.kind == LABELLED:
        return (
            f"{source.label}: the lab's examples have no end; say how many (samples), or slice them, as in"
            f" {source.label}[:1000]"
        )
    if source.kind == "lab":
        return (
            f"{source.label}: lab text has no end; say how many windows (samples), or how many documents, as in"
            f" {source.label}[:1000]"
        )
    return (
        f"{source.label}: {'a mixture' if source.kind == 'mixture' else 'the text of a model'} has no natural number of"
        " windows; give samples"
    )


def _mixture(source: Source, tokenizer, samples: int | None, **how) -> "Windows":
    """Windows of every part, as many as its share is."""
    if samples is None:
        raise UsageError(endless_error(source))
    chosen = order([share for _, share in source.parts], samples)
    counts = [chosen.count(number) for number in range(len(source.parts))]
    parts = [
        load_tokens(part, tokenizer, samples=count, **how) if count else None
        for (part, _), count in zip(source.parts, counts)
    ]
    told = {
        "source": source.label,
        "fingerprint": source_fingerprint(source, getattr(tokenizer, "fingerprint", None)),
        "length": how["length"],
        "seed": how["seed"],
    }
    mixed = mix(source, parts, chosen)
    return replace(mixed, provenance=told | mixed.provenance)


def _own(source: Source, loaded: "LoadedModel | None", seed: int, batches: "list[Batch]") -> Iterator[str]:
    """The texts the model writes, endlessly; the batches they come from are put into `batches`."""
    from analysis.text.generated import written

    for batch in written(loaded, source, seed=seed):
        batches.append(batch)
        yield from (text.text for text in batch.texts)


def tokenizer_of(loaded: "LoadedModel", length: int):
    """A model's tokenizer. Raises UsageError where it has none, or windows of `length` tokens are longer than its
    context.
    """
    if loaded.tokenizer is None:
        raise UsageError(
            f"model {loaded.name}: has no tokenizer to read text with; put its tokenizer files in the model's folder"
        )
    if loaded.context is not None and length > loaded.context:
        raise UsageError(
            f"model {loaded.name}: a window of {length} tokens is longer than its context of {loaded.context}; give a"
            " shorter length"
        )
    return loaded.tokenizer


def check_known(windows: "Windows", tokenizer, loaded: "LoadedModel | None", source: Source) -> None:
    """Raise DataError where the tokenizer does not know the text, UsageError where the model does not know the
    tokenizer's ids.
    """
    model, largest = getattr(loaded, "model", None), int(windows.ids.max())
    if model is not None and largest >= (rows := model.get_input_embeddings().weight.shape[0]):
        raise UsageError(
            f"{source.label}: token id {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}) is beyond the {rows}"
            f" embeddings of model {loaded.name}; give the model's own tokenizer"
        )
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown != tokenizer.eos_token_id:
        share = ((windows.ids == unknown) & windows.mask).sum().item() / windows.tokens
        if share > UNKNOWN:
            raise DataError(
                f"{source.label}: {share:.0%} of its tokens are unknown to the tokenizer ({tokenizer.unk_token!r}); "
                "give text in the language and script the model was trained on, or the model's own tokenizer"
            )


def _joined(texts: Sequence[str], joiner: str, tokenizer, source: Source, length: int) -> list[np.ndarray]:
    """The rows as one text, tokenised whole, cut to the windows the corpus is defined to have."""
    (stream,) = tokenise([joiner.join(texts)], tokenizer)
    return [stream if source.hub.windows is None else stream[: source.hub.windows * length]]


def _enough(texts: Iterator[str], tokenizer, *, length: int, samples: int, mode: str, step: int) -> list[np.ndarray]:
    """Documents off an endless stream, `step` at a time, until they hold `samples` windows: tokens for a stream,
    documents one by one, long ones for crops.
    """
    found: list[np.ndarray] = []
    have, tried, wanted = 0, 0, samples * length if mode == "stream" else samples
    with bar(total=wanted, desc="documents", unit="token" if mode == "stream" else "document") as progress:
        while have < wanted and (have or tried < 256):  # after 256 documents too short for a crop, the cut says so
            batch = tokenise(list(islice(texts, step)), tokenizer)
            counts = [
                len(document) if mode == "stream" else mode == "documents" or len(document) > length
                for document in batch
            ]
            found += batch
            have, tried = have + sum(counts), tried + len(batch)
            progress.update(sum(counts))
    return found if mode != "documents" else found[:samples]


def tokenise(texts: Sequence[str], tokenizer, *, desc: str | None = None) -> list[np.ndarray]:
    """Token ids of each text, int32 arrays, without special tokens. Raises DataError for a row that is no text."""
    found: list[np.ndarray] = []
    starts = range(0, len(texts), BATCH)
    for start in bar(starts, desc=desc, unit="batch") if desc and len(starts) > 4 else starts:
        batch = list(texts[start : start + BATCH])
        for number, text in enumerate(batch, start):
            if not isinstance(text, str):
                raise DataError(f"{desc or 'tokens'}: row {number} is of type {type(text).__name__}, not text")
        ids = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        found += [np.asarray(row, dtype=np.int32) for row in ids]
    return found


class _Lazy(Sequence):
    """Documents tokenised when asked for: random crops need a few out of hundreds of thousands."""

    def __init__(self, texts: Sequence[str], tokenizer):
        self.texts, self.tokenizer = texts, tokenizer

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> np.ndarray:
        return tokenise([self.texts[number]], self.tokenizer)[0]


def boundary(tokenizer) -> tuple[int | None, str]:
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


def tokenizer_fingerprint(tokenizer) -> str:
    """16 hexadecimal digits that tell tokenizers apart: vocabulary, merges and rules, not names or folders."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):
        rules = json.loads(backend.to_str())
        rules = {
            key: value for key, value in rules.items() if key not in ("truncation", "padding")
        }  # state of the last call
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    ends = [getattr(tokenizer, name, None) for name in ("eos_token_id", "bos_token_id")]
    return hashlib.sha256(json.dumps([rules, ends], sort_keys=True).encode()).hexdigest()[:16]
