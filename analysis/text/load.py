"""From a source and a tokenizer to windows.

windows = load_tokens("lab:stories", loaded, samples=64, length=128, seed=0)
held_out = load_tokens("stories.txt[80%:]", tokenizer, samples=200, length=128)
own = load_tokens("self:language=en", loaded, samples=64, length=128)
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import UsageError
from analysis.text.mixtures import mix, order
from analysis.text.readers import read
from analysis.text.sources import LABELLED, SELF, Source, endless_error, named, parse_source, source_fingerprint
from analysis.text.tokens import (
    _enough,
    _joined,
    _Lazy,
    boundary,
    check_known,
    tokenise,
    tokenizer_fingerprint,
    tokenizer_of,
)

if TYPE_CHECKING:
    from analysis.models.load import LoadedModel
    from analysis.text.generate import Batch
    from analysis.windows import Windows


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
    from analysis.text.cut import check_request, cut

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
        from analysis.text.generated_files import tally

        settings = named(source.generation, lambda reference: reference.label).to_dict()
        more["generated"] = {"model": Path(loaded.name).name, "settings": settings, **tally(batches)}
    return replace(windows, provenance=provenance | windows.provenance | more)


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
    from analysis.text.generated_files import written

    for batch in written(loaded, source, seed=seed):
        batches.append(batch)
        yield from (text.text for text in batch.texts)
