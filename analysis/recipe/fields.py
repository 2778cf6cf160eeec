"""Frozen dataclasses whose fields say what they may hold: the ground under `recipe.py`.

@dataclass(frozen=True)
class Unit(Part):
    width: int = count(1, 1)          # default 1, a whole number of at least 1

Unit(width=0)                         # RecipeError: width must be a whole number of at least 1, got 0
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, ClassVar

from analysis.errors import RecipeError, suggest


@dataclass(frozen=True)
class Rule:
    """What a field may hold: type, words for what is valid, a test or choices, and the part names it applies to (() =
    all).

    words: what it may hold instead of its type. when: (field, values): it applies only where another field of the part,
    one with choices, holds one of the values.
    """

    kind: type
    says: str
    test: Callable[[Any], bool] = lambda value: True
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    when: tuple[str, tuple[str, ...]] | None = None

    def coerce(self, value: Any) -> Any:
        """The value in its own type (8.0 is 8 where a whole number is meant); ValueError saying what is valid."""
        if isinstance(value, str) and value in self.words:
            return value
        if self.kind in (int, float):
            fits = isinstance(value, Real) and not isinstance(value, bool) and abs(value) < 1e300
            fits = fits and (self.kind is float or value == int(value))
        else:
            fits = isinstance(value, self.kind)
        if fits and self.choices and value not in self.choices:
            raise ValueError(f"{value!r} is unknown; {suggest(value, self.choices)}")
        if not fits or not self.test(value):
            raise ValueError(f"must be {self.says}, got {value!r}")
        return self.kind(value) + 0 if self.kind in (int, float) else value  # + 0: -0.0 is 0.0


def rule(default: Any, *rule: Any, **more: Any) -> Any:
    """A dataclass field with its rule; default MISSING = must be given."""
    return field(default=default, metadata={"rule": Rule(*rule, **more)})


def count(default: int | None, low: int, **more: Any) -> Any:
    """A whole number of at least `low`."""
    return rule(default, int, f"a whole number of at least {low}", lambda n: low <= n < 2**63, **more)


def positive(default: float, **more: Any) -> Any:
    """A number above 0."""
    return rule(default, float, "a number above 0", lambda x: x > 0, **more)


def amount(default: float, *, words: tuple[str, ...] = (), **more: Any) -> Any:
    """A number of at least 0, or one of a few words."""
    return rule(default, float, " or ".join(("a number of at least 0", *words)), lambda x: x >= 0, words=words, **more)


def share(default: float, **more: Any) -> Any:
    """A number from 0 to below 1."""
    return rule(default, float, "a number from 0 to below 1", lambda x: 0 <= x < 1, **more)


def choice(default: Any, choices: Iterable[str], **more: Any) -> Any:
    """One of a few words."""
    return rule(default, str, f"one of {', '.join(choices)}", choices=tuple(choices), **more)


@dataclass(frozen=True)
class Part:
    """One part of a recipe: typed and checked when made, all its problems in one `RecipeError`."""

    SPOKEN: ClassVar[Mapping[str, str]] = {}  # what messages call a `name`, where that is another word

    def __post_init__(self) -> None:
        problems = [*self._check_fields(), *self._check_together()]
        if problems:
            given = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
            raise RecipeError(f"{type(self).__name__}({', '.join(given)})", problems)

    def _check_fields(self) -> Iterator[str]:
        """One sentence per field that holds what it may not; values are coerced on the way."""
        name, rules = getattr(self, "name", None), self._rules()
        for f in fields(self):
            rule, value = rules[f.name], getattr(self, f.name)
            if value is None and f.default is None:
                continue
            try:
                object.__setattr__(self, f.name, rule.coerce(value))
            except ValueError as error:
                yield f"{type(self).__name__.lower() if f.name == 'name' else f.name} {error}"
            else:
                if value == f.default or rule.only and name not in rules["name"].choices:
                    continue
                if rule.only and name not in rule.only:
                    yield f"{f.name} is an option of {' and '.join(rule.only)}, not of {self.SPOKEN.get(name, name)}"
                elif rule.when and getattr(self, rule.when[0]) in {*rules[rule.when[0]].choices} - {*rule.when[1]}:
                    yield (
                        f"{f.name} is an option of {rule.when[0]}={' or '.join(rule.when[1])}, not of"
                        f" {rule.when[0]}={getattr(self, rule.when[0])}"
                    )

    def _check_together(self) -> Iterator[str]:
        """One sentence per clash between fields; says nothing of a field whose type is already wrong."""
        return iter(())

    @classmethod
    def _rules(cls) -> dict[str, Rule]:
        return {f.name: f.metadata["rule"] for f in fields(cls)}

    def changed(self) -> dict[str, Any]:
        """Options (not `name`) that are not at their defaults, in the order of the fields."""
        options = (f for f in fields(self) if f.name != "name")
        return {f.name: getattr(self, f.name) for f in options if getattr(self, f.name) != f.default}

    def to_dict(self) -> dict[str, Any]:
        """The fields that mean something for this part's `name`, defaults spelled out; fields that are None left
        out.
        """
        relevant = (key for key, rule in self._rules().items() if self._applies(rule))
        return {key: getattr(self, key) for key in relevant if getattr(self, key) is not None}

    def _applies(self, rule: Rule) -> bool:
        return (not rule.only or self.name in rule.only) and (
            rule.when is None or getattr(self, rule.when[0]) in rule.when[1]
        )
