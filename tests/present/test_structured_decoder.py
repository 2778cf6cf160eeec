"""Shapes from sizes measured within a run, perplexity over parameters really gone, the same count in single weights,
and which verdict the numbers get.
"""

from math import log
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import structured_decoder, structured_decoder_figures
from analysis.present.style import OTHERS
from analysis.schema import conform, study_columns
from analysis.study.grids import recipes, structured
from analysis.study.job import grid

TASKS = ("lab:yes-no", "lab:entailment")
PARAMETERS, ENTRIES = 1000, 800  # of the made-up model, and those of its matrices
# of the mask's nats
WHAT_IS_LEFT = {"LR": 1.0, "compensate": 1.1, "LIAR": 0.6, "LIAR+GP": 0.5, "BR+GP[repair=liar]": 0.3, "BR+GP": 0.1}
COMMON = {
    "model": "lab",
    "samples": 8,
    "length": 128,
    "seeds": (0, 1),
    "calibration": "lab:mixed",
    "held_out": {"mixed": "lab:mixed", "news": "lab:news"},
}


def lost(pattern) -> int:
    """Parameters that a pattern takes."""
    return round(pattern.sparsity * {"neurons": 600, "heads": 200, "weights": ENTRIES}[pattern.kind])


def leave(jobs) -> SimpleNamespace:
    """Tables of made-up runs: nats rise with what is gone, ten times as much for structures as for weights, and each
    method leaves its share of that; a bias costs one parameter.
    """
    rows = {name: [] for name in ("size", "matrices", "perplexity", "zero_shot", "layers", "blocks")}
    for job in jobs:
        front, pattern = job.columns(f"{job.recipe.label} {job.seed} {job.shrink}"), job.recipe.pattern
        gone, noise = lost(pattern), 0.02 * job.seed
        nats = 0.001 * gone * (10 if pattern.whole else 1) * WHAT_IS_LEFT[job.recipe.method] + noise
        for split, dense in {"calibration": 0.5, "mixed": 0.8, "news": 1.2}.items():
            for which, value in {"dense": dense + noise, "pruned": dense + nats + noise}.items():
                rows["perplexity"].append(
                    {
                        **front,
                        "split": split,
                        "which": which,
                        "nats_per_token": value,
                        "perplexity": np.exp(value),
                        "tokens": 100,
                        "windows": 8,
                        "context": 128,
                    }
                )
        for which, times in {"dense": 1.0, "pruned": 1 - gone / PARAMETERS}.items() if job.shrink else ():
            biases = which == "pruned" and job.recipe.method != "LR"
            rows["size"].append(
                {
                    **front,
                    "which": which,
                    "parameters": round(PARAMETERS * times) + biases,
                    "flops_per_token": round(4000 * times),
                    "latency_ms": 10 * times**0.5 * (1 + noise),
                    "tokens_per_second": 100 / (times * (1 + noise) if which == "pruned" else 1),
                }
            )
        rows["matrices"] += [
            {
                **front,
                "block": block,
                "matrix": "mlp.up",
                "rows": 20,
                "columns": 20,
                "kept": 400 - gone // 2,
                "sparsity": gone / 800,
            }
            for block in range(2)
        ]
        rows["layers"] += [
            {
                **front,
                "block": block,
                "matrix": "mlp.up",
                "action": job.recipe.repair.name,
                "error_before": 2.0 + block,
                "error_after": (2.0 + block) * (0.9 - 0.1 * block),
                "steps": 0,
            }
            for block in range(2 if job.recipe.repair.name != "none" else 0)
        ]
        rows["blocks"] += [
            {
                **front,
                "block": block,
                "split": split,
                "kind": "total",
                "error": nats,
                "relative_error": nats * (1 + block),
                "relative_error_rest": nats * (1 + block),
                "relative_error_median": nats * (1 + block),
                "energy_first": 0.01,
                "energy_top": 0.05,
            }
            for block in range(2)
            for split in ("calibration", "mixed")
        ]
        for number, task in enumerate(job.tasks):
            for which, accuracy in {"dense": 0.9 - 0.1 * number, "pruned": 0.9 - 0.1 * number - 0.1 * nats}.items():
                rows["zero_shot"].append(
                    {
                        **front,
                        "task": task,
                        "which": which,
                        "documents": 100,
                        "choices": 2.0,
                        "chance": 0.5,
                        "accuracy": accuracy,
                        "standard_error": 0.03,
                        "accuracy_norm": accuracy,
                        "standard_error_norm": 0.03,
                        "left_out": 0,
                    }
                )
    return SimpleNamespace(
        **{name: conform(name, pd.DataFrame(part), study_columns(name)) for name, part in rows.items()}
    )


PATTERNS = structured(["neurons", "heads"], ["25%", "50%"], ["uniform", "global"])


@pytest.fixture(scope="module")
def timed():
    return leave(grid(recipes=recipes(["flap"], PATTERNS, ["LIAR"]), shrink=True, **COMMON))


@pytest.fixture(scope="module")
def study(timed):
    plain = grid(recipes=recipes(["flap"], PATTERNS, ["LR", "compensate", "LIAR"]), **COMMON)
    weights = recipes(["wanda"], structured_decoder.same_count(timed.size, timed.matrices), ["LR", "BR+GP"], epochs=1)
    asked = grid(
        recipes=[*recipes(["flap"], PATTERNS, ["LIAR+GP", "BR+GP[repair=liar]"], epochs=1), *weights],
        tasks=TASKS,
        documents=100,
        **COMMON,
    )
    return leave([*plain, *asked])


@pytest.fixture(scope="module")
def perplexity(study, timed):
    return pd.concat([study.perplexity, timed.perplexity], ignore_index=True)


@pytest.fixture(scope="module")
def shapes(timed):
    return structured_decoder.shapes(timed.size)


@pytest.fixture(scope="module")
def repaired(perplexity, shapes):
    return structured_decoder.repaired(perplexity, shapes)


@pytest.fixture(scope="module")
def compared(study, timed):
    return structured_decoder.same_size(study.perplexity, study.zero_shot, timed.size, study.matrices)


def test_ratios_are_taken_within_a_run_and_averaged_over_seeds(shapes, timed):
    value = shapes.set_index(["measure", "pattern"])["value"]
    assert value[structured_decoder.REMOVED, "neurons-50%"] == pytest.approx(29.9) and value[
        structured_decoder.REMOVED, "heads-25%"
    ] == pytest.approx(4.9)  # the biases count as there
    assert value[structured_decoder.FLOPS, "neurons-50%"] == pytest.approx(1 / 0.7) and value[
        structured_decoder.LATENCY, "neurons-50%"
    ] == pytest.approx(0.7**-0.5)
    row = shapes[(shapes["measure"] == structured_decoder.THROUGHPUT) & (shapes["pattern"] == "neurons-50%")].iloc[0]
    each = np.array([1, 1 / 1.02]) / 0.7
    assert (
        row["value"] == pytest.approx(each.mean())
        and list(row[["seed 0", "seed 1"]]) == pytest.approx(list(each))
        and row["seeds"] == 2
    )
    with pytest.raises(UsageError, match="shrink=True"):
        structured_decoder.shapes(timed.size.iloc[:0])


def test_methods_measured_beside_each_other_count_as_one(timed):
    both = leave(grid(recipes=recipes(["flap"], PATTERNS, ["LIAR", "LR"]), shrink=True, **COMMON))
    value = structured_decoder.shapes(both.size).set_index(["measure", "pattern"])["value"]
    assert value[structured_decoder.REMOVED, "neurons-50%"] == pytest.approx((29.9 + 30.0) / 2)


def test_single_weights_are_given_the_same_count(timed, study):
    # 49, 99, 149 and 299 of 800
    assert structured_decoder.same_count(timed.size, timed.matrices) == ["6.1%", "12.4%", "18.6%", "37.4%"]
    kept = study.matrices[
        (study.matrices["pattern"] == "37.4%") & (study.matrices["method"] == "LR") & (study.matrices["seed"] == 0)
    ]["kept"].sum()
    assert abs((ENTRIES - kept) - 299) <= 1


def test_perplexity_stands_over_what_its_shape_removes(repaired, perplexity, shapes):
    row = repaired[(repaired["pattern"] == "heads-50%") & (repaired["method"] == "compensate")].iloc[0]
    own = perplexity[
        (perplexity["pattern"] == "heads-50%")
        & (perplexity["method"] == "compensate")
        & (perplexity["split"] == "mixed")
        & (perplexity["which"] == "pruned")
    ]
    assert row["removed"] == pytest.approx(9.9) and row["kind"] == "heads" and row["seeds"] == 2
    assert row["value"] == pytest.approx(own["perplexity"].mean()) and list(row[["seed 0", "seed 1"]]) == list(
        own.sort_values("seed")["perplexity"]
    )
    dense = repaired[repaired["method"] == "dense"]
    assert (
        len(dense) == 1
        and dense["removed"].item() == 0
        and dense["value"].item() == pytest.approx((np.exp(0.8) + np.exp(0.82)) / 2)
    )
    # LIAR was run twice, timed and not, and counts once
    assert "weights" not in set(repaired["kind"]) and len(repaired) == 4 * 5 + 1
    with pytest.raises(UsageError, match="flap heads-50%"):
        structured_decoder.repaired(perplexity, shapes[shapes["pattern"] != "heads-50%"])
    with pytest.raises(UsageError, match="no held-out text"):
        structured_decoder.repaired(perplexity[perplexity["split"] == "calibration"], shapes)


def points(fig, *kinds):
    lines = [(ax, line) for ax in fig.axes for line in ax.lines if (line.get_gid() or "").startswith(kinds)]
    return sorted(
        (fig.axes.index(ax), line.get_gid(), float(x), float(y))
        for ax, line in lines
        for x, y in line.get_xydata()
        if x != 0
    )


@pytest.mark.slow
def test_every_row_is_drawn_over_parameters_gone(repaired):
    fig = structured_decoder_figures.plot_repaired(repaired)
    pruned = repaired[repaired["method"] != "dense"]
    panels = list(dict.fromkeys(pruned["kind"]))
    assert points(fig, "method ") == sorted(
        (panels.index(r.kind), f"method {r.method}", r.removed, r.value) for r in pruned.itertuples()
    )
    start = next(line for line in fig.axes[0].lines if line.get_gid() == "method LIAR").get_xydata()[0]
    assert (
        tuple(start) == (0, repaired[repaired["method"] == "dense"]["value"].item())
        and fig.axes[0].get_yscale() == "log"
    )
    assert [text.get_text() for text in fig.legends[0].get_texts()][-1] == "dense" and "bias compensation" in [
        text.get_text() for text in fig.legends[0].get_texts()
    ]


@pytest.mark.slow
def test_every_gain_is_a_point_beside_what_operations_promise(shapes):
    (ax,) = structured_decoder_figures.plot_speed(shapes).axes
    drawn = {(line.get_gid(), x) for line in ax.lines if line.get_gid() for x in line.get_xdata()}
    rows = shapes[shapes["measure"].isin(structured_decoder.GAINS)]
    assert drawn == {(f"gain {row.measure}", row.value) for row in rows.itertuples()}
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"FLAP {pattern}" for pattern in ("neurons-25%", "neurons-50%", "heads-25%", "heads-50%")
    ]
    measured = rows[rows["measure"] != structured_decoder.FLOPS]
    bars = {(x0, x1) for one in ax.collections for (x0, _), (x1, _) in one.get_segments()}
    assert bars == set(zip(measured["low"], measured["high"], strict=True))


def test_structures_and_weights_stand_over_the_same_count(compared, study):
    # who was not asked is not compared
    assert set(compared["method"]) == {"dense", "LR", "BR+GP", "LIAR+GP", "BR+GP[repair=liar]"}
    assert set(compared[compared["method"] == "LR"]["kind"]) == {"weights"}
    place = compared.set_index(["measure", "pattern", "method"])
    assert (
        place.loc[(structured_decoder.PERPLEXITY, "37.4%", "LR"), "removed"] == pytest.approx(29.8)
        and place.loc[(structured_decoder.PERPLEXITY, "neurons-50%", "LIAR+GP"), "removed"] == 30
    )
    accuracy = place.loc[(structured_decoder.ACCURACY, "neurons-50%", "LIAR+GP")]
    assert (
        accuracy["value"] == pytest.approx(69.9)
        and accuracy["standard_error"] == pytest.approx(100 * 0.03 * 2**0.5 / 2)
        and accuracy["seeds"] == 2
    )
    assert place.loc[(structured_decoder.PERPLEXITY, "neurons-50%", "LIAR+GP"), "seeds"] == 2
    dense = compared[compared["method"] == "dense"].set_index("measure")
    assert dense.loc[structured_decoder.ACCURACY, "value"] == pytest.approx(85) and (dense["removed"] == 0).all()
    with pytest.raises(UsageError, match="asked no tasks"):
        structured_decoder.same_size(study.perplexity, study.zero_shot.iloc[:0], study.matrices, study.matrices)


@pytest.mark.slow
def test_structures_are_drawn_in_colour_and_weights_hollow(compared):
    fig = structured_decoder_figures.plot_same_size(compared)
    pruned = compared[compared["method"] != "dense"]
    measures = [structured_decoder.PERPLEXITY, structured_decoder.ACCURACY]
    gid = [
        f"{r.kind} {r.method}" if r.kind != "weights" else f"weights {r.criterion} {r.method}"
        for r in pruned.itertuples()
    ]
    assert points(fig, "neurons ", "heads ", "weights ") == sorted(
        (measures.index(r.measure), name, r.removed, r.value) for r, name in zip(pruned.itertuples(), gid, strict=True)
    )
    faces = {
        line.get_gid(): line.get_markerfacecolor()
        for line in fig.axes[0].lines
        if line.get_gid() and line.get_gid() != "dense"
    }
    assert {name for name, face in faces.items() if face == "white"} == {"weights wanda LR", "weights wanda BR+GP"}


def test_a_repair_that_does_not_help_is_named_and_what_is_won_back_counted(repaired):
    said = structured_decoder.say_repairs(repaired).splitlines()
    assert len(said) == 4 and said[0].startswith(
        "- **FLAP neurons-25%**, 14.9 % of all parameters (dense 2.25): mask alone (LR) "
    )
    assert said[0].endswith("; lowest: LIAR, then BR+GP; no lower than the mask alone: bias compensation.")
    assert (
        structured_decoder.say_repairs(repaired[repaired["method"] != "compensate"])
        .splitlines()[0]
        .endswith("; lowest: LIAR, then BR+GP.")
    )
    won = structured_decoder.won_back(repaired)
    assert list(won.index) == [
        ("FLAP", pattern) for pattern in ("neurons-25%", "neurons-50%", "heads-25%", "heads-50%")
    ]
    assert list(won.columns) == ["bias compensation", "LIAR", "LIAR+GP", "LIAR, then BR+GP"]
    value = repaired.set_index(["pattern", "method"])["value"]
    alone, dense = log(value["neurons-50%", "LR"]), log(value["", "dense"])
    assert (
        won.loc[("FLAP", "neurons-50%"), "LIAR"]
        == round(100 * (alone - log(value["neurons-50%", "LIAR"])) / (alone - dense))
        > 35
    )
    assert won.loc[("FLAP", "neurons-50%"), "bias compensation"] < 0
    with pytest.raises(UsageError, match="mask alone"):
        structured_decoder.won_back(repaired[repaired["method"] != "LR"])


def test_what_a_repair_does_to_a_layer_stands_beside_what_it_does_to_the_model(study, timed, repaired):
    layers, blocks = (pd.concat([getattr(study, name), getattr(timed, name)]) for name in ("layers", "blocks"))
    table = structured_decoder.compounding(layers, blocks, repaired)
    assert list(table.index) == [
        ("FLAP", pattern, method)
        for pattern in ("neurons-25%", "neurons-50%", "heads-25%", "heads-50%")
        for method in ("bias compensation", "LIAR")
    ]
    layer, total, text = table.loc[("FLAP", "neurons-50%", "bias compensation")]
    value = repaired.set_index(["pattern", "method"])["value"]
    assert (
        layer == pytest.approx((0.9 + 0.8) / 2)
        and total == pytest.approx(1.1)
        and text == round(value["neurons-50%", "compensate"] / value["neurons-50%", "LR"], 3) > 1
    )
    with pytest.raises(UsageError, match=r"not run for flap neurons-25%"):
        structured_decoder.compounding(layers, blocks[blocks["method"] != "LR"], repaired)


def test_speed_is_said_beside_what_operations_promise(shapes):
    said = structured_decoder.say_speed(shapes).splitlines()
    assert said[1].startswith(
        "- **FLAP neurons-50%**: 29.9 % of all parameters gone, 1.43 times fewer operations; one window 1.20 ± 0.00"
        " times faster, several at once 1.41 ± 0.18"
    )
    assert said[1].endswith(": at most 97 % of what operations promise.")
    slow = shapes.assign(
        value=shapes["value"].where(
            ~shapes["measure"].isin([structured_decoder.LATENCY, structured_decoder.THROUGHPUT]), 0.9
        )
    )
    assert all(line.endswith(": no faster.") for line in structured_decoder.say_speed(slow).splitlines())
    fast = shapes.assign(value=shapes["value"].where(shapes["measure"] != structured_decoder.LATENCY, 2.0))
    assert all(
        line.endswith(": more than operations promise.") for line in structured_decoder.say_speed(fast).splitlines()
    )


def test_the_best_of_both_are_compared_at_the_nearest_count(compared):
    assert "perplexity 5.59 (LIAR, then BR+GP) against 2.34 (Wanda 37.4% BR+GP), undecided" in (
        structured_decoder.say_same_size(compared)  # differences that do not vary at all cannot be tested
    )
    compared = compared.assign(**{"seed 1": compared["seed 1"] * (1 + 1e-5 * np.arange(len(compared)))})
    said = structured_decoder.say_same_size(compared).splitlines()
    assert len(said) == 4 and said[1].startswith("- **FLAP neurons-50%**, 30.0 % of all parameters: perplexity ")
    assert (
        "(LIAR, then BR+GP) against " in said[1]
        and "(Wanda 37.4% BR+GP), better: single weights; accuracy 75.9 % ± 2.1" in said[1]
        and said[1].endswith("better: single weights.")
    )
    assert said[2].endswith("undecided.")  # 5 % of the parameters: accuracies 83.5 and 84.95
    turned = compared.assign(
        value=compared["value"].where(
            (compared["kind"] != "weights") | (compared["measure"] != structured_decoder.PERPLEXITY), 1e6
        )
    )
    assert "better: structures" in structured_decoder.say_same_size(turned)
    alone = structured_decoder.say_same_size(compared[compared["kind"] != "weights"]).splitlines()
    assert len(alone) == 4 and all(line.endswith("parameters: no single weights were run.") for line in alone)


def test_other_methods_share_the_spare_looks():
    looks = structured_decoder_figures.repair_looks(["LIAR", "BR+GP[repair=scale]", "LR"])
    assert list(looks) == ["LR", "LIAR", "BR+GP[repair=scale]"] and looks["BR+GP[repair=scale]"] == OTHERS[0]
    assert structured_decoder.say("LIAR") == "LIAR" and structured_decoder.say("scale") == "one scale each"
