"""The shell of explorers: titles at points, one message for what goes wrong, one redraw for many moves."""

import asyncio
import re

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.explore import shell


def figure():
    fig = Figure(figsize=(4, 2))
    for ax in fig.subplots(1, 2):
        ax.plot([0, 1, 2], [0.5, float("nan"), 2.0], marker="o", gid="method BR+GP")
        ax.bar([5], [3.25], gid="kind local")
    fig.set_label("Errors & depth")
    return fig


def test_every_point_and_bar_bears_its_value_and_the_figure_its_label():
    text = shell.svg(figure())
    titles = re.findall("<title>(.*?)</title>", text)
    assert sorted(titles) == sorted(["BR+GP, 0: 0.5", "BR+GP, 2: 2", "local, 5: 3.25"] * 2)
    assert text.startswith("<svg") and 'aria-label="Errors &amp; depth"' in text[:500]
    assert 'pt"' not in text[: text.index(">")] and text.rstrip().endswith("</svg>")


def test_points_that_a_log_scale_does_not_show_take_no_title_from_others():
    fig = Figure()
    ax = fig.subplots()
    ax.plot([0, 1, 2], [-1.0, 0.1, 10.0], marker="o", gid="run a")
    ax.set_yscale("log")
    assert re.findall("<title>(.*?)</title>", shell.svg(fig)) == ["a, 1: 0.1", "a, 2: 10"]


def test_what_goes_wrong_is_one_message_without_markup_of_its_own():
    def fail():
        raise UsageError("mask <b>: none")

    assert 'role="alert"' in shell.shown(fail) and "mask &lt;b&gt;: none" in shell.shown(fail)
    assert "ZeroDivisionError" in shell.shown(lambda: 1 / 0)


def test_many_moves_are_one_redraw_and_without_a_loop_each_is_done_at_once():
    calls = []
    later = shell.Later(lambda: calls.append(1), wait=0.01)
    later()
    assert calls == [1]

    async def move():
        for _ in range(5):
            later("change")
        assert calls == [1]
        await asyncio.sleep(0.05)

    asyncio.run(move())
    assert calls == [1, 1]


@pytest.mark.slow
def test_an_explorer_redraws_on_a_move_shows_messages_and_leaks_no_figure():
    def draw(kind, words):
        if not words:
            raise UsageError("choose a word")
        fig = figure()
        fig.suptitle(f"{kind} {'+'.join(words)}")
        return fig

    controls = {"kind": shell.menu("kind", ["one", "two"]), "words": shell.many("words", ["x", "y"], ["x"])}
    box = shell.explorer(controls, draw)
    place = box.children[1]
    assert "one x" in place.value
    controls["kind"].value = "two"
    assert "two x" in place.value
    x, y = controls["words"].children[1:]
    y.value = True
    assert "two x+y" in place.value
    x.value = y.value = False
    assert "choose a word" in place.value and "<svg" not in place.value
    assert plt.get_fignums() == []
