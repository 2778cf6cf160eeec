"""Documents to windows: streams cut into equal pieces, random crops, or one window for each document."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.errors import DataError, UsageError
from analysis.text.sources import MODES
from analysis.windows import Windows, check_count

MOST_PADDED = 2**30  # tokens of windows that are longer than any document
Documents = Sequence[Sequence[int]] | Sequence[np.ndarray]  # token ids of each


def check_request(label: str, length: int, samples: int | None, mode: str) -> None:
    """Raise UsageError for a length below 2, samples below 1, an unknown mode, or crops without a number."""
    check_count(label, "length", length, least=2)
    if samples is not None:
        check_count(label, "samples", samples)
    if mode not in MODES:
        raise UsageError(f"{label}: unknown mode {mode!r}; possible: {', '.join(MODES)}")
    if mode == "crop" and samples is None:
        raise UsageError(f"{label}: random crops have no natural number; give samples")


def cut(
    documents: Documents,
    *,
    length: int,
    samples: int | None,
    seed: int,
    boundary_id: int | None,
    mode: str = "stream",
    shuffle: bool = True,
    label: str = "text",
) -> Windows:
    """Cut tokenised documents into windows of `length` tokens.

    stream     documents joined by the token `boundary_id` (by nothing if None), cut into consecutive windows that do
               not overlap; the remainder is dropped. `samples` of them drawn without replacement by `seed`.
    crop       a random document longer than `length`, a random stretch of it, `samples` times: the calibration windows
               of Shin et al. 2024 (section 3.1), with Python's generator as in their code. Documents may be an
               indexable that tokenises only what is asked for.
    documents  one document per window from its start, cut at `length`, padded on the right (mask False there).
               `samples` of them drawn without replacement by `seed`.

    `samples` None: all windows in order (not for crop). The first n windows of a draw are those of a draw of n.
    `shuffle` False takes the first windows in order, for documents that are themselves drawn at random; crops are then
    one per document that is long enough. Raises UsageError for a length below 2, samples below 1 or an unknown mode;
    DataError where the documents are too short, saying how many windows they hold.
    """
    check_request(label, length, samples, mode)
    check_count(label, "seed", seed, least=0)
    available: int | str
    if mode == "crop" and samples is not None:
        ids, available = _crop(documents, length, samples, seed, shuffle, label), "unbounded"
        mask = torch.ones_like(ids, dtype=torch.bool)
    elif mode == "stream":
        stream = _join(documents, boundary_id)
        available = len(stream) // length
        rows = _draw_rows(
            available, samples, seed, shuffle, f"{label}: {len(stream):,} tokens hold {_count(available, length)}"
        )
        ids = stream[: available * length].view(available, length)[rows].long()
        mask = torch.ones_like(ids, dtype=torch.bool)
    else:
        texts: list[Sequence[int] | np.ndarray] = [document for document in documents if len(document)]
        available = len(texts)
        rows = _draw_rows(
            available, samples, seed, shuffle, f"{label} holds {_count(available, length)}, one per document"
        )
        _check_size(label, len(rows), length, texts)
        ids, mask = _pad([texts[row] for row in rows.tolist()], length, 0 if boundary_id is None else boundary_id)
    provenance = {
        "mode": mode,
        "length": length,
        "samples": len(ids),
        "available": available,
        "seed": seed,
        "tokens": int(mask.sum()),
    }
    return Windows(ids, mask, label, provenance)


def _check_size(label: str, rows: int, length: int, documents: Sequence) -> None:
    """Raise UsageError where windows padded to `length` are too much to hold, and longer than any document."""
    longest = max(len(document) for document in documents)
    if length > longest and rows * length > MOST_PADDED:
        raise UsageError(
            f"{label}: {rows} windows of {length} tokens are mostly padding, and too much to hold; the longest document"
            f" has {longest} tokens, give a length of at most that"
        )


def _count(number: int, length: int) -> str:
    return f"{number} window{'' if number == 1 else 's'} of {length} tokens"


def _join(documents: Documents, boundary_id: int | None) -> Tensor:
    """All documents in one row of int32 (total,), with the boundary token between each two."""
    edge = [] if boundary_id is None else [torch.tensor([boundary_id], dtype=torch.int32)]
    pieces: list[Tensor] = []
    for document in documents:
        if len(document):
            pieces += (edge if pieces else []) + [torch.as_tensor(document, dtype=torch.int32)]
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int32)


def _draw_rows(available: int, samples: int | None, seed: int, shuffle: bool, holding: str) -> Tensor:
    """Rows (samples,) to take out of `available`, in the order drawn."""
    if available < (samples or 1):
        raise DataError(
            f"text too short: {holding}, {samples or 'at least 1'} asked; ask for fewer or shorter windows, or give"
            " more text"
        )
    if samples is None or not shuffle:
        return torch.arange(available if samples is None else samples)
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:samples]


def _crop(documents: Documents, length: int, samples: int, seed: int, shuffle: bool, label: str) -> Tensor:
    generator = random.Random(seed)
    lengths: dict[int, int] = {}  # of the documents found too short
    rows: list[Tensor] = []
    while len(rows) < samples:
        if len(documents) == len(lengths) + (0 if shuffle else len(rows)):
            long = (
                f"{len(rows)} of {len(documents)} documents are" if rows else f"none of {len(documents)} documents is"
            )
            raise DataError(
                f"text too short: {label}: {long} longer than a window of {length} tokens (the longest"
                f" {'other ' if rows else ''}has {max(lengths.values(), default=0)}), {samples} crops asked; ask for"
                " shorter windows or use mode 'stream'"
            )
        chosen = generator.randint(0, len(documents) - 1) if shuffle else len(rows) + len(lengths)
        if chosen in lengths:
            continue
        document = documents[chosen]
        if len(document) <= length:
            lengths[chosen] = len(document)
            continue
        start = generator.randint(0, len(document) - length - 1)
        rows.append(torch.as_tensor(document[start : start + length], dtype=torch.long))
    return torch.stack(rows)


def _pad(documents: Sequence[Sequence[int] | np.ndarray], length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    ids = torch.full((len(documents), length), pad_id, dtype=torch.long)
    mask = torch.zeros(len(documents), length, dtype=torch.bool)
    for row, document in enumerate(documents):
        size = min(len(document), length)
        ids[row, :size] = torch.as_tensor(document[:size], dtype=torch.long)
        mask[row, :size] = True
    return ids, mask
