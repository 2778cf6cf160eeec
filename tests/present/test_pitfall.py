"""The pitfall map: weights per token, effects within a seed, the papers' models, and which verdict the numbers get."""

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.present import pitfall
from analysis.present.final import CALIBRATION_ERROR, HELD_OUT_ERROR, PERPLEXITY, ends
from analysis.study.grids import grids, recipes
from tests.helpers.studies import leave

MODELS, SAMPLES, SEEDS = ["lab/small", "lab", "lab/large"], [1, 2, 8], (0, 1, 2)


@pytest.fixture(scope="module")
def mapped():
    """Three sizes at three numbers of windows; blocks of 10, 100 and 300 thousand weights."""
    chosen = recipes(["wanda"], "50%", ["LR", "ridge", "BR+GP", "BR+GP+CR"], epochs=10)
    common = {"samples": SAMPLES, "seeds": SEEDS, "length": 128, "calibration": "lab:stories"}
    return leave(grids("model", MODELS, recipes=chosen, **common), blocks=2)


@pytest.fixture(scope="module")
def final(mapped):
    """CR takes half of the calibration error, and adds to the held-out one by the ratio: nothing at 500 weights per
    token, 10 % more at ten times as many; perplexity stays, but for what the seed adds to every run alike."""
    table = ends(mapped.blocks, mapped.perplexity)
    table = table[table["which"] == "pruned"]
    weights = table["model"].map({"lab/small": 1e4, "lab": 1e5, "lab/large": 3e5})
    harm = 0.1 * np.log10(weights / (table["samples"] * 128) / 500) + 0.001 * (table["seed"] - 1)
    overlapped = table["method"] == "BR+GP+CR"
    level = 1 + 0.3 * table["seed"] + table["samples"]
    changed = {CALIBRATION_ERROR: 0.5, HELD_OUT_ERROR: 1 + harm, PERPLEXITY: 1.0}
    factor = sum((table["measure"] == name) * value for name, value in changed.items())
    return table.assign(value=level * factor.where(overlapped, 1.0))


@pytest.fixture(scope="module")
def effects(final, mapped):
    return pitfall.effects(final, mapped.matrices)


def test_weights_of_a_block_over_tokens_and_changes_within_a_seed(effects, mapped):
    assert pitfall.block_weights(mapped.matrices).to_dict() == {"lab/small": 1e4, "lab": 1e5, "lab/large": 3e5}
    assert set(zip(effects["method"], effects["other"], effects["epochs"])) == {
        ("ridge", "LR", 0),
        ("BR+GP", "LR", 10),
        ("BR+GP+CR", "BR+GP", 10),
    }
    at = (effects["model"] == "lab") & (effects["samples"] == 2) & (effects["method"] == "BR+GP+CR")
    assert set(effects.loc[at, "ratio"]) == {1e5 / 256}
    held_out = effects[at & (effects["measure"] == HELD_OUT_ERROR)].set_index("seed")["value"]
    assert held_out.to_dict() == pytest.approx({s: 10 * np.log10(1e5 / 256 / 500) + 0.1 * (s - 1) for s in SEEDS})
    assert set(effects.loc[at & (effects["measure"] == CALIBRATION_ERROR), "value"].round(9)) == {-50.0}


def test_a_method_without_the_one_it_adds_to_is_refused(final, mapped):
    with pytest.raises(UsageError, match=r"effect of BR\+GP\+CR: no run of BR\+GP to compare it with"):
        pitfall.effects(final[final["method"].isin(["LR", "BR+GP+CR"])], mapped.matrices)
    apart = final[(final["method"] != "ridge") | (final["samples"] == 8)]
    with pytest.raises(UsageError, match="effect of ridge: .* ridge was run on 8 windows, LR on 1 and 2"):
        pitfall.effects(apart[(apart["method"] != "LR") | (apart["samples"] < 8)], mapped.matrices)
    with pytest.raises(UsageError, match="no method but LR"):
        pitfall.effects(final[final["method"] == "LR"], mapped.matrices)


def test_the_papers_models_stand_in_the_table_at_their_ratio(effects):
    table = pitfall.pitfall(effects)
    paper = table[table["source"] == "paper"].set_index(["model", "measure"])
    assert set(paper["method"]) == {"BR+GP+CR"} and set(paper["seeds"]) == {1} and paper["low"].isna().all()
    assert paper["ratio"].groupby("model").first().to_dict() == {"OPT-125M": 27, "LLaMA-7B": 772}
    assert paper.loc[("LLaMA-7B", HELD_OUT_ERROR), "value"] == pytest.approx(100 * (2.31 / 1.98 - 1))
    assert paper.loc[("OPT-125M", PERPLEXITY), "value"] == pytest.approx(100 * (29.33 / 29.67 - 1))
    other = pitfall.pitfall(effects.assign(pattern="2:4"))
    assert set(other["source"]) == {"here"} and len(other) == len(table) - 6


@pytest.mark.slow
def test_every_point_is_drawn_and_what_is_above_zero_is_shaded(effects):
    table = pitfall.pitfall(effects)
    fig = pitfall.plot_pitfall(table)
    steps = list(dict.fromkeys(table["method"]))
    measures = list(dict.fromkeys(table["measure"]))
    assert len(fig.axes) == 9 and fig.axes[0].get_ylabel() == "CR added to BR+GP\n10 epochs\nchange, %"
    drawn = {
        (steps[place // 3], measures[place % 3], line.get_gid().removeprefix("model "), x, y)
        for place, ax in enumerate(fig.axes)
        for line in ax.lines
        if line.get_gid()
        for x, y in line.get_xydata()
    }
    assert drawn == set(table[["method", "measure", "model", "ratio", "value"]].itertuples(index=False, name=None))
    for ax in fig.axes:
        low, high = ax.get_ylim()
        assert low < 0 < high and [patch.get_y() for patch in ax.patches] == [0]
    said = [text.get_text() for text in fig.legends[0].get_texts()]
    assert said == ["lab/small", "lab", "lab/large", "OPT-125M (paper)", "LLaMA-7B (paper)", "harm"]


def test_looks_follow_the_size_of_the_block(effects):
    looks = pitfall.model_looks(pitfall.pitfall(effects))
    assert list(looks) == [*MODELS, *pitfall.PAPERS]
    assert len({look.color for look in looks.values()}) == len({look.marker for look in looks.values()}) == 5


def test_where_it_begins_to_harm_is_said_with_its_interval(effects):
    cr = effects[effects["method"] == "BR+GP+CR"]
    where = pitfall.crossings(cr)
    held_out = where[where["measure"] == HELD_OUT_ERROR].set_index("seed")["value"]
    assert held_out.to_dict() == pytest.approx({s: np.log10(500) - 0.01 * (s - 1) for s in SEEDS})
    assert where[where["measure"] != HELD_OUT_ERROR]["value"].isna().all()
    said = pitfall.say_pitfall(cr)
    assert said.startswith(
        "- **CR added to BR+GP, 10 epochs** (Wanda 50%): calibration error changes by -50.0 to -50.0 %"
    )
    assert (
        "held-out error changes by -17.1 to +6.7 %, with its whole interval lower at 6 (6 by Holm) and higher at 3"
        " (3 by Holm) of 9 points"
    ) in said
    assert "higher first at 781 weights per token (lab, 1 window: +1.9 %, +1.7 to +2.2)" in said
    assert "the line crosses zero at 500 (472 to 529)" in said
    assert (
        "perplexity changes by +0.0 to +0.0 %, with its whole interval lower at 0 (0 by Holm) and higher at 0 (0 by"
        " Holm) of 9 points."
    ) in said
    one = pitfall.say_pitfall(cr[cr["seed"] == 0])
    assert "whole interval" not in one and "no interval" in one


def test_every_effect_is_said_with_its_interval(effects):
    some = effects[(effects["model"] == "lab") & (effects["samples"] == 1) & (effects["method"] == "BR+GP+CR")]
    assert pitfall.say_effects(some) == (
        "- **CR added to BR+GP, 10 epochs** (Wanda 50%): calibration error -50.0 % (-50.0 to -50.0), held-out error"
        " +1.9 % (+1.7 to +2.2), perplexity +0.0 % (+0.0 to +0.0)."
    )
