"""Claims on experts of a mixture and on whole blocks taken out, which the figures of notebooks 11 and 12 answer.

Losses are compared in hundredths of a nat per token: of a small difference about the per cent of perplexity.
"""

import math

from claims_drawn import Drawn, FigureClaim, of_lab, table

REAP, MIXTRAL, COMPRESSOR = "2510.13999", "2401.04088", "llm-compressor"
SIMPLE, SLEB, ANGLE, INFLUENCE = "2604.24938", "SLEB", "2403.17887", "2403.03853"
REPLACE, GHOST, WRITING, PITFALL = "2505.02819", "2605.15491", "2602.01997", "2406.15524"
MIXTURE = "lab/experts"
EXPERTS = {"experts-25%": ("a quarter of the experts", "22.3%"), "experts-50%": ("half of the experts", "44.7%")}
FEW = "Eight experts in a block, two for each token: few are to spare."
BLOCKS = {"blocks-12.5%": "one of eight blocks", "blocks-25%": "two of eight blocks", "blocks-37.5%": "three of eight"}
SHALLOW = "A block of eight is an eighth of the depth; of the papers' models it is a thirtieth."
FREE = "The map is fitted to 1,024 tokens."
LOWER = "hundredths of a nat lower"
LINEAR = "README of LinearPatch, LLaMA-3-8B without 7 of 32 blocks, WikiText-2"


# --- experts ----------------------------------------------------------------------------------------------------------


def lower(one: float, other: float) -> float:
    """By how many hundredths of a nat one loss lies below another."""
    return 100 * (other - one)


def dropped(d: Drawn, pattern: str, criterion: str, repair: str = "mask alone") -> float:
    """Nats per token."""
    return math.log(d.at(pattern=pattern, criterion=criterion, repair=repair))


def foreign(d: Drawn, model: str) -> float:
    """Percent of perplexity that calibrating on another register costs, mean over registers calibrated on and read."""
    rows = table(d.figure).query("model == @model and seed == @d.seed and calibration != 'lab:mixed'")
    return float(rows.loc[rows["calibration"] != rows["split"], "seed_value"].mean())


def ruled(d: Drawn, rule: str, method: str, samples: int) -> float:
    return math.log(d.at(measure="held-out perplexity", rule=rule, method=method, samples=samples))


MIXTURES = [
    *(
        FigureClaim(
            f"REAP leaves a better model than {'the number of tokens' if other == 'frequency' else other + ' choice'},"
            f" {words} gone",
            REAP,
            "the mean over an expert's own tokens is better than how often it is called"
            if other == "frequency"
            else "a criterion against the baseline of all",
            LOWER,
            "11_dropped",
            {MIXTURE: lambda d, p=pattern, o=other: lower(dropped(d, p, "reap"), dropped(d, p, o))},
            FEW if other == "frequency" else "",
        )
        for other in ("frequency", "random")
        for pattern, (words, _) in EXPERTS.items()
    ),
    *(
        FigureClaim(
            f"REAP takes {words} out for less than a tenth of a nat",
            REAP,
            "abstract: large mixtures lose little with half of their experts gone",
            "hundredths of a nat below 10",
            "11_dropped",
            {
                MIXTURE: lambda d, p=pattern: (
                    10 + lower(dropped(d, p, "reap"), math.log(d.at(method="dense", repair="mask alone")))
                )
            },
            FEW,
        )
        for pattern, (words, _) in EXPERTS.items()
    ),
    *(
        FigureClaim(
            f"whole experts are the better cut than as many single weights: REAP against Wanda, {words} gone",
            "ours",
            "not tested by the papers",
            LOWER,
            "11_dropped",
            {MIXTURE: lambda d, p=pattern, w=weights: lower(dropped(d, p, "reap"), dropped(d, w, "wanda"))},
            FEW,
        )
        for pattern, (words, weights) in EXPERTS.items()
    ),
    *(
        FigureClaim(
            f"LIAR on the sum of the experts lowers perplexity below the mask alone's: {criterion}, {words} gone",
            "ours",
            "not tested by the papers",
            LOWER,
            "11_dropped",
            {
                MIXTURE: lambda d, p=pattern, c=criterion: lower(
                    dropped(d, p, c, "least squares"), dropped(d, p, c, "mask alone")
                )
            },
            "The last projections of six or four experts are fitted to 2,048 tokens.",
        )
        for criterion in ("reap", "frequency")
        for pattern, (words, _) in EXPERTS.items()
    ),
    *(
        FigureClaim(
            f"all tokens' statistics serve starved experts better than their own filled up (shrink): {method}, {words}",
            COMPRESSOR,
            "what it does by default; no comparison was found",
            LOWER,
            "11_rules",
            {MIXTURE: lambda d, m=method, n=samples: lower(ruled(d, "all-tokens", m, n), ruled(d, "shrink", m, n))},
        )
        for method in ("LR", "ridge")
        for samples, words in ((1, "one window"), (8, "eight windows"))
    ),
    *(
        FigureClaim(
            f"statistics filled up (shrink) serve starved experts better than magnitude: {method}, {words}",
            "ours",
            "not tested by the papers",
            LOWER,
            "11_rules",
            {MIXTURE: lambda d, m=method, n=samples: lower(ruled(d, "shrink", m, n), ruled(d, "magnitude", m, n))},
        )
        for method in ("LR", "ridge")
        for samples, words in ((1, "one window"), (8, "eight windows"))
    ),
    FigureClaim(
        "calibrating on another register costs a mixture no more than a model without experts, within 5 points",
        MIXTRAL,
        "section 5: no experts of a subject were found, so none can be left out",
        "points within",
        "11_registers",
        {MIXTURE: lambda d: 5 + foreign(d, "lab/small") - foreign(d, MIXTURE)},
    ),
]


# --- whole blocks -----------------------------------------------------------------------------------------------------


def lost(d: Drawn, pattern: str, criterion: str, method: str = "LR") -> float:
    """Held-out nats above the dense model's."""
    return d.at(pattern=pattern, criterion=criterion, method=method)


def gap(d: Drawn, pattern: str, criterion: str) -> float:
    """Nats that a choice on one window costs more on other text than on that window."""
    only = {"pattern": pattern, "criterion": criterion, "samples": 1}
    return d.at(split="lab:mixed/held-out", **only) - d.at(split="calibration", **only)


def apart(d: Drawn, pattern: str, method: str) -> float:
    """Nats between the best and the worst criterion."""
    values = [lost(d, pattern, criterion, method) for criterion in ("influence", "angular", "perplexity", "random")]
    return max(values) - min(values)


def fall(d: Drawn, *tasks: str) -> float:
    """Points that the mask alone loses with a quarter of the blocks, mean over tasks."""
    whole, cut = ({"method": "dense"}, {"pattern": "blocks-25%", "method": "LR"})
    return sum(d.at(task=task, **whole) - d.at(task=task, **cut) for task in tasks) / len(tasks)


def repaired(text: str, source: str, evidence: str, one: str, other: str, criterion: str, guess: str = "", **known):
    """A repair against another one, by the number of blocks gone."""
    return [
        FigureClaim(
            f"{text}: {criterion}, {BLOCKS[pattern]} gone",
            source,
            evidence,
            LOWER,
            "12_repairs",
            of_lab(lambda d, p=pattern: lower(lost(d, p, criterion, one), lost(d, p, criterion, other))),
            guess,
            known=known.get("known", {}) if pattern == "blocks-25%" else {},
        )
        for pattern in ("blocks-25%", "blocks-37.5%")
    ]


DEPTH = [
    *(
        FigureClaim(
            f"block influence ends within a tenth of a nat of the search for low perplexity, {BLOCKS[pattern]} gone",
            SIMPLE,
            "abstract: with fixed calibration text simple rankings and complex searches end at similar sets",
            "hundredths of a nat below 10",
            "12_repairs",
            of_lab(lambda d, p=pattern: 10 + lower(lost(d, p, "influence"), lost(d, p, "perplexity"))),
            SHALLOW,
        )
        for pattern in BLOCKS
    ),
    *(
        FigureClaim(
            f"the search for the lowest perplexity lowers it below block influence's, {BLOCKS[pattern]} gone",
            SLEB,
            f"{LINEAR}: 13.1 against 57.8",
            LOWER,
            "12_repairs",
            of_lab(lambda d, p=pattern: lower(lost(d, p, "perplexity"), lost(d, p, "influence"))),
            known={"LLaMA-3-8B": lower(math.log(13.1), math.log(57.8))} if pattern == "blocks-25%" else {},
        )
        for pattern in ("blocks-25%", "blocks-37.5%")
    ),
    *(
        FigureClaim(
            f"the search for the lowest perplexity overfits it: chosen on one window it loses more on other text than"
            f" block influence does, {BLOCKS[pattern]} gone",
            f"ours, after {PITFALL}",
            "perplexity and accuracy disagree about the choice in the README of LinearPatch",
            "hundredths of a nat",
            "12_search",
            of_lab(lambda d, p=pattern: -lower(gap(d, p, "perplexity"), gap(d, p, "influence"))),
            "Eight blocks leave a search little to choose among.",
        )
        for pattern in BLOCKS
    ),
    FigureClaim(
        "one run of blocks chosen by angle is as good as blocks anywhere chosen by influence, within a tenth of a nat:"
        " three of eight gone",
        f"{ANGLE}, {INFLUENCE}",
        "what the two papers take out",
        "hundredths of a nat below 10",
        "12_repairs",
        of_lab(lambda d: 10 + lower(lost(d, "blocks-37.5%", "angular"), lost(d, "blocks-37.5%", "influence"))),
        "With one or two blocks gone both take the same ones.",
    ),
    *repaired(
        "replace, a linear map of what the block before the cut adds, lowers perplexity below none",
        REPLACE,
        "abstract: about nine tenths of the performance kept without training, a quarter of the blocks removed",
        "replace+GP",
        "LR",
        "angular",
        FREE,
    ),
    *repaired(
        "replace, a linear map of what the block before the cut adds, lowers perplexity below none",
        REPLACE,
        "its cuts are contiguous runs; here on what the search for perplexity chose",
        "replace+GP",
        "LR",
        "perplexity",
        FREE,
    ),
    *repaired(
        "ghost, a linear map of the whole stream, lowers perplexity below none",
        GHOST,
        "README: below LinearPatch's patches at every cut it compares",
        "ghost+GP",
        "LR",
        "influence",
        FREE,
    ),
    *repaired(
        "ghost lowers perplexity below replace",
        GHOST,
        "a map of the whole stream against one of what a single projection adds",
        "ghost+GP",
        "replace+GP",
        "influence",
        FREE,
    ),
    *repaired(
        "refitting all weights of the projection before the cut (refit) lowers perplexity below replace",
        "ours",
        "its maps contain those of replace",
        "refit+GP",
        "replace+GP",
        "influence",
        "24,576 weights are fitted to 1,024 tokens.",
    ),
    *repaired(
        "gradient steps after refit lower perplexity below refit's",
        "ours",
        "not tested by the papers",
        "BR+GP[repair=refit]",
        "refit+GP",
        "influence",
    ),
    *(
        FigureClaim(
            f"repair (replace) draws the criteria together, {BLOCKS[pattern]} gone",
            "ours",
            "as reconstruction does where single weights go (2406.15524, 2510.14444)",
            "hundredths of a nat closer",
            "12_repairs",
            of_lab(lambda d, p=pattern: 100 * (apart(d, p, "LR") - apart(d, p, "replace+GP"))),
        )
        for pattern in ("blocks-25%", "blocks-37.5%")
    ),
    FigureClaim(
        "writing breaks before choosing: copying and recall lose more points than multiple choice, a quarter of the"
        " blocks gone",
        WRITING,
        "abstract: arithmetic and brackets are lost, classification returns to about 90 %",
        "points more lost",
        "12_written",
        {"lab/large": lambda d: fall(d, "lab:copying", "lab:recall") - fall(d, "choices, mean")},
    ),
]

CLAIMS = [*MIXTURES, *DEPTH]
