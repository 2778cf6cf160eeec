"""Loss by kind of word: rises within seeds, what is drawn, what is said, and the contrasts that were named before."""

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.lab.kinds import KINDS
from analysis.present import forgotten

RISES = dict(zip(KINDS, (0.01, 0.02, 0.1, 0.3, 0.4, 0.8, 0.5, 0.2), strict=True))  # by place in KINDS
METHODS = {"LR": 1.0, "BR+GP": 0.5}


@pytest.fixture(scope="module")
def told():
    """Two patterns, two methods, three seeds; a seed moves the dense model and the pruned one alike."""
    rows = [
        {
            "run": f"{pattern} {method} {seed}",
            "pattern": pattern,
            "criterion": "wanda",
            "method": method,
            "seed": seed,
            "kind": kind,
            "which": which,
            "nats_per_token": 1.0 + seed + (which == "pruned") * share * rise * more * (1 + 0.01 * seed),
            "tokens": 100,
        }
        for pattern, more in {"50%": 1, "60%": 4}.items()
        for method, share in METHODS.items()
        for seed in range(3)
        for kind, rise in RISES.items()
        for which in ("dense", "pruned")
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table(told):
    return forgotten.forgotten(told)


def test_a_rise_is_of_pruned_over_dense_within_a_seed(table):
    assert len(table) == 2 * 2 * len(KINDS) and (table["seeds"] == 3).all()
    row = table[(table["pattern"] == "60%") & (table["method"] == "BR+GP") & (table["kind"] == "name")].iloc[0]
    assert list(row[["seed 0", "seed 1", "seed 2"]]) == pytest.approx([0.8, 0.808, 0.816])
    assert (row["value"], row["dense"], row["tokens"]) == pytest.approx((0.808, 2.0, 100.0))
    assert row["high"] - row["low"] == pytest.approx(2 * 4.302653 * 0.008 / 3**0.5)  # the seeds' levels cancel
    with pytest.raises(UsageError, match="token_kinds=64"):
        forgotten.forgotten(table.iloc[:0])


@pytest.mark.slow
def test_every_row_is_a_point_and_what_is_lost_first_stands_on_top(table):
    fig = forgotten.plot_forgotten(table)
    kinds = sorted(KINDS, key=lambda kind: -RISES[kind])
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == [f"{kind} (2.00)" for kind in kinds]
    drawn = {
        (number, line.get_gid().removeprefix("method "), kinds[round(y)]): x
        for number, ax in enumerate(fig.axes)
        for line in ax.lines
        if (line.get_gid() or "").startswith("method ")
        for x, y in line.get_xydata()
    }
    patterns = list(dict.fromkeys(table["pattern"]))
    assert drawn == {(patterns.index(row.pattern), row.method, row.kind): row.value for row in table.itertuples()}


def test_it_says_the_order_what_is_left_and_the_named_contrasts(table):
    said = forgotten.say_forgotten(table).splitlines()
    assert said[0].startswith("- **Wanda 50% LR**, nats: fact, well known +0.808 ± 0.020, fact, little known +0.505")
    assert said[0].endswith("function word +0.020 ± 0.000, punctuation +0.010 ± 0.000.")
    assert said[1].startswith("  - BR+GP leaves most, 50% of ")
    assert said[4] == (
        "- LR, *fact, well known* against *fact, little known*, 2 patterns: rises more in 2 (p < 0.05 in 2, in 2 after"
        " Holm's correction), less in 0 (p < 0.05 in 0, in 0 after Holm's correction)."
    )
    turned = table.assign(**{name: -table[name] for name in ("seed 0", "seed 1", "seed 2")})
    assert "rises more in 0 (p < 0.05 in 0, in 0 after Holm's correction), less in 2" in forgotten.say_forgotten(turned)


def test_patterns_under_several_criteria_are_masks(table):
    said = forgotten.say_forgotten(pd.concat([table, table.assign(criterion="magnitude")]))
    assert "4 masks: rises more in 4" in said and "patterns" not in said
