"""What each word of a document is: punctuation, function word, name, fact of the world, number or date.

A document is written twice with the same choices, once as it is and once with marks around what its writer filled in
about people, towns and things of the world; the marks are then carried over to the text as it is, which they never
touch. What bears no mark is told by its spelling.
"""

import functools
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.lab.documents import Document, default_world, documents, seed_of, write
from analysis.lab.draw import NUMBERS, Draw
from analysis.lab.names import MONTHS, WEEKDAYS
from analysis.lab.world import Animal, Book, Dish, Person, Plant, Ship, Town, Trade, World

KINDS: dict[str, str] = {
    "punctuation": "marks and line ends",
    "function word": "articles, pronouns, prepositions, auxiliaries and the like, by a closed list",
    "other word": "every other word",
    "number or date": "in digits or words, ordinals, weekdays, months; those that are facts of the world left out",
    "name": "of a person or a town, said for the first time in the document",
    "fact, well known": "what is fixed about one of the 40 most talked about of their kind: their trade, their home",
    "fact, little known": "the same about all others",
    "said before": "a name or a fact that stands in the document already",
}
"""Kinds of word, and what they hold."""

WELL_KNOWN = 40  # ranks; the questions of "facts-hard" begin where these end
COLLECTIONS = {
    Person: "people",
    Town: "towns",
    Dish: "dishes",
    Animal: "animals",
    Plant: "plants",
    Book: "books",
    Ship: "ships",
    Trade: "trades",
}
NAMES = {"name", "first", "last", "title", "noun"}
PRONOUNS = {"they", "them", "their", "themself"}
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about after against all am among an and any are as at be because been before behind being between both but
        by can could did do does down each either else for from had has have he her here hers herself him himself
        his how i if in into is it its itself may me might mine more most must my myself near neither never no
        nobody none nor not nothing of off on once only or other our out over own shall she should since so some
        somebody something than that the their them themself then there these they this those though through till to
        too under until up upon us very was we were what when where which while who whom whose why will with without
        would yet you your yours
        """,
    )
)
_OPEN, _CLOSE, _FIRST = "\ue000", "\ue001", 0xE100
_MARK = re.compile(f"({_OPEN}.|{_CLOSE})")
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]|\n")
_PLAIN = re.compile(r"\W")
_NUMBER = re.compile(r"\d+(?:st|nd|rd|th)?")
_NUMBER_WORDS = {*NUMBERS, *(word.lower() for word in (*MONTHS, *WEEKDAYS))} - {"no"}

Span = tuple[int, int, str]  # from and to which character, and the kind of what stands there


class Marking(Draw):
    """A `Draw` that makes the same choices and marks what it fills in about the world."""

    def __init__(self, seed: str, world: World):
        super().__init__(seed)
        self.world = world

    def fill(self, literal: str, slots: Mapping[str, Any]) -> str:
        pieces = []
        for text, field, _spec, _conversion in string.Formatter().parse(literal):
            pieces.append(text)
            if field is not None:
                value, root = string.Formatter().get_field(field, (), slots)
                kind = self._kind(slots[root], field.split(".")[1:])
                pieces.append(f"{_OPEN}{chr(_FIRST + list(KINDS).index(kind))}{value}{_CLOSE}" if kind else str(value))
        return "".join(pieces)

    def _kind(self, subject: object, path: list[str]) -> str | None:
        """What `{subject.path}` says; None where its spelling tells."""
        if type(subject) not in COLLECTIONS or not path or path[-1] in PRONOUNS:
            return None
        if len(path) == 1 and path[0] in NAMES:
            return "name" if isinstance(subject, Person | Town) else None
        return f"fact, {'well' if self._rank(subject) < WELL_KNOWN else 'little'} known"

    def _rank(self, subject: object) -> int:
        if isinstance(subject, Person):
            return self.world.rank[subject]
        return getattr(self.world, COLLECTIONS[type(subject)]).index(subject)


def told(register: str, *, split: str = "train", seed: int = 0) -> Iterator[tuple[Document, list[Span]]]:
    """`documents` of the same arguments, each with its words and marks in order and the kind of each; they cover
    everything but spaces. Raises UsageError as `documents`.
    """
    world = default_world()
    for number, document in enumerate(documents(register, split=split, seed=seed)):
        marked, _ = write(Marking(seed_of(register, split, seed, number), world), world, register)
        yield document, _words(document.text, _carried(marked, document.text))


def _carried(marked: str, text: str) -> list[Span]:
    """What is marked in an untidied document, by its places in the finished text: tidying leaves out spaces, makes "an"
    of "a", and changes the case.
    """
    spans: list[Span] = []
    kinds, kind, start, place = list(KINDS), "", 0, 0
    for piece in _MARK.split(marked):
        if piece.startswith(_OPEN):
            kind, start = kinds[ord(piece[1]) - _FIRST], place
        elif piece == _CLOSE:
            spans.append((start, place, kind))
        else:
            for character in piece:
                if text[place : place + 2] == "n " and character == " ":
                    place += 2
                elif text[place : place + 1].lower() == character.lower():
                    place += 1
                elif not character.isspace():
                    raise ValueError(f"{character!r} of the marked document is not behind {text[:place][-20:]!r}")
    return spans


def _words(text: str, spans: list[Span]) -> list[Span]:
    plain = " " + _PLAIN.sub(" ", text.lower()) + " "  # a word stands between two spaces, one place further right
    waiting, words = iter([*spans, (len(text), len(text), "")]), []
    start, end, marked = next(waiting)
    for found in _WORD.finditer(text):
        while end <= found.start():
            start, end, marked = next(waiting)
        inside = start <= found.start()
        first, last, kind = (start, end, marked) if inside else (*found.span(), _spelled(found[0]))
        if (inside or kind == "name") and f" {plain[first + 1 : last + 1]} " in plain[: first + 1]:
            kind = "said before"
        words.append((*found.span(), kind))
    return words


def _spelled(word: str) -> str:
    """The kind of a word that bears no mark."""
    lowered = word.lower()
    if not word[0].isalnum():
        return "punctuation"
    if _NUMBER.fullmatch(word) or lowered in _NUMBER_WORDS:
        return "number or date"
    if word.removesuffix("'s") in _names():
        return "name"
    return "function word" if lowered in FUNCTION_WORDS else "other word"


@functools.cache
def _names() -> frozenset[str]:
    world = default_world()
    return frozenset({part for person in world.people for part in (person.first, person.last)}) | {
        town.name for town in world.towns
    }
