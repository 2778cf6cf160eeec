"""The world: the same for the same seed, whole, and consistent with itself."""

import math

import pytest

from analysis.lab.draw import Draw, Ranked, count, listing, ordinal, tidy
from analysis.lab.world import TODAY, World

WORLD = World(0)


def _facts(world):
    return [
        (p.name, p.born, p.home.name, p.trade.noun, p.pet, p.treasure, p.dish.name, p.friend.name) for p in world.people
    ]


@pytest.mark.slow
def test_same_seed_same_world_other_seed_other_world():
    assert _facts(World(0)) == _facts(WORLD)
    assert _facts(World(1)) != _facts(WORLD)


def test_world_is_rich():
    assert len(WORLD.people) > 2_500 and len({person.name for person in WORLD.people}) == len(WORLD.people)
    assert len(WORLD.towns) == len({town.name for town in WORLD.towns}) == 140
    assert len(WORLD.animals) > 100 and len(WORLD.dishes) >= 100 and len(WORLD.books) > 100 and len(WORLD.ships) >= 50


def test_families_agree_from_both_sides():
    for person in WORLD.people:
        if person.spouse is not None:
            assert person.spouse.spouse is person and person.spouse.they != person.they
        for child in person.children:
            assert person in child.relatives.values()
            assert child.born > person.born and child.last == person.last
        for sibling in person.siblings:
            assert person in sibling.siblings
        assert person.friend.last != person.last and person.rival is not person.friend
        assert person.born < TODAY


def test_everybody_lives_where_the_town_says():
    for town in WORLD.towns:
        assert town.mayor in town.residents
        assert all(person.home is town for person in town.residents)
        assert town not in town.neighbours
    assert sum(len(town.residents) for town in WORLD.towns) == len(WORLD.people)


def test_names_take_an_apostrophe_s():
    assert not [person.name for person in WORLD.people if person.first.endswith("s")]


def test_popularity_falls_and_sums_to_one():
    probabilities = [WORLD.people.probability(rank) for rank in range(len(WORLD.people))]
    assert probabilities == sorted(probabilities, reverse=True)
    assert math.isclose(sum(probabilities), 1.0)


def test_ranked_draws_follow_their_probabilities():
    items, draw = Ranked("abcd", offset=1.0), Draw("ranked")
    drawn = [draw.ranked(items) for _ in range(4000)]
    for index, item in enumerate(items):
        assert abs(drawn.count(item) / 4000 - items.probability(index)) < 0.03


def test_nats_add_up_choice_by_choice():
    draw = Draw("nats")
    draw.choice("abcd")
    assert math.isclose(draw.nats, math.log(4))
    draw.say("[one|two [and a half|]] fish")
    assert any(math.isclose(draw.nats, math.log(4) + extra) for extra in (math.log(2), math.log(4)))
    before = draw.nats
    draw.sample([1, 2, 3], 2)
    assert math.isclose(draw.nats - before, math.log(3) + math.log(2))
    before, hit = draw.nats, draw.chance(0.25)
    assert math.isclose(draw.nats - before, -math.log(0.25 if hit else 0.75))
    before, key = draw.nats, draw.weighted({"x": 3, "y": 1})
    assert math.isclose(draw.nats - before, -math.log({"x": 0.75, "y": 0.25}[key]))


def test_grammar_helpers():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23)] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "22nd",
        "23rd",
    ]
    assert (count(0, "coin"), count(1, "coin"), count(2, "child", "children")) == (
        "no coins",
        "one coin",
        "two children",
    )
    assert (listing(["a"]), listing(["a", "b"]), listing(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
    assert (
        tidy("a apple and a hour, a useful  umbrella and a one-eyed owl . he ate it")
        == "An apple and an hour, a useful umbrella and a one-eyed owl. He ate it"
    )
