"""The grammar of a SOURCE: what is understood, what is refused with which words, and what its fingerprint depends on."""

import subprocess
import sys
from fractions import Fraction

import pytest

from analysis import paths
from analysis.errors import DataError, UsageError
from analysis.lab.documents import REGISTERS
from analysis.text.sources import ALIASES, SOURCES, parse_source, source_fingerprint


@pytest.mark.parametrize(
    ("text", "kind", "name", "start", "stop", "label"),
    [
        ("lab:stories", "lab", "stories", None, None, "lab:stories"),
        ("lab:stories/held-out[100:]", "lab", "stories", 100, None, "lab:stories/held-out[100:]"),
        ("stories.txt", "file", "stories.txt", None, None, "stories.txt"),
        ("some/where/stories.txt[:80%]", "file", "some/where/stories.txt", None, Fraction(4, 5), "stories.txt[:80%]"),
        ("stories.txt[80%:]", "file", "stories.txt", Fraction(4, 5), None, "stories.txt[80%:]"),
        ("s.txt[100:200]", "file", "s.txt", 100, 200, "s.txt[100:200]"),
        ("s.txt[10%:50%]", "file", "s.txt", Fraction(1, 10), Fraction(1, 2), "s.txt[10%:50%]"),
        ("s.txt[12.5%:50]", "file", "s.txt", Fraction(1, 8), 50, "s.txt[12.5%:50]"),
        ("s.txt[:]", "file", "s.txt", None, None, "s.txt"),
        ("a/b.jsonl", "file", "a/b.jsonl", None, None, "b.jsonl"),
        ("a/b.parquet#body[:5]", "file", "a/b.parquet", None, 5, "b.parquet#body[:5]"),
        ("odd#name.txt", "file", "odd#name.txt", None, None, "odd#name.txt"),
        ("hub:wikitext2", "hub", "Salesforce/wikitext", None, None, "hub:wikitext2"),
        ("hub:c4:validation[:50%]", "hub", "allenai/c4", None, Fraction(1, 2), "hub:c4:validation[:50%]"),
        ("hub:org/name/config:test@abc#body", "hub", "org/name", None, None, "hub:org/name/config:test@abc#body"),
    ],
)
def test_sources_are_understood(text, kind, name, start, stop, label):
    source = parse_source(text)
    assert (source.kind, source.name, source.start, source.stop, source.label) == (kind, name, start, stop, label)


def test_columns_splits_and_revisions_are_understood():
    assert parse_source("a.jsonl").column == parse_source("a.parquet").column == "text" and parse_source("a.txt").column is None
    assert parse_source("a.jsonl#body").column == "body"
    assert parse_source("lab:stories").split is None and parse_source("lab:stories/held-out").split == "held-out"
    hub = parse_source("hub:org/name/config:test@refs/pr/1#body").hub
    assert (hub.dataset, hub.config, hub.split, hub.revision, hub.column) == ("org/name", "config", "test", "refs/pr/1", "body")
    assert (lambda h: (h.split, h.revision, h.column, h.config))(parse_source("hub:org/name").hub) == ("train", "main", "text", None)


def test_every_alias_is_pinned_and_every_source_listed():
    for splits in ALIASES.values():
        for split, hub in splits.items():
            assert hub.split == split and hub.revision not in ("", "main")
    assert {f"lab:{register}" for register in REGISTERS} | {f"hub:{alias}" for alias in ALIASES} <= set(SOURCES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing given"),
        ("lab:storys", "unknown register 'storys'; did you mean 'stories'"),
        ("lab:stories/heldout", "unknown split 'heldout'; did you mean 'held-out'"),
        ("lab:stories[:80%]", "no end to take per cent of"),
        ("hub:wikitext", "unknown hub alias 'wikitext'; did you mean 'wikitext2'"),
        ("hub:c4:valid", "no split 'valid'; did you mean 'validation'"),
        ("hub:c4/validation", "hub:c4:validation"),
        ("hub:ptb@main", "has its revision and column fixed"),
        ("hub:a/b/c/d", "hub:ORG/NAME/CONFIG"),
        ("s.txt[80%]", "needs one colon"),
        ("s.txt[1:2:3]", "needs one colon"),
        ("s.txt[:150%]", "'150%' is no place in a slice"),
        ("s.txt[-5:]", "'-5' is no place"),
        ("s.txt[:x]", "'x' is no place"),
        ("s.txt[50%:10%]", "selects nothing"),
        ("s.txt[7:7]", "selects nothing"),
        ("s.txt[:0]", "selects nothing"),
        ("s.txt[:0%]", "selects nothing"),
        ("s.txt[100%:]", "selects nothing"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_reason(text, message):
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        parse_source(text)


def test_two_slices_at_one_place_share_no_document_and_lose_none():
    for documents in (1, 2, 3, 7, 10, 317):
        for share in ("80%", "33.3%", "50%", "1"):
            sides = []
            for text in (f"s.txt[:{share}]", f"s.txt[{share}:]"):
                try:
                    sides += parse_source(text).select(documents)
                except DataError as error:
                    assert f"selects none of its {documents} document" in str(error)
            assert sides == list(range(documents))


def test_a_file_whose_name_ends_in_brackets_is_a_file(tmp_path):
    path = tmp_path / "notes[1]"
    path.write_text("a text")
    assert parse_source(str(path)).name == str(path) and parse_source(str(path)).slice == ""


def test_a_files_fingerprint_is_its_content_and_what_is_taken_of_it(tmp_path):
    one, two, other = tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "other.txt"
    one.write_text("same text"), two.write_text("same text"), other.write_text("same texT")
    prints = [source_fingerprint(str(path)) for path in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]
    assert source_fingerprint(f"{one}[:50%]") == source_fingerprint(f"{two}[:50.0%]") != source_fingerprint(f"{one}[50%:]")
    assert str(tmp_path) not in prints[0]


def test_lab_and_hub_fingerprints_name_what_decides_the_text():
    prints = {source_fingerprint(text) for text in ("lab:stories", "lab:entries", "lab:stories/held-out", "lab:stories[:9]")}
    assert len(prints) == 4
    assert "@b08601e0" in source_fingerprint("hub:wikitext2") != source_fingerprint("hub:wikitext2:train")


@pytest.mark.parametrize(("name", "message"), [("stories", "no such file; did you mean lab:stories"), ("ptb", "did you mean hub:ptb"), ("no.txt", "no such file")])
def test_a_missing_file_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        source_fingerprint(name)


def test_a_name_too_long_for_a_path_is_a_missing_file():
    with pytest.raises(DataError, match="no such file"):
        source_fingerprint("x" * 5000)


@pytest.mark.parametrize("module", ["sources", "readers", "corpora"])
def test_reading_sources_loads_no_torch(module):
    code = f"import sys, analysis.text.{module}; print(*(set(sys.modules) & {{'torch', 'transformers', 'datasets', 'pandas', 'pyarrow'}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.split(), done.stdout + done.stderr
