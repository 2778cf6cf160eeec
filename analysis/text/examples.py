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
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch

from analysis.errors import DataError, UsageError
from analysis.lab.examples import EXAMPLES, Example, ExampleSet, examples
from analysis.models.load import LoadedModel, embedding_rows
from analysis.text.cut import check_request
from analysis.text.encoded_examples import Encoder
from analysis.text.example_readers import read_hub_examples, read_table
from analysis.text.example_sets import HUB_SETS, example_set
from analysis.text.shared import origins
from analysis.text.sources import LABELLED, Source, endless_error, parse_source, source_fingerprint
from analysis.text.tokens import check_known, select_tokenizer, tokenizer_fingerprint
from analysis.windows import Windows, check_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = {"embedding": "regression"}  # the head of the sets that a model without a head is scored on


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
    encoder = Encoder(source, task, tokenizer, length, _takes_types(tokenizer, model), apart)
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
