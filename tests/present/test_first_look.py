"""One block's three errors, and texts side by side."""

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import first_look


@pytest.fixture
def table(blocks):
    return first_look.one_block(blocks[(blocks["samples"] == 32) & (blocks["criterion"] == "wanda")], 1)


def test_the_errors_are_means_over_the_seeds_at_that_block(table, blocks):
    rows = blocks[(blocks["samples"] == 32) & (blocks["criterion"] == "wanda") & (blocks["block"] == 1)]
    for row in table.itertuples():
        some = rows[(rows["split"] == row.split) & (rows["method"] == row.method) & (rows["kind"] == row.kind)]
        assert row.value == pytest.approx(some["relative_error"].mean()) and row.block == 1
    assert set(table["kind"]) == {"inherited", "local", "total"}
    with pytest.raises(UsageError, match="block 99 is not in the table"):
        first_look.one_block(blocks, 99)


def test_a_bar_for_each_error_and_a_sentence_for_each_method(table):
    fig = first_look.plot_one_block(table)
    texts = list(table["split"].unique())
    assert [ax.get_title() for ax in fig.axes] == [first_look.say_split(split) for split in texts]
    for ax, split in zip(fig.axes, texts):
        drawn = sorted(bar.get_width() for bar in ax.patches)
        assert drawn == pytest.approx(sorted(table[table["split"] == split]["value"]))
    said = first_look.say_one_block(table)
    assert len(said.splitlines()) == len(table) // 3
    one = table.set_index(["split", "method", "kind"])["value"]
    split, method = table["split"].iloc[0], table["method"].iloc[0]
    both = one[split, method, "inherited"] + one[split, method, "local"]
    apart = one[split, method, "total"] / both - 1
    assert f"{abs(apart):.0%} {'less' if apart < 0 else 'more'}" in said.splitlines()[0]


def test_methods_without_a_look_of_their_own_have_bars_too(table):
    other = "BR+GP[loss=cosine]"
    fig = first_look.plot_one_block(table.assign(method=table["method"].replace("BR+GP", other)))
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["LR", "BR", "BR+GP+CR", other]


def test_texts_stand_in_one_row_of_a_markdown_table():
    said = first_look.say_texts(pd.DataFrame({"prompt": ["Once"], "dense": ["a|b\nc"], "LR": [""]}))
    assert said.splitlines() == ["| prompt | dense | LR |", "| --- | --- | --- |", "| Once | a¦b / c | – |"]


@pytest.mark.parametrize(
    "text, said", [("a\r\nb\rc", "a / b / c"), ("a|b", "a¦b"), ("**a** *b*", "∗∗a∗∗ *b*"), ("\n", "/")]
)
def test_no_text_and_no_name_breaks_the_table(text, said):
    rows = first_look.say_texts(pd.DataFrame({"prompt": [text], text: ["b"]})).splitlines()
    assert rows == [f"| prompt | {said} |", "| --- | --- |", f"| {said} | b |"]
