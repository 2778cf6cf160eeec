"""Findings are computed from the tables: change a number and the sentence changes."""

import numpy as np
import pytest

from analysis.present import calibration, compounding, tables
from analysis.present.paper import CALIBRATION_AND_TEST, RESULTS


def test_the_papers_tables_as_printed():
    assert len(RESULTS) == 24 and len(CALIBRATION_AND_TEST) == 12
    key = RESULTS.set_index(["model", "criterion", "method"])
    assert key.loc[("LLaMA-7B", "wanda", "BR+GP"), ["error", "wikitext2", "ptb", "c4"]].tolist() == [
        0.51,
        6.68,
        11.25,
        8.56,
    ]
    assert key.loc[("OPT-125M", "magnitude", "LR"), "wikitext2"] == 193.36
    # table 1's error is table 2's calibration error
    both = CALIBRATION_AND_TEST.merge(RESULTS, on=["model", "criterion", "method"])
    assert np.array_equal(both["error"], both["calibration"])


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


def test_the_gap_beside_the_papers(blocks):
    error = tables.last_block(blocks, criterion="wanda")
    out = calibration.beside_gap(error)
    value = error.set_index(["split", "method", "samples"])["value"]
    assert out.loc[("wanda", "BR"), ("held-out stories", "8 windows")] == pytest.approx(
        value["stories", "BR", 8] / value["calibration", "BR", 8], abs=6e-3
    )
    assert out.loc[("wanda", "BR+GP+CR"), ("paper, C4", "LLaMA-7B")] == pytest.approx(2.31 / 0.38, abs=6e-3)
    assert np.isnan(out.loc[("wanda", "LR"), ("paper, C4", "LLaMA-7B")])


def test_the_order_of_methods_is_said_as_it_is(blocks):
    error = tables.last_block(blocks[blocks["samples"] == 32], criterion="wanda", split="calibration")
    assert "each method lowers it" in compounding.say_order(error)
    error.loc[error["method"] == "BR+GP", "value"] *= 10
    assert "not lower than the one before: BR+GP." in compounding.say_order(error)
    assert compounding.say_order(error)._repr_markdown_() == compounding.say_order(error)


def test_overfitting_names_the_epoch_and_the_rise(steps):
    table = calibration.epochs(steps, criterion="wanda", split=["calibration", "stories"])
    said = calibration.say_overfitting(table)
    line = table[(table["split"] == "stories") & (table["samples"] == 8) & (table["method"] == "BR")].set_index(
        "epoch"
    )["value"]
    assert f"BR epoch {line.idxmin()} of 10 (then +{100 * (line[10] / line.min() - 1):.1f} %)" in said


def test_worth_is_from_where_every_larger_number_of_windows_wins(perplexity):
    table = tables.perplexities(perplexity, criterion="wanda", split="stories")
    value = table.set_index(["method", "samples"])["value"]
    table.loc[(table["method"] == "BR"), "value"] = 2 * value["LR", 8]
    table.loc[(table["method"] == "BR+GP"), "value"] = [1.0, 2 * value["LR", 8], 1.0]
    said = calibration.say_worth(table)
    assert "BR at none of 8, 32, 128" in said and "BR+GP from 128 windows" in said


def test_the_other_sentences_hold_computed_numbers(blocks):
    parts = compounding.say_parts(
        compounding.block_profile(blocks[blocks["samples"] == 32], kind=list(tables.KINDS), criterion="wanda")
    )
    assert parts.count("\n") == 3 and "local part 30%" in parts
    gap = calibration.say_gap(tables.last_block(blocks, criterion="wanda"))
    assert gap.count("\n") == 3 and "8 → 128 windows" in gap
