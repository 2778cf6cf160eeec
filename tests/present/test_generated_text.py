"""Added windows, settings and representative texts: what the tables hold, what is drawn, and what is said of it."""

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.present import generated_text
from analysis.present.final import ACCURACY, HELD_OUT_ERROR, PERPLEXITY, ends
from analysis.present.style import say_source


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
    table = generated_text.settings(own, 8)
    sources = list(dict.fromkeys(table["added"]))
    expected = [
        (panels(table).index((r.method, r.measure)), r.added, r.value, sources.index(r.added))
        for r in table.itertuples()
    ]
    fig = generated_text.plot_settings(table)
    assert points(fig) == sorted(expected)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == [say_source(name) for name in sources]
    assert fig.axes[0].yaxis.get_tick_params()["labelleft"] and not fig.axes[1].yaxis.get_tick_params()["labelleft"]
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
    fewer = table[(table["measure"] != ACCURACY) | (table["added_samples"] < 32)]  # tasks may be asked of some alone
    assert "accuracy, 8 windows added: " in generated_text.say_closing(fewer, "lab:stories").splitlines()[2]


@pytest.fixture(scope="module")
def written(own):
    return generated_text.settings(own[own["method"] == "BR+GP"], 8)


def test_settings_are_changes_from_plain_sampling_within_a_seed(own, written):
    assert set(written["added"]) == {"lab:stories", "lab:recipes", "self:top-k=50"}
    first = written[written["measure"] == HELD_OUT_ERROR]
    assert list(first["value"]) == sorted(first["value"])
    assert all(list(some["added"]) == list(first["added"]) for _, some in written.groupby("measure"))
    row = first[first["added"] == "self:top-k=50"].iloc[0]
    rows = own[(own["measure"] == HELD_OUT_ERROR) & (own["method"] == "BR+GP") & (own["added_samples"] == 8)]
    plain, other = (rows[rows["added"] == text].set_index("seed")["value"] for text in ("self", "self:top-k=50"))
    assert list(row[["seed 0", "seed 1"]]) == pytest.approx(list(100 * (other / plain - 1)))
    with pytest.raises(UsageError, match="none of the added texts lab:recipes is self-generated"):
        generated_text.settings(own[own["added"].isin(["lab:recipes", ""])], 8)


def test_settings_that_change_every_seed_alike_are_named(written):
    table = put(written, -6.0, added="self:top-k=50").assign(low=-7.0, high=-5.0)
    first = table["added"] == "self:top-k=50"
    both = {name: table["value"].where(first, shift) for name, shift in {"seed 0": -5.0, "seed 1": 5.0}.items()}
    table = table.assign(**both)
    table.loc[first, "seed 1"] += 0.1
    said = generated_text.say_settings(table).splitlines()
    assert said[0].startswith("- **Wanda 50% BR+GP**, held-out error: ") and "top-k=50 -6.0 ± 1.0 %" in said[0]
    assert said[0].endswith("; confirmed (p < 0.05): self-generated, top-k=50.")
    table.loc[first, "seed 1"] += 3.0  # -6 and -3: t = -3 with one degree of freedom, p = 0.2
    assert "(p < 0.05): none." in generated_text.say_settings(table)
    assert "one seed" in generated_text.say_settings(table.assign(seeds=1))
    last = table.assign(seeds=[*table["seeds"].iloc[:-1], 1])
    assert "one seed" not in generated_text.say_settings(last)


@pytest.mark.slow
def test_a_panel_says_where_it_shows_no_difference(own):
    table = generated_text.added(own[own["method"] == "BR+GP"], sources=["self"])
    said = [
        [text.get_text() for text in ax.texts]
        for low, high in ((-1.0, 1.0), (1.0, 2.0))
        for ax in generated_text.plot_added(table.assign(low=low, high=high)).axes
    ]
    assert said == [["no difference shown"]] * 3 + [[]] * 3


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
    assert f"held-out error: {best} " in said and "dense loss 1.00 (p = 0.017)." in said and "over 5 texts" in said
    lost = table.assign(nats=table["nats"].mask(table["calibration"] == table["calibration"].iloc[0]))
    assert "over 4 texts" in generated_text.say_representative(lost).splitlines()[0]
