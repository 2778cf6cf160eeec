"""Accuracy beside perplexity and error: scores and their errors, pairs that disagree, what is drawn and what is
said.
"""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import zero_shot
from analysis.present.final import HELD_OUT_ERROR, PERPLEXITY, ends
from analysis.present.style import say_task


@pytest.fixture(scope="module")
def final(asked):
    return ends(asked.blocks, asked.perplexity, asked.zero_shot)


@pytest.fixture(scope="module")
def scores(final, asked):
    return zero_shot.scores(final, asked.zero_shot)


@pytest.fixture(scope="module")
def tasks(asked):
    return zero_shot.by_task(asked.zero_shot)


def test_a_recipe_is_one_row_of_means(scores, final, asked):
    assert len(scores) == 2 * 2 * 3 + 1 + 1 and scores["method"].iloc[-1] == "dense" and (scores["seeds"] == 2).all()
    row = scores[(scores["pattern"] == "2:4") & (scores["criterion"] == "wanda") & (scores["method"] == "BR")].iloc[0]
    answers = asked.zero_shot[
        (asked.zero_shot["recipe"].str.startswith("wanda-2:4 BR[")) & (asked.zero_shot["which"] == "pruned")
    ]
    assert len(answers) == 4 and row["accuracy"] == pytest.approx(answers["accuracy"].mean())
    # of the mean of two tasks
    error = answers.groupby("seed")["standard_error"].agg(lambda e: np.sqrt((e**2).sum()) / 2)
    assert row["standard_error"] == pytest.approx(error.mean())
    pruned = (
        final[(final["recipe"].str.startswith("wanda-2:4 BR[")) & (final["which"] == "pruned")]
        .groupby("measure")["value"]
        .mean()
    )
    assert row["perplexity"] == pytest.approx(pruned[PERPLEXITY]) and row["error"] == pytest.approx(
        pruned[HELD_OUT_ERROR]
    )
    dense = scores.iloc[-1]
    assert (
        dense["accuracy"] == pytest.approx(0.75)
        and dense["error"] == 0
        and dense["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    )
    assert scores[scores["added_samples"] > 0][["added", "added_samples"]].to_numpy().tolist() == [["self", 16]]
    with pytest.raises(UsageError, match="asked no tasks"):
        zero_shot.scores(final, asked.zero_shot.iloc[:0])


@pytest.mark.slow
def test_pairs_against_every_pair_by_hand(scores):
    pairs = zero_shot.disagreements(scores)
    pruned = scores[scores["method"] != "dense"]
    assert len(pairs) == 7 * 6 // 2 + 6 * 5 // 2 and (pairs["perplexity"] <= 0).all()
    lower = [
        (a, b)
        for _, a in pruned.iterrows()
        for _, b in pruned.iterrows()
        if b["perplexity"] < a["perplexity"] and a["pattern"] == b["pattern"]
    ]
    gains = [100 * (b["accuracy"] - a["accuracy"]) for a, b in lower]
    assert sorted(pairs["accuracy"]) == pytest.approx(sorted(gains))
    assert pairs["p"].isna().all()  # made-up accuracies differ by the same in both seeds: no test can be made
    noisy = zero_shot.disagreements(scores.assign(**{"seed 1": scores["seed 1"] + 0.01 * np.arange(len(scores)) ** 2}))
    assert noisy["p"].nunique() > 1 and (noisy["corrected"] >= noisy["p"]).all()


def test_pairs_are_counted_and_the_clearest_named(scores):
    each = ["accuracy", "seed 0", "seed 1"]
    flat = scores.assign(**dict.fromkeys(each, 0.5))
    none = "also more accurate in 0 (0 with p < 0.05, 0 after Holm's correction)"
    assert f"{none}, less accurate in 0 (0 with p < 0.05, 0 after Holm's correction), equal in 36." in (
        zero_shot.say_disagreements(zero_shot.disagreements(flat), 3)
    )
    best = flat[flat["pattern"] == "50%"].sort_values("perplexity").index[0]
    flat.loc[best, each] = [0.4, 0.401, 0.399]  # p = 0.0064, corrected for 36 pairs no longer
    first, *named = zero_shot.say_disagreements(zero_shot.disagreements(flat), 2).splitlines()
    assert f"{none}, less accurate in 6 (6 with p < 0.05, 0 after Holm's correction), equal in 30." in first
    assert len(named) == 2 and "accuracy by 10.0 ± 1.3 points (p = 0.0064, corrected 0.23)" in named[0]


def test_rank_correlations_with_their_numbers_of_points(scores):
    line = scores.assign(accuracy=0.9 - 0.1 * scores["perplexity"])
    said = zero_shot.say_ranks(line).splitlines()
    assert (
        said[0].startswith("- **all patterns** (n = 13): accuracy with perplexity -1.00")
        and said[1].startswith("- **50%** (n = 7)")
        and "guessing would have 41.7 %" in said[-1]
    )
    out = zero_shot.beside_ranks(line)
    assert (
        out.loc["here"].tolist()[::2] == [-1.0, 13.0]
        and out.loc["paper, LLaMA-7B", "recipes"] == 12
        and out.loc["paper, LLaMA-7B", "with perplexity"] == -0.77
    )


def test_the_papers_own_case_is_seen_or_not(scores):
    lr = scores["method"] == "LR"
    said = zero_shot.say_order(scores.assign(accuracy=np.where(lr, 0.6, 0.5), perplexity=np.where(lr, 9.0, 3.0)))
    assert (
        said.count(
            "with LR, LR itself, as with SparseGPT on LLaMA-7B in the paper; best perplexity 3.000 with BR and BR+GP:"
            " another."
        )
        == 4
    )
    assert "itself" not in zero_shot.say_order(scores.assign(accuracy=np.where(lr, 0.4, 0.5)))


def test_all_methods_that_tie_are_named(scores):
    tied = zero_shot.say_order(scores.assign(accuracy=0.5, perplexity=np.where(scores["method"] == "BR", 2.0, 3.0)))
    assert (
        tied.count("with LR, 50.0 % ± 0.0 with BR and 50.0 % ± 0.0 with BR+GP;") == 4
        and tied.count("best perplexity 2.000 with BR: one of them.") == 4
    )
    assert "itself" not in tied
    assert (
        zero_shot.say_order(scores.assign(accuracy=0.5, perplexity=2.0)).count("with LR, BR and BR+GP: the same.") == 4
    )


def test_tasks_are_means_over_criteria_and_lose_from_the_dense(tasks, asked):
    assert list(tasks["group"].unique()) == [
        "dense",
        "50% LR",
        "50% BR",
        "50% BR+GP",
        "50% BR+GP + self-generated",
        "2:4 LR",
        "2:4 BR",
        "2:4 BR+GP",
    ]
    assert list(tasks["task"].unique()) == ["lab:yes-no", "lab:entailment", "mean"]
    answers = asked.zero_shot
    rows = answers[
        (answers["pattern"] == "2:4")
        & (answers["method"] == "LR")
        & (answers["which"] == "pruned")
        & (answers["task"] == "lab:yes-no")
    ]
    row = tasks[(tasks["group"] == "2:4 LR") & (tasks["task"] == "lab:yes-no")].iloc[0]
    assert (
        row["value"] == pytest.approx(rows["accuracy"].mean())
        and row["lost"] == pytest.approx(0.8 - rows["accuracy"].mean())
        and row["seeds"] == 2
        and len(rows) == 4
    )
    dense = answers[(answers["which"] == "dense") & (answers["task"] == "lab:yes-no")]
    apart = np.hypot(rows["standard_error"].mean(), dense["standard_error"].mean())
    assert row["by_questions"] == pytest.approx(1.96 * apart)
    mean = tasks[(tasks["group"] == "2:4 LR") & (tasks["task"] == "mean")]["value"].item()
    assert mean == pytest.approx(tasks[(tasks["group"] == "2:4 LR") & (tasks["task"] != "mean")]["value"].mean())
    said = zero_shot.say_tasks(tasks.assign(lost=np.where(tasks["task"] == "lab:yes-no", 0.3, 0.1)))
    assert said.count("most yes-no (30.0), least entailment (10.0), in the mean 10.0 points.") == 7


@pytest.mark.slow
def test_every_recipe_is_a_point_in_both_panels_and_the_dense_model_is_marked(scores):
    fig = zero_shot.plot_scores(scores)
    marked = [(i, line) for i, ax in enumerate(fig.axes) for line in ax.lines]
    drawn = sorted((i, *line.get_xydata()[0]) for i, line in marked if (line.get_gid() or "").startswith("recipe "))
    pruned = scores[scores["method"] != "dense"]
    expected = sorted(
        (i, getattr(row, x), 100 * row.accuracy)
        for row in pruned.itertuples()
        for i, x in enumerate(("perplexity", "error"))
    )
    assert np.allclose(drawn, expected)
    levels = {
        line.get_gid(): line.get_ydata()[0]
        for _, line in marked
        if line.get_gid() in ("dense", "chance", "dense point")
    }
    assert levels == pytest.approx({"dense": 75.0, "chance": 100 * (1 / 2 + 1 / 3) / 2, "dense point": 75.0})
    assert sum(line.get_gid() == "added" for _, line in marked) == 2
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert {"LR", "BR", "BR+GP", "Magnitude", "Wanda", "50%", "2:4", "text added", "dense", "guessing"} == set(words)


@pytest.mark.slow
def test_the_heat_map_says_every_number(tasks):
    fig = zero_shot.plot_tasks(tasks)
    ax = fig.axes[0]
    said = [text.get_text() for text in ax.texts]
    order = [
        tasks[(tasks["group"] == group) & (tasks["task"] == task)]["value"].item()
        for group in dict.fromkeys(tasks["group"])
        for task in dict.fromkeys(tasks["task"])
    ]
    assert [words.split(" ± ")[0] for words in said] == [f"{100 * value:.0f}" for value in order]
    bars = tasks[(tasks["task"] == "mean") & (tasks["group"] != "dense")]
    halves = 100 * np.maximum(bars["by_questions"], (bars["high"] - bars["low"]) / 2)
    assert [words.split(" ± ")[1] for words in said if "±" in words] == [f"{half:.0f}" for half in halves]
    pale = [text.get_color() == "#8a8a8a" for text in ax.texts]
    half = 100 * np.maximum(tasks["by_questions"], (tasks["high"] - tasks["low"]).fillna(0) / 2)
    lost = 100 * tasks["lost"].abs()
    light = 100 * tasks["lost"] <= 0.6 * max(1, 100 * tasks["lost"].max())
    assert pale == list((lost <= half) & light & (tasks["group"] != "dense"))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["yes-no\n(50)", "entailment\n(33)", "mean\n(42)"]
    assert np.allclose(
        ax.images[0].get_array(),
        100
        * tasks.pivot(index="group", columns="task", values="lost").loc[
            list(dict.fromkeys(tasks["group"])), list(dict.fromkeys(tasks["task"]))
        ],
    )


@pytest.mark.slow
def test_rank_correlations_stand_above_each_panel_for_every_pattern(scores):
    line = scores.assign(accuracy=0.9 - 0.1 * scores["perplexity"])
    assert zero_shot.plot_scores(line).axes[0].get_title() == "ρ = -1.00 (n = 13); 50%: -1.00, 2:4: -1.00"


def test_texts_of_one_name_and_amounts_of_one_text_are_groups_of_their_own(asked):
    rows = asked.zero_shot[asked.zero_shot["added_samples"] == 0]
    one = rows[rows["method"] == rows["method"].iloc[-1]]
    texts = {("mine/notes.txt", 8): 0.9, ("theirs/notes.txt", 8): 0.1, ("self", 8): 0.4, ("self", 64): 0.6}
    more = [
        one.assign(added=added, added_samples=samples, accuracy=one["accuracy"].where(one["which"] == "dense", value))
        for (added, samples), value in texts.items()
    ]
    more = [some.assign(run=some["run"].astype(str) + f" {place}") for place, some in enumerate(more)]
    table = zero_shot.by_task(pd.concat([rows, *more], ignore_index=True))
    found = table[(table["task"] == "mean") & table["group"].str.contains(r" \+ ")].set_index("group")["value"]
    found.index = found.index.str.partition(" + ").get_level_values(2)
    said = ["mine/notes.txt", "theirs/notes.txt", "8 of self-generated", "64 of self-generated"]
    for word, value in zip(said, texts.values(), strict=True):
        assert np.allclose(found[found.index == word], value)
    assert len(found) == len(said) * one["pattern"].nunique()


def test_a_task_name_is_broken_behind_the_sign_that_it_has():
    assert zero_shot._narrow("my_reading_task") == "my_\nreading_task"
    assert zero_shot._narrow("next-sentence") == "next-\nsentence" and zero_shot._narrow("arc_easy") == "arc_easy"


@pytest.mark.parametrize(
    "task, said",
    [
        ("lab:yes-no", "yes-no"),
        ("hub:arc_easy", "arc_easy"),
        ("pictures:colour", "colour"),
        ("/data/questions/piqa.jsonl", "piqa"),
        ("C:\\mine\\q.jsonl", "q"),
        ("mean", "mean"),
    ],
)
def test_a_task_is_called_by_its_name_alone(task, said):
    assert say_task(task) == said
