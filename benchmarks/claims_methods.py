"""Claims on methods: unstructured criteria, reconstruction and its granularity, refinement, retraining."""

import math
from collections.abc import Sequence

from claims_base import CRITERIA, FW, P1, P2, PERP, SHIN, SW, Claim, Results, less, printed, printed_less, with_options

from analysis.present import paper
from analysis.study.job import Job, grid

SIZES = ("unit=matrix", "unit=sub-block")
LOSSES = {"relative": "the error relative to each token's target", "cosine": "the cosine"}
LONG = 40  # epochs where a single window calibrates
# with the learning rate that served each best on the lab's held-out stories, among 2e-4, 5e-4, 1e-3 and 4e-3
RETRAINED = {
    "retrain": 5e-4,
    "retrain[objective=distill]": 1e-3,
    "retrain[train=masklora]": 1e-3,
    "retrain[train=norms-biases]": 4e-3,
}


def spread(r: Results, method: str) -> float:
    values = [r.ppl(f"{criterion}-{r.pattern} {method}") for criterion in CRITERIA]
    return max(values) / min(values)


def smallest_step(errors: Sequence[float]) -> float:
    return min(less(after, before) for before, after in zip(errors, errors[1:], strict=False))


def worst_step(r: Results, criterion: str) -> float:
    return smallest_step([r.error(f"{criterion}-{r.pattern} {method}") for method in SHIN])


def long(r: Results, method: str) -> str:
    """Wanda and a method with many epochs, for one window: the weights per token of the papers' large model."""
    return f"wanda-{r.pattern} {method}[epochs={LONG}]"


def printed_spread() -> dict[str, float]:
    """How much closer criteria lie with BR+GP than with LR in tables 1 and 3 of 2406.15524, WikiText-2."""
    values = paper.RESULTS.groupby(["model", "method"])["wikitext2"].agg(lambda some: some.max() / some.min())
    return {model: less(values[model, "BR+GP"], values[model, "LR"]) for model in paper.MODELS}


def printed_refined(pattern: str) -> dict[str, float]:
    """By how many percent SparseFW lowers Wanda's perplexity in table 1 of 2510.13713."""
    rows = paper.REFINED[(paper.REFINED["criterion"] == "wanda") & (paper.REFINED["pattern"] == pattern)]
    return {row.model: less(row.fw, row.none) for row in rows.itertuples()}


def size(r: Results, unit: str, method: str = "BR+GP") -> str:
    return f"wanda-{r.pattern} {method}[{unit}]"


def refined(word: str, pattern: str, more: str = "") -> str:
    """Wanda's mask refined; 300 iterations of Frank-Wolfe instead of the paper's 2,000."""
    return f"wanda+{word}-{pattern}{f'[iterations=300{more}]' if word == 'fw' else ''} LR"


def sub_block(r: Results) -> str:
    return size(r, "unit=sub-block")


OVERFIT = printed(paper.CALIBRATION_AND_TEST, "wikitext2", "wanda", lambda row: -less(row["BR+GP+CR"], row["BR+GP"]))
CLAIMS = [
    *(
        Claim(
            f"{criterion}: calibration error falls at every step LR > BR > BR+GP > BR+GP+CR",
            P1,
            "tables 1 and 3, all models and criteria",
            "% below the step before, the smallest step",
            lambda r, c=criterion: worst_step(r, c),
            known=printed(paper.RESULTS, "error", criterion, lambda row: smallest_step([row[m] for m in SHIN])),
        )
        for criterion in CRITERIA
    ),
    *(
        Claim(
            f"{criterion}: BR+GP+CR takes at least 79 % off LR's calibration error",
            P1,
            "figures 5 and 6: 87-94 % (LLaMA-7B), 79-96 % (OPT-125M)",
            "points above 79 %",
            lambda r, c=criterion: less(r.error(f"{c}-{r.pattern} BR+GP+CR"), r.error(f"{c}-{r.pattern} LR")) - 79,
            known=printed(paper.RESULTS, "error", criterion, lambda row: less(row["BR+GP+CR"], row["LR"]) - 79),
        )
        for criterion in CRITERIA
    ),
    *(
        Claim(
            f"{criterion}: BR lowers held-out perplexity below LR's",
            P1,
            "tables 1 and 3, all",
            "% lower",
            lambda r, c=criterion: less(r.ppl(f"{c}-{r.pattern} BR"), r.ppl(f"{c}-{r.pattern} LR")),
            known=printed_less("BR", "LR", criterion),
        )
        for criterion in CRITERIA
    ),
    *(
        Claim(
            f"{criterion}: GP lowers held-out perplexity below BR's",
            P1,
            "tables 1 and 3, nearly all",
            "% lower",
            lambda r, c=criterion: less(r.ppl(f"{c}-{r.pattern} BR+GP"), r.ppl(f"{c}-{r.pattern} BR")),
            "Five or eight blocks leave less to undo than 12 or 32: the error that a block inherits grows with depth.",
            known=printed_less("BR+GP", "BR", criterion),
        )
        for criterion in CRITERIA
    ),
    Claim(
        "CR overfits: its held-out error is above GP's though its calibration error is below",
        P1,
        "table 2: LLaMA-7B with Wanda 2.23 -> 2.48; OPT-125M the opposite, 0.0080 -> 0.0076",
        "% higher",
        lambda r: (
            -less(r.error(f"wanda-{r.pattern} BR+GP+CR", "held-out"), r.error(f"wanda-{r.pattern} BR+GP", "held-out"))
        ),
        "A block of these models has at most 101,568 weights for 4,096 calibration tokens, 25 a token; one of LLaMA-7B"
        " had 202 million for 262,144, 772 a token. In the paper, too, the small model did not overfit.",
        known=OVERFIT,
    ),
    Claim(
        f"CR overfits one window ({LONG} epochs): held-out error above GP's",
        P1,
        "table 2, at the paper's 772 weights per calibration token: LLaMA-7B with Wanda 2.23 -> 2.48",
        "% higher",
        lambda r: (
            -less(
                r.at(samples=1).error(long(r, "BR+GP+CR"), "held-out"),
                r.at(samples=1).error(long(r, "BR+GP"), "held-out"),
            )
        ),
        known=OVERFIT,
    ),
    Claim(
        f"CR raises held-out perplexity with one window ({LONG} epochs)",
        P1,
        "table 1, at the paper's 772 weights per calibration token: LLaMA-7B with Wanda 6.68 -> 6.79",
        "% higher",
        lambda r: -less(r.at(samples=1).ppl(long(r, "BR+GP+CR")), r.at(samples=1).ppl(long(r, "BR+GP"))),
        known={model: -value for model, value in printed_less("BR+GP+CR", "BR+GP", "wanda").items()},
    ),
    Claim(
        "CR without GP ends further from the dense model than BR, on calibration text",
        P1,
        "a run of its code by others, in no paper: LLaMA-2-7B with SparseGPT 0.644 -> 0.968",
        "% higher error",
        lambda r: -less(r.error(f"sparsegpt-{r.pattern} BR+CR"), r.error(f"sparsegpt-{r.pattern} BR")),
        known={"LLaMA-2-7B": -less(0.968, 0.644)},
    ),
    Claim(
        "held-out error is above calibration error after reconstruction (BR+GP)",
        P1,
        "table 4: 4 times on LLaMA-7B, 1.0 times on OPT-125M (Wanda, C4)",
        "% higher",
        lambda r: -less(r.error(f"wanda-{r.pattern} BR+GP", "held-out"), r.error(f"wanda-{r.pattern} BR+GP")),
        known={
            row.model: -less(row.c4, row.calibration)
            for row in paper.CALIBRATION_AND_TEST.itertuples()
            if (row.criterion, row.method) == ("wanda", "BR+GP")
        },
    ),
    Claim(
        "criteria lie closer together after reconstruction (largest over smallest perplexity)",
        P1 + ", " + P2,
        "table 1: 2.4 times with LR, 1.03 times with BR+GP",
        "% smaller ratio",
        lambda r: less(spread(r, "BR+GP"), spread(r, "LR")),
        known=printed_spread(),
    ),
    Claim(
        "a matrix at a time is worse than a sub-block (BR+GP)",
        P2,
        "abstract of v3: the region must hold something non-linear",
        "% higher perplexity",
        lambda r: -less(r.ppl(size(r, "unit=matrix")), r.ppl(sub_block(r))),
    ),
    Claim(
        "sub-blocks need less solver memory than the whole model retrained",
        P2,
        "abstracts: a fraction of the memory",
        "% less",
        lambda r: less(r.memory(sub_block(r)), r.memory(f"wanda-{r.pattern} retrain")),
    ),
    Claim(
        "sub-blocks are at least as good as MaskLoRA retraining at equal tokens",
        P2,
        "abstract of v2: matches it with a tenth of data and compute",
        "% lower perplexity",
        lambda r: less(r.ppl(sub_block(r)), r.ppl(f"wanda-{r.pattern} retrain[train=masklora]")),
    ),
    Claim(
        "sub-blocks are at least as good as full retraining at equal tokens",
        P2,
        "abstract of v1: better than full retraining",
        "% lower perplexity",
        lambda r: less(r.ppl(sub_block(r)), r.ppl(f"wanda-{r.pattern} retrain")),
    ),
    Claim(
        "sub-blocks with inputs and targets dense are within 2 % of sparse inputs and dense targets",
        P2,
        "default of its code",
        "points below 2 %",
        lambda r: 2 + less(r.ppl(size(r, "unit=sub-block", "IR")), r.ppl(sub_block(r))),
    ),
    *(
        Claim(
            f"mean squared error is at least as good as {words} (BR+GP)",
            P2,
            "the loss is one of the choices it studies; what it found could not be read",
            "% lower perplexity",
            lambda r, w=loss: less(r.ppl(f"wanda-{r.pattern} BR+GP"), r.ppl(f"wanda-{r.pattern} BR+GP[loss={w}]")),
            "The learning rate is the one that serves the mean squared error.",
        )
        for loss, words in LOSSES.items()
    ),
    Claim(
        "norms and biases alone recover half of the perplexity that pruning costs",
        PERP,
        "abstract: 0.01-0.05 % of parameters match full retraining on GPT models",
        "points above 50 %",
        lambda r: 100 * recovered(r, "retrain[train=norms-biases]") - 50,
        "A Llama has no biases, so norms alone are trained; the paper's GPT-type models have both, are larger, and were"
        " retrained on more text.",
    ),
    Claim(
        "MaskLoRA recovers as much as full retraining, within 10 points",
        PERP,
        "the same",
        "points within",
        lambda r: 10 + 100 * (recovered(r, "retrain[train=masklora]") - recovered(r, "retrain")),
    ),
    *(
        Claim(
            f"{name} takes at least 20 % off Wanda's layer errors at {{{where}}}",
            source,
            evidence,
            "points above 20 %",
            lambda r, w=word, k=where: 80 - 100 * r.layers(refined(w, getattr(r, k))),
            "Small matrices: with 64 to 256 inputs Wanda's choice per row is already close to the best; Frank-Wolfe"
            " also protects 90 % of the kept weights and ran 300 iterations.",
        )
        for name, word, source, evidence in (
            ("SparseFW", "fw", FW, "section 4: typically 20-40 %, up to 80 %"),
            ("SparseSwaps", "swaps", SW, "abstract: up to 60 %"),
        )
        for where in ("pattern", "high")
    ),
    *(
        Claim(
            f"{name} lowers perplexity below Wanda's at {{high}}",
            source,
            evidence,
            "% lower",
            lambda r, w=word: less(r.ppl(refined(w, r.high)), r.ppl(f"wanda-{r.high} LR")),
            known=known,
        )
        for name, word, source, evidence, known in (
            ("SparseFW", "fw", FW, "table 1, 60 %: five of six models", printed_refined("60%")),
            ("SparseSwaps", "swaps", SW, "abstract", {}),
        )
    ),
    Claim(
        "SparseFW without protected weights is worse than Wanda in perplexity",
        FW,
        "section 2.3: though its layer errors are lower",
        "% higher",
        lambda r: -less(r.ppl(refined("fw", r.high, ",protect=0.0")), r.ppl(f"wanda-{r.high} LR")),
        "Protection guards against masks that fit the Gram matrix but not the model. With 32 windows for at most 256"
        " inputs the Gram matrix is well known here, and a lower layer error is a better model.",
    ),
    Claim(
        "refinement still helps after reconstruction (swaps, BR+GP)",
        P2 + ", " + SW,
        "2510.14444: the criterion matters less once reconstruction is done",
        "% lower perplexity",
        lambda r: less(r.ppl(f"wanda+swaps-{r.high} BR+GP"), r.ppl(f"wanda-{r.high} BR+GP")),
    ),
]


def recovered(r: Results, method: str) -> float:
    """Share of the log-perplexity that pruning costs which a method wins back."""
    dense, plain = (math.log(r.ppl(f"wanda-{r.pattern} LR", which=which)) for which in ("dense", "pruned"))
    return (plain - math.log(r.ppl(f"wanda-{r.pattern} {method}"))) / (plain - dense)


def jobs(
    pattern: str, high: str, *, lr: float, epochs: int, samples: int, **common
) -> tuple[dict[str, str], list[Job]]:
    """The label of every recipe by its text without solver options (but for `long`), and every run the claims need."""
    texts = [f"{criterion}-{pattern} {method}" for criterion in CRITERIA for method in SHIN]
    texts += [f"wanda-{pattern} {method}[{unit}]" for method in ("BR+GP", "IR") for unit in SIZES] + [
        f"wanda-{pattern} IR",
        f"sparsegpt-{pattern} BR+CR",
    ]
    texts += [f"wanda-{pattern} BR+GP[loss={loss}]" for loss in LOSSES]
    texts += [f"wanda-{pattern} {method}" for method in RETRAINED]
    texts += [refined(word, p) for word in ("swaps", "fw") for p in (pattern, high)] + [
        refined("fw", high, ",protect=0.0")
    ]
    texts += [f"wanda-{high} LR", f"wanda-{high} BR+GP", f"wanda+swaps-{high} BR+GP"]
    rates = {f"wanda-{pattern} {method}": rate for method, rate in RETRAINED.items()}
    chosen = {text: with_options(text, rates.get(text, lr), epochs) for text in texts}
    alone = {
        f"wanda-{pattern} {method}[epochs={LONG}]": with_options(f"wanda-{pattern} {method}", lr, LONG)
        for method in ("BR+GP", "BR+GP+CR")
    }
    found = grid(recipes=list(chosen.values()), samples=samples, **common)
    found += grid(recipes=list(alone.values()), samples=1, held_out_samples=samples, **common)
    return {text: recipe.label for text, recipe in {**chosen, **alone}.items()}, found
