"""A recipe: how weights are scored, what a mask may look like, what is reconstructed at once, and how.

    >>> recipe = Recipe.parse("sparsegpt-50%[damping=0.05] BR+GP[lr=2e-3,epochs=20]")
    >>> recipe.solver.epochs, recipe.target, str(recipe)
    (20, 'dense', 'sparsegpt-50%[damping=0.05] BR+GP[epochs=20,lr=0.002]')

The short text is `CRITERION[+REFINEMENT]-PATTERN[options] METHOD[options]`, or the one word of a preset (`presets.py`);
TOML says the same with one table per part. Values are checked when a part is made, and everything wrong with a recipe is
reported at once (`RecipeError.problems`). A new idea is a new value here: a name in `CRITERIA`, `SOLVERS` or `METHODS`, or
a field with its rule. No torch.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, ClassVar

from analysis import notation
from analysis.errors import RecipeError
from analysis.presets import PRESETS
from analysis.rules import Part, amount, choice, count, positive, rule, share, suggest

CRITERIA = {  # name: default grouping of an unstructured pattern, each paper's own
    "random": "matrix",
    "magnitude": "matrix",
    "wanda": "row",
    "sparsegpt": "block",
    "ria": "matrix",
}
BLIND = ("random", "magnitude")  # criteria that look at no inputs
REFINEMENTS = {
    "none": "the criterion's mask as it is",
    "swaps": "SparseSwaps: the best exchange of a kept and a removed weight, row by row, until none helps (2512.10922)",
    "fw": "SparseFW: Frank-Wolfe on the relaxed mask (2510.13713)",
}
UNITS = {
    "matrix": "each linear map on its own",
    "sub-block": "attention half and MLP half, each with its norms and residual addition",
    "block": "`width` consecutive blocks, `overlap` of them shared with the unit before",
    "model": "the whole stack of blocks",
}
SOLVERS = ("none", "ridge", "gradient", "retrain")
TRAINED = ("gradient", "retrain")
GROUPS = ("default", "matrix", "row", "block")
STREAMS = ("sparse", "dense")
ADDED = ("solver", "all")
METHODS = {
    "LR": "layer-wise: the mask alone, with SparseGPT's OBS update; no gradient step (2406.15524 section 2)",
    "BR": "block reconstruction: each block against its dense self, both on the sparse stream (2406.15524 section 2)",
    "BR+GP": "BR with global propagation: the target is the dense block on the dense stream (2406.15524 section 2)",
    "BR+CR": "BR in windows of two blocks overlapping by one (in the code of 2406.15524, not in its tables)",
    "BR+GP+CR": "BR with both: windows of two blocks, target from the dense stream (2406.15524 section 2)",
    "IR": "independent reconstruction: dense and pruned block both on the dense stream, the default of 2510.14444's code",
    "ridge": "each matrix refit in closed form: the least-squares optimum of its kept weights (the convex case of 2510.14444 section 2)",
    "retrain": "the whole model under its masks on its own loss, the baseline of 2510.14444; train=masklora or norms-biases is 2312.15230",
}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {  # of the optimiser: name: solver: options that differ from the defaults
    "paper1": {"gradient": {}, "retrain": {}},
    "paper2": {
        "gradient": {"epochs": 1, "batch": 2, "lr": 1e-5, "warmup": 0.1, "shuffle": False, "beta2": 0.999},
        "retrain": {"epochs": 1, "batch": 2, "lr": 1e-5, "warmup": 0.1, "shuffle": False, "clip": 1.0, "beta2": 0.999},
    },
}


@dataclass(frozen=True)
class Criterion(Part):
    """How weights are scored; higher score = keep.

    SparseGPT's options (2301.00774): damping: share of the Gram matrix's mean diagonal added to its diagonal. columns: of a
    block; masks are chosen and updates applied block by block. update: OBS update of the kept weights; False keeps its mask
    alone. RIA's: exponent: power of the input's norm in its score (alpha in its code).
    """

    name: str = choice(MISSING, CRITERIA)
    damping: float = positive(0.01, only=("sparsegpt",))
    columns: int = count(128, 1, only=("sparsegpt",))
    update: bool = rule(True, bool, "true or false", only=("sparsegpt",))
    exponent: float = amount(0.5, only=("ria",))


@dataclass(frozen=True)
class Refinement(Part):
    """Improving the chosen mask with the Gram matrix; kept weights stay as they were.

    rounds: most swaps in a row. iterations: of Frank-Wolfe. protect: share of the kept weights, those of the highest scores,
    that Frank-Wolfe may not remove (2510.13713 section 2.3).
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "a mask without refinement (wanda+swaps-50%, wanda+fw-50%)"}

    name: str = choice("none", REFINEMENTS)
    rounds: int = count(100, 1, only=("swaps",))
    iterations: int = count(2000, 1, only=("fw",))
    protect: float = share(0.9, only=("fw",))


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
    """What is reconstructed at once. Of blocks: `width` of them, `overlap` shared with the unit before (CR: 2 and 1)."""

    name: str = choice("block", UNITS)
    width: int = count(1, 1, only=("block",))
    overlap: int = count(0, 0, only=("block",))

    def _check_together(self) -> Iterator[str]:
        if type(self.width) is type(self.overlap) is int and self.overlap >= self.width >= 1:
            yield f"overlap must be below width, got overlap {self.overlap} and width {self.width}"

    def __str__(self) -> str:
        if self.name != "block":
            return self.name
        return f"{self.width} block{'s' * (self.width > 1)}" + f", overlap {self.overlap}" * (self.overlap > 0)


@dataclass(frozen=True)
class Solver(Part):
    """How kept weights change.

    "none": not at all. "ridge": row-wise least squares on the support in closed form; penalty: on the change of the weights,
    as a share of the Gram matrix's mean diagonal. "gradient": Adam on the error of the unit's output. "retrain": Adam on the
    model's own loss.

    train: "all" parameters of the unit, its "norms-biases" alone, or "masklora": a masked low-rank change of `rank` scaled by
    alpha / rank for every matrix, with norms and biases (2312.15230). loss: mean squared error, the same relative to each
    token's target, or one minus the cosine. objective: "ce" (next token) or "distill" (the dense model's distribution).

    Adam without weight decay; the learning rate rises linearly to `lr` over the `warmup` share of all steps and falls linearly
    to 0; `batch` windows a step, reshuffled every epoch if `shuffle`; gradients longer than `clip` are shortened (0: never). The
    defaults are 2406.15524 appendix A ("paper1" of `SETTINGS`; "paper2" is the code of 2510.14444).
    select: keep the weights of the last epoch, or of the one with the lowest calibration or held-out error; patience: epochs
    without a new lowest held-out error after which training stops (0: never).
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "LR (solver none)"}

    name: str = choice(MISSING, SOLVERS)
    penalty: float = amount(0.01, only=("ridge",))
    loss: str = choice("mse", ("mse", "relative", "cosine"), only=("gradient",))
    objective: str = choice("ce", ("ce", "distill"), only=("retrain",))
    train: str = choice("all", ("all", "norms-biases", "masklora"), only=TRAINED)
    rank: int = count(16, 1, only=TRAINED, when=("train", ("masklora",)))
    alpha: float = positive(32.0, only=TRAINED, when=("train", ("masklora",)))
    epochs: int = count(10, 1, only=TRAINED)
    batch: int = count(8, 1, only=TRAINED)
    lr: float = positive(2e-4, only=TRAINED)
    warmup: float = share(0.0, only=TRAINED)
    shuffle: bool = rule(True, bool, "true or false", only=TRAINED)
    clip: float = amount(0.0, only=TRAINED)
    beta1: float = share(0.9, only=TRAINED)
    beta2: float = share(0.95, only=TRAINED)
    eps: float = positive(1e-8, only=TRAINED)
    select: str = choice("last", ("last", "calibration", "held-out"), only=TRAINED)
    patience: int = count(0, 0, only=TRAINED, when=("select", ("held-out",)))


# What a method's name stands for, in the shape of `Recipe.to_dict()`.
_BLOCK, _CROSS = {"name": "block", "width": 1, "overlap": 0}, {"name": "block", "width": 2, "overlap": 1}
_STRUCTURE = {
    "LR": {"unit": _BLOCK, "solver": {"name": "none"}, "student": "sparse", "target": "sparse"},
    "BR": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "sparse", "target": "sparse"},
    "BR+GP": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "sparse", "target": "dense"},
    "BR+CR": {"unit": _CROSS, "solver": {"name": "gradient"}, "student": "sparse", "target": "sparse"},
    "BR+GP+CR": {"unit": _CROSS, "solver": {"name": "gradient"}, "student": "sparse", "target": "dense"},
    "IR": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "dense", "target": "dense"},
    "ridge": {"unit": {"name": "matrix"}, "solver": {"name": "ridge"}, "student": "sparse", "target": "sparse"},
    "retrain": {"unit": {"name": "model"}, "solver": {"name": "retrain"}, "student": "sparse", "target": "sparse"},
}


@dataclass(frozen=True)
class Recipe(Part):
    """Everything that decides which weights stay and what they become, apart from the model and the text.

    student, target: the stream that feeds the pruned unit, and the stream that feeds the dense unit whose output is the
    target. statistics: the stream whose inputs the criterion and the refinement look at. added: who sees the windows added to
    the calibration text: the "solver" alone, as with the self-generated text of 2406.15524 (appendix C and its code), or "all",
    the criterion and the refinement too. seed: of random scores, of adapters and of the order of training windows.
    """

    criterion: Criterion = rule(MISSING, Criterion, "a Criterion")
    pattern: Pattern = rule(MISSING, Pattern, "a Pattern")
    unit: Unit = rule(MISSING, Unit, "a Unit")
    solver: Solver = rule(MISSING, Solver, "a Solver")
    refinement: Refinement = rule(Refinement(), Refinement, "a Refinement")
    student: str = choice("sparse", STREAMS)
    target: str = choice("sparse", STREAMS)
    statistics: str = choice("sparse", STREAMS)
    added: str = choice("solver", ADDED)
    seed: int = count(0, 0)

    def _check_together(self) -> Iterator[str]:
        if not all(isinstance(getattr(self, key), kind) for key, kind in _PARTS.items()):
            return
        if self.pattern.group == "block" and self.criterion.name != "sparsegpt":
            yield f"group=block is SparseGPT's block of columns; {self.criterion.name} takes matrix or row"
        if self.criterion.name in BLIND and self.refinement.name == "none":
            for option, value in {"statistics": self.statistics, "added": self.added}.items():
                if value != getattr(Recipe, option):
                    yield f"{option}={value} does not apply to {self.criterion.name} without refinement, which looks at no inputs"
        yield from self._check_solver()

    def _check_solver(self) -> Iterator[str]:
        solver, unit = self.solver.name, self.unit
        if solver == "none" and self._structure() != _STRUCTURE["LR"]:
            yield "LR (solver none) trains nothing: unit, width, overlap, student and target do not apply to it"
        if solver == "ridge" and unit.name != "matrix":
            yield f"ridge is a closed form for one matrix: unit must be matrix, got {unit}; larger units take BR (solver gradient)"
        if solver == "retrain" and unit.name != "model":
            yield f"retrain trains the whole model: unit must be model, got {unit}; parts of it take BR (solver gradient)"
        if solver == "retrain" and (self.student, self.target) != ("sparse", "sparse"):
            yield "retrain follows the model's own loss: student and target do not apply to it; objective=distill follows the dense model"
        if solver in ("ridge", "gradient") and (self.student, self.target) == ("dense", "sparse"):
            yield "student=dense with target=sparse: the target's inputs would need the sparse stream that the student never sees; valid with student=dense: target=dense"

    def _structure(self) -> dict[str, Any]:
        unit, solver = self.unit.to_dict(), {"name": self.solver.name}
        return {"unit": unit, "solver": solver, "student": self.student, "target": self.target}

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """From the short form, such as `wanda-50% BR+GP[lr=2e-3,epochs=20]`, or a preset's name. RecipeError lists every problem."""
        text = text.strip()
        if text in PRESETS:
            return cls.parse(PRESETS[text].text)
        if " " not in text and (near := get_close_matches(text, PRESETS, n=1, cutoff=0.8)):
            raise RecipeError(text, [f"no preset has this name; did you mean {near[0]!r}? `analysis list recipes` shows all"])
        problems: list[str] = []
        return _build(text, notation.read(text, _FIRST, _SECOND, problems), problems)

    @classmethod
    def from_toml(cls, text: str) -> "Recipe":
        """From TOML with tables criterion, refinement, pattern, unit, solver and keys student, target, statistics, added, seed.

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
        return parts | {key: getattr(self, key) for key in ("student", "target", "statistics", "added", "seed")}

    def to_toml(self) -> str:
        """`to_dict()` as TOML, complete and readable back by `from_toml`."""
        data = self.to_dict()
        lines = [f"{key} = {json.dumps(value)}" for key, value in data.items() if key not in _PARTS]
        for part in _PARTS:
            lines += ["", f"[{part}]", *(f"{key} = {json.dumps(value)}" for key, value in data[part].items())]
        return "\n".join(lines) + "\n"

    @property
    def method(self) -> str:
        """The method's name with what else decides what is trained on what; a structure without a name of its own is the nearest one."""
        name, structure, options = self._method_word()
        return name + notation.brackets(structure | {key: value for key, value in options.items() if key in _KINDS})

    @property
    def label(self) -> str:
        """The text form without the seed: what the runs of one study have in common."""
        return str(replace(self, seed=0))

    def digest(self) -> str:
        """sha256 of the canonical JSON: equal for equal meaning, however the defaults were spelled."""
        meaning = replace(self, pattern=self.pattern.resolve(self.criterion.name)).to_dict()
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    def _method_word(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Name, structural options that differ from it, other options that differ from their defaults or from the nearest settings."""
        mine = _flat(self._structure())
        theirs = {name: _flat(s) for name, s in _STRUCTURE.items() if s["solver"]["name"] == self.solver.name}
        differ = {name: {k: value for k, value in mine.items() if flat.get(k) != value} for name, flat in theirs.items()}
        name = min(differ, key=lambda n: len(differ[n]))
        return name, differ[name], _solver_options(self.solver) | ({"seed": self.seed} if self.seed else {})

    def __str__(self) -> str:
        name, structure, options = self._method_word()
        refined = "" if self.refinement.name == "none" else f"+{self.refinement.name}"
        first = self.criterion.changed() | self.refinement.changed()
        first |= {} if self.pattern.group == "default" else {"group": self.pattern.group}
        first |= {} if self.statistics == "sparse" else {"statistics": self.statistics}
        first |= {} if self.added == "solver" else {"added": self.added}
        head = f"{self.criterion.name}{refined}-{self.pattern}{notation.brackets(first)}"
        return f"{head} {name}{notation.brackets(structure | options)}"


_KINDS = ("loss", "objective", "train")
_PARTS = {"criterion": Criterion, "refinement": Refinement, "pattern": Pattern, "unit": Unit, "solver": Solver}
_FIRST = {
    **{f.name: ("criterion", f.name) for f in fields(Criterion) if f.name != "name"},
    **{f.name: ("refinement", f.name) for f in fields(Refinement) if f.name != "name"},
    "group": ("pattern", "group"),
    "statistics": ("", "statistics"),
    "added": ("", "added"),
}
_SECOND = {
    **{"unit": ("unit", "name"), "width": ("unit", "width"), "overlap": ("unit", "overlap"), "student": ("", "student"), "target": ("", "target")},
    "settings": ("solver", "settings"),
    **{f.name: ("solver", f.name) for f in fields(Solver) if f.name != "name"},
    "seed": ("", "seed"),
}


def _flat(structure: Mapping[str, Any]) -> dict[str, Any]:
    """A structure as the options of the method word."""
    unit = {"unit" if key == "name" else key: value for key, value in structure["unit"].items()}
    return {**unit, "student": structure["student"], "target": structure["target"]}


def _solver_options(solver: Solver) -> dict[str, Any]:
    """The solver's options as they are written: the settings that leave the fewest differences, then these."""
    mine, default = solver.to_dict(), Solver(solver.name)
    best = {name: {k: v for k, v in mine.items() if k != "name" and options.get(solver.name, {}).get(k, getattr(default, k)) != v} for name, options in SETTINGS.items()}
    name = min(best, key=lambda n: len(best[n]) + (n != "paper1"))
    return ({} if name == "paper1" else {"settings": name}) | best[name]


def _build(text: str, data: Mapping[str, Any], problems: list[str]) -> Recipe:
    """A Recipe from the nested dict; every problem of every part in one error that quotes `text`."""
    data, problems = _expand_settings(_expand_method(data, problems), problems), list(problems)
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
    if merged.get("unit", base["unit"])["name"] != base["unit"]["name"]:
        merged["unit"] = data["unit"]  # the method's width and overlap belong to its own kind of unit
    return base | data | merged


def _expand_settings(data: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """`data` with the solver's `settings` replaced by the options they stand for; what is written beside them wins."""
    solver = data.get("solver")
    if not isinstance(solver, Mapping) or "settings" not in solver:
        return data
    written = {key: value for key, value in solver.items() if key != "settings"}
    settings, name = solver["settings"], str(written.get("name"))
    if settings not in SETTINGS:
        problems.append(f"settings {settings!r} are unknown; {suggest(settings, SETTINGS)}")
    elif name not in SETTINGS[settings]:
        problems.append(f"settings is an option of {' and '.join(SETTINGS[settings])}, not of {Solver.SPOKEN.get(name, name)}")
    else:
        written = SETTINGS[settings][name] | written
    return data | {"solver": written}


def _make_part(kind: type[Part], data: Any) -> tuple[Part, list[str]]:
    """One part from its dict, or a harmless one in its place with everything that is wrong."""
    what = kind.__name__.lower()
    harmless = {"criterion": {"name": "sparsegpt"}, "pattern": {"sparsity": 0.5}, "solver": {"name": "gradient"}}.get(what, {})
    if not isinstance(data, Mapping):
        return kind(**harmless), [f"{what} must be a table of options, got {data!r}"]
    known = {f.name: f for f in fields(kind)}
    problems = [f"unknown {what} option {key!r}; {suggest(key, known)}" for key in data if key not in known]
    problems += [f"no {what} {key} given" for key, f in known.items() if f.default is MISSING and key not in data]
    right = {key: value for key, value in data.items() if key in known}
    named = {"name": harmless["name"]} if "name" in harmless else {}
    try:
        return kind(**named | right), problems
    except RecipeError as error:
        stand_in = {"name": right["name"]} if right.get("name") in (*SOLVERS, *UNITS) and kind in (Solver, Unit) else harmless
        return kind(**stand_in), problems + list(error.problems)
