"""Calibration windows and those added to them: what was asked, in order, and no window twice."""

from types import SimpleNamespace

import pytest
import torch

from analysis.errors import OverlapError, UsageError
from analysis.study.run import check_slices, draw
from analysis.text.load import load_tokens
from analysis.windows import Windows
from tests.helpers.alphabet import END, byte_tokenizer


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Windows of 16 bytes out of real sources; `{a}` in a source is a file of 200 lines."""
    tokenizer = byte_tokenizer(eos_token=END)
    path = tmp_path_factory.mktemp("texts") / "a.txt"
    path.write_text("\n\n".join(f"Line {n}: {n * n} of {n**3 % 101}." for n in range(200)))
    return lambda source, samples: load_tokens(
        source.format(a=path), tokenizer=tokenizer, samples=samples, length=16, seed=3
    )


def test_nothing_added_is_the_calibration_text(load):
    asked = []
    assert draw(lambda *given: asked.append(given), "lab:stories", 4, "self", 0) is None and asked == [
        ("lab:stories", 4)
    ]
    assert draw(load, "lab:stories", 4, None, 0).added == 0


@pytest.mark.slow
def test_windows_of_another_text_follow(load):
    windows = draw(load, "lab:stories", 4, "lab:recipes", 3)
    assert (len(windows), windows.own, windows.added) == (7, 4, 3)
    assert torch.equal(windows.ids[:4], load("lab:stories", 4).ids) and torch.equal(
        windows.ids[4:], load("lab:recipes", 3).ids
    )
    assert windows.provenance["source"] == "lab:stories" and windows.provenance["added"]["source"] == "lab:recipes"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["lab:stories", "{a}", "lab:stories:0.5+{a}:0.5"])
def test_of_the_same_text_the_next_windows_are_added(load, source):
    windows = draw(load, source, 4, source, 6)
    assert torch.equal(windows.ids, load(source, 10).ids) and (windows.own, windows.added) == (4, 6)
    assert len({tuple(row) for row in windows.ids.tolist()}) == 10, "no window twice"
    assert (windows.provenance["samples"], windows.provenance["added"]["samples"]) == (4, 6)
    assert torch.equal(draw(load, source, 4, source, 2).ids, windows.ids[:6]), "fewer are the first of more"


@pytest.mark.slow
def test_a_window_twice_is_refused(load):
    with pytest.raises(
        OverlapError,
        match="added 'lab:stories/train': 3 of 3 windows are calibration windows of 'lab:stories' again; .*slices",
    ):
        draw(load, "lab:stories", 4, "lab:stories/train", 3)
    draw(load, "{a}[:50%]", 4, "{a}[50%:]", 4)


def test_windows_of_another_length_do_not_go_together():
    lengths = {"a": 8, "b": 9}

    def load(source, samples):
        ids = torch.arange(samples * lengths[source]).view(samples, -1)
        return Windows(ids, torch.ones_like(ids, dtype=torch.bool), source)

    with pytest.raises(UsageError, match="length"):
        draw(load, "a", 2, "b", 2)


@pytest.mark.parametrize(
    ("calibration", "added", "held_out", "validation", "shared"),
    [
        ("{a}[:80%]", None, "{a}[70%:]", None, True),
        ("lab:stories", "{a}[:80%]", "{a}", None, True),
        ("lab:stories", None, "lab:stories/train", None, True),
        ("self", None, "self", None, True),
        ("lab:stories", None, "{a}", "{a}[:50%]", True),
        ("{a}[:80%]", "lab:recipes", "{a}[80%:]", "lab:entries", False),
        ("lab:stories", None, "lab:stories", None, False),
    ],
)
def test_slices_are_compared_before_a_window_is_drawn(calibration, added, held_out, validation, shared, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n\nthree")
    texts = {"calibration": calibration, "added": added, "validation": validation}
    texts = {name: text and text.format(a=path) for name, text in texts.items()}
    job = SimpleNamespace(**texts, held_out=[("held", held_out.format(a=path))], seed=0)
    if not shared:
        return check_slices(job)
    with pytest.raises(OverlapError, match="held-out 'held' overlap: .* hold the same documents"):
        check_slices(job)
