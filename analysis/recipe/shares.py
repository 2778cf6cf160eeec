"""The text of uneven patterns: which matrices stay dense (`skip`), and the share that each block or matrix loses
(`shares`). No torch.

    skip=first:1+last:1+down_proj     the first and the last block, and every down_proj, stay dense
    shares=0.4+0.5+0.6                a share for every block, in order; their mean is the recipe's sparsity
    shares=0:0.3+q_proj:0.6           other shares for block 0 and for every q_proj
    shares=layers.json, layers.csv    the same from a file: a list, or {"q_proj": 0.6}; lines of `0.4` or `q_proj,0.6`
    shares=owl                        chosen by outliers (`masks/shares.py`)

A matrix is named in full, by its name within the block, or by the end of one. A file is read when the recipe is made;
what the recipe holds, prints and digests are its numbers.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

OWL = "owl"
MATRIX_NAME = re.compile(r"[A-Za-z_][\w.]*")
SKIP_SAYS = "first:N, last:N (blocks) or names of matrices, joined by + as in first:1+last:1+down_proj"
SHARES_SAYS = (
    "owl, a share for every block as in 0.4+0.5+0.6, shares by block or matrix as in 0:0.3+q_proj:0.6, or a .json or"
    " .csv file of these"
)


def read_skip(value: Any) -> str:
    """`skip` in its one way of writing, from text or a list of its items; ValueError saying what is valid."""
    items = value.split("+") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items or not all(isinstance(item, str) for item in items):
        raise ValueError(f"must be {SKIP_SAYS}, got {value!r}")
    written = []
    for item in (item.strip() for item in items):
        ends = re.fullmatch(r"(first|last):(\d+)", item)
        if not (ends and int(ends[2]) or MATRIX_NAME.fullmatch(item)):
            raise ValueError(f"must be {SKIP_SAYS}, got {item!r} in {value!r}")
        written.append(f"{ends[1]}:{int(ends[2])}" if ends else item)
    return "+".join(dict.fromkeys(written))


def skipped(text: str) -> tuple[int, int, list[str]]:
    """`skip` as (first blocks, last blocks, names of matrices)."""
    ends, names = {"first": 0, "last": 0}, []
    for item in text.split("+"):
        word, _, number = item.partition(":")
        if number:
            ends[word] = max(ends[word], int(number))
        else:
            names.append(item)
    return ends["first"], ends["last"], names


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
        if path.suffix == ".json":
            data = json.loads(path.read_text())
            if not isinstance(data, (list, dict)):
                raise ValueError("it holds neither a list nor a dict")
            return list(data.items()) if isinstance(data, dict) else [("", item) for item in data]
        with path.open(newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
        if not all(len(row) in (1, 2) for row in rows):
            raise ValueError("a line holds a share, or a block or matrix and its share")
        return [(row[0] if len(row) == 2 else "", row[-1]) for row in rows]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read from {path}: {error}") from None


def _written(items: Iterable[tuple[Any, Any]], given: Any) -> str:
    """Pairs of key ("" for a list's) and share as text."""
    shares: list[tuple[str, float]] = []
    for key, number in items:
        try:
            share = float(number) if isinstance(number, (str, Real)) and not isinstance(number, bool) else float("nan")
        except ValueError:
            share = float("nan")
        if not 0 <= share < 1:
            raise ValueError(f"must be {SHARES_SAYS}, each from 0 to below 1; got {number!r} in {given!r}")
        key = str(key).strip()
        if key and not key.isdecimal() and not MATRIX_NAME.fullmatch(key):
            raise ValueError(f"must be {SHARES_SAYS}; {key!r} is neither the number of a block nor a matrix")
        shares.append((str(int(key)) if key.isdecimal() else key, share + 0))
    keys = [key for key, _ in shares]
    if not shares or len({bool(key) for key in keys}) > 1:
        raise ValueError(f"must be {SHARES_SAYS}: all of one kind; got {given!r}")
    if any(keys) and len(set(keys)) < len(keys):
        raise ValueError(f"must be {SHARES_SAYS}; {max(keys, key=keys.count)!r} is given twice")
    return "+".join(f"{key}:{share!r}" if key else repr(share) for key, share in shares)
