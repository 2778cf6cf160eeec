"""Stories with state: who is where, who has what, how many coins are left, what the weather does.

A `Scene` is the truth of one story. Events change it and are told; questions and endings are answered from it.
"""

from dataclasses import dataclass, field

from analysis.lab import words
from analysis.lab.draw import Draw, count, listing, number_word
from analysis.lab.names import MONTHS, WEEKDAYS
from analysis.lab.world import Person, Town, World


@dataclass
class Scene:
    """State of one story. `where`: person -> spot; `owner`: item -> person, or the spot where it lies; `hidden`: item
    -> hiding place.
    """

    draw: Draw
    world: World
    town: Town
    cast: list[Person]
    spots: list[str]
    where: dict[Person, str] = field(default_factory=dict)
    owner: dict[str, "Person | str"] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    purse: dict[Person, int] = field(default_factory=dict)
    weather: words.Weather | None = None
    last: Person | None = None
    lines: list[str] = field(default_factory=list)

    def tell(self, template: str, actor: Person, **slots) -> None:
        """Add a sentence about `actor`, in the template `{A}`: name, or pronoun if the last sentence was about the same
        person.
        """
        subject = actor.they if self.last is actor and self.draw.chance(0.6) else actor.first
        self.lines.append(self.draw.say(template, A=subject, a=actor, **slots))
        self.last = actor

    def add(self, template: str, **slots) -> None:
        """Add a sentence about nobody in particular."""
        self.lines.append(self.draw.say(template, **slots))
        self.last = None

    def held(self, person: Person) -> list[str]:
        """Items `person` carries."""
        return [item for item, owner in self.owner.items() if owner is person]

    def lying(self, spot: str) -> list[str]:
        """Items that lie at `spot`."""
        return [item for item, owner in self.owner.items() if owner == spot]

    def company(self, person: Person) -> list[Person]:
        """The others at the same spot."""
        return [other for other in self.cast if other is not person and self.where[other] == self.where[person]]


def story(draw: Draw, world: World) -> str:
    """One story of six to fourteen events about three people of one town."""
    scene = opening(draw, world)
    for _ in range(draw.number(6, 14)):
        actor = draw.choice(scene.cast)
        possible = [event for event, allowed in EVENTS if allowed(scene, actor)]
        draw.choice(possible)(scene, actor)
        if draw.chance(0.12):
            scene.lines[-1] += "\n"
            scene.last = None
    end_story(scene)
    return " ".join(scene.lines).replace("\n ", "\n")


def opening(draw: Draw, world: World) -> Scene:
    hero = draw.ranked(world.people)
    town = hero.home
    relations = draw.sample(hero.circle, 2)
    if len({hero.first, *(person.first for _, person in relations)}) < 3:
        relations = relations[:1]
    cast = [hero] + [person for _, person in relations]
    spots = draw.sample(words.SPOTS, 2) + draw.sample(
        [hero.trade.workplace, town.landmark, f"inn called the {town.inn}"], 2
    )
    scene = Scene(draw, world, town, cast, list(dict.fromkeys(spots)))
    scene.weather = draw.choice(words.WEATHERS)
    scene.add(
        "[On a|One] {w.adjective} {d} in {m}, {p.name}, the {p.trade.noun} of {t.name}, was [in no hurry|in a good"
        " mood|in a bad mood|looking for trouble|half asleep|late again|thinking about {p.fear}|busy {p.trade.work}].",
        w=scene.weather,
        d=draw.choice(WEEKDAYS),
        m=draw.choice(MONTHS),
        p=hero,
        t=town,
    )
    scene.last = hero
    for person in cast:
        scene.where[person] = draw.choice(scene.spots)
        scene.purse[person] = draw.number(2, 12)
    scene.tell(
        "{A} [was at|stood at|had gone to|waited at] the {s}[.| with {n} to spend.]",
        hero,
        s=scene.where[hero],
        n=_say_purse(scene, hero),
    )
    for kind, person in relations:
        scene.tell(
            "{p.their} {kind} {a.first}, [a {a.trade.noun}|who had {a.looks}|who was afraid of {a.fear}|known for"
            " {a.habit}], [was|was already|sat] at the {s}[| with a purse of {n}].",
            person,
            p=hero,
            kind=kind,
            s=scene.where[person],
            n=_say_purse(scene, person),
        )
    scene.owner[draw.choice(cast).treasure] = hero
    while len(scene.owner) < 3:
        scene.owner.setdefault(
            draw.choice(words.ITEM_LOOKS) + " " + draw.choice(words.ITEMS), draw.choice([*cast, *scene.spots])
        )
    for item, owner in scene.owner.items():
        if isinstance(owner, Person):
            scene.tell("{A} [had|carried|had brought|was holding] a {i}.", owner, i=item)
        else:
            scene.add(
                "[A {i} lay at the {s}|Somebody had left a {i} at the {s}|At the {s} there was a {i}].", i=item, s=owner
            )
    return scene


def _say_purse(scene: Scene, person: Person) -> str:
    return count(scene.purse[person], "coin")


def _walk(scene: Scene, actor: Person) -> None:
    to = scene.draw.choice([spot for spot in scene.spots if spot != scene.where[actor]])
    scene.where[actor] = to
    scene.tell("{A} [walked|went|ran|strolled|hurried|made {a.their} way|wandered] to the {s}.", actor, s=to)
    company, items = scene.company(actor), scene.lying(to)
    if company:
        (
            scene.add("{n} [was there already|was still there].", n=listing([p.first for p in company]))
            if len(company) == 1
            else scene.add("{n} were [both |]there.", n=listing([p.first for p in company]))
        )
    elif items and not any(item in scene.hidden for item in items):
        scene.add(
            "[There was|There lay] the {i}.", i=listing(items).replace(" and ", " and the ").replace(", ", ", the ")
        )
    else:
        scene.add("[Nobody was there|It was empty|There was no one about].")


def _take(scene: Scene, actor: Person) -> None:
    item = scene.draw.choice(scene.lying(scene.where[actor]))
    place = scene.hidden.pop(item, None)
    scene.owner[item] = actor
    if place:
        scene.tell("{A} looked {h} and found the {i}.", actor, i=item, h=place)
    else:
        scene.tell("{A} [picked up|took|pocketed|helped {a.themself} to] the {i}.", actor, i=item)


def _drop(scene: Scene, actor: Person) -> None:
    item = scene.draw.choice(scene.held(actor))
    scene.owner[item] = scene.where[actor]
    scene.tell("{A} [put down|left|forgot|dropped] the {i} at the {s}.", actor, i=item, s=scene.where[actor])


def _hide(scene: Scene, actor: Person) -> None:
    item = scene.draw.choice(scene.held(actor))
    scene.owner[item], scene.hidden[item] = scene.where[actor], scene.draw.choice(words.HIDES)
    scene.tell(
        "[When nobody was looking, {A}|{A} looked around and|Very quietly {A}] hid the {i} {h} at the {s}.",
        actor,
        i=item,
        h=scene.hidden[item],
        s=scene.where[actor],
    )


def _give(scene: Scene, actor: Person) -> None:
    partner, item = scene.draw.choice(scene.company(actor)), scene.draw.choice(scene.held(actor))
    scene.owner[item] = partner
    scene.tell(
        "{A} [gave|handed|lent|passed] the {i} to {b.first}[.|, who said thank you.|, who did not want it.|, with a"
        " bow.]",
        actor,
        i=item,
        b=partner,
    )


def _sell(scene: Scene, actor: Person) -> None:
    partner, item = (
        scene.draw.choice([p for p in scene.company(actor) if scene.purse[p] > 0]),
        scene.draw.choice(scene.held(actor)),
    )
    price = scene.draw.number(1, min(scene.purse[partner], 6))
    scene.purse[partner] -= price
    scene.purse[actor] += price
    scene.owner[item] = partner
    scene.tell("{A} sold the {i} to {b.first} for {n}.", actor, i=item, b=partner, n=count(price, "coin"))
    scene.add(
        "[Now {b.first} had {x} left|That left {b.first} with {x}], and {a.first} had {y}.",
        a=actor,
        b=partner,
        x=number_word(scene.purse[partner]) if scene.purse[partner] else "none",
        y=number_word(scene.purse[actor]),
    )


def _swap(scene: Scene, actor: Person) -> None:
    partner = scene.draw.choice([p for p in scene.company(actor) if scene.held(p)])
    item, exchange = scene.draw.choice(scene.held(actor)), scene.draw.choice(scene.held(partner))
    scene.owner[item], scene.owner[exchange] = partner, actor
    scene.tell("{A} [swapped|exchanged|traded] the {m} for {b.first}'s {y}.", actor, m=item, y=exchange, b=partner)


def _ask(scene: Scene, actor: Person) -> None:
    partner, item = scene.draw.choice(scene.company(actor)), scene.draw.choice(list(scene.owner))
    owner = scene.owner[item]
    if owner is partner:
        answer = "[I have it here|In my bag|I have got it]"
    elif owner is actor:
        answer = "[You have it yourself|In your own hands|You are carrying it]"
    elif isinstance(owner, Person):
        answer = f"[{owner.first} has it|Ask {owner.first}|{owner.first} took it]"
    else:
        answer = f"[At the {owner}|It is at the {owner}]" + (f", {scene.hidden[item]}" if item in scene.hidden else "")
    scene.tell('"Where is the {i}?" asked {a.first}.', actor, i=item)
    scene.lines.append(scene.draw.say(f'"{answer}," [said|answered|replied] {{b.first}}.', b=partner))
    scene.last = None


def _pet(scene: Scene, actor: Person) -> None:
    scene.tell(
        "{a.pet.name}, {a.their} {a.pet.kind}, [came along|was asleep|wanted supper|sat in the mud and would not"
        " move|made a rude noise].",
        actor,
    )
    items = scene.held(actor)
    if items and scene.draw.chance(0.5):
        item = scene.draw.choice(items)
        spot = scene.draw.choice(scene.spots)
        scene.owner[item] = spot
        scene.add("Then the {k} [ran off with|stole] the {i} and left it at the {s}.", k=actor.pet.kind, i=item, s=spot)


def _eat(scene: Scene, actor: Person) -> None:
    scene.tell(
        "{A} [ate|sat down and ate|finished|dreamed of] a [plate|bowl|second plate] of {d}, [as always|{a.their}"
        " favourite|and felt better|and then some more].",
        actor,
        d=actor.dish.name,
    )


def _fear(scene: Scene, actor: Person) -> None:
    scene.tell(
        "{A} [thought of|heard a tale about|was reminded of] {a.fear} and [turned pale|had to sit down|shivered|asked"
        " for a glass of water].",
        actor,
    )


def _habit(scene: Scene, actor: Person) -> None:
    scene.tell("{A} [spent an hour|passed the time|was caught] {a.habit}.", actor)


def _play(scene: Scene, actor: Person) -> None:
    scene.tell(
        "{A} played [a tune|a sad song|a march] on the {a.instrument}[.|, and a dog howled.|, and everyone clapped.|,"
        " badly.]",
        actor,
    )


def _earn(scene: Scene, actor: Person) -> None:
    pay = scene.draw.number(1, 5)
    scene.purse[actor] += pay
    scene.tell(
        "{A} earned {n} by {a.trade.work}, and now had {t}.",
        actor,
        n=count(pay, "coin"),
        t=number_word(scene.purse[actor]),
    )


def _weather(scene: Scene, actor: Person) -> None:
    scene.weather = scene.draw.choice(words.WEATHERS)
    scene.add("[Then|After a while|Soon|All at once|An hour later] {w.clause}.", w=scene.weather)


def _sight(scene: Scene, actor: Person) -> None:
    scene.tell(
        "{A} [told everyone|remarked|could not help saying] that the {t.landmark} of {t.name} {t.landmark_tale}.",
        actor,
        t=scene.town,
    )


def _stranger(scene: Scene, actor: Person) -> None:
    visitor = scene.draw.ranked(scene.world.people)
    if visitor in scene.cast or visitor.home is scene.town:
        scene.add("[The geese crossed the road|A cart went by|A dog barked|The church bell rang].")
        return
    scene.tell(
        "{A} met [a stranger|a traveller], {v.name}, [the {v.trade.noun} from {v.home.name}|who came from {v.home.name}"
        " and sold {v.trade.product}|who had {v.looks} and a {v.pet.kind} called {v.pet.name}].",
        actor,
        v=visitor,
    )
    scene.add(
        "[{V} was looking for {f.name}|{V} asked the way to {n.name}|{V} had lost a {v.treasure}|{V} talked about"
        " {v.habit}].",
        V=visitor.they.capitalize(),
        v=visitor,
        f=visitor.friend,
        n=visitor.home.neighbours[1],
    )


def _read(scene: Scene, actor: Person) -> None:
    book = scene.draw.ranked(scene.world.books)
    scene.tell(
        "{A} read [a page|ten pages|the last chapter|the first line] of {b.title}, by {b.author.name}[.|, and fell"
        " asleep.|, and laughed.]",
        actor,
        b=book,
    )


def _creature(scene: Scene, actor: Person) -> None:
    animal = scene.draw.ranked(scene.world.animals)
    scene.tell("{A} [saw|followed|fed|startled] a {x.name}, which {x.habit}.", actor, x=animal)


def _herb(scene: Scene, actor: Person) -> None:
    herb = scene.draw.ranked(scene.world.plants)
    scene.tell("{A} picked some {h.name}, [which is good for {h.use}|with its {h.colour} flowers].", actor, h=herb)


EVENTS = [
    (_walk, lambda s, a: True),
    (_walk, lambda s, a: True),
    (_take, lambda s, a: bool(s.lying(s.where[a]))),
    (_take, lambda s, a: bool(s.lying(s.where[a]))),
    (_drop, lambda s, a: bool(s.held(a))),
    (_hide, lambda s, a: bool(s.held(a))),
    (_give, lambda s, a: bool(s.held(a) and s.company(a))),
    (_give, lambda s, a: bool(s.held(a) and s.company(a))),
    (_sell, lambda s, a: bool(s.held(a)) and any(s.purse[p] > 0 for p in s.company(a))),
    (_swap, lambda s, a: bool(s.held(a)) and any(s.held(p) for p in s.company(a))),
    (_ask, lambda s, a: bool(s.company(a))),
    (_ask, lambda s, a: bool(s.company(a))),
    (_pet, lambda s, a: True),
    (_eat, lambda s, a: True),
    (_fear, lambda s, a: True),
    (_habit, lambda s, a: True),
    (_play, lambda s, a: True),
    (_earn, lambda s, a: True),
    (_weather, lambda s, a: True),
    (_stranger, lambda s, a: True),
    (_read, lambda s, a: True),
    (_creature, lambda s, a: True),
    (_herb, lambda s, a: True),
    (_sight, lambda s, a: True),
]


def end_story(scene: Scene) -> None:
    """Say where everything is, from the state alone."""
    draw = scene.draw
    scene.add(
        "[That was the end of the day|So the day ended|At last the bells rang for supper|Then everyone had had"
        " enough][.|, and still {w.clause}.]",
        w=scene.weather,
    )
    for item in draw.sample(list(scene.owner), 3):
        owner = scene.owner[item]
        if isinstance(owner, Person):
            scene.add(
                "[{p.first} had the {i}|The {i} belonged to {p.first} now|The {i} was with {p.first}].", p=owner, i=item
            )
        elif item in scene.hidden:
            scene.add("The {i} was [still |]hidden {h} at the {s}.", i=item, s=owner, h=scene.hidden[item])
        else:
            scene.add("[The {i} lay at the {s}|The {i} was at the {s}].", i=item, s=owner)
    for person in draw.sample(scene.cast, draw.number(1, len(scene.cast))):
        scene.add(
            "{p.first} [was at the {s}|went home from the {s}|slept at the {s}][.|, {n} in {p.their} purse.]",
            p=person,
            s=scene.where[person],
            n=count(scene.purse[person], "coin"),
        )
