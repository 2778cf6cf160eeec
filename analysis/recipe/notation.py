"""The short text of a recipe, `CRITERION[+REFINEMENT]-PATTERN[options] METHOD[options]`, to and from a nested dict;
`recipe.py` knows what it means.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from analysis.errors import quoted, suggest

_WORD = re.compile(r"([^\s\[\]]+)(?:\[([^\[\]]*)\])?")

Places = Mapping[str, tuple[str, str]]  # option -> the part of the recipe ("" = the recipe itself) and the key there


def read(
    text: str,
    criteria: Iterable[str],
    kinds: Iterable[str],
    first: Places,
    second: Callable[[str], Places],
    problems: list[str],
) -> dict[str, Any]:
    """The text as {"criterion": {...}, "pattern": {...}, ..., "method": name}; a pattern that cannot be read is left
    out of "pattern".

    criteria: their names, which may hold dashes. kinds: what a pattern may be of (`heads-50%`). first, second: the
    options each word takes, the second's by the method. What cannot be read is added to `problems`, and the rest is
    read all the same.
    """
    words = _WORD.findall(text)
    if _WORD.sub("", text).strip():
        problems.append("brackets do not match; options follow their word as in BR+GP[lr=2e-3,epochs=20]")
    elif len(words) > 2:
        problems.append(
            f"{quoted(' '.join(w for w, _ in words[2:]))} is too much; a recipe is CRITERION-PATTERN METHOD"
        )
    (head, head_options), (method, method_options), *_ = words + [("", "")] * 2
    known = max(
        (name for name in criteria if head.startswith((f"{name}-", f"{name}+")) or head == name), key=len, default=""
    )
    rest, dash, shape = head.removeprefix(known).partition("-")
    name, plus, refinement = (known + rest).partition("+")
    if not dash:
        problems.append(f"no pattern after {quoted(head)}; write wanda-50%, wanda-2:4 or flap-neurons-50%")
    pattern = _read_pattern(shape, tuple(kinds), problems) if dash else {}
    data: dict[str, Any] = {
        "criterion": {"name": name},
        "pattern": pattern,
        "unit": {},
        "solver": {},
        "repair": {},
        "method": method,
    }
    data["refinement"] = {"name": refinement} if plus else {}
    places = second(method)
    _read_options(head_options, head, first, places, data, problems)
    _read_options(method_options, method, places, first, data, problems)
    return data


def brackets(options: Mapping[str, Any]) -> str:
    """`[key=value,...]`, or nothing."""
    shown = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items())
    return f"[{','.join(shown)}]" if options else ""


def percent(sparsity: float) -> str:
    """0.5 -> "50%", digit for digit, so that it reads back as the same number."""
    return f"{(Decimal(repr(sparsity)) * 100).normalize():f}%"


def _read_pattern(text: str, kinds: tuple[str, ...], problems: list[str]) -> dict[str, Any]:
    """`50%`, `2:4` or, of whole structures, `heads-50%`; of blocks also a number, `blocks-2`."""
    kind = max((kind for kind in kinds if text.startswith(f"{kind}-")), key=len, default="")
    kind_field, share = ({"kind": kind}, text.removeprefix(f"{kind}-")) if kind else ({}, text)
    if match := re.fullmatch(r"(-?\d{1,18}):(-?\d{1,18})", share):
        return {"keep": int(match[1]), "of": int(match[2])} | kind_field
    if re.fullmatch(r"-?(\d+(\.\d*)?|\.\d+)%", share):
        return {"sparsity": float(Decimal(share[:-1]) / 100)} | kind_field
    if kind and re.fullmatch(r"\d{1,18}", share):
        return {"number": int(share)} | kind_field
    problems.append(
        f"pattern {quoted(text)} is not understood; write a percentage as 50% or N:M as 2:4; of whole structures"
        f" {', '.join(f'{kind}-50%' for kind in kinds)}"
    )
    return {}


def _read_options(text: str, word: str, mine: Places, other: Places, data: dict[str, Any], problems: list[str]) -> None:
    """`key=value,...` of one word's brackets, each into the part it belongs to."""
    seen = set()
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, value = (piece.strip() for piece in item.partition("="))
        if not key or not value:
            problems.append(f"option {quoted(item)} after {quoted(word)} is not of the form key=value")
        elif key in seen:
            problems.append(f"option {quoted(key)} is given twice after {quoted(word)}")
        elif key in other:
            problems.append(
                f"option {key!r} belongs to the other word, not after {quoted(word)}, which takes {', '.join(mine)}"
            )
        elif key not in mine:
            problems.append(f"unknown option {quoted(key)} after {quoted(word)}; {suggest(key, mine)}")
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
