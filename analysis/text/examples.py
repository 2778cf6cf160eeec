"""From labelled examples and a tokenizer to windows with the right answers.

windows = load_examples("examples:truth", encoder, samples=512, length=64)                     # of the lab, in the
order of the model's classes held_out = load_examples("examples:train.tsv[80%:]", tokenizer, length=128) held_out =
load_examples("examples:dev.tsv", tokenizer, length=128, classes=windows.labelled.classes)
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import LongTensor

from analysis.errors import DataError, UsageError
from analysis.lab.examples import EXAMPLES, Example, ExampleSet, examples
from analysis.progress import bar
from analysis.text.cut import check_request
from analysis.text.example_readers import read_hub_examples, read_table
from analysis.text.example_sets import HUB_SETS
from analysis.text.sources import LABELLED, Source, endless_error, parse_source, source_fingerprint
from analysis.text.tokens import BATCH, check_known, tokenizer_fingerprint, tokenizer_of
from analysis.windows import Labelled, Windows

if TYPE_CHECKING:
    from analysis.models.load import LoadedModel

Kept = tuple[
    list[int], list[int] | None, int | float | tuple[int, int], Example, list | None
]  # ids, types, label, example, offsets in the passage
PATIENCE = 16  # endless examples are given up where so many were read for one that could be used


def load_examples(
    source: str | Source,
    tokenizer,
    *,
    samples: int | None = None,
    length: int,
    seed: int = 0,
    split: str = "train",
    classes: Sequence[str] | None = None,
) -> Windows:
    """Windows (samples, T) of labelled examples, one each, as the tokenizer makes them: its special tokens in, padded
    on the right, T at most `length`.

    `tokenizer` is a tokenizer, or a loaded encoder whose head must fit the examples: classes are then numbered as in
    the model, by name where both sides name them. `classes` gives that order where there is no model yet. `samples`
    None = all, in order; else drawn by `seed` without replacement, those of the lab made by `seed` and taken in order;
    fewer are the first of more. `split` is "train" or "held-out" where the source names none.

    Longer examples are cut (the longer text first; of questions the passage only) and counted as "cut" in the
    provenance; a question whose answer is cut off is dropped and counted as "beyond", one of the hub that cannot be
    used as "unusable". Raises UsageError for wrong arguments or a model that does not fit, DataError for examples that
    are missing, broken, or too few.
    """
    source = (parse_source(source) if isinstance(source, str) else source).half(split)
    if source.kind != LABELLED:
        raise UsageError(
            f"{source.label}: has no labels; labelled examples are written examples:NAME or examples:PATH.tsv"
        )
    check_request(source.label, length, samples, "documents")
    loaded = tokenizer if hasattr(tokenizer, "context") else None
    if loaded is not None:
        _check_head(
            source,
            loaded,
            EXAMPLES.get(source.name) or (HUB_SETS[source.name].what if source.name in HUB_SETS else None),
        )
        tokenizer = tokenizer_of(loaded, length)
    if source.endless and samples is None:
        raise UsageError(endless_error(source))
    what, rows = _read(source, seed)
    if loaded is not None:
        _check_head(source, loaded, what)
    names, numbers = _order(source, what, classes, loaded)
    encoder = _Encoder(source, what, tokenizer, length, _takes_types(tokenizer, loaded))
    available = "unbounded" if source.endless else len(rows)
    drawn = rows if source.endless else _drawn(source, rows, samples, seed)
    encoder.take(drawn, samples, available)
    windows = encoder.windows(names, numbers)
    check_known(windows, tokenizer, loaded, source)
    provenance = {
        "source": source.label,
        "fingerprint": source_fingerprint(source),
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
    }
    return replace(windows, provenance=provenance)


def _read(source: Source, seed: int) -> tuple[ExampleSet, Sequence[Example | None] | Iterator[Example]]:
    """What the examples ask, and the sliced examples: of the lab an iterator, in order where there is no end."""
    if source.table:
        return read_table(source)
    if source.name in HUB_SETS:
        return HUB_SETS[source.name].what, read_hub_examples(source)
    made = islice(examples(source.name, split=source.split, seed=seed), source.start, source.stop)
    return EXAMPLES[source.name], made if source.endless else list(made)


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


def _check_head(source: Source, loaded: "LoadedModel", what: ExampleSet | None) -> None:
    """Raise UsageError unless the model answers what the examples ask (None: not known yet)."""
    if loaded.head == "next token":
        like = (
            f"lab/encoder-{source.name}" if source.name in EXAMPLES else "the folder of a BERT fine-tuned to the task"
        )
        raise UsageError(
            f"{source.label}: labelled examples need a model with a classification, regression or span head;"
            f" {loaded.name} predicts the next token. Give an encoder with such a head, as {like}, or text without"
            " labels"
        )
    if what is not None and what.head != loaded.head:
        score = (
            "; call the column of labels `score` if they are scores"
            if source.table and loaded.head == "regression"
            else ""
        )
        raise UsageError(
            f"{source.label}: asks for {what.head}, model {loaded.name} answers with {loaded.head}; give examples that"
            f" go with the model{score}"
        )


def _order(
    source: Source, what: ExampleSet, classes: Sequence[str] | None, loaded: "LoadedModel | None"
) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes in the order of the windows' labels, and the label of each class of the set."""
    if not what.classes:
        return (), []
    where = "the given classes" if classes is not None else f"model {loaded.name}" if loaded is not None else None
    if where is None:
        return what.classes, list(range(len(what.classes)))
    wanted = (
        tuple(classes)
        if classes is not None
        else tuple(loaded.model.config.id2label[number] for number in range(loaded.model.config.num_labels))
    )
    ours, theirs = [[_plain(name) for name in names] for names in (what.classes, wanted)]
    named = _named(ours) and _named(theirs)
    lacking = source.table and (named or not _named(ours))  # a small table may show only some of the classes
    fits = set(ours) <= set(theirs) if named else len(ours) <= len(theirs)
    if not fits or (len(ours) < len(theirs) and not lacking):
        raise UsageError(
            f"{source.label}: has the classes {', '.join(what.classes)}, {where}"
            f" {'have' if classes is not None else 'has'} {', '.join(wanted)}; give examples that go with the model"
        )
    if named:
        return wanted, [theirs.index(name) for name in ours]
    return what.classes if _named(ours) and len(ours) == len(theirs) else wanted, list(range(len(ours)))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", str(name).casefold()).strip("_")


def _named(names: Sequence[str]) -> bool:
    """Whether classes have names rather than numbers (`LABEL_0` is none)."""
    return not all(re.fullmatch(r"(label_?)?\d+", name) for name in names)


def _takes_types(tokenizer, loaded: "LoadedModel | None") -> bool:
    """Whether windows need token types: the tokenizer makes them and the model, where there is one, reads them."""
    if loaded is None:
        return "token_type_ids" in tokenizer.model_input_names
    return (
        "token_type_ids" in inspect.signature(loaded.model.forward).parameters
        and (getattr(loaded.model.config, "type_vocab_size", 0) or 0) > 1
    )


@dataclass
class _Encoder:
    """Examples that were tokenised, and what became of the others."""

    source: Source
    what: ExampleSet
    tokenizer: object
    length: int
    typed: bool
    kept: list[Kept] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"cut": 0, "beyond": 0, "unusable": 0})
    read: int = 0
    special: int = 0

    def take(self, drawn: Iterator[Example | None], samples: int | None, available: int | str) -> None:
        """Examples off `drawn` until `samples` are kept, or all. Raises DataError where they are too few."""
        with bar(total=samples, desc=f"tokens of {self.source.label}", unit="example") as progress:
            while samples is None or len(self.kept) < samples:
                batch = list(islice(drawn, BATCH if samples is None else min(BATCH, samples - len(self.kept))))
                if not batch or (available == "unbounded" and self.read > PATIENCE * (len(self.kept) + BATCH)):
                    break
                before = len(self.kept)
                usable = [example for example in batch if example is not None]
                self.counts["unusable"] += len(batch) - len(usable)
                self.read += len(batch)
                if usable:
                    self.add(usable)
                progress.update(len(self.kept) - before)
        if len(self.kept) < (samples or 1):
            raise DataError(
                f"too few examples: {self.source.label}: of {self.read} read {len(self.kept)} can be used"
                f" ({self.counts['beyond']} have the answer beyond {self.length} tokens, {self.counts['unusable']} are"
                f" broken), {samples or 'at least 1'} asked; ask for fewer, or for a greater length"
            )

    def add(self, batch: list[Example]) -> None:
        """Tokenise examples and keep those that can be answered."""
        span, pair = self.what.head == "span", batch[0].second is not None
        self._check(pair, span)
        fitting = batch
        if span:
            counts = [
                len(ids)
                for ids in self.tokenizer(
                    [example.first for example in batch], add_special_tokens=False, verbose=False
                )["input_ids"]
            ]
            fitting = [example for example, count in zip(batch, counts) if count + self.special < self.length]
        made = [] if not fitting else self._tokenise(fitting, pair, span)
        kept = [row for row in made if row is not None]
        self.counts["beyond"] += len(batch) - len(kept)
        self.kept += kept

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

    def _tokenise(self, batch: list[Example], pair: bool, span: bool) -> list[Kept | None]:
        """Each example in tokens, None for one whose answer is cut off."""
        texts = [[example.first for example in batch], *([[example.second for example in batch]] if pair else [])]
        made = self.tokenizer(
            *texts,
            truncation="only_second" if span else "longest_first",
            max_length=self.length,
            return_attention_mask=False,
            return_token_type_ids=self.typed,
            return_offsets_mapping=span,
            verbose=False,
        )
        found: list[Kept | None] = []
        for row, (example, ids) in enumerate(zip(batch, made["input_ids"])):
            if not ids:
                raise DataError(f"{self.source.label}: the example {example.first[:40]!r} has no token; leave it out")
            full = [text[row] for text in texts]
            cut = (
                len(ids) == self.length
                and len(self.tokenizer(*full, return_attention_mask=False, verbose=False)["input_ids"]) > self.length
            )
            label, offsets = example.label, None
            if span:
                offsets = [
                    place if number == 1 else (0, 0)
                    for place, number in zip(made["offset_mapping"][row], made.sequence_ids(row))
                ]
                label = _tokens_of(example, offsets, cut)
            self.counts["cut"] += cut and label is not None
            found.append(
                None
                if label is None
                else (ids, made["token_type_ids"][row] if self.typed else None, label, example, offsets)
            )
        return found

    def windows(self, names: tuple[str, ...], numbers: list[int]) -> Windows:
        """The kept examples, padded to the longest."""
        ids, types, labels, found, offsets = zip(*self.kept)
        longest, pad = max(map(len, ids)), _pad_id(self.tokenizer)
        mask = torch.arange(longest) < torch.tensor(list(map(len, ids)))[:, None]
        head = self.what.head
        values = [numbers[label] for label in labels] if head == "classification" else labels
        told = torch.tensor(values, dtype=torch.float32 if head == "regression" else torch.long)
        span = {}
        if head == "span":
            texts = tuple(
                (example.second, example.second[slice(*example.label)], *getattr(example, "accepted", ()))
                for example in found
            )
            span = {"texts": texts, "offsets": _padded(offsets, longest, (0, 0))}
        labelled = Labelled(head, self.what.metric, told, names, **span)
        return Windows(
            _padded(ids, longest, pad),
            mask,
            self.source.label,
            types=_padded(types, longest, 0) if self.typed else None,
            labelled=labelled,
        )


def _padded(rows: Sequence[list], length: int, value) -> LongTensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def _pad_id(tokenizer) -> int:
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def _tokens_of(example: Example, offsets: list[tuple[int, int]], cut: bool) -> tuple[int, int] | None:
    """First and last token of the answer, offsets (T, 2) of the passage; None where it is cut off, or no token stands
    for it.
    """
    start, stop = example.label
    covering = [number for number, (first, last) in enumerate(offsets) if first < stop and last > start]
    kept = [place for place in offsets if place[1] > place[0]]
    if not covering or (cut and not (kept[0][0] <= start and stop <= kept[-1][1])):
        return None
    return covering[0], covering[-1]
