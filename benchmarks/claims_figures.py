"""Claims on methods, data and structures that committed figures answer, seed by seed."""

from claims_base import CRITERIA, FW, P1, P2, SW, less, printed, printed_less
from claims_drawn import LAB, Drawn, FigureClaim, below, of_lab
from claims_structured import ABSTRACT, LIAR, OURS, SMALL, TASKS

from analysis.present import paper

KWON = "2204.09656"
STORIES, ENTRIES = "lab:stories/held-out", "lab:entries/held-out"
SIZES = ("lab/tiny", "lab/small", LAB, "lab/large")
WINDOWS = {1: "one window", 2: "two windows"}
STEPS = (("BR", "LR", 50), ("BR+GP", "BR", 60), ("BR+GP+CR", "BR+GP", 20))
LARGER = {"1 block": "a block", "2 blocks": "two blocks", "model": "the whole stack"}
SHARES = {50: "half", 60: "60 %", 70: "70 %"}
OF_CR = {
    "held-out error": printed(
        paper.CALIBRATION_AND_TEST, "wikitext2", "wanda", lambda row: -less(row["BR+GP+CR"], row["BR+GP"])
    ),
    "perplexity": {model: -value for model, value in printed_less("BR+GP+CR", "BR+GP", "wanda").items()},
}
ACCURACY = {
    "magnitude": "table 1: LLaMA-7B 46.93 with LR, 52.43 to 54.65 after",
    "wanda": "table 1: LLaMA-7B 54.24 with LR, 55.14 to 56.22 after",
    "sparsegpt": "table 1: LLaMA-7B 55.49 with LR, 54.76 to 55.07 after",
}
TABLE_7 = paper.HALVES.set_index(["part", "method"])["increase"]
RATIOS = "Weights of a block per token: 198 to 2,706 here with one window, 99 to 1,353 with two; LLaMA-7B had 772."


def last_error(d: Drawn, method: str, criterion: str = "wanda", split: str = "calibration") -> float:
    """At the last block."""
    return d.at(criterion=criterion, split=split, method=method, source="here", block=7, pattern="50%", kind="total")


def of_cr(measure: str, model: str, samples: int):
    """What CR changes after BR+GP, in percent of it."""
    only = {"method": "BR+GP+CR", "other": "BR+GP", "source": "here", "measure": measure, "model": model}
    return lambda d: d.at(samples=samples, **only)


def accuracy(d: Drawn, criterion: str, method: str) -> float:
    return 100 * d.at(pattern="50%", criterion=criterion, method=method, added=None)


def raised(criterion: str, method: str) -> FigureClaim:
    """Whether a method answers more questions than the mask alone; of SparseGPT's masks the paper found that none
    does."""
    sign = -1 if criterion == "sparsegpt" else 1
    return FigureClaim(
        f"{criterion}: {method} {'does not raise' if sign < 0 else 'raises'} mean zero-shot accuracy above LR's",
        P1,
        ACCURACY[criterion],
        "points lower" if sign < 0 else "points higher",
        "08_zero_shot",
        of_lab(lambda d: sign * (accuracy(d, criterion, method) - accuracy(d, criterion, "LR"))),
        "The tasks come from the text that the model is calibrated on, unlike the paper's." if sign < 0 else "",
        known=printed(paper.ACCURACY, "accuracy", criterion, lambda row: sign * (row[method] - row["LR"])),
    )


def risen(d: Drawn, part: str, method: str) -> float:
    """Of perplexity above the dense model's where one part of every block is pruned, in percent."""
    return d.at(part=part, method=method)


def right(d: Drawn, pattern: str, method: str) -> float:
    """Mean zero-shot accuracy of a decoder without some of its structures, in percent."""
    return d.at(measure="mean zero-shot accuracy, %", pattern=pattern, criterion="flap", method=method)


def unit_ppl(d: Drawn, size: str) -> float:
    return d.at(measure="perplexity", split=STORIES, streams="BR+GP", method="BR+GP", granularity=size)


def settled(d: Drawn, size: str) -> float:
    return d.at(granularity=size, epochs=45)


def chosen(d: Drawn, criterion: str, share: int, method: str = "LR", refinement: str = "none") -> float:
    return d.at(pattern=f"{share}%", criterion=criterion, refinement=refinement, method=method)


def printed_criteria() -> dict[str, float]:
    rows = paper.RESULTS[paper.RESULTS["method"] == "BR+GP"]
    rows = rows.pivot(index="model", columns="criterion", values="wikitext2")
    return {str(model): less(at["wanda"], at["sparsegpt"]) for model, at in rows.iterrows()}


def helped(part: str, criterion: str) -> FigureClaim:
    """Whether reconstruction helps a part of every block that alone is pruned."""
    return FigureClaim(
        f"{part} pruned alone: BR+GP lowers perplexity below LR's ({criterion})",
        P1,
        "table 7, OPT-125M with SparseGPT",
        "% lower",
        "01_halves",
        of_lab(lambda d: below(risen(d, part, "BR+GP"), risen(d, part, "LR"))),
        known={"OPT-125M": below(TABLE_7[part, "BR+GP"], TABLE_7[part, "LR"])},
    )


def costlier(method: str, criterion: str) -> FigureClaim:
    """Whether attention is the half of a block that costs more."""
    return FigureClaim(
        f"attention pruned alone costs more than the MLP alone: {method} ({criterion})",
        P1,
        "table 7, OPT-125M with SparseGPT",
        "points of perplexity above dense",
        "01_halves",
        of_lab(lambda d: risen(d, "attention", method) - risen(d, "MLP", method)),
        known={"OPT-125M": TABLE_7["attention", method] - TABLE_7["MLP", method]},
    )


def halves(criterion: str) -> list[FigureClaim]:
    """Attention and the MLP pruned alone."""
    return [
        *(helped(part, criterion) for part in ("attention", "MLP")),
        *(costlier(method, criterion) for method in ("LR", "BR+GP")),
    ]


def speaking(pattern: str, words: str) -> FigureClaim:
    """Whether a decoder without some of its structures answers more questions once they are made up for."""
    return FigureClaim(
        f"decoder: LIAR+GP answers more questions than the mask alone, {words} removed",
        LIAR,
        "abstract: best results on LLaMA",
        "points higher",
        "10_same_size",
        of_lab(lambda d: right(d, pattern, "LIAR+GP") - right(d, pattern, "LR")),
        "140 questions, the same for all.",
    )


PAPER_1 = [
    *(
        FigureClaim(
            f"{step} takes at least {share} % off {before}'s calibration error (wanda)",
            P1,
            "section 3.1, LLaMA-7B: 50 % by BR, another 60 % by GP, another 20 % by CR",
            f"points above {share} %",
            "01_compounding_error",
            of_lab(lambda d, s=step, b=before, k=share: less(last_error(d, s), last_error(d, b)) - k),
            "With eight blocks less is inherited, which is what GP corrects.",
            known=printed(
                paper.RESULTS, "error", "wanda", lambda row, s=step, b=before, k=share: less(row[s], row[b]) - k
            ),
        )
        for step, before, share in STEPS
    ),
    *(
        FigureClaim(
            f"BR+GP+CR lowers the error on unseen {word} below LR's (wanda)",
            P1,
            "tables 2 and 4: test error on three corpora",
            "% lower",
            "01_compounding_error",
            of_lab(lambda d, s=split: less(last_error(d, "BR+GP+CR", split=s), last_error(d, "LR", split=s))),
        )
        for split, word in ((STORIES, "stories, as calibrated on"), (ENTRIES, "entries, another kind of text"))
    ),
    FigureClaim(
        "CR raises held-out perplexity above GP's",
        P1,
        "table 1: LLaMA-7B with Wanda 6.68 -> 6.79; table 3: OPT-125M the opposite, 31.18 -> 30.59",
        "% higher",
        "02_calibration_windows",
        of_lab(
            lambda d: (
                -below(
                    *(
                        d.at(measure="perplexity above dense", split=STORIES, samples=32, method=method)
                        for method in ("BR+GP+CR", "BR+GP")
                    )
                )
            )
        ),
        "32 windows are 25 weights of a block per token; LLaMA-7B had 772.",
        known=OF_CR["perplexity"],
    ),
    *(
        FigureClaim(
            f"CR raises {'the ' if 'error' in measure else ''}held-out {measure.removeprefix('held-out ')} above GP's"
            f" with {WINDOWS[samples]} of 128 tokens",
            P1,
            "tables 1 and 2, at 772 weights of a block per calibration token",
            "% higher",
            "07_pitfall",
            {model: of_cr(measure, model, samples) for model in SIZES},
            RATIOS,
            known=OF_CR[measure],
        )
        for measure in OF_CR
        for samples in WINDOWS
    ),
    FigureClaim(
        "the effect of CR on held-out error goes from gain to harm as text shrinks: one window against eight",
        P1,
        "tables 1 to 4: OPT-125M gains, LLaMA-7B loses",
        "points worse",
        "07_pitfall",
        {
            model: lambda d, m=model: of_cr("held-out error", m, 1)(d) - of_cr("held-out error", m, 8)(d)
            for model in SIZES
        },
    ),
    FigureClaim(
        "self-generated text (15 windows added to one) takes away what CR does harm to held-out error",
        P1,
        "figure 1b: LLaMA-7B, SparseGPT, BR+GP+CR",
        "points less harm",
        "03_where_it_harms",
        of_lab(
            lambda d: (
                d.at(measure="held-out error", added="self", added_samples=0)
                - d.at(measure="held-out error", added="self", added_samples=15)
            )
        ),
    ),
    *(raised(criterion, method) for criterion in CRITERIA for method in ("BR", "BR+GP", "BR+GP+CR")),
]

PAPER_2 = [
    *(
        FigureClaim(
            f"sub-blocks are within 2 % of {words} (BR+GP)",
            P2,
            "abstract of v2: quality nearly constant over unit sizes",
            "points below 2 %",
            "04_granularity",
            of_lab(lambda d, s=size: 2 + less(unit_ppl(d, "sub-block"), unit_ppl(d, s))),
        )
        for size, words in LARGER.items()
    ),
    *(
        FigureClaim(
            f"sub-blocks are within 2 % of {words}, each trained for 45 epochs (BR+GP)",
            P2,
            "abstract of v2, where no unit has more to gain",
            "points below 2 %",
            "04_converged",
            of_lab(lambda d, s=size: 2 + below(settled(d, "sub-block"), settled(d, s))),
        )
        for size, words in LARGER.items()
    ),
    FigureClaim(
        "sub-blocks are better than blocks (BR+GP)",
        P2,
        "abstract of v1; clearest on OPT, by its reviewers",
        "% lower perplexity",
        "04_granularity",
        of_lab(lambda d: less(unit_ppl(d, "sub-block"), unit_ppl(d, "1 block"))),
    ),
    *(
        FigureClaim(
            f"Wanda beats SparseGPT once both are reconstructed (BR+GP), {SHARES[share]} removed",
            P2,
            "abstract of v1: Wanda with good reconstruction can beat more complex criteria"
            + (f"; numbers of {P1}, tables 1 and 3" if share == 50 else ""),
            "% lower perplexity",
            "05_criteria",
            of_lab(lambda d, s=share: below(chosen(d, "wanda", s, "BR+GP"), chosen(d, "sparsegpt", s, "BR+GP"))),
            known=printed_criteria() if share == 50 else {},
        )
        for share in SHARES
    ),
    *(
        FigureClaim(
            f"sub-blocks with {words} of the text ({samples} of 32 windows) are as good as MaskLoRA retraining",
            P2,
            "abstract of v2: matches it with over ten times less data and compute",
            "% lower perplexity",
            "06_more_text",
            of_lab(
                lambda d, n=samples: below(
                    d.at(method="BR+GP[unit=sub-block]", samples=n), d.at(method="retrain[train=masklora]", samples=32)
                )
            ),
            "Two windows are 396 weights of a block per token.",
        )
        for samples, words in ((2, "a sixteenth"), (8, "a quarter"))
    ),
    *(
        FigureClaim(
            f"BR+GP after LIAR lowers perplexity below LIAR's, half of the {kind} removed",
            P2,
            "its code has structured criteria, too; what it found could not be read",
            "% lower perplexity",
            "10_parameters",
            of_lab(
                lambda d, k=kind: less(
                    *(
                        d.at(pattern=f"{k}-50%", criterion="flap", method=method)
                        for method in ("BR+GP[repair=liar]", "LIAR")
                    )
                )
            ),
        )
        for kind in ("neurons", "heads")
    ),
    *(
        speaking(pattern, words)
        for pattern, words in (
            ("neurons-25%", "a quarter of the neurons"),
            ("neurons-50%", "half of the neurons"),
            ("heads-50%", "half of the heads"),
        )
    ),
]


def score(d: Drawn, task: str, method: str, **columns: object) -> float:
    """Percent of the dense score that is kept."""
    return d.at(task=task, method=method, **columns)


def beside(d: Drawn, method: str, other: str, **columns: object) -> float:
    """Points that LIAR's kin keeps above another repair, mean of tasks."""
    return d.mean("task", method=method, **columns) - d.mean("task", method=other, **columns)


def median_error(d: Drawn, method: str) -> float:
    return d.mean("task", over="windows", method=method, quantile=0.5)


STRUCTURES = [
    *(
        FigureClaim(
            f"{method} keeps 98 % of the dense score with half of the parameters (heads and neurons) removed: {task}",
            LIAR,
            evidence,
            "points above 98 %",
            "09_survival",
            of_lab(lambda d, t=task, m=method: score(d, t, m, kind="structures") - 98),
            SMALL,
        )
        for method, evidence in (("LIAR", ABSTRACT), ("LIAR+GP", OURS))
        for task in TASKS
    ),
    *(
        FigureClaim(
            f"moving weights and bias is better than moving {word} alone (70 % of the neurons, mean of tasks)",
            LIAR,
            "figure 5b (LLaMA-7B, caption)",
            "points above it",
            "09_parts",
            of_lab(lambda d, m=method: beside(d, "LIAR", m, removed=70.0)),
        )
        for word, method in (("the bias", "compensate"), ("weights", "LIAR[bias=false]"))
    ),
    *(
        FigureClaim(
            f"32 calibration examples are enough: 128 give at most 2 points more ({words}, mean of tasks)",
            LIAR,
            "abstract: a small calibration set",
            "points below 2",
            "09_examples",
            of_lab(
                lambda d, k=kind: (
                    2
                    + d.mean("task", kind=k, method="LIAR", samples=32)
                    - d.mean("task", kind=k, method="LIAR", samples=128)
                )
            ),
        )
        for kind, words in (("neurons", "70 % of the neurons"), ("structures", "half of the parameters"))
    ),
    *(
        FigureClaim(
            f"LIAR is better than mask tuning ({words}, mean of tasks)",
            f"{LIAR}, {KWON}",
            "by machine-made summaries mask tuning is one of the baselines of 2407.13331",
            "points above it",
            "09_survival",
            of_lab(lambda d, only=only: beside(d, "LIAR", "scale", **only)),
        )
        for words, only in (
            ("70 % of the neurons", {"kind": "neurons", "removed": 70.0}),
            ("half of the parameters", {"kind": "structures"}),
        )
    ),
    FigureClaim(
        "LIAR lowers the error of the typical example below bias compensation's (70 % of the neurons, mean of tasks)",
        LIAR,
        "figure 5a (caption): errors of 1,024 instances",
        "% lower",
        "09_errors",
        of_lab(lambda d: less(median_error(d, "LIAR"), median_error(d, "compensate"))),
    ),
]

REFINED = [
    FigureClaim(
        "SparseFW started from RIA lowers perplexity below RIA's, 60 % removed",
        FW,
        "RIA is one of its starts",
        "% lower",
        "05_criteria",
        of_lab(lambda d: below(chosen(d, "ria", 60, refinement="fw"), chosen(d, "ria", 60))),
    ),
    FigureClaim(
        "SparseSwaps wins less perplexity at 50 % than at 60 % (Wanda)",
        SW,
        "reviewers of its ICLR submission: little or no gain at 50 %",
        "points less",
        "05_criteria",
        of_lab(
            lambda d: (
                below(chosen(d, "wanda", 60, refinement="swaps"), chosen(d, "wanda", 60))
                - below(chosen(d, "wanda", 50, refinement="swaps"), chosen(d, "wanda", 50))
            )
        ),
    ),
]

CLAIMS = [*PAPER_1, *halves("sparsegpt"), *PAPER_2, *STRUCTURES, *REFINED]
