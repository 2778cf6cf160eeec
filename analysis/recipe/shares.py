"""The text of uneven patterns: which matrices stay dense (`skip`), and the share that each block or matrix loses
(`shares`). No torch.

    skip=first:1+last:1+down_proj     the first and the last block, and every down_proj, stay dense
    skip=0+3                          the blocks 0 and 3 stay dense
    shares=0.4+0.5+0.6                a share for every block, in order; their mean is the recipe's sparsity
    shares=0:0.3+q_proj:0.6           other shares for block 0 and for every q_proj
    shares=layers.json, layers.csv    the same from a file: a list, or {"q_proj": 0.6}; lines of `0.4` or `q_proj,0.6`
    shares=owl                        chosen by outliers (`masks/shares.py`)

A matrix is named in full, by its name within the block, or by the end of one. A file is read when the recipe is made;
what the recipe holds, prints and digests are its numbers.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from analysis import storage
from analysis.errors import quoted
from analysis.recipe.files import read_small

OWL = "owl"
NO_OWL = (
    "shares=owl looks at the whole model first, and masks are compared matrix by matrix; give the shares themselves"
)
BLOCK_NUMBER = re.compile(r"\d{1,9}")
MATRIX_NAME = re.compile(r"[A-Za-z_][\w.]{0,299}")
SKIP_SAYS = (
    "first:N, last:N (blocks), numbers of blocks or names of matrices, joined by + as in first:1+last:1+down_proj"
)
SHARES_SAYS = (
    "owl, a share for every block as in 0.4+0.5+0.6, shares by block or matrix as in 0:0.3+q_proj:0.6, or a .json or"
    " .csv file of these"
)


def read_skip(value: Any) -> str:
    """`skip` in its one way of writing, from text or a list of its items; ValueError saying what is valid."""
    given = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    items = given.split("+") if isinstance(given, str) else given
    if not isinstance(items, (list, tuple)) or not items:
        raise ValueError(f"must be {SKIP_SAYS}, got {quoted(value)}")
    written = []
    for one in items:
        item = str(one) if type(one) is int and 0 <= one < 10**9 else one.strip() if isinstance(one, str) else ""
        number = re.fullmatch(r"(?:(first|last):)?(\d{1,9})", item)
        if not (number and (not number[1] or int(number[2])) or MATRIX_NAME.fullmatch(item)):
            raise ValueError(f"must be {SKIP_SAYS}, got {quoted(one)} in {quoted(value)}")
        written.append((f"{number[1]}:" if number[1] else "") + str(int(number[2])) if number else item)
    return "+".join(dict.fromkeys(written))


def skipped(text: str, blocks: int) -> tuple[set[int], list[str]]:
    """`skip` as the numbers of the blocks it names of so many, and names of matrices. A number too large stays."""
    numbers: set[int] = set()
    names = []
    for item in text.split("+"):
        word, _, number = item.partition(":")
        if number:
            count = min(int(number), blocks)
            numbers.update(range(count) if word == "first" else range(blocks - count, blocks))
        elif item.isdecimal():
            numbers.add(int(item))
        else:
            names.append(item)
    return numbers, names


def read_shares(value: Any) -> str:
    """`shares` in its one way of writing, from text, a number, a list, a dict or a file; ValueError saying what is
    valid.
    """
    if isinstance(value, str) and value.endswith((".json", ".csv")):
        return _written(_from_file(Path(value)), value)
    if isinstance(value, str):
        if value == OWL:
            return value
        return _written([_pair(item) for item in value.split("+")], value)
    if isinstance(value, Mapping):
        return _written(value.items(), value)
    return _written([("", item) for item in (value if isinstance(value, (list, tuple)) else [value])], value)


def parse_shares(text: str) -> list[float] | dict[str, float]:
    """`shares` that are not "owl" as a list by block or a dict by block number or matrix name."""
    items = [_pair(item) for item in text.split("+")]
    if items[0][0]:
        return {key: float(number) for key, number in items}
    return [float(number) for _, number in items]


def _pair(item: str) -> tuple[str, str]:
    """`q_proj:0.6` as its key and its number; `0.6` has the key ""."""
    key, _, number = item.rpartition(":")
    return key, number


def _from_file(path: Path) -> Iterable[tuple[Any, Any]]:
    try:
        text = read_small(path)
        if path.suffix == ".json":
            data = storage.parse_json(text)
            if not isinstance(data, (list, dict)):
                raise ValueError("it holds neither a list nor a dict")
            return list(data.items()) if isinstance(data, dict) else [("", item) for item in data]
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
        if not all(len(row) in (1, 2) for row in rows):
            raise ValueError("a line holds a share, or a block or matrix and its share")
        return [(row[0] if len(row) == 2 else "", row[-1]) for row in rows]
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"cannot be read from {path}: {str(error)[:200]}") from None


def _written(items: Iterable[tuple[Any, Any]], given: Any) -> str:
    """Pairs of key ("" for a list's) and share as text."""
    shares: list[tuple[str, float]] = []
    for key, number in items:
        try:
            share = float(number) if isinstance(number, (str, Real)) and not isinstance(number, bool) else float("nan")
        except (ValueError, OverflowError):
            share = float("nan")
        if not 0 <= share < 1:
            raise ValueError(f"must be {SHARES_SAYS}, each from 0 to below 1; got {quoted(number)} in {quoted(given)}")
        key = str(key).strip()
        if key and not BLOCK_NUMBER.fullmatch(key) and not MATRIX_NAME.fullmatch(key):
            raise ValueError(f"must be {SHARES_SAYS}; {quoted(key)} is neither the number of a block nor a matrix")
        shares.append((str(int(key)) if key.isdecimal() else key, share + 0))
    keys = [key for key, _ in shares]
    if not shares or len({bool(key) for key in keys}) > 1:
        raise ValueError(f"must be {SHARES_SAYS}: all of one kind; got {quoted(given)}")
    if any(keys) and len(set(keys)) < len(keys):
        raise ValueError(f"must be {SHARES_SAYS}; {max(keys, key=keys.count)!r} is given twice")
    return "+".join(f"{key}:{share!r}" if key else repr(share) for key, share in shares)
