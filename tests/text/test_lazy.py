"""A lazy sequence is a sequence, and makes what it is asked for and nothing else."""

import pytest

from analysis.text.lazy import Lazy


def test_items_are_made_when_they_are_asked_for():
    made = []
    lazy = Lazy(5, lambda number: made.append(number) or number * 10)
    assert len(lazy) == 5 and not made
    assert (lazy[3], lazy[-1]) == (30, 40) and made == [3, 4]
    assert list(lazy[1:3]) == [10, 20] and list(lazy) == [0, 10, 20, 30, 40]
    with pytest.raises(IndexError):
        lazy[5]
