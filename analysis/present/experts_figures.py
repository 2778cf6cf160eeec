"""Figures of notebook 11, mixtures of experts; their tables are in `experts.py` and `experts_dropped.py`."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.present.experts import PERPLEXITY, RULES, STARVED_ERROR, say_mask
from analysis.present.experts_dropped import KIND, REPAIRS
from analysis.present.panels import (
    category_axis,
    draw_band,
    draw_named,
    finish,
    handle,
    log_scale,
    number_axis,
    panel_grid,
    plain_axis,
    share_log_scale,
)
from analysis.present.style import (
    METHOD_LOOKS,
    Look,
    dealt,
    in_style,
    say_criterion,
    say_method,
    say_model,
    say_source,
    say_split,
    spare,
)
from analysis.present.tables import on_tables
from analysis.schema import CALIBRATION

RULE_LOOKS = {
    "shrink": Look("#000000", "o", "-"),
    "all-tokens": Look("#0072B2", "s", (0, (5, 1.2))),
    "magnitude": Look("#D55E00", "v", (0, (3, 1.2, 1, 1.2))),
}
TEXT_LOOKS = {True: Look("#777777", "o", (0, (3, 1.5))), False: Look("#0072B2", "s", "-")}  # calibration, held-out
EXPERT_LOOKS = {
    "reap": Look("#0072B2", "o", "-"),
    "frequency": Look("#009E73", "s", (0, (5, 1.2))),
    "activation": Look("#E69F00", "^", (0, (3, 1.2, 1, 1.2))),
    "random": Look("#D55E00", "X", (0, (1.5, 1.2))),
}
WEIGHTS = Look("#777777", "d", (0, (4, 1.5)))
COLORS, LIGHT = "YlOrBr", 0.62  # of the heat map; numbers are white from that share of its scale on


@on_tables
def plot_by_tokens(table: pd.DataFrame) -> Figure:
    """Relative error of pruned experts, the median of each group, against the calibration tokens they saw: on
    calibration text, and on held-out text.

    `table` is that of `experts.by_tokens`; a panel for each criterion (down) and method (across).
    """
    with in_style():
        groups = list(dict.fromkeys(table.sort_values("least")["seen"]))
        fig, panels = panel_grid(table, "criterion", "method", height=2.3, sharey="row")
        for (criterion, method), ax in panels.items():
            part = table[(table["criterion"] == criterion) & (table["method"] == method)]
            for split, rows in part.groupby("split", sort=False):
                look = TEXT_LOOKS[split == CALIBRATION]
                x = rows["seen"].map(groups.index)
                ax.plot(
                    x,
                    rows["value"],
                    color=look.color,
                    marker=look.marker,
                    linestyle=look.line,
                    gid=f"split {split}",
                    zorder=3,
                )
                draw_band(ax, x, rows, look.color)
            category_axis(ax, groups, rotation=30)
            ax.set_title(say_mask(criterion, method))
        for row in dict.fromkeys(row for row, _ in panels):
            axes = [ax for (one, _), ax in panels.items() if one == row]
            log_scale(axes)
            axes[0].set_ylabel("relative error of an expert,\nmedian")
            for ax in axes if row == list(panels)[-1][0] else ():
                ax.set_xlabel("calibration tokens that the expert saw")
        names = {split == CALIBRATION: say_split(split) for split in table["split"]}
        finish(fig, {}, [handle(TEXT_LOOKS[which], word) for which, word in names.items()])
    return fig


@on_tables
def plot_foreign(table: pd.DataFrame) -> Figure:
    """What calibrating on another text costs, per cent of perplexity, as numbers on a heat map: text calibrated on
    (down), text read (across), a panel for each model.

    `table` is that of `experts.foreign`; 0 is the model calibrated on the text that it reads.
    """
    with in_style():
        names, texts = (list(dict.fromkeys(table[name])) for name in ("calibration", "split"))
        fig, panels = panel_grid(table.assign(one=""), "one", "model", height=0.3 * len(names) + 1.0, sharey=True)
        top = max(1.0, table["value"].max())
        for (_, model), ax in panels.items():
            cells = table[table["model"] == model].pivot(index="calibration", columns="split", values="value")
            cells = cells.reindex(index=names, columns=texts)
            drawn = ax.pcolormesh(
                np.ma.masked_invalid(cells.to_numpy()), cmap=COLORS, vmin=0, vmax=top, edgecolors="white", linewidth=1
            )
            drawn.set_gid(f"cost {model}")
            for (row, column), value in np.ndenumerate(cells.to_numpy()):
                if np.isnan(value):
                    continue
                color = "white" if value > LIGHT * top else "black"
                ax.text(column + 0.5, row + 0.5, f"{value:.1f}", ha="center", va="center", fontsize=8, color=color)
            ax.set_xticks(
                np.arange(len(texts)) + 0.5,
                [say_source(text.removesuffix("/held-out")) for text in texts],
                rotation=35,
                ha="right",
                rotation_mode="anchor",
            )
            ax.set_yticks(np.arange(len(names)) + 0.5, [say_source(name) for name in names])
            ax.set(xlim=(0, len(texts)), ylim=(len(names), 0), xlabel="text read")
            ax.tick_params(length=0)
            ax.grid(visible=False)
            ax.set_title(say_model(model))
        next(iter(panels.values())).set_ylabel("calibrated on")
        scale = [handle(Look(color, "s", ""), word, markersize=8) for color, word in COSTS.items()]
        finish(fig, {}, scale)
    return fig


COSTS = {"#FFF7BC": "perplexity as if calibrated on the text read", "#993404": "higher, numbers in %"}


@on_tables
def plot_rules(table: pd.DataFrame) -> Figure:
    """Perplexity, and the error of starved experts, against calibration windows, a line for each rule for starved
    experts; bands are intervals of the difference from the rule shrink.

    `table` is that of `experts.rules`: measures down, criteria and methods across.
    """
    with in_style():
        table = table.assign(mask=[say_mask(*one) for one in zip(table["criterion"], table["method"], strict=True)])
        fig, panels = panel_grid(table, "measure", "mask", height=2.3, sharey=False)
        for (measure, mask), ax in panels.items():
            rows = table[(table["measure"] == measure) & (table["mask"] == mask)]
            draw_named(ax, rows, "samples", "rule", RULE_LOOKS, "rule")
            number_axis(ax, sorted(table["samples"].unique()))
            ax.set_title(mask.replace(", ", ",\n") if measure == table["measure"].iloc[0] else "")
        for measure in dict.fromkeys(table["measure"]):
            axes = [ax for (row, _), ax in panels.items() if row == measure]
            share_log_scale(axes)
            axes[0].set_ylabel({PERPLEXITY: PERPLEXITY, STARVED_ERROR: "held-out error\nof starved experts"}[measure])
        for (measure, _), ax in panels.items():
            if measure == table["measure"].iloc[-1]:
                ax.set_xlabel("calibration windows")
        finish(fig, {}, [handle(RULE_LOOKS[name], name) for name in RULES if name in set(table["rule"])])
    return fig


@on_tables
def plot_dropped(table: pd.DataFrame) -> Figure:
    """Held-out perplexity (log scale) against the share of all parameters that is gone or zero: whole experts by
    criterion, single weights grey and hollow, a panel for each kind of repair.

    `table` is that of `experts_dropped.dropped`; lines start at the dense model, dotted; bands are intervals of the
    difference from it.
    """
    with in_style():
        shown = table.assign(repair=pd.Categorical(table["repair"], REPAIRS)).sort_values("repair", kind="stable")
        shown["repair"] = shown["repair"].astype(str)
        fig, panels = panel_grid(shown.assign(one=""), "one", "repair", height=3.1, sharey=True)
        styles = _dropped_looks(shown)
        for (_, repair), ax in panels.items():
            rows = shown[shown["repair"] == repair]
            dense = rows[rows["method"] == "dense"]["value"].iloc[0]
            black = METHOD_LOOKS["dense"]
            ax.axhline(dense, color=black.color, linestyle=black.line, linewidth=1.2, zorder=1, gid="dense")
            for (kind, criterion), line in rows[rows["method"] != "dense"].groupby(["kind", "criterion"], sort=False):
                line = line.sort_values("removed")
                look = styles[kind, criterion]
                ax.plot(
                    [0, *line["removed"]],
                    [dense, *line["value"]],
                    color=look.color,
                    marker=look.marker,
                    linestyle=look.line,
                    markerfacecolor=look.color if kind == KIND else "white",
                    markevery=slice(1, None),
                    zorder=3,
                    gid=f"{kind} {criterion}",
                )
                draw_band(ax, line["removed"], line, look.color)
            plain_axis(ax.xaxis)
            whole, single = REPAIRS[repair]
            more = "" if whole == single else f"\n{say_method(whole)}; weights: {say_method(single)}"
            ax.set_title(f"{repair}{more.replace('BR+GP[repair=liar]', 'LIAR, then BR+GP')}")
            ax.set_xlabel("parameters gone or zero, %")
        log_scale(panels.values())
        next(iter(panels.values())).set_ylabel("held-out perplexity")
        notes = [
            handle(look, f"experts by {say_criterion(name)}")
            if kind == KIND
            else handle(look, f"single weights, {say_criterion(name)}", markerfacecolor="white")
            for (kind, name), look in styles.items()
        ]
        finish(fig, {}, [*notes, handle(METHOD_LOOKS["dense"], "dense")])
    return fig


def _dropped_looks(table: pd.DataFrame) -> dict[tuple[str, str], Look]:
    """The look of each kind and criterion, in the legend's order; of single weights, the first is grey."""
    names, weights = (dict.fromkeys(table[table["kind"] == kind]["criterion"]) for kind in (KIND, "weights"))
    experts = dealt([*(name for name in EXPERT_LOOKS if name in names), *names], EXPERT_LOOKS)
    hollow = {name: spare(place) if place else WEIGHTS for place, name in enumerate(weights)}
    return {(KIND, name): look for name, look in experts.items()} | {
        ("weights", name): look for name, look in hollow.items()
    }
