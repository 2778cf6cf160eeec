"""Conversations: questions about people answered from the facts, bargains, plans, and quizzes about what was just
said.
"""

from analysis.lab import words
from analysis.lab.draw import Draw, count, number_word
from analysis.lab.names import WEEKDAYS
from analysis.lab.world import Person, Town, World


class Talk:
    """Two speakers and the lines so far, in script form (`Ana: Hello.`) or told (`"Hello," said Ana.`)."""

    def __init__(self, draw: Draw, a: Person, b: Person):
        self.draw, self.a, self.b = draw, a, b
        self.script = draw.chance(0.5)
        self.lines: list[str] = []
        self._last: Person | None = None

    def say(self, speaker: Person, template: str, **slots) -> None:
        """Add one line; the template ends in a full stop, a question mark or an exclamation mark."""
        text = self.draw.say(template, a=self.a, b=self.b, **slots)
        answering, self._last = self._last not in (None, speaker), speaker
        if self.script:
            self.lines.append(f"{speaker.first}: {text}")
            return
        mark = text[-1]
        verb = {"?": "asked", "!": "cried"}.get(mark) or (
            self.draw.choice(("said", "said", "answered", "replied")) if answering else "said"
        )
        spoken = text[:-1] + ("," if mark == "." else mark)
        self.lines.append(
            f'"{spoken}" {verb} {speaker.first}.' if self.draw.chance(0.8) else f'{speaker.first} {verb}, "{text}"'
        )


def dialogue(draw: Draw, world: World) -> str:
    """Two people who know each other meet somewhere in town, greet, talk of two or three things and part."""
    a: Person = draw.ranked(world.people)
    b = draw.choice([person for _, person in a.circle if person.first != a.first])
    spot, weather = draw.choice(words.SPOTS), draw.choice(words.WEATHERS)
    talk = Talk(draw, a, b)
    talk.lines.append(
        draw.say(
            "{a.name}, [a|the] {a.trade.noun}, and {b.name}, [a|the] {b.trade.noun}, [met|ran into each other|were"
            " sitting|stood talking] at the {s} in {t.name}. [It was a {w.adjective} day|All morning {w.clause}].",
            a=a,
            b=b,
            s=spot,
            t=a.home,
            w=weather,
        )
    )
    talk.say(
        a,
        "[Good morning|Hello|Well, well|Ah], {b.first}[.|! How is {b.pet.name}?|, what a {w.adjective} day.]",
        w=weather,
    )
    talk.say(
        b,
        "[Good morning, {a.first}.|Oh, it is you.|I was just {b.trade.work}.|I hate {w.noun}.|{b.pet.name} is a very"
        " good {b.pet.kind}, thank you.]",
        w=weather,
    )
    for topic in draw.sample(
        [_facts, _facts_of_town, plan, bargain, _quiz, _animals, _family, sum_of_two], draw.number(2, 3)
    ):
        topic(talk, world)
    talk.say(
        draw.choice((a, b)),
        (
            "[Good day to you.|I must go, {b.pet.name} is waiting.|Mind the {l.landmark}!|Now I must get back to the"
            " {a.trade.workplace}.|My {b.dish.form} is burning!]"
            if talk.draw.chance(0.5)
            else "[Until tomorrow.|Farewell, then.|Time to go home.|Well, that is that.|I have work to do.]"
        ),
        l=a.home,
    )
    return "\n".join(talk.lines)


def _facts(talk: Talk, world: World) -> None:
    """Three or four questions about somebody else, answered truly; the later ones say `she` or `he`."""
    p = talk.a
    while p in (talk.a, talk.b):
        p = talk.draw.ranked(world.people)
    acquainted = talk.draw.chance(0.7)
    talk.say(
        talk.a, "[Do you know|Have you ever met] {p.name}?" if acquainted else "[Who is|Tell me, who is] {p.name}?", p=p
    )
    talk.say(
        talk.b,
        ("[Of course|Certainly|Yes]. " if acquainted else "")
        + "{P} is [a|the] {p.trade.noun} [in|from] {p.home.name}.",
        p=p,
        P=p.they.capitalize(),
    )
    questions = [
        ("[What does {p.they} look like|How would I know {p.them}]?", "{P} has {p.looks}."),
        ("[Is {p.they} afraid of anything|What frightens {p.them}]?", "{p.fear}[.|, they say.|. Always has been.]"),
        (
            "[Does {p.they} keep an animal|What sort of pet has {p.they}]?",
            "A {p.pet.kind}[ called|. It is called|, and its name is] {p.pet.name}.",
        ),
        ("[What instrument does {p.they} play|Is {p.they} musical]?", "{P} plays the {p.instrument}."),
        ("[What does {p.they} like to eat|What should I cook for {p.them}]?", "{p.dish.name}[.|, nothing else.]"),
        ("[Where was {p.they} born|Where did {p.they} grow up]?", "In {p.birthplace.name}, in {p.birthplace.region}."),
        ("[Who is {p.their} best friend|Who are {p.their} friends]?", "{p.friend.first}, the {p.friend.trade.noun}."),
        ("[Who is {p.their} enemy|With whom does {p.they} quarrel]?", "{p.rival.first}, the {p.rival.trade.noun}."),
        ("[What is {p.their} treasure|What does {p.they} own that is worth stealing]?", "A {p.treasure}."),
        ("[Has {p.they} any odd habits|What is {p.they} known for]?", "{p.habit}[.|, mostly.]"),
        (
            "Is {p.they} married?",
            (
                "Yes, to {p.spouse.first}, the {p.spouse.trade.noun}."
                if p.spouse
                else "No[.|, never.|, though many have asked.]"
            ),
        ),
        ("How old is {p.they}?", "{P} is {age}." if p.born > 400 else "Past sixty."),
    ]
    for question, answer in talk.draw.sample(questions, talk.draw.number(2, 4)):
        talk.say(talk.a, question, p=p)
        talk.say(talk.b, answer, p=p, P=p.they.capitalize(), age=460 - p.born)
    if talk.draw.chance(0.4):
        talk.say(talk.a, "[What was the name again|Tell me the name once more|Whom are we talking about]?")
        talk.say(talk.b, "{p.name}, the {p.trade.noun} [of|from] {p.home.name}.", p=p)


def _facts_of_town(talk: Talk, world: World) -> None:
    t: Town = talk.draw.ranked(world.towns)
    talk.say(talk.b, "[I am off to|I have never been to|Next week I travel to|My cousin has moved to] {t.name}.", t=t)
    questions = [
        ("[What is it known for|What do they make there]?", "{t.product}."),
        ("[What is there to see|What should one look at there]?", "The {t.landmark}. It {t.landmark_tale}."),
        ("[When is the fair|Do they have a feast there]?", "The {t.festival} is in {t.month}."),
        ("Who is mayor there now?", "{t.mayor.name}, the {t.mayor.trade.noun}."),
        ("[Where does one sleep|Is there an inn]?", "At the {t.inn}."),
        (
            "[Where is that|Is it far]?",
            "It is on the {t.water}, in {t.region}, [next to {n.name}|a day's walk from {n.name}].",
        ),
        ("[Is it large|How many people live there]?", "About {t.souls} people[.|, not counting the geese.]"),
    ]
    for question, answer in talk.draw.sample(questions, talk.draw.number(2, 3)):
        talk.say(talk.a, question, t=t)
        talk.say(talk.b, answer, t=t, n=t.neighbours[1])


def plan(talk: Talk, world: World) -> None:
    """A meeting agreed in pieces and then repeated whole."""
    draw = talk.draw
    day, spot, hour = draw.choice(WEEKDAYS), draw.choice(words.SPOTS), draw.number(5, 11)
    thing = f"{draw.choice(words.ITEM_LOOKS)} {draw.choice(words.ITEMS)}"
    talk.say(
        talk.a,
        (
            "[Shall we meet on {d}|Are you free on {d}|Come with me on {d}]?"
            if draw.chance(0.5)
            else "[What about {d}|Could you come on {d}]?"
        ),
        d=day,
    )
    talk.say(talk.b, "[Gladly|If I must|On {d}, yes]. Where?", d=day)
    talk.say(talk.a, "At the {s}[.|, as usual.] And bring the {i}.", s=spot, i=thing)
    talk.say(talk.b, "[At {h}|Say, at {h}|Not before {h}].", h=number_word(hour))
    talk.say(
        talk.a,
        "[So|Then it is settled|Good]: {d}, {h} o'clock, at the {s}, with the {i}.",
        d=day,
        h=number_word(hour),
        s=spot,
        i=thing,
    )


def bargain(talk: Talk, world: World) -> None:
    """A price comes down step by step until somebody pays it."""
    draw = talk.draw
    thing = f"{draw.choice(words.ITEM_LOOKS)} {draw.choice(words.ITEMS)}"
    ask, bid = draw.number(9, 20), draw.number(1, 5)
    talk.say(talk.a, "[How much is|What do you want for|Would you sell] that {i}?", i=thing)
    talk.say(talk.b, "{n}[.|, and not one less.|, because it is you.]", n=count(ask, "coin"))
    talk.say(talk.a, "[For a {i}|Never]! I will give you {n}.", i=thing, n=number_word(bid))
    while ask - bid > 2:
        ask -= draw.number(1, min(4, ask - bid - 1))
        talk.say(talk.b, "[Then|Make it|Say] {n}.", n=number_word(ask))
        if ask - bid <= 2:
            break
        bid += draw.number(1, min(3, ask - bid - 1))
        talk.say(talk.a, "[I can pay|Not more than|I have only] {n}.", n=number_word(bid))
    if draw.chance(0.75):
        talk.say(talk.a, "[Very well|Done|All right]. {n} for the {i}.", n=capital_count(ask), i=thing)
    else:
        talk.say(talk.a, "[No|Then keep it]. {n} is too much for a {i}.", n=capital_count(ask), i=thing)


def capital_count(coins: int) -> str:
    """`Seven coins`, to start a sentence with."""
    return count(coins, "coin").capitalize()


def _quiz(talk: Talk, world: World) -> None:
    """A list is said, and then asked for item by item."""
    draw = talk.draw
    people = [person.first for person in dict.fromkeys(draw.ranked(world.people) for _ in range(3))]
    things = draw.sample(words.ITEMS, len(people))
    talk.say(
        talk.b,
        "[Listen|Remember this]: {g}.",
        g=", ".join(f"the {thing} is for {person}" for person, thing in zip(people, things)),
    )
    for index in draw.sample(range(len(people)), 2):
        if draw.chance(0.5):
            talk.say(talk.b, "Who gets the {t}?", t=things[index])
            talk.say(talk.a, "{p}[.|, I think.|, of course.]", p=people[index])
        else:
            talk.say(talk.b, "And what is for {p}?", p=people[index])
            talk.say(talk.a, "The {t}[.|, I think.|, of course.]", t=things[index])


def _animals(talk: Talk, world: World) -> None:
    x = talk.draw.ranked(world.animals)
    talk.say(talk.b, "[I saw a {x.name} yesterday|This morning there was a {x.name} in my garden].", x=x)
    talk.say(talk.a, "[What do they eat|What does one feed them]?")
    talk.say(talk.b, "{x.food}. And they live in {x.habitat}.", x=x)
    if talk.draw.chance(0.6):
        talk.say(
            talk.a,
            "[My mother used to say|I have read|Everyone knows] that the {x.name} {habit}.",
            x=x,
            habit=talk.draw.choice((x.habit, x.legend)),
        )


def _family(talk: Talk, world: World) -> None:
    """Relations of one of the two speakers."""
    kind, relative = talk.draw.choice(talk.b.circle)
    talk.say(talk.a, "[How is|What news of|And] your {k}?", k=kind)
    talk.say(
        talk.b,
        "[{o.first}? Still|{o.first} is well, and still] {o.habit}[.|, and still afraid of {o.fear}.]",
        o=relative,
    )
    talk.say(
        talk.a,
        "[And {o.pet.name} the {o.pet.kind}|Does {o.they} still play the {o.instrument}|Is {o.they} still in"
        " {o.home.name}]?",
        o=relative,
    )
    talk.say(
        talk.b,
        "[Yes|Of course|As ever|Why not]. {o.first} {is_}.",
        o=relative,
        is_=talk.draw.choice(("will never change", "is happy", "sends greetings")),
    )


def sum_of_two(talk: Talk, world: World) -> None:
    """A small sum."""
    draw = talk.draw
    x, y, animal = draw.number(1, 9), draw.number(1, 9), draw.choice(words.PETS[1:])
    plural = {"goose": "geese", "mouse": "mice"}.get(animal, animal + "s")
    talk.say(
        talk.b,
        "I had {x}, and then {p.first} gave me {y} more.",
        x=count(x, animal, plural),
        y=number_word(y),
        p=talk.b.friend,
    )
    talk.say(talk.a, "[So now you have|That makes|Then you have] {z} {p}!", z=number_word(x + y), p=plural)
