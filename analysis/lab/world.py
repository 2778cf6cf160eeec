"""A small country and everything that is true in it.

`World(seed)` deals out some three thousand people in families, a hundred and forty towns, animals, plants, dishes,
books and ships, each with fixed facts. Popularity follows Zipf's law: `world.people` and the other collections are
ordered from the most talked about to the least, and writers draw from them with those probabilities. Nothing here
changes while documents are written; what happens inside a story is that story's own state.
"""

import functools
import random
from dataclasses import dataclass, field

from analysis.lab import words
from analysis.lab.draw import Ranked
from analysis.lab.names import MONTHS, family_names, given_names, town_names

TODAY = 460
"""The current year of the world: everybody is born before it."""


@dataclass(frozen=True, slots=True)
class Trade:
    """What a person does for a living. `noun` takes an article; `work` is a gerund phrase; `product` a plural or mass
    noun.
    """

    noun: str
    workplace: str
    tool: str
    product: str
    work: str


@dataclass(eq=False, slots=True)
class Town:
    """A place with a name. `product` is what it is known for; `neighbours` are one day's walk away."""

    name: str
    region: str
    water: str
    founded: int
    product: str
    landmark: str
    landmark_tale: str
    festival: str
    month: str
    inn: str
    souls: int
    mayor: "Person | None" = field(default=None, repr=False)
    founder: "Person | None" = field(default=None, repr=False)
    neighbours: "list[Town]" = field(default_factory=list, repr=False)
    residents: "list[Person]" = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class Pet:
    """An animal with an owner: its kind (`parrot`) and its name."""

    kind: str
    name: str


@dataclass(eq=False, slots=True)
class Person:
    """Somebody, with pronouns and facts. `relatives` maps `mother`, `father`, `husband`, `wife` to people."""

    first: str
    last: str
    they: str
    born: int
    birthplace: Town = field(repr=False)
    home: Town = field(repr=False)
    trade: Trade
    looks: str
    habit: str
    fear: str
    instrument: str
    treasure: str
    pet: Pet
    dish: "Dish" = field(repr=False)
    relatives: "dict[str, Person]" = field(default_factory=dict, repr=False)
    siblings: "list[Person]" = field(default_factory=list, repr=False)
    children: "list[Person]" = field(default_factory=list, repr=False)
    friend: "Person | None" = field(default=None, repr=False)
    rival: "Person | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """First name and surname."""
        return f"{self.first} {self.last}"

    @property
    def them(self) -> str:
        """Object pronoun."""
        return "her" if self.they == "she" else "him"

    @property
    def their(self) -> str:
        """Possessive pronoun."""
        return "her" if self.they == "she" else "his"

    @property
    def themself(self) -> str:
        """Reflexive pronoun."""
        return self.them + "self"

    @property
    def spouse(self) -> "Person | None":
        """Wife or husband, if there is one."""
        return self.relatives.get("wife") or self.relatives.get("husband")

    @property
    def circle(self) -> "list[tuple[str, Person]]":
        """People close to this one, as (relation, person): relatives, siblings, children, friend, rival."""
        return list(_circle(self))


@dataclass(eq=False, slots=True)
class Dish:
    """Something to eat: `name` takes an article. Ingredients are singular count nouns or mass nouns."""

    name: str
    form: str
    vessel: str
    ingredients: tuple[str, ...]
    town: Town = field(repr=False)
    inventor: "Person | None" = field(default=None, repr=False)
    minutes: int = 30


@dataclass(eq=False, slots=True)
class Animal:
    """A species (`copper finch`): where it lives, what it eats, what it is known to do."""

    name: str
    kind: str
    habitat: str
    food: str
    habit: str
    legend: str
    legs: int
    region: str


@dataclass(eq=False, slots=True)
class Plant:
    """A herb: where it grows, the colour and month of its flowers, what it is good for."""

    name: str
    colour: str
    habitat: str
    month: str
    use: str
    town: Town = field(repr=False)


@dataclass(eq=False, slots=True)
class Book:
    """A book, its author, its year, and what readers say of it."""

    title: str
    author: Person = field(repr=False)
    year: int
    pages: int
    printed_in: Town = field(repr=False)


@dataclass(eq=False, slots=True)
class Ship:
    """A ship, its captain, home port and usual cargo."""

    name: str
    captain: Person = field(repr=False)
    port: Town = field(repr=False)
    cargo: str
    built: int
    masts: int


class World:
    """Everything there is, a function of `seed` alone; every collection is a `Ranked` list, most popular first."""

    def __init__(self, seed: int = 0, *, families: int = 780, towns: int = 140):
        rng = random.Random(f"world {seed}")
        self.seed = seed
        self.trades = Ranked([Trade(*entry) for entry in words.TRADES])
        self.towns = Ranked(_towns(rng, towns))
        self.dishes = Ranked(_dishes(rng, self.towns))
        self.people = Ranked(_people(rng, self, families))
        for town in self.towns:
            town.residents.sort(key=lambda person: self.rank[person])
            town.mayor, town.founder = rng.choice(town.residents), rng.choice(self.people)
        for dish in self.dishes:
            dish.inventor = rng.choice(dish.town.residents)
        self.animals = Ranked(_animals(rng))
        self.plants = Ranked(_plants(rng, self.towns))
        self.books = Ranked(_books(rng, self))
        self.ships = Ranked(_ships(rng, self))

    @functools.cached_property
    def rank(self) -> dict[Person, int]:
        """Position of each person in `people`, 0 for the most popular."""
        return {person: index for index, person in enumerate(self.people)}


def _circle(person: Person):
    yield from person.relatives.items()
    for sibling in person.siblings[:2]:
        yield ("sister" if sibling.they == "she" else "brother"), sibling
    for child in person.children[:2]:
        yield ("daughter" if child.they == "she" else "son"), child
    if person.friend is not None:
        yield "friend", person.friend
    if person.rival is not None:
        yield "rival", person.rival


def _towns(rng: random.Random, number: int) -> list[Town]:
    inns = sorted({f"{head} {tail}" for head in words.INN_HEADS for tail in words.INN_TAILS})
    towns = [
        Town(
            name,
            rng.choice(words.REGIONS),
            rng.choice(words.WATERS),
            rng.randint(40, 300),
            rng.choice(words.PRODUCTS),
            rng.choice(words.LANDMARKS),
            rng.choice(words.LANDMARK_TALES),
            rng.choice(words.FESTIVALS),
            rng.choice(MONTHS),
            rng.choice(inns),
            100 * rng.randint(2, 60),
        )
        for name in town_names(rng, number)
    ]
    for index, town in enumerate(towns):
        town.neighbours = [towns[(index + step) % number] for step in (-3, -1, 1, 3)]
    return towns


def _dishes(rng: random.Random, towns: list[Town]) -> list[Dish]:
    every = sorted(words.COUNTED) + sorted(words.MEASURED)
    dishes: dict[str, Dish] = {}
    while len(dishes) < 120:
        form = rng.choice(sorted(words.FORMS))
        first, second = rng.choice(sorted(words.COUNTED)), rng.choice(every)
        town = rng.choice(towns)
        name = f"{town.name} {form}" if rng.random() < 0.4 else f"{first} and {second} {form}"
        others = [thing for thing in rng.sample(every, 5) if thing not in (first, second)][:3]
        if first != second and name not in dishes:
            dishes[name] = Dish(
                name, form, words.FORMS[form], (first, second, *others), town, None, 5 * rng.randint(2, 18)
            )
    return list(dishes.values())


def _people(rng: random.Random, world: World, families: int) -> list[Person]:
    taken: set[str] = set()
    pools = {they: given_names(rng, they, 320, taken) for they in ("she", "he")}
    dishes, towns = Ranked(world.dishes, 4.0), Ranked(world.towns, 6.0)
    used: set[tuple[str, str]] = set()

    def person(they: str, last: str, born: int, birthplace: Town, home: Town) -> Person:
        first = next(name for name in iter(lambda: rng.choice(pools[they]), None) if (name, last) not in used)
        used.add((first, last))
        treasure = f"{rng.choice(words.ITEM_LOOKS)} {rng.choice(words.ITEMS)}"
        one = Person(
            first,
            last,
            they,
            born,
            birthplace,
            home,
            rng.choice(world.trades),
            rng.choice(words.LOOKS),
            rng.choice(words.HABITS),
            rng.choice(words.FEARS),
            rng.choice(words.INSTRUMENTS),
            treasure,
            Pet(rng.choice(words.PETS), rng.choice(words.PET_NAMES)),
            dishes[dishes.find(rng.random())],
        )
        home.residents.append(one)
        return one

    def somewhere() -> Town:
        return towns[towns.find(rng.random())]

    everyone = []
    for index, last in enumerate(family_names(rng, families)):
        home = world.towns[index] if index < len(world.towns) else somewhere()
        mother = person("she", last, rng.randint(395, 410), somewhere(), home)
        father = person("he", last, rng.randint(390, 410), somewhere(), home)
        mother.relatives["husband"], father.relatives["wife"] = father, mother
        children = [
            person(rng.choice(("she", "he")), last, born, home, home if rng.random() < 0.6 else somewhere())
            for born in sorted(rng.sample(range(420, 446), rng.choice((0, 1, 2, 2, 3, 3))))
        ]
        for child in children:
            child.relatives.update(mother=mother, father=father)
            child.siblings = [other for other in children if other is not child]
        mother.children = father.children = children
        everyone += [mother, father, *children]
    _acquaint(rng, everyone)
    rng.shuffle(everyone)
    return everyone


def _acquaint(rng: random.Random, everyone: list[Person]) -> None:
    """Give everybody a friend and a rival of another family, from home where home is large enough."""
    for person in everyone:
        near = [other for other in person.home.residents if other.last != person.last]
        pool = near if len(near) >= 4 else [other for other in rng.sample(everyone, 12) if other.last != person.last]
        person.friend, person.rival = rng.sample(pool, 2)


def _animals(rng: random.Random) -> list[Animal]:
    legs = {
        "beetle": 6,
        "moth": 6,
        "crab": 8,
        "pike": 0,
        "trout": 0,
        **dict.fromkeys(["finch", "heron", "wren", "crane", "swan", "kestrel", "bat"], 2),
    }
    pairs = rng.sample(sorted((look, kind) for look in words.SPECIES_LOOKS for kind in words.SPECIES), 110)
    animals = []
    for look, kind in pairs:
        habitat, food = rng.choice(words.HABITATS), rng.choice(words.ANIMAL_FOODS)
        habit, legend = rng.sample(words.ANIMAL_HABITS, 2)
        region = rng.choice(words.REGIONS)
        animals.append(Animal(f"{look} {kind}", kind, habitat, food, habit, legend, legs.get(kind, 4), region))
    return animals


def _plants(rng: random.Random, towns: list[Town]) -> list[Plant]:
    return [
        Plant(
            name,
            rng.choice(words.COLOURS),
            rng.choice(words.HABITATS),
            rng.choice(MONTHS),
            rng.choice(words.PLANT_USES),
            rng.choice(towns),
        )
        for name in rng.sample(words.PLANTS, len(words.PLANTS))
    ]


def _books(rng: random.Random, world: World) -> list[Book]:
    titles = rng.sample(sorted(f"{head} {topic}" for head in words.BOOK_HEADS for topic in words.BOOK_TOPICS), 160)
    authors = rng.sample(world.people[:1200], 160)
    return [
        Book(
            title,
            author,
            min(author.born + rng.randint(18, 50), TODAY),
            10 * rng.randint(4, 60),
            rng.choice(world.towns),
        )
        for title, author in zip(titles, authors)
    ]


def _ships(rng: random.Random, world: World) -> list[Ship]:
    names = rng.sample(sorted(f"{head} {tail}" for head in words.SHIP_HEADS for tail in words.SHIP_TAILS), 70)
    return [
        Ship(
            name, captain, rng.choice(world.towns), rng.choice(words.CARGOES), rng.randint(400, 455), rng.randint(1, 4)
        )
        for name, captain in zip(names, rng.sample(world.people[:1500], 70))
    ]
