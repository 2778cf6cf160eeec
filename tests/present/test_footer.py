"""What a figure says of itself: below it, and in its svg."""

import re

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.errors import UsageError
from analysis.present.footer import STRIP, footed, footer
from analysis.present.provenance import save_figure
from analysis.present.style import in_style
from analysis.present.tables import on_tables

PARAMETERS = {
    "model": "lab",
    "criteria": ["wanda"],
    "sparsity": "50%",
    "samples": 16,
    "length": 128,
    "seeds": [0, 1, 2],
}
TABLE = pd.DataFrame({"method": ["LR"], "value": [1.0]})
MANY = {"criterion": ["flap", "random", "fisher", "snip"], "pattern": ["2:4"] * 4, "seeds": [1, 2, 2, 2]}


@pytest.mark.parametrize(
    ("parameters", "table", "says"),
    [
        (PARAMETERS, TABLE, "lab 0.9 M | Wanda 50 % | 16 × 128 tokens | 3 seeds | 1a2b3c4+"),
        (PARAMETERS | {"samples": [32, 2]}, TABLE, "lab 0.9 M | Wanda 50 % | 2, 32 × 128 tokens | 3 seeds | 1a2b3c4+"),
        (
            PARAMETERS | {"model": "org/big-7b"},
            pd.DataFrame(MANY),
            "big-7b | 4 criteria, 2:4 | 16 × 128 tokens | 1 to 2 seeds | 1a2b3c4+",
        ),
        (
            PARAMETERS,
            pd.concat([TABLE.assign(seeds=3), TABLE.assign(seeds=0)]),
            "lab 0.9 M | Wanda 50 % | 16 × 128 tokens | 3 seeds | 1a2b3c4+",
        ),
        (
            {"models": ["lab/tiny", "lab/no-such"], "calibration": ["examples:truth"], "samples": 8, "length": 160},
            TABLE.assign(seeds=1),
            "lab/tiny 0.3 M, lab/no-such | 8 examples of at most 160 tokens | 1 seed | 1a2b3c4+",
        ),
        (
            PARAMETERS,
            pd.DataFrame({"model": ["lab/tiny", "LLaMA-7B"], "source": ["here", "paper"], "seeds": [3, 1]}),
            "lab/tiny 0.3 M | Wanda 50 % | 16 × 128 tokens | 3 seeds | 1a2b3c4+",
        ),
        (
            {"models": ["lab/tiny", "lab/small"], "calibration": ["examples:truth", "examples:answers"], "seeds": [0]},
            TABLE.assign(task="answers"),
            "lab/small 0.4 M | 1 seed | 1a2b3c4+",
        ),
        ({}, TABLE, "1a2b3c4+"),
    ],
)
def test_the_table_tells_and_else_the_parameters(parameters, table, says):
    assert footer({"parameters": parameters}, table, "1a2b3c4d5e6f+changes") == says


def test_outside_a_repository_no_commit_is_said():
    assert footer({"preset": "lab"}, TABLE, None) == ""


@pytest.mark.parametrize("words", ["short", "long " * 30])
def test_the_line_lies_in_a_strip_below_and_is_gone_afterwards(words):
    fig = Figure(figsize=(8, 2))
    before = fig.get_children()
    with footed(fig, words) as box:
        (line,) = [text for text in fig.texts if text.get_text() == words]
        extent = line.get_window_extent()
        assert extent.y1 <= 0 and extent.y0 >= -STRIP * fig.dpi and extent.x0 >= 0 and extent.x1 <= fig.bbox.width
        assert box.bounds == (0, -STRIP, 8, 2 + STRIP)
    assert fig.get_children() == before


@on_tables
def plot_it(table: pd.DataFrame) -> Figure:
    """A line of `table` & what
    it means.

    More for who calls it.
    """
    with in_style():
        fig = Figure(figsize=(2, 1))
        fig.subplots().set_title("words as words")
    return fig


def test_an_svg_has_its_words_a_title_and_a_description(tmp_path):
    about = {"preset": "lab", "parameters": PARAMETERS}
    save_figure(plot_it(TABLE), "01_first_one", TABLE, about, tmp_path)
    svg = (tmp_path / "01_first_one.svg").read_text("utf-8")
    assert re.search(r"<title>01 first one: lab 0.9 M \| Wanda 50 % \| 16 × 128 tokens \| 3 seeds", svg)
    assert "<desc>A line of table &amp; what it means.</desc>" in svg and ">words as words</text>" in svg
    assert re.search(r"font-family: 'DejaVu Sans', 'Verdana'.*sans-serif", svg) and "fill: #ffffff" in svg
    assert re.search(r"<text[^>]*>lab 0.9 M \| Wanda 50 %", svg)
    with pytest.raises(UsageError):
        plot_it(None)
