"""Rows out of tables: JSON (an array, or lines), CSV and TSV, parquet, Arrow, and folders of `save_to_disk`. Imports no
torch.

A row is a dict; `field(row, "data.text")` and `field(row, "messages.0.content")` reach into it.
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis import storage
from analysis.errors import DataError
from analysis.text import files

_ENDING = re.compile(
    r"\.(?:(?P<json>jsonl?|ndjson)|(?P<delimited>csv|tsv)|(?P<parquet>parquet)|(?P<arrow>arrow|feather))"
    r"(?:\.(?:gz|gzip|zst|zstd|bz2))?",
    re.IGNORECASE,
)
_BATCH = 256  # rows of a parquet file unfolded at once
_CHAT = (("role", "content"), ("from", "value"))  # keys of a turn, as OpenAI and as ShareGPT name them
_ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names of who speaks
_USUAL = {"text", "content", "body", "document", "sentence", "id", "title", "label", "url", "review", "comment"}

Row = tuple[str, Any]  # where it stands, for messages; and what it holds


def form_of(name: str) -> str | None:
    """ "json", "delimited", "parquet" or "arrow": the kind of table that a file's ending promises, in any case and
    packed or not; None for any other ending.
    """
    match = re.search(rf"(?:{_ENDING.pattern})\Z", name, re.IGNORECASE)
    return match.lastgroup if match else None


def read_rows(path: Path, name: str, place: str, column: str) -> Iterator[Row]:
    """The rows of a table, of which at least `column` is read: a file, its form told by its first bytes or by the
    ending of its `name`, or a folder of `save_to_disk`.

    Raises DataError, which begins with `place`, for a table that is empty, broken, of another encoding, or larger than
    memory.
    """
    if path.is_dir():
        for file in data_files(path, place):
            yield from _arrow(file, None, place, column)
        return
    head = files.first_bytes(path, place)
    data = files.contents(path, place) if head.startswith(tuple(files.PACKED)) else None
    magic = next((form for start, form in files.TABLES.items() if (data or head).startswith(start)), None)
    form = magic or form_of(name)
    if form == "parquet":
        yield from _parquet(path, data, place, column)
    elif form == "arrow":
        yield from _arrow(path, data, place, column)
    else:
        text = files.decode(data or files.contents(path, place), place)
        if form == "json" or (form is None and text.lstrip()[:1] in ("{", "[")):
            yield from _json(text, place)
        else:
            header, lines = delimited(text, place, tabs=".tsv" in name.lower())
            check_once(header, column, place)
            for number, cells in lines:
                yield f"{place}, line {number}", dict(zip(header, cells))


# JSON -----------------------------------------------------------------------------------------------------------------


def parse_json(text: str, where: str) -> Any:
    """A JSON value. Raises DataError, which begins with `where`, for what is none, or is nested too deep to be read."""
    try:
        return storage.parse_json(text)
    except ValueError as error:  # also a number of more than 4300 digits
        raise DataError(f"{where}: is not JSON ({error})") from error


def _json(text: str, place: str) -> Iterator[Row]:
    """The values of lines; of an array that is all there is, its items; a single object, written over many lines."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    first = f"{place}, line {lines[0][0]}"
    if len(lines) > 1 and not _is_json(lines[0][1]):
        whole = parse_json(text, place) if lines[0][1].lstrip()[:1] == "[" or lines[0][1].strip() == "{" else None
        if whole is None:
            parse_json(lines[0][1], first)  # raises
    elif len(lines) == 1:
        whole = parse_json(lines[0][1], first)
    else:
        yield from ((f"{place}, line {number}", parse_json(line, f"{place}, line {number}")) for number, line in lines)
        return
    if not isinstance(whole, list):
        yield first, whole
    else:
        yield from ((f"{place}, row {number}", row) for number, row in enumerate(whole))


def _is_json(text: str) -> bool:
    try:
        parse_json(text, "")
    except DataError:
        return False
    return True


def _holds_rows(text: str) -> bool:
    """Whether a text is a JSON object, or an array of them."""
    value = parse_json(text, "") if _is_json(text) else None
    return isinstance(value[0] if isinstance(value, list) and value else value, dict)


# Cells between commas or tabs -----------------------------------------------------------------------------------------


def delimited(text: str, place: str, *, tabs: bool = False) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a table, and (line, cells) of each row that is not blank.

    Cells are parted by tabs where the first line has one, and then nothing is quoted (the form of GLUE's files); else
    by the comma or the semicolon, whichever that line has more of, quoted as RFC 4180 has it. `tabs`: what a single
    column is in. Raises DataError, which begins with `place`, for a row of another length than the header, or a quote
    without its end.
    """
    line = text.partition("\n")[0]
    mark = "\t" if "\t" in line or (tabs and not re.search("[,;]", line)) else max(",;", key=line.count)
    rows = _cells(text, place, mark)
    header = [cell.strip() for cell in rows[0][1]]
    remedy = (
        "part them by tabs, and write no tab in a text"
        if mark == "\t"
        else f"part them by {mark!r}, and quote a text that holds one"
    )
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(f"{place}, line {number}: has {len(cells)} cells, the header names {len(header)}; {remedy}")
    return header, rows[1:]


def check_once(header: Sequence[str], column: str, place: str) -> None:
    """Raise DataError where a column that is asked for stands twice in a header."""
    if header.count(column) > 1:
        raise DataError(f"{place}: has {header.count(column)} columns called {column!r}; give each a name of its own")


def _cells(text: str, place: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """(line it begins on, cells) of each row with anything in it."""
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    limit = csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))  # documents are longer than 131,072
    rows, line = [], 1
    try:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, quoting=quoting, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{place}, line {line}: is no row of a table ({error})") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def disguised(text: str) -> str | None:
    """ "JSON" or "a table" where a text file holds one of these rather than prose, else None."""
    start = text.lstrip()
    if start[:1] in ("{", "["):
        line = start.partition("\n")[0]
        return "JSON" if _holds_rows(line) or (re.match(r"\[\s*\{|\{\s*\"", start) and _holds_rows(text)) else None
    lines = [line for line in text[:100_000].split("\n")[:21] if line.strip()]
    names = {name.strip().casefold() for name in re.split("[,;\t]", lines[0])}
    if len(lines) < 3 or len(names) < 2 or not names & _USUAL or max(map(len, names)) > 40:
        return None
    try:
        delimited("\n".join(lines[:20]), "")
    except DataError:
        return None
    return "a table"


# Parquet and Arrow ----------------------------------------------------------------------------------------------------


def data_files(folder: Path, place: str) -> list[Path]:
    """The Arrow files of a data set that `save_to_disk` has written, in order. Raises DataError for another folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise DataError(f"{place}: is a folder of the splits {', '.join(splits)}; name one, as in {folder / splits[0]}")
    if not (folder / "state.json").is_file():
        raise DataError(f"{place}: is a folder, and no data set of `save_to_disk`; name a file in it")
    state = parse_json((folder / "state.json").read_text("utf-8", "replace"), f"{place}: its state.json")
    try:
        names = [os.path.basename(entry["filename"]) for entry in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise DataError(f"{place}: its state.json names no data files; save it again") from error
    return [files.find(str(folder / name), f"{place}: its {name}") for name in names]


def content_digest(path: Path, place: str) -> str:
    """SHA-256 of a file's content, or of the digests of the data files in a folder."""
    if path.is_dir():
        return storage.sha256("".join(map(storage.file_sha256, data_files(path, place))).encode())
    return storage.file_sha256(path)


def _opened(path: Path, data: bytes | None) -> Any:
    import pyarrow

    return pyarrow.memory_map(str(path)) if data is None else pyarrow.BufferReader(data)


def _parquet(path: Path, data: bytes | None, place: str, column: str) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with _opened(path, data) as opened, ParquetFile(opened) as file:
            root = root_of(column, file.schema_arrow.names)
            columns = None if root is None else [root]
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            leaves = [group.column(number) for group in groups for number in range(group.num_columns)]
            size = sum(leaf.total_uncompressed_size for leaf in leaves if columns is None or _under(leaf, columns[0]))
            files.check_room(max(size, 32 * file.metadata.num_rows), place)
            yield from _batches(file.iter_batches(_BATCH, columns=columns), place)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{place}: is no readable parquet file ({_first_line(error)})") from error


def _under(leaf: Any, root: str) -> bool:
    return leaf.path_in_schema == root or leaf.path_in_schema.startswith(f"{root}.")


def _arrow(path: Path, data: bytes | None, place: str, column: str) -> Iterator[Row]:
    from pyarrow import ArrowException, ipc

    try:
        with _opened(path, data) as opened:
            if opened.read(6) == b"ARROW1":
                reader = ipc.open_file(opened)
                batches: Iterable[Any] = (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                opened.seek(0)
                batches = reader = ipc.open_stream(opened)
            root = root_of(column, reader.schema.names)
            yield from _batches((batch if root is None else batch.select([root]) for batch in batches), place)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{place}: is no readable Arrow file ({_first_line(error)})") from error


def _batches(batches: Iterable[Any], place: str) -> Iterator[Row]:
    rows = (row for batch in batches for row in batch.to_pylist())
    yield from ((f"{place}, row {number}", row) for number, row in enumerate(rows))


def root_of(column: str, names: Sequence[str]) -> str | None:
    """The column of a table that a field lies in."""
    return next((name for name in (column, column.partition(".")[0]) if name in names), None)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


# Fields ---------------------------------------------------------------------------------------------------------------


def field(row: Any, column: str) -> Any:
    """What a row holds under a name, or under names and numbers parted by dots. Raises KeyError where it has none."""
    if isinstance(row, dict) and column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    if isinstance(row, dict) and dot and head in row:
        return field(row[head], rest)
    if isinstance(row, list) and re.fullmatch(r"\d{1,9}", head) and int(head) < len(row):
        return field(row[int(head)], rest) if dot else row[int(head)]
    raise KeyError(column)


def text_fields(value: Any, prefix: str = "") -> list[str]:
    """Names of the fields in a row that hold text, of lists the first item's."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    found = []
    for name, item in items:
        path = f"{prefix}{name}"
        found += [path] if isinstance(item, str) else text_fields(item, f"{path}.")
    return found


def chat(value: Any) -> list[dict[str, Any]] | None:
    """The turns of a conversation, as chat templates want them; None where a value is none."""
    for who, what in _CHAT:
        if (
            isinstance(value, list)
            and value
            and all(isinstance(turn, dict) and isinstance(turn.get(who), str) and what in turn for turn in value)
        ):
            return [
                {key: item for key, item in turn.items() if key not in (who, what)}
                | {"role": _ROLES.get(turn[who], turn[who]), "content": turn[what]}
                for turn in value
            ]
    return None


def sound(text: str) -> str:
    """A text with each half of a character that was cut in two (a lone surrogate, as JSON can hold) replaced by U+FFFD,
    since nothing can tokenise or write it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text
