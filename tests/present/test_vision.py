"""Recoveries of models that read pictures: shares met, losses, answers and errors by position from made-up tables whose
verdicts are known.
"""

from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import vision, vision_figures, vision_findings
from analysis.schema import CALIBRATION, conform, study_columns
from analysis.study.depth import patterns
from analysis.study.grids import recipes, retrained, structured
from analysis.study.pictured import counted, pictured
from tests.helpers.tables import put

WORDS = ["projector", "language", "masklora", "logits", "states"]
WHOLE = retrained(WORDS, [1e-3] * len(WORDS))
SHARES = ["12.5%", "50%"]
CHOSEN = [
    *recipes(["influence"], patterns(SHARES), ["LR", "replace+GP", "BR+GP", *WHOLE]),
    *recipes(["snip"], structured(["structures"], SHARES, ["global"]), ["LR", "LIAR+GP", "BR+GP", *WHOLE]),
]
LEFT = {"nothing": 1.0, "closed form": 0.25, "local": 0.2, "projector": 0.8, "language": 0.7, "lora": 0.5}
LEFT |= {"logits": 0.65, "states": 0.4}
HELD_OUT = "pictures:shapes/held-out"
TASKS = ["pictures:colour", "pictures:relation"]
DENSE = {TASKS[0]: 0.8, TASKS[1]: 0.52}


def leave(jobs) -> SimpleNamespace:
    """Tables of made-up runs. Nats above dense: the share gone, half of it by width, times what a recovery leaves, more
    where windows are few; text alone halves the error at text and doubles that at pictures.
    """
    rows = {name: [] for name in ("perplexity", "positions", "zero_shot", "matrices", "cost")}
    for job in jobs:
        front = job.columns(f"{job.recipe.label} {job.samples} {job.seed} {bool(job.tasks)}")
        recipe, seed = job.recipe, 1 + 0.01 * job.seed
        gone = recipe.pattern.sparsity
        word, narrow = vision.recovery(recipe.label), vision.way(recipe.label) == "width"
        left = LEFT[word] if word == "nothing" else 1 - (1 - LEFT[word]) * job.samples / 8
        unsteady = 1 + 0.001 * job.seed  # a ratio that no seed changes cannot be tested
        above = gone * (0.5 if narrow else 1) * left * seed * (unsteady if word in ("local", "closed form") else 1)
        for split, dense in {CALIBRATION: 0.4, "shapes": 0.5}.items():
            for which, value in {"dense": dense, "pruned": dense + above}.items():
                numbers = {"nats_per_token": value, "perplexity": 1.0, "tokens": 9, "windows": 2, "context": 48}
                rows["perplexity"].append({**front, "split": split, "which": which, **numbers})
            for block in range(4):
                for at, times in {"text": 1.0, "image": 3.0}.items():
                    times *= {"all": 1, "text": (0.5 if at == "text" else 2) * unsteady}[recipe.tokens]
                    error = above * (block + 1) * times * (1 if split == "shapes" else 9)
                    for kind, part in {"total": 1, "local": 0.1, "inherited": 0.9}.items():
                        errors = {"error": part * error, "relative_error": part * error}
                        rows["positions"].append(
                            {**front, "block": block, "split": split, "at": at, "kind": kind, **errors}
                        )
        for number in range(2):
            kept = round(1000 * (1 - gone)) - (number and 10)
            matrix = {"matrix": f"m{number}", "rows": 10, "columns": 100, "kept": kept, "sparsity": 1 - kept / 1000}
            rows["matrices"].append({**front, "block": 0, **matrix})
        for stage, seconds in {"solve": 2.0, "repair": 1.0, "advance": 50.0}.items():
            told = {"seconds": seconds, "peak_memory_mib": 1.0, "solver_memory_mib": 1.0}
            rows["cost"].append(
                {**front, "unit": 0, "stage": stage, **told, "tokens": 96, "trainable_parameters": len(word)}
            )
        for task in job.tasks:
            right = DENSE[task] - (0.4 * above if task == TASKS[0] else 0)
            for which, accuracy in {"dense": DENSE[task], "pruned": right}.items():
                numbers = {"documents": 100, "choices": 2.0, "chance": 0.5 if task == TASKS[1] else 0.2}
                scores = {
                    "accuracy": accuracy,
                    "standard_error": 0.04,
                    "accuracy_norm": 0.0,
                    "standard_error_norm": 0.0,
                }
                rows["zero_shot"].append({**front, "task": task, "which": which, **numbers, **scores, "left_out": 0})
    return SimpleNamespace(**{n: conform(n, pd.DataFrame(some), study_columns(n)) for n, some in rows.items()})


@pytest.fixture(scope="module")
def made():
    runs = pictured(
        CHOSEN,
        tasks=TASKS,
        documents=100,
        fewer=[2],
        share="50%",
        asked=[recipe.method for recipe in CHOSEN],
        fewer_methods=["retrain[train=projector]", "LIAR+GP"],
        counted=counted(["wanda-50%", "influence-blocks-12.5%"], ["all", "text"], ["LR", "BR+GP"]),
        model="lab/vision",
        calibration="pictures:shapes",
        held_out={"shapes": HELD_OUT},
        samples=8,
        length=48,
        seeds=[0, 1, 2],
    )
    return SimpleNamespace(
        first=leave(runs.recovered), data=leave([*runs.recovered, *runs.data]), counted=leave(runs.counted)
    )


@pytest.fixture(scope="module")
def recovered(made):
    return vision.recovered(made.first.perplexity, made.first.matrices)


@pytest.fixture(scope="module")
def answered(made):
    return vision.answered(made.first.zero_shot, made.first.matrices)


def row(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    (only,) = table.to_dict("records")
    return only


@pytest.mark.parametrize(
    ("recipe", "way", "word"),
    [
        ("influence-blocks-25% LR", "depth", "nothing"),
        ("influence-blocks-25% refit+GP", "depth", "closed form"),
        ("snip-structures-25%[scope=global] LIAR", "width", "closed form"),
        ("flap-neurons-25% BR+GP[lr=0.1]", "width", "local"),
        ("flap-neurons-25% BR", "width", "BR"),
        ("flap-neurons-25% BR+GP+CR", "width", "BR+GP+CR"),
        ("influence-blocks-25% IR", "depth", "IR"),
        ("flap-neurons-25% BR+GP[repair=liar]", "width", "BR+GP[repair=liar]"),
        ("wanda-50% retrain[train=masklora]", "50%", "lora"),
        ("influence-blocks-25% retrain[objective=hidden,states=0.9,train=language]", "depth", "states"),
        ("influence-blocks-25% retrain[train=norms-biases]", "depth", "retrain[train=norms-biases]"),
    ],
)
def test_a_recipe_says_what_is_cut_and_what_brings_it_back(recipe, way, word):
    assert (vision.way(recipe), vision.recovery(recipe)) == (way, word)


def test_methods_that_one_word_would_hide_have_their_own_names_and_looks():
    recipes = [f"influence-blocks-25% {method}" for method in ("LR", "refit+GP", "replace+GP", "BR+GP", "BR", "IR")]
    table = vision.named(pd.DataFrame({"recipe": recipes}))
    names = ["nothing", "refit+GP", "replace+GP", "local", "BR", "IR"]
    assert table["recovery"].tolist() == names
    assert vision.named(pd.DataFrame({"recipe": recipes[:2]}))["recovery"].tolist() == ["nothing", "closed form"]
    looks = vision_figures.looks_of(table)
    assert set(looks) == set(names) and len({look[:2] for look in looks.values()}) == len(names)
    assert len({vision.say(name) for name in names}) == len(names)


def test_the_share_is_that_of_all_weights_as_met(made, recovered):
    found = row(vision.met(made.first.matrices), way="depth", pattern="blocks-12.5%")
    assert found["value"] == pytest.approx(13.0) and found["seeds"] == 3  # 125 and 135 of 1000 in two matrices
    assert row(recovered, way="depth", pattern="blocks-12.5%", recovery="states")["removed"] == pytest.approx(13.0)
    assert "asked 12.5 %, met 13.0 %" in vision_findings.say_met(vision.met(made.first.matrices))


def test_losses_are_those_above_the_dense_model_on_held_out_pictures(recovered):
    found = row(recovered, way="width", pattern="structures-50%", recovery="lora")
    assert found["value"] == pytest.approx(0.5 * 0.5 * 0.5 * 1.01) and found["seed 2"] == pytest.approx(0.125 * 1.02)
    assert list(dict.fromkeys(recovered["recovery"])) == list(vision.RECOVERIES)


def test_what_is_lost_and_given_back_is_told_by_share(recovered):
    assert "50 %: depth 0.505" in (said := vision_findings.say_lost(recovered)) and "less by width (undecided)" in said
    said = vision_findings.say_back(recovered)
    assert "closed form 75 %, blocks (BR+GP) 80 %, projector 20 %" in said and said.count("most: blocks (BR+GP)") == 4
    with pytest.raises(UsageError, match="was not run without recovery"):
        vision_findings.say_back(recovered[recovered["recovery"] != "nothing"])
    with pytest.raises(UsageError, match="no share was taken out both ways"):
        vision_findings.say_lost(recovered[recovered["way"] == "depth"])


def test_recoveries_are_compared_within_seeds(recovered):
    said = vision_findings.say_beside_projector(recovered)
    assert "**Depth**, nats lost beside projector: 12.5 %: closed form -69 %, blocks (BR+GP) -75 %;" in said
    assert "undecided" not in said.split("\n")[0]
    said = vision_findings.say_beside_states(recovered)
    assert "**Width**, nats lost beside hidden states:" in said and "projector +100 %" in said and "logits" in said
    lone = recovered[recovered["recovery"] == "states"]
    with pytest.raises(UsageError, match="at no share together"):
        vision_findings.say_beside_states(lone)


def test_answers_are_those_of_the_dense_model_in_per_cent(answered):
    above = 0.5 * 0.8 * 1.01  # mean over three seeds
    found = row(answered, task="pictures:colour", way="depth", pattern="blocks-50%", recovery="projector")
    assert found["value"] == pytest.approx(80 - 40 * above) and found["dense"] == pytest.approx(80)
    mean = row(answered, task="mean", way="depth", pattern="blocks-50%", recovery="projector")
    assert mean["value"] == pytest.approx((100 * (1 - 0.5 * above) + 100) / 2) and mean["dense"] == pytest.approx(100)
    assert mean["error"] == pytest.approx(((4 / 0.8) ** 2 + (4 / 0.52) ** 2) ** 0.5 / 2)
    assert answered["task"].iloc[0] == "mean"
    said = vision_findings.say_answers(answered)
    assert "The projector alone keeps 95 % at 12.5 %." in said and "12.5 %: nothing 97, projector 97 ± 0" in said
    assert "dense 80, guessing 20" in vision_findings.say_tasks(answered)


def test_a_dense_model_that_guesses_is_warned_of(answered):
    said = vision_findings.say_guessing(answered)
    assert "above chance: colour 80 ± 4 %" in said
    assert "**Within two standard errors of chance: relation 52 ± 4 % (chance 50 %).**" in said
    sure = answered[answered["task"] != "pictures:relation"]
    assert "Within" not in vision_findings.say_guessing(sure)


def test_nothing_asked_or_never_right_is_refused(made):
    with pytest.raises(UsageError, match="asked nothing"):
        vision.answered(made.first.zero_shot.iloc[:0], made.first.matrices)
    wrong = made.first.zero_shot.assign(accuracy=0.0)
    with pytest.raises(UsageError, match="right in no question of pictures:colour"):
        vision.answered(wrong, made.first.matrices)


def test_less_data_gives_back_less(made):
    table = vision.fed(made.data.perplexity)
    assert set(table["recovery"]) == {"nothing", "projector", "closed form"} and set(table["samples"]) == {2, 8}
    assert "projector 0.101 nats with 8 windows, 25 % of it with 2" in vision_findings.say_fed(table)
    harmful = put(table, 1.5, recovery="projector", samples=8, way="depth")
    assert "projector -0.995 nats with 8 windows, 0.025 with 2" in vision_findings.say_fed(harmful)
    with pytest.raises(UsageError, match="one number of calibration windows"):
        vision.fed(made.first.perplexity)


def test_errors_are_told_apart_by_position_on_held_out_pictures(made):
    table = vision.placed(made.first.positions, share="50%")
    found = row(table, way="depth", at="image", recovery="nothing", block=3)
    assert found["value"] == pytest.approx(0.5 * 1.01 * 4 * 3)
    assert "nothing 2.020 and 6.060" in vision_findings.say_placed(table)
    with pytest.raises(UsageError, match="no run takes out 25%"):
        vision.placed(made.first.positions, share="25%")


def test_tokens_that_count_are_compared_with_all(made):
    table = vision.counted(made.counted.positions, made.counted.perplexity)
    found = row(table, measure="error at pictures", mask="wanda-50%", method="LR", tokens="text")
    before = row(table, measure="error at pictures", mask="wanda-50%", method="LR", tokens="all")
    assert found["value"] == pytest.approx(2 * before["value"], rel=2e-3) and found["paired"] == "all"
    said = vision_findings.say_counted(table)
    assert "**Wanda 50%, LR**: text alone: error at text 0.50 times, error at pictures 2.00 times," in said
    with pytest.raises(UsageError, match="nothing was run with all tokens"):
        vision_findings.say_counted(table[table["tokens"] == "all"])


def test_costs_are_those_of_repair_and_solver(made):
    table = vision.costs(made.first.cost)
    assert list(table.index) == [vision.LABELS[name] for name in vision.RECOVERIES if name != "nothing"]
    assert table.loc["projector"].tolist() == [96, len("projector"), 3.0]


def test_figures_have_a_line_for_each_recovery_and_the_dense_model(made, recovered, answered):
    fig = vision_figures.plot_recovered(recovered)
    drawn = [{line.get_gid() for line in ax.lines} for ax in fig.axes]
    assert drawn == [{"dense", *(f"recovery {name}" for name in vision.RECOVERIES)}] * 2
    assert [ax.get_title() for ax in fig.axes] == ["whole blocks", "heads and neurons"]
    fig = vision_figures.plot_answered(answered)
    assert len(fig.axes) == 6 and all({"dense", "chance"} <= {line.get_gid() for line in ax.lines} for ax in fig.axes)
    fig = vision_figures.plot_fed(vision.fed(made.data.perplexity))
    assert [ax.get_title() for ax in fig.axes] == ["whole blocks, 50 % gone", "heads and neurons, 50 % gone"]
    fig = vision_figures.plot_placed(vision.placed(made.first.positions, share="50%"))
    assert len(fig.axes) == 4 and all(len(ax.lines) == len(vision.RECOVERIES) for ax in fig.axes)
    fig = vision_figures.plot_counted(vision.counted(made.counted.positions, made.counted.perplexity))
    points = {line.get_gid(): line.get_ydata() for line in fig.axes[1].lines}
    assert len(fig.axes) == 6 and list(points["mask wanda-50%"]) == pytest.approx([2.0], rel=2e-3)
