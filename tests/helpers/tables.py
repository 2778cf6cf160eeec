"""Tables of a study with numbers that a test sets."""

import numpy as np


def put(table, value, **where):
    """The table with `value` in the rows that hold what `where` says."""
    rows = np.logical_and.reduce([table[name] == word for name, word in where.items()])
    assert rows.any()
    return table.assign(value=table["value"].where(~rows, value))
