"""A recipe: how weights are scored, what a mask may look like, what is reconstructed at once, and how.

    >>> recipe = Recipe.parse("sparsegpt-50%[damping=0.05] BR+GP[lr=2e-3,epochs=20]")
    >>> recipe.solver.epochs, recipe.target, str(recipe)
    (20, 'dense', 'sparsegpt-50%[damping=0.05] BR+GP[epochs=20,lr=0.002]')

The short text is `CRITERION[+REFINEMENT]-PATTERN[options] METHOD[options]`, or the one word of a preset (`presets.py`);
TOML says the same with one table per part. Values are checked when a part is made, and everything wrong with a recipe
is reported at once (`RecipeError.problems`). A new idea is a new value here: a name in `CRITERIA`, `SOLVERS` or
`METHODS`, or a field with its rule. No torch.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from analysis.errors import RecipeError, suggest
from analysis.recipe import notation
from analysis.recipe.fields import Part, choice, count, rule
from analysis.recipe.parts import (
    ADDED,
    BLIND,
    CRITERIA,
    GRADIENTS,
    SETTINGS,
    SOLVERS,
    STREAMS,
    STRUCTURED,
    UNITS,
    WHOLE,
    Criterion,
    Pattern,
    Refinement,
    Repair,
    Solver,
    Unit,
)
from analysis.recipe.presets import PRESETS

METHODS = {
    "LR": "layer-wise: the mask alone, with SparseGPT's OBS update; no gradient step (2406.15524 section 2)",
    "BR": "block reconstruction: each block against its dense self, both on the sparse stream (2406.15524 section 2)",
    "BR+GP": "BR with global propagation: the target is the dense block on the dense stream (2406.15524 section 2)",
    "BR+CR": "BR in windows of two blocks overlapping by one (in the code of 2406.15524, not in its tables)",
    "BR+GP+CR": "BR with both: windows of two blocks, target from the dense stream (2406.15524 section 2)",
    "IR": (
        "independent reconstruction: dense and pruned block both on the dense stream, the default of 2510.14444's code"
    ),
    "ridge": (
        "each matrix refit in closed form: the least-squares optimum of its kept weights (the convex case of 2510.14444"
        " section 2)"
    ),
    "retrain": (
        "the whole model under its masks on its own loss, the baseline of 2510.14444; train=masklora or norms-biases is"
        " 2312.15230"
    ),
}
REPAIRING = {  # methods of whole structures
    "compensate": "the bias that makes up for the mean of what is gone: bias compensation (2312.11983)",
    "scale": "one scale for every structure that stays: mask tuning (2204.09656)",
    "LIAR": (
        "kept weights and bias by ridge regression, absorbed: what is gone is predicted from what stays (after"
        " 2407.13331), on the sparse stream"
    ),
    "LIAR+GP": "LIAR with the dense stream's output as the target, so that inherited error is corrected too",
}


# What a method's name stands for, in the shape of `Recipe.to_dict()`.
_BLOCK, _CROSS = {"name": "block", "width": 1, "overlap": 0}, {"name": "block", "width": 2, "overlap": 1}
_FREE = {"repair": {"name": "none"}}
_STRUCTURE = {
    "LR": {"unit": _BLOCK, "solver": {"name": "none"}, "student": "sparse", "target": "sparse"} | _FREE,
    "BR": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "sparse", "target": "sparse"} | _FREE,
    "BR+GP": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "sparse", "target": "dense"} | _FREE,
    "BR+CR": {"unit": _CROSS, "solver": {"name": "gradient"}, "student": "sparse", "target": "sparse"} | _FREE,
    "BR+GP+CR": {"unit": _CROSS, "solver": {"name": "gradient"}, "student": "sparse", "target": "dense"} | _FREE,
    "IR": {"unit": _BLOCK, "solver": {"name": "gradient"}, "student": "dense", "target": "dense"} | _FREE,
    "ridge": {"unit": {"name": "matrix"}, "solver": {"name": "ridge"}, "student": "sparse", "target": "sparse"} | _FREE,
    "retrain": (
        {"unit": {"name": "model"}, "solver": {"name": "retrain"}, "student": "sparse", "target": "sparse"} | _FREE
    ),
}
_STRUCTURE |= {
    "compensate": _STRUCTURE["LR"] | {"repair": {"name": "compensate"}},
    "scale": _STRUCTURE["LR"] | {"repair": {"name": "scale"}},
    "LIAR": _STRUCTURE["LR"] | {"repair": {"name": "liar"}},
    "LIAR+GP": _STRUCTURE["LR"] | {"repair": {"name": "liar"}, "target": "dense"},
}


@dataclass(frozen=True)
class Recipe(Part):
    """Everything that decides which weights stay and what they become, apart from the model and the text.

    repair: of whole structures, before the solver's steps and on the same streams. student, target: the stream that
    feeds the pruned unit, and the stream that feeds the dense unit whose output is the target. statistics: the stream
    whose inputs the criterion and the refinement look at. added: who sees the windows added to the calibration text:
    the "solver" alone, as with the self-generated text of 2406.15524 (appendix C and its code), or "all", the criterion
    and the refinement too. seed: of random scores, of adapters and of the order of training windows.
    """

    criterion: Criterion = rule(MISSING, Criterion, "a Criterion")
    pattern: Pattern = rule(MISSING, Pattern, "a Pattern")
    unit: Unit = rule(MISSING, Unit, "a Unit")
    solver: Solver = rule(MISSING, Solver, "a Solver")
    refinement: Refinement = rule(Refinement(), Refinement, "a Refinement")
    repair: Repair = rule(Repair(), Repair, "a Repair")
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
        looked = {
            option: getattr(self, option)
            for option in ("statistics", "added")
            if getattr(self, option) != getattr(Recipe, option)
        }
        if self.criterion.name in BLIND and self.refinement.name == "none":
            for option, value in looked.items():
                yield (
                    f"{option}={value} does not apply to {self.criterion.name} without refinement, which looks at no"
                    " inputs"
                )
        elif self.masks_first and "statistics" in looked:
            why = "scope=global" if self.pattern.scope == "global" else self.criterion.name
            yield (
                f"statistics={self.statistics} does not apply: {why} chooses on the dense model, before the first unit"
            )
        yield from self._check_whole() if self.pattern.whole else self._check_weights()
        yield from self._check_solver()

    def _check_whole(self) -> Iterator[str]:
        kind, methods = self.pattern.kind, [*(name for name in METHODS if name != "ridge"), *REPAIRING]
        if self.criterion.name not in STRUCTURED:
            yield f"{self.criterion.name} scores single weights; {kind} take {', '.join(STRUCTURED)}"
        if self.refinement.name != "none":
            yield (
                f"+{self.refinement.name} exchanges single weights; the masks of {kind} are taken as they are: write"
                f" {self.criterion.name}-{self.pattern}"
            )
        if self.solver.name == "ridge":
            yield f"ridge refits matrices that lost single weights; {kind} take {', '.join(methods)}"

    def _check_weights(self) -> Iterator[str]:
        if self.criterion.name not in CRITERIA:
            patterns = ", ".join(f"{self.criterion.name}-{kind}-50%" for kind in WHOLE)
            yield (
                f"{self.criterion.name} scores whole structures: {patterns}; single weights take {', '.join(CRITERIA)}"
            )
        if self.repair.name != "none":
            word = self._method_word()[0] if self.solver.name == "none" else f"repair={self.repair.name}"
            yield (
                f"{word} makes up for whole structures, of a pattern such as"
                f" {' or '.join(f'{kind}-50%' for kind in WHOLE)}; single weights take {', '.join(METHODS)}"
            )

    def _check_solver(self) -> Iterator[str]:
        solver, unit = self.solver.name, self.unit
        if solver == "none" and self.repair.name == "none" and self._structure() != _STRUCTURE["LR"]:
            yield "LR (solver none) trains nothing: unit, width, overlap, student and target do not apply to it"
        if solver == "none" and self.repair.name != "none" and unit != Unit():
            alone, after = (
                f"{self._method_word()[0]} repairs one matrix after the other",
                f"gradient steps after it are BR+GP[repair={self.repair.name}]",
            )
            yield f"{alone}: unit, width and overlap do not apply to it; {after}"
        if solver == "ridge" and unit.name != "matrix":
            yield (
                f"ridge is a closed form for one matrix: unit must be matrix, got {unit}; larger units take BR (solver"
                " gradient)"
            )
        if solver == "retrain" and unit.name != "model":
            yield (
                f"retrain trains the whole model: unit must be model, got {unit}; parts of it take BR (solver gradient)"
            )
        if solver == "retrain" and (self.student, self.target) != ("sparse", "sparse"):
            yield (
                "retrain follows the model's own loss: student and target do not apply to it; objective=distill follows"
                " the dense model"
            )
        if (solver in ("ridge", "gradient") or self.repair.name != "none") and (self.student, self.target) == (
            "dense",
            "sparse",
        ):
            yield (
                "student=dense with target=sparse: the target's inputs would need the sparse stream that the student"
                " never sees; valid with student=dense: target=dense"
            )

    @property
    def masks_first(self) -> bool:
        """Whether all masks are chosen on the dense model before the first unit: layers compared with each other, or
        the model's loss looked at.
        """
        return self.pattern.whole and (self.pattern.scope == "global" or self.criterion.name in GRADIENTS)

    @property
    def changes_weights(self) -> bool:
        """Whether anything but the mask depends on calibration text: a solver or a repair."""
        return (self.solver.name, self.repair.name) != ("none", "none")

    def _structure(self) -> dict[str, Any]:
        unit, solver = self.unit.to_dict(), {"name": self.solver.name}
        return {
            "unit": unit,
            "solver": solver,
            "student": self.student,
            "target": self.target,
            "repair": {"name": self.repair.name},
        }

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """From the short form, such as `wanda-50% BR+GP[lr=2e-3,epochs=20]`, or a preset's name. RecipeError lists
        every problem.
        """
        text = text.strip()
        if text in PRESETS:
            return cls.parse(PRESETS[text].text)
        if " " not in text and (near := get_close_matches(text, PRESETS, n=1, cutoff=0.8)):
            raise RecipeError(
                text, [f"no preset has this name; did you mean {near[0]!r}? `analysis list recipes` shows all"]
            )
        problems: list[str] = []
        data = notation.read(text, dict.fromkeys((*CRITERIA, *STRUCTURED)), WHOLE, _FIRST, _second, problems)
        if not {"sparsity", "keep"} & data["pattern"].keys():  # it could not be read, which is said already
            whole = (
                data["criterion"]["name"] not in CRITERIA
                and data["criterion"]["name"] in STRUCTURED
                or data["method"] in REPAIRING
            )
            data["pattern"] |= {"sparsity": 0.5, "kind": "structures"} if whole else {"sparsity": 0.5}
        return _build(text, data, problems)

    @classmethod
    def from_toml(cls, text: str) -> "Recipe":
        """From TOML with tables criterion, refinement, pattern, unit, solver, repair and keys student, target,
        statistics, added, seed.

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
        """The method's name with what else decides what is trained on what; a structure without a name of its own is
        the nearest one.
        """
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
        """Name, structural options that differ from it, other options that differ from their defaults or from the
        nearest settings.
        """
        mine = _flat(self._structure())
        theirs = {name: _flat(s) for name, s in _STRUCTURE.items() if s["solver"]["name"] == self.solver.name}
        differ = {
            name: {k: value for k, value in mine.items() if flat.get(k) != value} for name, flat in theirs.items()
        }
        name = min(differ, key=lambda n: len(differ[n]))
        return (
            name,
            differ[name],
            self.repair.changed() | _solver_options(self.solver) | ({"seed": self.seed} if self.seed else {}),
        )

    def __str__(self) -> str:
        name, structure, options = self._method_word()
        refined = "" if self.refinement.name == "none" else f"+{self.refinement.name}"
        first = self.criterion.changed() | self.refinement.changed()
        first |= {key: value for key, value in self.pattern.changed().items() if key in _PATTERN}
        first |= {} if self.statistics == "sparse" else {"statistics": self.statistics}
        first |= {} if self.added == "solver" else {"added": self.added}
        head = f"{self.criterion.name}{refined}-{self.pattern}{notation.brackets(first)}"
        return f"{head} {name}{notation.brackets(structure | options)}"


_KINDS = ("loss", "objective", "train", "bias")
_PARTS = {
    "criterion": Criterion,
    "refinement": Refinement,
    "pattern": Pattern,
    "unit": Unit,
    "solver": Solver,
    "repair": Repair,
}
_PATTERN = ("group", "heads", "scope", "flops")
_FIRST = {
    **{f.name: ("criterion", f.name) for f in fields(Criterion) if f.name != "name"},
    **{f.name: ("refinement", f.name) for f in fields(Refinement) if f.name != "name"},
    **{name: ("pattern", name) for name in _PATTERN},
    "statistics": ("", "statistics"),
    "added": ("", "added"),
}
_SECOND = {
    "unit": ("unit", "name"),
    "width": ("unit", "width"),
    "overlap": ("unit", "overlap"),
    "student": ("", "student"),
    "target": ("", "target"),
    "settings": ("solver", "settings"),
    **{f.name: ("solver", f.name) for f in fields(Solver) if f.name != "name"},
    "repair": ("repair", "name"),
    **{f.name: ("repair", f.name) for f in fields(Repair) if f.name != "name"},
    "seed": ("", "seed"),
}


def _second(method: str) -> notation.Places:
    """The options after a method; a penalty is the repair's, or ridge's own."""
    return _SECOND | {"penalty": ("solver", "penalty")} if method == "ridge" else _SECOND


def _flat(structure: Mapping[str, Any]) -> dict[str, Any]:
    """A structure as the options of the method word."""
    unit = {"unit" if key == "name" else key: value for key, value in structure["unit"].items()}
    return {
        **unit,
        "student": structure["student"],
        "target": structure["target"],
        "repair": structure["repair"]["name"],
    }


def _solver_options(solver: Solver) -> dict[str, Any]:
    """The solver's options as they are written: the settings that leave the fewest differences, then these."""
    mine, default = solver.to_dict(), Solver(solver.name)
    best = {
        name: {
            k: v
            for k, v in mine.items()
            if k != "name" and options.get(solver.name, {}).get(k, getattr(default, k)) != v
        }
        for name, options in SETTINGS.items()
    }
    name = min(best, key=lambda n: len(best[n]) + (n != "paper1"))
    return ({} if name == "paper1" else {"settings": name}) | best[name]


def _build(text: str, data: Mapping[str, Any], problems: list[str]) -> Recipe:
    """A Recipe from the nested dict; every problem of every part in one error that quotes `text`."""
    data, problems = _expand_settings(_expand_method(data, problems), problems), list(problems)
    made: dict[str, Any] = {}
    pattern = data.get("pattern")
    whole = isinstance(pattern, Mapping) and pattern.get("kind") in WHOLE
    for key, kind in _PARTS.items():
        made[key], wrong = _make_part(kind, data.pop(key, {}), whole)
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
        problems.append(f"method {method!r} is unknown; {suggest(method, _STRUCTURE)}")
    elif not method and isinstance(solver, Mapping) and "name" not in solver:
        problems.append(f"no method given; one of {', '.join(_STRUCTURE)}")
    elif not method:
        return data
    base = _STRUCTURE.get(method, _STRUCTURE["BR"])  # BR stands in so that the rest is checked too
    merged = {key: base[key] | data[key] for key in ("unit", "solver", "repair") if isinstance(data.get(key), Mapping)}
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
        problems.append(
            f"settings is an option of {' and '.join(SETTINGS[settings])}, not of {Solver.SPOKEN.get(name, name)}"
        )
    else:
        written = SETTINGS[settings][name] | written
    return data | {"solver": written}


def _make_part(kind: type[Part], data: Any, whole: bool) -> tuple[Part, list[str]]:
    """One part from its dict, or a harmless one in its place with everything that is wrong. whole: whether whole
    structures are removed.
    """
    what = kind.__name__.lower()
    pattern = {"sparsity": 0.5, "kind": data["kind"]} if whole and what == "pattern" else {"sparsity": 0.5}
    harmless = {
        "criterion": {"name": "flap" if whole else "sparsegpt"},
        "pattern": pattern,
        "solver": {"name": "gradient"},
    }.get(what, {})
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
        stand_in = (
            {"name": right["name"]} if right.get("name") in (*SOLVERS, *UNITS) and kind in (Solver, Unit) else harmless
        )
        return kind(**stand_in), problems + list(error.problems)
