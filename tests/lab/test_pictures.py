"""Pictures of the lab: drawn as they are described, asked about truly and without a bias that gives answers away."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.lab.draw import NUMBERS, Draw
from analysis.lab.pictures import (
    COLOURS,
    FEWEST,
    GRID,
    MOST,
    SIZE,
    TASKS,
    Scene,
    Thing,
    ask,
    caption,
    cells,
    picture,
    questions,
    scenes,
    text,
)

CELL = SIZE // GRID


def thing(name: str, row: int, column: int) -> Thing:
    return Thing(*name.split(), row, column, 12, (0, 0))


SCENE = Scene((thing("red coin", 0, 0), thing("blue coin", 0, 2), thing("red cross", 2, 1)), 20, 1)


def test_a_picture_is_a_function_of_its_scene_and_shows_it():
    drawn = picture(SCENE)
    assert drawn.shape == (SIZE, SIZE, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn, picture(SCENE)) and not np.array_equal(drawn, picture(replace(SCENE, noise=2)))
    for one in SCENE.things:
        middle = drawn[one.row * CELL + 7 : one.row * CELL + 9, one.column * CELL + 7 : one.column * CELL + 9]
        assert np.abs(middle.mean((0, 1)) - COLOURS[one.colour]).max() < 20
    assert abs(drawn[CELL : 2 * CELL].mean() - 20) < 3  # the row without things


def test_shapes_differ_in_the_pixels_they_cover():
    colour = np.array(COLOURS["silver"])
    covered = {}
    for shape in ("coin", "square", "cross", "house"):
        drawn = picture(Scene((thing(f"silver {shape}", 1, 1),), 0, 3)).astype(int)
        covered[shape] = np.abs(drawn - colour).sum(2) < 200
    assert all(30 < mask.sum() < CELL**2 for mask in covered.values())
    masks = list(covered.values())
    assert all((a ^ b).sum() > 10 for number, a in enumerate(masks) for b in masks[:number])


def test_cells_by_patches():
    rows = cells(SCENE, 6)
    assert [[one.name if one else "" for one in row[::2]] for row in rows[::2]] == [
        ["red coin", "", "blue coin"],
        ["", "", ""],
        ["", "red cross", ""],
    ]
    assert rows[0][0] is rows[1][1]


def truth(scene: Scene, query: str) -> str:
    """The answer to a question, found from its words alone."""
    words = query.rstrip("?").split()
    there = scene.things
    named = lambda colour, shape: next(one for one in there if one.name == f"{colour} {shape}")
    if query.startswith("What colour"):
        return next(one.colour for one in there if one.shape == words[-1])
    if query.startswith("What is"):
        return "a " + next(one.shape for one in there if one.colour == words[-1])
    if query.startswith("How many"):
        return NUMBERS[sum(words[-1] in ("things", f"{one.shape}s", f"{one.shape}es") for one in there)]
    if query.startswith("Where"):
        return named(*words[-2:]).place
    if query.startswith("Is there"):
        return "yes" if any(one.name == " ".join(words[-2:]) for one in there) else "no"
    one, two = named(*words[2:4]), named(*words[-2:])
    side = {"above": one.row < two.row, "below": one.row > two.row}
    side |= {"left": one.column < two.column, "right": one.column > two.column}
    return "yes" if side[words[4]] else "no"


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_true_and_guesses_right_by_chance(task):
    asked = list(islice(questions(task), 400))
    for scene, one in asked:
        assert one.answer == f"{truth(scene, one.query)}." and one.task == task
        assert len(set(one.choices)) == len(one.choices) > one.gold
    most = Counter(one.answer for _, one in asked).most_common(1)[0][1] / len(asked)
    assert most < 1 / len(asked[0][1].choices) + (0.25 if task == "count" else 0.1)


def test_what_is_said_is_no_question_twice_and_a_caption_names_everything():
    for scene, draw in islice(scenes(), 30):
        said = list(islice(text(scene, draw), 8))
        asked = [query for query, _ in said if query]
        assert len(set(asked)) == len(asked)
        assert all(f"{truth(scene, query)}." == answer for query, answer in said if query)
        told = caption(scene, Draw("x"))
        assert all(one.colour in told and one.shape in told for one in scene.things)
    assert caption(replace(SCENE, things=SCENE.things[:1]), Draw("x")) == "There is a red coin."
    both = (thing("red cross", 0, 0), thing("red cross", 1, 1))
    assert caption(replace(SCENE, things=both), Draw("x")) == "There are two red crosses."


def test_splits_seeds_and_places_give_other_pictures():
    first = lambda **where: [scene for scene, _ in islice(scenes(**where), 20)]
    kinds = [first(), first(split="held-out"), first(seed=1)]
    assert all(a != b for number, one in enumerate(kinds) for other in kinds[:number] for a, b in zip(one, other))
    assert first(start=5)[:15] == kinds[0][5:] and all(FEWEST <= len(scene.things) <= MOST for scene in kinds[0])


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="unknown set 'dogs'; the lab has shapes"):
        next(scenes("dogs"))
    with pytest.raises(UsageError, match="unknown task 'smell'; the lab has colour"):
        ask(SCENE, Draw("x"), "smell")
