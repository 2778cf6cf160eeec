"""Labelled examples out of a table: UTF-8 text, a header, cells between tabs without quoting (the form of GLUE's
files), or between commas; or one JSON object a line. Imports no torch.

sentence	label          question	context	answer          sentence1	sentence2	score
"""

import math
import re
from collections.abc import Sequence

from analysis.errors import DataError
from analysis.lab.examples import Example, ExampleSet
from analysis.text import files
from analysis.text.example_sets import HUB_SETS, HubSet, Question
from analysis.text.hub import Hub, fetch
from analysis.text.lazy import Lazy
from analysis.text.rows import check_once, delimited, form_of, read_rows, sound
from analysis.text.sources import Source, check_file

FIRST_COLUMNS = ("sentence", "text", "sentence1", "premise", "question1", "question")
SECOND_COLUMNS = ("sentence2", "hypothesis", "question2", "context", "passage")
LABEL_COLUMNS = ("label", "gold_label", "is_duplicate", "score", "answer")
"""Columns that are understood by their names, in any case; where there is a `question` and a `sentence`, the sentence
is the second text."""
MOST = 1000
"""Classes are numbered from 0 to below this; larger numbers are scores or identifiers in a column that was taken for
labels."""
UNLABELLED = ("-", "nan", "NaN", "None", "null", "NULL", "NA", "N/A", "<NA>", "hidden")
"""What programs and test splits write where there is no label, letter by letter: `NONE` can be a class."""


def read_table(source: Source) -> tuple[ExampleSet, list[Example]]:
    """What a table asks, and its sliced examples in order.

    Labels that are all whole numbers are classes, all other numbers (or a column called `score`) scores, a column
    called `answer` the words of an answer in the second text (where they first occur), anything else the names of
    classes, numbered in their order by letter. What it asks is read off the whole table, so that all slices of it
    agree. Raises DataError, with the line, for a table that is missing, empty or binary, without the columns, or with a
    row of another length, an empty text, a missing label or a word that stands for one (`UNLABELLED`), a score that is
    no number, numbers and names as labels, or an answer that is not in its passage.
    """
    name = f"table {source.name}"
    header, lines = _objects(source, name) if form_of(source.name) == "json" else _lines(source, name)
    places = _named(source, source.column.split(","), header) if source.column else _known(source, header)
    for place in places:
        check_once(header, header[place], name)
    rows = []  # (line, first, second or None, label)
    for number, cells in lines:
        where = _where(source, number)
        texts = [cells[place].strip() for place in places]
        for place, text in zip(places, texts):
            if not text:
                raise DataError(f"{where}: {header[place]!r} is empty; leave the row out")
        rows.append((number, texts[0], texts[1] if len(texts) == 3 else None, texts[-1]))
    if not rows:
        raise DataError(f"table {source.name}: holds no example, only a header; the first line names the columns")
    task, labels = _labels(source, header[places[-1]], rows)
    chosen = source.select(len(rows))
    return task, [
        Example(first, second, label)
        for (_, first, second, _), label in zip(rows[chosen.start : chosen.stop], labels[chosen.start : chosen.stop])
    ]


def _lines(source: Source, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and rows of a table of cells."""
    return delimited(files.decode(files.contents(check_file(source), name), name), name)


def _objects(source: Source, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The same of JSON objects, one a line: the keys of the first are the columns, what a row lacks is empty."""
    rows = []
    for number, (where, row) in enumerate(read_rows(check_file(source), source.name, name, ""), start=1):
        if not isinstance(row, dict):
            raise DataError(f'{where}: is no JSON object, such as {{"sentence1": ..., "sentence2": ..., "score": 1}}')
        rows.append((number, row))
    header = list(rows[0][1]) if rows else []
    return header, [
        (number, ["" if row.get(key) is None else sound(str(row[key])) for key in header]) for number, row in rows
    ]


def _where(source: Source, line: int) -> str:
    return f"table {source.name}, line {line}"


def _named(source: Source, columns: list[str], header: list[str]) -> list[int]:
    """Places of the columns that the source names."""
    if missing := [column for column in columns if column not in header]:
        raise DataError(f"table {source.name}: has no column {missing[0]!r}; it has {', '.join(header)}")
    return [header.index(column) for column in columns]


def _known(source: Source, header: list[str]) -> list[int]:
    """Places of the first text, the second where there is one, and the label, by the names in the header."""
    names = [name.casefold() for name in header]
    first, second, label = (
        [name for name in columns if name in names] for columns in (FIRST_COLUMNS, SECOND_COLUMNS, LABEL_COLUMNS)
    )
    if "question" in first and "sentence" in first:
        first.remove("sentence")
        second.append("sentence")
    hint = f"name them, as in examples:{source.name}#FIRST,SECOND,LABEL or #FIRST,LABEL"
    for columns, role, least in ((first, "first text", 1), (second, "second text", 0), (label, "label", 1)):
        if len(columns) > 1:
            raise DataError(f"table {source.name}: {' and '.join(map(repr, columns))} may each be the {role}; {hint}")
        if len(columns) < least:
            raise DataError(
                f"table {source.name}: no column of its first line ({', '.join(header)}) is known as the {role}; {hint}"
            )
    return [names.index(name) for name in (*first, *second, *label)]


def _labels(source: Source, column: str, rows: list[tuple]) -> tuple[ExampleSet, list]:
    """What the labels ask, and the labels."""
    kind, texts = column.casefold(), [row[-1] for row in rows]
    if kind == "answer":
        return ExampleSet("span", (), "f1", ""), [_place(source, row) for row in rows]
    if unlabelled := [(line, label) for line, *_, label in rows if label in UNLABELLED]:
        line, label = unlabelled[0]
        raise DataError(
            f"{_where(source, line)}: {column} {label!r} stands for no label, as in {len(unlabelled)} of {len(rows)}"
            " rows; leave them out, or, if it is a class, give it another name"
        )
    numbers = [number for text in texts if (number := _number(text)) is not None]
    if len(numbers) < len(rows) and (kind == "score" or numbers):
        line, label = next((row[0], row[-1]) for row in rows if _number(row[-1]) is None)
        remedy = "" if kind == "score" else ", and other labels are; write numbers only, or names only"
        raise DataError(f"{_where(source, line)}: {column} {label!r} is no number{remedy}")
    if not numbers:
        classes = tuple(sorted(set(texts)))
        return ExampleSet("classification", classes, "accuracy", ""), [classes.index(text) for text in texts]
    if kind == "score" or not all(re.fullmatch(r"[+-]?\d+", text) for text in texts):
        return ExampleSet("regression", (), "spearman", "", (min(numbers), max(numbers))), numbers
    for row, number in zip(rows, numbers):
        if not 0 <= number < MOST:
            remedy = (
                "-1 stands for no label, as in test splits"
                if number == -1
                else "classes are numbered from 0; call a column of scores `score`"
            )
            raise DataError(f"{_where(source, row[0])}: {column} {row[-1]} is no class; {remedy}")
    classes = tuple(map(str, range(int(max(numbers)) + 1)))
    return ExampleSet("classification", classes, "accuracy", ""), [int(number) for number in numbers]


def _number(text: str) -> float | None:
    """A finite number written in digits, else None."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return None
    return number if math.isfinite(number := float(text)) else None


def _place(source: Source, row: tuple) -> tuple[int, int]:
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


def read_hub_examples(source: Source) -> Sequence[Example | None]:
    """The sliced examples of a hub set, read when asked for; None for one that cannot be used: a text is empty, or the
    answer is not where it is said to be. Uses the network.

    Raises DataError where the set cannot be fetched, has not the columns or the classes it should, or, once it is read,
    for an example without a label.
    """
    hub_set = HUB_SETS[source.name]
    dataset, revision = hub_set.dataset
    split = hub_set.validation if source.split == "validation" else "train"
    way_out = "give a local table instead (examples:PATH.tsv), or a set of the lab such as examples:truth"
    rows = fetch(source.label, Hub(dataset, split, revision, config=hub_set.config), gone=way_out, offline=way_out)
    label = "answers" if hub_set.task.head == "span" else "label"
    if missing := [
        column for column in (hub_set.first, hub_set.second, label) if column and column not in rows.column_names
    ]:
        raise DataError(
            f"{source.label}: {dataset} has no column {missing[0]!r} at revision {revision}; it has"
            f" {', '.join(rows.column_names)}; {way_out}"
        )
    names, classes = getattr(rows.features[label], "names", None), hub_set.task.classes
    if names is not None and tuple(names) != classes:
        raise DataError(
            f"{source.label}: {dataset} has the classes {', '.join(names)} and not {', '.join(classes)}; {way_out}"
        )
    chosen = source.select(len(rows))

    def example(number: int) -> Example | None:
        row = chosen[number]
        return _hub_example(hub_set, rows[row], label, f"{source.label}, row {row}")

    return Lazy(len(chosen), example)


def _hub_example(hub_set: HubSet, row: dict, label: str, where: str) -> Example | None:
    """The example in a row of a hub set; None where a text is empty, or the answer is not where it is said to be."""
    first, second = row[hub_set.first], row[hub_set.second] if hub_set.second else None
    if not first.strip() or (second is not None and not second.strip()):
        return None
    if hub_set.task.head == "span":
        return _question(first, second or "", row[label], where)
    if row[label] is None or row[label] < 0:
        raise DataError(f"{where}: has no label ({row[label]}); take a split that has them, train or validation")
    return Example(first, second, row[label])


def _question(question: str, passage: str, answers: dict, where: str) -> Question | None:
    """A question of SQuAD; the first of its answers is the label."""
    if not answers["text"]:
        raise DataError(f"{where}: has no answer; take a split that has them, train or validation")
    start, stop = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
    if passage[start:stop] != answers["text"][0]:
        return None
    return Question(question, passage, (start, stop), tuple(dict.fromkeys(answers["text"][1:])))
