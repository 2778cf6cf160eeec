"""What the tables of `vision.py` say, computed: the findings of notebook 13."""

from math import exp, expm1

import pandas as pd

from analysis.errors import UsageError
from analysis.present.depth import share as asked_share
from analysis.present.finding import Finding, enumerated, say_half
from analysis.present.statistics import Paired, compare, decided, holm
from analysis.present.style import say_criterion, say_method, say_task
from analysis.present.tables import on_tables
from analysis.present.vision import (
    ALL,
    CLOSED,
    KINDS,
    LOCAL,
    MEAN,
    NOTHING,
    PROJECTOR,
    STATES,
    WAYS,
    recoveries_of,
    say,
)

ENOUGH = 95.0  # per cent of the dense model's answers that a recovery called enough must keep


@on_tables
def say_met(table: pd.DataFrame) -> Finding:
    """Per way: what share of the weights in the language part's blocks each pattern met. `table` is that of `met`."""
    lines = []
    for name, rows in table.groupby("way", sort=False):
        shares = [f"asked {asked_share(row.pattern):g} %, met {row.value:.1f} %" for row in rows.itertuples()]
        lines.append(f"- **{name.capitalize()}** ({WAYS.get(name, name)}): {'; '.join(shares)}.")
    return Finding("\n".join(lines))


@on_tables
def say_guessing(table: pd.DataFrame) -> Finding:
    """Which tasks the dense model is above chance at by more than two standard errors, and a warning for those where it
    is not: what is lost there cannot be seen. `table` is that of `answered`.
    """
    sure: list[str] = []
    unsure: list[str] = []
    for task, rows in table[table["task"] != MEAN].groupby("task", sort=False):
        first = rows.iloc[0]
        words = f"{say_task(task)} {first['dense']:.0f} ± {first['error']:.0f} % (chance {first['chance']:.0f} %)"
        (sure if first["dense"] - first["chance"] > 2 * first["error"] else unsure).append(words)
    said = [f"The dense model answers above chance: {enumerated(sure)}."] if sure else []
    if unsure:
        said.append(
            f"**Within two standard errors of chance: {enumerated(unsure)}.** Nothing can be said of what is lost"
            " there."
        )
    return Finding(" ".join(said))


@on_tables
def say_lost(table: pd.DataFrame) -> Finding:
    """Per share: what depth and width lose without recovery, nats above dense, and which loses less, within seeds, with
    Holm's correction over the shares. `table` is that of `recovered`.
    """
    rows = table[table["recovery"] == NOTHING]
    parts, changes = [], []
    for number in sorted(set(rows["pattern"].map(asked_share))):
        some = rows[rows["pattern"].map(asked_share) == number].set_index("way")
        if not {"depth", "width"} <= set(some.index):
            continue
        depth, width = some.loc["depth"], some.loc["width"]
        changes.append(compare(width, depth, ratio=True))
        parts.append(f"{number:g} %: depth {depth['value']:.3f}, width {width['value']:.3f}")
    if not parts:
        raise UsageError("lost without recovery: no share was taken out both ways without recovery (LR)")
    sure = [decided(p) for p in holm([change.p for change in changes])]
    ways = ["width" if change.difference < 0 else "depth" for change in changes]
    said = [f"{part}; less by {way}{'' if ok else ' (undecided)'}" for part, way, ok in zip(parts, ways, sure)]
    return Finding("\n".join(f"- {line}." for line in said))


@on_tables
def say_back(table: pd.DataFrame) -> Finding:
    """Per way and share: how much of what is lost each recovery gives back, in per cent of the nats, and which gives
    back most. `table` is that of `recovered`. Raises UsageError where nothing (LR) was not run.
    """
    lines = []
    for (name, pattern), rows in table.groupby(["way", "pattern"], sort=False):
        own = rows.set_index("recovery")["value"]
        if NOTHING not in own:
            raise UsageError(f"given back: {pattern} was not run without recovery (LR)")
        back = {word: 100 * (1 - own[word] / own[NOTHING]) for word in recoveries_of(own.index) if word != NOTHING}
        if not back:
            continue
        best = max(back, key=lambda word: back[word])
        parts = [f"{say(word)} {value:.0f} %" for word, value in back.items()]
        lines.append(
            f"- **{name.capitalize()}, {asked_share(pattern):g} %** ({own[NOTHING]:.3f} nats lost): {', '.join(parts)};"
            f" most: {say(best)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_beside_projector(table: pd.DataFrame) -> Finding:
    """Every other recovery against the projector trained alone, per way and share: how much less of the nats is lost,
    by ratios within seeds, with Holm's correction over the recoveries. `table` is that of `recovered`.
    """
    return Finding("\n".join(_against(table, PROJECTOR, [CLOSED, LOCAL])))


@on_tables
def say_beside_states(table: pd.DataFrame) -> Finding:
    """Whether distillation of hidden states with the next token is the best of all that train the whole model, per way
    and share, and how the repairs that never run it whole compare, by ratios within seeds, with Holm's correction over
    the recoveries. `table` is that of `recovered`.
    """
    return Finding("\n".join(_against(table, STATES, [w for w in recoveries_of(table["recovery"]) if w != NOTHING])))


def _against(table: pd.DataFrame, reference: str, others: list[str]) -> list[str]:
    """A line for each way: by share, how many per cent more (+) or less of the nats each of `others` leaves lost than
    `reference`.
    """
    lines: dict[str, list[str]] = {}
    for (name, pattern), rows in table.groupby(["way", "pattern"], sort=False):
        own = {row["recovery"]: row for _, row in rows.iterrows()}
        beside = [word for word in others if word in own and word != reference]
        if reference not in own or not beside:
            continue
        changes = {word: compare(own[word], own[reference], ratio=True) for word in beside}
        sure = dict(zip(beside, map(decided, holm([change.p for change in changes.values()])), strict=True))
        said = [f"{say(w)} {_percent(changes[w])}{'' if sure[w] else ' (undecided)'}" for w in beside]
        lines.setdefault(str(name), []).append(f"{asked_share(pattern):g} %: {', '.join(said)}")
    if not lines:
        raise UsageError(f"beside {say(reference)}: it was run at no share together with another recovery")
    return [
        f"- **{name.capitalize()}**, nats lost beside {say(reference)}: {'; '.join(said)}."
        for name, said in lines.items()
    ]


@on_tables
def say_answers(table: pd.DataFrame) -> Finding:
    """Per way and share: per cent of the dense model's accuracy (mean over tasks) without recovery, with the projector
    alone, and with the best recovery, what guessing would keep beside; and up to which share the projector is enough.
    `table` is that of `answered`.
    """
    rows = table[table["task"] == MEAN]
    lines = []
    for name, some in rows.groupby("way", sort=False):
        parts, enough = [], []
        for pattern, own in some.groupby("pattern", sort=False):
            best = own.loc[own["value"].idxmax()]
            chosen = {row["recovery"]: row for _, row in own.iterrows()}
            told = [
                f"{say(word)} {chosen[word]['value']:.0f}{say_half(chosen[word], '.0f')}"
                for word in (NOTHING, PROJECTOR)
                if word in chosen
            ]
            told.append(f"best {say(best['recovery'])} {best['value']:.0f}{say_half(best, '.0f')}")
            parts.append(f"{asked_share(pattern):g} %: {', '.join(told)}")
            if PROJECTOR in chosen and chosen[PROJECTOR]["value"] >= ENOUGH:
                enough.append(f"{asked_share(pattern):g} %")
        said = f"at {enumerated(enough)}" if enough else "at no share"
        lines.append(
            f"- **{name.capitalize()}**, per cent of the dense model's right answers (guessing:"
            f" {some['chance'].iloc[0]:.0f}): {'; '.join(parts)}. The projector alone keeps {ENOUGH:g} % {said}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_tasks(table: pd.DataFrame) -> Finding:
    """Per task: per cent right of the dense model, and without recovery at every share, both ways. `table` is that of
    `answered`.
    """
    lines = []
    rows = table[(table["task"] != MEAN) & (table["recovery"] == NOTHING)]
    for task, some in rows.groupby("task", sort=False):
        parts = [
            f"{name} {', '.join(f'{row.value:.0f} ({asked_share(row.pattern):g} % out)' for row in own.itertuples())}"
            for name, own in some.groupby("way", sort=False)
        ]
        first = some.iloc[0]
        lines.append(
            f"- **{say_task(task)}**, per cent right: dense {first['dense']:.0f}, guessing {first['chance']:.0f};"
            f" without recovery by {'; by '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_fed(table: pd.DataFrame) -> Finding:
    """Per way and recovery: what part of the nats that it gives back with the most windows it gives back with fewer;
    their nats, where it gives none back. `table` is that of `fed`.
    """
    lines = []
    for (name, pattern), rows in table.groupby(["way", "pattern"], sort=False):
        lost = rows[rows["recovery"] == NOTHING].set_index("samples")["value"]
        most = rows["samples"].max()
        parts = []
        for word in recoveries_of(rows["recovery"]):
            own = rows[rows["recovery"] == word].set_index("samples")["value"]
            back = lost - own
            if word == NOTHING or most not in back.index:
                continue
            few = [n for n in sorted(back.index) if n != most]
            told = [f"{100 * back[n] / back[most]:.0f} % of it" if back[most] > 0 else f"{back[n]:.3f}" for n in few]
            words = ", ".join(f"{some} with {n}" for some, n in zip(told, few, strict=True))
            parts.append(f"{say(word)} {back[most]:.3f} nats with {most} windows, {words}")
        lines.append(f"- **{name.capitalize()}, {asked_share(pattern):g} %**, given back: {'; '.join(parts)}.")
    return Finding("\n".join(lines))


@on_tables
def say_placed(table: pd.DataFrame) -> Finding:
    """Per way: relative error at the last block at text and at picture positions for each recovery. `table` is that of
    `placed`.
    """
    lines = []
    last = table[table["block"] == table["block"].max()]
    for (name, pattern), rows in last.groupby(["way", "pattern"], sort=False):
        wide = rows.pivot(index="recovery", columns="at", values="value")
        parts = [
            f"{say(word)} {wide.loc[word, 'text']:.3f} and {wide.loc[word, 'image']:.3f}"
            for word in recoveries_of(wide.index)
        ]
        lines.append(
            f"- **{name.capitalize()}, {asked_share(pattern):g} %**, error at the last block at text and at picture"
            f" positions: {'; '.join(parts)}."
        )
    return Finding("\n".join(lines))


@on_tables
def say_counted(table: pd.DataFrame) -> Finding:
    """Per mask and method: how many times its value with all tokens each measure has where text or pictures alone
    count, mean of ratios within seeds, with Holm's correction over these. `table` is that of `counted`.
    """
    lines = []
    for (mask, method), rows in table.groupby(["mask", "method"], sort=False):
        own = {(row["tokens"], row["measure"]): row for _, row in rows.iterrows()}
        keys = [key for key in own if key[0] != ALL and (ALL, key[1]) in own]
        changes = [compare(own[key], own[ALL, key[1]], ratio=True) for key in keys]
        sure = map(decided, holm([change.p for change in changes]))
        parts: dict[str, list[str]] = {}
        for (tokens, measure), change, ok in zip(keys, changes, sure, strict=True):
            times = f"{measure} {exp(change.difference):.2f} times{'' if ok else ' (undecided)'}"
            parts.setdefault(tokens, []).append(times)
        said = "; ".join(f"{KINDS[tokens]} alone: {', '.join(told)}" for tokens, told in parts.items())
        lines += [f"- **{say_mask(mask)}, {say_method(method)}**: {said}."] if said else []
    if not lines:
        raise UsageError("which tokens count: nothing was run with all tokens and with text or pictures alone")
    return Finding("\n".join(lines))


def _percent(change: Paired) -> str:
    """A difference of logarithms in per cent, without an interval."""
    return f"{100 * expm1(change.difference):+.0f} %"


def say_mask(mask: str) -> str:
    """ "wanda-50%" as "Wanda 50%"."""
    criterion, _, pattern = mask.partition("-")
    return f"{say_criterion(criterion)} {pattern}"
