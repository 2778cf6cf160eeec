"""Settings of self-generated text: what is understood, what is refused, and that the canonical text reads back."""

from dataclasses import fields

import pytest

from analysis.errors import UsageError
from analysis.text.generation import GENERATION_OPTIONS, Generation


@pytest.mark.parametrize(
    "settings",
    [
        Generation(),
        Generation(temperature=0.8, top_p=0.95),
        Generation(top_k=50, language="en"),
        Generation(prompt="a, b=c.txt[:80%]", prefix=8),
        Generation(start="lab:stories", tokens=2048, batch=64),
        Generation(language="zh-cn", temperature=1e-3),
    ],
)
def test_the_canonical_text_reads_back(settings):
    assert Generation.parse(str(settings)) == settings


def test_values_come_in_any_order_and_form_and_defaults_are_not_said():
    assert str(Generation.parse("top-p=.95,temperature=0.80,prefix=5,top-k=0")) == "temperature=0.8,top-p=0.95"
    assert str(Generation()) == "" and Generation.parse("") == Generation()
    assert list(GENERATION_OPTIONS) == [field.name.replace("_", "-") for field in fields(Generation)]


def test_the_defaults_are_the_papers():
    """Appendix C: a start token uniform over the vocabulary, four greedy ones, then plain sampling."""
    settings = Generation()
    assert (settings.start, settings.prefix, settings.temperature, settings.top_k, settings.top_p) == (
        "uniform",
        5,
        1,
        0,
        1,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature=1", "unknown option 'temprature'; did you mean 'temperature'"),
        ("temperature", "'temperature' is no OPTION=VALUE"),
        ("top-p=0.9,top-p=0.8", "top-p is given twice"),
        ("temperature=0", "temperature must be a number above 0, got 0"),
        ("temperature=warm", "temperature must be a number above 0, got 'warm'"),
        ("temperature=nan", "temperature must be a number above 0"),
        ("top-p=1.5", "top-p must be a number above 0, at most 1, got 1.5"),
        ("top-k=-1", "top-k must be a whole number of at least 0"),
        ("top-k=2.5", "top-k must be a whole number"),
        ("prefix=0", "prefix must be a whole number of at least 1"),
        ("language=English", "language must be a language code of langdetect"),
        ("tokens=5", "tokens=5 leaves nothing to sample after a prefix of 5"),
        ("start=a.txt,prompt=b.txt", "leave out start or prompt"),
        ("batch=0,top-k=-1", "top-k must .*; batch must"),
    ],
)
def test_wrong_settings_are_refused_with_their_reason(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        Generation.parse(text)
    assert "recipe" not in str(caught.value)
