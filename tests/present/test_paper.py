"""The papers' numbers as printed."""

import numpy as np

from analysis.present.paper import CALIBRATION_AND_TEST, HALVES, OVERLAP, REFINED, RESULTS


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


def test_the_papers_refinement_table_as_printed():
    assert len(REFINED) == 36
    key = REFINED.set_index(["model", "pattern", "criterion"])
    assert key.loc[("LLaMA-3.1-8B", "60%", "wanda"), ["none", "fw"]].tolist() == [21.53, 17.97]
    assert key.loc[("Gemma2-9B", "2:4", "ria"), ["none", "fw"]].tolist() == [16.78, 15.83]


def test_what_cr_changes_in_the_paper_and_at_how_many_weights_per_token():
    key = OVERLAP.set_index(["model", "criterion", "measure"])
    assert key.loc[("LLaMA-7B", "magnitude", "held-out error"), "value"] == 100 * (2.40 / 2.21 - 1)
    assert key.loc[("LLaMA-7B", "wanda", "perplexity"), "value"] == 100 * (8.72 / 8.56 - 1)
    assert set(zip(OVERLAP["model"], OVERLAP["ratio"])) == {("OPT-125M", 27), ("LLaMA-7B", 772)}


def test_the_papers_halves_as_increases():
    value = HALVES.set_index(["part", "method"])["increase"]
    assert len(value) == 12 and value["MLP", "BR+GP"] == 100 * (28.89 / 27.66 - 1)
