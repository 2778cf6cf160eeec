"""Documents as strings, out of files, hub datasets and the lab. Imports no torch."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from analysis.errors import DataError, UsageError
from analysis.lab.documents import documents
from analysis.text.hub import Hub, fetch
from analysis.text.sources import Source, check_file

END_OF_TEXT = "<|endoftext|>"
WHOLE = "none"  # the separator that says: nothing stands between documents, all is one text
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def read(source: Source, *, seed: int = 0, separator: str | None = None) -> tuple[Sequence[str] | Iterator[str], str]:
    """The documents of a lab, file or hub source, and what separates them, in words. `seed` is the lab's, `separator`
    for plain text.
    """
    if source.kind == "lab":
        return read_lab(source, seed=seed), "lab documents"
    return read_hub(source, source.hub) if source.hub is not None else read_file(source, separator=separator)


def read_lab(source: Source, *, seed: int) -> Iterator[str]:
    """The documents of a register and split (by default "train"), endless unless the slice has an end."""
    stream = documents(source.name, split=source.split or "train", seed=seed)
    return (document.text for document in source.cut(stream))


def read_file(source: Source, *, separator: str | None) -> tuple[list[str], str]:
    """The sliced documents of a file, without empty ones, and what separates them, in words.

    `separator` is for plain text; rows of .jsonl and .parquet are documents as they are. Raises DataError for a file
    that is missing, a folder, empty, not UTF-8 text, broken, or without the column or the separator.
    """
    path = check_file(source)
    if source.column and path.suffix == ".parquet":
        documents, separated = _parquet(path, source, source.column), "rows"
    elif source.column:
        documents, separated = _jsonl(file_text(path, source), source, source.column), "rows"
    else:
        documents, separated = _split(file_text(path, source), source, separator)
    if separator != WHOLE:
        documents = [document for document in documents if document.strip()]
    if not any(document.strip() for document in documents):
        raise DataError(f"text file {source.name}: holds no text; every document in it is empty")
    chosen = source.select(len(documents))
    return documents[chosen.start : chosen.stop], separated


def file_text(path: Path, source: Source) -> str:
    """The text of a file, lines ended by newlines. Raises DataError for a file that is empty, binary, or not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"text file {source.name}: cannot be read: {error.strerror}") from error
    if not data.strip():
        raise DataError(f"text file {source.name}: is empty")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"text file {source.name}: is no UTF-8 text (byte 0x{data[error.start]:02x} at position {error.start});"
            " give a text file, saved as UTF-8"
        ) from error
    if (nul := data.find(b"\0")) >= 0:
        raise DataError(
            f"text file {source.name}: is binary (NUL byte at position {nul}); give a text file, saved as UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


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


def _jsonl(text: str, source: Source, column: str) -> list[str]:
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"text file {source.name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place}: is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{place}: is {_kind(row)}, not an object with the field {column!r}")
        if column not in row:
            raise DataError(_no_column(place, column, row))
        documents.append(_string(row[column], place, column))
    return documents


def _parquet(path: Path, source: Source, column: str) -> list[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise DataError(_no_column(f"text file {source.name}", column, names))
            values = file.read(columns=[column]).column(column).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"text file {source.name}: is no readable parquet file ({error})") from error
    return [_string(value, f"text file {source.name}, row {number}", column) for number, value in enumerate(values)]


def _no_column(place: str, column: str, names: Iterable[object]) -> str:
    return f"{place}: has no column {column!r}; it has {', '.join(map(str, names)) or 'none'}; name one as FILE#COLUMN"


def _string(value: object, place: str, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: {column!r} is {_kind(value)}, not text")
    return value


def _kind(value: object) -> str:
    return "empty (null)" if value is None else f"of type {type(value).__name__}"


def read_hub(source: Source, hub: Hub) -> tuple[Sequence[str], str]:
    """The sliced rows of a hub dataset, and what separates them, in words. Uses the network.

    Raises DataError where the dataset cannot be fetched or lacks the column.
    """
    rows = fetch(
        source.label,
        hub,
        gone=f"give one it has, as hub:{hub.dataset}@REVISION, or a local file (PATH.txt, .jsonl or .parquet)",
        offline="give a local file instead (PATH.txt, .jsonl or .parquet), or text of the lab such as lab:stories",
    )
    if hub.column not in rows.column_names:
        raise DataError(_no_column(source.label, hub.column, rows.column_names).replace("FILE#", "hub:ORG/NAME#"))
    chosen = source.select(min(len(rows), hub.rows or len(rows)))
    return rows.select(chosen)[hub.column], "rows" if hub.joiner is None else f"rows joined by {hub.joiner!r}"
