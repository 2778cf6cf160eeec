"""Units trained until more epochs stop helping: perplexity against operations and memory. Table, figure and finding of
notebook 04, beside `granularity.py`.

At equal epochs a large unit has taken fewer steps in all than the small ones it consists of. Whether large units are
worse, or only less trained, shows where each has come to its plateau.
"""

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis.present.finding import Finding, say_points
from analysis.present.granularity import by_streams, say_unit, solver_flops, solver_prices
from analysis.present.panels import draw_points, finish, handle, log_scale, panel_grid
from analysis.present.statistics import compare, decided, holm
from analysis.present.style import Look, in_style, say_criterion, say_split, short_unit, unit_order
from analysis.present.tables import above_dense, held_out, on_tables, over_seeds, priced

MARKERS = "osD^vP"
FLOPS, MEMORY = "gflops", "memory_mib"
PRICES = {FLOPS: "GFLOPs of training (counted)", MEMORY: "MiB the solver holds (counted)"}


@on_tables
def convergence(
    perplexity: pd.DataFrame,
    cost: pd.DataFrame,
    steps: pd.DataFrame,
    matrices: pd.DataFrame,
    settled: float,
    *,
    criterion=None,
    split=None,
) -> pd.DataFrame:
    """Per cent that held-out perplexity lies above the dense model's, by unit and epochs: [criterion, split, streams,
    granularity, epochs, value, ..., memory_mib, gflops, seconds, plateau, falling].

    Per cents are taken within a run, on the same windows. Every number of epochs is a run of its own, whose learning
    rate falls to 0 at its end. plateau marks one row of each unit: the fewest epochs to which no longer run adds more
    than `settled` per cent of perplexity. falling: the plateau is the longest run, and that gained more than `settled`
    on the one before, so it may be none.
    """
    by = ["criterion", "split", "streams", "granularity", "epochs"]
    rows = by_streams(priced(above_dense(held_out(perplexity, criterion, split)), cost))
    rows = rows[rows["streams"].ne("") & rows["method"].ne("ridge")]
    rows = rows.assign(
        gflops=rows["run"].map(solver_flops(cost, steps, matrices) / 1e9),
        epochs=rows["run"].map(steps.groupby("run")["epoch"].max()),
    )
    out = over_seeds(rows, by, "above").merge(solver_prices(rows, by), on=by)
    out = out.assign(plateau=False, falling=False)
    for _, line in out.groupby(by[:-1], sort=False):
        place, falling = plateau(list(line["value"]), settled)
        out.loc[line.index[place], ["plateau", "falling"]] = True, falling
    return out


def plateau(above: Sequence[float], settled: float) -> tuple[int, bool]:
    """The first place after which no value is lower by more than `settled` per cent of perplexity, and whether it is
    the last one and lower than all before by more: then there may be no plateau yet.

    above: per cents above the dense model, in order of epochs.
    """
    place = next(
        place for place, value in enumerate(above) if 100 + value <= (100 + min(above[place:])) * (1 + settled / 100)
    )
    return place, 0 < place == len(above) - 1


@on_tables
def plot_convergence(table: pd.DataFrame) -> Figure:
    """Perplexity above the dense model's against counted operations, one line per unit through its numbers of epochs,
    and against memory, from the fewest epochs (hollow) to the plateau (filled).

    `table` is that of `convergence` for one choice of streams; one row of panels per held-out text. Bars: intervals of
    the difference from the dense model within a seed, at the plateau.
    """
    with in_style():
        styles = unit_looks(table["granularity"])
        splits = list(table["split"].unique())
        places = pd.DataFrame([(split, price) for split in splits for price in PRICES], columns=["split", "price"])
        fig, panels = panel_grid(places, "split", "price", height=3.1, sharey="row", sharex="col")
        for (split, price), ax in panels.items():
            ax.set_title("")
            for unit, look in styles.items():
                rows = table[(table["split"] == split) & (table["granularity"] == unit)]
                if price == MEMORY:
                    rows = rows[rows["plateau"] | (rows["epochs"] == rows["epochs"].min())]
                ax.plot(rows[price], rows["value"], color=look.color, zorder=3, gid=f"line {unit}")
                for filled, part in rows.groupby("plateau"):
                    bare = part if filled else part.assign(low=float("nan"), high=float("nan"))
                    draw_points(
                        ax,
                        part[price],
                        bare,
                        color=look.color,
                        marker=look.marker,
                        hollow=not filled,
                        gid=f"unit {unit}",
                        size=5.5,
                    )
        for price in PRICES:
            log_scale([ax for (_, column), ax in panels.items() if column == price], "x")
        for (split, price), ax in panels.items():
            ax.set_ylim(bottom=0)
            if split == splits[-1]:
                ax.set_xlabel(PRICES[price])
            elif price == FLOPS:
                ax.set_xlabel("")
        for split in splits:
            panels[split, FLOPS].set_ylabel(f"perplexity, % above dense\n{say_split(split)}")
        notes = [handle(look, short_unit(unit), linestyle="-") for unit, look in styles.items()]
        hollow = {"linestyle": "", "markerfacecolor": "white"}
        notes.append(handle(Look("#555555", "o", ""), "at its plateau"))
        notes.append(handle(Look("#555555", "o", ""), "before or after it (right: fewest epochs)", **hollow))
        finish(fig, {}, notes)
    return fig


def unit_looks(units) -> dict[str, Look]:
    """The look of each unit, from fine (dark) to coarse (light), in an order that stays one for every eye."""
    order = unit_order(units)
    shades = mpl.colormaps["viridis"]
    return {
        unit: Look(to_hex(shades(0.88 * place / max(len(order) - 1, 1))), MARKERS[place % len(MARKERS)], "-")
        for place, unit in enumerate(order)
    }


@on_tables
def say_convergence(table: pd.DataFrame) -> Finding:
    """Per held-out text: where each unit comes to its plateau, how far the units lie apart there and after the fewest
    epochs, and which differ from sub-blocks (paired t tests, corrected by Holm).

    `table` is that of `convergence`. 2510.14444 (v2) claims that quality is essentially constant over a wide range of
    sizes.
    """
    lines = []
    for (criterion, split, streams), rows in table.groupby(["criterion", "split", "streams"], sort=False):
        flat = rows[rows["plateau"]].set_index("granularity")
        few = rows[rows["epochs"] == rows["epochs"].min()].set_index("granularity")
        where = f"- **{say_criterion(criterion)} {streams}**, {say_split(split)}"
        reached = ", ".join(
            f"{say_unit(unit)} {row['value']:.1f} % above dense after"
            f" {'more than ' if row['falling'] else ''}{row['epochs']} epochs"
            for unit, row in flat.iterrows()
        )
        lines.append(f"{where}, at the plateaus: {reached}.")
        coarse = [unit for unit in flat.index if unit != "matrix"]
        if len(coarse) < 2:
            continue
        apart, before = (part.loc[coarse, "value"].max() - part.loc[coarse, "value"].min() for part in (flat, few))
        lines.append(
            f"{where}: sizes above a matrix lie {before:.1f} points apart after {few['epochs'].iloc[0]} epochs and"
            f" {apart:.1f} at their plateaus{_say_differences(flat)}."
        )
    return Finding("\n".join(lines))


def _say_differences(flat: pd.DataFrame) -> str:
    """Each unit against sub-blocks at the plateaus."""
    others = [unit for unit in flat.index if unit != "sub-block"]
    if "sub-block" not in flat.index or not others:
        return ""
    changes = [compare(flat.loc[unit], flat.loc["sub-block"]) for unit in others]
    said = [
        f"{say_unit(unit)} {say_points(change)}"
        f" ({('worse' if change.difference > 0 else 'better') if decided(p) else 'undecided'})"
        for unit, change, p in zip(others, changes, holm([change.p for change in changes]), strict=True)
    ]
    return f"; against sub-blocks {', '.join(said)}"
