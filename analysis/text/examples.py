"""From labelled examples to windows with the right answers, read for a loaded encoder or with a tokenizer alone.

windows = load_examples("examples:truth", encoder, samples=512, length=64)   # in the order of the model's classes
held_out = load_examples("examples:train.tsv[80%:]", tokenizer=tokenizer, length=128)
held_out = load_examples("examples:dev.tsv", tokenizer=tokenizer, length=128, classes=windows.labelled.classes)
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analysis.errors import DataError, UsageError
from analysis.lab.examples import EXAMPLES, Example, ExampleSet, examples
from analysis.models.load import LoadedModel, embedding_rows
from analysis.progress import bar
from analysis.text.cut import check_request
from analysis.text.example_readers import read_hub_examples, read_table
from analysis.text.example_sets import HUB_SETS, Question, example_set
from analysis.text.shared import origins
from analysis.text.sources import LABELLED, Source, endless_error, parse_source, source_fingerprint
from analysis.text.tokens import TEXTS_PER_CALL, check_known, encode, select_tokenizer, tokenizer_fingerprint
from analysis.windows import Labelled, Windows, check_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = {"embedding": "regression"}  # the head of the sets that a model without a head is scored on
PATIENCE = 16  # endless examples are given up where so many were read for one that could be used


def load_examples(
    source: str | os.PathLike[str] | Source,
    model: LoadedModel | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    samples: int | None = None,
    length: int,
    seed: int = 0,
    split: str = "train",
    classes: Sequence[str] | None = None,
) -> Windows:
    """Windows (samples, T) of labelled examples, one each, as the tokenizer makes them: its special tokens in, padded
    on the right, T at most `length`.

    `model` is a loaded encoder whose head must fit the examples: classes are then numbered as in the model, by name
    where both sides name them. For an encoder without a head scored pairs of sentences are two windows each, one after
    the other, `samples` counts pairs, and their scores go from 0 to 1 (`Labelled.pairs`). Without a model give the
    `tokenizer` alone, and the order in `classes`. `samples` None = all, in order; else drawn by `seed` without
    replacement, those of the lab made by `seed` and taken in order; fewer are the first of more. `split` is "train" or
    "held-out" where the source names none.

    Longer examples are cut (the longer text first; of questions the passage only) and counted as "cut" in the
    provenance; a question whose answer is cut off is dropped and counted as "beyond", one of the hub that cannot be
    used as "unusable". Raises UsageError for wrong arguments or a model that does not fit, DataError for examples that
    are missing, broken, or too few.
    """
    source = parse_source(source).half(split)
    if source.kind != LABELLED:
        raise UsageError(
            f"{source.label}: has no labels; labelled examples are written examples:NAME or examples:PATH.tsv"
        )
    check_request(source.label, length, samples, "documents")
    check_count(source.label, "seed", seed, least=0)
    if classes is not None and (
        isinstance(classes, str)
        or not isinstance(classes, Sequence)
        or not all(isinstance(name, str) for name in classes)
        or len({_plain(name) for name in classes}) < len(classes)
    ):
        raise UsageError(f"{source.label}: classes must be several different names, not {classes!r}")
    if model is not None and not isinstance(model, LoadedModel):
        raise UsageError(f"{source.label}: model must be one from load_model, not {type(model).__name__}")
    if model is not None:
        _check_head(source, model, example_set(source.name))
    tokenizer = select_tokenizer(source.label, model, tokenizer, length)
    if source.endless and samples is None:
        raise UsageError(endless_error(source))
    task, rows = _read(source, seed)
    if model is not None:
        _check_head(source, model, task)
    apart = model is not None and model.head == "embedding"
    names, numbers = _class_order(source, task, classes, model)
    encoder = _Encoder(source, task, tokenizer, length, _takes_types(tokenizer, model), apart)
    available: int | str = "unbounded" if isinstance(rows, Iterator) else len(rows)
    drawn = rows if isinstance(rows, Iterator) else _drawn(source, rows, samples, seed)
    encoder.take(drawn, samples, available)
    windows = encoder.windows(names, numbers, None if model is None else embedding_rows(model.model))
    check_known(windows, tokenizer, model, source)
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source),
        "origins": origins(source, seed=seed),
        "slice": source.slice,
        "split": source.split,
        "separator": "examples",
        "boundaries": f"{encoder.special} special tokens of the tokenizer in each",
        "documents": encoder.read,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "mode": "examples",
        "length": length,
        "samples": len(windows),
        "available": available,
        "seed": seed,
        "tokens": windows.tokens,
        **encoder.counts,
        **({"pairs": len(windows) // 2, "scores": f"{encoder.low:g} to {encoder.high:g}, as 0 to 1"} if apart else {}),
    }
    return replace(windows, provenance=provenance)


def _read(source: Source, seed: int) -> tuple[ExampleSet, Sequence[Example | None] | Iterator[Example]]:
    """What the examples ask, and the sliced examples: of the lab without an end an iterator, in order."""
    if source.table:
        return read_table(source)
    if source.name in HUB_SETS:
        return HUB_SETS[source.name].task, read_hub_examples(source)
    start, stop = source.numbers
    lab_examples = islice(
        examples(source.name, split=source.split or "train", seed=seed, start=start),
        None if stop is None else stop - start,
    )
    return EXAMPLES[source.name], lab_examples if source.endless else list(lab_examples)


def _drawn(source: Source, rows: Sequence[Example | None], samples: int | None, seed: int) -> Iterator[Example | None]:
    """Examples one by one: all in order, or in an order drawn by the seed."""
    if samples is None:
        return iter(rows)
    if len(rows) < samples:
        raise DataError(
            f"too few examples: {source.label} holds {len(rows)}, {samples} asked; ask for fewer, or give more"
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return (rows[number] for number in order.tolist())


def _check_head(source: Source, model: LoadedModel, task: ExampleSet | None) -> None:
    """Raise UsageError unless the model answers what the examples ask (None: not known yet)."""
    if model.head == "next token":
        similar = (
            f"lab/encoder-{source.name}" if source.name in EXAMPLES else "the folder of a BERT fine-tuned to the task"
        )
        raise UsageError(
            f"{source.label}: labelled examples need a model with a classification, regression or span head, or an"
            f" encoder without a head; {model.name} predicts the next token. Give an encoder with such a head, as"
            f" {similar}, or text without labels"
        )
    if task is not None and task.head != _ASKED.get(model.head, model.head):
        score = (
            "; call the column of labels `score` if they are scores"
            if source.table and model.head in ("regression", "embedding")
            else ""
        )
        raise UsageError(
            f"{source.label}: asks for {task.head}, model {model.name} answers with {model.head}; give examples that"
            f" go with the model{score}"
        )


def _class_order(
    source: Source, task: ExampleSet, classes: Sequence[str] | None, model: LoadedModel | None
) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes in the order of the windows' labels, and the label of each class of the set."""
    if not task.classes:
        return (), []
    if classes is not None:
        target, owner = tuple(classes), "the given classes have"
    elif model is not None:
        labels = dict(model.model.config.id2label or {})
        target, owner = tuple(name for _, name in sorted(labels.items())), f"model {model.name} has"
    else:
        return task.classes, list(range(len(task.classes)))
    set_names, target_names = [[_plain(name) for name in names] for names in (task.classes, target)]
    by_name = _named(set_names) and _named(target_names)
    may_lack = source.table and (by_name or not _named(set_names))  # a small table may show only some of the classes
    fits = set(set_names) <= set(target_names) if by_name else len(set_names) <= len(target_names)
    if not fits or (len(set_names) < len(target_names) and not may_lack):
        raise UsageError(
            f"{source.label}: has the classes {', '.join(task.classes)}, {owner} {', '.join(target)}; give"
            " examples that go with the model"
        )
    if by_name:
        return target, [target_names.index(name) for name in set_names]
    keeps_names = _named(set_names) and len(set_names) == len(target_names)
    return task.classes if keeps_names else target, list(range(len(set_names)))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", str(name).casefold()).strip("_")


def _named(names: Sequence[str]) -> bool:
    """Whether classes have names rather than numbers (`LABEL_0` is none)."""
    return not all(re.fullmatch(r"(label_?)?\d+", name) for name in names)


def _takes_types(tokenizer: PreTrainedTokenizerBase, model: LoadedModel | None) -> bool:
    """Whether windows need token types: the tokenizer makes them and the model, where there is one, reads them."""
    if model is None:
        return "token_type_ids" in tokenizer.model_input_names
    return (
        "token_type_ids" in inspect.signature(model.model.forward).parameters
        and (getattr(model.model.config, "type_vocab_size", 0) or 0) > 1
    )


@dataclass(frozen=True)
class _Encoded:
    """An example in tokens. `label`: class, score, or first and last token of the answer; `offsets`: for the latter,
    the characters of the passage that each token stands for.
    """

    ids: list[int]
    types: list[int] | None
    label: Any
    example: Example
    offsets: list[tuple[int, int]]


@dataclass
class _Encoder:
    """Examples that were tokenised, and what became of the others."""

    source: Source
    task: ExampleSet
    tokenizer: PreTrainedTokenizerBase
    length: int
    typed: bool
    apart: bool = False  # each text of a pair is a window of its own
    encoded: list[_Encoded] = field(default_factory=list)
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

    def _tokenise(self, batch: list[Example], pair: bool, span: bool) -> list[_Encoded | None]:
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
        encoded: list[_Encoded | None] = []
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
            encoded.append(None if label is None else _Encoded(ids, types, label, example, offsets))
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
            _padded([row.ids for row in self.encoded], longest, _pad_id(self.tokenizer, rows)),
            mask,
            self.source.label,
            types=_padded(types, longest, 0) if self.typed else None,
            labelled=labelled,
        )


def _padded(rows: Sequence[list], length: int, value: int | tuple[int, int]) -> Tensor:
    """Rows of unequal lengths in one long tensor (N, length, ...), filled up with `value`."""
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def _pad_id(tokenizer: PreTrainedTokenizerBase, rows: int | None) -> int:
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
