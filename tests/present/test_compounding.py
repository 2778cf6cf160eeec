"""Errors from block to block: the table, and sentences beside the paper's numbers."""

import numpy as np
import pandas as pd
import pytest

from analysis.present import calibration, compounding, tables


def test_the_first_block_inherits_nothing_and_the_last_is_the_papers_number(blocks):
    rows = blocks[blocks["samples"] == 32]
    profile = compounding.block_profile(rows, kind=list(tables.DRAWN_KINDS))
    assert (
        profile[profile["kind"] == "inherited"]["block"].min() == 1
        and profile[profile["kind"] == "cross"]["block"].min() == 1
        and profile[profile["kind"] == "local"]["block"].min() == 0
    )
    last = tables.last_block(rows)
    merged = last.merge(
        profile[(profile["kind"] == "total") & (profile["block"] == 7)], on=["criterion", "split", "method"]
    )
    assert np.array_equal(merged["value_x"], merged["value_y"]) and len(merged) == len(last)


def test_the_papers_errors_are_set_on_our_lr_where_they_compare(blocks):
    profile = compounding.block_profile(blocks[blocks["samples"] == 32])
    table = compounding.with_paper(profile)
    ghosts = table[table["source"] != "here"].set_index(["source", "criterion", "method"])["value"]
    last = tables.last_block(blocks[blocks["samples"] == 32]).set_index(["criterion", "split", "method"])["value"]
    ours = last["wanda", "calibration", "LR"]
    assert ghosts["LLaMA-7B", "wanda", "BR"] == pytest.approx(ours * 1.33 / 3.56)
    assert ghosts["OPT-125M", "wanda", "BR+GP+CR"] == pytest.approx(ours * 0.004 / 0.032)
    assert len(ghosts) == 2 * 3 * 3 and set(table.loc[table["source"] != "here", "split"]) == {"calibration"}
    other = compounding.with_paper(profile.assign(pattern="2:4"))
    assert set(other["source"]) == {"here"} and len(other) == len(profile)


@pytest.mark.slow
def test_ghosts_stand_right_of_the_last_block_and_nowhere_else(blocks):
    table = compounding.with_paper(compounding.block_profile(blocks[blocks["samples"] == 32], criterion="wanda"))
    axes = compounding.plot_block_profile(table).axes
    ghosts = [line for ax in axes for line in ax.lines if line.get_gid().startswith("paper ")]
    assert sorted(y for line in ghosts for y in line.get_ydata()) == sorted(table[table["source"] != "here"]["value"])
    assert all(x > table["block"].max() for line in ghosts for x in line.get_xdata())
    assert {line.axes for line in ghosts} == {axes[0]} and set(axes[0].get_xticks()) <= set(range(8))


@pytest.mark.slow
def test_the_cross_term_has_a_linear_scale_and_what_is_inherited_begins_late(blocks):
    table = compounding.block_profile(blocks[blocks["samples"] == 32], kind=tables.DRAWN_KINDS, criterion="wanda")
    axes = compounding.plot_block_profile(table, columns="kind").axes
    assert [ax.get_yscale() for ax in axes] == ["log", "log", "log", "linear"] * 3
    absent = [bool(ax.texts) and ax.texts[0].get_text() == "no block before" for ax in axes]
    assert absent == [False, True, False, True] * 3
    assert len({ax.get_ylim() for ax in axes}) == 2


def test_growth_is_taken_within_a_run_and_said_only_under_every_criterion(blocks):
    rows = blocks[blocks["samples"] == 32]
    table = compounding.growth(rows)
    assert np.allclose(table["value"], 1.08 / 0.08)
    said = compounding.say_growth(table).split("\n")
    assert len(said) == 3
    assert said[0] == (
        "- **calibration**: the last block's error over the first's: LR 14, BR 14, BR+GP 14, BR+GP+CR 14; it grows with"
        " LR, BR, BR+GP, BR+GP+CR."
    )
    shrinks = table.assign(low=0.5)
    assert "with no method does it grow under every criterion" in compounding.say_growth(shrinks)
    one = table["criterion"].eq("wanda") & table["method"].eq("LR")
    assert "it grows with BR, BR+GP" in compounding.say_growth(table.assign(low=table["low"].where(~one, 0.9)))


def test_ours_beside_the_papers_as_ratios_to_lr(blocks, perplexity):
    error = tables.last_block(blocks[blocks["samples"] == 32])
    text = tables.perplexities(perplexity[perplexity["samples"] == 32])
    out = compounding.beside_results(error, text, "stories")
    value = error.set_index(["criterion", "split", "method"])["value"]
    ratio = value["wanda", "calibration", "BR"] / value["wanda", "calibration", "LR"]
    assert out.loc[("wanda", "BR"), ("error / LR", "here")] == pytest.approx(ratio, abs=6e-4)
    assert out.loc[("wanda", "BR"), ("error / LR", "LLaMA-7B")] == pytest.approx(1.33 / 3.56, abs=6e-4)
    assert out.loc[("magnitude", "BR+GP+CR"), ("perplexity / LR", "OPT-125M")] == pytest.approx(
        33.76 / 193.36, abs=6e-4
    )
    assert (out.xs("LR", level="method") == 1).all(axis=None) and list(out.index.get_level_values(0).unique()) == [
        "magnitude",
        "wanda",
        "sparsegpt",
    ]


def test_the_order_of_methods_is_said_as_it_is(blocks):
    error = tables.last_block(blocks[blocks["samples"] == 32], criterion="wanda", split="calibration")
    assert "each method lowers it" in compounding.say_order(error)
    error.loc[error["method"] == "BR+GP", "value"] *= 10
    assert "not lower than the one before: BR+GP." in compounding.say_order(error)
    assert compounding.say_order(error)._repr_markdown_() == compounding.say_order(error)


def test_no_method_is_left_out_of_the_order(blocks):
    error = tables.last_block(blocks[blocks["samples"] == 32], criterion="wanda", split="calibration")
    other = error[error["method"] == "LR"].assign(method="BR+GP[loss=cosine]", value=9.0)
    said = compounding.say_order(pd.concat([error, other]))
    assert "9 (BR+GP[loss=cosine]);" in said and said.endswith("not lower than the one before: BR+GP[loss=cosine].")


def test_the_other_sentences_hold_computed_numbers(blocks):
    parts = compounding.say_parts(
        compounding.block_profile(blocks[blocks["samples"] == 32], kind=list(tables.DRAWN_KINDS), criterion="wanda")
    )
    assert parts.count("\n") == 3 and "local part 30%" in parts
    gap = calibration.say_gap(tables.last_block(blocks, criterion="wanda"))
    assert gap.count("\n") == 3 and "8 → 128 windows" in gap
