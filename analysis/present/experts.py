"""Mixtures of experts that are pruned: what an expert's share of the text does to it, calibration text that leaves
experts out, the rules for starved ones. Tables and findings of notebook 11, whose whole experts are in
`experts_dropped.py` and figures in `experts_figures.py`.

A starved expert saw fewer calibration tokens than a matrix of it has inputs. Errors of experts are those of their
outputs on what the dense model gives them (table `expert_errors`).
"""

import re

import numpy as np
import pandas as pd

from analysis.errors import UsageError
from analysis.present.final import spearman
from analysis.present.finding import Finding, say_ratio
from analysis.present.statistics import compare, decided, holm, paired
from analysis.present.style import say_criterion, say_method, say_model, say_source
from analysis.present.tables import on_tables, over_seeds
from analysis.recipe.recipe import Recipe
from analysis.schema import CALIBRATION

RULE = re.compile(r"[\[,]starved=([\w-]+)")
RULES = ("shrink", "all-tokens", "magnitude")
MASK = ["criterion", "method"]
LEAST = (0, 1, 16, 64, 256, 1024)  # tokens that an expert of each group saw at least
FAIR = 0.1  # of an even share: experts with less are hardly used
PERPLEXITY, STARVED_ERROR = "held-out perplexity", "held-out error of starved experts"


def rule(recipe: str) -> str:
    """The rule for starved experts in a recipe's text."""
    found = RULE.search(recipe)
    return found[1] if found else Recipe.starved


def say_mask(criterion: str, method: str) -> str:
    """How figures and findings write a criterion and a method."""
    return f"{say_criterion(criterion)}, {'mask alone' if method == 'LR' else say_method(method)}"


# --- specialists -----------------------------------------------------------------------------------------------------


@on_tables
def specialists(expert_errors: pd.DataFrame) -> pd.DataFrame:
    """Who goes where in the dense model, by block: rows blocks; the least and the largest share of an expert among
    `even`, its share if all were equally busy; experts with less than a tenth of that; the entropy of experts in bits,
    and how many of these the register tells (mutual information, registers equally likely). Means over seeds.

    Shares are of the tokens of the held-out texts, each a register. Raises UsageError where there are fewer than two.
    """
    texts = _of_dense(expert_errors)
    if texts["split"].nunique() < 2:
        raise UsageError("specialists: experts were looked at on fewer than two held-out texts; give grid more")
    rows = []
    for (_, block), part in texts.groupby(["seed", "block"], sort=True):
        shares = part.pivot(index="split", columns="expert", values="share")
        joint = (shares / shares.sum().sum()).to_numpy()
        apart = [joint.sum(axis=axis, keepdims=True) for axis in (0, 1)]
        product = apart[0] * apart[1]
        mean = shares.mean()
        even = mean.sum() / len(mean)
        rows.append(
            {
                "block": block,
                "least share": mean.min(),
                "largest share": mean.max(),
                "even": even,
                "hardly used": int((mean < FAIR * even).sum()),
                "bits of the expert": _bits(apart[0], apart[0]),
                "of these by the register": _bits(
                    joint, np.divide(joint, product, out=np.ones_like(joint), where=product > 0)
                ),
            }
        )
    return pd.DataFrame(rows).groupby("block").mean().round(3)


def _bits(weights: np.ndarray, what: np.ndarray) -> float:
    """Mean over `weights` of log2 `what`, 0 log 0 being 0; without its sign."""
    used = weights > 0
    return abs(float((weights[used] * np.log2(what[used])).sum()))


@on_tables
def say_specialists(expert_errors: pd.DataFrame) -> Finding:
    """Whether registers have experts of their own: bits that a register tells of the expert, experts hardly used, and
    the expert that any register calls most above its mean.
    """
    table, texts = specialists(expert_errors), _of_dense(expert_errors)
    total = texts.groupby(["block", "expert"]).ngroups
    shares = texts.groupby(["block", "expert", "split"])["share"].mean().unstack("split")
    used = shares[shares.mean(axis=1) >= FAIR * table["even"].mean()]
    over = used.div(used.mean(axis=1), axis=0)
    (block, expert), register = over.stack().idxmax()[:2], over.stack().idxmax()[2]
    told, bits = table["of these by the register"], table["bits of the expert"]
    return Finding(
        f"Which expert a token goes to has {bits.min():.2f} to {bits.max():.2f} bits in a block; the register tells"
        f" {told.min():.3f} to {told.max():.3f} of them. {table['hardly used'].sum():.0f} of {total} experts get"
        f" less than a tenth of an even share. Of the others, the one that a register calls most often beside its mean"
        f" over the registers is expert {expert} of block {block}: {over.loc[(block, expert), register]:.2f} times on"
        f" {say_source(register.removesuffix('/held-out'))}."
    )


def _of_dense(expert_errors: pd.DataFrame) -> pd.DataFrame:
    """One row for each expert, held-out text and seed: the tokens that the dense model sends there."""
    if expert_errors.empty:
        raise UsageError("experts: no run looked at single experts; give grid expert_errors=True")
    rows = expert_errors[expert_errors["split"] != CALIBRATION]
    return rows.drop_duplicates(["seed", "split", "block", "expert"])


# --- tokens and errors -----------------------------------------------------------------------------------------------


@on_tables
def by_tokens(expert_errors: pd.DataFrame) -> pd.DataFrame:
    """The median relative error of experts by the calibration tokens they saw: [criterion, method, split, least, ...,
    seen, experts].

    least, seen: the group, by its least number of tokens, and in words; experts: how many it has, runs of all numbers
    of windows together. split: calibration or the first held-out text. Runs with the rule "shrink" alone.
    """
    rows = _with_seen(expert_errors)
    out = over_seeds(
        rows.groupby([*MASK, "split", "least", "seed"], sort=False)["relative_error"].median().reset_index(),
        [*MASK, "split", "least"],
        "relative_error",
    )
    counts = rows.groupby([*MASK, "split", "least"]).size().rename("experts")
    out = out.sort_values("least", kind="stable").join(counts, on=[*MASK, "split", "least"])
    return out.assign(seen=out["least"].map(_say_group)).reset_index(drop=True)


def _with_seen(expert_errors: pd.DataFrame) -> pd.DataFrame:
    """Rows of experts that any token of the text goes to, with `seen`, the calibration tokens, and `least`."""
    if expert_errors.empty:
        raise UsageError("experts: no run looked at single experts; give grid expert_errors=True")
    rows = expert_errors[expert_errors["recipe"].map(rule) == Recipe.starved]
    key = ["run", "block", "expert"]
    seen = rows[rows["split"] == CALIBRATION].set_index(key)["tokens"].rename("seen")
    texts = [CALIBRATION, next(name for name in rows["split"] if name != CALIBRATION)]
    rows = rows[rows["split"].isin(texts) & rows["relative_error"].notna()].join(seen, on=key)
    groups = np.searchsorted(LEAST, rows["seen"], side="right") - 1
    return rows.assign(least=[LEAST[group] for group in groups])


def _say_group(least: int) -> str:
    place = LEAST.index(least)
    if place + 1 == len(LEAST):
        return f"≥ {least}"
    most = LEAST[place + 1] - 1
    return f"{least}–{most}" if most > least else f"{least}"


@on_tables
def say_by_tokens(expert_errors: pd.DataFrame) -> Finding:
    """Per criterion and method: the held-out error of experts that saw few tokens and many, both beside the
    calibration error, and the rank correlation of tokens and held-out error within the runs of most windows.
    """
    table, rows = by_tokens(expert_errors), _with_seen(expert_errors)
    lines = []
    for (criterion, method), part in table.groupby(MASK, sort=False):
        at = part.set_index(["split", "least"])["value"]
        text = next(name for name in part["split"] if name != CALIBRATION)
        few, many = (min(n for n in at[CALIBRATION].index if n), max(at[CALIBRATION].index))
        told = [f"{_say_group(n)} tokens {at[text][n]:.3f} (calibration {at[CALIBRATION][n]:.3f})" for n in (few, many)]
        own = rows[(rows["criterion"] == criterion) & (rows["method"] == method) & (rows["split"] == text)]
        own = own[own["samples"] == own["samples"].max()]
        ranks = [spearman(run["seen"], run["relative_error"]) for _, run in own.groupby("run")]
        lines.append(
            f"- **{say_mask(criterion, method)}**: held-out error of experts that saw {' and '.join(told)}; rank"
            f" correlation of tokens and error among the experts of a run of {own['samples'].max()} windows"
            f" {np.mean(ranks):+.2f}."
        )
    return Finding("\n".join(lines))


# --- calibration text that leaves experts out ------------------------------------------------------------------------


@on_tables
def foreign(perplexity: pd.DataFrame) -> pd.DataFrame:
    """What it costs to calibrate on another text than the one that is read: [model, calibration, split, ...], in per
    cent of the perplexity of the model calibrated on the text read, of the same seed.

    Raises UsageError for a held-out text that no run was calibrated on.
    """
    rows = _against_own(perplexity)
    return over_seeds(rows.assign(more=100 * np.expm1(rows["more"])), ["model", "calibration", "split"], "more")


def _against_own(perplexity: pd.DataFrame) -> pd.DataFrame:
    """Rows of pruned models on held-out texts with `more`: nats per token above those of the run calibrated there."""
    rows = perplexity[(perplexity["which"] == "pruned") & (perplexity["split"] != CALIBRATION)]
    own = rows[rows["calibration"] == rows["split"].str.partition("/")[0]]
    if missing := sorted(set(rows["split"]) - set(own["split"])):
        raise UsageError(
            f"calibrated elsewhere: no run was calibrated on {', '.join(missing)}; give grid that text too"
        )
    key = ["model", "split", "seed"]
    return rows.assign(
        more=rows["nats_per_token"] - rows[key].join(own.set_index(key)["nats_per_token"], on=key).iloc[:, -1]
    )


@on_tables
def say_foreign(perplexity: pd.DataFrame, experts: pd.DataFrame, expert_errors: pd.DataFrame) -> Finding:
    """What calibrating on another register costs the mixture and the model without experts beside it, the mean over
    pairs of registers, and whether that goes with the share of the text that starved experts read.
    """
    rows = _against_own(perplexity)
    texts = set(rows["split"].str.partition("/")[0])
    others = rows[rows["calibration"].isin(texts) & (rows["calibration"] != rows["split"].str.partition("/")[0])]
    costs = others.groupby(["model", "seed"])["more"].mean().unstack("model")[list(dict.fromkeys(rows["model"]))]
    zero = np.zeros(len(costs))
    told = [f"{say_model(model)} {say_ratio(paired(costs[model], zero))}" for model in costs]
    gap = paired(costs.iloc[:, 0], costs.iloc[:, 1]) if costs.shape[1] > 1 else None
    verdict = f"; the difference is {'clear' if decided(gap.p) else 'undecided'} (p = {gap.p:.2g})" if gap else ""
    starved = starved_share(experts, expert_errors)
    both = others.merge(starved, on=["run", "split"])
    pairs = both.groupby(["calibration", "split"])[["more", "starved"]].mean()
    least, most = (100 * value for value in (pairs["starved"].min(), pairs["starved"].max()))
    rank = spearman(pairs["starved"], pairs["more"])
    goes = "nothing to go by" if rank != rank else f"{rank:+.2f}"
    return Finding(
        f"Calibrated on another register, perplexity is higher by: {', '.join(told)}{verdict}. Experts starved by the"
        f" calibration text read {least:.1f} to {most:.1f} % of a text of another register; the rank correlation of"
        f" that share and the cost, over {len(pairs)} pairs of registers: {goes}."
    )


@on_tables
def starved_share(experts: pd.DataFrame, expert_errors: pd.DataFrame) -> pd.DataFrame:
    """[run, split, starved]: the share of what all experts read of a held-out text that starved ones read."""
    rows = expert_errors[expert_errors["split"] != CALIBRATION]
    rows = rows.assign(part=rows["share"] * _are_starved(experts, rows))
    sums = rows.groupby(["run", "split"], sort=False)[["part", "share"]].sum()
    return (sums["part"] / sums["share"]).rename("starved").reset_index()


def _are_starved(experts: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Whether the expert of each row has a starved matrix in its run."""
    starving = experts[experts["rule"] != ""]
    number = starving["matrix"].str.extract(r"experts\.(\d+)\.", expand=False).astype(int)
    known = set(zip(starving["run"], starving["block"], number, strict=True))
    return pd.Series([one in known for one in zip(rows["run"], rows["block"], rows["expert"], strict=True)], rows.index)


# --- rules for starved experts ---------------------------------------------------------------------------------------


@on_tables
def rules(perplexity: pd.DataFrame, experts: pd.DataFrame, expert_errors: pd.DataFrame) -> pd.DataFrame:
    """What becomes of a model and of its starved experts by rule: [measure, criterion, method, rule, samples, ...,
    starved], intervals those of the difference from the rule "shrink" within a seed.

    measure: perplexity of the first held-out text; or the median relative error there of the experts that are starved.
    starved: matrices that are, in per cent of all matrices of experts, mean over seeds.
    """
    text = next(name for name in perplexity["split"] if name != CALIBRATION)
    key = [*MASK, "rule", "samples", "seed"]
    read = perplexity[(perplexity["which"] == "pruned") & (perplexity["split"] == text)]
    read = read.assign(rule=read["recipe"].map(rule), measure=PERPLEXITY, value=read["perplexity"])
    errors = expert_errors[(expert_errors["split"] == text) & expert_errors["relative_error"].notna()]
    errors = errors[_are_starved(experts, errors)]
    errors = errors.assign(rule=errors["recipe"].map(rule))
    medians = errors.groupby(key, sort=False)["relative_error"].median().rename("value").reset_index()
    rows = pd.concat([read[[*key, "measure", "value"]], medians.assign(measure=STARVED_ERROR)], ignore_index=True)
    by = ["measure", *MASK, "rule", "samples"]
    out = over_seeds(rows, by, "value", paired={"rule": Recipe.starved}, ratio=True)
    share = experts.assign(rule=experts["recipe"].map(rule), starved=100 * (experts["rule"] != ""))
    return out.join(share.groupby([*MASK, "rule", "samples"])["starved"].mean(), on=[*MASK, "rule", "samples"])


@on_tables
def say_rules(table: pd.DataFrame) -> Finding:
    """Per measure, criterion and method: each rule beside "shrink", at every number of windows where any expert is
    starved, within seeds; clear ones in bold, Holm's correction over all. `table` is that of `rules`.
    """
    rows = table[table["starved"] > 0]
    found, words = [], []
    for _, part in rows.groupby(["measure", *MASK, "samples"], sort=False):
        base = part[part["rule"] == Recipe.starved]
        for _, row in part[part["rule"] != Recipe.starved].iterrows() if len(base) else ():
            found.append(compare(row, base.iloc[0], ratio=True))
            words.append(row)
    sure = [decided(p) for p in holm([change.p for change in found])]
    lines: dict[tuple, list[str]] = {}
    for row, change, ok in zip(words, found, sure, strict=True):
        told = f"{row['samples']} window{'s' * (row['samples'] > 1)} {say_ratio(change)}"
        lines.setdefault((row["measure"], row["criterion"], row["method"], row["rule"]), []).append(
            f"**{told}**" if ok else told
        )
    said = [
        f"- **{measure}**, {say_mask(criterion, method)}, {name} against {Recipe.starved}: {', '.join(told)}."
        for (measure, criterion, method, name), told in lines.items()
    ]
    return Finding("\n".join(said) + "\n\nIn bold: clear after Holm's correction over all of these.")


@on_tables
def refused(experts: pd.DataFrame) -> pd.DataFrame:
    """What `starved=refuse` would have made of the runs: rows numbers of windows; starved matrices of experts in per
    cent, and runs with any, of all runs.
    """
    runs = experts.assign(starved=experts["rule"] != "").groupby(["samples", "run"])["starved"].agg(["mean", "any"])
    table = runs.groupby("samples").agg(starved=("mean", "mean"), refused=("any", "sum"), runs=("any", "size"))
    table["starved"] = (100 * table["starved"]).round(1)
    return table.rename(columns={"starved": "matrices of starved experts, %", "refused": "runs refused"})
