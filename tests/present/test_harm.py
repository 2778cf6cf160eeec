"""One method against another on next to no text: changes within seeds and windows, what is drawn and what is said."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import harm
from analysis.present.final import HELD_OUT_ERROR, PERPLEXITY

TIMES = {0: 1.1, 4: 0.8}  # the second method's error by the windows added


@pytest.fixture(scope="module")
def ends():
    rows = [
        {
            "run": f"{added} {number} {method} {seed}",
            "pattern": "50%",
            "criterion": "wanda",
            "method": method,
            "samples": 1,
            "added": added,
            "added_samples": number,
            "seed": seed,
            "which": "pruned",
            "measure": measure,
            "value": (1 + seed) * (times + 0.001 * seed * (measure == HELD_OUT_ERROR) if method == "BR+GP+CR" else 1),
        }
        for added in ("self", "lab:mixed")
        for number, times in TIMES.items()
        for method in ("BR+GP", "BR+GP+CR")
        for seed in range(3)
        for measure in (HELD_OUT_ERROR, PERPLEXITY)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table(ends):
    return harm.harm(ends, "BR+GP", "BR+GP+CR")


def test_a_change_is_within_seed_and_windows(table, ends):
    assert len(table) == 2 * 2 * 2 and (table["against"] == "BR+GP").all() and (table["seeds"] == 3).all()
    row = table[(table["measure"] == HELD_OUT_ERROR) & (table["added"] == "self") & (table["added_samples"] == 4)].iloc[
        0
    ]
    assert list(row[["seed 0", "seed 1", "seed 2"]]) == pytest.approx([-20.0, -19.9, -19.8])
    with pytest.raises(UsageError, match="method BR is not in the table"):
        harm.harm(ends, "BR", "BR+GP+CR")


@pytest.mark.slow
def test_every_row_is_drawn(table):
    fig = harm.plot_harm(table)
    drawn = {
        (number, line.get_gid().removeprefix("source "), int(x)): y
        for number, ax in enumerate(fig.axes)
        for line in ax.lines
        if (line.get_gid() or "").startswith("source ")
        for x, y in line.get_xydata()
    }
    measures, places = list(dict.fromkeys(table["measure"])), list(TIMES)
    assert drawn == {
        (measures.index(row.measure), row.added, places.index(row.added_samples)): row.value
        for row in table.itertuples()
    }


def test_harm_and_gain_are_said_where_a_test_confirms_them(table):
    said = harm.say_harm(table).splitlines()
    assert said[0] == (
        "- **Wanda 50% BR+GP+CR** against BR+GP, held-out error, windows of self-generated added: 0: +10.1 ± 0.2 %"
        " (harm), 4: -19.9 ± 0.2 % (gain)."
    )
    # without added windows one for both; perplexities move alike in every seed and cannot be tested
    assert said[-1] == "- Harm and gain: p < 0.05 after Holm's correction for 2."
    noisy = table.assign(**{"seed 2": -3 * table["seed 2"]})
    assert harm.say_harm(noisy).count("undecided") == len(table)


def test_a_single_seed_decides_nothing(table):
    said = harm.say_harm(table.drop(columns=["seed 1", "seed 2"]).assign(seeds=1, low=np.nan, high=np.nan))
    assert said.count("% (undecided)") == len(table)
    assert said.splitlines()[-1] == "- Harm and gain: nothing could be tested."
