"""Error as a proxy of perplexity: rises, residuals from the line, what is drawn and what is said."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import proxy
from analysis.present.final import HELD_OUT_ERROR, PERPLEXITY

METHODS = {"LR": (0.2, 1.0), "BR": (0.1, 1.0), "BR+GP": (0.05, 1.0), "ridge": (0.04, 2.0)}  # error, times foretold


def runs(factors=METHODS, add=0.0):
    """Ends of runs whose perplexity rises by (100 * error) ** 1.2 per cent times a factor of the method."""
    rows = []
    for pattern, more in {"50%": 1.0, "60%": 3.0}.items():
        for method, (error, times) in factors.items():
            for seed in range(3):
                front = {"run": f"{pattern} {method} {seed}", "pattern": pattern, "criterion": "wanda"}
                front |= {"method": method, "seed": seed, "added": "", "added_samples": 0}
                at = error * more * (1 + 0.02 * seed + 0.001 * seed * (method == "ridge"))
                rise = times * (100 * at) ** 1.2 * np.exp(0.01 * seed * (times > 1)) + add
                dense = 2.0 + 0.5 * seed
                rows += [
                    {**front, "measure": PERPLEXITY, "which": "dense", "value": dense},
                    {**front, "measure": PERPLEXITY, "which": "pruned", "value": dense * (1 + rise / 100)},
                    {**front, "measure": HELD_OUT_ERROR, "which": "pruned", "value": at},
                ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table():
    return proxy.proxy(runs())


def test_a_rise_is_above_the_dense_model_of_the_same_run(table):
    row = table[(table["measure"] == proxy.RISE) & (table["method"] == "BR") & (table["pattern"] == "60%")].iloc[0]
    assert list(row[["seed 0", "seed 1", "seed 2"]]) == pytest.approx([(30 * s) ** 1.2 for s in (1, 1.02, 1.04)])
    error = table[(table["measure"] == HELD_OUT_ERROR) & (table["method"] == "BR") & (table["pattern"] == "60%")]
    assert error["value"].item() == pytest.approx(0.306)


def test_residuals_are_from_the_line_of_each_seed():
    level = {name: (error, 1.0) for name, (error, _) in METHODS.items()}
    flat = proxy.proxy(runs(level))
    assert flat[flat["measure"] == proxy.RESIDUAL]["value"].tolist() == pytest.approx([1.0] * 4)
    table = proxy.proxy(runs())
    residual = table[table["measure"] == proxy.RESIDUAL].set_index("method")
    assert (residual["pattern"] == "").all() and residual["value"].idxmax() == "ridge"
    assert np.prod(residual["seed 0"]) == pytest.approx(1.0)  # least squares leave nothing in the mean
    own = runs()
    first = own[(own["seed"] == 0) & (own["which"] == "pruned")].pivot(index="run", columns="measure", values="value")
    error, rise = np.log(first[HELD_OUT_ERROR]), np.log(100 * (first[PERPLEXITY] / 2.0 - 1))
    left = rise - np.polyval(np.polyfit(error, rise, 1), error)
    assert residual.loc["ridge", "seed 0"] == pytest.approx(np.exp(left[left.index.str.contains("ridge")].mean()))


def test_text_added_and_recipes_that_do_not_rise_are_left_out():
    own = runs()
    added = own.assign(added="self", added_samples=4, value=own["value"] * 9)
    pd.testing.assert_frame_equal(proxy.proxy(pd.concat([own, added])), proxy.proxy(own))
    better = own["run"].eq("50% BR 1") & own["which"].eq("pruned") & own["measure"].eq(PERPLEXITY)
    left = proxy.proxy(own.assign(value=own["value"].mask(better, 1.0)))
    assert not ((left["method"] == "BR") & (left["pattern"] == "50%")).any() and "BR" in set(left["method"])
    with pytest.raises(UsageError, match="fewer than three recipes"):
        proxy.proxy(own[own["method"] == "BR"])


@pytest.mark.slow
def test_every_recipe_and_every_method_is_drawn(table):
    fig = proxy.plot_proxy(table)
    left, right = fig.axes[:2]
    drawn = {line.get_gid(): tuple(line.get_xydata()[0]) for ax in (left, right) for line in ax.lines if line.get_gid()}
    for row in table[table["measure"] == proxy.RISE].itertuples():
        assert drawn[f"recipe wanda {row.pattern} {row.method}"][1] == row.value
    solvers = table[table["measure"] == proxy.RESIDUAL]
    assert {name: drawn[f"method {name}"][0] for name in METHODS} == dict(zip(solvers["method"], solvers["value"]))
    assert right.get_ylim()[0] > right.get_ylim()[1] and drawn["method ridge"][1] == 3  # the worst stands last


def test_every_pattern_has_a_filling_of_its_own_and_more_than_there_are_are_refused(table):
    names = [f"{percent}%" for percent in range(30, 100, 10)]
    tables = [table.assign(pattern=name) for name in names]
    fig = proxy.plot_proxy(pd.concat(tables[:6], ignore_index=True))
    fills = {one.get_label(): one.get_fillstyle() for one in fig.legends[0].legend_handles if one.get_label() in names}
    assert len(fills) == len(set(fills.values())) == 6
    with pytest.raises(UsageError, match="markers of 7 patterns"):
        proxy.plot_proxy(pd.concat(tables, ignore_index=True))


def test_it_says_for_whom_error_is_no_proxy_and_which_pairs_contradict(table):
    said = proxy.say_proxy(table, 1).splitlines()
    assert said[0].startswith("- Rank correlation of held-out error with the rise of perplexity: all ")
    assert "50% 0.80 (n = 4)" in said[0]
    assert any(line.startswith("- **ridge**: 1.") and "(more than its error foretells)" in line for line in said)
    assert said[-1] == (
        "- Of 12 pairs of methods on a mask, 2 have the lower error and the higher perplexity; both differences have p"
        " < 0.05 in 2, after Holm's correction in 2 (lower error first: Wanda 50%, ridge against BR+GP)."
    )
    fair = proxy.proxy(runs({name: (error, 1.0) for name, (error, _) in METHODS.items()}))
    assert "0 have the lower error and the higher perplexity" in proxy.say_proxy(fair, 1)


@pytest.mark.parametrize("measure", [HELD_OUT_ERROR, proxy.RISE])
def test_what_cannot_be_tested_confirms_no_contradiction(table, measure):
    seeds = ["seed 0", "seed 1", "seed 2"]
    flat = table.copy()  # differs by a factor that is the same in every seed
    flat.loc[flat["measure"] == measure, seeds] = flat.loc[flat["measure"] == measure, ["value"] * 3].to_numpy()
    said = proxy.say_proxy(flat, 1).splitlines()[-1]
    assert "2 have the lower error and the higher perplexity; both differences have p < 0.05 in 0," in said
    assert said.endswith("after Holm's correction in 0.")
