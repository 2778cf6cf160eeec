"""From a source of text to windows, read with a loaded model's tokenizer or with a tokenizer alone.

windows = load_tokens("lab:stories", loaded, samples=64, length=128, seed=0)
held_out = load_tokens("stories.txt[80%:]", tokenizer=tokenizer, samples=200, length=128)
own = load_tokens("self:language=en", loaded, samples=64, length=128)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import UsageError
from analysis.models.load import LoadedModel
from analysis.text.generate import Batch
from analysis.text.generated_files import tally, written
from analysis.text.lazy import Lazy
from analysis.text.mixtures import mix, order
from analysis.text.readers import read
from analysis.text.sources import LABELLED, SELF, Source, endless_error, named, parse_source, source_fingerprint
from analysis.text.tokens import (
    boundary,
    check_known,
    select_tokenizer,
    tokenise,
    tokenise_enough,
    tokenise_joined,
    tokenizer_fingerprint,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from analysis.windows import Windows


def load_tokens(
    source: str | os.PathLike[str] | Source,
    model: LoadedModel | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    samples: int | None = None,
    length: int,
    seed: int = 0,
    separator: str | None = None,
    mode: str | None = None,
    split: str = "train",
) -> Windows:
    """Windows (samples, length) of token ids out of a source.

    `model` reads with its own tokenizer, and its context bounds `length`; without a model, give the `tokenizer` alone.
    Self-generated text needs the model. `samples` None = every window there is, in order. `seed` draws the windows, and
    in the lab and of the model the documents. `separator` ends documents of plain-text files (default: `<|endoftext|>`
    where it occurs, else blank lines). `mode` is one of `cut.MODES`; by default "stream", and "crop" for hub:c4.
    `split` is the half of a lab register ("train" or "held-out") where the source names none. Labelled examples are
    read by `examples.load_examples`: one window each, special tokens and labels with them, `length` their most tokens.

    Texts are tokenised without special tokens; documents of a stream are joined by the tokenizer's end-of-text token
    (else its beginning-of-text token, else a newline), the joined corpora of the papers by their text (`hub.ALIASES`).
    Lab streams and the model's own text have no end: as many documents are made as the windows need, and the windows
    taken in order, so that fewer are the first of more. So they are of a mixture: `samples` windows in its shares, in
    the order of `mixtures.order`. Raises UsageError for wrong arguments or a tokenizer that does not fit the model,
    DataError for a text that is missing, broken, too short, or unknown to the tokenizer.
    """
    from analysis.text.cut import check_request, cut

    source = parse_source(source).half(split)
    check_request(source.label, length, samples, mode or "stream")
    if source.kind == LABELLED:
        from analysis.text.examples import load_examples

        if mode is not None:
            raise UsageError(f"{source.label}: every labelled example is a window of its own; leave mode {mode!r} out")
        return load_examples(source, model, tokenizer=tokenizer, samples=samples, length=length, seed=seed)
    if source.kind == "mixture":
        return _mixture(source, model, tokenizer, samples, length=length, seed=seed, separator=separator, mode=mode)
    mode = mode or (source.hub.mode if source.hub else "stream")
    check_request(source.label, length, samples, mode)
    tokenizer = select_tokenizer(source.label, model, tokenizer, length)
    boundary_id, boundaries = boundary(tokenizer)
    if source.endless and samples is None:
        raise UsageError(endless_error(source))
    batches: list[Batch] = []
    texts, separated = (
        (_own_texts(source, model, seed, batches), "texts of the model")
        if source.kind == SELF
        else read(source, seed=seed, separator=separator, tokenizer=tokenizer)
    )
    documents: Sequence[np.ndarray]
    if source.endless and samples is not None:
        step = source.generation.batch if source.generation else 64
        documents = tokenise_enough(iter(texts), tokenizer, length=length, samples=samples, mode=mode, step=step)
        number = len(documents)
    else:
        texts = list(texts) if isinstance(texts, Iterator) else texts
        number = len(texts)
        if mode == "stream" and source.hub and source.hub.joiner is not None:
            documents = [tokenise_joined(texts, tokenizer, source.hub, length)]
            boundary_id, boundaries = None, "none: rows are one text"
        elif mode == "crop":
            documents = _tokenised_when_asked(texts, tokenizer)
        else:
            documents = tokenise(texts, tokenizer, desc=f"tokens of {source.label}")
    windows = cut(
        documents,
        length=length,
        samples=samples,
        seed=seed,
        boundary_id=boundary_id,
        mode=mode,
        shuffle=not source.endless,
        label=source.label,
    )
    check_known(windows, tokenizer, model, source)
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source, model.fingerprint if model else None),
        "slice": source.slice,
        "split": source.hub.split if source.hub else source.split,
        "separator": separated,
        "boundaries": boundaries if mode == "stream" else "none: no window spans two documents",
        "documents": number,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        **windows.provenance,
    }
    if source.endless:
        provenance["available"] = "unbounded"
    if source.generation and model:
        settings = named(source.generation, lambda reference: reference.label).to_dict()
        provenance["generated"] = {"model": Path(model.name).name, "settings": settings, **tally(batches)}
    return replace(windows, provenance=provenance)


def _mixture(
    source: Source,
    model: LoadedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int | None,
    *,
    length: int,
    seed: int,
    separator: str | None,
    mode: str | None,
) -> Windows:
    """Windows of every part, as many as its share is."""
    if samples is None:
        raise UsageError(endless_error(source))
    chosen = order([share for _, share in source.parts], samples)
    parts = [
        load_tokens(
            part, model, tokenizer=tokenizer, samples=count, length=length, seed=seed, separator=separator, mode=mode
        )
        if (count := chosen.count(number))
        else None
        for number, (part, _) in enumerate(source.parts)
    ]
    mixed = mix(source, parts, chosen)
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source, model.fingerprint if model else None),
        "length": length,
        "seed": seed,
    }
    return replace(mixed, provenance=provenance | mixed.provenance)


def _tokenised_when_asked(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Sequence[np.ndarray]:
    """Token ids of the texts: random crops need a few of them."""
    return Lazy(len(texts), lambda number: tokenise([texts[number]], tokenizer)[0])


def _own_texts(source: Source, model: LoadedModel | None, seed: int, batches: list[Batch]) -> Iterator[str]:
    """The texts the model writes, endlessly; the batches they come from are put into `batches`."""
    if model is None:
        raise UsageError(
            f"{source.label}: is written by the model of the run; give the loaded model, not its tokenizer alone"
        )
    for batch in written(model, source, seed=seed):
        batches.append(batch)
        yield from (text.text for text in batch.texts)
