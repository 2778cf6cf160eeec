"""Windows of token ids: cut from tokenised documents, masked where padded, checked for text shared between sets.

windows = cut(documents_ids, length=128, samples=64, seed=0, boundary_id=2)     # ids (64, 128)
held_out = disjoint(calibration, {"stories": held_out})                         # raises OverlapError
calibration = append(calibration, self_generated)                               # own windows first, then added ones
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from analysis.errors import OverlapError, UsageError

CHANCE = 0.05  # share of held-out windows that may repeat calibration text by chance; they are dropped


@dataclass(frozen=True, eq=False)
class Labelled:
    """The right answers of N windows.

    head: "classification", "regression" or "span". metric: what a model's answers are scored by. labels: (N,) long
    classes, (N,) float32 scores, or (N, 2) long first and last token of the answer. classes: their names. Of spans:
    texts, the passage and the accepted answers of each window, and offsets (N, T, 2) long, the characters of the
    passage that each token stands for, (0, 0) outside it.
    """

    head: str
    metric: str
    labels: Tensor
    classes: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    offsets: Tensor | None = None

    def take(self, rows: Tensor) -> "Labelled":
        """The answers of the windows `rows`, in that order."""
        texts = tuple(self.texts[row] for row in rows.tolist()) if self.texts else ()
        return replace(
            self, labels=self.labels[rows], texts=texts, offsets=None if self.offsets is None else self.offsets[rows]
        )


@dataclass(frozen=True, eq=False)
class Windows:
    """N windows of T token ids each, and where they come from.

    `ids` long (N, T). `mask` bool (N, T), True = real token, False = padding (always on the right).
    `label` is the source in the words of whoever named it, without folders ("lab:stories", "stories.txt[:80%]").
    `provenance` says in plain values how the windows were made; its counts are of tokens, windows and documents.
    `added`: how many of the last windows were added to a calibration text (`append`). `types` long (N, T): token
    type ids, for models that tell a first from a second text. `labelled`: the right answers, of labelled examples.
    """

    ids: Tensor
    mask: Tensor
    label: str = ""
    provenance: dict = field(default_factory=dict)
    added: int = 0
    types: Tensor | None = None
    labelled: Labelled | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.mask.shape or self.mask.dtype != torch.bool:
            raise UsageError(
                f"windows {self.label!r}: ids are {tuple(self.ids.shape)} and the mask {tuple(self.mask.shape)}"
                f" {self.mask.dtype}; both must be (N, T), the mask torch.bool"
            )
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
    def tokens(self) -> int:
        """Real tokens in all windows."""
        return int(self.mask.sum())

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
        labels = None if self.labelled is None else self.labelled.labels
        digest = hashlib.sha256()
        for name, tensor in {"ids": self.ids, "mask": self.mask, "types": self.types, "labels": labels}.items():
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
        )
        return replace(part, provenance={**self.provenance, "samples": len(part), "tokens": part.tokens})

    def trimmed(self, length: int) -> "Windows":
        """The windows with what stands behind the first `length` tokens cut off, which must be padding."""
        labelled = self.labelled
        if labelled is not None and labelled.offsets is not None:
            labelled = replace(labelled, offsets=labelled.offsets[:, :length])
        types = None if self.types is None else self.types[:, :length]
        return replace(self, ids=self.ids[:, :length], mask=self.mask[:, :length], types=types, labelled=labelled)


def append(calibration: Windows, added: Windows) -> Windows:
    """The windows of `calibration`, then those of `added`, counted as such: (N + M, T) with `added` = M (on top of any
    added before).

    The provenance is that of the calibration windows, that of the added ones in it under "added".
    Raises UsageError where the two differ in length, or are labelled examples.
    """
    if labelled := [windows.label for windows in (calibration, added) if windows.labelled is not None]:
        raise UsageError(
            f"append: {labelled[0]!r} are labelled examples; ask for more of them instead of adding windows"
        )
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
    )


def check_count(operation: str, name: str, value: int, least: int = 1) -> None:
    """Raise UsageError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{operation}: {name} must be a whole number of at least {least}, not {value!r}")


def disjoint(calibration: Windows, held_out: Mapping[str, Windows]) -> dict[str, Windows]:
    """The held-out sets with no window left that shares a run of consecutive real tokens with a calibration window.

    The run is min(64, max(T // 2, 16), T) tokens, T the length of the shorter windows of the two sets; a padded window
    with fewer real tokens is a run as it is, so that equal short texts count. Labelled examples on both sides must be
    equal as a whole, since sets ask many questions in the same words. Large corpora repeat themselves by chance
    (boilerplate, formulaic entries): up to CHANCE of a set's windows are dropped and their number is kept in its
    provenance as "dropped". More than that is the same text on both sides: OverlapError names both sets, the number of
    windows and the remedy. Runs are compared by 64-bit hashes: for 256 windows of 1024 tokens on each side, unlike runs
    are taken for alike less than once in 10^8 calls.
    """
    return {label: _without_shared(calibration, label, windows) for label, windows in held_out.items()}


def _without_shared(calibration: Windows, label: str, windows: Windows) -> Windows:
    shared, run = repeated(calibration, windows)
    if not len(shared):
        return windows
    if len(shared) > CHANCE * len(windows):
        names = calibration.label or "calibration", windows.label or label
        raise OverlapError(
            f"calibration {names[0]!r} and held-out {label!r} ({names[1]}) overlap: {len(shared)} of {len(windows)}"
            f" held-out windows share {run} or more consecutive tokens with calibration; give each side its own"
            " documents with slices, such as text.txt[:80%] and text.txt[80%:]"
        )
    disjoint_rows = torch.ones(len(windows), dtype=torch.bool)
    disjoint_rows[torch.from_numpy(shared)] = False
    part = windows.take(disjoint_rows.nonzero().flatten())
    return replace(part, provenance={**part.provenance, "dropped": windows.provenance.get("dropped", 0) + len(shared)})


def repeated(calibration: Windows, windows: Windows) -> tuple[np.ndarray, int]:
    """Rows of `windows` that share a run of real tokens with a calibration window, in order, and the tokens of such a
    run (`disjoint`).
    """
    length = min(calibration.length, windows.length)
    both_labelled = calibration.labelled is not None and windows.labelled is not None
    run = length if both_labelled else min(64, max(length // 2, 16), length)
    calibration_hashes, _ = _run_hashes(calibration, run)
    hashes, rows = _run_hashes(windows, run)
    return np.unique(rows[np.isin(hashes, calibration_hashes)]), run


def _run_hashes(windows: Windows, run: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of every stretch of `run` real tokens, and of windows that have fewer as they are, and the window
    each lies in.
    """
    ids, mask = windows.ids.cpu().numpy(), windows.mask.cpu().numpy()
    positions = ids.shape[1] - run + 1
    factors = np.random.default_rng(0).integers(0, 2**63, size=run, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)  # splitmix64 of each id
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB) * mask
    hashes = np.zeros((ids.shape[0], positions), dtype=np.uint64)
    real = np.ones((ids.shape[0], positions), dtype=bool)
    for offset, factor in enumerate(factors):
        hashes += mixed[:, offset : offset + positions] * factor
        real &= mask[:, offset : offset + positions]
    real[:, 0] |= mask.sum(axis=1) < run
    rows = np.broadcast_to(np.arange(ids.shape[0])[:, None], hashes.shape)
    return hashes[real], rows[real]
