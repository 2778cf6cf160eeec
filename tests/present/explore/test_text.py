"""Texts and facts: what the tables say, and that every letter of a text is drawn."""

import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present.explore import generated, text

NAN = float("nan")


def written():
    rows = []
    for model, said in {"dense": ["The", " cat", " sat"], "pruned": ["The", " cat", " ra", "n\n"]}.items():
        for place, token in enumerate(said):
            given = place < 2
            nats = NAN if place == 0 else 1.0 + place
            rows.append(
                {
                    "model": model,
                    "place": place,
                    "token": token,
                    "given": given,
                    "nats": nats,
                    "dense_nats": 2 * nats,
                    "agrees": model == "dense" or place != 3,
                }
            )
    return pd.DataFrame(rows)


def test_lines_break_between_tokens_and_at_line_ends():
    assert text.lines_of(["abc", " de\n", "fgh", "ij"], width=4) == [
        (0, 0, "abc"),
        (1, 0, " de↵"),
        (2, 0, "fgh"),
        (3, 0, "ij"),
    ]


def test_losses_are_means_over_what_was_written():
    found = text.losses(written()).set_index("model")
    assert found.loc["pruned"].to_dict() == {"tokens": 2, "nats": 3.5, "dense_nats": 7.0, "otherwise": 0.5}
    assert found.loc["dense", "otherwise"] == 0


@pytest.mark.slow
def test_the_prompt_is_grey_and_what_differs_is_underlined():
    fig = text.draw_texts(written(), "the model itself")
    dense, pruned, _ = fig.axes
    assert (
        "".join(one.get_text() for one in pruned.texts) == "The cat ran↵"
        and len(dense.lines) == 0 == len(pruned.lines) - 1
    )
    colors = [patch.get_facecolor() for patch in pruned.patches]
    assert colors[0] == colors[1] != colors[2] != colors[3]


@pytest.mark.slow
def test_a_prompt_is_asked_when_the_button_is_pressed_and_what_fails_is_one_message():
    asked = []

    def ask(**how):
        asked.append(how)
        if len(asked) > 1:
            raise UsageError("text: the prompt is empty")
        return written().assign(token="z")

    box = text.explore_texts(ask, written())
    controls, _, place, _ = box.children
    prompt, button = controls.children[0], controls.children[3]
    assert prompt.value == " cat" and ">z<" not in place.value
    prompt.value = "A dog"
    button.click()
    assert asked == [{"prompt": "A dog", "temperature": 0.0, "seed": 0}] and ">z<" in place.value
    button.click()
    assert "the prompt is empty" in place.value and "<svg" not in place.value


def test_facts_stand_by_task_and_by_how_many_know_them():
    rows = [
        {"model": model, "task": task, "question": question, "gold": "g", "right": right}
        for model in ("dense", "pruned")
        for task, question, right in (("easy", "a", model == "dense"), ("easy", "b", True), ("hard", "c", False))
    ]
    found = text.known(pd.DataFrame(rows))
    assert found["question"].tolist() == ["b", "a", "c"] and found["pruned"].tolist() == [True, False, False]


@pytest.mark.slow
def test_sources_beside_one_another():
    tokens = pd.DataFrame(
        [
            {"source": source, "window": window, "place": place, "token": "x ", "nats": nats + place}
            for source, nats in (("self", 0.0), ("lab:mixed", 1.0))
            for window in (0, 1)
            for place in range(3)
        ]
    )
    apart = pd.DataFrame(
        [
            {"source": source, "block": block, "distance": size}
            for source, size in (("lab:mixed", 0.0), ("self", 0.5))
            for block in range(2)
        ]
    )
    assert generated.source_losses(tokens)["nats"].tolist() == [1.0, 2.0]
    fig = generated.draw_sources(tokens, apart, window=1)
    bars = [ax for ax in fig.axes if ax.get_title() == "loss under the model"]
    assert [patch.get_width() for patch in bars[0].patches] == [1.0, 2.0]
    with pytest.raises(UsageError, match="window 7"):
        generated.draw_sources(tokens, apart, window=7)
    box = generated.explore_sources(tokens, apart)
    before = box.children[1].value
    box.children[0].children[1].children[2].value = False
    assert box.children[1].value != before
