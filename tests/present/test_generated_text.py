"""Added windows, settings and representative texts: what the tables hold, what is drawn, and what is said of it."""

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.present import generated_text
from analysis.present.final import ACCURACY, HELD_OUT_ERROR, PERPLEXITY, ends


@pytest.fixture(scope="module")
def final(mixed):
    return ends(mixed.blocks, mixed.perplexity, mixed.zero_shot)


@pytest.fixture(scope="module")
def own(final):
    return final[final["calibration"] == "lab:stories"]


@pytest.mark.slow
def test_added_text_is_a_change_from_nothing_added(own):
    out = generated_text.added(own, sources=["self", "lab:stories", "lab:recipes"])
    assert list(out["measure"].unique()) == [HELD_OUT_ERROR, PERPLEXITY, ACCURACY] and list(out["added"].unique()) == [
        "self",
        "lab:stories",
        "lab:recipes",
    ]
    assert (out[out["added_samples"] == 0][["value", "low", "high"]] == 0).all(axis=None) and (out["seeds"] == 2).all()
    row = out[
        (out["measure"] == PERPLEXITY)
        & (out["method"] == "BR+GP")
        & (out["added"] == "self")
        & (out["added_samples"] == 32)
    ].iloc[0]
    rows = own[(own["measure"] == PERPLEXITY) & (own["method"] == "BR+GP") & (own["which"] == "pruned")]
    with_text = rows[(rows["added"] == "self") & (rows["added_samples"] == 32)].set_index("seed")["value"]
    without = rows[rows["added_samples"] == 0].drop_duplicates("seed").set_index("seed")["value"]
    change = 100 * (with_text / without - 1)
    assert (
        row["value"] == pytest.approx(change.mean())
        and list(row[["seed 0", "seed 1"]]) == pytest.approx(list(change))
        and row["level"] == pytest.approx(with_text.mean())
    )
    assert generated_text.levels(out).loc[("50%", "wanda", "BR+GP", PERPLEXITY, "self-generated"), 32] == pytest.approx(
        row["level"], abs=1e-4
    )
    alone = (
        own[own["added_samples"] == 0]
        .drop_duplicates(["run", "measure", "which"])
        .assign(value=lambda rows: 2 * rows["value"])
    )
    patient = generated_text.added(own, sources=["self"], longer=alone)
    assert patient[patient["added"] == ""]["added_samples"].unique().tolist() == [32]
    assert (
        patient[(patient["added"] == "") & (patient["measure"] != ACCURACY)]["value"].round(9) == 100
    ).all() and len(patient) == len(out) / 3 + 6
    with pytest.raises(UsageError, match="no run without added windows"):
        generated_text.added(own[own["added_samples"] > 0])
    with pytest.raises(UsageError, match="added lab:letters is not in the table"):
        generated_text.added(own, sources=["lab:letters"])


def test_representatives_have_the_middle_blocks_distance_and_the_dense_loss(final, mixed):
    out = generated_text.representatives(final, mixed.texts, mixed.perplexity)
    assert (
        list(out["calibration"].unique()) == ["lab:stories", "lab:entries", "lab:news", "self", "lab:recipes"]
        and len(out) == 2 * 2 * 5
        and (out["seeds"] == 2).all()
    )
    row = out[(out["measure"] == HELD_OUT_ERROR) & (out["method"] == "BR+GP") & (out["calibration"] == "self")].iloc[0]
    texts = mixed.texts[
        (mixed.texts["calibration"] == "self")
        & (mixed.texts["block"] == 1)
        & (mixed.texts["split"] == "lab:stories/held-out")
    ]
    assert row["distance"] == pytest.approx(texts["distance"].mean()) and row["distance"] > 1
    loss = mixed.perplexity[
        (mixed.perplexity["calibration"] == "self")
        & (mixed.perplexity["split"] == "calibration")
        & (mixed.perplexity["which"] == "dense")
    ]
    assert row["nats"] == pytest.approx(loss["nats_per_token"].mean())
    stories = final[
        (final["calibration"] == "lab:stories")
        & (final["measure"] == PERPLEXITY)
        & (final["which"] == "pruned")
        & (final["method"] == "BR+GP")
    ]
    plain = out[
        (out["measure"] == generated_text.RISE) & (out["method"] == "BR+GP") & (out["calibration"] == "lab:stories")
    ]["value"].item()
    # 2.1: the dense model's
    assert plain == pytest.approx(
        (100 * (stories[stories["added_samples"] == 0].drop_duplicates("seed")["value"] / 2.1 - 1)).mean()
    )
    other = generated_text.representatives(final, mixed.texts, mixed.perplexity, split="lab:entries/held-out")
    assert not np.allclose(other["distance"], out["distance"])


def points(fig):
    marked = [(ax, line) for ax in fig.axes for line in ax.lines if (line.get_gid() or "").startswith("source ")]
    return sorted(
        (fig.axes.index(ax), line.get_gid().removeprefix("source "), float(x), float(y))
        for ax, line in marked
        for x, y in line.get_xydata()
    )


def panels(table, first="method", second="measure"):
    return [(a, b) for a in dict.fromkeys(table[first]) for b in dict.fromkeys(table[second])]


@pytest.mark.slow
def test_every_row_is_drawn_in_its_panel(own, final, mixed):
    table = generated_text.added(own, sources=["self", "lab:stories"])
    places = [0, 8, 32]
    expected = [
        (panels(table).index((r.method, r.measure)), r.added, places.index(r.added_samples), r.value)
        for r in table.itertuples()
    ]
    assert points(generated_text.plot_added(table)) == sorted(expected)
    table = generated_text.added(own, samples=8)
    sources = list(dict.fromkeys(table["added"]))
    expected = [
        (panels(table).index((r.method, r.measure)), r.added, r.value, sources.index(r.added))
        for r in table.itertuples()
    ]
    fig = generated_text.plot_settings(table)
    assert points(fig) == sorted(expected)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == [
        "self-generated",
        "stories",
        "recipes",
        "self-generated, top-k=50",
    ]
    table = generated_text.representatives(final[final["method"] == "BR+GP"], mixed.texts, mixed.perplexity)
    expected = [
        (2 * [HELD_OUT_ERROR, generated_text.RISE].index(r.measure) + i, r.calibration, x, r.value)
        for r in table.itertuples()
        for i, x in enumerate((r.distance, r.nats))
    ]
    fig = generated_text.plot_representatives(table)
    assert points(fig) == sorted(expected)
    assert all(
        {"stories", "entries", "news", "self-generated", "recipes"} <= {text.get_text() for text in ax.texts}
        for ax in fig.axes
    )
    assert (
        len(
            generated_text.plot_representatives(
                generated_text.representatives(final, mixed.texts, mixed.perplexity)
            ).axes
        )
        == 8
    )


def put(table, value, **where):
    rows = np.logical_and.reduce([table[name] == word for name, word in where.items()])
    assert rows.any()
    return table.assign(value=table["value"].where(~rows, value))


def test_the_share_of_the_gap_is_said_and_turns_with_the_numbers(own):
    table = generated_text.added(own[own["method"] == "BR+GP"], sources=["self", "lab:stories", "lab:recipes"])
    table = put(
        put(table.assign(low=-0.5, high=0.5), -20.0, added="lab:stories", added_samples=32),
        -5.0,
        added="self",
        added_samples=32,
    )
    table = put(table, 4.0, added="lab:recipes", added_samples=32)
    error, perplexity, accuracy = generated_text.say_closing(table, "lab:stories").splitlines()
    assert (
        error == "- **Wanda 50% BR+GP**, held-out error, 32 windows added: stories -20.0 ± 0.5 %; "
        "self-generated -5.0 ± 0.5 %, 25% of that; recipes +4.0 ± 0.5 %, -20% of that."
    )
    # accuracy should rise
    assert "real text of the right kind does not help here" in accuracy and "of that" not in accuracy
    with pytest.raises(UsageError, match="lab:news is none of the added texts"):
        generated_text.say_closing(table, "lab:news")


def test_settings_are_ordered_and_those_that_differ_in_every_seed_alike_are_named(own):
    table = generated_text.added(own[own["method"] == "BR+GP"], samples=8)
    table = put(put(table, -3.0, added="self"), -6.0, added="self:top-k=50")
    first, plain = table["added"] == "self:top-k=50", table["added"] == "self"
    table = table.assign(**dict.fromkeys(("seed 0", "seed 1"), table["value"]))
    table.loc[plain, "seed 1"] += 0.01
    said = generated_text.say_settings(table).splitlines()
    assert (
        said[0]
        == "- **Wanda 50% BR+GP**, held-out error, change in %: self-generated, top-k=50 -6.0, self-generated -3.0;"
        " different from the plain one (p < 0.05): self-generated, top-k=50."
    )
    assert "self-generated -3.0, self-generated, top-k=50 -6.0" in said[2]  # of accuracy more is better
    table.loc[first, "seed 1"] += 1.0  # -3 and -2.01: t = -5 with one degree of freedom, p = 0.12
    assert "(p < 0.05): none." in generated_text.say_settings(table)
    assert "one seed" in generated_text.say_settings(table.assign(seeds=1))
    with pytest.raises(UsageError, match="none of the added texts lab:recipes is self-generated"):
        generated_text.say_settings(table[table["added"] == "lab:recipes"])


def test_representative_texts_are_ordered_with_both_rank_correlations(final, mixed):
    table = generated_text.representatives(final[final["method"] == "BR+GP"], mixed.texts, mixed.perplexity)
    table = table.assign(nats=table["value"])
    said = generated_text.say_representative(table).splitlines()[0]
    best = (
        table[table["measure"] == HELD_OUT_ERROR]
        .sort_values("value")["calibration"]
        .iloc[0]
        .removeprefix("lab:")
        .replace("self", "self-generated")
    )
    assert f"held-out error: {best} " in said and said.endswith("dense loss 1.00.") and "over 5 texts" in said
