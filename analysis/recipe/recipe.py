"""A recipe: how weights are scored, what a mask may look like, what is reconstructed at once, and how.

    >>> recipe = Recipe.parse("sparsegpt-50%[damping=0.05] BR+GP[lr=2e-3,epochs=20]")
    >>> recipe.solver.epochs, recipe.target, str(recipe)
    (20, 'dense', 'sparsegpt-50%[damping=0.05] BR+GP[epochs=20,lr=0.002]')

The short text is `CRITERION[+REFINEMENT]-PATTERN[options] METHOD[options]`, or the one word of a preset (`presets.py`);
TOML says the same with one table per part. Values are checked when a part is made, and everything wrong with a recipe
is reported at once (`RecipeError.problems`). A new idea is a new word (`words.py`), or a field with its rule. No
torch.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from analysis.errors import RecipeError, UsageError, quoted, suggest
from analysis.recipe import notation
from analysis.recipe.fields import Part, choice, count, flag, rule
from analysis.recipe.files import read_small
from analysis.recipe.parts import (
    DEPTH,
    EXPERTS,
    STARVED,
    STREAMS,
    TOKENS,
    WHOLE,
    Criterion,
    Pattern,
    Refinement,
    Repair,
    Solver,
    Unit,
)
from analysis.recipe.presets import PRESETS
from analysis.recipe.shares import OWL
from analysis.recipe.words import (
    CRITERION_WORDS,
    DEPTH_METHODS,
    DEPTH_WORDS,
    EXPERT_METHODS,
    EXPERT_WORDS,
    KIND_WORDS,
    METHOD_WORDS,
    REFINEMENT_WORDS,
    REPAIR_METHODS,
    REPAIR_WORDS,
    SETTING_WORDS,
    SOLVER_WORDS,
    STRUCTURED_WORDS,
    UNIT_WORDS,
    WEIGHT_METHODS,
    Word,
)


@dataclass(frozen=True)
class Recipe(Part):
    """Everything that decides which weights stay and what they become, apart from the model and the text."""

    criterion: Criterion = rule(MISSING, Criterion, "a Criterion")
    """How weights or structures are scored."""
    pattern: Pattern = rule(MISSING, Pattern, "a Pattern")
    """What a mask may look like."""
    unit: Unit = rule(MISSING, Unit, "a Unit")
    """What is reconstructed at once."""
    solver: Solver = rule(MISSING, Solver, "a Solver")
    """How kept weights change."""
    refinement: Refinement = rule(Refinement(), Refinement, "a Refinement")
    """How the chosen mask is improved."""
    repair: Repair = rule(Repair(), Repair, "a Repair")
    """Of whole structures, before the solver's steps and on the same streams."""
    student: str = choice("sparse", STREAMS, meaning="the stream that feeds the pruned unit")
    """The stream that feeds the pruned unit."""
    target: str = choice("sparse", STREAMS, meaning="the stream that feeds the dense unit whose output is the target")
    """The stream that feeds the dense unit whose output is the target."""
    statistics: str = choice(
        "sparse", STREAMS, meaning="the stream whose inputs the criterion and the refinement look at"
    )
    """The stream whose inputs the criterion and the refinement look at."""
    added: str = choice(
        "solver", ("solver", "all"), meaning="who sees windows added to the calibration text: the solver alone, or all"
    )
    """Who sees the windows added to the calibration text: the "solver" alone, as with the self-generated text of
    2406.15524 (appendix C and its code), or "all", the criterion and the refinement too."""
    tokens: str = choice(
        "all",
        TOKENS,
        meaning="of text with pictures: which tokens count in statistics and in losses of parts of the model: all, or"
        " those of the text, or of the pictures (image), alone",
    )
    """Which tokens of text with pictures count in statistics, and in losses of parts of the model."""
    starved: str = choice(
        "shrink",
        STARVED,
        meaning="of a mixture of experts: what the statistics of an expert's matrix that sees fewer tokens than it has"
        " inputs are made of: its own and as many average tokens as are missing (shrink), all tokens, none (its weights"
        " go by magnitude); or refuse",
    )
    """What the statistics of experts that see few tokens are made of (`streams/starved.py`)."""
    gated: bool = flag(
        False,
        meaning="of a mixture of experts: whether what an expert reads counts times the weight of its output in the"
        " statistics (MoE-Pruner, 2410.12013)",
    )
    """Whether inputs of experts count times the weight of the expert's output in the criterion's statistics."""
    seed: int = count(0, 0, meaning="of random scores, of adapters and of the order of training windows")
    """Of random scores, of adapters and of the order of training windows."""

    def _check_together(self) -> Iterator[str]:
        if not all(isinstance(getattr(self, key), kind) for key, kind in RECIPE_PARTS.items()):
            return
        if self.pattern.group == "block" and self.criterion.name != "sparsegpt":
            yield f"group=block is SparseGPT's block of columns; {self.criterion.name} takes matrix or row"
        changed = {
            option: getattr(self, option)
            for option in ("statistics", "added")
            if getattr(self, option) != getattr(Recipe, option)
        }
        if self._criterion_known and self.criterion_word.evidence is None and self.refinement.name == "none":
            if self.pattern.shares == OWL:
                changed.pop("added", None)
            for option, value in changed.items():
                yield (
                    f"{option}={value} does not apply to {self.criterion.name} without refinement, which looks at no"
                    " inputs"
                )
        elif self.masks_first and "statistics" in changed:
            why = "scope=global" if self.pattern.scope == "global" else self.criterion.name
            yield (
                f"statistics={self.statistics} does not apply: {why} chooses on the dense model, before the first unit"
            )
        yield from self._check_tokens()
        yield from self._check_experts()
        if self.pattern.depth:
            yield from self._check_depth()
        elif self.pattern.experts:
            yield from self._check_whole_experts()
        else:
            yield from self._check_whole() if self.pattern.whole else self._check_weights()
        yield from self._check_repair()
        yield from self._check_solver()

    def _check_tokens(self) -> Iterator[str]:
        """Tokens that are counted where nobody counts, or where all are."""
        if self.tokens == "all":
            return
        looks = self._criterion_known and self.criterion_word.evidence in ("diagonal", "gram", "statistics", "states")
        if self.masks_first and looks and self.pattern.whole:
            yield f"tokens={self.tokens} does not apply: scope=global looks at whole windows of the dense model"
        solves = self.solver.name in ("ridge", "gradient") or self.repair.name != "none"
        if not (looks or solves or self.refinement.name != "none"):
            yield f"tokens={self.tokens} does not apply: nothing looks at inputs or fits them part by part"

    def _check_experts(self) -> Iterator[str]:
        """What is said of experts' statistics where nobody looks at any."""
        looks = self.pattern.word.group == "weights" and (
            self.refinement.name != "none" or (self._criterion_known and self.criterion_word.evidence is not None)
        )
        for option, value in self.of_experts().items():
            if not looks and not (option == "starved" and self.solver.name == "ridge"):
                value = str(value).lower()
                yield f"{option}={value} does not apply: nothing looks at statistics of the inputs of single weights"

    def of_experts(self) -> dict[str, Any]:
        """The options of experts' statistics that are not at their defaults."""
        return {key: getattr(self, key) for key in OF_EXPERTS if getattr(self, key) != getattr(Recipe, key)}

    def _check_whole(self) -> Iterator[str]:
        kind = self.pattern.kind
        if not self._criterion_known:
            yield f"{self.criterion.name} scores single weights; {kind} take {', '.join(STRUCTURED_WORDS)}"
        if self.refinement.name != "none":
            yield (
                f"+{self.refinement.name} exchanges single weights; the masks of {kind} are taken as they are: write"
                f" {self.criterion.name}-{self.pattern}"
            )
        if self.solver.word.implies.get("unit") == "matrix":
            closed = [name for name, word in METHOD_WORDS.items() if word.implies["unit"]["name"] == "matrix"]
            methods = [name for name, word in METHOD_WORDS.items() if name not in closed and word.group != "depth"]
            yield f"{self.solver.name} refits matrices that lost single weights; {kind} take {', '.join(methods)}"

    def _check_depth(self) -> Iterator[str]:
        kind, criterion = self.pattern.kind, self.criterion.name
        if not self._criterion_known:
            yield f"{criterion} does not score blocks; {kind} take {', '.join(DEPTH_WORDS)}"
        if criterion == "angular" and kind != "blocks":
            others = ", ".join(name for name in DEPTH_WORDS if name != criterion)
            yield f"angular compares runs of whole blocks; {kind} take {others}"
        if self.repair.name == "ghost" and kind != "blocks":
            methods = [name for name in (*WEIGHT_METHODS, *DEPTH_METHODS) if name != "ridge" and "ghost" not in name]
            yield f"ghost stands in the place of whole blocks; {kind} take {', '.join(methods)}"
        if criterion == "angular" and self.pattern.contiguous:
            yield "contiguous=true is what angular does anyway; leave it out"
        if self.refinement.name != "none":
            yield f"+{self.refinement.name} exchanges single weights; write {criterion}-{self.pattern}"
        if self.solver.word.implies.get("unit") == "matrix":
            methods = [*(name for name in WEIGHT_METHODS if name != self.solver.name), *DEPTH_METHODS]
            yield f"{self.solver.name} refits matrices that lost single weights; {kind} take {', '.join(methods)}"
        elif kind == "blocks" and self.unit.name in ("matrix", "sub-block"):
            yield (
                f"unit={self.unit.name}: a whole block takes over for those removed behind it; blocks take unit=block"
                " or unit=model"
            )

    def _check_whole_experts(self) -> Iterator[str]:
        kind, criterion = self.pattern.kind, self.criterion.name
        if not self._criterion_known:
            yield f"{criterion} does not score experts; {kind} take {', '.join(EXPERT_WORDS)}"
        if self.refinement.name != "none":
            yield f"+{self.refinement.name} exchanges single weights; write {criterion}-{self.pattern}"
        methods = [*(name for name in WEIGHT_METHODS if name != "ridge"), *EXPERT_METHODS]
        if self.solver.word.implies.get("unit") == "matrix":
            yield f"{self.solver.name} refits matrices that lost single weights; {kind} take {', '.join(methods)}"
        elif self.unit.name == "matrix":
            yield (
                "unit=matrix: the experts that stay take over for those that are gone together; take unit=block,"
                " sub-block or model"
            )

    def _check_repair(self) -> Iterator[str]:
        """A repair of another kind of pattern."""
        group = REPAIR_WORDS[self.repair.name].group if self.repair.name in REPAIR_WORDS else ""
        if group in ("", self.pattern.word.group):
            return
        if self.pattern.experts and self.repair.name in ("compensate", "liar"):
            return
        word = self._method_word()[0] if self.solver.name == "none" else f"repair={self.repair.name}"
        removed, kinds = ("blocks", DEPTH) if group == "depth" else ("whole structures", WHOLE)
        methods = {"depth": DEPTH_METHODS, "structures": REPAIR_METHODS, "experts": EXPERT_METHODS}
        own = methods.get(self.pattern.word.group, ())
        takers = self.pattern.kind if own else "single weights"
        patterns = " or ".join(f"{kind}-{'25' if group == 'depth' else '50'}%" for kind in kinds)
        yield (
            f"{word} makes up for {removed}, of a pattern such as {patterns}; {takers} take"
            f" {', '.join([*WEIGHT_METHODS, *own])}"
        )

    def _check_weights(self) -> Iterator[str]:
        kind = self.pattern.kind
        if not self._criterion_known and self.criterion.name in EXPERT_WORDS.keys() - STRUCTURED_WORDS.keys():
            name = self.criterion.name
            yield f"{name} scores experts: {name}-experts-25%; single weights take {', '.join(CRITERION_WORDS)}"
        elif not self._criterion_known and self.criterion.name not in STRUCTURED_WORDS:
            patterns = ", ".join(f"{self.criterion.name}-{kind}-25%" for kind in DEPTH)
            yield f"{self.criterion.name} scores blocks: {patterns}; single weights take {', '.join(CRITERION_WORDS)}"
        elif not self._criterion_known:
            patterns = ", ".join(f"{self.criterion.name}-{kind}-50%" for kind in WHOLE)
            yield (
                f"{self.criterion.name} scores whole structures: {patterns}; single weights take"
                f" {', '.join(CRITERION_WORDS)}"
            )
        elif kind != "weights" and self.criterion_word.sweeps:
            yield (
                f"{self.criterion.name} updates weights while it chooses, by a share or N:M; {kind} take"
                f" {', '.join(name for name, word in CRITERION_WORDS.items() if not word.sweeps)}"
            )
        if self.pattern.zeros and self.refinement.name != "none":
            yield (
                f"+{self.refinement.name} exchanges weights one for one; with zeros=stay rows lose unequally many:"
                f" write {self.criterion.name}-{self.pattern}[zeros=stay]"
            )
        if kind != "weights" and self.refinement.name != "none":
            yield (
                f"+{self.refinement.name} exchanges weights within rows, columns or N:M; the masks of {kind} are taken"
                f" as they are: write {self.criterion.name}-{self.pattern}"
            )

    def _check_solver(self) -> Iterator[str]:
        solver, unit = self.solver.name, self.unit
        plain = METHOD_WORDS["LR"].implies
        if solver == "none" and self.repair.name == "none" and self._structure() != plain:
            yield "LR (solver none) trains nothing: unit, width, overlap, student and target do not apply to it"
        if solver == "none" and self.repair.name != "none" and unit != Unit():
            alone, after = (
                f"{self._method_word()[0]} repairs one matrix after the other",
                f"gradient steps after it are BR+GP[repair={self.repair.name}]",
            )
            yield f"{alone}: unit, width and overlap do not apply to it; {after}"
        closed = self.solver.word.implies.get("unit") == "matrix"
        if closed and unit.name != "matrix":
            yield (
                f"{solver} is a closed form for one matrix: unit must be matrix, got {unit}; larger units take BR"
                " (solver gradient)"
            )
        if solver == "retrain" and unit.name != "model":
            yield (
                f"retrain trains the whole model: unit must be model, got {unit}; parts of it take BR (solver gradient)"
            )
        if solver == "gradient" and self.solver.train in ("language", "projector"):
            yield (
                f"train={self.solver.train} is a part of a whole model that reads pictures: it goes with retrain; units"
                " take all, norms-biases or masklora"
            )
        if solver == "retrain" and (self.student, self.target) != ("sparse", "sparse"):
            yield (
                "retrain follows the model's own loss: student and target do not apply to it; objective=distill and"
                " objective=hidden follow the dense model"
            )
        if (closed or solver == "gradient" or self.repair.name != "none") and (self.student, self.target) == (
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
        if self.pattern.depth or self.pattern.experts:
            return True
        if not self.pattern.whole:
            return False
        return self.pattern.scope == "global" or (self._criterion_known and self.criterion_word.evidence == "gradients")

    @property
    def criterion_word(self) -> Word:
        """The record of the criterion's word: of blocks, whole structures or single weights, as the pattern is."""
        return self._criteria[self.criterion.name]

    @property
    def _criteria(self) -> Mapping[str, Word]:
        groups = {"depth": DEPTH_WORDS, "structures": STRUCTURED_WORDS, "experts": EXPERT_WORDS}
        return groups.get(self.pattern.word.group, CRITERION_WORDS)

    @property
    def _criterion_known(self) -> bool:
        return self.criterion.name in self._criteria

    @property
    def changes_weights(self) -> bool:
        """Whether anything but the mask depends on calibration text: a solver or a repair."""
        return (self.solver.name, self.repair.name) != ("none", "none")

    @property
    def selects(self) -> str | None:
        """What is chosen by the error on text that is neither calibration nor reported (validation), as it is written;
        None: nothing.
        """
        if self.solver.select == "held-out":
            return "select=held-out"
        return "penalty=held-out" if self.repair.penalty == "held-out" else None

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
    def of(cls, recipe: "Recipe | str | Path | Mapping[str, Any]") -> "Recipe":
        """The recipe itself, or from its short text, a TOML file or a dict. Raises UsageError for anything else,
        RecipeError for what is wrong with it.
        """
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, Path):
            return cls.from_file(recipe)
        return cls.from_dict(recipe) if isinstance(recipe, Mapping) else cls.parse(recipe)

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """From the short form, such as `wanda-50% BR+GP[lr=2e-3,epochs=20]`, or a preset's name. RecipeError lists
        every problem.
        """
        text = _text(text).strip()
        if text in PRESETS:
            return cls.parse(PRESETS[text].text)
        if " " not in text and (near := get_close_matches(text, PRESETS, n=1, cutoff=0.8)):
            raise RecipeError(
                text, [f"no preset has this name; did you mean {near[0]!r}? `analysis list recipes` shows all"]
            )
        problems: list[str] = []
        criteria = dict.fromkeys((*CRITERION_WORDS, *STRUCTURED_WORDS, *DEPTH_WORDS, *EXPERT_WORDS))
        kinds = [kind for kind in KIND_WORDS if kind != "weights"]
        data = notation.read(text, criteria, kinds, _first_places(), _second_places, problems)
        if not {"sparsity", "keep", "number"} & data["pattern"].keys():  # it could not be read, which is said already
            name = data["criterion"]["name"]
            whole = name not in CRITERION_WORDS and name in STRUCTURED_WORDS or data["method"] in REPAIR_METHODS
            depth = (
                name in DEPTH_WORDS.keys() - CRITERION_WORDS.keys() - STRUCTURED_WORDS.keys()
                or data["method"] in DEPTH_METHODS
            )
            experts = name in EXPERT_WORDS.keys() - CRITERION_WORDS.keys() - STRUCTURED_WORDS.keys()
            kind = {"kind": "structures"} if whole else {"kind": "blocks"} if depth else {}
            kind = {"kind": "experts"} if experts else kind
            data["pattern"] |= {"sparsity": 0.5} | kind
        return _build(text, data, problems)

    @classmethod
    def from_toml(cls, text: str) -> "Recipe":
        """From TOML with tables criterion, refinement, pattern, unit, solver, repair and keys student, target,
        statistics, added, seed.

        `method = "BR+GP"` may stand for that method's unit, solver name and streams; what is written beside it wins.
        """
        try:
            data = tomllib.loads(_text(text))
        except (ValueError, RecursionError) as error:
            raise RecipeError(text, [f"not TOML: {str(error)[:200]}"]) from None
        return _build(text, data, [])

    @classmethod
    def from_file(cls, path: Path | str) -> "Recipe":
        """From a TOML file, as `from_toml`. Raises UsageError where it cannot be read."""
        if not isinstance(path, (str, Path)):
            raise UsageError(f"recipe file: must be a path, got {quoted(path)}")
        try:
            text = read_small(Path(path))
        except ValueError as error:
            raise UsageError(f"recipe file {quoted(str(path), 400)}: cannot be read ({error})") from None
        return cls.from_toml(text)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """From the nested dict of `to_dict()`; `method` is understood as in TOML."""
        if not isinstance(data, Mapping):
            raise UsageError(f"recipe: must be a dict as `to_dict` gives it, got {quoted(data)}")
        return _build(data, data, [])

    def to_dict(self) -> dict[str, Any]:
        """One dict per part and the streams and seed; only what has a meaning, defaults spelled out."""
        parts = {key: getattr(self, key).to_dict() for key in RECIPE_PARTS}
        said = {key: getattr(self, key) for key in ("student", "target", "statistics", "added", "seed")}
        return parts | said | self.of_experts() | ({} if self.tokens == "all" else {"tokens": self.tokens})

    def to_toml(self) -> str:
        """`to_dict()` as TOML, complete and readable back by `from_toml`."""
        data = self.to_dict()
        lines = [f"{key} = {json.dumps(value)}" for key, value in data.items() if key not in RECIPE_PARTS]
        for part in RECIPE_PARTS:
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
        return hashlib.sha256(json.dumps([meaning, self.versions()], sort_keys=True).encode()).hexdigest()

    def versions(self) -> dict[str, str]:
        """Which version of every word of the recipe computes it, such as {"criterion wanda": "1", ...}."""
        words = {
            "criterion": self.criterion_word,
            "refinement": REFINEMENT_WORDS[self.refinement.name],
            "pattern": self.pattern.word,
            "unit": UNIT_WORDS[self.unit.name],
            "solver": self.solver.word,
            "repair": REPAIR_WORDS[self.repair.name],
        }
        return {f"{kind} {word.name}": word.version or str(word.revision) for kind, word in words.items()}

    def _method_word(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Name, structural options that differ from it, other options that differ from their defaults or from the
        nearest settings.
        """
        mine = _flat(self._structure())
        named = {
            name: _flat(word.implies)
            for name, word in METHOD_WORDS.items()
            if word.implies["solver"]["name"] == self.solver.name
        }
        differ = {name: {k: value for k, value in mine.items() if flat.get(k) != value} for name, flat in named.items()}
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
        first |= {key: value for key, value in self.pattern.changed().items() if key in _first_places()}
        first |= {} if self.statistics == "sparse" else {"statistics": self.statistics}
        first |= {} if self.added == "solver" else {"added": self.added}
        first |= self.of_experts() | ({} if self.tokens == "all" else {"tokens": self.tokens})
        head = f"{self.criterion.name}{refined}-{self.pattern}{notation.brackets(first)}"
        return f"{head} {name}{notation.brackets(structure | options)}"


OF_EXPERTS = ("starved", "gated")
"""Options that speak of the statistics of a mixture's experts."""
_KINDS = ("loss", "objective", "train", "bias")
RECIPE_PARTS: dict[str, type[Part]] = {
    "criterion": Criterion,
    "refinement": Refinement,
    "pattern": Pattern,
    "unit": Unit,
    "solver": Solver,
    "repair": Repair,
}
_FREE = ("sparsity", "keep", "of", "number", "kind", "name", "more")  # fields that are no options


def _places(key: str) -> dict[str, tuple[str, str]]:
    """The options of one part: its fields, and what its words from outside the package declare."""
    part = RECIPE_PARTS[key]
    names = [f.name for f in fields(part) if f.name not in _FREE] + list(part.declared())
    return {name: (key, name) for name in names}


def _first_places() -> dict[str, tuple[str, str]]:
    """The options after the pattern."""
    places = {**_places("criterion"), **_places("refinement"), **_places("pattern")}
    return places | {name: ("", name) for name in ("statistics", "added", "tokens", *OF_EXPERTS)}


def _second_places(method: str) -> dict[str, tuple[str, str]]:
    """The options after a method; a penalty is the repair's, or the solver's where the method is a solver's own
    closed form.
    """
    places = {
        "unit": ("unit", "name"),
        **_places("unit"),
        "student": ("", "student"),
        "target": ("", "target"),
        "settings": ("solver", "settings"),
        **_places("solver"),
        "repair": ("repair", "name"),
        **_places("repair"),
        "seed": ("", "seed"),
    }
    return places | _places("solver") if "penalty" in _solver_of(method).options else places


def _solver_of(method: str) -> Word:
    """The record of the solver behind a method; of no solver for an unknown method."""
    return SOLVER_WORDS[METHOD_WORDS[method].implies["solver"]["name"] if method in METHOD_WORDS else "none"]


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
    mine = solver.options()
    default = {f.name: f.default for f in fields(Solver)} | {k: f.default for k, f in solver.declared().items()}
    best = {
        name: {k: v for k, v in mine.items() if word.implies.get(solver.name, {}).get(k, default[k]) != v}
        for name, word in SETTING_WORDS.items()
    }
    name = min(best, key=lambda n: len(best[n]) + (n != "paper1"))
    return ({} if name == "paper1" else {"settings": name}) | best[name]


def _text(text: object) -> str:
    """The text of a recipe. Raises UsageError for anything else."""
    if not isinstance(text, str):
        raise UsageError(f"recipe: must be a text such as 'wanda-50% BR+GP', or a Recipe, got {quoted(text)}")
    return text


def _build(text: object, data: Mapping[str, Any], problems: list[str]) -> Recipe:
    """A Recipe from the nested dict; every problem of every part in one error that quotes `text`."""
    data, problems = _expand_settings(_expand_method(data, problems), problems), list(problems)
    made: dict[str, Any] = {}
    pattern = data.get("pattern")
    kind = pattern.get("kind") if isinstance(pattern, Mapping) else None
    kind = kind if isinstance(kind, str) and kind in KIND_WORDS else "weights"
    for key, part in RECIPE_PARTS.items():
        made[key], wrong = _make_part(part, data.pop(key, {}), kind)
        problems += wrong
    names = [f.name for f in fields(Recipe)]
    problems += [f"unknown key {quoted(key)}; {suggest(key, ['method', *names])}" for key in data if key not in names]
    try:
        recipe = Recipe(**made, **{key: value for key, value in data.items() if key in names})
    except RecipeError as error:
        problems += error.problems
    if problems:
        raise RecipeError(text, problems)
    return recipe


def _expand_method(data: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """`data` with `method` replaced by what it stands for; what is written beside it wins."""
    data = dict(data)
    method, solver = str(data.pop("method", "")), data.get("solver", {})
    if method and method not in METHOD_WORDS:
        problems.append(f"method {quoted(method)} is unknown; {suggest(method, METHOD_WORDS)}")
    elif not method and isinstance(solver, Mapping) and "name" not in solver:
        problems.append(f"no method given; one of {', '.join(METHOD_WORDS)}")
    elif not method:
        return data
    base: Mapping[str, Any] = METHOD_WORDS[
        method if method in METHOD_WORDS else "BR"
    ].implies  # BR stands in so that the rest is checked too
    merged = {
        key: base[key] | dict(data[key]) for key in ("unit", "solver", "repair") if isinstance(data.get(key), Mapping)
    }
    if merged.get("unit", base["unit"])["name"] != base["unit"]["name"]:
        merged["unit"] = data["unit"]  # the method's width and overlap belong to its own kind of unit
    return {**base, **data, **merged}


def _expand_settings(data: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """`data` with the solver's `settings` replaced by the options they stand for; what is written beside them wins."""
    solver = data.get("solver")
    if not isinstance(solver, Mapping) or "settings" not in solver:
        return data
    written = {key: value for key, value in solver.items() if key != "settings"}
    settings, name = solver["settings"], str(written.get("name"))
    if not isinstance(settings, str) or settings not in SETTING_WORDS:
        problems.append(f"settings {quoted(settings)} are unknown; {suggest(settings, SETTING_WORDS)}")
    elif name not in SETTING_WORDS[settings].implies:
        solvers = " and ".join(SETTING_WORDS[settings].implies)
        problems.append(f"settings is an option of {solvers}, not of {Solver.SPOKEN.get(name, name)}")
    else:
        written = {**SETTING_WORDS[settings].implies[name], **written}
    return data | {"solver": written}


def _make_part(part: type[Part], data: Any, kind: str) -> tuple[Part, list[str]]:
    """One part from its dict, or a harmless one in its place with everything that is wrong. kind: what the pattern is
    of.
    """
    title = part.__name__.lower()
    criterion = "flap" if kind in WHOLE else "influence" if kind in DEPTH else "magnitude"
    criterion = "sparsegpt" if kind == "weights" else "reap" if kind in EXPERTS else criterion
    stand_ins: dict[str, dict[str, Any]] = {
        "criterion": {"name": criterion},
        "pattern": {"sparsity": 0.5, "kind": kind},
        "solver": {"name": "gradient"},
    }
    harmless = stand_ins.get(title, {})
    if not isinstance(data, Mapping):
        return part(**harmless), [f"{title} must be a table of options, got {quoted(data)}"]
    part_fields, declared = {f.name: f for f in fields(part) if f.name != "more"}, part.declared()
    unknown = [key for key in data if key not in part_fields and key not in declared]
    problems = [f"unknown {title} option {quoted(key)}; {suggest(key, [*part_fields, *declared])}" for key in unknown]
    problems += [
        f"no {title} {key} given" for key, f in part_fields.items() if f.default is MISSING and key not in data
    ]
    right = {key: value for key, value in data.items() if key in part_fields}
    if more := {key: value for key, value in data.items() if key in declared}:
        right["more"] = tuple(more.items())
    named = {"name": harmless["name"]} if "name" in harmless else {}
    try:
        return part(**named | right), problems
    except RecipeError as error:
        keeps_name = part in (Solver, Unit) and right.get("name") in (*SOLVER_WORDS, *UNIT_WORDS)
        return part(**({"name": right["name"]} if keeps_name else harmless)), problems + list(error.problems)
