"""Recipes: what goes in, in which order, and what is left over."""

from analysis.lab import words
from analysis.lab.draw import Draw, listing, number_word
from analysis.lab.world import Dish, World


def recipe(draw: Draw, world: World) -> str:
    """A dish cooked step by step; every ingredient of the list is used exactly once."""
    dish: Dish = draw.ranked(world.dishes)
    amounts = {thing: draw.number(1, 6) for thing in dish.ingredients}
    lines = [
        draw.say("{d.name}[, as made in {d.town.name}|, after {d.inventor.name}|]", d=dish),
        "Take " + listing([_amount(thing, n) for thing, n in amounts.items()]) + ".",
    ]
    steps = []
    waiting = draw.sample(list(dish.ingredients), len(dish.ingredients))
    bowl: list[str] = []
    while waiting:
        ingredient = waiting.pop(0)
        thing, many = _the(ingredient, amounts), ingredient in words.COUNTED and amounts[ingredient] > 1
        if not bowl:
            steps.append(draw.say("[Put|Place] {x} in the {d.vessel}.", x=thing, d=dish))
        elif waiting and draw.chance(0.35):
            second = _the(waiting.pop(0), amounts)
            steps.append(
                draw.say(
                    "[Mix|Beat|Stir] {x} and {y} [in a cup|together] and [add them|pour them in|tip them in].",
                    x=thing,
                    y=second,
                )
            )
            bowl.append(second)
        else:
            steps.append(
                draw.say(
                    (
                        "[Add|Stir in|Throw in|Fold in|Then add|Next comes the turn of] {x}[.|, slowly.|, one at a"
                        " time.|, while humming.]"
                        if many
                        else "[Add|Stir in|Pour in|Then add] {x}[.|, slowly.|, a little at a time.|, while humming.]"
                    ),
                    x=thing,
                )
            )
        bowl.append(thing)
        if len(bowl) in (2, 4) and draw.chance(0.5):
            steps.append(draw.say("[The {d.vessel} now holds|You now have] {b}.", d=dish, b=listing(bowl)))
    lines.append(" ".join(steps))
    shorter = draw.number(1, 4)
    lines.append(
        draw.say(
            "[Cook|Leave it over the fire|Bake|Let it simmer] for {d.minutes} minutes[.|, or {m} if the fire is high.|,"
            " and stir {n}.]",
            d=dish,
            m=dish.minutes - shorter,
            n=draw.phrase("[now and then|twice|always to the left|as long as you can bear it]"),
        )
    )
    lines.append(_serving(draw, world, dish))
    return "\n".join(lines)


def _amount(thing: str, n: int) -> str:
    if thing in words.COUNTED:
        return f"{number_word(n)} {thing if n == 1 else words.COUNTED[thing]}"
    measure = words.MEASURED[thing]
    plural = {"pinch": "pinches", "bunch": "bunches", "splash": "splashes"}.get(measure, measure + "s")
    return f"{number_word(n)} {measure if n == 1 else plural} of {thing}"


def _the(thing: str, amounts: dict[str, int]) -> str:
    return f"the {words.COUNTED[thing]}" if thing in words.COUNTED and amounts[thing] > 1 else f"the {thing}"


def _serving(draw: Draw, world: World, dish: Dish) -> str:
    eaters = [person for person in world.people[:400] if person.dish is dish]
    lines = [
        draw.say(
            "[Serve it hot|Serve it cold|Serve it to people you like|Eat it at once|It feeds {n}].",
            n=number_word(draw.number(2, 9)),
        )
    ]
    if eaters and draw.chance(0.7):
        lines.append(
            draw.say("It is the favourite of {p.name}, the {p.trade.noun} of {p.home.name}.", p=draw.choice(eaters[:5]))
        )
    if draw.chance(0.5):
        lines.append(
            draw.say(
                "{i.first} {i.last}, {i.trade.noun}, [invented it|cooked it first] [by mistake|in {d.town.name}|for a"
                " wedding|to frighten a guest].",
                i=dish.inventor,
                d=dish,
            )
        )
    return " ".join(lines)
