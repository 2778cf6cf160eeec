"""Experts by the tokens they saw, by rule, by register, and taken out whole: from tables whose answers are known."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import RecipeError, UsageError
from analysis.present import experts, experts_dropped, experts_figures
from analysis.recipe.recipe import OF_EXPERTS
from analysis.schema import conform, study_columns
from analysis.study.grids import labelled, recipes
from analysis.study.job import grid
from analysis.study.mixtures import crossed, ruled

TEXTS = ["lab:stories", "lab:news"]
COMMON = {"samples": 4, "length": 128, "seeds": (0, 1, 2), "calibration": "lab:mixed"}
NAMES = ("perplexity", "experts", "expert_errors", "size", "matrices", "structures")
SHARES = {"lab:stories": (0.9, 0.7, 0.4, 0.0), "lab:news": (0.3, 0.7, 0.4, 0.6)}  # of four experts; two for a token


def shares(text: str) -> tuple:
    return SHARES.get(text.partition("/")[0], tuple(np.mean(list(SHARES.values()), axis=0)))


def leave(jobs) -> SimpleNamespace:
    """Tables of made-up runs on two blocks of four experts: nats rise with what is removed, with texts calibrated on
    that are not the one read, and with rules; an expert's held-out error falls with the tokens it saw.
    """
    rows = {name: [] for name in NAMES}
    for job in jobs:
        pattern, noise = job.recipe.pattern, 0.001 * job.seed**2
        front = job.columns(f"{job.model} {job.recipe.label} {job.calibration} {job.samples} {job.seed} {job.shrink}")
        rule = experts.rule(job.recipe.label)
        harm = {"shrink": 0.2, "all-tokens": 0.25, "magnitude": 0.4}[rule] / job.samples * (1 + noise)
        if pattern.experts:
            harm = pattern.sparsity * {"reap": 1, "frequency": 1.5, "random": 3}[job.recipe.criterion.name]
        harm *= {"LR": 1.0, "LIAR": 0.7, "ridge": 0.4, "BR+GP": 0.2}.get(job.recipe.method, 0.5)
        for split in ("calibration", *dict(job.held_out)):
            foreign = 0.1 * (split != "calibration" and job.calibration != split.partition("/")[0])
            foreign *= (1 + 5 * noise) * (2 if job.model == "lab/experts" else 1)
            for which, nats in {"dense": 1 + noise, "pruned": 1 + noise + harm + foreign}.items():
                row = {"nats_per_token": nats, "perplexity": np.exp(nats), "tokens": 9, "windows": 2, "context": 128}
                rows["perplexity"].append({**front, "split": split, "which": which, **row})
        gone = 2 if pattern.sparsity == 0.5 else 1
        for block in (0, 1):
            outside = {"block": block, "rows": 10, "columns": 10}
            rows["matrices"].append({**front, **outside, "matrix": "attn", "kept": 100, "sparsity": 0.0})
            for expert in range(4 - gone if pattern.experts else 4):
                name = {"block": block, "matrix": f"mlp.experts.{expert}.up", "rows": 10, "columns": 10}
                share = 0.0 if pattern.experts else pattern.sparsity
                rows["matrices"].append({**front, **name, "kept": 100 - round(100 * share), "sparsity": share})
            if pattern.experts:
                kind = {"kind": "experts", "structures": 4, "kept": 4 - gone}
                rows["structures"].append({**front, "block": block, **kind})
            for expert, share in enumerate(shares(job.calibration)):
                tokens = round(share * 128 * job.samples)
                told = {"block": block, "matrix": f"mlp.experts.{expert}.up", "tokens": tokens, "share": share}
                rows["experts"].append({**front, **told, "rule": rule if tokens < 64 else ""})
                for split in ("calibration", *dict(job.held_out)) if job.expert_errors else ():
                    here = share if split == "calibration" else shares(split)[expert]
                    error = 0.1 if split == "calibration" else 0.1 + 1 / (1 + tokens) + 0.1 * (rule == "magnitude")
                    error = error * (1 + noise) if here else float("nan")
                    count = tokens if split == "calibration" else round(here * 256)
                    told = {"block": block, "expert": expert, "split": split, "tokens": count, "share": here}
                    rows["expert_errors"].append({**front, **told, "error": error, "relative_error": error})
        if job.shrink:
            for which, parameters in {"dense": 1200, "pruned": 1200 - 2 * gone * 101}.items():
                cost = {"flops_per_token": 500, "latency_ms": 2.0, "tokens_per_second": 10.0}
                rows["size"].append({**front, "which": which, "parameters": parameters, **cost})
    return SimpleNamespace(
        **{name: conform(name, pd.DataFrame(part), study_columns(name)) for name, part in rows.items()}
    )


@pytest.fixture(scope="module")
def few():
    chosen = recipes(["wanda"], ruled("50%", experts.RULES), ["LR", "ridge"])
    held_out = {"held_out": labelled(["lab:stories"]), "expert_errors": True}
    return leave(grid(model="lab/experts", recipes=chosen, **COMMON | {"samples": [1, 4]}, **held_out))


@pytest.fixture(scope="module")
def alone():
    common = {name: value for name, value in COMMON.items() if name != "calibration"}
    chosen = recipes(["wanda"], "50%", ["LR"])
    return leave(
        crossed("lab/experts", "lab/small", ["lab:mixed", *TEXTS], recipes=chosen, held_out=labelled(TEXTS), **common)
    )


@pytest.fixture(scope="module")
def cut():
    common = COMMON | {"model": "lab/experts", "held_out": {"stories": "lab:stories"}}
    return leave(grid(recipes=recipes(["reap"], ["experts-25%", "experts-50%"], ["LR"]), shrink=True, **common))


@pytest.fixture(scope="module")
def dropped(cut):
    common = COMMON | {"model": "lab/experts", "held_out": {"stories": "lab:stories"}}
    repairs = ["mask alone", "least squares"]
    counts = experts_dropped.same_count(cut.size, cut.matrices, cut.structures)
    whole = recipes(["reap", "random"], ["experts-25%", "experts-50%"], experts_dropped.methods(repairs, "experts"))
    single = recipes(["wanda"], counts, experts_dropped.methods(repairs, "weights"))
    study = leave(grid(recipes=[*whole, *single], **common))
    return experts_dropped.dropped(study.perplexity, cut.size, study.matrices)


def test_a_rule_is_read_off_the_recipe_and_written_into_patterns():
    assert ruled("50%", ["shrink", "magnitude"]) == ["50%[starved=shrink]", "50%[starved=magnitude]"]
    assert ruled("50%[gated=true]", ["all-tokens"]) == ["50%[gated=true,starved=all-tokens]"]
    for pattern in ("50%", "50%[gated=true]"):
        for rule, made in zip(experts.RULES, recipes(["wanda"], ruled(pattern, experts.RULES), ["LR"]), strict=True):
            assert experts.rule(made.label) == rule == made.starved
    with pytest.raises(RecipeError, match="starved"):
        ruled("50%", ["guess"])
    assert OF_EXPERTS[0] == "starved"


def test_jobs_of_one_register_after_the_other_ask_only_the_mixture_about_experts():
    jobs = crossed("lab/experts", "lab/small", TEXTS, recipes=["wanda-50% LR"], samples=2, length=16)
    assert [(job.model, job.calibration, job.expert_errors) for job in jobs] == [
        *(("lab/experts", text, True) for text in TEXTS),
        *(("lab/small", text, False) for text in TEXTS),
    ]
    assert len(crossed("lab/experts", "", TEXTS, recipes=["wanda-50% LR"], samples=2, length=16)) == 2


def test_errors_stand_in_the_group_of_the_tokens_seen(few):
    table = experts.by_tokens(few.expert_errors)
    part = table[(table["method"] == "LR")]
    # of 1 and 4 windows of 128 tokens, mixed shares 0.6, 0.7, 0.4, 0.3: 77, 90, 51, 38 and 307, 358, 205, 154
    assert set(part["seen"]) == {"16–63", "64–255", "256–1023"}
    at = part.set_index(["split", "seen"])
    assert (
        at.loc[("calibration", "16–63"), "experts"] == 2 * 2 * 3 and at.loc[("calibration", "64–255"), "experts"] == 24
    )
    held_out = 0.1 + 1 / np.array([51 + 1, np.nan])[0]  # the expert of 38 tokens reads nothing of stories
    assert at.loc[("lab:stories", "16–63"), "value"] == pytest.approx(held_out * (1 + 0.005 / 3), rel=1e-6)
    assert at.loc[("calibration", "16–63"), "value"] == pytest.approx(0.1 * (1 + 0.005 / 3), rel=1e-6)
    assert list(part["least"]) == sorted(part["least"])
    said = experts.say_by_tokens(few.expert_errors).splitlines()
    assert len(said) == 2 and said[0].startswith(
        "- **Wanda, mask alone**: held-out error of experts that saw 16–63 tokens 0.119 (calibration 0.100) and 256–"
    )
    assert said[0].endswith("of a run of 4 windows -1.00.")
    with pytest.raises(UsageError, match="expert_errors=True"):
        experts.by_tokens(few.expert_errors.iloc[:0])


def test_rules_are_compared_within_seeds(few):
    table = experts.rules(few.perplexity, few.experts, few.expert_errors)
    at = table.set_index(["measure", "method", "rule", "samples"]).sort_index()
    one = at.loc[(experts.PERPLEXITY, "LR", "magnitude", 1)]
    assert (
        one["paired"] == "shrink"
        and one["starved"] == 50
        and at.loc[(experts.PERPLEXITY, "LR", "shrink", 4), "starved"] == 0
    )
    assert one["value"] == pytest.approx(
        np.mean([np.exp(1 + n + 0.4 * (1 + n) + 0.2 * (1 + 5 * n)) for n in (0, 0.001, 0.004)])
    )
    errors = at.loc[(experts.STARVED_ERROR, "LR", "magnitude")]
    assert (
        list(errors.index) == [1]
        and errors["value"].item() > at.loc[(experts.STARVED_ERROR, "LR", "shrink", 1), "value"]
    )
    said = experts.say_rules(table)
    assert "magnitude against shrink: **1 window +22." in said and "4 windows" not in said
    refused = experts.refused(few.experts)
    assert refused["runs refused"].to_dict() == {1: 18, 4: 0} and refused["runs"].to_dict() == {1: 18, 4: 18}
    assert refused["matrices of starved experts, %"].to_dict() == {1: 50.0, 4: 0.0}


def test_specialists_are_found_where_there_are_any(alone):
    table = experts.specialists(alone.expert_errors)
    joint = np.array(list(SHARES.values())) / 4
    told = sum(p * np.log2(p / (joint[i].sum() * joint[:, j].sum())) for (i, j), p in np.ndenumerate(joint) if p)
    assert table["of these by the register"].tolist() == [round(told, 3)] * 2 and told > 0.1
    of_all = joint.sum(0)
    assert table["bits of the expert"].iloc[0] == round(float(-(of_all * np.log2(of_all)).sum()), 3)
    assert table["even"].tolist() == [0.5] * 2 and table["hardly used"].tolist() == [0, 0]
    said = experts.say_specialists(alone.expert_errors)
    assert "0 of 8 experts get less" in said and said.endswith("expert 3 of block 0: 2.00 times on news.")
    with pytest.raises(UsageError, match="fewer than two held-out texts"):
        experts.specialists(alone.expert_errors[alone.expert_errors["split"] != "lab:news"])


def test_an_expert_that_no_token_goes_to_tells_nothing(alone):
    unused = alone.expert_errors.assign(share=lambda rows: rows["share"].where(rows["expert"] != 3, 0.0))
    told = ["bits of the expert", "of these by the register"]
    with_it, without = (experts.specialists(rows) for rows in (unused, unused[unused["expert"] != 3]))
    assert with_it["hardly used"].tolist() == [1, 1]
    pd.testing.assert_frame_equal(with_it[told], without[told], check_exact=True)


def test_another_text_is_beside_the_one_that_is_read(alone):
    table = experts.foreign(alone.perplexity).set_index(["model", "calibration", "split"])["value"]
    noise = np.array([0, 0.001, 0.004])
    for model, twice in (("lab/experts", 2), ("lab/small", 1)):
        assert table[model, "lab:news", "lab:news"] == 0
        cost = 100 * np.expm1(0.1 * twice * (1 + 5 * noise)).mean()
        assert table[model, "lab:news", "lab:stories"] == pytest.approx(cost)
        assert table[model, "lab:mixed", "lab:stories"] == pytest.approx(cost)
    said = experts.say_foreign(alone.perplexity, alone.experts, alone.expert_errors)
    assert re.search(
        r"higher by: lab/experts \+22\.3 % \[.*\], lab/small \+10\.6 % \[.*\]; the difference is clear", said
    )
    # 512 tokens starve the expert without any (stories); it reads 0.6 of 2 there
    assert "read 0.0 to 30.0 % of a text" in said
    with pytest.raises(UsageError, match="no run was calibrated on lab:news"):
        experts.foreign(alone.perplexity[alone.perplexity["calibration"] != "lab:news"])


def test_criteria_of_single_weights_are_drawn_and_named_apart(dropped):
    weights = dropped[dropped["kind"] == "weights"]
    fig = experts_figures.plot_dropped(
        pd.concat([dropped, *(weights.assign(criterion=name) for name in ("magnitude", "ria"))], ignore_index=True)
    )
    drawn = {
        line.get_gid(): (line.get_color(), line.get_marker())
        for line in fig.axes[0].lines
        if (line.get_gid() or "").startswith("weights ")
    }
    named = {(one.get_color(), one.get_marker()): one.get_label() for one in fig.legends[0].legend_handles}
    assert [named[drawn[f"weights {name}"]] for name in ("wanda", "magnitude", "ria")] == [
        f"single weights, {word}" for word in ("Wanda", "Magnitude", "RIA")
    ]


def test_single_weights_are_given_the_same_count(cut, dropped):
    # experts and their router rows are 101 each, of 2 blocks x 500 prunable weights
    assert experts_dropped.same_count(cut.size, cut.matrices, cut.structures) == ["20.2%", "40.4%"]
    with pytest.raises(UsageError, match="shrink=True"):
        experts_dropped.same_count(cut.size.iloc[:0], cut.matrices, cut.structures)
    at = dropped.set_index(["repair", "pattern", "criterion", "method"])
    one = at.loc[("least squares", "experts-25%", "reap", "LIAR")]
    assert one["removed"] == pytest.approx(100 * 202 / 1200) and one["kind"] == "experts" and one["paired"] == "dense"
    assert at.loc[("mask alone", "", "", "dense"), "removed"] == 0 and one["seeds"] == 3
    weights = at.loc[("least squares", "20.2%", "wanda", "ridge")]
    assert weights["kind"] == "weights" and weights["removed"] == pytest.approx(100 * 8 * 20 / 1200)


def test_the_best_experts_stand_beside_single_weights(dropped, cut):
    said = experts_dropped.say_dropped(dropped).splitlines()
    assert said[0] == "- **experts-25%**, 16.8 % of all parameters:" and len(said) == 6
    assert "single weights (Wanda 20.2%)" in said[1] and "REAP beside them +" in said[1]
    assert said[2].startswith("    - least squares: Random ")
    words = experts_dropped.say_criteria(dropped)
    assert words.startswith("- **experts-25%**, REAP beside Random") and "mask alone" in words
    from analysis.present.structured_decoder import shapes

    assert experts_dropped.say_gain(shapes(cut.size)).startswith(
        "- **experts-25%**: 16.8 % of all parameters gone, 1.000 times fewer operations of a token; a window 1.00 ± 0.0"
    )


def test_what_is_no_repair_or_was_not_measured_is_said(cut):
    with pytest.raises(UsageError, match="magic is none of mask alone, least squares"):
        experts_dropped.methods(["magic"], "experts")
    common = COMMON | {"model": "lab/experts", "held_out": {"stories": "lab:stories"}}
    study = leave(grid(recipes=["reap-experts-25% LIAR+GP"], **common))
    with pytest.raises(UsageError, match=r"experts LIAR\+GP is none of the repairs"):
        experts_dropped.dropped(study.perplexity, cut.size, study.matrices)
    with pytest.raises(UsageError, match="nobody measured the size of experts-25%"):
        experts_dropped.dropped(study.perplexity, cut.size[cut.size["pattern"] == "experts-50%"], study.matrices)


@pytest.mark.slow
def test_figures_draw_every_row(few, alone, dropped):
    seen = experts.by_tokens(few.expert_errors)
    by_rule = experts.rules(few.perplexity, few.experts, few.expert_errors)
    cost = experts.foreign(alone.perplexity)

    def drawn(fig):
        lines = [line for ax in fig.axes for line in ax.lines if line.get_gid() and line.get_gid() != "dense"]
        return sorted(round(float(y), 9) for line in lines for x, y in line.get_xydata())

    for fig, table in ((experts_figures.plot_by_tokens(seen), seen), (experts_figures.plot_rules(by_rule), by_rule)):
        assert drawn(fig) == sorted(table["value"].round(9))
    fig = experts_figures.plot_dropped(dropped)
    pruned, dense = (dropped[(dropped["method"] == "dense") == which] for which in (False, True))
    starts = pruned.groupby(["repair", "kind", "criterion"]).ngroups
    assert drawn(fig) == sorted([*pruned["value"].round(9), *[round(dense["value"].iloc[0], 9)] * starts])
    texts = [text.get_text() for ax in experts_figures.plot_foreign(cost).axes for text in ax.texts]
    assert sorted(texts) == sorted(f"{value:.1f}" for value in cost["value"])
    some = experts_figures.plot_foreign(cost.iloc[1:]).axes
    assert len([text for ax in some for text in ax.texts]) == len(cost) - 1
