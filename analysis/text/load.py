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
from typing import TYPE_CHECKING, Any

from analysis.errors import UsageError
from analysis.models.load import LoadedModel
from analysis.text.generate import Batch
from analysis.text.generated_files import tally, written
from analysis.text.lazy import Lazy
from analysis.text.mixtures import mix, order
from analysis.text.readers import WHOLE, read
from analysis.text.shared import openings, origins
from analysis.text.sources import (
    LABELLED,
    PICTURES,
    SELF,
    Source,
    endless_error,
    named,
    parse_source,
    source_fingerprint,
)
from analysis.text.tokens import (
    Specials,
    check_known,
    select_tokenizer,
    specials,
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

BLANK_LINE = "\n\n"


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
    bos: str = "auto",
) -> Windows:
    """Windows (samples, length) of token ids out of a source.

    `model` reads with its own tokenizer, and its context bounds `length`; without a model, give the `tokenizer` alone.
    Self-generated text needs the model. `samples` None = every window there is, in order. `seed` draws the windows, and
    in the lab and of the model the documents. `separator` ends documents of plain-text files (default: `<|endoftext|>`
    where it occurs, else blank lines); "none": a file is one text, rows of a table joined by a blank line. `mode` is
    one of `cut.MODES`; by default "stream", and "crop" for hub:c4. `split` is the half of a lab register ("train" or
    "held-out") where the source names none. Labelled examples are read by `examples.load_examples`: one window each,
    special tokens and labels with them, `length` their most tokens; pictures by `pictures.load_pictures`.

    `bos` says which special tokens stand in the windows (`tokens.specials`): by default those that the tokenizer itself
    puts around each document; where it puts none, documents of a stream are joined by its end-of-text token (else its
    beginning-of-text token, else a newline), the joined corpora of the papers by their text (`hub.ALIASES`). Lab
    streams and the model's own text have no end: as many documents are made as the windows need, and the windows
    taken in order, so that fewer are the first of more. So they are of a mixture: `samples` windows in its shares, in
    the order of `mixtures.order`. Raises UsageError for wrong arguments or a tokenizer that does not fit the model,
    DataError for a text that is missing, broken, too short, or unknown to the tokenizer.
    """
    import torch

    from analysis.text.cut import check_request, cut
    from analysis.windows import CHANCE, check_count

    source = parse_source(source).half(split)
    if separator is not None and not isinstance(separator, str):
        raise UsageError(f"{source.label}: separator must be a text, not {repr(separator)[:40]}")
    check_request(source.label, length, samples, "stream" if mode is None else mode)
    check_count(source.label, "seed", seed, least=0)
    if source.kind == LABELLED:
        from analysis.text.examples import load_examples

        if mode is not None:
            raise UsageError(f"{source.label}: every labelled example is a window of its own; leave mode {mode!r} out")
        if bos != "auto":
            raise UsageError(
                f"{source.label}: labelled examples have the tokenizer's own special tokens; leave bos {bos!r} out"
            )
        return load_examples(source, model, tokenizer=tokenizer, samples=samples, length=length, seed=seed)
    if source.kind == PICTURES:
        from analysis.text.pictures import load_pictures

        return load_pictures(source, model, samples=samples, length=length, seed=seed)
    if source.kind == "mixture":
        how = {"length": length, "seed": seed, "separator": separator, "mode": mode, "bos": bos}
        return _mixture(source, model, tokenizer, samples, how)
    mode = mode or (source.hub.mode if source.hub else "stream")
    check_request(source.label, length, samples, mode)
    tokenizer = select_tokenizer(source.label, model, tokenizer, length)
    joiner = source.hub.joiner if source.hub and mode == "stream" else None
    whole = separator == WHOLE and joiner is None and source.kind in ("file", "hub")
    special = specials(tokenizer, bos, mode=mode, joined=whole or joiner is not None, model=model)
    if source.endless and samples is None:
        raise UsageError(endless_error(source))
    batches: list[Batch] = []
    texts, separated = (
        (_own_texts(source, model, seed, bos, batches), "texts of the model")
        if source.kind == SELF
        else read(source, seed=seed, separator=separator, tokenizer=tokenizer)
    )
    documents: Sequence[np.ndarray]
    if source.endless and samples is not None:
        step = source.generation.batch if source.generation else 64
        documents = tokenise_enough(
            iter(texts), tokenizer, length=length, samples=samples, mode=mode, step=step, special=special
        )
        number = len(documents)
    else:
        texts = list(texts) if isinstance(texts, Iterator) else texts
        number = len(texts)
        if whole and number > 1:
            texts, separated = [BLANK_LINE.join(texts)], "none: rows are one text, joined by a blank line"
        if joiner is not None:
            most = source.hub.windows * length if source.hub and source.hub.windows else None
            documents = [tokenise_joined(texts, tokenizer, joiner, most, special)]
        elif mode == "crop":
            documents = _tokenised_when_asked(texts, tokenizer, special)
        else:
            rows = tokenise(texts, tokenizer, desc=f"tokens of {source.label}")
            documents = [special.around(row, length if mode == "documents" else None) for row in rows]
    windows = cut(
        documents,
        length=length,
        samples=samples,
        seed=seed,
        boundary_id=special.between,
        mode=mode,
        shuffle=not source.endless,
        label=source.label,
    )
    windows = special.headed(windows)
    check_known(windows, tokenizer, model, source)
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source, model.fingerprint if model else None),
        "origins": origins(source, seed=seed, model=model.fingerprint if model else None),
        "slice": source.slice,
        "split": source.hub.split if source.hub else source.split,
        "separator": separated,
        "bos": bos,
        "boundaries": special.words,
        "documents": number,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        **windows.provenance,
    }
    if source.endless:
        provenance["available"] = "unbounded"
    if source.generation and model:
        settings = named(source.generation, lambda reference: reference.label).to_dict()
        provenance["generated"] = {"model": Path(model.name).name, "settings": settings, **tally(batches)}
    common = [] if isinstance(texts, Iterator) else openings(texts, CHANCE)
    shared = [torch.as_tensor(special.around(row)[:-1]) for row in tokenise(common, tokenizer)]  # the last may go on
    return replace(windows, provenance=provenance, openings=tuple(shared))


def _mixture(
    source: Source,
    model: LoadedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int | None,
    how: dict[str, Any],
) -> Windows:
    """Windows of every part, as many as its share is."""
    if samples is None:
        raise UsageError(endless_error(source))
    chosen = order([share for _, share in source.parts], samples)
    parts = [
        load_tokens(part, model, tokenizer=tokenizer, samples=count, **how) if (count := chosen.count(number)) else None
        for number, (part, _) in enumerate(source.parts)
    ]
    mixed = mix(source, parts, chosen)
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source, model.fingerprint if model else None),
        "origins": origins(source, seed=how["seed"], model=model.fingerprint if model else None),
        "length": how["length"],
        "seed": how["seed"],
        "bos": how["bos"],
    }
    return replace(mixed, provenance=provenance | mixed.provenance)


def _tokenised_when_asked(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, special: Specials
) -> Sequence[np.ndarray]:
    """Token ids of the texts: random crops need a few of them."""
    return Lazy(len(texts), lambda number: special.around(tokenise([texts[number]], tokenizer)[0]))


def _own_texts(source: Source, model: LoadedModel | None, seed: int, bos: str, batches: list[Batch]) -> Iterator[str]:
    """The texts the model writes, endlessly; the batches they come from are put into `batches`."""
    if model is None:
        raise UsageError(
            f"{source.label}: is written by the model of the run; give the loaded model, not its tokenizer alone"
        )
    for batch in written(model, source, seed=seed, bos=bos):
        batches.append(batch)
        yield from (text.text for text in batch.texts)
