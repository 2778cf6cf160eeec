"""Labelled examples out of a table: UTF-8 text, tabs between cells, a header, no quoting (the form of GLUE's files).
Imports no torch.

sentence	label          question	context	answer          sentence1	sentence2	score
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.errors import DataError
from analysis.lab.examples import Example, ExampleSet
from analysis.text.example_sets import HUB_SETS, HubSet, Question
from analysis.text.hub import Hub, fetch
from analysis.text.readers import file_text
from analysis.text.sources import check_file

if TYPE_CHECKING:
    from analysis.text.sources import Source


if TYPE_CHECKING:
    from analysis.text.sources import Source

FIRST = ("sentence", "text", "sentence1", "premise", "question1", "question")
SECOND = ("sentence2", "hypothesis", "question2", "context", "passage")
LABEL = ("label", "gold_label", "is_duplicate", "score", "answer")
"""Columns that are understood by their names, in any case; where there is a `question` and a `sentence`, the sentence
is the second text."""
MOST = 1000
"""Classes are numbered from 0 to below this; larger numbers are scores or identifiers in a column that was taken for
labels."""


def read_table(source: "Source") -> tuple[ExampleSet, list[Example]]:
    """What a table asks, and its sliced examples in order.

    Labels that are all whole numbers are classes, all other numbers (or a column called `score`) scores, a column
    called `answer` the words of an answer in the second text (where they first occur), anything else the names of
    classes, numbered in their order by letter. What it asks is read off the whole table, so that all slices of it
    agree. Raises DataError, with the line, for a table that is missing, empty or binary, without the columns, or with a
    row of another length, an empty text, a missing label, a score that is no number, numbers and names as labels, or an
    answer that is not in its passage.
    """
    lines = file_text(check_file(source), source).split("\n")
    header = [cell.strip() for cell in lines[0].split("\t")]
    places = _named(source, header) if source.column else _known(source, header)
    rows = []  # (line, first, second or None, label)
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where, cells = _where(source, number), line.split("\t")
        if len(cells) != len(header):
            raise DataError(
                f"{where}: has {len(cells)} cells, the header names {len(header)}; part them by tabs, and write no tab"
                " in a text"
            )
        texts = [cells[place].strip() for place in places]
        for place, text in zip(places, texts):
            if not text:
                raise DataError(f"{where}: {header[place]!r} is empty; leave the row out")
        rows.append((number, texts[0], texts[1] if len(texts) == 3 else None, texts[-1]))
    if not rows:
        raise DataError(f"table {source.name}: holds no example, only a header; the first line names the columns")
    what, labels = _labels(source, header[places[-1]], rows)
    chosen = source.select(len(rows))
    return what, [
        Example(first, second, label)
        for (_, first, second, _), label in zip(rows[chosen.start : chosen.stop], labels[chosen.start : chosen.stop])
    ]


def _where(source: "Source", line: int) -> str:
    return f"table {source.name}, line {line}"


def _named(source: "Source", header: list[str]) -> list[int]:
    """Places of the columns that the source names."""
    columns = source.column.split(",")
    if missing := [column for column in columns if column not in header]:
        raise DataError(f"table {source.name}: has no column {missing[0]!r}; it has {', '.join(header)}")
    return [header.index(column) for column in columns]


def _known(source: "Source", header: list[str]) -> list[int]:
    """Places of the first text, the second where there is one, and the label, by the names in the header."""
    names = [name.casefold() for name in header]
    first, second, label = ([name for name in known if name in names] for known in (FIRST, SECOND, LABEL))
    if "question" in first and "sentence" in first:
        first.remove("sentence")
        second.append("sentence")
    hint = f"name them, as in examples:{source.name}#FIRST,SECOND,LABEL or #FIRST,LABEL"
    for found, what, least in ((first, "first text", 1), (second, "second text", 0), (label, "label", 1)):
        if len(found) > 1:
            raise DataError(f"table {source.name}: {' and '.join(map(repr, found))} may each be the {what}; {hint}")
        if len(found) < least:
            raise DataError(
                f"table {source.name}: no column of its first line ({', '.join(header)}) is known as the {what}; {hint}"
            )
    return [names.index(name) for name in (*first, *second, *label)]


def _labels(source: "Source", column: str, rows: list[tuple]) -> tuple[ExampleSet, list]:
    """What the labels ask, and the labels."""
    kind, texts = column.casefold(), [row[-1] for row in rows]
    if kind == "answer":
        return ExampleSet("span", (), "f1", ""), [_place(source, row) for row in rows]
    numbers = [_number(text) for text in texts]
    odd = [row for row, number in zip(rows, numbers) if number is None]
    if odd and (kind == "score" or len(odd) < len(rows)):
        told = (
            "is no number"
            if kind == "score"
            else "is no number, and other labels are; write numbers only, or names only"
        )
        raise DataError(f"{_where(source, odd[0][0])}: {column} {odd[0][-1]!r} {told}")
    if odd:
        classes = tuple(sorted(set(texts)))
        return ExampleSet("classification", classes, "accuracy", ""), [classes.index(text) for text in texts]
    if kind == "score" or not all(re.fullmatch(r"[+-]?\d+", text) for text in texts):
        return ExampleSet("regression", (), "spearman", ""), numbers
    for row, number in zip(rows, numbers):
        if not 0 <= number < MOST:
            told = (
                "-1 stands for no label, as in test splits"
                if number == -1
                else "classes are numbered from 0; call a column of scores `score`"
            )
            raise DataError(f"{_where(source, row[0])}: {column} {row[-1]} is no class; {told}")
    classes = tuple(map(str, range(int(max(numbers)) + 1)))
    return ExampleSet("classification", classes, "accuracy", ""), [int(number) for number in numbers]


def _number(text: str) -> float | None:
    """A finite number written in digits, else None."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return None
    return number if math.isfinite(number := float(text)) else None


def _place(source: "Source", row: tuple) -> tuple[int, int]:
    """Characters of the answer in the passage."""
    line, _, passage, answer = row
    if passage is None:
        raise DataError(
            f"table {source.name}: answers are of questions about a passage, and there is no such column; name it, as"
            " in #question,context,answer"
        )
    if (start := passage.find(answer)) < 0:
        raise DataError(f"{_where(source, line)}: the answer {answer!r} does not occur in its passage")
    return start, start + len(answer)


def read_hub_examples(source: "Source") -> Sequence[Example | None]:
    """The sliced examples of a hub set, None for one that cannot be used: a text is empty, or the answer is not where
    it is said to be. Uses the network.

    Raises DataError where the set cannot be fetched, has not the columns or the classes it should, or, once it is read,
    for an example without a label.
    """
    known = HUB_SETS[source.name]
    dataset, revision = known.dataset
    split = known.validation if source.split == "validation" else "train"
    way_out = "give a local table instead (examples:PATH.tsv), or a set of the lab such as examples:truth"
    rows = fetch(source.label, Hub(dataset, split, revision, config=known.config), gone=way_out, offline=way_out)
    label = "answers" if known.what.head == "span" else "label"
    if missing := [
        column for column in (known.first, known.second, label) if column and column not in rows.column_names
    ]:
        raise DataError(
            f"{source.label}: {dataset} has no column {missing[0]!r} at revision {revision}; it has"
            f" {', '.join(rows.column_names)}; {way_out}"
        )
    names = getattr(rows.features[label], "names", None)
    if names is not None and tuple(names) != known.what.classes:
        raise DataError(
            f"{source.label}: {dataset} has the classes {', '.join(names)} and not {', '.join(known.what.classes)};"
            f" {way_out}"
        )
    chosen = source.select(len(rows))
    return _Rows(rows, chosen, known, label, source.label)


class _Rows(Sequence):
    """Examples read when asked for: a draw needs a few out of hundreds of thousands."""

    def __init__(self, rows, chosen: range, known: HubSet, label: str, source: str):
        self.rows, self.chosen, self.known, self.label, self.source = rows, chosen, known, label, source

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> Example | None:
        row = self.rows[self.chosen[number]]
        first, second = row[self.known.first], row[self.known.second] if self.known.second else None
        if not first.strip() or (second is not None and not second.strip()):
            return None
        where, label = f"{self.source}, row {self.chosen[number]}", row[self.label]
        if self.known.what.head == "span":
            return _answered(first, second, label, where)
        if label is None or label < (0 if self.known.what.classes else 0.0):
            raise DataError(f"{where}: has no label ({label}); take a split that has them, train or validation")
        return Example(first, second, label)


def _answered(question: str, passage: str, answers: dict, where: str) -> Question | None:
    """A question of SQuAD; the first of its answers is the label."""
    if not answers["text"]:
        raise DataError(f"{where}: has no answer; take a split that has them, train or validation")
    start, stop = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
    if passage[start:stop] != answers["text"][0]:
        return None
    return Question(question, passage, (start, stop), tuple(dict.fromkeys(answers["text"][1:])))
