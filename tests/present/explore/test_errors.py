"""The error explorer: pure functions of a table and a choice."""

from dataclasses import replace

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import cancellation, compounding
from analysis.present.explore import errors

CHOICE = errors.ErrorChoice("sparsegpt", splits=("entries",), kinds=("local",))


@pytest.fixture
def rows(blocks):
    return blocks[blocks["samples"] == 32]


def drawn(fig):
    return sorted(float(y) for ax in fig.axes for line in ax.lines if line.get_gid() for y in line.get_ydata())


@pytest.mark.slow
def test_lines_are_those_of_the_static_figure(rows):
    profile = compounding.block_profile(rows, kind="local", criterion="sparsegpt", split="entries")
    fig = errors.draw_errors(rows, CHOICE)
    assert drawn(fig) == sorted(profile["value"]) and fig.axes[0].get_yscale() == "log"
    linear = errors.draw_errors(rows, replace(CHOICE, scale="linear"))
    assert drawn(linear) == drawn(fig) and linear.axes[0].get_yscale() == "linear"
    assert linear.axes[0].get_ylim()[0] == 0


@pytest.mark.slow
def test_some_methods_alone(rows):
    fig = errors.draw_errors(rows, replace(CHOICE, methods=("LR", "BR+GP")))
    assert {line.get_gid() for line in fig.axes[0].lines if line.get_gid()} == {"method LR", "method BR+GP"}


@pytest.mark.slow
def test_the_stack_is_that_of_the_static_figure(rows):
    shares = cancellation.cancellation(rows, criterion="sparsegpt", split="entries")
    fig = errors.draw_errors(rows, replace(CHOICE, view=errors.STACK))
    heights = sorted(bar.get_height() for ax in fig.axes for bar in ax.patches)
    assert heights == pytest.approx(sorted(shares["value"]))


def test_another_reading_is_another_column_and_medians_are_not_stacked(rows):
    told = rows.assign(relative_error_rest=2 * rows["relative_error"], relative_error_median=1.0)
    rest = errors.error_rows(told, replace(CHOICE, reading="without first tokens"))
    plain = errors.error_rows(told, CHOICE)
    assert (rest["relative_error"] == 2 * plain["relative_error"]).all() and set(rest["split"]) == {"entries"}
    with pytest.raises(UsageError, match="medians do not add up"):
        errors.draw_errors(told, replace(CHOICE, view=errors.STACK, reading="median token"))


def test_groups_hold_what_one_panel_may_and_untrained_runs_stand_in_each(rows):
    few = rows[(rows["criterion"] == "wanda") & rows["method"].isin(("LR", "BR"))]
    longer = few[few["method"] == "BR"].assign(recipe="wanda-50% BR[epochs=9,lr=0.01]", run="other")
    other = few.assign(model="lab/small")
    found = errors.groups(pd.concat([few, longer, other], ignore_index=True))
    assert [name.rpartition("stories")[2] for name in found] == ["", ", epochs=9, lr=0.01", ""]
    first, second, third = found.values()
    assert {tuple(part["method"].unique()) for part in (first, second, third)} == {("LR", "BR")}
    assert len(first) == len(second) == len(third) == len(few)


def test_closed_forms_stand_in_every_group_and_no_added_window_is_told(rows):
    few = rows[(rows["criterion"] == "wanda") & rows["method"].isin(("LR", "BR"))].assign(added="self", added_samples=0)
    closed = few[few["method"] == "LR"].assign(method="ridge", recipe="wanda-50% ridge", run="closed")
    longer = few[few["method"] == "BR"].assign(recipe="wanda-50% BR[epochs=9,lr=0.01]", run="other")
    found = errors.groups(pd.concat([few, closed, longer], ignore_index=True))
    assert [name.rpartition("stories")[2] for name in found] == ["", ", epochs=9, lr=0.01"]
    assert all(set(part["method"]) == {"LR", "ridge", "BR"} for part in found.values())


@pytest.mark.slow
def test_controls_say_what_is_drawn_and_another_source_is_read_when_asked_for(rows):
    asked = []

    def stored():
        asked.append(1)
        return rows.assign(model="lab/large")

    box = errors.explore_errors(rows, stored)
    source, body = box.children
    controls, place = body.children[1].children[0].children
    before = place.value
    menu = {one.description: one for one in controls.children if hasattr(one, "description")}
    menu["criterion"].value = "sparsegpt"
    assert place.value != before and place.value.startswith("<svg") and not asked
    source.value = "all stored"
    assert asked and body.children[0].options[0].startswith("lab/large")
