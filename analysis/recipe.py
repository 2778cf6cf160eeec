"""A recipe: how weights are scored, what a mask may look like, what is reconstructed at once, and how.

    >>> recipe = Recipe.parse("sparsegpt-50%[damping=0.05] BR+GP[lr=2e-3,epochs=20]")
    >>> recipe.solver.epochs, recipe.target, str(recipe)
    (20, 'dense', 'sparsegpt-50%[damping=0.05] BR+GP[epochs=20,lr=0.002]')

The short text is `CRITERION-PATTERN[options] METHOD[options]`; TOML says the same with one table per part. Values are
checked when a part is made, and everything wrong with a recipe is reported at once (`RecipeError.problems`).
A new idea is a new value here: a name in `CRITERIA`, `SOLVERS` or `METHODS`, or a field with its rule. No torch.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar

from analysis import notation
from analysis.errors import RecipeError
from analysis.rules import Part, choice, count, positive, rule, share, suggest

CRITERIA = {  # name: default grouping of an unstructured pattern, each paper's own
    "random": "matrix",
    "magnitude": "matrix",
    "wanda": "row",
    "sparsegpt": "block",
}
SOLVERS = ("none", "gradient")
GROUPS = ("default", "matrix", "row", "block")
STREAMS = ("sparse", "dense")
METHODS = {
    "LR": "layer-wise: the mask alone, with SparseGPT's OBS update; no gradient step (2406.15524 section 2)",
    "BR": "block reconstruction: each block against its dense self, both on the sparse stream (2406.15524 section 2)",
    "BR+GP": "BR with global propagation: the target is the dense block on the dense stream (2406.15524 section 2)",
    "BR+CR": "BR in windows of two blocks overlapping by one (in the code of 2406.15524, not in its tables)",
    "BR+GP+CR": "BR with both: windows of two blocks, target from the dense stream (2406.15524 section 2)",
}


@dataclass(frozen=True)
class Criterion(Part):
    """How weights are scored; higher score = keep. The options are SparseGPT's (2301.00774).

    damping: share of the Gram matrix's mean diagonal added to its diagonal. columns: of a block; masks are chosen and
    updates applied block by block. update: OBS update of the kept weights; False keeps its mask alone.
    """

    name: str = choice(MISSING, CRITERIA)
    damping: float = positive(0.01, only=("sparsegpt",))
    columns: int = count(128, 1, only=("sparsegpt",))
    update: bool = rule(True, bool, "true or false", only=("sparsegpt",))


@dataclass(frozen=True)
class Pattern(Part):
    """What a mask may look like: `sparsity`, the share removed, or N:M, `keep` of every `of` consecutive inputs.

    group: where scores compete for a sparsity: the matrix, each output row, or each block of SparseGPT's columns.
    """

    sparsity: float | None = rule(None, float, "a number (0.5 means 50%)")
    keep: int | None = rule(None, int, "a whole number")
    of: int | None = rule(None, int, "a whole number")
    group: str = choice("default", GROUPS)

    def _check_together(self) -> Iterator[str]:
        kinds = [value is not None for value in (self.sparsity, self.keep, self.of)]
        if kinds not in ([True, False, False], [False, True, True]):
            yield "a pattern is a sparsity (50%, sparsity = 0.5) or N:M (2:4, keep = 2 and of = 4): exactly one of them"
        elif isinstance(self.sparsity, float) and not 0 <= self.sparsity < 1:
            yield f"sparsity {self} is outside 0% to below 100% (the fraction 0.5 means 50%)"
        elif type(self.keep) is type(self.of) is int and not 1 <= self.keep < self.of:
            yield f"{self} would keep {self.keep} of every {self.of}; N:M needs 1 <= N < M, as in 2:4"
        if self.of is not None and self.group != "default":
            yield f"group={self.group} does not go with N:M, which chooses within each M consecutive inputs"

    def resolve(self, criterion: str) -> "Pattern":
        """The same with group "default" made explicit: each criterion's paper decides. N:M has no group and stays."""
        return self if self.group != "default" or self.of is not None else replace(self, group=CRITERIA[criterion])

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}" if self.of is not None else notation.percent(self.sparsity)


@dataclass(frozen=True)
class Unit(Part):
    """What is reconstructed at once: `width` blocks, `overlap` of them shared with the unit before (CR: 2 and 1)."""

    width: int = count(1, 1)
    overlap: int = count(0, 0)

    def _check_together(self) -> Iterator[str]:
        if type(self.width) is type(self.overlap) is int and self.overlap >= self.width >= 1:
            yield f"overlap must be below width, got overlap {self.overlap} and width {self.width}"


@dataclass(frozen=True)
class Solver(Part):
    """How kept weights change.

    "none": not at all. "gradient": 2406.15524 appendix A, Adam on the mean squared error of the unit's output, learning
    rate `lr` falling linearly to 0 without warm-up, no weight decay, no clipping, `batch` windows a step, reshuffled every
    epoch. select: keep the weights of the last epoch, or of the epoch with the lowest held-out error.
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "LR (solver none)"}

    name: str = choice(MISSING, SOLVERS)
    epochs: int = count(10, 1, only=("gradient",))
    batch: int = count(8, 1, only=("gradient",))
    lr: float = positive(2e-4, only=("gradient",))
    beta1: float = share(0.9, only=("gradient",))
    beta2: float = share(0.95, only=("gradient",))
    eps: float = positive(1e-8, only=("gradient",))
    select: str = choice("last", ("last", "held-out"), only=("gradient",))


# What a method's name stands for, in the shape of `Recipe.to_dict()`.
_BLOCK, _CROSS = {"width": 1, "overlap": 0}, {"width": 2, "overlap": 1}
_STRUCTURE = {
    "LR": {"unit": _BLOCK, "solver": {"name": "none"}, "student": "sparse", "target": "sparse"},
    "BR": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "sparse", "target": "sparse"},
    "BR+GP": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "sparse", "target": "dense"},
    "BR+CR": {"unit": _CROSS, "solver": {"name": "gradient"}, "student": "sparse", "target": "sparse"},
    "BR+GP+CR": {"unit": _CROSS, "solver": {"name": "gradient"}, "student": "sparse", "target": "dense"},
}


@dataclass(frozen=True)
class Recipe(Part):
    """Everything that decides which weights stay and what they become, apart from the model and the text.

    student, target: the stream that feeds the pruned unit, and the stream that feeds the dense unit whose output is the
    target. seed: of random scores and of the order of training windows.
    """

    criterion: Criterion = rule(MISSING, Criterion, "a Criterion")
    pattern: Pattern = rule(MISSING, Pattern, "a Pattern")
    unit: Unit = rule(MISSING, Unit, "a Unit")
    solver: Solver = rule(MISSING, Solver, "a Solver")
    student: str = choice("sparse", STREAMS)
    target: str = choice("sparse", STREAMS)
    seed: int = count(0, 0)

    def _check_together(self) -> Iterator[str]:
        if not all(isinstance(getattr(self, key), kind) for key, kind in _PARTS.items()):
            return
        if self.pattern.group == "block" and self.criterion.name != "sparsegpt":
            yield f"group=block is SparseGPT's block of columns; {self.criterion.name} takes matrix or row"
        if self.solver.name == "none" and self._structure() != _STRUCTURE["LR"]:
            yield "LR (solver none) trains nothing: width, overlap, student and target do not apply to it"

    def _structure(self) -> dict[str, Any]:
        unit, solver = self.unit.to_dict(), {"name": self.solver.name}
        return {"unit": unit, "solver": solver, "student": self.student, "target": self.target}

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """From the short form, such as `wanda-50% BR+GP[lr=2e-3,epochs=20]`. RecipeError lists every problem."""
        problems: list[str] = []
        return _build(text, notation.read(text, _FIRST, _SECOND, problems), problems)

    @classmethod
    def from_toml(cls, text: str) -> "Recipe":
        """From TOML with tables criterion, pattern, unit, solver and keys student, target, seed.

        `method = "BR+GP"` may stand for that method's unit, solver name and streams; what is written beside it wins.
        """
        try:
            return _build(text, tomllib.loads(text), [])
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(text, [f"not TOML: {error}"]) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """From the nested dict of `to_dict()`; `method` is understood as in TOML."""
        return _build(json.dumps(data, default=str), data, [])

    def to_dict(self) -> dict[str, Any]:
        """One dict per part and the streams and seed; only what has a meaning, defaults spelled out."""
        parts = {key: getattr(self, key).to_dict() for key in _PARTS}
        return parts | {"student": self.student, "target": self.target, "seed": self.seed}

    def to_toml(self) -> str:
        """`to_dict()` as TOML, complete and readable back by `from_toml`."""
        data = self.to_dict()
        lines = [f"{key} = {json.dumps(value)}" for key, value in data.items() if key not in _PARTS]
        for part in _PARTS:
            lines += ["", f"[{part}]", *(f"{key} = {json.dumps(value)}" for key, value in data[part].items())]
        return "\n".join(lines) + "\n"

    @property
    def method(self) -> str:
        """The method's name; a structure without a name of its own is the nearest one with its differences in brackets."""
        name, structure, _ = self._method_word()
        return name + notation.brackets(structure)

    @property
    def label(self) -> str:
        """The text form without the seed: what the runs of one study have in common."""
        return str(replace(self, seed=0))

    def digest(self) -> str:
        """sha256 of the canonical JSON: equal for equal meaning, however the defaults were spelled."""
        meaning = replace(self, pattern=self.pattern.resolve(self.criterion.name)).to_dict()
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    def _method_word(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Name, structural options that differ from it, other options that differ from their defaults."""
        mine = _flat(self._structure())
        theirs = {name: _flat(s) for name, s in _STRUCTURE.items() if s["solver"]["name"] == self.solver.name}
        differ = {name: {k: mine[k] for k in mine if mine[k] != flat[k]} for name, flat in theirs.items()}
        name = min(differ, key=lambda n: len(differ[n]))
        return name, differ[name], self.solver.changed() | ({"seed": self.seed} if self.seed else {})

    def __str__(self) -> str:
        name, structure, options = self._method_word()
        first = f"{self.criterion.name}-{self.pattern}"
        group = {} if self.pattern.group == "default" else {"group": self.pattern.group}
        return f"{first}{notation.brackets(self.criterion.changed() | group)} {name}{notation.brackets(structure | options)}"


_PARTS = {"criterion": Criterion, "pattern": Pattern, "unit": Unit, "solver": Solver}
_FIRST = {"damping": "criterion", "columns": "criterion", "update": "criterion", "group": "pattern"}
_SECOND = {
    **{"width": "unit", "overlap": "unit", "student": "", "target": ""},
    **{f.name: "solver" for f in fields(Solver) if f.name != "name"},
    "seed": "",
}


def _flat(structure: Mapping[str, Any]) -> dict[str, Any]:
    """A structure as the options of the method word."""
    return {**structure["unit"], "student": structure["student"], "target": structure["target"]}


def _build(text: str, data: Mapping[str, Any], problems: list[str]) -> Recipe:
    """A Recipe from the nested dict; every problem of every part in one error that quotes `text`."""
    data, problems = _expand_method(data, problems), list(problems)
    made: dict[str, Any] = {}
    for key, kind in _PARTS.items():
        made[key], wrong = _make_part(kind, data.pop(key, {}))
        problems += wrong
    known = [f.name for f in fields(Recipe)]
    problems += [f"unknown key {key!r}; {suggest(key, ['method', *known])}" for key in data if key not in known]
    try:
        recipe = Recipe(**made, **{key: value for key, value in data.items() if key in known})
    except RecipeError as error:
        problems += error.problems
    if problems:
        raise RecipeError(text, problems)
    return recipe


def _expand_method(data: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """`data` with `method` replaced by what it stands for; what is written beside it wins."""
    data = dict(data)
    method, solver = str(data.pop("method", "")), data.get("solver", {})
    if method and method not in _STRUCTURE:
        problems.append(f"method {method!r} is unknown; {suggest(method, METHODS)}")
    elif not method and isinstance(solver, Mapping) and "name" not in solver:
        problems.append(f"no method given; one of {', '.join(METHODS)}")
    elif not method:
        return data
    base = _STRUCTURE.get(method, _STRUCTURE["BR"])  # BR stands in so that the rest is checked too
    merged = {key: base[key] | data[key] for key in ("unit", "solver") if isinstance(data.get(key), Mapping)}
    return base | data | merged


def _make_part(kind: type[Part], data: Any) -> tuple[Part, list[str]]:
    """One part from its dict, or a harmless one in its place with everything that is wrong."""
    what = kind.__name__.lower()
    harmless = {Criterion: {"name": "sparsegpt"}, Pattern: {"sparsity": 0.5}, Unit: {}, Solver: {"name": "gradient"}}[kind]
    if not isinstance(data, Mapping):
        return kind(**harmless), [f"{what} must be a table of options, got {data!r}"]
    known = {f.name: f for f in fields(kind)}
    problems = [f"unknown {what} option {key!r}; {suggest(key, known)}" for key in data if key not in known]
    problems += [f"no {what} {key} given" for key, f in known.items() if f.default is MISSING and key not in data]
    right = {key: value for key, value in data.items() if key in known}
    named = {"name": harmless["name"]} if "name" in known else {}
    try:
        return kind(**named | right), problems
    except RecipeError as error:
        stand_in = {"name": "none"} if right.get("name") == "none" else harmless
        return kind(**stand_in), problems + list(error.problems)


@dataclass(frozen=True)
class Preset:
    """A recipe worth a name of its own: its text form, where it comes from, what it shows."""

    recipe: Recipe
    source: str
    description: str


PRESETS = {
    text: Preset(Recipe.parse(text), "2406.15524 tables 1-4", METHODS[method])
    for criterion in ("magnitude", "wanda", "sparsegpt")
    for method in ("LR", "BR", "BR+GP", "BR+GP+CR")
    for text in [f"{criterion}-50% {method}"]
}
