"""What dense and pruned models write after the same prompt, token by token, and which facts they still know.

Tables are those of `analysis.live.texts`: `Written` and `Facts`.
"""

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.present.explore.shell import menu, message, row, shown, slider, view
from analysis.present.panels import finish
from analysis.present.style import WIDTH, in_style, say_task
from analysis.present.tables import check_table, on_tables

if TYPE_CHECKING:
    from ipywidgets import VBox

LOSSES = {"the model itself": "nats", "the dense model": "dense_nats"}
MOST_NATS = 6.0  # loss from which on a token is as dark as can be
LINE = 88  # characters in a line of text
STEP = 0.19  # inches from one line to the next
OTHERWISE = "#D55E00"  # under what the dense model would have chosen otherwise


def lines_of(tokens: list[str], width: int = LINE) -> list[tuple[int, int, str]]:
    """Where each token stands: (line, character, what is drawn), line breaks as "↵", a token never broken."""
    line = place = 0
    out = []
    for token in tokens:
        said = token.replace("\n", "↵").replace("\t", " ")
        if place and place + len(said) > width:
            line, place = line + 1, 0
        out.append((line, place, said))
        place += len(said)
        if "\n" in token:
            line, place = line + 1, 0
    return out


@on_tables
def losses(written: pd.DataFrame) -> pd.DataFrame:
    """What each model's own part of the text costs: [model, tokens, nats, dense_nats, otherwise], means in nats per
    token; otherwise: share of its tokens that the dense model would have chosen otherwise.
    """
    check_table("text", written, "model", "given", "nats", "dense_nats", "agrees")
    own = written[~written["given"]]
    out = own.groupby("model", sort=False).agg(
        tokens=("nats", "size"), nats=("nats", "mean"), dense_nats=("dense_nats", "mean"), agrees=("agrees", "mean")
    )
    return out.assign(otherwise=1 - out["agrees"]).drop(columns="agrees").reset_index()


@on_tables
def draw_texts(written: pd.DataFrame, loss: str = "the dense model") -> Figure:
    """The text of each model. Darker: a larger loss under the chosen model; underlined: where the dense model would
    have chosen otherwise; grey: the prompt.
    """
    check_table("text", written, "model", "token", "given", LOSSES[loss], "agrees")
    parts = dict(iter(written.groupby("model", sort=False)))
    placed = {name: lines_of(list(rows["token"])) for name, rows in parts.items()}
    told = losses(written).set_index("model")
    counts = {name: places[-1][0] + 1 for name, places in placed.items()}
    with in_style():
        height = sum(STEP * count + 0.34 for count in counts.values()) + 0.85
        fig = plt.figure(figsize=(WIDTH, height), layout="none")
        plt.close(fig)
        colors, norm = mpl.colormaps["Blues"], Normalize(0, MOST_NATS)
        top = height - 0.1
        for name, rows in parts.items():
            deep = STEP * counts[name]
            top -= deep + 0.34
            ax = fig.add_axes((0.01, top / height, 0.98, deep / height), gid=f"model {name}")
            ax.set_axis_off()
            ax.set(xlim=(0, LINE + 1), ylim=(counts[name], 0))
            about = told.loc[name] if name in told.index else None
            title = name if about is None else f"{name}: {_said(about)}"
            ax.set_title(title, loc="left", fontsize=8.5, fontweight="bold", pad=3)
            draw_tokens(ax, placed[name], rows, loss, colors, norm)
        bar = fig.add_axes((0.3, 0.46 / height, 0.4, 0.1 / height))
        fig.colorbar(ScalarMappable(norm, colors), cax=bar, orientation="horizontal")
        bar.set_xlabel(f"loss under {loss}, nats; underlined: the dense model would choose otherwise", fontsize=8)
        finish(fig, {})
    return fig


def _said(about: pd.Series) -> str:
    own, dense = f"{about['nats']:.2f} nats a token", f"{about['dense_nats']:.2f} to the dense model"
    return f"{own}, {dense}, {about['otherwise']:.0%} chosen otherwise"


def draw_tokens(
    ax: Axes, placed: list[tuple[int, int, str]], rows: pd.DataFrame, loss: str, colors: Any, norm: Normalize
) -> None:
    for (line, place, said), one in zip(placed, rows.to_dict("records"), strict=True):
        value = one[LOSSES[loss]]
        color = "#EEEEEE" if one["given"] or np.isnan(value) else colors(norm(value))
        ax.add_patch(Rectangle((place, line + 0.04), len(said), 0.86, facecolor=color, linewidth=0))
        if not one["given"] and not one["agrees"]:
            ax.plot(
                [place + 0.15, place + len(said) - 0.15],
                [line + 0.93] * 2,
                color=OTHERWISE,
                linewidth=1.4,
                solid_capstyle="butt",
            )
        dark = not one["given"] and value == value and norm(value) > 0.6
        for number, letter in enumerate(said):
            ax.text(
                place + number + 0.5,
                line + 0.5,
                letter,
                family="monospace",
                fontsize=7.6,
                ha="center",
                va="center",
                color="white" if dark else "black",
            )


@on_tables
def known(facts: pd.DataFrame) -> pd.DataFrame:
    """Questions and which models answer them rightly: one row each, [task, question, gold] and a column for every
    model, those that most models miss last.
    """
    check_table("facts", facts, "model", "task", "question", "gold", "right")
    models = list(dict.fromkeys(facts["model"]))
    wide = facts.pivot_table(
        index=["task", "question", "gold"], columns="model", values="right", sort=False, aggfunc="first"
    )
    wide = wide[models].astype(bool)
    return (
        wide.assign(_all=wide.sum(axis=1))
        .sort_values(["task", "_all"], ascending=[True, False], kind="stable")
        .drop(columns="_all")
        .reset_index()
    )


@on_tables
def draw_facts(facts: pd.DataFrame) -> Figure:
    """Facts of the lab's world, a row for each question, a column for each model: right or wrong."""
    table = known(facts)
    models = list(dict.fromkeys(facts["model"]))
    with in_style():
        fig = plt.figure(figsize=(WIDTH, 0.19 * len(table) + 1.25))
        plt.close(fig)
        ax = fig.subplots()
        right = table[models].to_numpy(bool)
        ax.imshow(right, cmap=mpl.colors.ListedColormap(["#E69F00", "#BFD9EA"]), vmin=0, vmax=1, aspect="auto")
        ax.grid(False)
        for y, line in enumerate(right):
            for x, one in enumerate(line):
                ax.text(x, y, "✓" if one else "✗", ha="center", va="center", fontsize=8)
        shares = right.mean(0)
        ax.set_xticks(
            range(len(models)),
            [f"{textwrap.fill(name, 22)}\n{share:.0%}" for name, share in zip(models, shares)],
            fontsize=7.5,
        )
        ax.xaxis.tick_top()
        said = [f"{_last(one['question'])} … {one['gold']}" for one in table.to_dict("records")]
        ax.set_yticks(range(len(table)), said, fontsize=7)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        seen = table["task"].drop_duplicates()
        for start in list(seen.index)[1:]:
            ax.axhline(start - 0.5, color="black", linewidth=1.2)
        for task, rows in table.groupby("task", sort=False):
            place = (len(models) - 0.42, rows.index.to_numpy().mean())
            ax.text(*place, say_task(task), rotation=270, ha="left", va="center", fontsize=8)
        finish(fig, {})
    return fig


def _last(question: str, most: int = 62) -> str:
    """The end of a question, whole words."""
    said = " ".join(question.split())
    return said if len(said) <= most else "… " + said[-most:].partition(" ")[2]


def explore_texts(ask: Callable[..., pd.DataFrame], written: pd.DataFrame, facts: pd.DataFrame | None = None) -> "VBox":
    """A prompt, and what each model writes after it. written: the table shown first; ask(prompt=, temperature=, seed=):
    the table of another prompt, which the worker makes. facts: shown below.
    """
    from ipywidgets import Button, Text, VBox

    prompt = Text(
        "".join(
            written[written["given"] & (written["model"] == written["model"].iloc[0]) & (written["place"] > 0)]["token"]
        ),
        description="prompt",
        layout={"width": "420px"},
    )
    temperature = menu("temperature", [("0 (likeliest)", 0.0), ("0.7", 0.7), ("1", 1.0)], width="240px")
    seed = slider("seed", range(8), 0, "220px")
    loss = menu("colour by the loss under", list(LOSSES), "the dense model", "360px")
    button = Button(description="Write", button_style="primary", tooltip="have all models go on from this prompt")
    place, below = view(), view()
    now = {"table": written}

    def draw(_change: object = None) -> None:
        place.value = shown(lambda: draw_texts(now["table"], loss.value))

    def write(_button: object = None) -> None:
        place.value = message("the models write; the worker may have to prune them first")

        def make() -> Figure:
            now["table"] = ask(prompt=prompt.value, temperature=temperature.value, seed=seed.value)
            return draw_texts(now["table"], loss.value)

        place.value = shown(make)

    loss.observe(draw, "value")
    button.on_click(write)
    draw()
    if facts is not None:
        below.value = shown(lambda: draw_facts(facts))
    return VBox([row([prompt, temperature, seed, button]), row([loss]), place, below])
