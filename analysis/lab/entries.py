"""Encyclopedia entries: facts about people, towns, animals, plants, dishes, trades, books and ships."""

from analysis.lab.draw import Draw, count, listing, number_word
from analysis.lab.world import TODAY, Person, Town, World


def entry(draw: Draw, world: World) -> str:
    """One entry, on a subject drawn by popularity."""
    kind = draw.weighted(
        {
            "person": 10,
            "town": 5,
            "animal": 3,
            "plant": 1.5,
            "dish": 1.5,
            "trade": 1,
            "book": 1.5,
            "ship": 1,
            "family": 2,
        }
    )
    return _WRITERS[kind](draw, world)


def person_entry(draw: Draw, world: World) -> str:
    """A biography: one opening, some of the facts in any order, then a line of references that repeats who was
    named.
    """
    p: Person = draw.ranked(world.people)
    named: list[str] = [p.home.name]
    sentences = [
        (
            draw.say("{p.name}, born in {p.born}, is a {p.trade.noun} [from|of|in] {p.home.name}.", p=p)
            if draw.chance(0.5)
            else draw.say(
                "{p.name} is a {p.trade.noun} [who lives in|from] {p.home.name}. {p.they} was born in [the year|]"
                " {p.born}.",
                p=p,
            )
        )
    ]
    facts = [
        _birth,
        _looks,
        _habit,
        _fear,
        _music,
        _treasure,
        _pet,
        _dish,
        _work,
        _friend,
        _rival,
        _parents,
        _marriage,
        _children,
        _siblings,
        _home,
    ]
    for fact in draw.sample(facts, draw.number(5, 9)):
        sentence = fact(draw, p, named)
        if sentence:
            sentences.append(sentence)
    if draw.chance(0.6):
        sentences.append(f"See also: {', '.join(dict.fromkeys(named))}.")
    return f"{p.name}\n" + " ".join(sentences)


def _birth(draw, p, named):
    if p.birthplace is p.home:
        return draw.say(
            "{p.they} [was born in {p.home.name} too, and sees no reason to leave|has never lived anywhere else].", p=p
        )
    named.append(p.birthplace.name)
    return draw.say("{p.they} [was born in|comes from|grew up in] {p.birthplace.name}, in {p.birthplace.region}.", p=p)


def _looks(draw, p, named):
    return draw.say("{p.they} [can be recognised by|is easily known by|has] {p.looks}.", p=p)


def _habit(draw, p, named):
    return draw.say("[{p.they} is known for|{p.first} has a habit of|neighbours complain of {p.their}] {p.habit}.", p=p)


def _fear(draw, p, named):
    return draw.say(
        "{p.they} is [afraid|terrified|not a little afraid] of {p.fear}[.|, and will not discuss it.|, for reasons"
        " {p.they} keeps to {p.themself}.]",
        p=p,
    )


def _music(draw, p, named):
    return draw.say(
        "{p.first} plays the {p.instrument}[, but not well|, mostly at weddings|, mostly at night| better than anyone"
        " in {p.home.name}|].",
        p=p,
    )


def _treasure(draw, p, named):
    return draw.say(
        "{p.their} [dearest possession|greatest treasure|most prized possession] is a {p.treasure}[.|, which nobody"
        " else may touch.]",
        p=p,
    )


def _pet(draw, p, named):
    return draw.say("{p.they} [keeps|has|shares {p.their} house with] a {p.pet.kind} [called|named] {p.pet.name}.", p=p)


def _dish(draw, p, named):
    return draw.say(
        "{p.their} favourite dish is {p.dish.name}[.|, which {p.they} eats every {day}.]",
        p=p,
        day=draw.choice(("Sunday", "Friday", "evening")),
    )


def _work(draw, p, named):
    return draw.say(
        "{p.first} [works at the {p.trade.workplace}, {p.trade.work}|spends most days {p.trade.work}|is seldom seen"
        " without a {p.trade.tool}|sells {p.trade.product} to half the town].",
        p=p,
    )


def _friend(draw, p, named):
    named.append(p.friend.name)
    return draw.say("{p.their} best friend is {f.name}, [a {f.trade.noun}|the {f.trade.noun}].", p=p, f=p.friend)


def _rival(draw, p, named):
    named.append(p.rival.name)
    return draw.say(
        "{p.they} [has quarrelled for years with|does not speak to|has an old feud with] {r.name}, [the"
        " {r.trade.noun}|who owns a {r.treasure}].",
        p=p,
        r=p.rival,
    )


def _parents(draw, p, named):
    if "mother" not in p.relatives:
        return ""
    mother, father = p.relatives["mother"], p.relatives["father"]
    named += [mother.name, father.name]
    return draw.say(
        "{p.first} is the {child} of {m.first} {p.last}, a {m.trade.noun}, and {f.first} {p.last}, a {f.trade.noun}.",
        p=p,
        m=mother,
        f=father,
        child="daughter" if p.they == "she" else "son",
    )


def _marriage(draw, p, named):
    if p.spouse is None:
        return draw.say("{p.they} [has never married|is not married].", p=p)
    named.append(p.spouse.name)
    return draw.say("{p.they} is married to {s.first}, [a {s.trade.noun}|who is afraid of {s.fear}].", p=p, s=p.spouse)


def _children(draw, p, named):
    if not p.children:
        return ""
    named.extend(child.name for child in p.children)
    return draw.say(
        "{p.they} has {n}: {names}.",
        p=p,
        n=count(len(p.children), "child", "children"),
        names=listing([c.first for c in p.children]),
    )


def _siblings(draw, p, named):
    if not p.siblings:
        return ""
    named.extend(other.name for other in p.siblings)
    kinds = [draw.phrase("{kind} {s.first}", kind="sister" if s.they == "she" else "brother", s=s) for s in p.siblings]
    return draw.say("{p.first} grew up with {p.their} {kinds}.", p=p, kinds=f" and {p.their} ".join(kinds))


def _home(draw, p, named):
    return draw.say(
        "{p.home.name} is [known for its {p.home.product}|the town with the {p.home.landmark}|where the"
        " {p.home.festival} is held].",
        p=p,
    )


def town_entry(draw: Draw, world: World) -> str:
    """A town, its sights, its feast and its people."""
    t: Town = draw.ranked(world.towns)
    first = draw.say(
        "{t.name} is a [town|small town|market town] [on|near|beside] the {t.water}, in {t.region}. [It has {t.souls}"
        " inhabitants|About {t.souls} people live there|The last count found {t.souls} people].",
        t=t,
    )
    residents = list(t.residents[:6])
    person = draw.choice(residents)
    facts = [
        "[It is known for its|The town is famous for its|Visitors come for the] {t.product}.",
        "It was founded in [the year|] {t.founded} by {t.founder.name}'s [ancestors|family].",
        "[Its chief sight is the {t.landmark}, which|The {t.landmark} in the middle of town] {t.landmark_tale}.",
        "Every year in {t.month} [it holds|the town holds|everyone comes to] the {t.festival}.",
        "The mayor is {t.mayor.name}, a {t.mayor.trade.noun} [with {t.mayor.looks}|known for {t.mayor.habit}].",
        "[Travellers stay at|The only inn is|The best beds are at] the {t.inn}.",
        "[From here it is a day's walk to|Its neighbours are] {near}.",
        (
            "[Its best known citizen|One well-known resident] is {p.name}, the {p.trade.noun}[.|, who keeps a"
            " {p.pet.kind}.]"
        ),
        "{dishes}",
    ]
    dishes = [dish.name for dish in world.dishes if dish.town is t]
    said = draw.say("The local dish is {d}.", d=dishes[0]) if dishes else "The food is nothing special."
    body = [
        draw.say(fact, t=t, p=person, near=listing([n.name for n in t.neighbours[1:3]]), dishes=said)
        for fact in draw.sample(facts, draw.number(4, 8))
    ]
    return f"{t.name}\n" + " ".join([first, *body])


def animal_entry(draw: Draw, world: World) -> str:
    """A species."""
    a = draw.ranked(world.animals)
    first = draw.say("The {a.name} is a [kind of|sort of|] {a.kind} found [mostly |]in {a.region}.", a=a)
    if a.legs:
        legs = draw.say(
            "It has {n} legs, [like every {a.kind}|which is as many as one expects|all of them useful].",
            a=a,
            n=number_word(a.legs),
        )
    else:
        legs = draw.say("It has no legs and does not [miss|need] them.")
    facts = [
        "It lives in {a.habitat} and [eats|feeds on|lives on] {a.food}.",
        "It {a.habit}.",
        "[It is also said that the|People say that the] {a.name} {a.legend}.",
        "{legs}",
        (
            "[Children like it|Farmers dislike it|Nobody has managed to tame one|It makes a poor pet|It is best left"
            " alone]."
        ),
    ]
    return f"{a.name.capitalize()}\n" + " ".join(
        [first] + [draw.say(f, a=a, legs=legs) for f in draw.sample(facts, draw.number(3, 5))]
    )


def plant_entry(draw: Draw, world: World) -> str:
    """A herb."""
    h = draw.ranked(world.plants)
    facts = [
        "It flowers in {h.month}[.|, and not a day earlier.]",
        "Its flowers are {h.colour}.",
        "[It is good for|Old people use it for|The leaves are used for] {h.use}.",
        "It grows in {h.habitat}, [above all|most of all] near {h.town.name}.",
        "[Goats avoid it|It tastes of soap|It must not be boiled|Picked at night, it is twice as strong].",
    ]
    return draw.phrase("{name}\n{name} is a [common|rare|useful|bitter] herb. ", name=h.name.capitalize()) + " ".join(
        draw.say(f, h=h) for f in draw.sample(facts, draw.number(3, 5))
    )


def dish_entry(draw: Draw, world: World) -> str:
    """Something to eat."""
    d = draw.ranked(world.dishes)
    facts = [
        "It is made [of|from] {things}.",
        "It [was invented by|is the work of] {d.inventor.name}, a {d.inventor.trade.noun}.",
        "It is cooked in a {d.vessel} for {d.minutes} minutes.",
        "It comes from {d.town.name}[.|, as the people of {near} deny.]",
        "[It is better on the second day|Children will not eat it|It keeps for a week|It is served at weddings].",
    ]
    near = d.town.neighbours[1].name
    return (
        d.name.capitalize()
        + "\n"
        + draw.say("A {d.name} is a [simple|famous|heavy|festive] dish. ", d=d)
        + " ".join(
            draw.say(f, d=d, things=listing(d.ingredients), near=near) for f in draw.sample(facts, draw.number(3, 5))
        )
    )


def trade_entry(draw: Draw, world: World) -> str:
    """A trade, with three people who follow it."""
    t = draw.ranked(world.trades)
    masters = [p for p in world.people[:600] if p.trade == t][:4]
    facts = [
        "[The work is mostly|Much of the day goes into] {t.work}.",
        "The [most important|chief] tool is a {t.tool}.",
        "A [good |]{t.noun} makes {t.product}, [or claims to|and a living].",
        "It [is done|is best done] at the {t.workplace}.",
    ]
    examples = draw.sample(masters, 2)
    people = " ".join(draw.say("{p.name} of {p.home.name} is [a well-known|a] {t.noun}.", p=p, t=t) for p in examples)
    return f"{t.noun.capitalize()}\n" + " ".join([draw.say(f, t=t) for f in draw.sample(facts, 4)] + [people])


def book_entry(draw: Draw, world: World) -> str:
    """A book."""
    b = draw.ranked(world.books)
    facts = [
        "It was printed in {b.printed_in.name}.",
        "It has {b.pages} pages[.|, most of them about something else.|, none of them dull.]",
        "[The author|{b.author.first}] was born in {b.author.born} and lives in {b.author.home.name}.",
        "[Its author is|It is the work of] a {b.author.trade.noun} who is known for {b.author.habit}.",
        "[Nobody has finished it|It has been translated twice|It is read in schools|It was once banned in {t.name}].",
    ]
    return f"{b.title}\n" + " ".join(
        [draw.say("{b.title} is a book by {b.author.name}, [published|written] in {b.year}.", b=b)]
        + [draw.say(f, b=b, t=b.author.home.neighbours[1]) for f in draw.sample(facts, draw.number(2, 5))]
    )


def ship_entry(draw: Draw, world: World) -> str:
    """A ship."""
    s = draw.ranked(world.ships)
    facts = [
        "She has {masts}.",
        "She [usually carries|is loaded with] {s.cargo}.",
        "Her captain is {s.captain.name}, [who is afraid of {s.captain.fear}|a former {s.captain.trade.noun}].",
        "She was built in {s.built}, [when {s.captain.first} was {age}|in {s.port.name}].",
        "[She has never been on time|She has sunk once|Sailors call her lucky].",
    ]
    age = f"{s.built - s.captain.born} years old" if s.built > s.captain.born else "not yet born"
    return f"The {s.name}\n" + " ".join(
        [draw.say("The {s.name} is a ship from {s.port.name}.", s=s)]
        + [draw.say(f, s=s, masts=count(s.masts, "mast"), age=age) for f in draw.sample(facts, draw.number(3, 5))]
    )


def family_entry(draw: Draw, world: World) -> str:
    """A family with parents and children."""
    p = draw.ranked(world.people)
    mother, father = (
        p.relatives.get("mother", p if p.they == "she" else p.spouse),
        p.relatives.get("father", p if p.they == "he" else p.spouse),
    )
    lines = [
        draw.say(
            "The {p.last} family [lives|has its house] in {m.home.name}. The parents are {m.first}, a {m.trade.noun},"
            " and {f.first}, a {f.trade.noun}.",
            p=p,
            m=mother,
            f=father,
        )
    ]
    if not mother.children:
        lines.append(
            draw.say("They have no children, [but a {m.pet.kind} called {m.pet.name}|and are content].", m=mother)
        )
    else:
        lines.append(draw.say("[They have|There are] {n}.", n=count(len(mother.children), "child", "children")))
        for child in mother.children:
            where = "still lives at home" if child.home is mother.home else f"has moved to {child.home.name}"
            lines.append(
                draw.say(
                    "{c.first}, {age} years old, is a {c.trade.noun} and {where}.",
                    c=child,
                    age=TODAY - child.born,
                    where=where,
                )
            )
        youngest = mother.children[-1]
        lines.append(
            draw.say(
                "The youngest, {c.first}, [plays the {c.instrument}|is afraid of {c.fear}|has {c.looks}].", c=youngest
            )
        )
    return f"The {p.last} family\n" + " ".join(lines)


_WRITERS = {
    "person": person_entry,
    "town": town_entry,
    "animal": animal_entry,
    "plant": plant_entry,
    "dish": dish_entry,
    "trade": trade_entry,
    "book": book_entry,
    "ship": ship_entry,
    "family": family_entry,
}
