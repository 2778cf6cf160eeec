"""Labelled examples in tokens, and the windows that they become: one each, or two where the texts of a pair stand
apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analysis.errors import DataError, UsageError
from analysis.lab.examples import Example, ExampleSet
from analysis.progress import bar
from analysis.text.example_sets import Question
from analysis.text.sources import Source
from analysis.text.tokens import TEXTS_PER_CALL, encode
from analysis.windows import Labelled, Windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PATIENCE = 16  # endless examples are given up where so many were read for one that could be used


@dataclass(frozen=True)
class Encoded:
    """An example in tokens. `label`: class, score, or first and last token of the answer; `offsets`: for the latter,
    the characters of the passage that each token stands for.
    """

    ids: list[int]
    types: list[int] | None
    label: Any
    example: Example
    offsets: list[tuple[int, int]]


@dataclass
class Encoder:
    """Examples that were tokenised, and what became of the others."""

    source: Source
    task: ExampleSet
    tokenizer: PreTrainedTokenizerBase
    length: int
    typed: bool
    apart: bool = False  # each text of a pair is a window of its own
    encoded: list[Encoded] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"cut": 0, "beyond": 0, "unusable": 0})
    read: int = 0
    special: int = 0

    @property
    def examples(self) -> int:
        """How many examples were encoded."""
        return len(self.encoded) // (1 + self.apart)

    @property
    def low(self) -> float:
        """The lowest score of the set."""
        return self.task.scores[0] if self.task.scores else 0.0

    @property
    def high(self) -> float:
        """The highest."""
        return self.task.scores[1] if self.task.scores else 1.0

    def take(self, examples: Iterator[Example | None], samples: int | None, available: int | str) -> None:
        """Examples off an iterator until `samples` are encoded, or all. Raises DataError where they are too few."""
        with bar(total=samples, desc=f"tokens of {self.source.label}", unit="example") as progress:
            while samples is None or self.examples < samples:
                before = self.examples
                batch = list(
                    islice(examples, TEXTS_PER_CALL if samples is None else min(TEXTS_PER_CALL, samples - before))
                )
                if not batch or (available == "unbounded" and self.read > PATIENCE * (before + TEXTS_PER_CALL)):
                    break
                usable = [example for example in batch if example is not None]
                self.counts["unusable"] += len(batch) - len(usable)
                self.read += len(batch)
                if usable:
                    self.add(usable)
                progress.update(self.examples - before)
        if self.examples < (samples or 1):
            raise DataError(
                f"too few examples: {self.source.label}: of {self.read} read {self.examples} can be used"
                f" ({self.counts['beyond']} have the answer beyond {self.length} tokens, {self.counts['unusable']} are"
                f" broken), {samples or 'at least 1'} asked; ask for fewer, or for a greater length"
            )

    def add(self, batch: list[Example]) -> None:
        """Tokenise examples and keep those that can be answered."""
        if self.apart:
            batch = [Example(text, None, example.label) for example in batch for text in self._sentences(example)]
        span, pair = self.task.head == "span", batch[0].second is not None
        self._check(pair, span)
        fitting = batch
        if span:
            counts = [
                len(ids)
                for ids in encode(
                    self.tokenizer, self.source.label, [example.first for example in batch], add_special_tokens=False
                )["input_ids"]
            ]
            fitting = [example for example, count in zip(batch, counts) if count + self.special < self.length]
        encoded = [row for row in self._tokenise(fitting, pair, span) if row is not None] if fitting else []
        self.counts["beyond"] += len(batch) - len(encoded)
        self.encoded += encoded

    def _sentences(self, example: Example) -> tuple[str, str]:
        """The two texts of a pair. Raises UsageError where there is one only, or all scores are the same."""
        if example.second is None or self.low == self.high:
            lack = (
                f"one text an example, {example.first[:40]!r}"
                if example.second is None
                else f"scores of {self.low:g} only"
            )
            raise UsageError(
                f"{self.source.label}: holds {lack}; an encoder without a head is scored on pairs of sentences by how"
                " alike they are: columns sentence1, sentence2 and score"
            )
        return example.first, example.second

    def _check(self, pair: bool, span: bool) -> None:
        self.special = self.tokenizer.num_special_tokens_to_add(pair)
        if self.length <= self.special + pair:
            raise UsageError(
                f"{self.source.label}: {self.length} tokens leave no room for text beside {self.special} special"
                " tokens; give a greater length"
            )
        if span and not self.tokenizer.is_fast:
            kind = type(self.tokenizer).__name__
            raise UsageError(
                f"{self.source.label}: {kind} cannot say which characters a token stands for; give a model with a fast"
                " tokenizer"
            )

    def _tokenise(self, batch: list[Example], pair: bool, span: bool) -> list[Encoded | None]:
        """Each example in tokens, None for one whose answer is cut off."""
        texts: list[list] = [[example.first for example in batch]]
        if pair:
            texts.append([example.second for example in batch])
        encoding = encode(
            self.tokenizer,
            self.source.label,
            *texts,
            truncation="only_second" if span else "longest_first",
            max_length=self.length,
            return_attention_mask=False,
            return_token_type_ids=self.typed,
            return_offsets_mapping=span,
        )
        encoded: list[Encoded | None] = []
        for row, (example, ids) in enumerate(zip(batch, encoding["input_ids"])):
            if not ids:
                raise DataError(f"{self.source.label}: the example {example.first[:40]!r} has no token; leave it out")
            full = [text[row] for text in texts]
            cut = (
                len(ids) == self.length
                and len(self.tokenizer(*full, return_attention_mask=False, verbose=False)["input_ids"]) > self.length
            )
            label: Any = example.label
            offsets: list[tuple[int, int]] = []
            if span:
                offsets = [
                    place if number == 1 else (0, 0)
                    for place, number in zip(encoding["offset_mapping"][row], encoding.sequence_ids(row))
                ]
                label = _answer_tokens(_span(example), offsets, cut)
            self.counts["cut"] += cut and label is not None
            types = encoding["token_type_ids"][row] if self.typed else None
            encoded.append(None if label is None else Encoded(ids, types, label, example, offsets))
        return encoded

    def windows(self, names: tuple[str, ...], numbers: list[int], rows: int | None) -> Windows:
        """The encoded examples, padded to the longest with a token of the model's `rows` embeddings (None: any)."""
        lengths = [len(row.ids) for row in self.encoded]
        longest = max(lengths)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        head = self.task.head
        answers = [numbers[row.label] if head == "classification" else row.label for row in self.encoded]
        labels = torch.tensor(answers, dtype=torch.float32 if head == "regression" else torch.long)
        labelled = Labelled(head, self.task.metric, labels, names)
        if self.apart:
            labels = (labels - self.low) / (self.high - self.low)
            labelled = Labelled(
                "embedding", self.task.metric, labels, pairs=torch.arange(self.examples).repeat_interleave(2)
            )
        if head == "span":
            labelled = replace(
                labelled,
                texts=tuple(_passage_and_answers(row.example) for row in self.encoded),
                offsets=_padded([row.offsets for row in self.encoded], longest, (0, 0)),
            )
        types = [row.types for row in self.encoded if row.types is not None]
        return Windows(
            _padded([row.ids for row in self.encoded], longest, pad_id(self.tokenizer, rows)),
            mask,
            self.source.label,
            types=_padded(types, longest, 0) if self.typed else None,
            labelled=labelled,
        )


def _padded(rows: Sequence[list], length: int, value: int | tuple[int, int]) -> Tensor:
    """Rows of unequal lengths in one long tensor (N, length, ...), filled up with `value`."""
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def pad_id(tokenizer: PreTrainedTokenizerBase, rows: int | None) -> int:
    tokens = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in tokens if token is not None and (rows is None or token < rows)), 0)


def _passage_and_answers(example: Example) -> tuple[str, ...]:
    """The passage, the labelled answer in it, and other answers that are right too."""
    start, stop = _span(example)
    passage = example.second or ""
    return passage, passage[start:stop], *(example.accepted if isinstance(example, Question) else ())


def _span(example: Example) -> tuple[int, int]:
    """Where the answer to a question stands in the passage, in characters."""
    assert isinstance(example.label, tuple)
    return example.label


def _answer_tokens(answer: tuple[int, int], offsets: list[tuple[int, int]], cut: bool) -> tuple[int, int] | None:
    """First and last token of an answer, given in characters of the passage, with offsets (T, 2); None where it is cut
    off, or no token stands for it.
    """
    start, stop = answer
    covering = [number for number, (first, last) in enumerate(offsets) if first < stop and last > start]
    in_passage = [place for place in offsets if place[1] > place[0]]
    if not covering or (cut and not (in_passage[0][0] <= start and stop <= in_passage[-1][1])):
        return None
    return covering[0], covering[-1]
