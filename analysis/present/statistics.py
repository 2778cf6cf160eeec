"""What a few seeds allow to be said: 95 % intervals by t, paired comparisons, Holm's correction for several at once.

A seed draws calibration and held-out windows alike, and the masks that follow from them: what it adds to one method it
adds to the others. Methods are therefore compared within a seed. An interval says how far a mean would move with other
draws of text; there is one trained model of each size, so it says nothing about other models.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

LEVEL = 0.05  # of tests, and what intervals leave out
ROUNDING = 1e-12  # share of the values compared within which a difference is 0: means of the same answers differ so
SEED = "seed "  # a column with the value of one seed begins so, and ends in its number


class Paired(NamedTuple):
    """A difference within seeds: its mean, its 95 % interval, t, degrees of freedom and two-sided p.

    Where two means are compared by their ratio, the difference is that of logarithms. With fewer than two shared seeds
    everything but the difference is NaN: nothing can be decided.
    """

    difference: float
    low: float
    high: float
    t: float
    df: int
    p: float


def half_width(values: ArrayLike) -> NDArray[np.float64]:
    """Half of the 95 % interval of the mean along the last axis, by t; NaN entries count as absent.

    NaN where fewer than two are left: one value says nothing about its spread.
    """
    values = np.asarray(values, dtype=float)
    count = (~np.isnan(values)).sum(-1)
    many = count > 1
    n = np.where(many, count, 2)
    mean = np.nansum(values, -1) / np.maximum(count, 1)
    square = np.nansum((values - mean[..., None]) ** 2, -1) / (n - 1)
    return np.where(many, stdtrit(n - 1, 1 - LEVEL / 2) * np.sqrt(square / n), np.nan)


def logarithms(values: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithms; NaN for what has none."""
    values = np.asarray(values, dtype=float)
    return np.log(np.where(values > 0, values, np.nan))


def paired(one: ArrayLike, other: ArrayLike, *, ratio: bool = False) -> Paired:
    """`one` less `other`, entry by entry (NaN entries left out): a t test of the mean difference against 0.

    ratio: compare logarithms, which is right for errors and perplexities (all above 0). Differences that do not vary
    at all, as few questions give them, cannot be tested: t and p are NaN, unless they are 0 (t 0, p 1). What differs by
    rounding alone is equal.
    """
    both = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    apart = logarithms(both[0]) - logarithms(both[1]) if ratio else both[0] - both[1]
    size = np.ones_like(apart) if ratio else np.maximum(np.abs(both[0]), np.abs(both[1]))
    there = ~np.isnan(apart)
    apart, size = apart[there], size[there]
    apart = np.where(np.abs(apart) < ROUNDING * size, 0.0, apart)
    n = len(apart)
    mean = float(apart.mean()) if n else math.nan
    if n and abs(mean) < ROUNDING * size.max():
        mean = 0.0
    if n < 2:
        return Paired(mean, math.nan, math.nan, math.nan, max(n - 1, 0), math.nan)
    half, error = float(half_width(apart)), float(apart.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-9 * abs(mean):
        t = math.nan if mean else 0.0
    else:
        t = mean / error
    return Paired(mean, mean - half, mean + half, t, n - 1, float(2 * stdtr(n - 1, -abs(t))))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for being several (Holm 1979): below `LEVEL` with that chance at most of a single false one.

    NaN, where nothing could be tested, stays NaN and counts as none.
    """
    order = sorted((place for place, value in enumerate(p) if value == value), key=lambda place: p[place])
    out, most = [math.nan] * len(p), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * p[place]))
        out[place] = most
    return out


def seed_columns(names: Iterable[str]) -> list[str]:
    """Those of a table's columns that hold the value of one seed, by seed."""
    found = [name for name in map(str, names) if name.startswith(SEED) and name[len(SEED) :].isdigit()]
    return sorted(found, key=lambda name: int(name[len(SEED) :]))


def compare(one: pd.Series, other: pd.Series, *, ratio: bool = False) -> Paired:
    """`paired` for two rows of a table made by `tables.over_seeds`, over the seeds that both have."""
    names = seed_columns(one.index)
    return paired(one[names].astype(float), other.reindex(names).astype(float), ratio=ratio)


def leaders(values: pd.Series, *, lowest: bool = False) -> list[str]:
    """The names of the highest value, or the lowest: several where they differ by rounding alone."""
    top = values.min() if lowest else values.max()
    return list(values.index[(values - top).abs() <= ROUNDING * abs(top)])


def by_questions(difference: float, *errors: float) -> float:
    """Two-sided p of a difference of two scores from their standard errors over the questions asked, taken as
    independent: what one asking can say, however many seeds are asked the same.
    """
    error = math.hypot(*errors)
    return math.erfc(abs(difference) / error / math.sqrt(2)) if error else math.nan


def decided(p: float) -> bool:
    """Whether a p value, corrected where several were tested, is below `LEVEL`; NaN never is."""
    return p < LEVEL


def intervals(
    values: pd.DataFrame, keys: pd.DataFrame, reference: Mapping[str, object] | None, ratio: bool
) -> tuple[NDArray[np.float64], list[str]]:
    """Half widths of rows of `values` (one column a seed), and whose difference each is of.

    keys: what tells the rows apart. reference: keys of the row that others are compared with, those it does not name
    being equal; it has no interval itself, and rows without one in the table have that of their own mean ("").
    """
    seeds = logarithms(values) if ratio else values.to_numpy(float)
    half, names = half_width(seeds), [""] * len(values)
    if reference is None:
        return half, names
    first = (keys[list(reference)] == pd.Series(reference)).all(axis=1).to_numpy()
    rest = [tuple(row) for row in keys.drop(columns=list(reference)).itertuples(index=False)]
    places = {rest[place]: place for place in np.flatnonzero(first)}
    words = [value for value in reference.values() if isinstance(value, str) and value not in ("", "none")]
    word = " ".join(words or [f"{name} {value}" for name, value in reference.items()])
    for place, key in enumerate(rest):
        if first[place]:
            half[place] = np.nan
        elif key in places:
            half[place], names[place] = float(half_width(seeds[place] - seeds[places[key]])), word
    return half, names
