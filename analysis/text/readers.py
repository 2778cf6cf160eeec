"""Documents as strings, out of files, hub datasets and the lab. Imports no torch."""

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import memory
from analysis.errors import DataError, UsageError
from analysis.lab.documents import documents
from analysis.text import files
from analysis.text.hub import Hub, fetch
from analysis.text.rows import chat, disguised, field, read_rows, root_of, sound, text_fields
from analysis.text.sources import Source, check_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
TALKS = "rows, in the tokenizer's chat template"
CONVERSATIONS = ("messages", "conversations", "conversation")  # columns that are read where there is none called text
MOST_NAMES = 12  # of columns, in a message
END_OF_TEXT = "<|endoftext|>"
WHOLE = "none"  # the separator that says: nothing stands between documents, all is one text
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def read(
    source: Source, *, seed: int = 0, separator: str | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> tuple[Sequence[str] | Iterator[str], str]:
    """The documents of a lab, file or hub source, and what separates them, in words. `seed` is the lab's, `separator`
    for plain text, `tokenizer` for conversations, which its chat template writes.
    """
    if source.kind == "lab":
        return read_lab(source, seed=seed), "lab documents"
    if source.hub is not None:
        return read_hub(source, source.hub, tokenizer)
    return read_file(source, separator=separator, tokenizer=tokenizer)


def read_lab(source: Source, *, seed: int) -> Iterator[str]:
    """The documents of a register and split (by default "train"), endless unless the slice has an end."""
    start, stop = source.numbers
    stream = documents(source.name, split=source.split or "train", seed=seed, start=start)
    return (document.text for document in islice(stream, None if stop is None else stop - start))


def read_file(
    source: Source, *, separator: str | None, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> tuple[list[str], str]:
    """The sliced documents of a file, without empty ones, and what separates them, in words.

    `separator` is for plain text; rows of tables are documents as they are, and conversations as the chat template of
    `tokenizer` writes them. Raises DataError for a file that is missing, a folder, empty, not UTF-8 text, broken, a
    table that is called a text, or without the column, the separator or the template.
    """
    path, place = check_file(source), f"text file {source.name}"
    if source.column is not None:
        documents, separated = _documents(path, source, source.column, tokenizer)
    else:
        documents, separated = _split(_prose(path, source, separator), source, separator)
    if separator != WHOLE:
        documents = [document for document in documents if document.strip()]
    if not any(document.strip() for document in documents):
        raise DataError(f"{place}: holds no text; every document in it is empty")
    chosen = source.select(len(documents))
    return documents[chosen.start : chosen.stop], separated


def _prose(path: Path, source: Source, separator: str | None) -> str:
    """The text of a file that is no table."""
    place = f"text file {source.name}"
    data = files.contents(path, place)
    if form := next((form for start, form in files.TABLES.items() if data.startswith(start)), None):
        raise DataError(f"{place}: is a table ({form}); name its column, as in {source.name}#text")
    text = files.decode(data, place)
    if separator is None and (form := disguised(text)):
        raise DataError(
            f"{place}: holds {form}, whose marks and names would be read as text; name its column, as in"
            f" {source.name}#text, or give a separator (such as \\n) to read all of it as it is"
        )
    return text


def _split(text: str, source: Source, separator: str | None) -> tuple[list[str], str]:
    if separator == "":
        raise UsageError("separator: an empty text separates nothing; leave it out for the default")
    if separator == WHOLE:
        return [text], "none: the file is one text"
    if separator is not None and separator not in text:
        raise DataError(f"text file {source.name}: the separator {separator!r} does not occur in it")
    separator = END_OF_TEXT if separator is None and END_OF_TEXT in text else separator
    pieces = BLANK_LINES.split(text) if separator is None else text.split(separator)
    return [piece.strip() for piece in pieces], "blank lines" if separator is None else repr(separator)


def _documents(
    path: Path, source: Source, column: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> tuple[list[str], str]:
    """The texts in a column of a table; where there is no column `text` but one of conversations, these."""
    place = f"text file {source.name}"
    room, size = memory.available(), 0
    rows = read_rows(path, source.name, place, column)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{place}: has no row")
    if column == "text" and isinstance(first[1], dict) and column not in first[1]:
        column = next((name for name in CONVERSATIONS if chat(first[1].get(name))), column)
    documents, halves = [], []
    talks = False
    for where, row in chain([first], rows):
        text, talk = _text(row, column, where, source.name, tokenizer)
        size += len(text)
        files.check_room(size, place, room)
        documents.append(sound(text))
        talks |= talk
        if documents[-1] != text:
            halves.append(where)
    if halves:
        log.warning(
            "%s: holds half of a character (a lone surrogate), as do %d documents in all; each half is read as U+FFFD",
            halves[0],
            len(halves),
        )
    return documents, TALKS if talks else "rows"


def _text(
    row: object, column: str, where: str, name: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> tuple[str, bool]:
    """The text in a field of a row, and whether it was a conversation."""
    value = row if isinstance(row, str) and column == "text" else _value(row, column, where, name)
    if turns := chat(value):
        return _written(turns, tokenizer, where, column), True
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} is {_kind(value)}, not text{_hint(value, column, name)}")
    return value, False


def _value(row: object, column: str, where: str, name: str) -> object:
    if not isinstance(row, dict):
        raise DataError(f"{where}: is {_kind(row)}, not an object with the field {column!r}")
    try:
        return field(row, column)
    except KeyError as error:
        has = ", ".join(_short(key) for key in list(row)[:MOST_NAMES]) or "none"
        raise DataError(f"{where}: has no column {_short(column)!r}; it has {has}{_hint(row, '', name)}") from error


def _hint(value: object, column: str, name: str) -> str:
    """The way on where a value is no text: a field in it that is."""
    inside = [f"{column}.{path}".removeprefix(".") for path in text_fields(value)]
    if isinstance(value, dict) and not column:  # a row
        inside = [talk for talk in CONVERSATIONS if chat(value.get(talk))] + inside
    more = f" (there is also {', '.join(map(_short, inside[1:MOST_NAMES]))})" if len(inside) > 1 else ""
    return f"; name one that is text, as in {name}#{_short(inside[0])}{more}" if inside else ""


def _short(name: object) -> str:
    return text if len(text := str(name)) <= 60 else f"{text[:60]}..."


def _kind(value: object) -> str:
    return "empty (null)" if value is None else f"of type {type(value).__name__}"


def _written(turns: list[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase | None", where: str, column: str) -> str:
    """A conversation as the tokenizer's chat template writes it."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{where}: {column!r} is a conversation, and the tokenizer has no chat template to write it with; give a"
            f" model that has one, or name one turn, as #{column}.0.content"
        )
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False))  # type: ignore[union-attr]
    except Exception as error:  # a template raises what it likes
        raise DataError(
            f"{where}: the tokenizer's chat template does not take the conversation in {column!r} ({_short(error)})"
        ) from error


def read_hub(source: Source, hub: Hub, tokenizer: "PreTrainedTokenizerBase | None" = None) -> tuple[Sequence[str], str]:
    """The sliced rows of a hub dataset, and what separates them, in words; conversations as the chat template of
    `tokenizer` writes them. Uses the network.

    Raises DataError where the dataset cannot be fetched or lacks the column.
    """
    rows = fetch(source.label, hub)
    column = hub.column
    if column == "text" and column not in rows.column_names:
        column = next((name for name in CONVERSATIONS if name in rows.column_names), column)
    if (root := root_of(column, rows.column_names)) is None:
        names = ", ".join(rows.column_names)
        raise DataError(f"{source.label}: has no column {column!r}; it has {names}; name one as hub:ORG/NAME#COLUMN")
    chosen = source.select(min(len(rows), hub.rows or len(rows)))
    rows = rows.select(chosen)
    if root == column and isinstance(rows[0][column], str):
        return rows[column], "rows" if hub.joiner is None else f"rows joined by {hub.joiner!r}"
    name, places = f"hub:{hub.dataset}", (f"{source.label}, row {number}" for number in chosen)
    texts = [_text(row, column, where, name, tokenizer) for where, row in zip(places, rows.select_columns([root]))]
    return [text for text, _ in texts], TALKS if any(talk for _, talk in texts) else "rows"
