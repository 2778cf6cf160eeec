"""Frozen dataclasses whose fields say what they may hold: the ground under `recipe.py`.

@dataclass(frozen=True)
class Unit(Part):
    width: int = count(1, 1)          # default 1, a whole number of at least 1

Unit(width=0)                         # RecipeError: width must be a whole number of at least 1, got 0
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from numbers import Real
from typing import Any, ClassVar

from analysis.errors import RecipeError, quoted, suggest

SMALLEST, LARGEST = 1e-30, 1e30  # what float32 holds, with room for products


@dataclass(frozen=True)
class Rule:
    """What a field may hold."""

    kind: type
    """The type of its values."""
    says: str = ""
    """Words for what is valid; with choices they are listed instead."""
    test: Callable[[Any], bool] = lambda value: True
    """Whether a value of the type is valid."""
    choices: Collection[str] = ()
    """The words it may hold, where only some are possible; read anew each time, so words may be added."""
    most: float | None = None
    """The largest number it may hold."""
    words: tuple[str, ...] = ()
    """What it may hold instead of its type."""
    only: Collection[str] = ()
    """The names of the parts it applies to; () is all."""
    when: tuple[str, Collection[str]] | None = None
    """(field, values): it applies only where another field of the part holds one of the values."""
    read: Callable[[Any], Any] | None = None
    """Makes a value of what was given, or raises ValueError saying what is valid."""
    meaning: str = ""
    """One line for lists of options."""

    def coerce(self, value: Any) -> Any:
        """The value in its own type (8.0 is 8 where a whole number is meant); ValueError saying what is valid."""
        if self.read is not None:
            return self.read(value)
        if isinstance(value, str) and value in self.words:
            return value
        if self.kind in (int, float):
            fits = isinstance(value, Real) and not isinstance(value, bool)
            fits = fits and abs(value) < 1e300 and (self.kind is float or value == int(value))
        else:
            fits = isinstance(value, self.kind)
        if fits and self.choices and value not in self.choices:
            raise ValueError(f"{quoted(value)} is unknown; {suggest(value, self.choices)}")
        if not fits or not self.test(value):
            valid = f"one of {', '.join(self.choices)}" if self.choices else self.says
            raise ValueError(f"must be {valid}, got {quoted(value)}")
        if self.most is not None and value > self.most:
            raise ValueError(f"must be at most {self.most:,}, got {quoted(value)}")
        return self.kind(value) + 0 if self.kind in (int, float) else value  # + 0: -0.0 is 0.0


def rule(default: Any, *rule: Any, **more: Any) -> Any:
    """A dataclass field with its rule; default MISSING = must be given."""
    return field(default=default, metadata={"rule": Rule(*rule, **more)})


def count(default: int | None, low: int, most: int = 2**63 - 1, **more: Any) -> Any:
    """A whole number from `low` to `most`."""
    return rule(default, int, f"a whole number of at least {low}", lambda n: n >= low, most=most, **more)


def positive(default: float, most: float = LARGEST, **more: Any) -> Any:
    """A number above 0, to `most`; one that would be 0 in float32 is not above it."""
    return rule(default, float, "a number above 0", lambda x: x >= SMALLEST, most=most, **more)


def amount(default: float, most: float = LARGEST, *, words: tuple[str, ...] = (), **more: Any) -> Any:
    """A number from 0 to `most`, or one of a few words."""
    says = " or ".join(("a number of at least 0", *words))
    return rule(default, float, says, lambda x: x >= 0, words=words, most=most, **more)


def share(default: float, **more: Any) -> Any:
    """A number from 0 to below 1."""
    return rule(default, float, "a number from 0 to below 1", lambda x: 0 <= x < 1, **more)


def flag(default: bool, **more: Any) -> Any:
    """True or false."""
    return rule(default, bool, "true or false", **more)


def choice(default: Any, choices: Collection[str], **more: Any) -> Any:
    """One of a few words."""
    return rule(default, str, choices=choices, **more)


def option(name: str, *words: Mapping[str, Any]) -> Any:
    """The field of an option that some of the words declare (`Word.options`): it applies to these words alone."""
    owners = {word.name: word.options[name] for group in words for word in group.values() if name in word.options}
    return _for_words(owners)


def _for_words(owners: Mapping[str, Any]) -> Any:
    """A field that applies to some words alone, as the first of them declares it."""
    declared = next(iter(owners.values()))
    return field(default=declared.default, metadata={"rule": replace(declared.metadata["rule"], only=tuple(owners))})


@dataclass(frozen=True)
class Part:
    """One part of a recipe: typed and checked when made, all its problems in one `RecipeError`.

    A part with a field `more` keeps there, as sorted (name, value) pairs, those options of a word from outside the
    package that are not at their defaults; everywhere else they look like fields.
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {}  # what messages call a `name`, where that is another word
    KEY: ClassVar[str] = "name"  # the field that holds the part's word
    WORDS: ClassVar[tuple[Mapping[str, Any], ...]] = ()  # the records of its words

    def __post_init__(self) -> None:
        problems = [*self._check_fields(), *self._check_more(), *self._check_together()]
        if problems:
            given = (f"{name}={quoted(value)}" for name, value in vars(self).items() if self._differs(name, value))
            raise RecipeError(f"{type(self).__name__}({', '.join(given)})", problems)

    def _differs(self, name: str, value: Any) -> bool:
        """Whether a field, of whatever type, does not hold its default."""
        default = self.__dataclass_fields__[name].default
        return type(value) is not type(default) or bool(value != default)

    def _said(self, key: str) -> str:
        """The word that a field holds; nothing where it holds none."""
        value = getattr(self, key, "")
        return value if isinstance(value, str) else ""

    def _check_fields(self) -> Iterator[str]:
        """One sentence per field that holds what it may not; values are coerced on the way."""
        name, rules = self._said("name"), self._rules()
        for f in fields(self):
            if f.name == "more":
                continue
            rule, value = rules[f.name], getattr(self, f.name)
            if value is None and f.default is None:
                continue
            try:
                object.__setattr__(self, f.name, rule.coerce(value))
            except ValueError as error:
                yield f"{type(self).__name__.lower() if f.name == 'name' else f.name} {error}"
            else:
                if getattr(self, f.name) == f.default or rule.only and name not in rules["name"].choices:
                    continue
                if rule.only and name not in rule.only:
                    yield f"{f.name} is an option of {' and '.join(rule.only)}, not of {self.SPOKEN.get(name, name)}"
                elif rule.when and self._misplaced(rules[rule.when[0]], *rule.when):
                    key, values = rule.when
                    yield (
                        f"{f.name} is an option of {key}={' or '.join(values)}, not of"
                        f" {key}={getattr(self, key) or 'none'}"
                    )

    def _misplaced(self, rule: Rule, key: str, values: Collection[str]) -> bool:
        """Whether the field `key` holds a valid value (of another one the problem is said already), but none of the
        values.
        """
        value = getattr(self, key)
        try:
            value = value if value is None else rule.coerce(value)
        except ValueError:
            return False
        return value not in values

    def _check_more(self) -> Iterator[str]:
        """The same for the options of a word from outside the package."""
        if not hasattr(self, "more"):
            return
        word, others, values = self._said(self.KEY), self.declared(), {}
        declared = self.declared(word)
        try:
            given = {f"{name}": value for name, value in dict(self.more).items()}
        except (TypeError, ValueError):
            yield f"more must be pairs of an option and its value, got {quoted(self.more)}"
            return
        for name, value in given.items():
            if name not in declared and name in others:
                yield f"{name} is an option of {' and '.join(others[name].metadata['rule'].only)}, not of {word}"
                continue
            if name not in declared:
                yield f"unknown option {name!r} of {word}; {suggest(name, declared)}"
                continue
            try:
                values[name] = declared[name].metadata["rule"].coerce(value)
            except ValueError as error:
                yield f"{name} {error}"
        changed = {name: value for name, value in values.items() if value != declared[name].default}
        object.__setattr__(self, "more", tuple(sorted(changed.items())))

    def _check_together(self) -> Iterator[str]:
        """One sentence per clash between fields; says nothing of a field whose type is already wrong."""
        return iter(())

    @classmethod
    def _rules(cls) -> dict[str, Rule]:
        return {f.name: f.metadata["rule"] for f in fields(cls) if f.name != "more"}

    @classmethod
    def declared(cls, name: object = None) -> dict[str, Field]:
        """The options that words of this part, or one of them, declare beyond the part's own fields."""
        names = {f.name for f in fields(cls)}
        owners: dict[str, dict[str, Field]] = {}
        for words in cls.WORDS:
            for word in words.values():
                for key in word.options.keys() - names if name in (None, word.name) else ():
                    owners.setdefault(key, {})[word.name] = word.options[key]
        return {key: _for_words(by_word) for key, by_word in owners.items()}

    def changed(self) -> dict[str, Any]:
        """Options (not `name`) that are not at their defaults, in the order of the fields."""
        options = (f for f in fields(self) if f.name not in ("name", "more"))
        changed = {f.name: getattr(self, f.name) for f in options if getattr(self, f.name) != f.default}
        return changed | dict(getattr(self, "more", ()))

    def options(self) -> dict[str, Any]:
        """Every option that means something for this part's word, with its value; what its function is called with."""
        return {key: value for key, value in self.to_dict().items() if key != self.KEY}

    def to_dict(self) -> dict[str, Any]:
        """The fields that mean something for this part's `name`, defaults spelled out; fields that are None left
        out.
        """
        relevant = (key for key, rule in self._rules().items() if self._applies(rule))
        values = {key: getattr(self, key) for key in relevant if getattr(self, key) is not None}
        return values | self.own_options()

    def own_options(self) -> dict[str, Any]:
        """Those that the part's word from outside the package declares."""
        if not hasattr(self, "more"):
            return {}
        declared = self.declared(getattr(self, self.KEY))
        return {name: option.default for name, option in declared.items()} | dict(self.more)

    def _applies(self, rule: Rule) -> bool:
        return (not rule.only or getattr(self, "name", None) in rule.only) and (
            rule.when is None or getattr(self, rule.when[0]) in rule.when[1]
        )
