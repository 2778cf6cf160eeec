"""Words that stand on figures: what a source and a model are called, and what tells them apart."""

import pytest

from analysis.present.panels import KIND_TITLES, say
from analysis.present.style import CRITERIA, apart, say_model, say_source
from analysis.text.sources import parse_source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "nothing, more epochs"),
        ("lab:stories/held-out", "stories/held-out"),
        ("hub:owner/set", "hub:owner/set"),
        ("pictures:shapes/held-out", "pictures:shapes/held-out"),
        ("texts/notes.txt[:80%]", "notes.txt[:80%]"),
        ("C:\\texts\\notes.txt", "notes.txt"),
        ("data/set/", "set"),
        ("/home/me/rows.jsonl#turns/0", "rows.jsonl#turns/0"),
        ("self", "self-generated"),
        ("self:temperature=0.7", "self-generated, temperature=0.7"),
        ("self:start=lab:stories,prefix=8", "self-generated, start=stories,prefix=8"),
        ("self:prefix=8,prompt=/home/me/p.txt", "self-generated, prefix=8,prompt=p.txt"),
        ("texts/notes.txt:0.5+corpora/wiki.txt:0.5", "notes.txt:0.5+wiki.txt:0.5"),
        ("lab:stories:1/3+texts/notes.txt[:80%]:2/3", "stories:1/3+notes.txt[:80%]:2/3"),
        ("self:prompt=/home/me/p.txt:0.5+hub:owner/set:.5", "self-generated, prompt=p.txt:0.5+hub:owner/set:.5"),
        ("a+b/c++.txt", "c++.txt"),
    ],
)
def test_a_source_is_called_by_its_name_without_folders(source, said):
    assert say_source(source) == said


@pytest.mark.parametrize(
    "source",
    [
        "texts/notes.txt:0.5+corpora/wiki.txt:0.5",
        "self:prompt=texts/notes.txt[:80%]",
        "data/rows.jsonl#turns/0",
        "lab:stories:0.25+self:0.75",
    ],
)
def test_figures_call_a_source_as_tables_do_but_for_the_lab_and_self(source):
    label = parse_source(source).label.replace("lab:", "").replace("self:", "self", 1)
    said = say_source(source).replace("self-generated, ", "self").replace("self-generated:", "self")
    assert said == label.replace("self:", "self")


@pytest.mark.parametrize(
    "model", ["C:\\Users\\me\\models\\llama", "C:\\m\\llama\\", "/m/llama/", "owner/llama", "llama"]
)
def test_a_model_is_called_by_its_name_without_folders(model):
    assert say_model(model) == "llama"


def test_names_written_alike_keep_the_folders_that_tell_them_apart():
    names = ["/home/me/mine/notes.txt", "lab:news", "/home/me/theirs/notes.txt", "/home/me/wiki.txt"]
    assert list(apart(names, say_source).values()) == ["mine/notes.txt", "news", "theirs/notes.txt", "wiki.txt"]
    assert apart(["lab:news", "news"], say_source) == {"lab:news": "lab:news", "news": "news"}


def test_a_word_is_labelled_by_the_column_it_stands_in():
    assert say("criterion", "perplexity") == "Perplexity" and say("kind", "total").startswith("total\n")
    assert say("samples", 4) == "4 calibration windows"
    for word in [*CRITERIA, *KIND_TITLES]:
        assert all(say(column, word) == word for column in ("measure", "pattern", "method", "model"))
