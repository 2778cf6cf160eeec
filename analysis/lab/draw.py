"""Random choices that keep their own account, and the small grammar that turns them into English.

Every choice a writer makes goes through one `Draw`, which adds `-log p` of the choice to `nats`. Templates hold
alternatives in square brackets (`the [old|very old] mill`, nested as deep as wanted) and slots in braces
(`{p.first}`), filled by keyword.
"""

import bisect
import functools
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

NUMBERS = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


class Draw:
    """A seeded source of choices.

    `nats` is the sum of `-log p` over all choices made so far, so it only grows.
    """

    def __init__(self, seed: str):
        self._random = random.Random(seed)
        self.nats = 0.0

    def choice(self, items: Sequence):
        """One of `items`, all equally likely."""
        self.nats += math.log(len(items))
        return items[int(self._random.random() * len(items))]

    def chance(self, p: float) -> bool:
        """True with probability `p` (0 < p < 1)."""
        hit = self._random.random() < p
        self.nats -= math.log(p if hit else 1.0 - p)
        return hit

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return self.choice(range(low, high + 1))

    def sample(self, items: Sequence, count: int) -> list:
        """`count` different items in random order (all of them if there are fewer)."""
        count = min(count, len(items))
        self.nats += sum(math.log(len(items) - i) for i in range(count))
        return self._random.sample(items, count)

    def ranked(self, items: "Ranked"):
        """One of `items` with its Zipf probability."""
        index = items.find(self._random.random())
        self.nats -= math.log(items.probability(index))
        return items[index]

    def weighted(self, weights: dict):
        """A key of `weights`, with probability proportional to its value."""
        total = sum(weights.values())
        mark = self._random.random() * total
        for key, weight in weights.items():  # noqa: B007 - the last one looked at is the answer
            mark -= weight
            if mark < 0:
                break
        self.nats -= math.log(weight / total)
        return key

    def say(self, template: str, **slots) -> str:
        """One sentence (or more) from a template, its first letter a capital."""
        return capital(self.phrase(template, **slots))

    def phrase(self, template: str, **slots) -> str:
        """Part of a sentence from a template: as `say`, the first letter untouched."""
        return self._expand(_parse(template), slots)

    def _expand(self, tree: tuple, slots: dict) -> str:
        pieces = []
        for node in tree:
            if isinstance(node, str):
                pieces.append(self.fill(node, slots) if "{" in node else node)
            else:
                pieces.append(self._expand(self.choice(node), slots))
        return "".join(pieces)

    def fill(self, literal: str, slots: Mapping[str, Any]) -> str:
        """A piece of a template with its slots filled in."""
        return literal.format(**slots)


class Ranked(list):
    """A list, most popular first: item `r` has probability proportional to `1 / (r + offset)`."""

    def __init__(self, items, offset: float = 8.0):
        super().__init__(items)
        weights = [1.0 / (rank + offset) for rank in range(len(self))]
        total = sum(weights)
        self._probabilities = [weight / total for weight in weights]
        self._edges = list(itertools.accumulate(self._probabilities))

    def find(self, mark: float) -> int:
        """Index of the item whose stretch of [0, 1) holds `mark`."""
        return min(bisect.bisect_right(self._edges, mark), len(self) - 1)

    def probability(self, index: int) -> float:
        """Probability of the item at `index`."""
        return self._probabilities[index]


@functools.cache
def _parse(template: str) -> tuple:
    """Template as a tuple of literals and choices; a choice is a tuple of parsed alternatives."""
    stack: list[list[list]] = [[[]]]
    for token in re.split(r"([\[\]|])", template):
        if token == "[":
            stack.append([[]])
        elif token == "]":
            alternatives = stack.pop()
            stack[-1][-1].append(tuple(tuple(alternative) for alternative in alternatives))
        elif token == "|":
            stack[-1].append([])
        elif token:
            stack[-1][-1].append(token)
    (((*tree,),),) = stack
    return tuple(tree)


def capital(text: str) -> str:
    """Text with its first letter, after an opening quote if there is one, in upper case."""
    start = 1 if text.startswith('"') else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


def number_word(n: int) -> str:
    """`n` in words up to twenty, in digits above."""
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def ordinal(n: int) -> str:
    """`1st`, `2nd`, `11th` ..."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`one coin`, `three coins`, `no coins`."""
    return f"{number_word(n)} {noun if n == 1 else plural or noun + 's'}"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *head, last = items
    return f"{', '.join(head)} and {last}" if head else last


_ARTICLE = re.compile(r"\b([Aa]) (?=(?:[aeioAEIO](?!ne\b|ne-)|[uU](?!se|ni|ku|ri)|hour|honest|heir))")
_START = re.compile(r"((?:^|[.!?] |\n)\"?)([a-z])")


def tidy(text: str) -> str:
    """A finished document: single spaces, `an` before vowels, capitals where sentences start."""
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r" +(?=[\n.,!?;:])", "", text)
    text = _ARTICLE.sub(r"\1n ", text)
    return _START.sub(lambda match: match[1] + match[2].upper(), text).strip()
