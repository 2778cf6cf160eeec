"""Streams of documents: endless, seeded, each with the entropy of the choices that made it."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from analysis.errors import UsageError
from analysis.lab.cooking import recipe
from analysis.lab.dialogues import dialogue
from analysis.lab.draw import Draw, tidy
from analysis.lab.entries import entry
from analysis.lab.letters import letter
from analysis.lab.news import gazette
from analysis.lab.stories import story
from analysis.lab.world import World

REGISTERS: dict[str, str] = {
    "stories": "tales of three people in one town, with things that change hands and a truthful ending",
    "entries": "encyclopedia entries about people, towns, animals, plants, dishes, trades, books, ships and families",
    "dialogues": "conversations: questions about people and places, bargains, plans, small quizzes",
    "letters": "letters between relatives, friends and rivals",
    "news": "issues of town newspapers: thefts, contests, prices, votes, lost property",
    "recipes": "recipes for the dishes of the world, ingredient by ingredient",
    "mixed": (
        "the training stream: 30 % stories, 25 % entries, 20 % dialogues, 10 % letters, 10 % news, 5 % recipes, by"
        " document"
    ),
}

MIXTURE: dict[str, float] = {
    "stories": 0.30,
    "entries": 0.25,
    "dialogues": 0.20,
    "letters": 0.10,
    "news": 0.10,
    "recipes": 0.05,
}
"""Share of documents of each register in `mixed`."""

SPLITS = ("train", "held-out")

_WRITERS = {
    "stories": story,
    "entries": entry,
    "dialogues": dialogue,
    "letters": letter,
    "news": gazette,
    "recipes": recipe,
}


@dataclass(frozen=True, slots=True)
class Document:
    """One finished text.

    `register` is the register it was written in (never `mixed`). `nats` is the entropy account of the document: the sum
    of `-log p` over every random choice its writer made, the world being known (in the mixed stream, the choice of
    register included). Different choices can lead to the same text, so it is an upper bound on `-log p(text)`.
    """

    text: str
    register: str
    nats: float


@functools.cache
def default_world() -> World:
    """The world the shipped model was trained on."""
    return World(0)


def documents(register: str, *, split: str = "train", seed: int = 0, start: int = 0) -> Iterator[Document]:
    """Endless documents of one register, a function of (register, split, seed) alone, from number `start` on.

    `split` is `train` (what the lab's model is trained on) or `held-out`; the two never share a seed. Other seeds give
    other documents about the same world. Raises `UsageError` for an unknown register or split.
    """
    check_request("documents", "register", register, REGISTERS, split)
    return _stream(register, split, seed, start)


def check_request(operation: str, noun: str, name: str, names: Iterable[str], split: str) -> None:
    """Raise UsageError for a name the lab has not, or a split that is none."""
    if name not in names:
        raise UsageError(f"{operation}: unknown {noun} {name!r}; the lab has {', '.join(names)}")
    if split not in SPLITS:
        raise UsageError(f"{operation}: unknown split {split!r}; it is one of {', '.join(SPLITS)}")


def write(draw: Draw, world: World, register: str) -> tuple[str, str]:
    """A document before it is tidied, and the register it was written in: a function of the draw's choices alone."""
    chosen = draw.weighted(MIXTURE) if register == "mixed" else register
    return _WRITERS[chosen](draw, world), chosen


def _stream(register: str, split: str, seed: int, start: int) -> Iterator[Document]:
    for number in itertools.count(start):
        yield _document(register, split, seed, number)


@functools.lru_cache(4096)  # of a kilobyte each: the runs of a study read the same beginnings again and again
def _document(register: str, split: str, seed: int, number: int) -> Document:
    draw = Draw(seed_of(register, split, seed, number))
    text, chosen = write(draw, default_world(), register)
    return Document(tidy(text), chosen, draw.nats)


def seed_of(register: str, split: str, seed: int, number: int) -> str:
    """What a document's choices are drawn from."""
    return f"{split}/{register}/{seed}/{number}"
