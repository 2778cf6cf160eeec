"""Verdicts on the papers' claims: intervals and p by t, Holm's correction, what is drawn and what the page says."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import paths
from analysis.errors import UsageError
from analysis.present import forest

VALUES = {  # claim, model: its seeds
    ("a", "lab"): [3.0, 3.4, 3.1],
    ("a", "tiny"): [-2.0, -2.2, -1.9],
    ("b", "lab"): [0.5, -0.2, 0.1],
    ("b", "tiny"): [1.0, 1.6, 0.9],
}


def row(claim, model, kind="seed", seed=-1, value=0.0, std=np.nan, seeds=1):
    words = {"about": "methods", "claim": claim, "source": f"paper of {claim}", "evidence": "table 1", "unit": "%"}
    rest = {"guess": f"guess at {claim}", "options": "50% removed", "commit": "", "versions": ""}
    own = {"model": model, "kind": kind, "seed": seed, "value": value, "std": std, "seeds": seeds}
    return words | rest | own


@pytest.fixture
def claims():
    rows = [
        row(claim, model, seed=seed, value=value)
        for (claim, model), values in VALUES.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame([*rows, row("a", "LLaMA-7B", "paper", value=12.5)], columns=forest.COLUMNS)


def test_intervals_and_p_are_those_of_a_t_test_and_decide(claims):
    fates = forest.fates(claims).set_index(["claim", "model"])
    assert list(fates.index) == list(VALUES)
    for key, values in VALUES.items():
        test = stats.ttest_1samp(values, 0)
        low, high = test.confidence_interval(0.95)
        got = fates.loc[key]
        assert list(got[["value", "low", "high", "p"]]) == pytest.approx([np.mean(values), low, high, test.pvalue])
    assert list(fates["verdict"]) == ["holds", "fails", "undecided", "holds"]
    p = fates["p"].to_numpy()
    assert list(fates["holm"]) == pytest.approx([4 * p[0], max(4 * p[0], 3 * p[1]), p[2], 2 * p[3]])
    assert list(fates["by_holm"]) == [True, True, False, False]


def test_a_summary_is_judged_as_the_seeds_it_is_of(claims):
    summed = [
        row(claim, model, "summary", value=np.mean(values), std=np.std(values, ddof=1), seeds=len(values))
        for (claim, model), values in VALUES.items()
    ]
    alike = ["value", "low", "high", "seeds", "p", "holm"]
    one, other = forest.fates(pd.DataFrame(summed, columns=forest.COLUMNS)), forest.fates(claims)
    pd.testing.assert_frame_equal(one[alike], other[alike])
    assert list(one["verdict"]) == list(other["verdict"]) and set(one["kind"]) == {"summary"}


def test_what_no_seed_changes_needs_no_test_and_one_seed_decides_nothing():
    rows = [row("a", "lab", seed=seed, value=84.375) for seed in range(3)] + [row("b", "lab", seed=0, value=9.0)]
    same, single = forest.fates(pd.DataFrame(rows, columns=forest.COLUMNS)).itertuples()
    assert (same.verdict, same.low, same.high, same.by_holm) == ("holds", 84.375, 84.375, True) and np.isnan(same.p)
    assert single.verdict == "undecided" and np.isnan(single.low) and not single.by_holm


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (row("a", "lab", "guess"), "kind 'guess' is none of seed, summary, paper"),
        (row("a", "lab", seed=2), "seed 2 of 'a' on lab is given twice"),
        (row("b", "tiny", "summary", std=1.0, seeds=3), "'b' on tiny has both seeds and a summary"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(claims, more, message):
    with pytest.raises(UsageError, match=message):
        forest.fates(pd.concat([claims, pd.DataFrame([more])], ignore_index=True))
    with pytest.raises(UsageError, match="nothing was measured"):
        forest.fates(claims[claims["kind"] == "paper"])


@pytest.mark.slow
def test_every_margin_is_drawn_where_it_is_and_the_papers_are_hollow(claims):
    ax = forest.plot_forest(claims).axes[0]
    drawn = {line.get_gid(): [] for line in ax.lines if line.get_gid()}
    for line in ax.lines:
        if line.get_gid():
            drawn[line.get_gid()].append((float(line.get_xdata()[0]), line.get_color(), line.get_markerfacecolor()))
    color = {verdict: forest.COLORS[verdict] for verdict in forest.VERDICTS}
    fates = forest.fates(claims)
    assert {name: [point[:2] for point in points] for name, points in drawn.items()} == {
        f"model {model}": [(row.value, color[row.verdict]) for row in rows.itertuples()]
        for model, rows in fates.groupby("model")
    } | {"paper LLaMA-7B": [(12.5, "black")]}
    assert drawn["paper LLaMA-7B"][0][2] == "white"
    assert [text.get_text() for text in ax.texts] == ["paper of a", "a", "paper of b", "b"]


def test_the_page_says_every_verdict_its_marks_and_what_has_no_row(claims):
    summary = row("c", "lab", "summary", value=5.0, std=0.1, seeds=3)
    said = forest.page(pd.concat([claims, pd.DataFrame([summary])]), [("d", "paper 2", "not tested: no code")])
    assert "Of 5 verdicts 3 hold, 1 fail, 1 are undecided" in said
    a = forest.fates(claims).iloc[0]
    assert f"| **holds** +3.2 [{a['low']:+.1f}, {a['high']:+.1f}] |" in said and "| LLaMA-7B +12.5 |" in said
    assert "| c | table 1 | runs | % | **holds**\\* +5.0" in said and "**holds**° +1.2" in said
    assert "- a (tiny). guess at a" in said and "- b (lab). guess at b" in said
    assert said.endswith("- d (paper 2): not tested: no code.\n")


def test_the_page_shows_where_a_row_is_from_and_only_models_that_a_paper_has_rows_of(claims):
    drawn = row("c", "other", seed=0, value=4.0) | {"options": "figure 12_search"}
    said = forest.page(pd.concat([claims, pd.DataFrame([drawn])]), figures=["one", "two"])
    assert "| claim | evidence | tested in | margin in | other | the papers' models |" in said
    assert "| claim | evidence | tested in | margin in | lab | tiny | the papers' models |" in said
    assert "| c | table 1 | [12_search](../figures/12_search.svg) | % | **undecided** +4.0 (one seed) | – |" in said
    assert "claims on methods: 50% removed" in said and "claims on methods: figure" not in said
    assert "](../figures/one.svg)\n![" in said and "](../figures/two.svg)" in said


@pytest.mark.slow
def test_a_model_has_the_same_mark_in_every_forest(claims):
    alone = forest.plot_forest(claims[claims["model"] != "lab"].replace("tiny", "lab/experts")).axes[0]
    both = forest.plot_forest(claims.replace("tiny", "lab/experts")).axes[0]
    marks = [
        {line.get_gid(): line.get_marker() for line in ax.lines if str(line.get_gid()).startswith("model ")}
        for ax in (alone, both)
    ]
    assert marks[0] == {"model lab/experts": "P"} and marks[1] == marks[0] | {"model lab": "o"}


def test_a_claim_of_two_papers_in_the_same_words_is_drawn_at_each_of_them_once(claims):
    name = claims["claim"].iloc[0]
    one = claims[(claims["claim"] == name) & (claims["model"] == claims["model"].iloc[0])]
    both = pd.concat([one, one.assign(source="another paper", value=-one["value"])], ignore_index=True)
    drawn = [line for line in forest.plot_forest(both).axes[0].lines if (line.get_gid() or "").startswith("model ")]
    assert [line.get_xdata()[0] for line in drawn] == pytest.approx(forest.fates(both)["value"].tolist())


def test_more_models_than_marks_are_refused(claims):
    one = claims[claims["model"] == claims["model"].iloc[0]]
    many = [one.assign(model=f"model {place}") for place in range(len(forest.SPARE) + 1)]
    forest.plot_forest(pd.concat(many[:-1], ignore_index=True))
    with pytest.raises(UsageError, match="5 models .* at most 4"):
        forest.plot_forest(pd.concat(many, ignore_index=True))


def test_rows_of_figures_are_those_of_the_figures_as_committed():
    """`python benchmarks/claims.py` makes them anew, after a figure was."""
    claims = pd.read_csv(paths.ROOT / "benchmarks" / "claims.csv", keep_default_na=False)
    claims = claims[claims["options"].str.startswith(forest.FIGURE)]
    figures = paths.ROOT / "figures"
    for name, rows in claims.groupby(claims["options"].str.removeprefix(forest.FIGURE)):
        said = json.loads((figures / f"{name}.json").read_text("utf-8"))
        assert set(rows["commit"]) == {said["commit"][:7]}, f"{name} was drawn anew: python benchmarks/claims.py"
        assert set(rows["seed"]) <= set(pd.read_csv(figures / f"{name}.csv")["seed"])
    assert claims["options"].nunique() > 10
    pitfall = pd.read_csv(figures / "07_pitfall.csv").query("source == 'here' and other == 'BR+GP' and samples == 1")
    pitfall = pitfall.query("measure == 'held-out error' and method == 'BR+GP+CR'")
    said = claims[claims["claim"].str.startswith("CR raises the held-out error above GP's with one window")]
    by_seed = pitfall.set_index(["model", "seed"])["seed_value"].to_dict()
    assert said.set_index(["model", "seed"])["value"].astype(float).to_dict() == pytest.approx(by_seed)


def test_the_committed_table_has_its_columns_and_no_claim_twice_in_other_words():
    claims = pd.read_csv(paths.ROOT / "benchmarks" / "claims.csv", keep_default_na=False, na_values={"std": [""]})
    assert list(claims) == forest.COLUMNS
    assert len(claims[forest.CLAIM].drop_duplicates()) == claims["claim"].nunique()
    fates = forest.fates(claims)
    page = (paths.ROOT / "benchmarks" / "claims.md").read_text("utf-8")
    assert all(f"| {claim} |" in page for claim in fates["claim"])
    assert f"Of {len(fates)} verdicts" in page
