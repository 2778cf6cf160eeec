"""Runs laid over one another."""

import pandas as pd
import pytest

from analysis.present.explore import overlay


def run(value, blocks=3):
    """Block errors of a made-up run, all of one size."""
    return pd.DataFrame(
        [
            {"block": block, "split": split, "kind": kind, "relative_error": value}
            for split in ("calibration", "lab:stories/held-out")
            for kind in ("total", "local")
            for block in range(blocks)
        ]
    )


def test_runs_laid_over_one_another_are_their_total_errors():
    table = overlay.overlay({"a": run(0.5), "b": run(0.125, blocks=2)})
    assert table.groupby("name")["value"].agg(["min", "max", "size"]).to_dict("list") == {
        "min": [0.5, 0.125],
        "max": [0.5, 0.125],
        "size": [6, 4],
    }
    assert set(table["split"]) == {"calibration", "lab:stories/held-out"} and list(table["place"].unique()) == [0, 1]
    assert list(overlay.overlay({str(n): run(0.1) for n in range(9)})["name"].unique()) == [
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
    ]


def test_a_legend_leaves_out_what_all_runs_share():
    one, other = (f"wanda-50% BR[epochs={count},lr=0.1], 8 × 128" for count in (4, 9))
    plain, fewer = "wanda-50% LR, 8 × 128", "wanda-50% LR, 4 × 128"
    said = ["wanda-50% BR[epochs=4]", "wanda-50% BR[epochs=9]", "wanda-50% LR"]
    assert list(overlay.short([one, other, plain]).values()) == said
    assert overlay.short([one]) == {one: one} and overlay.short([one, fewer])[one] == one


@pytest.mark.slow
def test_the_growing_run_is_thick_and_the_axis_as_long_as_the_model():
    fig = overlay.draw_overlay(overlay.overlay({"a": run(0.5), "b": run(0.1, blocks=1)}), "b", 8)
    widths = {line.get_gid(): line.get_linewidth() for line in fig.axes[0].lines}
    assert widths["run b"] > widths["run a"] and fig.axes[0].get_xlim()[1] > 7


def test_a_study_is_its_runs_of_one_seed(blocks):
    runs = overlay.history(blocks[blocks["criterion"] == "wanda"])
    assert list(runs) == [f"wanda-50% {method}, {n} × 128" for method in ("BR+GP", "BR+GP+CR") for n in (8, 32, 128)]
    assert {len(set(rows["seed"])) for rows in runs.values()} == {1}


def test_runs_of_several_models_and_texts_are_lines_of_their_own(blocks):
    one = blocks[(blocks["recipe"] == "wanda-50% BR+GP") & (blocks["samples"] == 8)]
    both = pd.concat([one, one.assign(model="lab/large"), one.assign(calibration="lab:recipes")])
    runs = overlay.history(both)
    first = f"{one['model'].iloc[0]}, stories"
    assert list(runs) == [f"wanda-50% BR+GP, {said}, 8 × 128" for said in (first, "lab/large, stories", "lab, recipes")]
    assert all(not overlay.overlay({"a": rows}).duplicated(["split", "block"]).any() for rows in runs.values())


def test_what_a_run_ended_with():
    text = pd.DataFrame(
        [
            {"split": "calibration", "which": which, "perplexity": value}
            for which, value in (("dense", 2.0), ("pruned", 3.0))
        ]
    )
    row = overlay.outcome("a", run(0.25), text, pd.DataFrame({"seconds": [1.0, 0.5]}))
    assert row == {
        "run": "a",
        "error, calibration": "0.2500",
        "error, held-out stories": "0.2500",
        "perplexity, calibration": "2.000 → 3.000",
        "seconds": "1.5",
    }
