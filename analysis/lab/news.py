"""Town newspapers: prices, a theft and its end, a contest, a ship, the weather to come."""

from analysis.lab import words
from analysis.lab.draw import Draw, count, listing, number_word, ordinal
from analysis.lab.names import MONTHS, WEEKDAYS
from analysis.lab.world import TODAY, Person, Town, World


def gazette(draw: Draw, world: World) -> str:
    """One issue of the paper of one town: two to four items, then a line that repeats one of them."""
    town: Town = draw.ranked(world.towns)
    month = draw.choice(MONTHS)
    head = draw.phrase(
        "The {t.name} [Gazette|Observer|Messenger|Crier], {d} of {m}, {y}",
        t=town,
        d=ordinal(draw.number(1, 28)),
        m=month,
        y=TODAY - draw.number(0, 9),
    )
    items, tails = [], []
    for writer in draw.sample(
        [
            theft_item,
            contest_item,
            prices_item,
            ship_item,
            notice_item,
            council_item,
            book_item,
            weather_item,
            lost_item,
        ],
        draw.number(2, 4),
    ):
        text, tail = writer(draw, world, town, month)
        items.append(text)
        tails.append(tail)
    if draw.chance(0.6):
        items.append("In short: " + "; ".join(tails) + ".")
    return "\n".join([head, *items])


def _citizen(draw: Draw, town: Town) -> Person:
    return draw.choice(town.residents[:12])


def theft_item(draw, world, town, month):
    """Something is stolen, suspects are named and cleared, and it turns up with one of those named."""
    victim = _citizen(draw, town)
    thing = victim.treasure if draw.chance(0.6) else f"{draw.choice(words.ITEM_LOOKS)} {draw.choice(words.ITEMS)}"
    suspects = draw.sample([p for p in town.residents if p is not victim], 3)
    lines = [
        draw.say(
            "[A {i} was stolen|Somebody stole a {i}|Thieves took a {i}] from the house of {v.name}, {v.trade.noun},"
            " [last night|on {d}|while {v.they} was {v.habit}].",
            i=thing,
            v=victim,
            d=draw.choice(WEEKDAYS),
        )
    ]
    lines.append(
        draw.say("Suspicion fell on {s}.", s=listing([f"{p.first} {p.last} the {p.trade.noun}" for p in suspects]))
    )
    culprit = draw.choice(suspects)
    for person in suspects:
        if person is not culprit:
            lines.append(
                draw.say(
                    "{p.first} was [{p.trade.work}|at home with {p.pet.name} the {p.pet.kind}|playing the"
                    " {p.instrument}] [all evening|at the time], and [is innocent|has been cleared].",
                    p=person,
                )
            )
    lines.append(
        draw.say(
            "[The {i} was found with|The {i} was discovered in the attic of|It was] {c.first}, who [has"
            " confessed|blames the weather|had hidden it {h}].",
            i=thing,
            c=culprit,
            h=draw.choice(words.HIDES),
        )
        if draw.chance(0.8)
        else draw.say("The {i} [has not been found|is still missing], but {c.first} has left town.", i=thing, c=culprit)
    )
    return " ".join(lines), f"{culprit.first} took the {thing}"


def contest_item(draw, world, town, month):
    """Three people score, and the order follows from the points."""
    people = draw.sample(town.residents, 3)
    points = sorted(draw.sample(range(3, 20), len(people)), reverse=True)
    scores = dict(zip(people, points))
    lines = [
        draw.say(
            "[The {t.festival} was held on {d}|{d} was the day of the {t.festival}].", t=town, d=draw.choice(WEEKDAYS)
        )
    ]
    for person in draw.sample(people, len(people)):
        lines.append(
            draw.say(
                "{p.name}, [the {p.trade.noun}|with {p.looks}], [had|scored|came home with] {n}.",
                p=person,
                n=count(scores[person], "point"),
            )
        )
    winner, last = people[0], people[-1]
    lines.append(
        draw.say(
            "[So the winner is|The prize went to|First was] {p.first}[.|, who celebrated with {p.dish.name}.]", p=winner
        )
    )
    if len(people) > 1:
        lines.append(
            draw.say("{p.first}, with {n}, was last[.|, and blamed {p.fear}.]", p=last, n=count(points[-1], "point"))
        )
    return " ".join(lines), f"{winner.first} won the {town.festival}"


def prices_item(draw, world, town, month):
    goods = draw.sample(sorted(words.COUNTED.values()), draw.number(2, 4))
    before = {good: draw.number(2, 9) for good in goods}
    after = {good: draw.number(2, 9) for good in goods}
    lines = [
        draw.say("[At the market|On the market square]: ").strip()
        + " "
        + "; ".join(
            f"{good}, {count(before[good], 'coin')} last week, {number_word(after[good])} now" for good in goods
        )
        + "."
    ]
    for good in goods:
        change = after[good] - before[good]
        lines.append(
            draw.say("{g} have [risen by|gone up] {n}.", g=good, n=number_word(change))
            if change > 0
            else (
                draw.say("{g} have [fallen by|come down] {n}.", g=good, n=number_word(-change))
                if change < 0
                else draw.say("{g} cost [the same|what they did].", g=good)
            )
        )
    dearest = max(goods, key=lambda good: (after[good], good))
    return " ".join(lines), f"{dearest} cost {number_word(after[dearest])}"


def ship_item(draw, world, town, month):
    s = draw.ranked(world.ships)
    text = draw.say(
        "[The {s.name} of {s.port.name} has come in|Captain {s.captain.name} has brought in the {s.name}] with {n} of"
        " {s.cargo}. [The captain, {s.captain.first}, is afraid of {s.captain.fear}|The ship has {m} and was built in"
        " {s.built}|The ship sails for {s.port.name} on {d}].",
        s=s,
        n=count(draw.number(2, 19), "crate"),
        m=count(s.masts, "mast"),
        d=draw.choice(WEEKDAYS),
    )
    return text, f"the {s.name} has brought {s.cargo}"


def notice_item(draw, world, town, month):
    p = _citizen(draw, town)
    text = draw.say(
        "[{p.name} wishes it known that {p.their}|We are asked to print that {p.name}'s|Once more we hear that"
        " {p.name}'s] {p.pet.kind}, {p.pet.name}, [is not for sale|has bitten nobody|has had {n} young|did not eat the"
        " wedding cake]. [{p.first} is the {p.trade.noun}|{p.first} can be found at the {p.trade.workplace}].",
        p=p,
        n=number_word(draw.number(2, 9)),
    )
    return text, f"{p.pet.name} is a {p.pet.kind}"


def council_item(draw, world, town, month):
    """Votes are counted; the side with more wins."""
    matter = draw.choice(
        (
            "a new roof for the {t.landmark}",
            "a tax on {x}",
            "longer opening hours at the {t.inn}",
            "a statue of {t.founder.name}",
            "moving the {t.festival} to {m}",
            "fewer geese",
        )
    )
    matter = matter.format(
        t=town,
        x=draw.choice(sorted(words.COUNTED.values())),
        m=draw.choice([other for other in MONTHS if other != town.month]),
    )
    yes, no = draw.number(1, 12), draw.number(1, 12)
    result = (
        "The matter is settled"
        if yes > no
        else "Nothing will change"
        if no > yes
        else f"Mayor {town.mayor.first} decided against it"
    )
    text = draw.say(
        "The council, led by {t.mayor.name}, [debated|argued about|discussed] {m}. {y} voted for it and {n} against."
        " {r}.",
        t=town,
        m=matter,
        y=number_word(yes).capitalize(),
        n=number_word(no),
        r=result,
    )
    return text, f"{matter} was {'agreed' if yes > no else 'refused'}"


def book_item(draw, world, town, month):
    b = draw.ranked(world.books)
    reader = _citizen(draw, town)
    text = draw.say(
        "{p.name} read aloud from {b.title}, by {b.author.name}, at the {t.inn}. [There was applause|Nobody stayed to"
        " the end|The {b.pages} pages took all night|The author, a {b.author.trade.noun} from {b.author.home.name}, was"
        " not there].",
        p=reader,
        b=b,
        t=town,
    )
    return text, f"{reader.first} read from {b.title}"


def weather_item(draw, world, town, month):
    today, tomorrow = draw.choice(words.WEATHERS), draw.choice(words.WEATHERS)
    signs = draw.ranked(world.animals)
    text = draw.say(
        "[Yesterday|All week|All over {t.region}] {x.clause}. For tomorrow [we expect|expect|the almanac promises]"
        " {y.noun}, [because the {a.name} has been seen in {a.habitat}|as always in {m}|though the mayor denies it].",
        t=town,
        x=today,
        y=tomorrow,
        a=signs,
        m=month,
    )
    return text, f"{tomorrow.noun} tomorrow"


def lost_item(draw, world, town, month):
    p, q = draw.sample(town.residents[:12], 2) if len(town.residents) > 1 else (town.mayor, town.mayor.friend)
    thing, spot, reward = (
        f"{draw.choice(words.ITEM_LOOKS)} {draw.choice(words.ITEMS)}",
        draw.choice(words.SPOTS),
        draw.number(2, 15),
    )
    text = draw.say(
        "Lost [at|near] the {s}: a {i}. [{p.name} offers|The owner, {p.name}, will pay] {r}. [It may be brought to|If"
        " you find it, ask for] {q.name} at the {q.trade.workplace}.",
        s=spot,
        i=thing,
        p=p,
        q=q,
        r=count(reward, "coin"),
    )
    return text, f"{p.first} lost a {thing}"
