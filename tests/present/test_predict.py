"""A prediction: asked for with buttons, kept at once, and met again; plain text where nobody looks."""

import pytest

from analysis.errors import UsageError
from analysis.present import predict

QUESTION, CHOICES = "Up or <down>?", ["up", "down"]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    monkeypatch.delenv(predict.VARIABLE, raising=False)


def test_what_is_pressed_is_kept_and_comes_back():
    assert "none was made" in predict.recall("00")
    words, buttons, told = predict.ask("00", QUESTION, CHOICES).children
    assert words.value == "<b>Up or &lt;down&gt;?</b>" and buttons.value is None and told.value.startswith("Choose")
    buttons.value = "down"
    assert told.value == "Kept: down. It comes back below the result."
    assert predict.recall("00").startswith(f"**Your prediction**: down (asked: {QUESTION})")
    buttons.value = "up"
    predict.keep("01", QUESTION, "down")
    assert predict.recall("00").startswith("**Your prediction**: up") and "none was made" in predict.recall("02")
    again = predict.ask("00", QUESTION, CHOICES).children
    assert again[1].value == "up" and again[2].value.startswith("Kept: up")
    assert predict.ask("00", QUESTION, ["left", "right"]).children[1].value is None  # the question has changed


def test_headless_it_is_text_and_nothing_is_read_or_kept(monkeypatch):
    predict.keep("00", QUESTION, "up")
    monkeypatch.setenv(predict.VARIABLE, "1")
    assert predict.ask("00", QUESTION, CHOICES) == "**Up or <down>?**\n\n- up\n- down"
    assert "none was made" in predict.recall("00")


@pytest.mark.parametrize("text", ["", "[]", '{"00": "up"}', '{"00": {"choice": "up"}}', "{"])
def test_a_broken_file_costs_the_guess_alone(text):
    predict.place().parent.mkdir(parents=True)
    predict.place().write_text(text)
    assert predict.read() == {} and "none was made" in predict.recall("00")
    predict.keep("00", QUESTION, "up")
    assert predict.read() == {"00": {"question": QUESTION, "choice": "up"}}


@pytest.mark.parametrize("choices", ["up", ["up"], ["up", "up"]])
def test_a_question_needs_two_choices(choices):
    with pytest.raises(UsageError, match="at least two different choices"):
        predict.ask("00", QUESTION, choices)
