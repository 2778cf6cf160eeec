"""Windows of token ids: cut from tokenised documents, masked where padded, checked for text shared between sets.

windows = cut(documents_ids, length=128, samples=64, seed=0, boundary_id=2)     # ids (64, 128)
held_out = disjoint(calibration, {"stories": held_out})                         # raises OverlapError
calibration = append(calibration, self_generated)                               # own windows first, then added ones
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from analysis.errors import OverlapError, UsageError, count_problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHANCE = 0.05  # share of held-out windows that may repeat calibration text by chance; they are dropped
REMEDY = (
    "give each side its own documents with slices, such as text.txt[:80%] and text.txt[80%:], or drop the held-out"
    " windows that repeat calibration text (--drop-overlap; in Python disjoint(..., drop=True))"
)
TOKENS = ("all", "text", "image")
"""Which real tokens statistics and losses may count."""
SHOWN = 80  # characters of the shared text that the message shows


@dataclass(frozen=True, eq=False)
class Labelled:
    """The right answers of N windows.

    head: "classification", "regression", "span" or "embedding". metric: what a model's answers are scored by. labels:
    (N,) long classes, (N,) float32 scores, or (N, 2) long first and last token of the answer. classes: their names. Of
    spans: texts, the passage and the accepted answers of each window, and offsets (N, T, 2) long, the characters of the
    passage that each token stands for, (0, 0) outside it. Of embeddings, where a window is one sentence: pairs (N,)
    long, the number of the pair that it is one of, and labels the score of its pair, from 0 to 1.
    """

    head: str
    metric: str
    labels: Tensor
    classes: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    offsets: Tensor | None = None
    pairs: Tensor | None = None

    def take(self, rows: Tensor) -> "Labelled":
        """The answers of the windows `rows`, in that order."""
        texts = tuple(self.texts[row] for row in rows.tolist()) if self.texts else ()
        offsets, pairs = (None if part is None else part[rows] for part in (self.offsets, self.pairs))
        return replace(self, labels=self.labels[rows], texts=texts, offsets=offsets, pairs=pairs)


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a model reads beside the tokens of N windows with pictures in them.

    inputs: arguments of its forward by name ("pixel_values", ...); of each the first dimension holds equally many
    entries for every window, one window's together. at: (N, T) bool, the tokens that stand for pictures.
    """

    inputs: Mapping[str, Tensor]
    at: Tensor

    def rows(self, rows: Tensor | slice) -> dict[str, Tensor]:
        """The arguments for the windows `rows`, in that order; repeats allowed."""
        count = len(self.at)
        return {name: value.unflatten(0, (count, -1))[rows].flatten(0, 1) for name, value in self.inputs.items()}

    def take(self, rows: Tensor) -> "Pictures":
        """The pictures of the windows `rows`, in that order."""
        return Pictures(self.rows(rows), self.at[rows])

    def problem(self, shape: Sequence[int]) -> str | None:
        """What is wrong with them as those of windows of this shape (N, T); None where nothing is."""
        if tuple(self.at.shape) != tuple(shape) or self.at.dtype != torch.bool:
            return f"the tokens of pictures are {tuple(self.at.shape)} {self.at.dtype}; they must be (N, T), torch.bool"
        for name, value in self.inputs.items():
            if not value.ndim or not len(value) or len(value) % shape[0]:
                return f"{name} is {tuple(value.shape)}, which is not equally much for each of {shape[0]} windows"
        return None


@dataclass(frozen=True, eq=False)
class Windows:
    """N windows of T token ids each, and where they come from.

    `ids` long (N, T). `mask` bool (N, T), True = real token, False = padding, which counts for
    nothing wherever it stands (`load_tokens` puts it on the right).
    `label` is the source in the words of whoever named it, without folders ("lab:stories", "stories.txt[:80%]").
    `provenance` says in plain values how the windows were made; its counts are of tokens, windows and documents.
    `added`: how many of the last windows were added to a calibration text (`append`). `types` long (N, T): token
    type ids, for models that tell a first from a second text. `labelled`: the right answers, of labelled examples.
    `openings`: token ids (tokens,) of beginnings that many documents of the text share, such as licence headers.
    `pictures`: what a model reads beside the tokens; None for text alone.

    Raises UsageError for ids that are no whole numbers, or are below 0; for shapes that do not fit; for a mask that is
    not bool.
    """

    ids: Tensor
    mask: Tensor
    label: str = ""
    provenance: dict = field(default_factory=dict)
    added: int = 0
    types: Tensor | None = None
    labelled: Labelled | None = None
    openings: tuple[Tensor, ...] = ()
    pictures: Pictures | None = None

    def __post_init__(self) -> None:
        if problem := _tensor_problem(self.ids, self.mask):
            raise UsageError(f"windows {self.label!r}: {problem}")
        if self.types is not None and self.types.shape != self.ids.shape:
            raise UsageError(
                f"windows {self.label!r}: ids are {tuple(self.ids.shape)}, token types {tuple(self.types.shape)}; both"
                " must be (N, T)"
            )
        if self.labelled is not None and len(self.labelled.labels) != len(self.ids):
            raise UsageError(
                f"windows {self.label!r}: {len(self.ids)} windows and {len(self.labelled.labels)} labels; each window"
                " needs one"
            )
        if self.pictures is not None and (problem := self.pictures.problem(self.ids.shape)):
            raise UsageError(f"windows {self.label!r}: {problem}")
        check_count(f"windows {self.label!r}", "added", self.added, least=0)
        if self.added and self.added >= len(self):
            raise UsageError(
                f"windows {self.label!r}: {self.added} of {len(self)} windows are added ones; at least one must be the"
                " text's own"
            )

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def length(self) -> int:
        """Tokens per window T, padding included."""
        return self.ids.shape[1]

    @property
    def end(self) -> int:
        """Tokens up to the last real one of any window; what stands behind them is padding."""
        return int(self.mask.any(0).nonzero().max()) + 1

    @property
    def tokens(self) -> int:
        """Real tokens in all windows."""
        return int(self.mask.sum())

    @property
    def text(self) -> Tensor:
        """(N, T) bool, True = real token that stands for no picture: what a language model answers with."""
        return self.mask if self.pictures is None else self.mask & ~self.pictures.at

    def which(self, tokens: str) -> Tensor:
        """(N, T) bool: all real tokens, or those of "text" or "image" alone."""
        if tokens == "all" or self.pictures is None:
            return self.mask
        return self.text if tokens == "text" else self.mask & self.pictures.at

    def arguments(self, rows: Tensor | slice) -> dict[str, Tensor]:
        """What a transformers model's forward is given of the windows `rows` (any, in any order), by name."""
        arguments = {"input_ids": self.ids[rows], "attention_mask": self.mask[rows].long()}
        if self.types is not None:
            arguments["token_type_ids"] = self.types[rows]
        return arguments if self.pictures is None else arguments | self.pictures.rows(rows)

    def seen(self, rows: Tensor | slice, device: torch.device) -> dict[str, Tensor]:
        """Those of the arguments that are of pictures, on a device; none of text alone."""
        pictures = {} if self.pictures is None else self.pictures.rows(rows)
        return {name: value.to(device) for name, value in pictures.items()}

    @property
    def own(self) -> int:
        """Windows that were not added; they come first."""
        return len(self) - self.added

    @property
    def head(self) -> str:
        """What a model must answer on them: "next token", or the head that the labels ask for."""
        return "next token" if self.labelled is None else self.labelled.head

    @property
    def answers(self) -> Labelled:
        """The right answers. Raises UsageError where the windows have none."""
        if self.labelled is None:
            raise UsageError(
                f"windows {self.label!r}: have no labels; draw them from labelled examples, such as examples:truth"
            )
        return self.labelled

    def digest(self) -> str:
        """sha256 of everything that a model is given and its answers are compared with."""
        given = {"ids": self.ids, "mask": self.mask, "types": self.types}
        if self.labelled is not None:
            answers = self.labelled
            given |= {"labels": answers.labels, "pairs": answers.pairs, "offsets": answers.offsets}
        if self.pictures is not None:
            given |= {"pictures": self.pictures.at, **self.pictures.inputs}
        digest = hashlib.sha256()
        if self.labelled is not None:
            asked = [answers.head, answers.metric, answers.classes, answers.texts]
            digest.update(f"{json.dumps(asked)}\n".encode())
        for name, tensor in given.items():
            if tensor is not None:
                digest.update(
                    f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode()
                    + tensor.cpu().contiguous().numpy().tobytes()
                )
        return digest.hexdigest()

    def subset(self, n: int) -> "Windows":
        """The first `n` windows: for windows drawn by seed, the same ones that asking for `n` samples would give.

        Raises UsageError where there are fewer than `n`, or `n` is below 1.
        """
        check_count(f"subset of {self.label!r}", "windows", n)
        if n > len(self):
            raise UsageError(f"subset of {self.label!r}: {n} windows asked, {len(self)} there")
        return self.take(torch.arange(n))

    def take(self, rows: Tensor) -> "Windows":
        """The windows `rows`, in ascending order; provenance counts them."""
        part = replace(
            self,
            ids=self.ids[rows],
            mask=self.mask[rows],
            added=int((rows >= self.own).sum()),
            types=None if self.types is None else self.types[rows],
            labelled=None if self.labelled is None else self.labelled.take(rows),
            pictures=None if self.pictures is None else self.pictures.take(rows),
        )
        return replace(part, provenance={**self.provenance, "samples": len(part), "tokens": part.tokens})

    def trimmed(self, length: int) -> "Windows":
        """The windows with what stands behind the first `length` tokens cut off, which must be padding."""
        labelled = self.labelled
        if labelled is not None and labelled.offsets is not None:
            labelled = replace(labelled, offsets=labelled.offsets[:, :length])
        types = None if self.types is None else self.types[:, :length]
        pictures = None if self.pictures is None else replace(self.pictures, at=self.pictures.at[:, :length])
        ids, mask = self.ids[:, :length], self.mask[:, :length]
        return replace(self, ids=ids, mask=mask, types=types, labelled=labelled, pictures=pictures)


def append(calibration: Windows, added: Windows) -> Windows:
    """The windows of `calibration`, then those of `added`, counted as such: (N + M, T) with `added` = M (on top of any
    added before).

    The provenance is that of the calibration windows, that of the added ones in it under "added".
    Raises UsageError where the two differ in length, or are labelled examples or have pictures.
    """
    _check_type("append", calibration, added)
    if labelled := [windows.label for windows in (calibration, added) if windows.labelled is not None]:
        raise UsageError(
            f"append: {labelled[0]!r} are labelled examples; ask for more of them instead of adding windows"
        )
    if seen := [windows.label for windows in (calibration, added) if windows.pictures is not None]:
        raise UsageError(f"append: {seen[0]!r} has pictures; ask for more of them instead of adding windows")
    if added.length != calibration.length:
        raise UsageError(
            f"append: {added.label!r} has windows of {added.length} tokens, {calibration.label!r} of"
            f" {calibration.length}; draw both with the same length"
        )
    return Windows(
        torch.cat([calibration.ids, added.ids]),
        torch.cat([calibration.mask, added.mask]),
        f"{calibration.label} + {added.label}",
        {**calibration.provenance, "added": added.provenance},
        calibration.added + len(added),
        openings=(*calibration.openings, *added.openings),
    )


def _check_type(operation: str, *given: object) -> None:
    for windows in given:
        if not isinstance(windows, Windows):
            raise UsageError(f"{operation}: takes windows, as load_tokens draws them, not {repr(windows)[:40]}")


def _tensor_problem(ids: Any, mask: Any) -> str | None:
    """What is wrong with ids and mask as those of windows; None where nothing is."""
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor):
        return f"ids are {type(ids).__name__} and the mask {type(mask).__name__}; both must be tensors"
    if ids.ndim != 2 or ids.shape != mask.shape or mask.dtype != torch.bool:
        return (
            f"ids are {tuple(ids.shape)} and the mask {tuple(mask.shape)} {mask.dtype}; both must be (N, T), the mask"
            " torch.bool"
        )
    if ids.dtype != torch.long:
        return f"ids are {ids.dtype}; they must be token numbers, torch.long"
    if ids.numel() and int(ids.min()) < 0:
        return f"holds the id {int(ids.min())}; token ids begin at 0"
    return None


def check_count(operation: str, name: str, value: int, least: int = 1) -> None:
    """Raise UsageError unless `value` is a whole number of at least `least` that fits into 64 bits."""
    if problem := count_problem(name, value, least):
        raise UsageError(f"{operation}: {problem}")


def disjoint(
    calibration: Windows,
    held_out: Mapping[str, Windows],
    *,
    drop: bool = False,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    side: str = "calibration",
) -> dict[str, Windows]:
    """The held-out sets with no window left that shares a run of consecutive real tokens with a calibration window.

    The run is min(64, max(T // 2, 16), T) tokens, T the length of the shorter windows of the two sets; a padded window
    with fewer real tokens is a run as it is, so that equal short texts count. Labelled examples on both sides must be
    equal as a whole, since sets ask many questions in the same words; of sentences that stand in pairs each counts, and
    the other one of its pair goes with it. Openings that many documents of a text share
    (`Windows.openings`) count only where windows are equal as a whole; tokens of pictures are equal where the pictures
    are.

    side: what messages call the first set.

    Large corpora repeat themselves by chance: up to CHANCE of a set's windows are dropped and their number is kept in
    its provenance as "dropped". More than that is the same text on both sides: OverlapError names both sets, the number
    of windows, what they share (in words where a `tokenizer` is given) and the remedy. So it is, whatever was drawn,
    where the slices of one text hold the same documents. `drop` drops all such windows instead, however many, and says
    so in the provenance; it raises OverlapError where none is left. Runs are compared by 64-bit hashes: for
    256 windows of 1024 tokens on each side, unlike runs are taken for alike less than once in 10^8 calls.
    """
    if not isinstance(held_out, Mapping):
        raise UsageError(f"disjoint: held-out windows are given by name, {{'stories': windows}}, not {type(held_out)}")
    _check_type("disjoint", calibration, *held_out.values())
    return {
        label: _without_shared(calibration, label, windows, drop, tokenizer, side)
        for label, windows in held_out.items()
    }


def _without_shared(
    calibration: Windows, label: str, windows: Windows, drop: bool, tokenizer: Any, side: str
) -> Windows:
    drop = drop or windows.provenance.get("overlap") == "dropped"
    both = f"{side} {calibration.label or side!r} and held-out {label!r} ({windows.label or label})"
    if not drop:
        check_origins(both, _origins(calibration.provenance), _origins(windows.provenance))
    shared, run, first = _find_repeated(calibration, windows)
    lost = with_partners(shared, windows)
    if len(shared) > CHANCE * len(windows) and not (drop and len(lost) < len(windows)):
        ids = windows.ids[shared[0]][windows.mask[shared[0]]][first : first + run].tolist()
        text = f"tokens {ids[:8]}" if tokenizer is None else repr(tokenizer.decode(ids)[:SHOWN])
        alike = "many documents begin alike, and windows with nothing else count: give longer ones; "
        alike = alike if calibration.openings or windows.openings else ""
        raise OverlapError(
            f"{both} overlap: {len(shared)} of {len(windows)} held-out windows share {run} or more consecutive tokens"
            f" with {side}, the first {text}; {'no other window is left; ' if drop else ''}{alike}{REMEDY}"
        )
    if drop and "overlap" not in windows.provenance:
        windows = replace(windows, provenance={**windows.provenance, "overlap": "dropped"})
    if not len(lost):
        return windows
    disjoint_rows = torch.ones(len(windows), dtype=torch.bool)
    disjoint_rows[torch.from_numpy(lost)] = False
    part = windows.take(disjoint_rows.nonzero().flatten())
    return replace(part, provenance={**part.provenance, "dropped": windows.provenance.get("dropped", 0) + len(lost)})


def with_partners(rows: np.ndarray, windows: Windows) -> np.ndarray:
    """These rows, and those of the other sentences of their pairs, in order."""
    if windows.labelled is None or windows.labelled.pairs is None or not len(rows):
        return rows
    pairs = windows.labelled.pairs.cpu().numpy()
    return np.flatnonzero(np.isin(pairs, pairs[rows]))


def check_origins(both: str, calibration: Sequence[Mapping], held_out: Sequence[Mapping]) -> None:
    """Raise OverlapError where two sides, called `both`, are read from slices of one text that hold the same documents.

    An origin is a source, its "content" without its slice, and the "edges" of that: documents in numbers (int) or
    shares (float), None at an open end. An edge in numbers and one in shares are not compared.
    """

    def before(one: Mapping, other: Mapping) -> bool:
        stop, start = one["edges"][1], other["edges"][0]
        return stop is not None and bool(start) and (type(stop) is not type(start) or stop <= start)

    for one, other in product(calibration, held_out):
        if one["content"] == other["content"] and not before(one, other) and not before(other, one):
            raise OverlapError(
                f"{both} overlap: {one['source']} and {other['source']} hold the same documents, whichever windows are"
                f" drawn; {REMEDY}"
            )


def _origins(provenance: Mapping[str, Any]) -> list[Mapping]:
    """The origins of everything that windows were read from, as their provenance tells them."""
    return [*provenance.get("origins", ()), *provenance.get("added", {}).get("origins", ())]


def repeated(calibration: Windows, windows: Windows) -> tuple[np.ndarray, int]:
    """Rows of `windows` that share a run of real tokens with a calibration window, in order, and the tokens of such a
    run (`disjoint`).
    """
    rows, run, _ = _find_repeated(calibration, windows)
    return rows, run


def _find_repeated(calibration: Windows, windows: Windows) -> tuple[np.ndarray, int, int]:
    """Rows and run of `repeated`, and after how many real tokens of the first of these rows the shared run
    begins."""
    length = min(calibration.length, windows.length)
    both_labelled = calibration.labelled is not None and windows.labelled is not None
    run = length if both_labelled else min(64, max(length // 2, 16), length)
    openings = (*calibration.openings, *windows.openings)
    known, real = _run_hashes(calibration, run, openings)
    hashes, there = _run_hashes(windows, run, openings)
    found = np.isin(hashes, known[real]) & there
    if openings and calibration.length == windows.length:
        whole, whole_known = (_hashes(part.ids, part.mask, length)[0][:, 0] for part in (windows, calibration))
        found[:, 0] |= np.isin(whole, whole_known)
    rows = np.flatnonzero(found.any(axis=1))
    return rows, run, int(found[rows[0]].argmax()) if len(rows) else 0


def _run_hashes(windows: Windows, run: int, openings: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (N, T - run + 1) of every stretch of `run` tokens, and which of them count: real tokens, or a window that
    has fewer as it is; not those of which half or more lie in an opening.
    """
    hashes, real = _hashes(_told_apart(windows), windows.mask, run)
    real[:, 0] |= windows.mask.cpu().numpy().sum(axis=1) < run
    long = [
        _hashes(ids[None], torch.ones_like(ids[None], dtype=torch.bool), run)[0] for ids in openings if len(ids) >= run
    ]
    if long:
        opening = np.isin(hashes, np.concatenate(long, axis=1))
        for offset in range(run // 2 + 1):
            real[:, offset:] &= ~opening[:, : opening.shape[1] - offset]
            real[:, : real.shape[1] - offset] &= ~opening[:, offset:]
    return hashes, real


def _told_apart(windows: Windows) -> Tensor:
    """Ids (N, T) in which the tokens of a picture are its content: two windows share them where it is the same."""
    if windows.pictures is None:
        return windows.ids
    ids, count = windows.ids.clone(), len(windows)
    for row in range(count):
        parts = [value.unflatten(0, (count, -1))[row].cpu() for value in windows.pictures.inputs.values()]
        content = b"".join(part.contiguous().numpy().tobytes() for part in parts)
        ids[row, windows.pictures.at[row]] = int.from_bytes(hashlib.sha256(content).digest()[:7], "big")
    return ids


def _hashes(ids: Tensor, mask: Tensor, run: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of every stretch of `run` tokens of ids (N, T), and whether all of it is real: (N, T - run + 1).
    Padding is nothing, and behind the real tokens wherever it stands.
    """
    order = (~mask).int().argsort(dim=1, stable=True)
    numbers, there = ids.gather(1, order).cpu().numpy(), mask.gather(1, order).cpu().numpy()
    positions = numbers.shape[1] - run + 1
    factors = np.random.default_rng(0).integers(0, 2**63, size=run, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)  # splitmix64 of each id
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB) * there
    hashes = np.zeros((len(numbers), positions), dtype=np.uint64)
    real = np.ones((len(numbers), positions), dtype=bool)
    for offset, factor in enumerate(factors):
        hashes += mixed[:, offset : offset + positions] * factor
        real &= there[:, offset : offset + positions]
    return hashes, real
