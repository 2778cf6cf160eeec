"""What the runs of notebook 09 say of repairs, in words and beside the paper (2407.13331): findings from the tables of
`structured_encoder`.
"""

import pandas as pd

from analysis.errors import UsageError
from analysis.present.encoder_runs import (
    ENOUGH,
    HALF,
    METRIC_LABELS,
    PLACE,
    TASK,
    WEIGHTS_ALONE,
    kinds,
    repair_looks,
    say_kind,
    say_repair,
    tasks,
)
from analysis.present.finding import Finding
from analysis.present.statistics import compare, decided, holm
from analysis.present.tables import on_tables

# repairs and simpler ones
ORDER = [
    ("compensate", "LR"),
    ("scale", "LR"),
    ("LIAR", "LR"),
    ("LIAR", "compensate"),
    ("LIAR", "scale"),
    ("LIAR+GP", "LIAR"),
    ("BR+GP[repair=liar]", "LIAR"),
]


@on_tables
def say_survival(table: pd.DataFrame) -> Finding:
    """Per task and kind: the dense score, up to which share each repair keeps 98 per cent of it, and what is kept at
    the highest share.
    """
    lines = []
    for (task, metric, kind), rows in table.groupby([*TASK, "kind"], sort=False):
        of_all = rows.drop_duplicates("removed").set_index("removed")["parameters"]
        reach = ", ".join(f"{say_repair(method)} {_reach(line)}" for method, line in rows.groupby("method", sort=False))
        last = rows[rows["removed"] == rows["removed"].max()]
        ends = ", ".join(f"{say_repair(row.method)} {row.value:.0f} %" for row in last.itertuples())
        end = last["removed"].iloc[0]
        lines.append(
            f"- **{task}, {kind}**: dense {METRIC_LABELS[metric]} {rows['dense'].mean():.3f}. {ENOUGH:.0f} % of it is"
            f" kept up to: {reach}. With {end:g} % of {say_kind(kind)} removed, {of_all[end]:.0f} % of all parameters:"
            f" {ends}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_half(table: pd.DataFrame) -> Finding:
    """Per task and kind of which about half of ALL parameters were removed: what each repair keeps, with its interval,
    beside the 98 per cent of the paper's abstract.
    """
    near = table[(table["parameters"] - HALF).abs() <= HALF / 10]
    if near.empty:
        return Finding(
            f"No run removed about half of all parameters (at most {table['parameters'].max():.0f} %), so the paper's"
            f" {ENOUGH:.0f} % cannot be tested here."
        )
    lines, verdicts = [], []
    for (task, kind, removed), rows in near.groupby(PLACE, sort=False):
        parts = []
        for row in rows.itertuples():
            interval = f" [{row.low:.0f}, {row.high:.0f}]" if row.low == row.low else ""
            parts.append(f"{say_repair(row.method)} {row.value:.0f} %{interval}")
            if row.method == "LIAR":
                verdicts.append("at least" if row.low >= ENOUGH else "less" if row.high < ENOUGH else "undecided")
        lines.append(
            f"- **{task}**, {removed:g} % of {say_kind(kind)}, {rows['parameters'].mean():.0f} % of all parameters:"
            f" {', '.join(parts)}."
        )
    if verdicts:
        lines.append(
            f"\nThe paper's abstract claims {ENOUGH:.0f} % for LIAR on BERT-base. Here it keeps that much in"
            f" {verdicts.count('at least')} of {len(verdicts)} cases, less in {verdicts.count('less')}; in"
            f" {verdicts.count('undecided')} the interval holds both."
        )
    return Finding("\n".join(lines))


@on_tables
def say_order(table: pd.DataFrame) -> Finding:
    """Each repair against a simpler one, over all tasks, kinds and shares: what it keeps more, in per cent of the dense
    score, in the mean over them, and at how many of them the difference within seeds is decided (paired t, Holm's
    correction over the shares).
    """
    where = [*TASK, "kind", "criterion", "removed", "samples"]
    lines = []
    for other, one in ORDER:
        pairs = [(compare(more, less), more, less) for more, less in _beside(table, where, other, one)]
        if not pairs:
            continue
        sure = [decided(p) for p in holm([found.p for found, *_ in pairs])]
        gains = pd.Series([found.difference for found, *_ in pairs])
        up, down = (sum(ok and sign * gain > 0 for ok, gain in zip(sure, gains, strict=True)) for sign in (1, -1))
        lines.append(
            f"- **{say_repair(other)}** against {say_repair(one)}: {gains.mean():+.1f} points in the mean, higher at"
            f" {int((gains > 0).sum())} of {len(gains)} shares; decided, several being compared: higher at {up}, lower"
            f" at {down}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_examples(table: pd.DataFrame) -> Finding:
    """Per task and share of structures: what each repair keeps with the fewest and the most calibration examples, and
    whether the last step up still changes it (paired t over seeds, Holm's correction over tasks, shares and repairs).
    """
    numbers = sorted(table["samples"].unique())
    if len(numbers) < 2:
        raise UsageError(f"calibration examples: only runs with {numbers[0]}; give at least two numbers")
    lines, steps = [], []
    for (task, kind, removed), rows in table.groupby(PLACE, sort=False):
        parts = []
        for method, line in rows.groupby("method", sort=False):
            line = line.set_index("samples").reindex(numbers)
            kept = " → ".join(f"{value:.0f}" if value == value else "–" for value in line["value"])
            parts.append(f"{say_repair(method)} {kept}")
            found = compare(line.loc[numbers[-1]], line.loc[numbers[-2]])
            if found.difference == found.difference:
                where = f"{task}, {removed:g} % of {say_kind(kind)}, {say_repair(method)}"
                steps.append((found.p, where, found.difference))
        lines.append(f"- **{task}, {removed:g} % of {say_kind(kind)}**, % of the dense score kept: {'; '.join(parts)}.")
    changed = [
        f"{name} ({difference:+.0f})"
        for p, (_, name, difference) in zip(holm([p for p, *_ in steps]), steps, strict=True)
        if decided(p)
    ]
    last = f"From {numbers[-2]} to {numbers[-1]}"
    if steps:
        mean = sum(difference for *_, difference in steps) / len(steps)
        said = (
            f"{last} a score moves by {mean:+.1f} points in the mean; the step is decided in {len(changed)} of"
            f" {len(steps)} cases{': ' + '; '.join(changed) if changed else ''}"
        )
    else:
        said = f"{last} no repair was run with the same seeds"
    return Finding("\n".join(lines) + f"\n\nCalibration examples: {', '.join(map(str, numbers))}. {said}.")


@on_tables
def say_parts(table: pd.DataFrame) -> Finding:
    """Per task, kind and share: what moving the bias alone, the weights alone and both give back, in per cent of the
    dense score, and which of the two alone gives more.

    Raises UsageError unless LR, compensate, LIAR[bias=false] and LIAR were all run.
    """
    needed, lines = {"LR": "", "compensate": "bias", WEIGHTS_ALONE: "weights", "LIAR": "both"}, []
    if missing := [method for method in needed if method not in set(table["method"])]:
        raise UsageError(
            f"what bias and weights give back: no runs of {', '.join(missing)}; put {', '.join(needed)} into the parts"
        )
    for (task, kind), rows in table.groupby(["task", "kind"], sort=False):
        wide = rows.pivot(index="removed", columns="method", values="value")
        gains = wide[list(needed)[1:]].sub(wide["LR"], axis=0).rename(columns=needed)
        parts = [
            f"{removed:g} % removed: " + ", ".join(f"{word} {gain:+.1f}" for word, gain in row.items())
            for removed, row in gains.iterrows()
        ]
        more, both = (
            int((gains["weights"] > gains["bias"]).sum()),
            int((gains["both"] >= gains[["bias", "weights"]].max(axis=1)).sum()),
        )
        verdict = (
            f"weights give more than the bias at {more} of {len(gains)} shares, both together at least as much as"
            f" either at {both}"
        )
        lines.append(f"- **{task}, {kind}**, given back, % of the dense score, {'; '.join(parts)}; {verdict}.")
    return Finding("\n".join(lines))


@on_tables
def beside_claims(table: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """Per cent of the dense score that each repair keeps, and the seconds it took, beside the claims of 2407.13331:
    where half of a kind's structures are gone (or the nearest share run), and where half of all parameters are.

    The paper's claim is of BERT-base and of parameters. Rows (task, kind, removed), the first column says how many of
    all parameters are gone. seconds: scores, masks and repairs of one run, mean over its runs at all shares.
    """
    near = table[_nearest(table, "removed") | (_nearest(table, "parameters") & (table["parameters"] >= 0.9 * HALF))]
    out = near.pivot(index=PLACE, columns="method", values="value").round(1)
    out = out[list(repair_looks(near["method"]))].rename(columns=lambda name: f"{say_repair(name)}, %")
    work = cost[cost["stage"].isin(("structures", "statistics", "mask", "repair"))]
    work = work.assign(task=tasks(work), kind=kinds(work))
    work = work[work["method"] == "LIAR"].groupby(["task", "kind", "run"])["seconds"].sum()
    spent = work.groupby(["task", "kind"]).mean().round(2)
    out.insert(0, "parameters removed, %", near.groupby(PLACE)["parameters"].mean().round(1))
    out["seconds, LIAR"] = [spent.get((task, kind), float("nan")) for task, kind, _ in out.index]
    out = out.reindex(near.set_index(PLACE).index.unique())
    paper = pd.DataFrame(
        {"parameters removed, %": HALF, "LIAR, %": ENOUGH},
        index=pd.MultiIndex.from_tuples([("paper, BERT-base", "parameters", HALF)], names=out.index.names),
    )
    return pd.concat([out, paper]).rename_axis(columns=None)


def _beside(table: pd.DataFrame, where: list[str], other: str, one: str) -> list[tuple[pd.Series, pd.Series]]:
    """The rows of two methods that share everything in `where`."""
    rows = {method: table[table["method"] == method].set_index(where) for method in (other, one)}
    shared = [key for key in rows[other].index if key in rows[one].index]
    return [(rows[other].loc[key], rows[one].loc[key]) for key in shared]


def _nearest(table: pd.DataFrame, share: str) -> pd.Series:
    away = (table[share] - HALF).abs()
    return away == away.groupby([table["task"], table["kind"]]).transform("min")


def _reach(line: pd.DataFrame) -> str:
    """The largest share removed up to which every smaller one keeps enough, too."""
    line = line.sort_values("removed")
    kept = line["removed"][(line["value"] >= ENOUGH).cummin()]
    return f"{kept.iloc[-1]:g} %" if len(kept) else f"less than {line['removed'].iloc[0]:g} %"
