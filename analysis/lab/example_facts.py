"""Facts of the lab's world as single sentences and as questions: what the labelled examples are made of.

A template is filled with the subject `{s}`, `{g}` (the subject's, her, its), what is said of it `{v}`, and `{x}`, the
person or thing itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.lab.draw import Draw
from analysis.lab.world import Animal, Book, Person, Ship


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is so of every subject of a kind: its value, ways to say it (no full stop), ways to ask for it."""

    value: Callable[[Any], str]
    statement: str
    question: str = ""

    def name(self, x) -> str:
        """The subject by its full name."""
        if isinstance(x, Book):
            return x.title
        return f"the {x.name}" if isinstance(x, Ship | Animal) else x.name

    def short(self, x) -> str:
        """The subject by the name it is called by: people by their first."""
        return x.first if isinstance(x, Person) else x.name

    def sentence(self, draw: Draw, x, value: str, *, again: bool) -> str:
        """A sentence that says `value` of `x`; `again`: of whom the sentence before spoke, so a pronoun."""
        pronoun, possessive = (x.they, x.their) if isinstance(x, Person) else ("it", "its")
        return (
            draw.say(
                self.statement,
                s=pronoun if again else self.short(x),
                g=possessive if again else f"{self.short(x)}'s",
                x=x,
                v=value,
            )
            + "."
        )


PEOPLE: dict[str, Fact] = {
    "trade": Fact(
        lambda p: p.trade.noun,
        "[{s} is a|{s} works as a|{g} trade is that of a] {v}",
        "[what is {s}'s trade|what does {s} do for a living]?",
    ),
    "home": Fact(
        lambda p: p.home.name, "[{s} lives in|{g} home is in] {v}", "[where does {s} live|where is {s}'s home]?"
    ),
    "birthplace": Fact(
        lambda p: p.birthplace.name,
        "[{s} was born in|{s} comes from|{s} grew up in] {v}",
        "[where was {s} born|where did {s} grow up]?",
    ),
    "looks": Fact(
        lambda p: p.looks,
        "{s} [can be recognised by|is easily known by|has] {v}",
        "[what does {s} look like|how would one know {s}]?",
    ),
    "habit": Fact(
        lambda p: p.habit,
        "[{s} is known for|{s} has a habit of|neighbours complain of {g}] {v}",
        "[what is {s} known for|what is {s}'s habit]?",
    ),
    "fear": Fact(
        lambda p: p.fear,
        "[{s} is afraid of|{s} is terrified of|{g} great fear is] {v}",
        "[what is {s} afraid of|what frightens {s}]?",
    ),
    "instrument": Fact(
        lambda p: p.instrument, "[{s} plays the|{g} instrument is the] {v}", "what [instrument |]does {s} play?"
    ),
    "treasure": Fact(
        lambda p: p.treasure,
        "{g} [dearest possession|greatest treasure] is a {v}",
        "[what is {s}'s treasure|what does {s} own]?",
    ),
    "pet": Fact(
        lambda p: p.pet.kind,
        "[{s} keeps a|{s} has a|{g} pet is a] {v}",
        "[what animal does {s} keep|what pet has {s}]?",
    ),
    "dish": Fact(
        lambda p: p.dish.name,
        "[{g} favourite dish is|{s} likes to eat] {v}",
        "[what does {s} like to eat|what is {s}'s favourite dish]?",
    ),
    "friend": Fact(
        lambda p: p.friend.name, "[{g} best friend is|{s} is a friend of] {v}", "who is {s}'s [best |]friend?"
    ),
    "rival": Fact(
        lambda p: p.rival.name,
        "{s} [does not speak to|has an old feud with|has quarrelled for years with] {v}",
        "[with whom does {s} quarrel|who is {s}'s enemy]?",
    ),
}

PLACES: dict[str, Fact] = {
    "product": Fact(
        lambda t: t.product,
        "[{s} is known for|{s} is famous for|{s} draws visitors with] {v}",
        "what is {s} known for?",
    ),
    "landmark": Fact(
        lambda t: t.landmark,
        "[{g} chief sight is the|{s} has a|{s} shows everyone its] {v}",
        "[what is there to see in {s}|what is {s}'s chief sight]?",
    ),
    "festival": Fact(
        lambda t: t.festival,
        "[{g} feast is the|{s} holds the|every year {s} holds the] {v}",
        "what feast [does {s} hold|is held in {s}]?",
    ),
    "month": Fact(lambda t: t.month, "[{g} feast is in|{s} holds its feast in] {v}", "when is the feast [of|in] {s}?"),
    "water": Fact(
        lambda t: t.water, "{s} [lies|is] [on|near|beside] the {v}", "[on what water is {s}|what river is near {s}]?"
    ),
    "region": Fact(lambda t: t.region, "{s} [is|lies] in {v}", "[where is {s}|in what region is {s}]?"),
    "inn": Fact(
        lambda t: t.inn,
        "[{g} only inn is the|{g} best beds are at the|{s} has an inn called the] {v}",
        "[what is the inn of {s} called|where does one sleep in {s}]?",
    ),
    "mayor": Fact(lambda t: t.mayor.name, "[{g} mayor is|{s} has a mayor called] {v}", "who is mayor [of|in] {s}?"),
}

_ANIMALS: dict[str, Fact] = {
    "habitat": Fact(lambda a: a.habitat, "[{s} lives in|one finds {s} in] {v}"),
    "food": Fact(lambda a: a.food, "{s} [eats|feeds on|lives on] {v}"),
    "habit": Fact(lambda a: a.habit, "{s} [|often |sometimes ]{v}"),
    "legend": Fact(lambda a: a.legend, "{s} [|often |sometimes ]{v}"),
    "region": Fact(lambda a: a.region, "{s} is found in {v}"),
}
_PLANTS: dict[str, Fact] = {
    "colour": Fact(lambda h: h.colour, "[{g} flowers are|{s} has flowers that are] {v}"),
    "habitat": Fact(lambda h: h.habitat, "[{s} grows in|one finds {s} in] {v}"),
    "month": Fact(lambda h: h.month, "[{s} flowers in|{g} flowers come in] {v}"),
    "use": Fact(lambda h: h.use, "{s} is [good|used] for {v}"),
}
_DISHES: dict[str, Fact] = {
    "vessel": Fact(lambda d: d.vessel, "{s} is [cooked|made] in a {v}"),
    "town": Fact(lambda d: d.town.name, "[{s} comes from|{s} is a dish of] {v}"),
}
_BOOKS: dict[str, Fact] = {
    "author": Fact(lambda b: b.author.name, "{s} [is a book by|was written by|is the work of] {v}"),
    "printed": Fact(lambda b: b.printed_in.name, "{s} was printed in {v}"),
}
_SHIPS: dict[str, Fact] = {
    "captain": Fact(lambda s: s.captain.name, "[the captain of {s} is|{g} captain is] {v}"),
    "port": Fact(lambda s: s.port.name, "{s} is a ship from {v}"),
    "cargo": Fact(lambda s: s.cargo, "{s} [usually carries|is loaded with] {v}"),
}

FACTS: dict[str, tuple[int, dict[str, Fact]]] = {
    "people": (8, PEOPLE),
    "towns": (6, PLACES),
    "animals": (6, _ANIMALS),
    "plants": (6, _PLANTS),
    "dishes": (4, _DISHES),
    "books": (6, _BOOKS),
    "ships": (4, _SHIPS),
}
"""What statements about the world are made of: per collection, how many of its most popular subjects, and their
facts."""
