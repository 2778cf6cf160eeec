"""Sizes of models: prunable weights, ratios within a run, what is drawn, and which verdict the numbers get."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import scale
from analysis.present.final import CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY, ends
from analysis.present.paper import PRUNABLE


@pytest.fixture(scope="module")
def final(models):
    return ends(models.blocks, models.perplexity)


@pytest.fixture(scope="module")
def overfit(final, models):
    return scale.overfitting(final, models.matrices)


@pytest.fixture(scope="module")
def damaged(final, models):
    return scale.damage(final, models.matrices)


@pytest.fixture(scope="module")
def gap(final, models):
    return scale.criteria_gap(final, models.matrices)


@pytest.fixture(scope="module")
def changes(final, models):
    return scale.overlap(final, models.matrices)


def test_weights_are_those_of_one_run_and_sizes_come_small_to_large(models, overfit):
    assert scale.weights(models.matrices).to_dict() == {"lab/large": 900_000, "lab": 300_000, "lab/small": 30_000}
    line = overfit[(overfit["measure"] == scale.GAP) & (overfit["criterion"] == "wanda") & (overfit["method"] == "LR")]
    assert list(line["model"]) == ["lab/small", "lab", "lab/large"] and list(line["weights"]) == [
        30_000,
        300_000,
        900_000,
    ]
    assert PRUNABLE == {"OPT-125M": 84_934_656, "LLaMA-7B": 6_476_005_376}


def test_ratios_are_taken_within_a_run(final, overfit, damaged, changes):
    pruned = final[(final["which"] == "pruned") & (final["model"] == "lab") & (final["criterion"] == "wanda")]
    value = pruned.set_index(["method", "measure", "seed"])["value"].sort_index()
    ratio = value["BR+GP", HELD_OUT_ERROR] / value["BR+GP", CALIBRATION_ERROR]
    where = (overfit["model"] == "lab") & (overfit["criterion"] == "wanda") & (overfit["method"] == "BR+GP")
    row = overfit[where & (overfit["measure"] == scale.GAP)].iloc[0]
    assert row["value"] == pytest.approx(ratio.mean()) and list(row[["seed 0", "seed 1"]]) == pytest.approx(list(ratio))
    own = value["LR", HELD_OUT_ERROR] / value["LR", CALIBRATION_ERROR]
    more = overfit[where].set_index("measure")["value"]
    assert more[scale.EXCESS] == pytest.approx((ratio / own).mean())
    assert more[scale.LEFT] == pytest.approx((value["BR+GP", HELD_OUT_ERROR] / value["LR", HELD_OUT_ERROR]).mean())
    dense = final[
        (final["which"] == "dense")
        & (final["model"] == "lab")
        & (final["criterion"] == "wanda")
        & (final["method"] == "BR+GP")
    ].set_index("seed")["value"]
    rise = 100 * (value["BR+GP", PERPLEXITY] / dense - 1)
    assert damaged[(damaged["model"] == "lab") & (damaged["criterion"] == "wanda") & (damaged["method"] == "BR+GP")][
        "value"
    ].item() == pytest.approx(rise.mean())
    change = 100 * (value["BR+GP+CR", PERPLEXITY] / value["BR+GP", PERPLEXITY] - 1)
    row = changes[
        (changes["model"] == "lab") & (changes["criterion"] == "wanda") & (changes["measure"] == PERPLEXITY)
    ].iloc[0]
    assert (
        row["value"] == pytest.approx(change.mean())
        and row["seeds"] == 2
        and set(changes["measure"]) == set(scale.CHANGED)
    )


def test_without_one_of_the_methods_there_is_nothing_to_compare(final, models):
    with pytest.raises(UsageError, match="no runs of BR\\+GP\\+CR; the methods are LR, BR\\+GP"):
        scale.overlap(final[final["method"] != "BR+GP+CR"], models.matrices)
    apart = (final["method"] == "BR+GP+CR") == (final["seed"] == 0)
    with pytest.raises(UsageError, match="no two runs of the same masks, model and seed"):
        scale.overlap(final[apart], models.matrices)


def points(fig, kind):
    marked = [(ax, line) for ax in fig.axes for line in ax.lines if (line.get_gid() or "").startswith(f"{kind} ")]
    return sorted(
        (fig.axes.index(ax), line.get_gid().removeprefix(f"{kind} "), float(x), float(y))
        for ax, line in marked
        for x, y in line.get_xydata()
    )


def test_against_a_mask_that_was_not_run_there_is_no_overfitting(final, models):
    with pytest.raises(UsageError, match="no runs of LR; the methods are BR\\+GP"):
        scale.overfitting(final[final["method"] != "LR"], models.matrices)


@pytest.mark.slow
def test_every_row_is_drawn_over_its_size(overfit, changes):
    fig = scale.plot_overfitting(overfit)
    drawn = overfit[overfit["measure"].isin([scale.EXCESS, scale.LEFT]) & (overfit["method"] != "LR")]
    panels = [(measure, criterion) for measure in (scale.EXCESS, scale.LEFT) for criterion in ("magnitude", "wanda")]
    assert points(fig, "method") == sorted(
        (panels.index((r.measure, r.criterion)), r.method, r.weights, r.value) for r in drawn.itertuples()
    )
    assert [label.get_text() for label in fig.axes[-1].get_xticklabels()] == ["30 k", "300 k", "900 k"]
    fig = scale.plot_overlap(changes)
    for source, kind in (("here", "measure"), ("paper", "paper")):
        assert points(fig, kind) == sorted(
            (["magnitude", "wanda"].index(r.criterion), r.measure, r.weights, r.value)
            for r in changes[changes["source"] == source].itertuples()
        )


@pytest.mark.slow
def test_the_criteria_of_every_size_and_of_the_paper_are_drawn(gap):
    fig = scale.plot_criteria_gap(gap)
    assert points(fig, "method") == sorted(
        (["here", "paper"].index(r.source), r.method, r.weights, r.value) for r in gap.itertuples()
    )
    assert [ax.get_title() for ax in fig.axes] == ["here", "the paper, WikiText-2"]


def test_the_papers_models_stand_beside_ours_only_where_they_compare(changes, final, models):
    paper = changes[changes["source"] == "paper"].set_index(["model", "criterion", "measure"])["value"]
    assert paper["LLaMA-7B", "wanda", CALIBRATION_ERROR] == pytest.approx(100 * (0.38 / 0.51 - 1))
    assert paper["OPT-125M", "magnitude", HELD_OUT_ERROR] == pytest.approx(100 * (0.0099 / 0.0125 - 1))
    assert set(changes.loc[changes["source"] == "paper", "weights"]) == set(PRUNABLE.values())
    for some in (scale.overlap(final, models.matrices, one="BR+GP", other="LR"),
                 scale.overlap(final.assign(pattern="2:4"), models.matrices)):  # fmt: skip
        assert set(some["source"]) == {"here"}


def test_the_ratio_of_criteria_is_taken_within_a_seed_and_the_papers_beside(gap, final):
    pruned = final[(final["which"] == "pruned") & (final["measure"] == PERPLEXITY) & (final["model"] == "lab")]
    by_seed = pruned[pruned["method"] == "LR"].pivot(index="seed", columns="criterion", values="value")
    row = gap[(gap["model"] == "lab") & (gap["method"] == "LR")].iloc[0]
    assert {row["worst"], row["best"]} == {"magnitude", "wanda"} and by_seed.mean().idxmax() == row["worst"]
    assert row["value"] == pytest.approx((by_seed[row["worst"]] / by_seed[row["best"]]).mean()) and row["value"] > 1
    paper = gap[gap["source"] == "paper"].set_index(["method", "model"])
    assert paper.loc[("LR", "OPT-125M"), ["worst", "best"]].tolist() == ["magnitude", "sparsegpt"]
    assert paper.loc[("LR", "OPT-125M"), "value"] == pytest.approx(193.36 / 36.35)
    assert set(paper.index.get_level_values("method")) == {"LR", "BR+GP", "BR+GP+CR"}


def put(table, values, **where):
    rows = np.logical_and.reduce([table[name] == word for name, word in where.items()])
    table = table.copy()
    table.loc[rows, "value"] = values
    return table


def test_growth_is_said_only_where_every_step_grows(overfit):
    wanda = overfit[overfit["criterion"] == "wanda"]
    said = scale.say_overfitting(put(wanda, [1.2, 1.5, 4.0], measure=scale.EXCESS, method="BR+GP"))
    assert "- **Wanda 50% BR+GP**: 1.20 (lab/small) → 1.50 (lab) → 4.00 (lab/large); grows with size." in said
    assert (
        "**Wanda 50% BR+GP**: 1.20 (lab/small) → 1.10 (lab) → 4.00 (lab/large); does not grow at every step."
        in scale.say_overfitting(put(wanda, [1.2, 1.1, 4.0], measure=scale.EXCESS, method="BR+GP"))
    )
    assert scale.say_overfitting(wanda[wanda["model"] == "lab"]).count(";") == 0


def test_cr_that_helps_on_calibration_and_harms_elsewhere_is_named(changes):
    wanda = changes[(changes["criterion"] == "wanda") & (changes["source"] == "here")]
    torn = put(put(wanda, [-5, -6, -7], measure=CALIBRATION_ERROR), [-1, -1, 8], measure=HELD_OUT_ERROR)
    assert scale.say_overlap(torn).endswith("worse on held-out text, as for LLaMA-7B in the paper: lab/large.")
    assert scale.say_overlap(pd.concat([torn, changes[changes["source"] == "paper"]])) == scale.say_overlap(torn)
    assert "lab: calibration error -6.0 %, held-out error -1.0 %" in scale.say_overlap(torn)
    assert scale.say_overlap(put(torn, -1, measure=HELD_OUT_ERROR)).endswith(
        "nowhere better on calibration and worse on held-out text."
    )


def test_the_gap_between_criteria_by_size(gap):
    one = gap[(gap["method"] == "LR") & (gap["source"] == "here")].assign(worst="magnitude", best="wanda")
    pair = "(Magnitude over Wanda)"
    told = f"- **LR, 50%**: lab/small 4 {pair}, lab 3 {pair}, lab/large 2 {pair}"
    assert scale.say_criteria_gap(one.assign(value=[4, 3, 2])) == f"{told}; the gap shrinks at every step."
    grows = scale.say_criteria_gap(one.assign(value=[2, 3, 4]))
    assert grows.endswith("lab/large 4 (Magnitude over Wanda); the gap does not shrink at every step.")
    assert "; the paper: OPT-125M 5.32 (Magnitude over SparseGPT), LLaMA-7B 2.39 (Magnitude over SparseGPT)." in (
        scale.say_criteria_gap(gap[gap["method"] == "LR"])
    )


def test_ours_beside_the_papers_two_models(overfit, damaged):
    out = scale.beside_sizes(overfit, damaged)
    assert out.loc[("wanda", "BR+GP+CR"), (scale.GAP, "paper, LLaMA-7B, 6.48 B")] == pytest.approx(
        2.31 / 0.38, abs=6e-3
    )
    assert out.loc[("magnitude", "LR"), (scale.INCREASE, "paper, OPT-125M, 84.9 M")] == pytest.approx(
        100 * (193.36 / 27.66 - 1), abs=6e-3
    )
    assert np.isnan(out.loc[("wanda", "LR"), (scale.GAP, "paper, OPT-125M, 84.9 M")])
    row = overfit[
        (overfit["measure"] == scale.GAP)
        & (overfit["model"] == "lab")
        & (overfit["criterion"] == "wanda")
        & (overfit["method"] == "LR")
    ]["value"].item()
    assert out.loc[("wanda", "LR"), (scale.GAP, "lab, 300 k")] == pytest.approx(row, abs=6e-3)
