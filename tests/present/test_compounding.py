"""Errors from block to block: the table, and sentences beside the paper's numbers."""

import numpy as np
import pytest

from analysis.present import calibration, compounding, tables


def test_the_first_block_inherits_nothing_and_the_last_is_the_papers_number(blocks):
    rows = blocks[blocks["samples"] == 32]
    profile = compounding.block_profile(rows, kind=list(tables.DRAWN_KINDS))
    assert (
        profile[profile["kind"] == "inherited"]["block"].min() == 1
        and profile[profile["kind"] == "local"]["block"].min() == 0
    )
    last = tables.last_block(rows)
    merged = last.merge(
        profile[(profile["kind"] == "total") & (profile["block"] == 7)], on=["criterion", "split", "method"]
    )
    assert np.array_equal(merged["value_x"], merged["value_y"]) and len(merged) == len(last)


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


def test_the_other_sentences_hold_computed_numbers(blocks):
    parts = compounding.say_parts(
        compounding.block_profile(blocks[blocks["samples"] == 32], kind=list(tables.DRAWN_KINDS), criterion="wanda")
    )
    assert parts.count("\n") == 3 and "local part 30%" in parts
    gap = calibration.say_gap(tables.last_block(blocks, criterion="wanda"))
    assert gap.count("\n") == 3 and "8 → 128 windows" in gap
