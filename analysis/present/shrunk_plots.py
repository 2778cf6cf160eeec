"""Figures of notebook 10, and how its methods look: perplexity over parameters that are gone, over what the smaller
model wins, and beside single weights.

Tables are made in `shrunk.py`. A repair has one colour and marker in all of them; single weights are grey and hollow.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis.present.panels import finish, handle, label_axes, log_scale, panel_grid, plain_axis
from analysis.present.style import CRITERIA, METHODS, OTHERS, Look, in_style, say_method

REMOVED, FLOPS, LATENCY, THROUGHPUT = "parameters removed, %", "FLOPs per token", "one window", "several windows"
PERPLEXITY, ACCURACY = "perplexity", "mean zero-shot accuracy, %"
REPAIRED = {
    "LR": METHODS["LR"],
    "compensate": Look("#56B4E9", "P", (0, (4, 1.2))),
    "scale": Look("#E69F00", "v", (0, (3, 1.2, 1, 1.2))),
    "LIAR": Look("#0072B2", "s", "-"),
    "LIAR+GP": Look("#009E73", "^", "-"),
    "BR+GP": Look("#882255", "X", (0, (5, 1.2))),
    "BR+GP[repair=liar]": Look("#CC79A7", "D", "-"),
}
SPOKEN = {
    "LR": "mask alone (LR)",
    "compensate": "bias compensation",
    "scale": "one scale each",
    "BR+GP[repair=liar]": "LIAR, then BR+GP",
}
LEFT = [
    Look("#777777", "o", (0, (4, 1.5))),
    Look("#333333", "^", (0, (1.5, 1.2))),
    *OTHERS,
]  # single weights, by method
LINES = {"neurons": "-", "heads": (0, (1.5, 1.2)), "structures": (0, (5, 1.2, 1, 1.2))}
SPEEDS = {
    FLOPS: "operations of a token,\ntimes fewer (counted)",
    LATENCY: "one window alone,\ntimes faster (measured)",
    THROUGHPUT: "several windows at once,\ntimes faster (measured)",
}


def plot_repaired(table: pd.DataFrame) -> Figure:
    """Held-out perplexity (log scale) against the share of all parameters that is gone: a line per repair, a panel per
    criterion (down) and kind of structure (across).

    `table` is that of `repaired`; lines start at the dense model, which is dotted too. Every panel has a scale of its
    own.
    """
    with in_style():
        pruned, (dense,) = apart(table)
        known = method_looks(pruned["method"])
        fig, panels = panel_grid(pruned, "criterion", "kind", height=2.9, sharex="col", sharey=False)
        for (criterion, kind), ax in panels.items():
            _dense_line(ax, dense.value)
            own = pruned[(pruned["criterion"] == criterion) & (pruned["kind"] == kind)]
            for method, rows in ordered(own, known).groupby("method", sort=False):
                _draw(ax, rows, known[method], dense.value, f"method {method}")
            plain_axis(ax.xaxis)
            log_scale([ax])
        label_axes(
            panels,
            "parameters removed, % of all",
            {name: f"held-out perplexity\n{say_criterion(name)}" for name in dict.fromkeys(pruned["criterion"])},
        )
        finish(fig, {}, [*_legend(known), handle(METHODS["dense"], "dense")])
    return fig


def plot_speed(table: pd.DataFrame) -> Figure:
    """Held-out perplexity (log scale) against what the smaller model wins: a line per repair, a column per gain, a row
    per criterion and kind.

    `table` is that of `priced`; lines start at the dense model, at 1; bars across, on the lowest line: one standard
    deviation of the measured ratio over seeds.
    """
    with in_style():
        pruned, (dense, *_) = apart(table)
        groups = [f"{say_criterion(row.criterion)}, {row.kind}" for row in pruned.itertuples()]
        pruned = pruned.assign(group=groups, speed=pruned["speed"].map(SPEEDS))
        known = method_looks(pruned["method"])
        fig, panels = panel_grid(pruned, "group", "speed", height=2.2, sharex="col", sharey="row")
        for (group, speed), ax in panels.items():
            own = pruned[(pruned["group"] == group) & (pruned["speed"] == speed)]
            for method, rows in ordered(own, known).groupby("method", sort=False):
                _draw(ax, rows.assign(seeds=1), known[method], dense.value, f"method {method}", along="times", start=1)
            lowest = own.loc[own.groupby("pattern")["value"].idxmin()]
            ax.hlines(
                lowest["value"],
                lowest["times"] - lowest["times_std"],
                lowest["times"] + lowest["times_std"],
                color="black",
                linewidth=1.0,
                zorder=4,
            )
            _dense_line(ax, dense.value)
            plain_axis(ax.xaxis)
        for group in dict.fromkeys(groups):
            log_scale([ax for (row, _), ax in panels.items() if row == group])
        label_axes(
            panels, "times, dense = 1", {group: f"held-out perplexity\n{group}" for group in dict.fromkeys(groups)}
        )
        finish(fig, {}, [*_legend(known), handle(METHODS["dense"], "dense")])
    return fig


def plot_same_size(table: pd.DataFrame) -> Figure:
    """Perplexity (log scale) and mean zero-shot accuracy against the share of all parameters that is gone or zero.

    `table` is that of `same_size`. Whole structures in colour, single weights grey and hollow; bands: one standard
    deviation over seeds; bars: one standard error from the questions; lines start at the dense model, which is dotted
    too.
    """
    with in_style():
        pruned, dense = apart(table)
        whole, single = pruned[pruned["kind"] != "weights"], pruned[pruned["kind"] == "weights"]
        known, level = method_looks(whole["method"]), {row.measure: row.value for row in dense}
        grey = {
            name: LEFT[i % len(LEFT)]
            for i, name in enumerate(dict.fromkeys(zip(single["criterion"], single["method"], strict=True)))
        }
        grid = pd.DataFrame(
            [(criterion, measure) for criterion in dict.fromkeys(whole["criterion"]) for measure in level],
            columns=["criterion", "measure"],
        )
        fig, panels = panel_grid(grid, "criterion", "measure", height=3.2, sharex=True, sharey=False)
        for (criterion, measure), ax in panels.items():
            _dense_line(ax, level[measure])
            for name, rows in single[single["measure"] == measure].groupby(["criterion", "method"], sort=False):
                _draw(ax, rows, grey[name], level[measure], f"weights {' '.join(name)}", hollow=True)
            own = whole[(whole["criterion"] == criterion) & (whole["measure"] == measure)]
            for (kind, method), rows in own.groupby(["kind", "method"], sort=False):
                _draw(ax, rows, known[method]._replace(line=LINES[kind]), level[measure], f"{kind} {method}")
            plain_axis(ax.xaxis)
            log_scale([ax]) if measure == PERPLEXITY else plain_axis(ax.yaxis)
        label_axes(
            panels,
            "parameters gone or zero, % of all",
            {name: f"structures by {say_criterion(name)}" for name in dict.fromkeys(whole["criterion"])},
        )
        notes = [
            *_legend(known),
            *(handle(Look("black", "", LINES[kind]), kind) for kind in dict.fromkeys(whole["kind"])),
        ]
        notes += [
            handle(look, f"weights, {say_criterion(name)} {say_method(method)}", markerfacecolor="white")
            for (name, method), look in grey.items()
        ]
        finish(fig, {}, [*notes, handle(METHODS["dense"], "dense")])
    return fig


def say(method: str) -> str:
    """How legends and findings write a repair."""
    return SPOKEN.get(method, say_method(method))


def say_criterion(name: str) -> str:
    """How figures and findings write a criterion."""
    return CRITERIA.get(name, name)


def method_looks(methods) -> dict[str, Look]:
    """The look of each repair, in the order of `REPAIRED`; others share three spare ones."""
    present = set(methods)
    return {name: look for name, look in REPAIRED.items() if name in present} | {
        name: OTHERS[i % len(OTHERS)] for i, name in enumerate(sorted(present - set(REPAIRED)))
    }


def apart(table: pd.DataFrame) -> tuple[pd.DataFrame, list]:
    """The rows of pruned models, and those of the dense one."""
    dense = table["method"] == "dense"
    return table[~dense], list(table[dense].itertuples())


def ordered(rows: pd.DataFrame, known) -> pd.DataFrame:
    """Rows in the order of the legend."""
    return rows.sort_values(
        "method", key=lambda names: names.map({name: i for i, name in enumerate(known)}), kind="stable"
    )


def _legend(known) -> list:
    return [handle(look, say(name)) for name, look in known.items()]


def _dense_line(ax, value: float) -> None:
    ax.axhline(
        value, color=METHODS["dense"].color, linestyle=METHODS["dense"].line, linewidth=1.2, zorder=1, gid="dense"
    )


def _draw(
    ax,
    rows: pd.DataFrame,
    look: Look,
    dense: float,
    gid: str,
    *,
    hollow: bool = False,
    along: str = "removed",
    start: float = 0,
) -> None:
    """One line from the dense model on, at `start`, with its band over seeds and its bars from questions."""
    rows = rows.sort_values("removed")
    x, y, face = rows[along], rows["value"], "white" if hollow else look.color
    ax.plot(
        [start, *x],
        [dense, *y],
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markerfacecolor=face,
        markevery=slice(1, None),
        zorder=3,
        gid=gid,
    )
    if rows["seeds"].max() > 1:
        ax.fill_between(x, y - rows["std"], y + rows["std"], color=look.color, alpha=0.15, linewidth=0, zorder=2)
    if "standard_error" in rows and rows["standard_error"].max() > 0:
        ax.vlines(
            x,
            y - rows["standard_error"],
            y + rows["standard_error"],
            color=look.color,
            linewidth=0.9,
            alpha=0.5,
            zorder=2,
        )
