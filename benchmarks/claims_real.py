"""Claims on models that were not made for this project, SmolLM2-135M and MiniLM, which figures/real answers.

Texts are WikiText-2 (its validation part calibrates), C4 and TinyStories, as files of these names.
"""

from dataclasses import replace

from claims_base import P1, P2, less
from claims_drawn import Drawn, FigureClaim, below
from claims_figures import ACCURACY, STEPS, halves, raised, speaking
from claims_shapes import ANGLE, INFLUENCE, REPLACE, lost, lower
from claims_structured import ABSTRACT, FLAP, LIAR

SMOL, MINI = "smollm2", "minilm"
LAST = 29  # block
WINDOWS = {1: "one window", 4: "four windows", 18: "eighteen windows", 72: "seventy-two windows"}
TEXTS = {"wikitext2_test.txt": "WikiText-2, as calibrated on", "c4.utf8": "C4", "tiny.utf8": "TinyStories"}
RATIOS = (
    "Weights of a block per token: 13,824 with one window of 256, 3,456 with four, 768 with eighteen, 192 with"
    " seventy-two; LLaMA-7B had 772."
)
SIX = "six of thirty blocks gone"
CUTS = {
    ("neurons", 20.0): "a fifth of the neurons (6 % of the parameters)",
    ("neurons", 50.0): "half of the neurons (16 % of the parameters)",
    ("neurons", 70.0): "70 % of the neurons (22 % of the parameters)",
    ("heads", 25.0): "a quarter of the heads (4 % of the parameters)",
    ("heads", 50.0): "half of the heads (8 % of the parameters)",
}
NEURONS = {"neurons-20%": "a fifth of the neurons", "neurons-50%": "half of the neurons"}
FEW_TOKENS = (
    "1,024 tokens are fewer than the 1,229 neurons that stay of a fifth gone, and hardly more than 768: from 18 windows"
    " LIAR's perplexity is 43 % below the mask alone's (34 to 51; benchmarks/few_tokens.py)."
)
CHOSEN = ("flap", "wanda-sp", "magnitude", "activation", "snip", "fisher", "random")
PAIRS = "Scores of 256 pairs: a standard error of 2 to 3 %, the same pairs for all."


def error(d: Drawn, method: str, split: str = "calibration") -> float:
    """Relative, at the last block."""
    return d.at(pattern="50%", criterion="wanda", kind="total", source="here", block=LAST, split=split, method=method)


def ended(d: Drawn, method: str, split: str, samples: int) -> float:
    """Relative error at the last block, with so many windows."""
    return d.at(measure="relative error", split=split, method=method, samples=samples)


def of_cr(d: Drawn, measure: str, samples: int) -> float:
    """What CR changes after BR+GP, in percent of it."""
    return d.at(method="BR+GP+CR", other="BR+GP", source="here", model=SMOL, measure=measure, samples=samples)


def rise(d: Drawn, criterion: str, method: str) -> float:
    """Of perplexity above the dense model's, in percent."""
    return d.at(measure="rise of perplexity", criterion=criterion, method=method)


def kept(d: Drawn, kind: str, removed: float, method: str) -> float:
    """Percent of the dense score."""
    return d.at(kind=kind, removed=removed, method=method, criterion="flap", samples=128)


def gone(d: Drawn, criterion: str, method: str) -> float:
    """Points of the score that are lost without 70 % of the neurons."""
    return d.at(pattern="neurons-70%", criterion=criterion, method=method)


def apart(d: Drawn, method: str) -> float:
    """Points between the best and the worst criterion."""
    lost = [gone(d, criterion, method) for criterion in CHOSEN]
    return max(lost) - min(lost)


def cut_down(d: Drawn, pattern: str, method: str) -> float:
    """Perplexity of a decoder without some of its structures."""
    return d.at(pattern=pattern, criterion="flap", method=method)


def six(d: Drawn, criterion: str, method: str = "LR") -> float:
    return lost(d, "blocks-20%", criterion, method)


def of_smollm2(claim: FigureClaim, setting: str, figure: str, guess: str) -> FigureClaim:
    """The lab's claim on a figure, of SmolLM2's."""
    (margin,) = claim.margins.values()
    text = f"SmolLM2, {setting}: {claim.text}"
    return replace(claim, text=text, figure=f"real/{figure}", margins={SMOL: margin}, guess=guess, known={})


DECODER = [
    *(
        FigureClaim(
            f"SmolLM2, four windows: {step} takes at least {share} % off {before}'s calibration error (wanda)",
            P1,
            "section 3.1, LLaMA-7B: 50 % by BR, another 60 % by GP, another 20 % by CR",
            f"points above {share} %",
            "real/01_compounding_error",
            {SMOL: lambda d, s=step, b=before, k=share: less(error(d, s), error(d, b)) - k},
        )
        for step, before, share in STEPS
    ),
    FigureClaim(
        "SmolLM2, four windows: CR without GP ends further from the dense model than BR, on calibration text (wanda)",
        P1,
        "a run of its code by others, in no paper: LLaMA-2-7B with SparseGPT 0.644 -> 0.968",
        "% higher error",
        "real/01_compounding_error",
        {SMOL: lambda d: -less(error(d, "BR+CR"), error(d, "BR"))},
    ),
    *(
        FigureClaim(
            f"SmolLM2, four windows: BR+GP+CR lowers the error on {word} below LR's (wanda)",
            P1,
            "tables 2 and 4: test error on three corpora",
            "% lower",
            "real/01_compounding_error",
            {SMOL: lambda d, s=split: less(error(d, "BR+GP+CR", s), error(d, "LR", s))},
        )
        for split, word in TEXTS.items()
    ),
    *(
        FigureClaim(
            f"SmolLM2, {words}: CR raises the error on {word} above GP's (wanda)",
            P1,
            "table 2, LLaMA-7B: calibration error falls and test error rises",
            "% higher",
            "real/02_calibration_windows",
            {SMOL: lambda d, s=split, n=samples: -less(ended(d, "BR+GP+CR", s, n), ended(d, "BR+GP", s, n))},
            RATIOS,
        )
        for samples, words in WINDOWS.items()
        for split, word in TEXTS.items()
        if split != "wikitext2_test.txt"  # its row is that of the pitfall map
    ),
    *(
        FigureClaim(
            f"SmolLM2: CR {'lowers' if measure == 'calibration error' else 'raises'} {measure} with {WINDOWS[samples]}",
            P1,
            "tables 1 and 2, at 772 weights of a block per calibration token",
            f"% {'lower' if measure == 'calibration error' else 'higher'}",
            "real/07_pitfall",
            {SMOL: lambda d, m=measure, n=samples: of_cr(d, m, n) * (-1 if m == "calibration error" else 1)},
            RATIOS,
        )
        for measure in ("calibration error", "held-out error", "perplexity")
        for samples in WINDOWS
    ),
    *(
        FigureClaim(
            "SmolLM2: the effect of CR on held-out error goes from gain to harm as text shrinks:"
            f" one window against {n}",
            P1,
            "tables 1 to 4: OPT-125M gains, LLaMA-7B loses",
            "points worse",
            "real/07_pitfall",
            {SMOL: lambda d, most=n: of_cr(d, "held-out error", 1) - of_cr(d, "held-out error", most)},
            RATIOS,
        )
        for n in (18, 72)
    ),
]

HALVES = [
    of_smollm2(
        claim, "four windows", "01_halves", "Of the weights of a block a quarter is attention's, in OPT-125M a third."
    )
    for claim in halves("wanda")
]

ZERO_SHOT = [
    *(
        FigureClaim(
            f"SmolLM2, four windows, five epochs: {method} lowers held-out perplexity below {other}'s ({criterion})",
            P1,
            "tables 1 and 3, nearly all",
            "% lower",
            "real/08_proxy",
            {SMOL: lambda d, c=criterion, m=method, o=other: below(rise(d, c, m), rise(d, c, o))},
        )
        for criterion in ACCURACY
        for method, other in (("BR", "LR"), ("BR+GP", "BR"))
    ),
    FigureClaim(
        "SmolLM2, four windows, five epochs: Wanda beats SparseGPT once both are reconstructed (BR+GP)",
        P2,
        "abstract of v1: Wanda with good reconstruction can beat more complex criteria",
        "% lower perplexity",
        "real/08_proxy",
        {SMOL: lambda d: below(rise(d, "wanda", "BR+GP"), rise(d, "sparsegpt", "BR+GP"))},
        "SparseGPT moves weights by statistics of 1,024 tokens.",
    ),
    *(
        of_smollm2(
            raised(criterion, method), "four windows, five epochs", "08_zero_shot", "150 questions, the same for all."
        )
        for criterion in ACCURACY
        for method in ("BR", "BR+GP", "BR+GP+CR")
    ),
]

STRUCTURES = [
    *(
        FigureClaim(
            f"SmolLM2, four windows: {method} lowers held-out perplexity below {word}, {words} removed",
            source,
            evidence,
            "% lower",
            "real/10_parameters",
            {SMOL: lambda d, p=pattern, m=method, o=other: less(cut_down(d, p, m), cut_down(d, p, o))},
            FEW_TOKENS if "LIAR" in method else "",
        )
        for method, other, word, source, evidence in (
            ("compensate", "LR", "the mask alone's", FLAP, "the repair that its method rests on"),
            ("LIAR", "LR", "the mask alone's", LIAR, "abstract: best results on LLaMA"),
            ("LIAR", "compensate", "bias compensation's", LIAR, "abstract, against FLAP's repair"),
            ("LIAR+GP", "LIAR", "LIAR's", "ours", "not tested by the papers"),
        )
        for pattern, words in NEURONS.items()
    ),
    *(
        of_smollm2(
            speaking(pattern, words), "four windows", "10_same_size", f"{FEW_TOKENS} 75 questions, the same for all."
        )
        for pattern, words in NEURONS.items()
    ),
]

DEPTH = [
    FigureClaim(
        f"SmolLM2: one run of blocks chosen by angle is as good as blocks anywhere chosen by influence, within a tenth"
        f" of a nat: {SIX}",
        f"{ANGLE}, {INFLUENCE}",
        "what the two papers take out",
        "hundredths of a nat below 10",
        "real/12_repairs",
        {SMOL: lambda d: 10 + lower(six(d, "angular"), six(d, "influence"))},
        "Two of three runs by angle take block 11 out, where the first token's share of the mean square is made.",
    ),
    *(
        FigureClaim(
            f"SmolLM2: {repair} lowers perplexity below none: influence, {SIX}",
            source,
            evidence,
            "hundredths of a nat",
            "real/12_repairs",
            {SMOL: lambda d, r=repair: lower(six(d, "influence", f"{r}+GP"), six(d, "influence"))},
            "Eight windows of 256 tokens.",
        )
        for repair, source, evidence in (
            ("replace", REPLACE, "abstract: about nine tenths of the performance kept without training"),
            ("refit", "ours", "its maps contain those of replace"),
        )
    ),
]

ENCODER = [
    *(
        FigureClaim(
            f"MiniLM: LIAR keeps 98 % of the dense score with {words} removed (128 pairs)",
            LIAR,
            ABSTRACT,
            "points above 98 %",
            "real/09_survival",
            {MINI: lambda d, k=kind, r=removed: kept(d, k, r, "LIAR") - 98},
            PAIRS,
        )
        for (kind, removed), words in CUTS.items()
    ),
    *(
        FigureClaim(
            f"MiniLM: LIAR scores higher than the mask alone with {words} removed (128 pairs)",
            LIAR,
            ABSTRACT,
            "points of the dense score",
            "real/09_survival",
            {MINI: lambda d, k=kind, r=removed: kept(d, k, r, "LIAR") - kept(d, k, r, "LR")},
            PAIRS,
        )
        for (kind, removed), words in CUTS.items()
    ),
    *(
        FigureClaim(
            f"MiniLM: LIAR loses less than the mask alone, 70 % of the neurons chosen by {criterion} gone",
            LIAR,
            "figure 1a, by its caption: STS-B, 70 % of BERT's neurons gone, a line per repair",
            "points of 100 less",
            "real/09_crossed",
            {MINI: lambda d, c=criterion: gone(d, c, "LR") - gone(d, c, "LIAR")},
            PAIRS,
        )
        for criterion in CHOSEN
    ),
    FigureClaim(
        "MiniLM: LIAR draws seven criteria together, 70 % of the neurons gone",
        LIAR,
        "the same figure",
        "points closer, best to worst",
        "real/09_crossed",
        {MINI: lambda d: apart(d, "LR") - apart(d, "LIAR")},
    ),
    *(
        FigureClaim(
            f"MiniLM: moving weights and bias is better than moving {word} alone (70 % of the neurons)",
            LIAR,
            "figure 5b (LLaMA-7B, caption)",
            "points of the dense score",
            "real/09_parts",
            {MINI: lambda d, m=method: d.at(removed=70.0, method="LIAR") - d.at(removed=70.0, method=m)},
            PAIRS,
        )
        for word, method in (("the bias", "compensate"), ("weights", "LIAR[bias=false]"))
    ),
    *(
        FigureClaim(
            f"MiniLM: 128 pairs are enough for LIAR: 512 give at most 2 points more ({words})",
            LIAR,
            "abstract: a small calibration set",
            "points below 2",
            "real/09_examples",
            {
                MINI: lambda d, k=kind: (
                    2 + d.at(kind=k, method="LIAR", samples=128) - d.at(kind=k, method="LIAR", samples=512)
                )
            },
            PAIRS,
        )
        for kind, words in (
            ("neurons", "70 % of the neurons"),
            ("structures", "half of the heads and neurons by one budget"),
        )
    ),
]

CLAIMS = [*DECODER, *HALVES, *ZERO_SHOT, *STRUCTURES, *DEPTH, *ENCODER]
