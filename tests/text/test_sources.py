"""The grammar of a SOURCE: what is understood, what is refused with which words, and what its fingerprint depends
on.
"""

import contextlib
import subprocess
import sys
import time
from fractions import Fraction
from itertools import islice

import pytest

from analysis import paths
from analysis.errors import DataError, UsageError
from analysis.lab.documents import REGISTERS
from analysis.text.generation import Generation
from analysis.text.hub import ALIASES
from analysis.text.readers import read
from analysis.text.sources import SOURCE_FORMS, parse_source, source_fingerprint


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
        ("self", "self", "", None, None, "self"),
        ("self:top-p=.95,temperature=0.80", "self", "", None, None, "self:temperature=0.8,top-p=0.95"),
        ("self:start=some/where/s.txt[:80%]", "self", "", None, None, "self:start=s.txt[:80%]"),
        ("lab:stories:0.7+lab:recipes:0.3", "mixture", "", None, None, "lab:stories:0.7+lab:recipes:0.3"),
        (
            "a/s.txt[:80%]:1/3+self:prefix=8:1/3+hub:ptb:1/3",
            "mixture",
            "",
            None,
            None,
            "s.txt[:80%]:1/3+self:prefix=8:1/3+hub:ptb:1/3",
        ),
        ("a+b.txt", "file", "a+b.txt", None, None, "a+b.txt"),
    ],
)
def test_sources_are_understood(text, kind, name, start, stop, label):
    source = parse_source(text)
    assert (source.kind, source.name, source.start, source.stop, source.label) == (kind, name, start, stop, label)


def test_columns_splits_and_revisions_are_understood():
    assert (
        parse_source("a.jsonl").column == parse_source("a.parquet").column == "text"
        and parse_source("a.txt").column is None
    )
    assert parse_source("a.jsonl#body").column == "body"
    assert parse_source("lab:stories").split is None and parse_source("lab:stories/held-out").split == "held-out"
    hub = parse_source("hub:org/name/config:test@refs/pr/1#body").hub
    assert (hub.dataset, hub.config, hub.split, hub.revision, hub.column) == (
        "org/name",
        "config",
        "test",
        "refs/pr/1",
        "body",
    )
    assert (lambda h: (h.split, h.revision, h.column, h.config))(parse_source("hub:org/name").hub) == (
        "train",
        "main",
        "text",
        None,
    )


def test_parts_and_settings_are_understood():
    mixture = parse_source("hub:org/name:test@abc:0.25+lab:stories/held-out[:9]:.5+self:prompt=a+b.txt,prefix=8:1/4")
    hub, lab, own = (part for part, _ in mixture.parts)
    assert [share for _, share in mixture.parts] == [Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)]
    assert (hub.hub.split, hub.hub.revision, lab.split, lab.stop) == ("test", "abc", "held-out", 9)
    assert own.generation == Generation(prompt="a+b.txt", prefix=8) and parse_source("self").generation == Generation()
    assert parse_source(mixture.label).parts[0][1] == Fraction(1, 4)


def test_a_file_whose_name_reads_like_a_mixture_or_self_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:0.5+b:0.5", "self"):
        (tmp_path / name).write_text("a text")
    assert parse_source("a:0.5+b:0.5").kind == "file"
    assert parse_source("self").kind == "self" and parse_source("./self").kind == "file"


def test_every_alias_is_pinned_and_every_source_listed():
    for splits in ALIASES.values():
        for split, hub in splits.items():
            assert hub.split == split and hub.revision not in ("", "main")
    assert {f"lab:{register}" for register in REGISTERS} | {f"hub:{alias}" for alias in ALIASES} <= set(SOURCE_FORMS)


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
        ("lab:stories:0.7+lab:recipes:0.4", "the shares 0.7 . 0.4 make 1.1; they must make 1"),
        ("lab:stories:0.33+lab:recipes:0.33+lab:news:0.33", "make 0.99; they must make 1 .thirds are written 1/3"),
        ("lab:stories:1+lab:recipes:0", "a share must be above 0"),
        ("lab:stories:1+lab:recipes:0/5", "a share must be above 0"),
        ("lab:stories+lab:recipes:0.3", "every part of a mixture ends in its share"),
        ("lab:stories+lab:recipes", "every part of a mixture ends in its share"),
        ("lab:stories:0.7+s.txt", "every part of a mixture ends in its share"),
        ("lab:stories:1/0+lab:news:1", "every part of a mixture ends in its share"),
        ("lab:stories:0.7+s.txt:0.3[:80%]", "a slice stands before it"),
        ("lab:stories:0.5+lab:stories:0.5", "two parts are the same text"),
        ("lab:storys:0.5+self:0.5", "unknown register 'storys'"),
        ("lab:stories:0.5", "unknown register 'stories:0.5'; did you mean 'stories'"),
        ("self:temprature=1", "unknown option 'temprature'; did you mean 'temperature'"),
        ("self:temperature=0", "temperature must be a number above 0"),
        ("self[:10]", "no end to slice"),
        ("self:start=self", "not from a self source"),
        ("self:prompt=lab:storys", "unknown register 'storys'"),
        ("hub:../..", "a hub dataset is written hub:ORG/NAME"),
        (f"s.txt[:{'9' * 5000}]", "'9{40}...' is no place in a slice"),
        (f"s.txt[:{'0' * 5000}%]", "is no place in a slice"),
        (f"s.txt[:0.{'9' * 5000}%]", "is no place in a slice"),
        (f"lab:stories:0.{'9' * 5000}+lab:news:0.1", "the share 0.9{38}... has 5002 digits"),
        (f"lab:stories[:{10**20}]", "is no place in a slice"),
        (f"lab:stories[:{10**17}]", "a slice that ends holds at most 10,000,000 documents or examples of the lab"),
        (f"examples:truth[5:{10**17}]", "leave its end out: .5:."),
        ("x" * 32_000, "is 32,000 characters long; at most 10,000 are read"),
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


def test_a_source_is_a_text_or_a_path(tmp_path):
    path = tmp_path / "s.jsonl"
    assert parse_source(path) == parse_source(str(path)) and parse_source(parse_source("self")) == parse_source("self")
    for wrong in (None, 7, b"lab:stories", ["lab:stories"]):
        with pytest.raises(UsageError, match="source: must be a text such as 'lab:stories' or a path, not"):
            parse_source(wrong)


@pytest.mark.parametrize(
    ("text", "name", "column"),
    [
        ("A.JSONL", "A.JSONL", "text"),
        ("a.json.gz#data.text", "a.json.gz", "data.text"),
        ("a.csv.zst", "a.csv.zst", "text"),
        ("a.feather#b", "a.feather", "b"),
        ("a.json.txt", "a.json.txt", None),
        ("a.gz", "a.gz", None),
        ("ajson", "ajson", None),
    ],
)
def test_an_ending_makes_a_table_in_any_case_and_packed(text, name, column):
    source = parse_source(text)
    assert (source.kind, source.name, source.column) == ("file", name, column)


def test_many_plus_signs_are_read_in_no_time():
    began = time.process_time()
    for text in ("a+" * 4990, "a:1+" * 2490, "a:0.5+" * 1660, "+" * 9990, "[" * 9990, ":" * 9990 + "+"):
        with contextlib.suppress(UsageError):
            parse_source(text)
    assert time.process_time() - began < 0.5  # a quadratic search takes 0.6 s for the first alone


def test_slices_that_differ_in_the_seventh_digit_are_told_apart():
    slices = [parse_source(f"s.txt[:{share}%]").slice for share in ("12.345678", "12.345679", "12.50", "100")]
    assert slices == ["[:12.345678%]", "[:12.345679%]", "[:12.5%]", "[:100%]"]


def test_the_lab_begins_where_a_slice_does_however_far():
    far = [list(islice(read(parse_source(f"lab:stories[{start}:]"))[0], 2)) for start in (10**9, 10**9 + 1)]
    assert far[0][1] == far[1][0] and far[0][0] != far[0][1]
    near = list(islice(read(parse_source("lab:stories"))[0], 7))
    assert list(read(parse_source("lab:stories[3:7]"))[0]) == near[3:]


def test_a_file_whose_name_ends_in_brackets_is_a_file(tmp_path):
    path = tmp_path / "notes[1]"
    path.write_text("a text")
    assert parse_source(str(path)).name == str(path) and parse_source(str(path)).slice == ""


def test_a_files_fingerprint_is_its_content_and_what_is_taken_of_it(tmp_path):
    one, two, other = tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "other.txt"
    one.write_text("same text"), two.write_text("same text"), other.write_text("same texT")
    prints = [source_fingerprint(str(path)) for path in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]
    assert (
        source_fingerprint(f"{one}[:50%]") == source_fingerprint(f"{two}[:50.0%]") != source_fingerprint(f"{one}[50%:]")
    )
    assert str(tmp_path) not in prints[0]


def test_lab_and_hub_fingerprints_name_what_decides_the_text():
    prints = {
        source_fingerprint(text) for text in ("lab:stories", "lab:entries", "lab:stories/held-out", "lab:stories[:9]")
    }
    assert len(prints) == 4
    assert "@b08601e0" in source_fingerprint("hub:wikitext2") != source_fingerprint("hub:wikitext2:train")


def test_a_mixtures_fingerprint_is_its_parts_with_their_shares(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("same text"), two.write_text("same text")
    prints = [
        source_fingerprint(f"{path}:{share}+lab:stories:{rest}")
        for path, share, rest in ((one, 0.5, 0.5), (two, "1/2", "1/2"), (one, 0.7, 0.3))
    ]
    assert prints[0] == prints[1] != prints[2] and source_fingerprint("lab:stories") in prints[0]


def test_the_fingerprint_of_a_models_own_text_needs_the_model(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("a text")
    prints = [
        source_fingerprint(source, model)
        for source, model in (("self", "a"), ("self", "b"), ("self:top-k=5", "a"), (f"self:start={path}", "a"))
    ]
    path.write_text("another text")
    prints.append(source_fingerprint(f"self:start={path}", "a"))
    assert (
        len(set(prints)) == 5
        and source_fingerprint("self:temperature=1.0", "a") == prints[0]
        and str(tmp_path) not in "".join(prints)
    )
    assert source_fingerprint("lab:stories:0.5+self:0.5", "a") != source_fingerprint("lab:stories:0.5+self:0.5", "b")
    assert source_fingerprint("lab:stories", "a") == source_fingerprint("lab:stories")
    for source in ("self", "lab:stories:0.5+self:0.5"):
        with pytest.raises(UsageError, match="self: is written by a model, so its fingerprint needs that model's"):
            source_fingerprint(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stories", "no such file; did you mean lab:stories"),
        ("ptb", "did you mean hub:ptb"),
        ("no.txt", "no such file"),
    ],
)
def test_a_missing_file_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        source_fingerprint(name)


def test_a_name_too_long_for_a_path_is_a_missing_file():
    with pytest.raises(DataError, match="no such file"):
        source_fingerprint("x" * 5000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "files",
        "rows",
        "sources",
        "readers",
        "load",
        "generation",
        "generate",
        "generated_files",
        "mixtures",
        "example_sets",
        "example_readers",
    ],
)
def test_reading_sources_loads_no_torch(module):
    code = (
        f"import sys, analysis.text.{module}; print(*(set(sys.modules) & {{'torch', 'transformers', 'datasets',"
        " 'pandas', 'pyarrow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.split(), done.stdout + done.stderr
