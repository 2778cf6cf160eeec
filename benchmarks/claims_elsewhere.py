"""Claims that have no row in `claims.csv`: where each is tested, or why it is not."""

from claims_base import FW, P1, P2, PERP, SW
from claims_structured import FLAP, LIAR

ELSEWHERE = [
    (
        "attention and MLP pruned alone: reconstruction lowers perplexity in either",
        f"{P1}, table 7",
        "notebook 01 prunes each half alone, beside the paper's numbers",
    ),
    (
        "BR takes 50 %, GP another 60 % and CR another 20 % off the error before",
        f"{P1}, section 3.1",
        "figure 01_compounding_error shows all three steps; here their smallest is a row",
    ),
    (
        "memory of LR, BR, BR+GP and BR+GP+CR is 3.9, 5.7, 5.7 and 10.6 GB",
        f"{P1}, table 6",
        "counted for every run (table cost); ratios depend on width, batch and length, so no margin of it is stated",
    ),
    ("filtering generated text helps", f"{P1}, section 6", "not tested: the paper leaves it to others"),
    ("self-generated text heals where CR does harm", f"{P1}, figure 1b", "figure 03_where_it_harms, on few windows"),
    (
        "the effect of CR turns from gain to harm as weights per calibration token grow",
        f"{P1}, tables 1 to 4",
        "figure 07_pitfall, the papers' models beside",
    ),
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
    ("quality is the same over unit sizes once each is trained to a plateau", P2, "figure 04_converged"),
    (
        "statistics of masks over one unit, reconstruction over another",
        P2,
        "not tested: masks are chosen where a unit is solved",
    ),
    ("layer-wise PERP, ScaleLoRA", PERP, "not tested: neither is built in"),
    (
        "more calibration text helps SparseFW and not Wanda; 2,000 iterations; RIA as the start; zero-shot",
        FW,
        "not tested: 300 iterations here, 20 in figure 05, 32 windows",
    ),
    (
        "SparseSwaps against DSnoT; zero-shot; little gain at 50 %",
        SW,
        "perplexity at the lower sparsity is in figure 05; the rest is not tested",
    ),
    ("a small set of calibration examples suffices", LIAR, "figure 09_examples, 8 to 128 examples"),
    (
        "LIAR against retraining, against LLM-Pruner and Kwon's rearrangement",
        LIAR,
        "not tested: none of them is built in but mask tuning (`scale`), which figure 09_survival draws",
    ),
    ("zero-shot accuracy of a decoder after LIAR", LIAR, "figure 10_same_size"),
    (
        "a budget shared between layers (global) is better than one for each",
        FLAP,
        "not as a row: notebook 10 takes a scope for each kind",
    ),
]
