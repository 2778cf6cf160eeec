"""Labelled examples about the lab's world, drawn without end: what an encoder is fine-tuned and scored on.

Four sets stand where a study of encoders has SST-2 or BoolQ, RTE, STS-B and SQuAD. Classes are drawn by turns, so half
of the examples are of either; wrong statements are made of the words of right ones (another subject's fact, another
name of the passage, the price of last week), so that neither length, nor frequency, nor the words in common give the
answer away. `train` and `held-out` share no example: of two texts that are alike both fall on one side.
"""

import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from analysis.lab import news, stories, words
from analysis.lab.documents import check_request, default_world
from analysis.lab.draw import Draw, capital, listing, tidy
from analysis.lab.example_facts import FACTS, PEOPLE, PLACES, Fact
from analysis.lab.names import MONTHS
from analysis.lab.tasks import popular, until
from analysis.lab.world import Person, World

Draws = Callable[[Draw, World, bool], "Example | None"]


@dataclass(frozen=True, slots=True)
class Example:
    """One example. `first`: sentence, first of two, or question; `second`: second sentence, passage, or None.

    `label`: number of the class, score, or (start, stop) characters of the answer in `second`.
    """

    first: str
    second: str | None
    label: int | float | tuple[int, int]


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """What a set asks: `head` is "classification", "regression" or "span"; `classes` their names, () otherwise;
    `metric` what answers are scored by; `scores` the lowest and the highest score of a regression.
    """

    head: str
    classes: tuple[str, ...]
    metric: str
    meaning: str
    scores: tuple[float, float] | None = None


EXAMPLES: dict[str, ExampleSet] = {
    "truth": ExampleSet(
        "classification",
        ("false", "true"),
        "accuracy",
        "a sentence about the world, which is true or was true of another subject",
    ),
    "entailment": ExampleSet(
        "classification",
        ("not_entailment", "entailment"),
        "accuracy",
        "a statement, and a passage, an item of a newspaper or the start of a story that says so or does not (RTE)",
    ),
    "similarity": ExampleSet(
        "regression",
        (),
        "spearman",
        "two texts about the same person or town, and on how many of five facts they agree (STS-B)",
        (0, 5),
    ),
    "answers": ExampleSet("span", (), "f1", "a question, and a passage in which the answer stands (SQuAD)"),
}

_HELD_OUT = 5  # one text in so many
_SUSPECTS = re.compile(r"(?<=Suspicion fell on )[^.]*")
_LONGEST = 370  # characters of both texts together: some 150 tokens of the lab's encoder


def examples(name: str, *, split: str = "train", seed: int = 0, start: int = 0) -> Iterator[Example]:
    """Endless examples of one set, a function of (name, split, seed) alone, from number `start` on; every stretch of
    them mixes the set's kinds and classes evenly.

    `train` and `held-out` share no example, whatever their seeds. Raises `UsageError` for an unknown set or split.
    """
    check_request("examples", "set", name, EXAMPLES, split)
    return _stream(name, split, seed, start)


def _stream(name: str, split: str, seed: int, start: int) -> Iterator[Example]:
    world, kinds = default_world(), _KINDS[name]
    for number in itertools.count(start):
        turn, kind = divmod(number, len(kinds))
        draw = Draw(f"{split}/examples {name}/{seed}/{number}")
        example = None
        while example is None or not _fits(example, split):
            example = kinds[kind](draw, world, turn % 2 == 0)
        yield example


def _fits(example: Example, split: str) -> bool:
    """Whether an example is short enough and of the split: its longer text decides, so that a passage is on one side
    alone.
    """
    text = max(example.first, example.second or "", key=len)
    held_out = zlib.crc32(text.encode()) % _HELD_OUT == 0
    return held_out == (split == "held-out") and len(example.first) + len(example.second or "") <= _LONGEST


# truth


_SAID_BY = (
    "[|[it is said that|everyone knows that|people say that|I have read that|it is true that|as everyone knows,|one"
    " hears that]|[{q.first} says that|{q.first} told me that|{q.first} knows that|according to {q.first},|I heard from"
    " {q.first} that|ask {q.first}:|in {q.home.name} they say that]] "
)


def _statement(kind: str, ranks: int, fact: Fact, facts: list[Fact]) -> Draws:
    def write(draw: Draw, world: World, true: bool) -> Example | None:
        part = popular(kind, 0, ranks)
        x, y = draw.ranked(part), draw.ranked(part)
        value = fact.value(x if true else y)
        if fact.value(y) in [other.value(x) for other in facts]:
            return None
        said = draw.phrase(_SAID_BY, q=draw.choice(world.people)) + draw.phrase(
            fact.statement, s=fact.name(x), g=f"{fact.name(x)}'s", x=x, v=value
        )
        return Example(tidy(capital(said.strip()) + "."), None, int(true))

    return write


# entailment: what a passage says, or the same with another value, another of its own words or of its people


def _contest(draw: Draw, text: str, tail: str) -> str | None:
    name, feast = tail.split(" won the ")
    others = [other for other in re.findall(r"(?:^|\. )(\w+) \w+, (?:the|with) ", text) if other != name]
    return f"{draw.choice(others)} won the {feast}" if others else None


def _prices(draw: Draw, text: str, tail: str) -> str:
    good, price = tail.split(" cost ")
    before = re.findall(rf"\b{good}, (\w+) coins? last week", text, re.IGNORECASE)[0]
    return f"{good} cost {before}"


def _council(draw: Draw, text: str, tail: str) -> str:
    return (
        tail.removesuffix("agreed") + "refused" if tail.endswith("agreed") else tail.removesuffix("refused") + "agreed"
    )


def _weather(draw: Draw, text: str, tail: str) -> str:
    today = next(weather for weather in words.WEATHERS if weather.clause in text)
    return f"{today.noun} tomorrow"


def _notice(draw: Draw, text: str, tail: str) -> str:
    name, kind = tail.split(" is a ")
    return f"{name} is a {draw.choice([other for other in words.PETS if other != kind])}"


def _item(kind: Callable, wrong: Callable[[Draw, str, str], str | None]) -> Draws:
    def write(draw: Draw, world: World, true: bool) -> Example | None:
        town = draw.ranked(world.towns)
        if len(town.residents) < 4:
            return None
        text, tail = kind(draw, world, town, draw.choice(MONTHS))
        false = wrong(draw, text, tail)
        return (
            None
            if false in (None, tail)
            else Example(tidy(capital(tail if true else false) + "."), _brief(text), int(true))
        )

    return write


def _two(draw: Draw, kind: str, facts: dict[str, Fact]) -> tuple | None:
    """A passage about two subjects, one after the other: (text, a fact told of one of them, that one, where its value
    stands, its value).

    In three of ten passages the fact is told of both.
    """
    pair = draw.sample(popular(kind, 0, 140), 2)
    first, *others = draw.sample(list(facts), 4)
    both, fact, who = draw.chance(0.3), facts[first], draw.number(0, 1)
    values = [fact.value(one) for one in pair]
    if values[0] == values[1] or fact.short(pair[0]) == fact.short(pair[1]):
        return None
    place, text = None, ""
    for subject in draw.sample((0, 1), 2):
        keys = [first, *others[:2]] if both or subject == who else others
        for number, key in enumerate(draw.sample(keys, 3)):
            sentence = tidy(
                facts[key].sentence(
                    draw, pair[subject], facts[key].value(pair[subject]), again=number > 0 and draw.chance(0.6)
                )
            )
            if subject == who and key == first:
                place = len(text) + sentence.rfind(values[who]) if values[who] in sentence else None
            text += sentence + " "
    if place is None or (not both and values[1 - who] in text):
        return None
    return text.strip(), fact, pair[who], place, values[who]


def _follows(kind: str, facts: dict[str, Fact], number: int) -> Draws:
    def write(draw: Draw, world: World, true: bool) -> Example | None:
        """`number` facts of a subject, and one of them said again, right or with the value of somebody else."""
        subject, stranger = draw.sample(popular(kind, 0, 140), 2)
        keys = draw.sample(list(facts), number)
        text = " ".join(
            facts[key].sentence(draw, subject, facts[key].value(subject), again=place > 0)
            for place, key in enumerate(keys)
        )
        fact = facts[draw.choice(keys)]
        if fact.value(stranger) in text:
            return None
        return Example(
            tidy(fact.sentence(draw, subject, fact.value(subject if true else stranger), again=False)),
            tidy(text),
            int(true),
        )

    return write


def _brief(text: str) -> str:
    """An item of news in finished text, trades of suspects and of victims left out."""
    return _SUSPECTS.sub(
        lambda match: re.sub(r" the [a-z ]+?(?=,| and |$)", "", match[0]),
        tidy(re.sub(r"(from the house of \w+ \w+), [a-z ]+,", r"\1", text)),
    )


def _owner(draw: Draw, world: World, true: bool) -> Example | None:
    """Three people in one place, what they carry, and who has one of the things."""
    hero = draw.ranked(world.people)
    cast = list(dict.fromkeys([hero, *(person for _, person in draw.sample(hero.circle, 2))]))
    if len({person.first for person in cast}) < 3:
        return None
    spot = draw.choice(words.SPOTS)
    scene = stories.Scene(draw, world, hero.home, cast, [spot], purse={person: draw.number(2, 12) for person in cast})
    scene.add(
        "[One {w.adjective} day |]{n} were [all |]at the {s}.",
        w=draw.choice(words.WEATHERS),
        n=listing([person.first for person in cast]),
        s=spot,
    )
    owners: dict[str, Person] = {}
    while len(owners) < 3:
        owners.setdefault(f"{draw.choice(words.ITEM_LOOKS)} {draw.choice(words.ITEMS)}", draw.choice(cast))
    for thing, owner in owners.items():
        scene.tell("{A} [had|carried|had brought|was holding] a {i}.", owner, i=thing)
    thing, owner = draw.choice(list(owners.items()))
    holder = owner if true else draw.choice([person for person in cast if person is not owner])
    return Example(
        tidy(draw.say("[{p.first} has the {i}|the {i} is with {p.first}].", p=holder, i=thing)),
        tidy(" ".join(scene.lines)),
        int(true),
    )


# similarity: five facts told twice, some of them with another value in the second text


def _agreement(kind: str, facts: dict[str, Fact]) -> Draws:
    def write(draw: Draw, world: World, turn: bool) -> Example | None:
        part = popular(kind, 0, 140)
        one, keys, agreed = draw.choice(part), draw.sample(list(facts), 5), draw.number(0, 5)
        said = {key: facts[key].value(one) for key in keys}
        again = dict(said)
        for key in draw.sample(keys, 5 - agreed):

            def attempt(fact: Fact = facts[key]) -> tuple | None:
                value = fact.value(draw.choice(part))
                return None if value in said.values() else (value,)

            (again[key],) = until(attempt)
        return Example(_told(draw, one, facts, said), _told(draw, one, facts, again), float(agreed))

    return write


def _told(draw: Draw, one, facts: dict[str, Fact], values: dict[str, str]) -> str:
    """The facts as a short text, the subject named first."""
    return tidy(
        " ".join(
            facts[key].sentence(draw, one, value, again=place > 0) for place, (key, value) in enumerate(values.items())
        )
    )


# answers: a question about one of two subjects of a passage, or about an item of news


def _asked(kind: str, facts: dict[str, Fact]) -> Draws:
    def write(draw: Draw, world: World, turn: bool) -> Example | None:
        passage = _two(draw, kind, facts)
        if passage is None:
            return None
        text, fact, subject, place, value = passage
        question = tidy(draw.say(fact.question, s=fact.short(subject), x=subject))
        return Example(question, text, (place, place + len(value)))

    return write


_NEWS: dict[
    Callable, list[tuple[str, str]]
] = {  # question about what the first group names, and where the answer is the last group
    news.theft_item: [
        (
            r"()(?:found with|in the attic of|It was|, but) (\w+)(?:,| has left)",
            "[who is the thief|with whom was it found|who took it]?",
        )
    ],
    news.contest_item: [
        (
            r"(\w+) \w+, (?:the|with) [^,.]*, (?:had|scored|came home with) (\w+) points?",
            "how many points [had {0}|did {0} score]?",
        ),
        (r"()(?:winner is|went to|First was) (\w+)", "[who won|who was first|who got the prize]?"),
        (r"()(\w+), with \w+ points?, was last", "who was last?"),
    ],
    news.prices_item: [
        (r"(?:: |; )(\w+), \w+ coins? last week, (\w+) now", "[what do {0} cost now|what is the price of {0} now]?"),
        (r"(?:: |; )(\w+), (\w+) coins? last week", "[what did {0} cost last week|what was the price of {0}]?"),
    ],
    news.ship_item: [
        (r"()with (\w+ crates?) of", "how many crates [were there|did she bring]?"),
        (r"()crates? of ([\w ]+)\.", "what [was the cargo|did the ship bring]?"),
    ],
    news.council_item: [
        (r"()\. (\w+) voted for", "how many voted for it?"),
        (r"()and (\w+) against", "how many [voted|were] against it?"),
    ],
    news.weather_item: [
        (r"()(?:expect|promises) ([\w ]+?)[,.]", "[what will the weather be|what is expected for] tomorrow?")
    ],
    news.lost_item: [
        (r"()\. (?:The owner, )?(\w+ \w+),? (?:offers|will pay)", "[who lost something|who offers a reward]?"),
        (r"()Lost (?:at|near) the ([\w ]+):", "where was it lost?"),
        (r"()(?:brought to|ask for) (\w+ \w+) at", "[who takes it|to whom may it be brought]?"),
        (r"()ask for \w+ \w+ at the ([\w' ]+)\.", "[where is it taken|where must one ask]?"),
    ],
}


def _reported(kind: Callable) -> Draws:
    def write(draw: Draw, world: World, turn: bool) -> Example | None:
        town = draw.ranked(world.towns)
        if len(town.residents) < 4:
            return None
        passage = _brief(kind(draw, world, town, draw.choice(MONTHS))[0])
        pattern, question = draw.choice(_NEWS[kind])
        matches = list(re.finditer(pattern, passage))
        if not matches:
            return None
        match = draw.choice(matches)
        return Example(tidy(draw.say(question.replace("{0}", match[1]))), passage, match.span(match.lastindex))

    return write


_PERSON = {key: PEOPLE[key] for key in ("trade", "looks", "habit", "fear", "instrument", "pet")}
_PLACE = {key: PLACES[key] for key in ("product", "landmark", "festival", "month", "water", "region")}
_WRONG = {
    news.contest_item: _contest,
    news.prices_item: _prices,
    news.council_item: _council,
    news.weather_item: _weather,
    news.notice_item: _notice,
}
_KINDS: dict[str, tuple[Draws, ...]] = {
    "truth": tuple(
        _statement(kind, ranks, fact, list(facts.values()))
        for kind, (ranks, facts) in FACTS.items()
        for fact in facts.values()
    ),
    "entailment": (
        *(_follows("people", _PERSON, number) for number in (1, 1, 2, 3)),
        *(_follows("towns", _PLACE, number) for number in (1, 1, 2, 3)),
        *(_item(kind, wrong) for kind, wrong in _WRONG.items()),
        _owner,
    ),
    "similarity": (_agreement("people", _PERSON), _agreement("towns", _PLACE)),
    "answers": (*[_asked("people", PEOPLE)] * 5, *[_asked("towns", PLACES)] * 3, *(_reported(kind) for kind in _NEWS)),
}
