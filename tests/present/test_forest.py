"""Verdicts on the papers' claims: intervals and p by t, Holm's correction, what is drawn and what the page says."""

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
    assert "| c | table 1 | % | **holds**\\* +5.0" in said and "**holds**° +1.2" in said
    assert "- a (tiny). guess at a" in said and "- b (lab). guess at b" in said
    assert said.endswith("- d (paper 2): not tested: no code.\n")


def test_the_committed_table_has_its_columns_and_no_claim_twice_in_other_words():
    claims = pd.read_csv(paths.ROOT / "benchmarks" / "claims.csv", keep_default_na=False, na_values={"std": [""]})
    assert list(claims) == forest.COLUMNS
    assert len(claims[forest.CLAIM].drop_duplicates()) == claims["claim"].nunique()
    fates = forest.fates(claims)
    page = (paths.ROOT / "benchmarks" / "claims.md").read_text("utf-8")
    assert all(f"| {claim} |" in page for claim in fates["claim"])
    assert f"Of {len(fates)} verdicts" in page
