"""Whole experts taken out of a mixture beside single weights at the same number of parameters. Tables and findings of
notebook 11; the figure is in `experts_figures.py`.

Perplexity is that of the first held-out text. A repair of experts stands beside the repair of single weights that does
as much: LIAR beside ridge, LIAR and then gradient steps beside gradient steps.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.errors import UsageError
from analysis.present.finding import Finding, say_half, say_number, say_ratio
from analysis.present.statistics import compare, decided, holm
from analysis.present.structured_decoder import FLOPS, LATENCY, REMOVED, UNPRUNED
from analysis.present.style import say_criterion
from analysis.present.tables import on_tables, over_seeds
from analysis.schema import CALIBRATION

REPAIRS = {  # what is done to what stays: the methods of whole experts, and of single weights
    "mask alone": ("LR", "LR"),
    "least squares": ("LIAR", "ridge"),
    "gradient steps": ("BR+GP[repair=liar]", "BR+GP"),
}
KIND = "experts"


@on_tables
def same_count(size: pd.DataFrame, matrices: pd.DataFrame, structures: pd.DataFrame) -> list[str]:
    """Patterns of single weights that remove as many parameters as the runs of `size` removed with whole experts,
    smallest first: ["22.3%", "44.7%"]; shares of the weights of all prunable matrices, to a tenth of a per cent.

    Raises UsageError where nothing was measured.
    """
    wide = _measured(size).pivot(index="run", columns="which", values="parameters")
    entries = matrices.assign(entries=matrices["rows"] * matrices["columns"])
    inside = entries["matrix"].str.contains(r"experts\.\d+\.")
    kept = structures.set_index(["run", "block"]).eval("structures / kept")
    times = entries.join(kept.rename("times"), on=["run", "block"])["times"].fillna(1.0).where(inside, 1.0)
    dense = (entries["entries"] * times).groupby(entries["run"]).sum()
    shares = ((wide["dense"] - wide["pruned"]) / dense.reindex(wide.index)).round(3)
    return [f"{100 * value:.1f}%" for value in sorted(set(shares)) if value > 0]


def _measured(size: pd.DataFrame) -> pd.DataFrame:
    if size.empty:
        raise UsageError("whole experts: no run was measured; give grid shrink=True for the runs of one method")
    return size


@on_tables
def dropped(perplexity: pd.DataFrame, size: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """Perplexity of models without whole experts, and without as many single weights: [repair, pattern, criterion,
    method, ..., kind, removed]; the dense model is method "dense" of every repair.

    kind: "experts" or "weights". removed: per cent of all parameters that are gone or zero, mean over seeds. Raises
    UsageError for experts whose size nobody measured, or methods that are none of `REPAIRS`.
    """
    text = next(name for name in perplexity["split"] if name != CALIBRATION)
    rows = perplexity[perplexity["split"] == text]
    whole = _measured(size)[size["which"] == "dense"]["parameters"].max()
    gone = matrices.assign(gone=matrices["rows"] * matrices["columns"] - matrices["kept"]).groupby("run")["gone"].sum()
    wide = size.pivot(index=["run", "pattern"], columns="which", values="parameters")
    cut = (wide["dense"] - wide["pruned"]).groupby("pattern").mean()
    pruned = rows[rows["which"] == "pruned"]
    pruned = pruned.assign(kind=pruned["pattern"].str.startswith(f"{KIND}-").map({True: KIND, False: "weights"}))
    removed = pruned["pattern"].map(cut).where(pruned["kind"] == KIND, pruned["run"].map(gone))
    if removed.isna().any():
        raise UsageError(
            f"whole experts: nobody measured the size of {', '.join(sorted(set(pruned['pattern'][removed.isna()])))};"
            " give one run of each shrink=True"
        )
    names = {
        (kind, method): repair for repair, some in REPAIRS.items() for kind, method in zip((KIND, "weights"), some)
    }
    keys = list(zip(pruned["kind"], pruned["method"], strict=True))
    if odd := sorted({f"{kind} {method}" for kind, method in keys if (kind, method) not in names}):
        raise UsageError(f"whole experts: {', '.join(odd)} is none of the repairs compared; see REPAIRS")
    pruned = pruned.assign(removed=100 * removed / whole, repair=[names[key] for key in keys])
    dense = rows[rows["which"] == "dense"].drop_duplicates("seed").assign(**UNPRUNED, removed=0.0, kind="")
    dense = [dense.assign(repair=repair) for repair in REPAIRS if repair in set(pruned["repair"])]
    rows = pd.concat([*dense, pruned]).drop_duplicates(["repair", "pattern", "criterion", "method", "seed"])
    by = ["repair", "pattern", "criterion", "method"]
    out = over_seeds(rows, by, "perplexity", paired=UNPRUNED, ratio=True)
    return out.join(rows.groupby(by)[["removed"]].mean().join(rows.groupby(by)["kind"].first()), on=by)


@on_tables
def say_dropped(table: pd.DataFrame) -> Finding:
    """Per share and repair: the perplexity of every criterion of experts, and the best beside single weights of the
    same count, within seeds, Holm's correction over all that could have been best. `table` is that of `dropped`.
    """
    lines = []
    experts = table[table["kind"] == KIND]
    for pattern, part in experts.groupby("pattern", sort=False):
        lines.append(f"- **{pattern}**, {part['removed'].mean():.1f} % of all parameters:")
        for repair in [name for name in REPAIRS if name in set(part["repair"])]:
            own = part[part["repair"] == repair]
            others = table[(table["kind"] == "weights") & (table["repair"] == repair)]
            told = ", ".join(f"{_say(row)} {say_number(row['value'])}{_range(row)}" for _, row in own.iterrows())
            verdict = ""
            if len(others):
                weights = others.loc[(others["removed"] - part["removed"].mean()).abs().idxmin()]
                best = own.loc[own["value"].idxmin()]
                changes = [compare(row, weights, ratio=True) for _, row in own.iterrows()]
                p = dict(zip(own.index, holm([change.p for change in changes]), strict=True))[best.name]
                change = compare(best, weights, ratio=True)
                better = "experts" if change.difference < 0 else "single weights"
                verdict = (
                    f"; single weights ({say_criterion(weights['criterion'])} {weights['pattern']})"
                    f" {say_number(weights['value'])},"
                    f" {_say(best)} beside them {say_ratio(change)}: {better if decided(p) else 'undecided'}"
                )
            lines.append(f"    - {repair}: {told}{verdict}.")
    return Finding("\n".join(lines))


@on_tables
def say_criteria(table: pd.DataFrame, criterion: str = "reap") -> Finding:
    """What the choice of experts is worth: `criterion` beside every other one, per share and repair, within seeds;
    clear ones in bold, Holm's correction over all. `table` is that of `dropped`.
    """
    experts = table[table["kind"] == KIND]
    pairs = [
        (row, base.iloc[0])
        for _, part in experts.groupby(["pattern", "repair"], sort=False)
        for base in [part[part["criterion"] == criterion]]
        for _, row in part[part["criterion"] != criterion].iterrows()
        if len(base)
    ]
    found = [compare(base, row, ratio=True) for row, base in pairs]
    lines: dict[tuple, list[str]] = {}
    for (row, _), change, p in zip(pairs, found, holm([change.p for change in found]), strict=True):
        told = f"{row['repair']} {say_ratio(change)}"
        lines.setdefault((row["pattern"], row["criterion"]), []).append(f"**{told}**" if decided(p) else told)
    said = [
        f"- **{pattern}**, {say_criterion(criterion)} beside {say_criterion(other)}: {', '.join(told)}."
        for (pattern, other), told in lines.items()
    ]
    return Finding("\n".join(said) + "\n\nIn bold: clear after Holm's correction over all of these.")


@on_tables
def say_gain(shapes: pd.DataFrame) -> Finding:
    """Per pattern: parameters gone, and what that does to operations and to the time of a window. `shapes` is that of
    `structured_decoder.shapes`.
    """
    lines = []
    for pattern, rows in shapes.groupby("pattern", sort=False):
        at = rows.set_index("measure")
        time = at.loc[LATENCY]
        lines.append(
            f"- **{pattern}**: {at.loc[REMOVED, 'value']:.1f} % of all parameters gone, {at.loc[FLOPS, 'value']:.3f}"
            f" times fewer operations of a token; a window {time['value']:.2f}{say_half(time, '.2f')} times"
            " faster."
        )
    return Finding("\n".join(lines))


def _say(row: pd.Series) -> str:
    return say_criterion(row["criterion"])


def _range(row: pd.Series) -> str:
    """The interval of a row in brackets, where it has one."""
    return f" ({say_number(row['low'])} to {say_number(row['high'])})" if row["low"] == row["low"] else ""


def methods(repairs: Sequence[str], kind: str) -> list[str]:
    """The methods of whole experts ("experts") or single weights ("weights") that some of `REPAIRS` stand for.

    Raises UsageError for a repair that is none.
    """
    if unknown := [name for name in repairs if name not in REPAIRS]:
        raise UsageError(f"whole experts: {', '.join(unknown)} is none of {', '.join(REPAIRS)}")
    return [REPAIRS[name][kind != KIND] for name in repairs]
