"""Whole blocks taken out: losses above the dense model, distances between criteria, gaps over the depth, answers and
speeds from made-up tables whose verdicts are known.
"""

from math import exp
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import depth, depth_figures
from analysis.schema import CALIBRATION, conform, study_columns
from analysis.study.depth import depth as runs_of
from analysis.study.depth import patterns, speed_runs
from analysis.study.grids import recipes

METHODS = ["LR", "patch+GP", "refit+GP", "BR+GP[repair=refit]", "ghost+GP"]
WHAT_IS_LEFT = {"LR": 1.0, "patch+GP": 0.8, "refit+GP": 0.4, "BR+GP[repair=refit]": 0.2, "ghost+GP": 0.3}
OF_CRITERION = {"influence": 1.0, "perplexity": 0.8, "random": 2.0, "flap": 3.0, "wanda": 0.1}
GONE = {0.25: {2, 3}, 0.125: {4}}
TASKS, WRITTEN = ["lab:yes-no", "lab:facts-easy"], ["lab:copying", "lab:sums"]
COMMON = {
    "model": "lab",
    "samples": 8,
    "length": 128,
    "seeds": (0, 1, 2),
    "calibration": "lab:mixed",
    "held_out": {"mixed": "lab:mixed", "news": "lab:news"},
}
CHOSEN = recipes(["influence", "perplexity", "random"], patterns(["12.5%", "25%"]), METHODS)
INFLUENCE = [recipe for recipe in CHOSEN if recipe.criterion.name == "influence"]


def leave(jobs) -> SimpleNamespace:
    """Tables of made-up runs: nats above dense rise with the share gone, each criterion and method has its factor, and
    what the perplexity criterion saves on the calibration text of few windows it loses on others.
    """
    rows = {name: [] for name in ("size", "perplexity", "zero_shot", "blocks", "structures")}
    for job in jobs:
        pattern, seed = job.recipe.pattern, 0.01 * job.seed
        front = job.columns(f"{job.recipe.label} {job.samples} {job.seed} {job.shrink} {bool(job.tasks)} {job.model}")
        share, name = pattern.sparsity, job.recipe.criterion.name
        above = 4 * share * OF_CRITERION[name] * WHAT_IS_LEFT.get(job.recipe.method, 0.5) * (1 + seed)
        luck = 0.3 / job.samples if name == "perplexity" else 0.0
        for split, dense in {CALIBRATION: 0.5, "mixed": 0.8, "news": 1.2}.items():
            values = {"dense": dense + seed, "pruned": dense + seed + above + (-luck if split == CALIBRATION else luck)}
            for which, value in values.items():
                rows["perplexity"].append(
                    {
                        **front,
                        "split": split,
                        "which": which,
                        "nats_per_token": value,
                        "perplexity": exp(value),
                        "tokens": 100,
                        "windows": 8,
                        "context": 128,
                    }
                )
        gone = GONE[share] if pattern.depth else set()
        for block in range(8):
            rows["structures"].append(
                {**front, "block": block, "kind": "blocks", "structures": 1, "kept": int(block not in gone)}
            )
            if block + 1 in gone:  # the next is gone: the group goes on
                continue
            error = 0.01 * (block + 1) * above + 1e-6
            errors = dict.fromkeys(("error", "relative_error", "relative_error_rest", "relative_error_median"), error)
            shares = {"energy_first": 0.1, "energy_top": 0.1}
            for split in (CALIBRATION, "mixed"):
                rows["blocks"].append({**front, "block": block, "split": split, "kind": "total", **errors, **shares})
        for number, task in enumerate(job.tasks):
            for which, accuracy in {"dense": 0.9, "pruned": max(0.0, 0.9 - above / 2 - 0.1 * number)}.items():
                rows["zero_shot"].append(
                    {
                        **front,
                        "task": task,
                        "which": which,
                        "documents": 40,
                        "choices": 0.0 if task in WRITTEN else 2.0,
                        "chance": 0.0,
                        "accuracy": accuracy,
                        "standard_error": 0.05,
                        "accuracy_norm": 0.0,
                        "standard_error_norm": 0.0,
                        "left_out": 0,
                    }
                )
        for which, latency in {"dense": 8.0, "pruned": 8.0 * (1 - share * (1 if pattern.depth else 0.4))}.items():
            if job.shrink:
                sizes = {"parameters": 100, "flops_per_token": 100, "latency_ms": latency, "tokens_per_second": 1.0}
                rows["size"].append({**front, "which": which, **sizes})
    return SimpleNamespace(**{n: conform(n, pd.DataFrame(some), study_columns(n)) for n, some in rows.items()})


@pytest.fixture(scope="module")
def runs():
    return runs_of(
        CHOSEN,
        asked=["LR"],
        tasks=TASKS,
        documents=40,
        searched_samples=[1, 8],
        writer="lab/large",
        writers=recipes(["influence"], patterns(["12.5%", "25%"]), ["LR", "refit+GP"]),
        written=WRITTEN,
        **COMMON,
    )


@pytest.fixture(scope="module")
def first(runs):
    return leave(runs.criteria)


@pytest.fixture(scope="module")
def repaired(first):
    return depth.repaired(first.perplexity)


def row(table, **wanted):
    found = table
    for name, value in wanted.items():
        found = found[found[name] == value]
    (only,) = found.to_dict("records")
    return only


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_some_methods_are_asked_and_masks_searched_on_other_amounts_of_text(runs):
    asked = [job for job in runs.criteria if job.tasks]
    assert {(job.recipe.method, job.seed) for job in asked} == {("LR", seed) for seed in (0, 1, 2)}
    assert len(runs.criteria) == 3 * 2 * 5 * 3
    assert {(job.samples, job.recipe.method) for job in runs.searched} == {(1, "LR")} and len(runs.searched) == 18
    assert {(job.model, job.tasks) for job in runs.written} == {("lab/large", (*TASKS, *WRITTEN))}
    assert len(runs.written) == 4 * 3
    with pytest.raises(UsageError, match=r"mask alone \(LR\) is not among the methods"):
        runs_of(
            [CHOSEN[1]],
            asked=[],
            tasks=[],
            documents=2,
            searched_samples=[],
            writer="lab",
            writers=[],
            written=[],
            **COMMON,
        )


def test_one_run_of_every_pattern_that_can_be_cut_is_timed():
    narrower, single = recipes(["flap"], ["neurons-50%"], ["LIAR", "LIAR+GP"]), recipes(["wanda"], ["50%"], ["LR"])
    found = speed_runs(CHOSEN[:5], narrower, single, **COMMON)
    assert {str(job.recipe) for job in found.timed if job.seed == 0} == {
        "influence-blocks-12.5% LR",
        "flap-neurons-50% LIAR",
    }
    assert all(job.shrink for job in found.timed) and len(found.timed) == 6
    assert {job.recipe.method for job in found.compared} == {"LR", "LIAR", "LIAR+GP"}
    with pytest.raises(UsageError, match="none of the recipes makes a model smaller"):
        speed_runs([], [], single, **COMMON)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_losses_are_those_above_the_dense_model_of_the_same_run(repaired):
    found = row(repaired, pattern="blocks-25%", criterion="random", method="refit+GP")
    assert found["value"] == pytest.approx(4 * 0.25 * 2 * 0.4 * 1.01) and found["seeds"] == 3
    assert found["seed 2"] == pytest.approx(4 * 0.25 * 2 * 0.4 * 1.02)


def test_a_repair_that_halves_every_loss_brings_criteria_closer(repaired):
    said = depth.say_repairs(repaired)
    assert "**25 % of the blocks**" in said and "closer together with patch, refit, refit then BR+GP and ghost" in said
    low, high = 4 * 0.25 * 0.8 + 0.3 / 8, 4 * 0.25 * 2.0
    assert f"{high * 1.01 - (low - 0.3 / 8) * 1.01 - 0.3 / 8:.2f} apart" in said
    plain = repaired[repaired["method"].isin(["LR", "refit+GP"])].copy()
    lr = plain[plain["method"] == "LR"].drop(columns="method")
    same = pd.concat([plain[plain["method"] == "LR"], lr.assign(method="refit+GP")])
    assert "farther apart (undecided) with refit" in depth.say_repairs(same)


def test_a_distance_is_that_of_seeds_that_all_criteria_have(repaired):
    some = repaired[repaired["criterion"].isin(["influence", "random"]) & repaired["method"].isin(["LR", "refit+GP"])]
    some = some.assign(**dict.fromkeys(["value", "seed 0", "seed 1", "seed 2"], some["criterion"].eq("random") + 0.1))
    one = (some["criterion"] == "random") & (some["method"] == "refit+GP")
    said = depth.say_repairs(some.assign(**{name: some[name].mask(one) for name in ("seed 1", "seed 2")}))
    assert said.count("1.00 apart") == 2 * (said.count("\n") + 1) and "closer" not in said
    never = depth.say_repairs(some.assign(**{name: some[name].mask(one) for name in ("seed 0", "seed 1", "seed 2")}))
    assert "nan" not in never


def test_what_is_given_back_is_a_share_of_what_the_mask_alone_loses(repaired):
    some = repaired[repaired["criterion"] != "perplexity"]
    assert "patch 20 %, refit 60 %, refit then BR+GP 80 %, ghost 70 %" in depth.say_back(some)
    with pytest.raises(UsageError, match="was not run for blocks-12.5%"):
        depth.say_back(some[some["method"] != "LR"])


def test_the_profile_has_gaps_where_blocks_are_gone(first):
    table = depth.profile(first.blocks, first.structures)
    own = table[(table["pattern"] == "blocks-25%") & (table["method"] == "LR")].set_index("block")
    assert set(table["criterion"]) == {"influence"} and list(own.index) == list(range(8))
    assert list(own.index[own["removed"] == 1]) == [2, 3] and set(own["removed"]) == {0, 1}
    assert own["value"].isna().tolist() == [block in (1, 2) for block in range(8)]
    assert own["value"][7] == pytest.approx(0.08 * 4 * 0.25 * 1.01 + 1e-6) and own["seeds"][7] == 3
    said = depth.say_profile(table)
    assert "gone in every seed: blocks 2 and 3; error at" in said and "refit 0.40" in said
    assert "gone in every seed: block 4; error at" in said


def test_every_repair_of_blocks_has_a_look_and_a_name_of_its_own(first):
    table = depth.profile(first.blocks, first.structures)
    plain = table[table["method"] == "refit+GP"]
    more = [f"{name}{way}" for name in ("patch", "replace", "refit", "ghost") for way in ("", "+GP")]
    more.append("BR+GP[repair=replace]")
    given = table[~table["method"].isin(more)]
    fig = depth_figures.plot_profile(
        pd.concat([given, *(plain.assign(method=name) for name in more)], ignore_index=True)
    )
    methods = {*given["method"], *more}
    drawn = {
        line.get_gid().removeprefix("method "): (line.get_color(), line.get_marker())
        for line in fig.axes[0].lines
        if (line.get_gid() or "").startswith("method ")
    }
    assert set(drawn) == methods and len(set(drawn.values())) == len({depth.say(name) for name in methods})
    assert len({depth.say(name) for name in methods}) == len(methods)


def test_blocks_that_some_seeds_keep_are_told_apart(first):
    kept = first.structures.copy()
    kept.loc[(kept["seed"] == 2) & (kept["block"] == 3), "kept"] = 1
    table = depth.profile(first.blocks, kept)
    own = table[(table["pattern"] == "blocks-25%") & (table["method"] == "LR")].set_index("block")
    assert own["removed"][2] == 1 and own["removed"][3] == pytest.approx(2 / 3)
    assert "gone in every seed: block 2, in some: block 3; error at" in depth.say_profile(table)
    fig = depth_figures.plot_profile(table)
    assert {"gone", "gone in some seeds"} < {text.get_text() for text in fig.legends[0].get_texts()}


def test_a_search_on_few_windows_is_told_by_its_gap(runs, first):
    searches = leave(runs.searched)
    table = depth.searched(pd.concat([searches.perplexity, first.perplexity]))
    assert set(table["samples"]) == {1, 8} and set(table["split"]) == {CALIBRATION, "mixed"}
    said = depth.say_search(table)
    assert "**1 calibration window, 25 % of the blocks**" in said and "Perplexity +0.600" in said
    assert "lowest on calibration text: Perplexity, on held-out text: Block influence" in said.split("\n")[0]


def test_accuracy_is_told_beside_perplexity(first, repaired):
    said = depth.say_tasks(first.zero_shot, repaired)
    assert "lowest perplexity Perplexity" in said and "highest accuracy: the same" in said
    equal = first.zero_shot.assign(accuracy=0.5)
    names = [depth.say_criterion(name) for name in dict.fromkeys(equal["criterion"]) if name != "perplexity"]
    assert f"highest accuracy: the same{', ' * (len(names) > 1) or ' and '}{names[0]}" in depth.say_tasks(
        equal, repaired
    )
    both = depth.say_tasks(equal, repaired.assign(value=0.1))
    assert all(line.endswith("highest accuracy: the same.") for line in both.splitlines()) and " and " in both


def test_answers_by_kind_of_question_begin_at_the_dense_model(runs):
    answers = leave(runs.written)
    table = depth.answered(answers.zero_shot, WRITTEN)
    assert list(dict.fromkeys(table["task"])) == [*WRITTEN, depth.CHOICES]
    dense = row(table, task="lab:copying", method="dense")
    assert dense["value"] == pytest.approx(90) and dense["removed"] == 0 and dense["seeds"] == 3
    choices = row(table, task=depth.CHOICES, method="LR", pattern="blocks-25%")
    assert choices["value"] == pytest.approx(100 * (0.9 - 0.5 * 1.01 - 0.05))
    assert choices["standard_error"] == pytest.approx(100 * (2 * 0.05**2) ** 0.5 / 2)
    assert "**copying**, per cent right: dense 90 ± 5; 12.5 % gone: nothing (LR) 45" in depth.say_answers(table)
    with pytest.raises(UsageError, match="were asked no tasks"):
        depth.answered(answers.zero_shot.iloc[:0], WRITTEN)


@pytest.fixture(scope="module")
def fast(first):
    narrower = recipes(["flap"], ["neurons-25%", "neurons-50%"], ["LIAR+GP"])
    found = speed_runs(INFLUENCE, narrower, recipes(["wanda"], ["50%"], ["LR"]), **COMMON)
    perplexity = pd.concat([first.perplexity, leave(found.compared).perplexity], ignore_index=True)
    return depth.speeds(leave(found.timed).size, perplexity, criterion="influence")


def test_speeds_are_measured_by_pattern_and_single_weights_have_none(fast):
    assert set(fast.loc[fast["kind"] == "blocks", "criterion"]) == {"influence"} and "ghost+GP" not in set(
        fast["method"]
    )
    blocks = row(fast, pattern="blocks-25%", method="refit+GP")
    assert blocks["faster"] == pytest.approx(1 / 0.75) and blocks["kind"] == "blocks"
    assert row(fast, kind="weights")["faster"] == 1
    said = depth.say_speeds(fast)
    assert "**25 % of the blocks**, 1.33 ± 0.00 times faster" in said
    assert "neurons reach 1.25 times at most" in said and "weights reach 1.00 times at most" in said
    slow = depth.say_speeds(fast.assign(faster=fast["faster"].where(fast["kind"] != "blocks", 0.97)))
    assert slow.count("; no faster than the dense model in the mean.") == slow.count("\n") + 1
    at = depth.at(1 / 0.875, fast[fast["kind"] == "neurons"])
    low, high = 1 / 0.9, 1 / 0.8
    one, two = (4 * s * 3 * 0.5 * 1.01 for s in (0.25, 0.5))
    assert at == pytest.approx(one + (two - one) * (1 / 0.875 - low) / (high - low))


def test_a_pattern_that_nobody_timed_is_refused():
    found = speed_runs(CHOSEN[:5], recipes(["flap"], ["neurons-50%"], ["LIAR+GP"]), [], **COMMON)
    size = leave(found.timed).size
    with pytest.raises(UsageError, match="nobody timed neurons-50%"):
        depth.speeds(size[size["pattern"] != "neurons-50%"], leave(found.compared).perplexity)
    with pytest.raises(UsageError, match="no run was timed"):
        depth.speeds(size.iloc[:0], leave(found.compared).perplexity)


# --- figures ---------------------------------------------------------------------------------------------------------


def ids(fig) -> set[str]:
    return {artist.get_gid() for ax in fig.axes for artist in ax.get_children() if artist.get_gid()}


def test_a_number_of_blocks_is_no_share():
    names = ("", "50%", "blocks-12.5%", "structures-25%[scope=global]")
    assert [depth.share(name) for name in names] == [0, 0, 12.5, 25]
    with pytest.raises(UsageError, match="blocks-2: is no share"):
        depth.share("blocks-2")
    with pytest.raises(UsageError, match="'2' is a number"):
        patterns(["25%", "2"])


@pytest.mark.slow
def test_figures_show_what_their_tables_hold(runs, first, repaired, fast):
    fig = depth_figures.plot_repaired(repaired)
    assert {"criterion random", "criterion random ghost", "slope influence"} <= ids(fig)
    line = next(a for a in fig.axes[1].lines if a.get_gid() == "slope random")
    assert line.get_ydata()[-1] == pytest.approx(4 * 0.25 * 2 * 0.2 * 1.01)
    fig = depth_figures.plot_profile(depth.profile(first.blocks, first.structures))
    assert {"gone 4", "method ghost+GP"} <= {one.get_gid() for one in fig.axes[0].get_children()}
    searches = leave(runs.searched)
    fig = depth_figures.plot_searched(depth.searched(pd.concat([searches.perplexity, first.perplexity])))
    assert {"held-out perplexity", "calibration perplexity"} <= ids(fig) and len(fig.axes) == 4
    fig = depth_figures.plot_answered(depth.answered(leave(runs.written).zero_shot, WRITTEN))
    assert {"method LR", "method refit+GP", "dense"} <= ids(fig)
    fig = depth_figures.plot_speeds(fast)
    assert {"blocks refit+GP", "neurons LIAR+GP", "weights LR"} <= ids(fig)
    point = next(a for a in fig.axes[0].lines if a.get_gid() == "weights LR")
    assert list(point.get_ydata()) == [pytest.approx(100 * (exp(4 * 0.5 * 0.1 * 1.01) - 1))]
