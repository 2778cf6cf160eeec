"""The short text of a recipe, `CRITERION[+REFINEMENT]-PATTERN[options] METHOD[options]`, to and from a nested dict; `recipe.py` knows what it means."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from analysis.rules import suggest

_WORD = re.compile(r"([^\s\[\]]+)(?:\[([^\[\]]*)\])?")

Places = Mapping[str, tuple[str, str]]  # option -> the part of the recipe ("" = the recipe itself) and the key there


def read(text: str, first: Places, second: Places, problems: list[str]) -> dict[str, Any]:
    """The text as {"criterion": {...}, "pattern": {...}, ..., "method": name}.

    first, second: the options each word takes. What cannot be read is added to `problems`, and the rest is read all the same.
    """
    words = _WORD.findall(text)
    if _WORD.sub("", text).strip():
        problems.append("brackets do not match; options follow their word as in BR+GP[lr=2e-3,epochs=20]")
    elif len(words) > 2:
        problems.append(f"{' '.join(w for w, _ in words[2:])!r} is too much; a recipe is CRITERION-PATTERN METHOD")
    (head, head_options), (method, method_options), *_ = words + [("", "")] * 2
    name, dash, shape = head.partition("-")
    name, plus, refinement = name.partition("+")
    if not dash:
        problems.append(f"no pattern after {head!r}; write wanda-50% or wanda-2:4")
    pattern = _read_pattern(shape, problems) if dash else {"sparsity": 0.5}
    data: dict[str, Any] = {"criterion": {"name": name}, "pattern": pattern, "unit": {}, "solver": {}, "method": method}
    data["refinement"] = {"name": refinement} if plus else {}
    _read_options(head_options, head, first, second, data, problems)
    _read_options(method_options, method, second, first, data, problems)
    return data


def brackets(options: Mapping[str, Any]) -> str:
    """`[key=value,...]`, or nothing."""
    shown = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items())
    return f"[{','.join(shown)}]" if options else ""


def percent(sparsity: float) -> str:
    """0.5 -> "50%", digit for digit, so that it reads back as the same number."""
    return f"{(Decimal(repr(sparsity)) * 100).normalize():f}%"


def _read_pattern(text: str, problems: list[str]) -> dict[str, Any]:
    if match := re.fullmatch(r"(-?\d+):(-?\d+)", text):
        return {"keep": int(match[1]), "of": int(match[2])}
    if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)%", text):
        return {"sparsity": float(Decimal(text[:-1]) / 100)}
    problems.append(f"pattern {text!r} is not understood; write a percentage as 50% or N:M as 2:4")
    return {"sparsity": 0.5}


def _read_options(text: str, word: str, mine: Places, other: Places, data: dict[str, Any], problems: list[str]) -> None:
    """`key=value,...` of one word's brackets, each into the part it belongs to."""
    seen = set()
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, value = (piece.strip() for piece in item.partition("="))
        if not key or not value:
            problems.append(f"option {item!r} after {word!r} is not of the form key=value")
        elif key in seen:
            problems.append(f"option {key!r} is given twice after {word!r}")
        elif key in other:
            problems.append(f"option {key!r} belongs to the other word, not after {word!r}, which takes {', '.join(mine)}")
        elif key not in mine:
            problems.append(f"unknown option {key!r} after {word!r}; {suggest(key, mine)}")
        else:
            part, name = mine[key]
            (data[part] if part else data)[name] = _literal(value)
        seen.add(key)


def _literal(text: str) -> int | float | bool | str:
    """What TOML would make of it, words left as text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
