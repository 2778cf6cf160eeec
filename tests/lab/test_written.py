"""Questions answered in writing: the same for the same seed, and true by an independent reading of the query."""

import re
from functools import cache
from itertools import islice

import pytest

from analysis.errors import UsageError
from analysis.lab.documents import default_world
from analysis.lab.draw import NUMBERS
from analysis.lab.written import WRITTEN, written

WORLD = default_world()


@cache
def samples(name):
    return [(item.query, item.choices[0]) for item in islice(written(name, seed=3), 60)]


@pytest.mark.parametrize("name", WRITTEN)
def test_items_are_a_function_of_name_split_and_seed_and_end_in_a_mark(name):
    again, others = (
        [(item.query, item.choices[0]) for item in islice(written(name, split=split, seed=3), 60)]
        for split in ("held-out", "train")
    )
    assert again == samples(name) and others != again
    assert all(answer[-1] in ".!" and query == query.strip() and query and answer for query, answer in again)
    assert len(set(again)) > 40


def test_a_copy_holds_what_was_agreed():
    for query, answer in samples("copying"):
        hour, spot, thing = re.fullmatch(r"(\w+) o'clock, at the (.+), with the (.+)\.", answer).groups()
        assert re.search(rf"\b{hour}\b", query) and f"At the {spot}" in query and f"bring the {thing}." in query


def test_what_is_recalled_is_a_fact_of_the_world():
    tales = {f"the {town.landmark} of {town.name} {town.landmark_tale}." for town in WORLD.towns[:15]}
    habits = {f"a {animal.name}, which {animal.habit}." for animal in WORLD.animals[:15]}
    ends = [re.search(r"(the|a) [^.]*$", f"{query} {answer}"[:-1])[0] for query, answer in samples("recall")]
    assert all(any(f"{end}." in fact or fact in f"{end}." for fact in tales | habits) for end in ends)


def test_who_has_a_thing_is_one_of_the_story():
    for query, answer in samples("tracking"):
        assert (
            query.count(answer[:-1]) >= 1 and re.search(r"The ([^.]+) was with$", query)[1] in query[: query.rfind(".")]
        )


def test_sums_and_differences_are_right():
    value = {word: number for number, word in enumerate(NUMBERS)}
    for query, answer in samples("sums"):
        one, more = re.search(r"I had (\w+) .* gave me (\w+) more", query).groups()
        assert value[answer.split()[0]] == value[one] + value[more]
    for query, answer in samples("differences"):
        good, way = re.search(r"(\w[\w ]*) have (risen by|gone up|fallen by|come down)$", query).groups()
        before, now = re.search(rf"{good}, (\w+) coins? last week, (\w+) now", query, re.I).groups()
        change = value[now] - value[before]
        assert abs(change) == value[answer[:-1]] and (change > 0) == (way in ("risen by", "gone up"))


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="unknown task 'brackets'; the lab has copying, recall"):
        written("brackets")
