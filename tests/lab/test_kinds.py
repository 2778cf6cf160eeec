"""Kinds of word: each of a document has one, marks change no choice, what is marked is what it is said to be."""

import re
from collections import Counter
from itertools import islice

import pytest

from analysis.errors import UsageError
from analysis.lab.documents import MIXTURE, default_world, documents, seed_of, write
from analysis.lab.draw import Draw
from analysis.lab.kinds import KINDS, WELL_KNOWN, Marking, told


def words_of(register: str, number: int = 12) -> list[tuple[str, list[tuple[str, str]]]]:
    """Text and (word, kind) of the first documents of a register."""
    return [
        (document.text, [(document.text[start:end], kind) for start, end, kind in words])
        for document, words in islice(told(register, split="held-out", seed=5), number)
    ]


@pytest.mark.parametrize("register", MIXTURE)
def test_words_cover_every_character_but_spaces(register):
    for text, words in words_of(register):
        assert "".join(word for word, _ in words) == text.replace(" ", "")
        assert {kind for _, kind in words} <= set(KINDS)


@pytest.mark.parametrize("register", MIXTURE)
def test_marks_change_no_choice(register):
    world = default_world()
    for number, document in enumerate(islice(documents(register, seed=7), 12)):
        plain, marking = Draw(seed_of(register, "train", 7, number)), None
        marking = Marking(seed_of(register, "train", 7, number), world)
        unmarked, marked = (write(draw, world, register)[0] for draw in (plain, marking))
        assert marking.nats == plain.nats == document.nats and marked != unmarked
        assert re.sub("[\ue000\ue001\ue100-\ue1ff]", "", marked).lower() == unmarked.lower()


def test_told_documents_are_the_documents():
    assert [document for document, _ in islice(told("mixed", seed=2), 9)] == list(islice(documents("mixed", seed=2), 9))
    with pytest.raises(UsageError, match="sonnets"):
        next(told("sonnets"))


class Chosen:
    """Stands for `write`: one sentence from a template."""

    def __init__(self, template: str, **slots):
        self.template, self.slots = template, slots

    def __call__(self, draw, world, register):
        return draw.say(self.template, **self.slots), register


@pytest.fixture
def kinds(monkeypatch):
    """Kinds of the words of one sentence."""
    from analysis.lab import documents as written
    from analysis.lab import kinds as told_of

    monkeypatch.setattr(written, "_document", written._document.__wrapped__)  # what is written here is not kept

    def of(template: str, **slots) -> dict[str, str]:
        for module in (written, told_of):
            monkeypatch.setattr(module, "write", Chosen(template, **slots))
        document, words = next(told_of.told("entries"))
        return {document.text[start:end]: kind for start, end, kind in words}

    return of


def test_each_kind_is_told(kinds):
    people = default_world().people
    known, other = people[WELL_KNOWN - 1], people[WELL_KNOWN]
    said = kinds(
        "{p.first}, a {p.born}, met {q.last}, a {q.born}, on Monday; {p.first} had five, {p.their} all.",
        p=known,
        q=other,
    )
    assert said[str(known.born)] == "fact, well known" and said[str(other.born)] == "fact, little known"
    assert said[other.last] == "name" and said[known.first] == "said before"  # the second time
    assert said["Monday"] == said["five"] == "number or date"
    assert said[known.their] == said["on"] == "function word" and said["met"] == "other word"
    assert said[","] == said["."] == "punctuation"


def test_an_article_before_a_vowel_keeps_what_follows_marked(kinds):
    pair = next(p for p in default_world().people if p.trade.noun[0] in "aeio")
    said = kinds("{p.they} is  a {p.trade.noun} .", p=pair)
    assert {said[word] for word in pair.trade.noun.split()} <= {"fact, well known", "fact, little known"}
    assert said["an"] == "function word"


def test_facts_are_true_of_the_world():
    """Trades told as facts are trades, and in entries facts are many."""
    found = Counter(kind for _, words in words_of("entries", 40) for _, kind in words)
    assert found["fact, little known"] > 100 and found["fact, well known"] > 50
    names = {part for person in default_world().people for part in (person.first, person.last)}
    names |= {town.name for town in default_world().towns}
    told_as_names = {
        word.removesuffix("'s") for _, words in words_of("stories", 10) for word, kind in words if kind == "name"
    }
    assert told_as_names and told_as_names <= names
