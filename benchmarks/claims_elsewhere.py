"""Claims that have no row in `claims.csv`: where each is tested, or why it is not."""

from claims_base import FW, P1, P2, PERP, SW
from claims_figures import KWON
from claims_shapes import REAP, WRITING
from claims_structured import FLAP, LIAR

ELSEWHERE = [
    (
        "memory of LR, BR, BR+GP and BR+GP+CR is 3.9, 5.7, 5.7 and 10.6 GB",
        f"{P1}, table 6",
        "counted for every run (table cost); ratios depend on width, batch and length, so no margin of it is stated",
    ),
    (
        "the error jumps at an early block of LLaMA-2-7B",
        f"the code of {P1}, run by others",
        "not as a row: the lab's models have no massive activations; SmolLM2's relative error falls at the block that"
        " makes them and its own grows, figure real/01_three_readings",
    ),
    ("filtering generated text helps", f"{P1}, section 6", "not tested: the paper leaves it to others"),
    (
        "other calibration corpora",
        P2,
        "figure 03_representative_text, eight of the lab's texts; on real text not tested: the preset `real` has"
        " WikiText-2 alone",
    ),
    (
        "gaps between criteria shrink with model size",
        P2,
        "filed under 2406.15524, whose tables show it, and figure 07_criteria",
    ),
    (
        "statistics of masks over one unit, reconstruction over another",
        P2,
        "not tested: masks are chosen where a unit is solved",
    ),
    (
        "warm-up, SGD and other choices of the optimiser; retraining to convergence",
        P2,
        "not tested: all units train with Adam and a falling rate; retraining for 12 epochs is in figure 06_retraining",
    ),
    ("layer-wise PERP, ScaleLoRA", PERP, "not tested: neither is built in"),
    (
        "more calibration text helps SparseFW, not Wanda; a tenth protected already helps; 2,000 iterations; zero-shot",
        FW,
        "not tested: 300 iterations here, 20 in figure 05, 32 windows, 0.9 or nothing protected",
    ),
    ("SparseSwaps against DSnoT; zero-shot", SW, "not tested: DSnoT is not built in"),
    (
        "LIAR against retraining, against LLM-Pruner, against Wanda-sp on a decoder",
        LIAR,
        "not tested: LLM-Pruner is not built in, and no figure has the other two beside LIAR at one size",
    ),
    ("rearranging a mask", KWON, "not tested: not built in; mask tuning, its other half, is a row"),
    (
        "a budget shared between layers (global) is better than one for each",
        FLAP,
        "not as a row: notebook 10 takes a scope for each kind",
    ),
    ("reconstruction of blocks by gradient (EBFT)", "Guo et al. 2024", "is BR in other words: the rows on BR"),
    (
        "representative neurons by a kernelised convex hull (KCM)",
        "2303.04185",
        "not tested: not built in, no code is listed",
    ),
    (
        "inputs weighted by the gate are better than without (MoE-Pruner)",
        "2410.12013",
        "not tested: `gated=true` is a word of the recipe and an exercise of notebook 11; no figure compares it",
    ),
    (
        "half of the experts can go where a mixture is wide; answers in arithmetic are kept",
        REAP,
        "not tested: the lab's mixture is narrow, and its tables are of perplexity",
    ),
    (
        "a search by perplexity is less accurate in choice tasks than block influence",
        "README of LinearPatch, 2505.24680",
        "notebook 12 prints accuracy by criterion, of one seed; LinearPatch's patch is a word (`patch`), in no figure",
    ),
    (
        "brackets and arithmetic do not come back with training",
        WRITING,
        "not tested: the lab's world writes no brackets, and the untouched model is right in one sum of twenty",
    ),
    (
        "attention halves can go first; ranking by error gain",
        "2406.15786, 2603.20991",
        "not tested: both are words of the recipe (`attention-25%`, `gain`), in no figure",
    ),
    (
        "blocks taken out make a model about as many times faster for one window",
        "the general view",
        "figure 12_speed, whose times are one measurement and not a seed's",
    ),
    (
        "a global objective beats reconstruction in parts (ELSA); transformer matching, LaCo, SLEB's kin in evolution",
        "2510.01650, 2603.01376, 2503.09657",
        "not tested: none of them is built in",
    ),
]
