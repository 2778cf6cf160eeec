"""Three readings of one error: the table holds what was measured, every row is drawn, sentences follow the numbers."""

from itertools import product

import numpy as np
import pytest

from analysis.present import readings
from analysis.present.readings import HOLDERS, READINGS, SHARE


@pytest.fixture
def measured(blocks):
    rows = blocks[(blocks["samples"] == 32) & blocks["criterion"].isin(["wanda", "magnitude"])]
    return rows.assign(
        relative_error_rest=rows["relative_error"] * 2,
        relative_error_median=rows["relative_error"] * 3,
        energy_first=0.01 + 0.1 * rows["block"],
        energy_top=0.05,
    )


def test_the_table_holds_each_reading_of_the_total_error_and_the_shares_once(measured):
    table = readings.readings_profile(measured, criterion="wanda")
    value = table.set_index(["reading", "method", "block"])["value"]
    for factor, title in enumerate(READINGS.values(), start=1):
        one = measured.query(
            "criterion == 'wanda' and split == 'calibration' and method == 'BR' and block == 3 and kind == 'total'"
        )
        assert value[title, "BR", 3] == pytest.approx(factor * one["relative_error"].mean())
    assert set(table[table["reading"] == SHARE]["method"]) == set(HOLDERS.values())
    assert value[SHARE, "first tokens", 4] == pytest.approx(0.41) and value[SHARE, "largest 1 %", 4] == 0.05


@pytest.mark.slow
def test_every_row_is_drawn_in_its_panel(measured):
    table = readings.readings_profile(measured)
    axes = readings.plot_readings(table).axes
    pairs = list(product(table["criterion"].unique(), table["reading"].unique()))
    assert len(axes) == len(pairs) == 8
    for ax, (criterion, reading) in zip(axes, pairs):
        rows = table[(table["criterion"] == criterion) & (table["reading"] == reading)]
        drawn = np.sort(np.concatenate([line.get_ydata() for line in ax.get_lines()]))
        assert np.allclose(drawn, np.sort(rows["value"]))
        assert ax.get_yscale() == ("linear" if reading == SHARE else "log")


@pytest.mark.slow
def test_sentences_say_who_holds_and_whether_the_orders_agree(measured):
    said = readings.say_readings(readings.readings_profile(measured, criterion="wanda"))
    assert "first tokens hold up to 71% of the dense mean square (block 7), so that the papers' error" in said
    assert "all readings order the methods alike" in said
    quiet = readings.readings_profile(measured.assign(energy_first=0.01), criterion="wanda")
    assert "largest 1 % of all tokens hold up to 5%" in readings.say_readings(quiet)
    assert "says little" not in readings.say_readings(quiet)
    other = measured.assign(
        relative_error_median=measured["relative_error_median"].where(measured["method"] != "LR", 1e-9)
    )
    assert "median token (its own relative error): LR <" in readings.say_readings(
        readings.readings_profile(other, criterion="wanda")
    )


def test_it_warns_where_a_handful_of_tokens_holds_most_of_the_mean_square(measured):
    loud = readings.say_holders(measured)
    assert loud.startswith(
        "**Careful**: of the dense mean square, the windows’ first tokens hold at most 71% (block 7)"
    )
    quiet = readings.say_holders(measured.assign(energy_first=0.01))
    assert quiet == (
        "Of the dense mean square, the windows’ first tokens hold at most 1% (block 0) and the largest 1 % of tokens"
        " hold at most 5% (block 0): no handful of tokens decides the error."
    )
