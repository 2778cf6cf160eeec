"""Documents out of tables of every form, and what is refused rather than read as prose."""

import csv
import gzip
import io
import json
import logging

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from analysis import memory
from analysis.errors import DataError
from analysis.text.readers import read
from analysis.text.sources import parse_source, source_fingerprint
from tests.helpers.alphabet import byte_tokenizer

TEXTS = [f'Story {number}: "Yes," she said; no more\nof it, {number * 7}.' for number in range(10)]
ROWS = [{"id": number, "text": text, "data": {"body": text, "parts": ["-", text]}} for number, text in enumerate(TEXTS)]


def documents(source, **options) -> list[str]:
    return list(read(parse_source(source), **options)[0])


def written(rows, delimiter=",") -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def lines(rows) -> str:
    return "\n".join(map(json.dumps, rows))


def stream(path, rows) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(path), table.schema) as out:
        out.write_table(table)


WRITERS = {
    "array.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "one-line.json": lambda path: path.write_text(json.dumps(ROWS)),
    "lines.json": lambda path: path.write_text(lines(ROWS)),
    "LINES.JSONL": lambda path: path.write_text(lines(ROWS) + "\n\n"),
    "lines.json.gz": lambda path: path.write_bytes(gzip.compress(lines(ROWS).encode())),
    "lines.csv": lambda path: path.write_text(written([{"id": row["id"], "text": row["text"]} for row in ROWS])),
    "semicolons.csv": lambda path: path.write_text(written([{"id": 1, "text": row["text"]} for row in ROWS], ";")),
    "rows.parquet": lambda path: pa.parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "rows.feather": lambda path: pa.feather.write_feather(pa.Table.from_pylist(ROWS), str(path)),
    "rows.arrow": lambda path: stream(path, ROWS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_table_gives_its_rows(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    assert documents(path) == TEXTS == documents(f"{path}#text")
    assert documents(f"{path}[30%:50%]") == TEXTS[3:5]
    if "csv" not in name:
        assert documents(f"{path}#data.body") == TEXTS == documents(f"{path}#data.parts.1")
    other = tmp_path / "table"  # an ending that says nothing: the column makes it a table, its first bytes tell which
    other.write_bytes(path.read_bytes())
    assert documents(f"{other}#text[:2]") == TEXTS[:2]
    assert source_fingerprint(f"{other}#text") == source_fingerprint(path) != source_fingerprint(f"{path}[:2]")


def test_tabs_part_without_quotes(tmp_path):
    path = tmp_path / "s.tsv"
    path.write_text('id\ttext\n1\t"a" cat, "old"\n2\tdogs\n')
    assert documents(path) == ['"a" cat, "old"', "dogs"]
    path.write_text('text\n"a" cat, "old"\ndogs\n')
    assert documents(path) == ['"a" cat, "old"', "dogs"]


def test_a_folder_of_save_to_disk_is_read_and_known_by_its_content(tmp_path):
    from datasets import Dataset, DatasetDict

    for name in ("one", "two"):
        Dataset.from_list(ROWS).save_to_disk(tmp_path / name, num_shards=2)
    Dataset.from_list(ROWS[1:]).save_to_disk(tmp_path / "other")
    assert documents(tmp_path / "one") == TEXTS and documents(f"{tmp_path}/one#data.body[:1]") == TEXTS[:1]
    prints = [source_fingerprint(tmp_path / name) for name in ("one", "two", "other")]
    assert prints[0] == prints[1] != prints[2]
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="is a folder of the splits train; name one, as in .*splits/train"):
        documents(tmp_path / "splits")
    with pytest.raises(DataError, match="is a folder, and no data set of `save_to_disk`; name a file in it"):
        documents(tmp_path)
    (tmp_path / "two" / "state.json").write_text('{"_data_files": [{"filename": "../../x.arrow"}]}')
    with pytest.raises(DataError, match="its x.arrow: no such file"):
        documents(tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", lines(ROWS), "holds JSON, whose marks .* name its column, as in .*a.txt#text, or give a separator"),
        ("a.md", json.dumps(ROWS, indent=2), "holds JSON"),
        ("a.txt", json.dumps({"a": 1}, indent=2), "holds JSON"),
        ("a.txt", "id,text\n1,one\n2,two\n", "holds a table"),
        ("a.txt", "label\tsentence\n1\tone\n0\ttwo\n", "holds a table"),
        ("a.json", json.dumps(ROWS, indent=1)[:200], "a.json: is not JSON"),
        ("a.json", "not JSON", "a.json, line 1: is not JSON"),
        ("a.json", "[]", "has no row"),
        ("a.jsonl", "[" * 200_000, "is not JSON .nested too deeply"),
        ("a.jsonl", '{"text": "a"}\n' + '{"text":' * 200_000, "line 2: is not JSON .nested too deeply"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "line 1: is not JSON .Exceeds the limit"),
        ("a.jsonl", '{"text": "a"}\n{"text": null}', "line 2: 'text' is empty .null., not text$"),
        ("a.jsonl", lines([{"data": {"x": 1, "text": "a"}}]), "no column 'text'; it has data; .* as in .*#data.text$"),
        ("a.jsonl", lines([{"b": "a", "c": ["d"]}]), r"it has b, c; .* as in .*#b .there is also c.0.$"),
        ("a.jsonl", lines([{"x": 1}]), "it has x$"),
        ("a.jsonl", lines([{"text": {"a": ["b"]}}]), "'text' is of type dict, not text; .* as in .*#text.a.0$"),
        ("a.csv", 'id,text\n1,"one"\n2,"two', "line 3: is no row of a table .unexpected end of data."),
        ("a.csv", "id,text\n1,one,more\n", "line 2: has 3 cells, the header names 2; part them by ','"),
        ("a.csv", "id,text\n", "has no row"),
        ("a.csv", "text,id,text\na,1,b\n", "has 2 columns called 'text'; give each a name of its own"),
        ("a.csv", "x" * 5000 + ",y\n1,2\n", r"no column 'text'; it has x{60}\.\.\., y; name .* as in .*#x{60}\.\.\."),
        ("a.parquet", "not a parquet file", "is no readable parquet file"),
        ("a.arrow", "ARROW1 and no more", "is no readable Arrow file"),
    ],
)
def test_what_is_no_text_is_refused_with_the_way_on(name, content, said, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        documents(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_separator_insists_and_prose_is_left_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(lines(ROWS))
    assert documents(path, separator="\n") == lines(ROWS).split("\n")
    for prose in ("[1] A note.\n\nmore", "{curly} words", "One, two, three.\nFour, five.\nSix, seven.", "id, text"):
        path.write_text(prose)
        assert "\n\n".join(documents(path)) == prose


def test_halves_of_characters_are_replaced_and_told(tmp_path, caplog):
    path = tmp_path / "s.jsonl"
    path.write_text('{"text": "fine \\ud83d\\ude00"}\n{"text": "cut \\ud83d"}\n{"text": "\\ude00"}')
    with caplog.at_level(logging.WARNING):
        assert documents(path) == ["fine \U0001f600", "cut \ufffd", "\ufffd"]
    assert "s.jsonl, line 2: holds half of a character" in caplog.text and "as do 2 documents in all" in caplog.text


def test_long_cells_are_read(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("text\n" + "a" * 200_000)
    before = csv.field_size_limit()
    assert len(documents(path)[0]) == 200_000 and csv.field_size_limit() == before


@pytest.mark.parametrize("who", ["role", "from"])
def test_conversations_go_through_the_chat_template(who, tmp_path):
    names, what = (("user", "assistant"), "content") if who == "role" else (("human", "gpt"), "value")
    turns = [[{who: name, what: f"{name} {number}"} for name in names] for number in range(3)]
    for column in ("messages", "conversations"):
        path = tmp_path / f"{column}.jsonl"
        path.write_text(lines([{column: conversation} for conversation in turns]))
        tokenizer = byte_tokenizer()
        with pytest.raises(DataError, match="line 1: .* the tokenizer has no chat template .* name one turn, as #"):
            documents(path, tokenizer=tokenizer)
        tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        expected = [f"<user>{names[0]} {number}<assistant>{names[1]} {number}" for number in range(3)]
        assert documents(path, tokenizer=tokenizer) == documents(f"{path}#{column}", tokenizer=tokenizer) == expected
        assert read(parse_source(path), tokenizer=tokenizer)[1] == "rows, in the tokenizer's chat template"
        assert documents(f"{path}#{column}.1.{what}") == [f"{names[1]} {number}" for number in range(3)]
        tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(DataError, match="line 1: the tokenizer's chat template does not take .*must alternate"):
            documents(path, tokenizer=tokenizer)


def test_a_parquet_file_is_weighed_before_it_is_unfolded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int8()), ["a" * 1000])
    pa.parquet.write_table(pa.table({"text": column}), path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(memory, "available", lambda: 10**6)  # 3.2 million for the references alone
    with pytest.raises(DataError, match="which do not fit into"):
        documents(path)
    monkeypatch.setattr(memory, "available", lambda: 10**7)  # 100 million for the texts
    with pytest.raises(DataError, match="which do not fit into"):
        documents(path)
