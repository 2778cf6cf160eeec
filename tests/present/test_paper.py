"""The papers' numbers as printed."""

import numpy as np

from analysis.present.paper import CALIBRATION_AND_TEST, REFINED, RESULTS


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
