"""How figures look: colours by meaning, and the words that stand on them.

A colour, a marker and a line style belong to a method wherever it appears, and black is the dense model, so that a
reader who has seen one figure can read the next. The colours are Okabe and Ito's, which colour-blind readers can tell
apart; the markers say the same in print.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import cycle
from os.path import commonprefix
from typing import NamedTuple, TypeVar

import matplotlib as mpl
from matplotlib.typing import LineStyleType

from analysis.recipe.words import (
    CRITERION_WORDS,
    DEPTH_WORDS,
    EXPERT_WORDS,
    METHOD_WORDS,
    REFINEMENT_WORDS,
    STRUCTURED_WORDS,
    Word,
    outside,
)
from analysis.schema import CALIBRATION

T = TypeVar("T")

WIDTH = 8.0  # inches; at README size (about 800 pixels) a point of type is then 1.4 pixels

RC = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": [
        "DejaVu Sans",
        "Verdana",
        "Geneva",
        "Arial",
        "Helvetica",
    ],  # the first draws png, a reader's svg
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # words as words: to be found, read aloud and translated
    "text.parse_math": False,  # names of texts and models are drawn as they are, dollars and backslashes too
    "svg.hashsalt": "pruning-analysis",
}


class Look(NamedTuple):
    """How one method is drawn, everywhere."""

    color: str
    marker: str
    line: LineStyleType


OUTSIDE = [  # criteria from outside the package
    Look(color, marker, (0, (4, 1.5)))
    for color, marker in [("#CC79A7", "D"), ("#56B4E9", "P"), ("#882255", "p"), ("#B8860B", "h"), ("#332288", "<")]
]


class Known(Mapping[str, T]):
    """A few entries, and after them those of a function that is asked anew each time: words may be added."""

    def __init__(self, first: Mapping[str, T], rest: Callable[[], Mapping[str, T]]):
        self._first, self._rest = first, rest

    def _all(self) -> dict[str, T]:
        return {**self._first, **self._rest()}

    def __getitem__(self, name: str) -> T:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def _labels(first: Iterable[str], *words: Mapping[str, Word]) -> dict[str, str]:
    """The labels of words by their names, some first."""
    labels = {name: word.label for group in reversed(words) for name, word in group.items()}
    order = dict.fromkeys([*first, *(name for group in words for name in group)])
    return {name: labels[name] for name in order}


METHOD_LOOKS = {
    "dense": Look("#000000", "", (0, (1, 1.2))),
    "LR": Look("#D55E00", "o", "-"),
    "BR": Look("#0072B2", "s", "-"),
    "BR+CR": Look("#E69F00", "v", (0, (3, 1.2, 1, 1.2))),
    "BR+GP": Look("#009E73", "^", "-"),
    "BR+GP[unit=sub-block]": Look("#44AA99", ">", (0, (5, 1.2))),
    "BR+GP+CR": Look("#CC79A7", "D", "-"),
    "IR": Look("#56B4E9", "P", "-"),
    "ridge": Look("#7F4F24", "*", ":"),
    "ridge[target=dense]": Look("#17BECF", "H", ":"),
    "retrain": Look("#882255", "X", "-"),
    "retrain[objective=distill]": Look("#332288", "p", (0, (5, 1.2))),
    "retrain[objective=hidden]": Look("#AA4499", "8", (0, (3, 1.2, 1, 1.2))),
    "retrain[train=masklora]": Look("#B8860B", "h", (0, (3, 1.2, 1, 1.2))),
    "retrain[train=norms-biases]": Look("#777777", "<", (0, (1.5, 1.2))),
}
METHOD_LABELS = {  # methods with options, whose text form is too long for a legend
    "BR+GP[unit=sub-block]": "BR+GP, sub-blocks",
    "ridge[target=dense]": "ridge, +GP",
    "retrain[objective=distill]": "retrain, distilled",
    "retrain[objective=hidden]": "retrain, hidden states",
    "retrain[train=masklora]": "retrain, MaskLoRA",
    "retrain[train=norms-biases]": "retrain, norms and biases",
}
LEVELS = ("dense", "LR")  # what no figure of costs gives an x of its own: nothing is trained
OTHERS = [
    Look(color, marker, (0, (4, 1.5))) for color, marker in [("#A0A0A0", "d"), ("#D4C400", "8"), ("#6A3D9A", "4")]
]
CRITERION_LOOKS: Mapping[str, Look] = Known(
    {
        "magnitude": Look("#D55E00", "v", "-"),
        "wanda": Look("#0072B2", "o", "-"),
        "ria": Look("#E69F00", "^", "-"),
        "sparsegpt": Look("#009E73", "s", "-"),
        "random": Look("#777777", "X", "-"),
    },
    lambda: dict(zip(outside(CRITERION_WORDS), cycle(OUTSIDE))),
)
CRITERIA: Mapping[str, str] = Known(
    {}, lambda: _labels(CRITERION_LOOKS, CRITERION_WORDS, STRUCTURED_WORDS, DEPTH_WORDS, EXPERT_WORDS)
)
"""Criteria as figures write them, in the order they are drawn."""
SOURCE_LOOKS = [
    Look(color, marker, "-")
    for color, marker in [
        ("#0072B2", "o"),
        ("#009E73", "s"),
        ("#D55E00", "^"),
        ("#CC79A7", "D"),
        ("#E69F00", "v"),
        ("#777777", "P"),
    ]
]
REFINEMENTS = {"none": Look("#4D4D4D", "", "-"), "swaps": Look("#0072B2", "", "-"), "fw": Look("#E69F00", "", "-")}
REFINEMENT_NAMES = {name: word.label for name, word in REFINEMENT_WORDS.items()}


PART_END = re.compile(r":(\d+/[1-9]\d*|\d+(?:\.\d+)?|\.\d+)(?:\+(?!$)|$)")
"""The share that ends a part of a mixture of sources."""
REFERENCE = re.compile(r"(?<=[:,])((?:start|prompt)=)(.*?)(?=,[a-z-]+=|$)")
"""The option of self-generated text whose value is a source."""


def say_split(split: str) -> str:
    """How figures and findings write a split: "calibration", or "held-out" and the text's own name."""
    return split if split == CALIBRATION else f"held-out {split.removeprefix('lab:').removesuffix('/held-out')}"


def say_source(source: str) -> str:
    """How figures and findings write a source of text: without the lab's prefix, without folders; none at all is more
    training on the same text. Parts of a mixture keep their shares.
    """
    if not source:
        return "nothing, more epochs"
    ends = list(PART_END.finditer(source))
    if len(ends) < 2 or ends[-1].end() < len(source):
        return _say_part(source)
    starts = [0, *(end.end() for end in ends)]
    return "+".join(f"{_say_part(source[start : end.start()])}:{end[1]}" for start, end in zip(starts, ends))


def _say_part(source: str) -> str:
    """A source that is no mixture. What stands behind a table's name and "#" is its column, slashes or not."""
    if re.match("self($|:)", source):
        options = REFERENCE.sub(lambda option: option[1] + _say_part(option[2]), source.removeprefix("self"))
        return "self-generated" + options.replace(":", ", ", 1)
    if source.startswith(("lab:", "hub:", "pictures:")):
        return source.removeprefix("lab:")
    return re.sub(r"^[^#]*[/\\]", "", source.rstrip("/\\"))


def apart(names: Iterable[str], say: Callable[[str], str]) -> dict[str, str]:
    """How figures write each of several names; those that `say` writes alike with as much of their folders as tells
    them apart.
    """
    said = {name: say(name) for name in names}
    for word in set(said.values()):
        alike = [name for name, other in said.items() if other == word]
        shared = len(re.sub(r"[^/\\]*$", "", commonprefix(alike)))
        said |= {name: name[shared:] for name in alike} if len(alike) > 1 else {}
    return said


def source_looks(sources: Iterable[str]) -> dict[str, Look]:
    """The look of each source of text, in the order given; from the seventh on the looks repeat."""
    return {
        source: SOURCE_LOOKS[i % len(SOURCE_LOOKS)] if source else Look("#000000", "x", "")
        for i, source in enumerate(dict.fromkeys(sources))
    }


def say_task(task: str) -> str:
    """How figures and findings write a task: without the place it comes from, be it "lab:", "hub:" or a folder."""
    return re.sub(r"^(lab|hub|pictures):|.*[/\\]", "", task).removesuffix(".jsonl")


def say_model(model: str) -> str:
    """How figures and findings write a model: as typed for the lab's, else without folders or owner."""
    return model if model.partition("/")[0] == "lab" else re.sub(r"^.*[/\\]", "", model.rstrip("/\\"))


def say_count(number: float) -> str:
    """A large number as k, M or B with three figures: 393216 is "393 k"."""
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def unit_order(units: Iterable[str]) -> list[str]:
    """Units as tables name them ("matrix", "sub-block", "2 blocks", "model"), each once, from fine to coarse; no unit
    ("") left out.
    """
    ends = {"matrix": 0.0, "sub-block": 0.5, "model": float("inf")}
    return sorted(
        {unit for unit in units if unit},
        key=lambda unit: (ends[unit] if unit in ends else float(unit.split()[0]), unit),
    )


def short_unit(unit: str) -> str:
    """A unit as an axis names it: half a block for a sub-block, "all" for the model."""
    return {"sub-block": "½ block", "model": "all"}.get(unit, unit)


def unit_glyph(unit: str) -> str:
    """A unit as a point in a figure: m, ½, a number of blocks, or "all"."""
    return {"matrix": "m", "sub-block": "½", "model": "all"}.get(unit, unit.split()[0])


def say_criterion(name: str) -> str:
    """How legends and findings write a criterion."""
    return CRITERIA.get(name, name)


def say_method(method: str) -> str:
    """How legends and findings write a method."""
    return METHOD_LABELS.get(method) or (METHOD_WORDS[method].label if method in METHOD_WORDS else method)


def looks(methods) -> dict[str, Look]:
    """The look of each method, in the order of `METHOD_LOOKS`, then those that have no look of their own by name."""
    present = set(methods)
    return dealt(
        [*(name for name in METHOD_LOOKS if name in present), *sorted(present - set(METHOD_LOOKS))], METHOD_LOOKS
    )


def dealt(names: Iterable[str], known: Mapping[str, Look]) -> dict[str, Look]:
    """The look of each name, in the order given: its own, or one of nine spare ones in turn."""
    names = list(dict.fromkeys(names))
    others = [name for name in names if name not in known]
    return {name: known[name] if name in known else spare(others.index(name)) for name in names}


def spare(place: int) -> Look:
    """The look of what has none of its own: every colour of `OTHERS` with every marker, then the same again."""
    turn, first = divmod(place, len(OTHERS))
    return OTHERS[first]._replace(marker=OTHERS[(first + turn) % len(OTHERS)].marker)


def in_style():
    """Context in which a figure is made; nothing outside it changes."""
    return mpl.rc_context(RC)
