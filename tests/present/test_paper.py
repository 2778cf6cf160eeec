"""The papers' numbers as printed."""

import numpy as np
import pytest

from analysis.present.paper import ACCURACY, CALIBRATION_AND_TEST, HALVES, OVERLAP, REFINED, RESULTS

TASKS = {  # table 1 and 3: LR, BR, BR+GP and BR+GP+CR; BoolQ, RTE, HellaSwag, WinoGrande, ARC-e, ARC-c, OpenBookQA
    ("LLaMA-7B", "sparsegpt"): [
        (73.36, 58.12, 51.86, 68.90, 70.62, 36.95, 28.60),
        (71.71, 54.51, 52.54, 68.27, 71.68, 36.18, 28.40),
        (71.22, 53.79, 53.57, 68.90, 71.76, 37.54, 27.80),
        (72.91, 55.60, 53.24, 68.51, 71.21, 36.26, 27.80),
    ],
    ("LLaMA-7B", "wanda"): [
        (71.28, 55.23, 52.04, 66.46, 69.36, 36.52, 28.80),
        (72.02, 57.04, 52.45, 67.09, 72.18, 36.60, 28.60),
        (72.66, 60.29, 53.25, 68.43, 71.46, 37.63, 29.80),
        (73.00, 59.93, 53.18, 68.27, 71.13, 37.29, 28.80),
    ],
    ("LLaMA-7B", "magnitude"): [
        (54.65, 54.15, 45.47, 59.43, 58.75, 33.45, 22.60),
        (68.90, 49.82, 47.85, 66.38, 70.29, 36.77, 27.00),
        (71.65, 52.35, 53.00, 68.19, 70.75, 37.63, 29.00),
        (72.23, 48.74, 53.20, 67.09, 70.54, 36.95, 28.20),
    ],
    ("OPT-125M", "sparsegpt"): [
        (61.31, 48.01, 28.29, 53.28, 40.19, 19.28, 15.60),
        (60.49, 47.65, 28.44, 51.38, 42.17, 19.88, 14.60),
        (60.18, 45.13, 28.53, 52.17, 42.63, 19.62, 14.80),
        (60.31, 46.21, 28.64, 51.07, 42.63, 19.71, 15.80),
    ],
    ("OPT-125M", "wanda"): [
        (62.05, 48.38, 28.31, 52.01, 39.56, 19.62, 14.20),
        (60.24, 47.65, 28.34, 50.20, 41.50, 19.54, 15.00),
        (59.85, 48.01, 28.66, 51.54, 41.71, 19.28, 16.20),
        (58.81, 45.85, 28.68, 50.99, 42.34, 19.03, 15.00),
    ],
    ("OPT-125M", "magnitude"): [
        (60.55, 53.43, 27.32, 52.57, 33.04, 19.97, 14.20),
        (58.99, 48.38, 28.35, 51.22, 41.20, 19.88, 15.80),
        (58.20, 49.46, 28.44, 51.54, 42.26, 19.88, 15.20),
        (57.28, 45.49, 28.53, 51.93, 42.00, 19.97, 15.60),
    ],
}


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


def test_the_papers_accuracies_are_the_means_of_its_tasks():
    value = ACCURACY.set_index(["model", "criterion", "method"])["accuracy"]
    means = {
        (*key, method): sum(row) / 7
        for key, rows in TASKS.items()
        for method, row in zip(("LR", "BR", "BR+GP", "BR+GP+CR"), rows, strict=True)
    }
    assert value.to_dict() == pytest.approx(means, abs=0.01)
