"""Letters between people who know each other."""

from analysis.lab import words
from analysis.lab.draw import Draw, count, number_word, ordinal
from analysis.lab.names import MONTHS, WEEKDAYS
from analysis.lab.world import TODAY, Person, World


def letter(draw: Draw, world: World) -> str:
    """A dated letter: news, a parcel, a plan to meet, and a reminder of what was said."""
    writer: Person = draw.ranked(world.people)
    kind, reader = draw.choice(writer.circle)
    month = draw.choice(MONTHS)
    place = draw.choice(writer.home.neighbours) if reader.home is writer.home else writer.home
    head = f"{place.name}, {ordinal(draw.number(1, 28))} of {month}, {TODAY - draw.number(0, 3)}"
    greeting = (
        draw.phrase("[Dear|My dear|Dearest|Dear old] {r.first},", r=reader)
        if kind != "rival"
        else f"To {reader.name}, {reader.trade.noun},"
    )
    weather = draw.choice(words.WEATHERS)
    body = [
        draw.say(
            "[Thank you for your letter|I hope this finds you well|It is late, and all day {w.clause}|You will be"
            " surprised to hear from me|All day {w.clause}, so I am writing].",
            w=weather,
        )
    ]
    reminders: list[str] = []
    topics = [_parcel, _meeting, _pets, _news_of_friend, _journey, _complaint, _request, _book, _health, _debt]
    for topic in draw.sample(topics, draw.number(3, 5)):
        body.append(topic(draw, world, writer, reader, month, reminders))
    if reminders:
        body.append(draw.say("[Do not forget|Please remember|And once more]: {r}.", r="; ".join(reminders)))
    close = (
        draw.phrase("[Your {k}|Yours ever|With love|In haste],", k=_reverse(kind, writer))
        if kind != "rival"
        else "Yours, without affection,"
    )
    return f"{head}\n{greeting}\n{' '.join(body)}\n{close}\n{writer.first if kind != 'rival' else writer.name}"


def _reverse(kind: str, writer: Person) -> str:
    """What the writer is to a reader who is the writer's `kind`."""
    she = writer.they == "she"
    if kind in ("mother", "father"):
        return "daughter" if she else "son"
    if kind in ("husband", "wife"):
        return "wife" if she else "husband"
    if kind in ("daughter", "son"):
        return "mother" if she else "father"
    return kind if kind == "friend" else ("sister" if she else "brother")


def _parcel(draw, world, writer, reader, month, reminders):
    item = f"{draw.choice(words.ITEM_LOOKS)} {draw.choice(words.ITEMS)}"
    third = reader.friend
    reminders.append(f"the {item} is for {third.first}")
    return draw.say(
        "With this letter comes a {i}[| wrapped in newspaper| in a hat box]. It is not for you but for {t.name}, [your"
        " friend|the {t.trade.noun}], who {wish}.",
        i=item,
        t=third,
        wish=draw.choice(("asked for it", "lost the last one", "has earned it", "will know why")),
    )


def _meeting(draw, world, writer, reader, month, reminders):
    spot, day, hour = draw.choice(words.SPOTS), draw.choice(WEEKDAYS), draw.number(6, 11)
    reminders.append(f"{day} at {number_word(hour)}, at the {spot}")
    return draw.say(
        "I shall be in {r.home.name} [next week|before the month is out|as soon as the roads are dry]. [Meet me|Wait"
        " for me] at the {s} on {d} at {h} o'clock[.|, and bring {r.pet.name} the {r.pet.kind}.]",
        r=reader,
        s=spot,
        d=day,
        h=number_word(hour),
    )


def _pets(draw, world, writer, reader, month, reminders):
    return draw.say(
        "{w.pet.name} the {w.pet.kind} [is well and sends greetings|has eaten my other shoe|has been ill but is"
        " better|sleeps on your chair]. How is {r.pet.name}? [I never met a better {r.pet.kind}|I miss that"
        " {r.pet.kind}|That {r.pet.kind} has more sense than the two of us].",
        w=writer,
        r=reader,
    )


def _news_of_friend(draw, world, writer, reader, month, reminders):
    kind, friend = draw.choice([pair for pair in writer.circle if pair[1] is not reader])
    return draw.say(
        "[I saw|Yesterday I met] my {k} {o.first}, [who is still a {o.trade.noun}|who lives in {o.home.name}, as you"
        " know|who was {o.trade.work}]. {O} [asked after you|talked of nothing but {o.fear}|was playing the"
        " {o.instrument}|is as fond of {o.habit} as ever|showed me {o.their} {o.treasure}].",
        k=kind,
        o=friend,
        O=friend.they.capitalize(),
    )


def _journey(draw, world, writer, reader, month, reminders):
    town = draw.choice(writer.home.neighbours)
    return draw.say(
        "[Last week|On {d}] I walked to {t.name} and saw the {t.landmark}, which {t.landmark_tale}. [I slept at the"
        " {t.inn}|I came home with {t.product}|I stayed for the {t.festival}|They say the mayor, {t.mayor.name}, is"
        " {t.mayor.habit} again].",
        t=town,
        d=draw.choice(WEEKDAYS),
    )


def _complaint(draw, world, writer, reader, month, reminders):
    return draw.say(
        "{v.first} the {v.trade.noun} [is at it again|has not changed]: {v.habit}, [all day long|and under my"
        " window|and proud of it]. [I shall say nothing|I hid {v.their} {v.trade.tool}|Somebody ought to write a song"
        " about it].",
        v=writer.rival,
    )


def _request(draw, world, writer, reader, month, reminders):
    dish = writer.dish
    thing = draw.choice(dish.ingredients)
    thing = words.COUNTED.get(thing, thing)
    reminders.append(f"the {thing}")
    return draw.say(
        "I want to cook {d.name}, [my favourite|as you can guess], but [I have run out of {x}|nobody in {w.home.name}"
        " sells {x}]. [Could you send some?|Have you any to spare?|Send some if you can.]",
        d=dish,
        x=thing,
        w=writer,
    )


def _book(draw, world, writer, reader, month, reminders):
    book = draw.ranked(world.books)
    return draw.say(
        "I am reading {b.title} by {b.author.name}. It has {b.pages} pages and I am on page {n}. [I cannot put it"
        " down|I fell asleep twice|You would hate it|{w.pet.name} ate the first chapter].",
        b=book,
        n=draw.number(2, book.pages),
        w=writer,
    )


def _health(draw, world, writer, reader, month, reminders):
    herb = draw.ranked(world.plants)
    return draw.say(
        "[For my|Against my] [cough|bad back|bad knee|left ear] I take {h.name}, [the one with the {h.colour}"
        " flowers|which grows near {h.town.name}|as everyone does]. It [does not help|helps a little|tastes of old"
        " boots].",
        h=herb,
    )


def _debt(draw, world, writer, reader, month, reminders):
    owed, paid = draw.number(6, 20), draw.number(1, 5)
    reminders.append(f"{count(owed - paid, 'coin')} to come")
    return draw.say(
        "I still owe you {o}. [With this I send|I enclose] {p}, which leaves {l}.",
        o=count(owed, "coin"),
        p=number_word(paid),
        l=number_word(owed - paid),
    )
