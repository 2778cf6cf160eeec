"""How much one-shot pruning hurts the lab's model, without reconstruction: the table in data/README.md.

    python benchmarks/saturation.py [MODEL]

Held-out perplexity on 100 windows of 256 tokens of the mixed register, masks from 64 such windows. Prints Markdown.
"""

import sys

from analysis.study.job import grid
from analysis.study.sweep import run_study

CRITERIA = ("magnitude", "wanda", "sparsegpt")
SPARSITIES = ("50%", "60%")


def main(model: str = "lab") -> None:
    recipes = [f"{criterion}-{sparsity} LR" for sparsity in SPARSITIES for criterion in CRITERIA]
    texts = {"calibration": "lab:mixed", "held_out": {"mixed": "lab:mixed"}, "held_out_samples": 100, "length": 256}
    study = run_study(grid(model=model, recipes=recipes, samples=64, **texts))
    held_out = study.perplexity.query("split == 'mixed'")
    dense = held_out.query("which == 'dense'").perplexity.iloc[0]
    pruned = held_out.query("which == 'pruned'").set_index(["pattern", "criterion"]).perplexity
    print(f"| sparsity | dense | {' | '.join(CRITERIA)} |\n|---|---|{'---|' * len(CRITERIA)}")
    for sparsity in SPARSITIES:
        cells = [f"{pruned[sparsity, c]:.2f} (+{100 * (pruned[sparsity, c] / dense - 1):.0f} %)" for c in CRITERIA]
        print(f"| {sparsity} | {dense:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
