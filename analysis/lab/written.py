"""Questions about the lab's world whose answers are written out, word for word: what a model that has lost blocks can
no longer do shows here before it shows in multiple choice.

Every item is a piece of a document in the form the writers give it, cut where one way to go on is the only true one, up
to a mark that ends it. All but `recall` follow from the query alone: they are to be copied, kept track of or worked
out. Chance is next to nothing, but for `tracking`, where a guess among the three people of a story is right one time in
three. The lab writes no brackets and counts nothing by itself, so there are no such questions.
"""

import itertools
import re
from collections.abc import Callable, Iterator

from analysis.lab import dialogues, news
from analysis.lab.documents import check_request, default_world
from analysis.lab.draw import Draw, tidy
from analysis.lab.names import MONTHS
from analysis.lab.tasks import Item, popular, two_events, until
from analysis.lab.world import Person, World

WRITTEN: dict[str, str] = {
    "copying": "a meeting agreed in pieces, then said once more as a whole (written out)",
    "recall": "a fact about one of the best known towns or animals (written out)",
    "tracking": "a story of three people in which things change hands, then who has one of them (written out)",
    "sums": "some of a thing and some more, then how many that makes, up to eighteen (written out)",
    "differences": "prices last week and now, then by how much one has risen or fallen (written out)",
}

Writer = Callable[[Draw, World], tuple[str, str]]
_WELL_KNOWN = 15  # ranks


def written(name: str, *, split: str = "held-out", seed: int = 0) -> Iterator[Item]:
    """Endless items of one kind, a function of (name, split, seed) alone, each with the true choice alone.

    Raises `UsageError` for an unknown name or split.
    """
    check_request("written", "task", name, WRITTEN, split)
    return _stream(name, split, seed)


def _stream(name: str, split: str, seed: int) -> Iterator[Item]:
    world, writer = default_world(), _WRITERS[name]
    for number in itertools.count():
        query, answer = writer(Draw(f"{split}/written {name}/{seed}/{number}"), world)
        query = tidy(query)
        yield Item(query, (tidy(f"{query} {answer}")[len(query) + 1 :],), 0)


def _talk(draw: Draw, world: World) -> dialogues.Talk:
    """Two people who know each other begin a conversation, in script form."""
    a: Person = draw.ranked(world.people)
    talk = dialogues.Talk(draw, a, draw.choice([person for _, person in a.circle if person.first != a.first]))
    talk.script = True
    return talk


def _copying(draw: Draw, world: World) -> tuple[str, str]:
    """`Ana: So: Monday,` - `seven o'clock, at the well, with the brass key.`"""
    talk = _talk(draw, world)
    dialogues.plan(talk, world)
    day, _, rest = talk.lines[-1].partition(", ")
    return "\n".join([*talk.lines[:-1], f"{day},"]), rest


def _recall(draw: Draw, world: World) -> tuple[str, str]:
    """What is told of a landmark, what an animal does."""
    person = draw.ranked(world.people)
    if draw.chance(0.5):
        town = draw.ranked(popular("towns", 0, _WELL_KNOWN))
        verb = draw.phrase("[told everyone|remarked]")
        return f"{person.first} {verb} that the {town.landmark} of {town.name}", f"{town.landmark_tale}."
    animal = draw.ranked(popular("animals", 0, _WELL_KNOWN))
    return f"{person.first} {draw.phrase('[saw|followed|fed|startled]')} a {animal.name}, which", f"{animal.habit}."


def _tracking(draw: Draw, world: World) -> tuple[str, str]:
    """`The brass key was with` - `Ana.`, two events after the opening."""
    scene, thing, owner = two_events(draw, world)
    return " ".join([*scene.lines, f"That was the end of the day. The {thing} was with"]), f"{owner.first}."


def _sums(draw: Draw, world: World) -> tuple[str, str]:
    """`Ana: I had three cats, and then Bela gave me two more.`, `Cyr: That makes` - `five cats!`"""
    talk = _talk(draw, world)
    dialogues.sum_of_two(talk, world)
    said = re.fullmatch(r"(.*?(?:have|makes)) (.+)", talk.lines[-1])
    assert said is not None, talk.lines[-1]
    return "\n".join([*talk.lines[:-1], said[1]]), said[2]


def _differences(draw: Draw, world: World) -> tuple[str, str]:
    """`eggs, three coins last week, eight now. Eggs have risen by` - `five.`, of the last of the goods."""

    def attempt():
        text, _ = news.prices_item(draw, world, draw.ranked(world.towns), draw.choice(MONTHS))
        said = re.fullmatch(r"(.*have (?:risen by|gone up|fallen by|come down)) (\w+\.)", text)
        return None if said is None else (said[1], said[2])

    query, answer = until(attempt)
    return query, answer


_WRITERS: dict[str, Writer] = {
    "copying": _copying,
    "recall": _recall,
    "tracking": _tracking,
    "sums": _sums,
    "differences": _differences,
}
