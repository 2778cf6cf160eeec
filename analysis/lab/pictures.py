"""Pictures that the lab draws, coloured shapes on a grid, and what is asked and said about them, without end.

A picture is a function of its choices alone, as a document is; it is drawn with some noise, so that no two of the same
scene are the same pixels. Questions have short answers out of a closed list (`Question.choices`), each as likely as the
others where the scene leaves a choice: who does not see the picture is right by chance, or a little above it where
scenes make some answers more frequent (counts).
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from analysis.errors import UsageError
from analysis.lab.documents import check_request
from analysis.lab.draw import NUMBERS, Draw, listing

SETS: dict[str, str] = {
    "shapes": "one to four coloured shapes on a grid of three by three, with questions and captions"
}

SIZE = 48  # pixels a side
GRID = 3  # cells a side
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (235, 215, 50),
    "silver": (205, 210, 220),
    "copper": (190, 110, 60),
}
SHAPES = ("coin", "square", "cross", "house")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
FEWEST, MOST = 1, 4  # shapes in a picture
RELATIONS: dict[str, tuple[int, int]] = {"above": (0, -1), "below": (0, 1), "left of": (1, -1), "right of": (1, 1)}
_NOISE = 12.0  # standard deviation of a pixel, of 255
_TRIES = 100  # questions that are thought of for one text
_CAPTIONED = 0.25  # share of texts that begin with a caption


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape of a picture: `row` and `column` of its cell, its `size` in pixels, `shift` (down, right) of its middle
    from that of the cell.
    """

    colour: str
    shape: str
    row: int
    column: int
    size: int
    shift: tuple[int, int]

    @property
    def name(self) -> str:
        """ "red coin"."""
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        """ "top left"."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in a picture, and the seed of its noise."""

    things: tuple[Thing, ...]
    background: int
    noise: int


@dataclass(frozen=True, slots=True)
class Question:
    """`query` and each of `choices` are joined by one space; `gold`: the true one's index; `task`: one of `TASKS`."""

    query: str
    choices: tuple[str, ...]
    gold: int
    task: str

    @property
    def answer(self) -> str:
        """The true choice."""
        return self.choices[self.gold]


def scenes(
    name: str = "shapes", *, split: str = "train", seed: int = 0, start: int = 0
) -> Iterator[tuple[Scene, Draw]]:
    """Endless scenes, each with the draw to ask about it with: a function of (name, split, seed) alone, from number
    `start` on. `split` is that of `documents`. Raises UsageError for an unknown name or split.
    """
    check_request("pictures", "set", name, SETS, split)
    for number in itertools.count(start):
        draw = Draw(f"{split}/pictures/{name}/{seed}/{number}")
        yield _scene(draw, number), draw


def _scene(draw: Draw, number: int) -> Scene:
    cells = draw.sample([(row, column) for row in range(GRID) for column in range(GRID)], draw.number(FEWEST, MOST))
    things = tuple(
        Thing(
            draw.choice(list(COLOURS)),
            draw.choice(SHAPES),
            row,
            column,
            size=draw.choice((10, 11, 12, 13, 14)),
            shift=(draw.number(-1, 1), draw.number(-1, 1)),
        )
        for row, column in sorted(cells)
    )
    return Scene(things, draw.number(0, 60), draw.number(0, 2**31 - 1))


def picture(scene: Scene) -> np.ndarray:
    """The scene as pixels, (SIZE, SIZE, 3) uint8, red, green and blue."""
    canvas = np.full((SIZE, SIZE, 3), float(scene.background))
    cell = SIZE // GRID
    for thing in scene.things:
        down, right = thing.row * cell, thing.column * cell
        inside = _inside(thing)
        canvas[down : down + cell, right : right + cell][inside] = COLOURS[thing.colour]
    noise = np.random.default_rng(scene.noise).normal(0.0, _NOISE, canvas.shape)
    return np.clip(canvas + noise, 0, 255).round().astype(np.uint8)


def _inside(thing: Thing) -> np.ndarray:
    """Which pixels of its cell a thing covers, (cell, cell) bool."""
    cell, half = SIZE // GRID, thing.size / 2
    middle = (cell - 1) / 2
    y = np.arange(cell)[:, None] - middle - thing.shift[0]
    x = np.arange(cell)[None, :] - middle - thing.shift[1]
    match thing.shape:
        case "coin":
            return x**2 + y**2 <= half**2
        case "square":
            return np.maximum(abs(x), abs(y)) <= half * 0.85
        case "house":  # a roof on a narrower wall
            return ((y < 0) & (abs(x) <= y + half)) | ((y >= 0) & (y <= half) & (abs(x) <= half * 0.6))
        case _:
            return (np.minimum(abs(x), abs(y)) <= half / 3) & (np.maximum(abs(x), abs(y)) <= half)


def cells(scene: Scene, side: int) -> list[list[Thing | None]]:
    """What is in the cell that each patch of a picture lies in, of `side` by `side` patches, by rows."""
    there = {(thing.row, thing.column): thing for thing in scene.things}
    place = lambda patch: (2 * patch + 1) * GRID // (2 * side)
    return [[there.get((place(row), place(column))) for column in range(side)] for row in range(side)]


def caption(scene: Scene, draw: Draw) -> str:
    """What is to be seen, in an order drawn at random: "There is a red coin and two blue squares."."""
    kinds: dict[tuple[str, str], int] = {}
    for thing in scene.things:
        kinds[thing.colour, thing.shape] = kinds.get((thing.colour, thing.shape), 0) + 1
    told = draw.sample(list(kinds.items()), len(kinds))
    parts = [
        f"a {colour} {shape}" if number == 1 else f"{NUMBERS[number]} {colour} {_plural(shape)}"
        for (colour, shape), number in told
    ]
    return f"There {'is' if told[0][1] == 1 else 'are'} {listing(parts)}."


def _plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"


def text(scene: Scene, draw: Draw) -> Iterator[tuple[str, str]]:
    """What is said about a scene, sentence by sentence: at times a caption, then questions, none twice. Of each what is
    asked ("" of a caption), and what follows from the picture.
    """
    if draw.chance(_CAPTIONED):
        yield "", caption(scene, draw)
    said: set[str] = set()
    for _ in range(_TRIES):
        asked = ask(scene, draw, draw.choice(list(TASKS)))
        if asked is not None and asked.query not in said:
            said.add(asked.query)
            yield asked.query, asked.answer


def ask(scene: Scene, draw: Draw, task: str) -> Question | None:
    """A question of one of `TASKS` about a scene; None where the scene has none. Raises UsageError."""
    if task not in TASKS:
        raise UsageError(f"pictures: unknown task {task!r}; the lab has {', '.join(TASKS)}")
    return _ASKS[task](scene, draw)


def questions(
    task: str, *, name: str = "shapes", split: str = "held-out", seed: int = 0
) -> Iterator[tuple[Scene, Question]]:
    """Endless questions of one task, each about a scene of its own. Raises UsageError."""
    for scene, draw in scenes(name, split=split, seed=seed):
        if (asked := ask(scene, draw, task)) is not None:
            yield scene, asked


def _question(task: str, query: str, choices: tuple[str, ...], true: str) -> Question:
    return Question(query, tuple(f"{choice}." for choice in choices), choices.index(true), task)


def _colour(scene: Scene, draw: Draw) -> Question | None:
    single = [thing for thing in scene.things if sum(other.shape == thing.shape for other in scene.things) == 1]
    if not single:
        return None
    thing = draw.choice(single)
    return _question("colour", f"What colour is the {thing.shape}?", tuple(COLOURS), thing.colour)


def _shape(scene: Scene, draw: Draw) -> Question | None:
    single = [thing for thing in scene.things if sum(other.colour == thing.colour for other in scene.things) == 1]
    if not single:
        return None
    thing = draw.choice(single)
    return _question("shape", f"What is {thing.colour}?", tuple(f"a {shape}" for shape in SHAPES), f"a {thing.shape}")


def _count(scene: Scene, draw: Draw) -> Question | None:
    if draw.chance(0.75):  # of one kind there is mostly one
        noun, number = "things", len(scene.things)
    else:
        shape = draw.choice([thing.shape for thing in scene.things])
        noun, number = _plural(shape), sum(thing.shape == shape for thing in scene.things)
    return _question("count", f"How many {noun}?", tuple(NUMBERS[1 : MOST + 1]), NUMBERS[number])


def _place(scene: Scene, draw: Draw) -> Question | None:
    if not (single := _named_once(scene)):
        return None
    thing = draw.choice(single)
    places = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
    return _question("place", f"Where is the {thing.name}?", places, thing.place)


def _relation(scene: Scene, draw: Draw) -> Question | None:
    single = _named_once(scene)
    pairs = [(one, two) for one in single for two in single if one is not two]
    relation = draw.choice(list(RELATIONS))
    axis, sign = RELATIONS[relation]
    true = draw.chance(0.5)
    fitting = [
        (one, two)
        for one, two in pairs
        if (distance := (one.row - two.row, one.column - two.column)[axis]) and (distance * sign > 0) == true
    ]
    if not fitting:
        return None
    one, two = draw.choice(fitting)
    return _question(
        "relation", f"Is the {one.name} {relation} the {two.name}?", ("yes", "no"), "yes" if true else "no"
    )


def _presence(scene: Scene, draw: Draw) -> Question | None:
    there = {(thing.colour, thing.shape) for thing in scene.things}
    if draw.chance(0.5):
        colour, shape = draw.choice(sorted(there))
        return _question("presence", f"Is there a {colour} {shape}?", ("yes", "no"), "yes")
    colours, shapes = sorted({colour for colour, _ in there}), sorted({shape for _, shape in there})
    crossed = [(colour, shape) for colour in colours for shape in shapes if (colour, shape) not in there]
    absent = crossed or [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in there]
    colour, shape = draw.choice(absent)
    return _question("presence", f"Is there a {colour} {shape}?", ("yes", "no"), "no")


def _named_once(scene: Scene) -> list[Thing]:
    return [thing for thing in scene.things if sum(other.name == thing.name for other in scene.things) == 1]


TASKS: dict[str, str] = {
    "colour": "the colour of the only shape of its kind (6 choices)",
    "shape": "which shape has the colour that only one has (4 choices)",
    "count": "how many shapes there are, of one kind or of all (4 choices)",
    "place": "in which of nine cells a shape stands (9 choices)",
    "relation": "whether a shape stands above, below, left or right of another (2 choices)",
    "presence": "whether there is a shape of a colour, both of which are in the picture, if can be (2 choices)",
}
"""What is asked about pictures."""

_ASKS: dict[str, Callable[[Scene, Draw], Question | None]] = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "place": _place,
    "relation": _relation,
    "presence": _presence,
}
