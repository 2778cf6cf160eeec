"""Multiple-choice questions about the lab's world, drawn without end: what a zero-shot accuracy is measured on.

Seven tasks stand where the paper has BoolQ, RTE, HellaSwag, WinoGrande, ARC-easy, ARC-challenge and OpenbookQA. Every
item is a piece of a document in the form the writers give it, cut short, and ways to go on of which one is true. The
wrong ways come from the distribution of the true one (another passage, other people, other subjects of the same rank,
or the same words asked for in another frame), so that neither length, nor frequency, nor position gives it away: who
does not read the query, or does not know the world, is right by chance alone.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from analysis.lab import dialogues, news, stories, words
from analysis.lab.documents import check_request, default_world
from analysis.lab.draw import Draw, Ranked, tidy
from analysis.lab.names import MONTHS, WEEKDAYS
from analysis.lab.world import Person, World

TASKS: dict[str, str] = {
    "yes-no": "a bargain, a vote or a theft, and whether it came off, was passed, was proven (BoolQ; 2 choices)",
    "entailment": "an item of a newspaper, then its summary or that of another such item (RTE; 2 choices)",
    "story-ending": (
        "a story of three people, then who has the thing; one wrong owner is of the story, two are not (HellaSwag; 4"
        " choices)"
    ),
    "pronouns": (
        "two people, then she or he; or a brother, a mother, and which of two names it can be (WinoGrande; 2 choices)"
    ),
    "facts-easy": "a fact about one of the best known people, books, towns, animals or herbs (ARC-easy; 4 choices)",
    "facts-hard": "the same facts about those seldom talked of (ARC-challenge; 4 choices)",
    "common-sense": "what sort of thing is eaten, read, played, feared; the day just agreed on (OpenbookQA; 4 choices)",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A question: `query` and each of `choices` are joined by one space; `gold` is the index of the true choice."""

    query: str
    choices: tuple[str, ...]
    gold: int


Writer = Callable[[Draw, World, bool], Item]


def task(name: str, *, split: str = "held-out", seed: int = 0) -> Iterator[Item]:
    """Endless items of one task, a function of (name, split, seed) alone; every stretch of them mixes the task's kinds
    of question evenly.

    `split` and `seed` are those of `documents`: passages of `held-out` items are none of the training text. What is
    asked about the world is what the training text says of it. Raises `UsageError` for an unknown task or split.
    """
    check_request("task", "task", name, TASKS, split)
    return _stream(name, split, seed)


def _stream(name: str, split: str, seed: int) -> Iterator[Item]:
    world, writers = default_world(), _WRITERS[name]
    for number in itertools.count():
        turn, kind = divmod(number, len(writers))
        yield writers[kind](Draw(f"{split}/task {name}/{seed}/{number}"), world, turn % 2 == 0)


def _item(draw: Draw, query: str, gold: str, others: list[str]) -> Item:
    """The item in finished text, the true choice at a place drawn at random."""
    query = tidy(query)
    place = draw.number(0, len(others))
    choices = [*others[:place], gold, *others[place:]]
    return Item(query, tuple(tidy(f"{query} {choice}")[len(query) + 1 :] for choice in choices), place)


def until(make: Callable[[], tuple | None]) -> tuple:
    """What `make` returns the first time it returns anything: draws are repeated until they fit."""
    return next(result for result in iter(make, ...) if result is not None)


def _talk(draw: Draw, world: World) -> dialogues.Talk:
    """Two people who know each other begin a conversation, in script form."""
    a: Person = draw.ranked(world.people)
    talk = dialogues.Talk(draw, a, draw.choice([person for _, person in a.circle if person.first != a.first]))
    talk.script = True
    return talk


# yes-no: `yes` is drawn by turns, so that half of the true answers of every kind are yes.


def _bargain(draw: Draw, world: World, yes: bool) -> Item:
    """A bargain up to its last sentence: `Very well. Nine coins` for it, or `Then keep it. Nine coins` is too much."""

    def attempt():
        talk = _talk(draw, world)
        dialogues.bargain(talk, world)
        offer = re.search(r"^(.*) (for the|is too much for a) (.+)$", talk.lines[-1])
        return (talk.lines, offer) if (offer[2] == "for the") == yes else None

    lines, last = until(attempt)
    accepted, refused = f"for the {last[3]}", f"is too much for a {last[3]}"
    return _item(draw, "\n".join([*lines[:-1], last[1]]), accepted if yes else refused, [refused if yes else accepted])


def _vote(draw: Draw, world: World, yes: bool) -> Item:
    """Votes for and against, then what becomes of the matter."""
    passed, failed = "The matter is settled.", "Nothing will change."

    def attempt():
        text, _ = news.council_item(draw, world, draw.ranked(world.towns), draw.choice(MONTHS))
        return (text,) if text.endswith(passed if yes else failed) else None

    (text,) = until(attempt)
    return _item(
        draw, text.removesuffix(passed).removesuffix(failed), passed if yes else failed, [failed if yes else passed]
    )


def _verdict(draw: Draw, world: World, yes: bool) -> Item:
    """A theft up to the word on somebody named: the one it was found with, or one who was elsewhere."""
    guilty, cleared = "has confessed.", "has been cleared."

    def attempt():
        town = draw.ranked(world.towns)
        if len(town.residents) < 4:
            return None
        text, _ = news.theft_item(draw, world, town, None)
        before, ending, _ = text.partition(f"{'who' if yes else 'and'} {guilty if yes else cleared}")
        return (before,) if ending else None

    (before,) = until(attempt)
    return _item(draw, before + ("who" if yes else "and"), guilty if yes else cleared, [cleared if yes else guilty])


# entailment


def _summary(kind: Callable) -> Writer:
    def write(draw: Draw, world: World, turn: bool) -> Item:
        town, month = draw.ranked(world.towns), draw.choice(MONTHS)
        text, summary = kind(draw, world, town, month)
        wrong = until(
            lambda: (
                (contrast,) if (contrast := kind(draw, world, draw.ranked(world.towns), month)[1]) != summary else None
            )
        )[0]
        return _item(draw, f"The {town.name} Gazette\n{text}\nIn short:", summary + ".", [wrong + "."])

    return write


# story-ending


def two_events(draw: Draw, world: World) -> tuple[stories.Scene, str, Person]:
    """A scene of three people two events after its opening, a thing that one of them has, and who that is."""

    def attempt():
        scene = stories.opening(draw, world)
        for _ in range(2):
            actor = draw.choice(scene.cast)
            draw.choice([event for event, allowed in stories.EVENTS if allowed(scene, actor)])(scene, actor)
        owners = {thing: owner for thing, owner in scene.owner.items() if isinstance(owner, Person)}
        if not owners or len(scene.cast) != 3:
            return None
        thing = draw.choice(list(owners))
        return scene, thing, owners[thing]

    return until(attempt)


def _owner(draw: Draw, world: World, turn: bool) -> Item:
    """Two events after the opening, who has one of the things: its owner, somebody else in the story, two people of
    other stories.
    """

    scene, thing, owner = two_events(draw, world)
    somebody = draw.choice([person for person in scene.cast if person is not owner])
    names = [person.first for person in scene.cast]
    strangers = _others(lambda: draw.choice(stories.opening(draw, world).cast).first, names, 2)
    end = draw.say(
        "[That was the end of the day|So the day ended|At last the bells rang for supper|Then everyone had had enough]."
    )
    return _item(
        draw,
        " ".join([*scene.lines, end]),
        f"{owner.first} had the {thing}.",
        [f"{name} had the {thing}." for name in (somebody.first, *strangers)],
    )


def _others(make: Callable[[], str], taken: list[str], number: int) -> list[str]:
    """`number` different draws of `make`, none of them in `taken`."""
    draws: list[str] = []
    while len(draws) < number:
        if (one := make()) not in taken and one not in draws:
            draws.append(one)
    return draws


# pronouns: `she` is true by turns.


def _pair(draw: Draw, world: World, she: bool) -> tuple[Person, Person]:
    """Two people, the first of them she or he as asked, the second not."""
    first = until(lambda: (p,) if ((p := draw.ranked(world.people)).they == "she") == she else None)[0]
    second = until(lambda: (p,) if ((p := draw.ranked(world.people)).they == "she") != she else None)[0]
    return first, second


def _stranger(draw: Draw, world: World, she: bool) -> Item:
    """Somebody of the story meets a stranger; the next sentence is about the stranger."""
    v, a = _pair(draw, world, she)
    who = draw.phrase(
        "[the {v.trade.noun} from {v.home.name}|who came from {v.home.name} and sold {v.trade.product}]", v=v
    )
    query = draw.say("{a.first} met [a stranger|a traveller], {v.name}, {who}.", a=a, v=v, who=who)
    rest = draw.phrase("[was looking for {v.friend.name}.|had lost a {v.treasure}.|talked about {v.habit}.]", v=v)
    return _item(draw, query, f"{v.they.capitalize()} {rest}", [f"{a.they.capitalize()} {rest}"])


def _of_friend(draw: Draw, world: World, she: bool) -> Item:
    """News of somebody in a letter, named once."""
    o, w = _pair(draw, world, she)
    query = draw.say(
        "[I saw|Yesterday I met] my friend {o.first}, [who is still a {o.trade.noun}|who lives in {o.home.name}, as you"
        " know|who was {o.trade.work}].",
        o=o,
    )
    rest = draw.phrase("asked after [you.|{w.pet.name}.]", w=w)
    return _item(draw, query, f"{o.they.capitalize()} {rest}", [f"{w.they.capitalize()} {rest}"])


def _relative(draw: Draw, world: World, she: bool) -> Item:
    """`His sister`, `her brother` in a story, and which of two names it can be."""
    p, q = _pair(draw, world, she)
    hero = draw.ranked(world.people)
    kind = draw.choice(("sister", "mother", "daughter") if she else ("brother", "father", "son"))
    spot = draw.choice(words.SPOTS)
    query = draw.say(
        "On a {w.adjective} {d} in {m}, {h.name}, the {h.trade.noun} of {h.home.name}, was half asleep. {h.their} {k}",
        w=draw.choice(words.WEATHERS),
        d=draw.choice(WEEKDAYS),
        m=draw.choice(MONTHS),
        h=hero,
        k=kind,
    )
    return _item(draw, query, f"{p.first} was at the {spot}.", [f"{q.first} was at the {spot}."])


def _of_entry(draw: Draw, world: World, she: bool) -> Item:
    """An entry of the encyclopedia, which names its subject and goes on with a pronoun."""
    p, q = _pair(draw, world, she)
    query = draw.say("{p.name}\n{p.name} is a {p.trade.noun} [who lives in|from] {p.home.name}.", p=p)
    rest = draw.phrase(
        "[was born in [the year|] {p.born}.|has {p.looks}.|keeps a {p.pet.kind} called {p.pet.name}.]", p=p
    )
    return _item(draw, query, f"{p.they.capitalize()} {rest}", [f"{q.they.capitalize()} {rest}"])


# facts: collection, what is asked, what is answered.

_FACTS: list[tuple[str, str, str]] = [
    ("people", "On a {w.adjective} {d} in {m}, {x.name}, the", "{x.trade.noun}"),
    ("people", "On a {w.adjective} {d} in {m}, {x.name}, the {x.trade.noun} of", "{x.home.name}"),
    ("books", "{p.first} read [a page|ten pages|the last chapter|the first line] of {x.title}, by", "{x.author.name}"),
    ("towns", "{p.first} [told everyone|remarked] that the {x.landmark} of {x.name}", "{x.landmark_tale}"),
    ("animals", "{p.first} [saw|followed|fed|startled] a {x.name}, which", "{x.habit}"),
    ("plants", "{p.first} picked some {x.name}, which is good for", "{x.use}"),
    ("plants", "{p.first} picked some {x.name}, with its", "{x.colour} flowers"),
]
_EASY = {
    "people": (0, 15),
    "books": (0, 15),
    "towns": (0, 15),
    "animals": (0, 15),
    "plants": (0, 10),
}  # ranks, most popular first
_HARD = {"people": (40, 200), "books": (40, 160), "towns": (40, 140), "animals": (40, 110), "plants": (12, 30)}


@cache
def popular(collection: str, start: int, stop: int) -> Ranked:
    """The subjects of a collection of the world from rank `start` to before `stop`, most popular first."""
    return Ranked(getattr(default_world(), collection)[start:stop], 8.0 + start)


def _fact(ranks: dict[str, tuple[int, int]], collection: str, question: str, answer: str) -> Writer:
    def write(draw: Draw, world: World, turn: bool) -> Item:
        subjects: dict[str, object] = {}  # of four different answers; any of them may be the one asked about
        while len(subjects) < 4:
            x = draw.ranked(popular(collection, *ranks[collection]))
            subjects.setdefault(answer.format(x=x), x)
        true = draw.choice(list(subjects))
        query = draw.say(
            question,
            x=subjects[true],
            p=draw.ranked(world.people),
            w=draw.choice(words.WEATHERS),
            d=draw.choice(WEEKDAYS),
            m=draw.choice(MONTHS),
        )
        return _item(draw, query, true, [other for other in subjects if other != true])

    return write


# common-sense: each list of choices holds one thing of every sort, and any of them may be the one asked for.

_SORTS: list[tuple[tuple[str, Callable[[Draw, World], str]], ...]] = [
    (
        ("{p.first} ate a [plate|bowl] of", lambda draw, world: draw.ranked(world.dishes).name),
        ("{p.first} picked some", lambda draw, world: draw.ranked(world.plants).name),
        ("{p.first} read [a page|the last chapter] of", lambda draw, world: draw.ranked(world.books).title),
        ("{p.first} was reminded of", lambda draw, world: draw.choice(words.FEARS)),
    ),
    (
        ("{p.first} [walked|ran|strolled|hurried] to the", lambda draw, world: draw.choice(words.SPOTS)),
        (
            "{p.first} played [a tune|a sad song|a march] on the",
            lambda draw, world: draw.choice([x for x in words.INSTRUMENTS if x not in words.ITEMS]),
        ),
        ("{p.first} met a stranger, {q.name}, the", lambda draw, world: draw.ranked(world.trades).noun),
        (
            "{p.first} [picked up|pocketed] the",
            lambda draw, world: f"{draw.choice(words.ITEM_LOOKS)} {draw.choice(words.ITEMS)}",
        ),
    ),
]


def _sort(draw: Draw, world: World, turn: bool) -> Item:
    """A verb, and what sort of thing it takes."""
    sorts = _SORTS[turn]
    values = [value(draw, world) for _, value in sorts]
    place = draw.number(0, 3)
    query = draw.say(sorts[place][0], p=draw.ranked(world.people), q=draw.ranked(world.people))
    return _item(draw, query, values[place], draw.sample(values[:place] + values[place + 1 :], 3))


def _day(draw: Draw, world: World, turn: bool) -> Item:
    """A meeting agreed on, and the day when it is said once more."""
    talk = _talk(draw, world)
    dialogues.plan(talk, world)
    day = next(day for day in WEEKDAYS if day in talk.lines[0])
    before, _, _ = talk.lines[-1].partition(f" {day}")
    return _item(
        draw, "\n".join([*talk.lines[:-1], before]), day, draw.sample([other for other in WEEKDAYS if other != day], 3)
    )


_SHORT = (
    news.theft_item,
    news.contest_item,
    news.prices_item,
    news.ship_item,
    news.notice_item,
    news.council_item,
    news.book_item,
    news.weather_item,
    news.lost_item,
)
_WRITERS: dict[str, tuple[Writer, ...]] = {
    "yes-no": (_bargain, _vote, _verdict),
    "entailment": tuple(map(_summary, _SHORT)),
    "story-ending": (_owner,),
    "pronouns": (_stranger, _of_friend, _relative, _of_entry),
    "facts-easy": tuple(_fact(_EASY, *fact) for fact in _FACTS),
    "facts-hard": tuple(_fact(_HARD, *fact) for fact in _FACTS),
    "common-sense": (_sort, _sort, _day),
}
