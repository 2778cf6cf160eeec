"""All four methods on a real pretrained model and real text: calibration and held-out error, and held-out perplexity.

    python benchmarks/real_model.py MODEL STORIES --separator "<|endoftext|>" --seeds 0 1 2

MODEL is a Hugging Face folder (the tiny Llama stories260K was used for the README's table), STORIES a text it was
trained for. Its first 80 % of documents calibrate, the rest are held out. Prints Markdown: mean and standard deviation
over seeds of the relative error at the last block (calibration / held out) and of held-out perplexity. Runs are kept in
the store.
"""

import argparse
import math

import pandas as pd

from analysis.recipe.recipe import Recipe
from analysis.study.job import grid
from analysis.study.sweep import run_study

METHODS = ("LR", "BR", "BR+GP", "BR+GP+CR")


def recipes(criteria: list[str], lr: float, epochs: int) -> list[Recipe]:
    options = f"[epochs={epochs},lr={lr:g}]"
    return [
        Recipe.parse(f"{criterion} {method}" + ("" if method == "LR" else options))
        for criterion in criteria
        for method in METHODS
    ]


def summarise(study) -> pd.DataFrame:
    """One row per pattern, number of windows and method: mean and standard deviation over seeds."""
    keys = ["criterion", "pattern", "samples", "method"]
    order = study.blocks[keys].drop_duplicates()
    blocks = study.blocks.query("kind == 'total'")
    last = blocks[blocks.block == blocks.block.max()]
    errors = last.pivot_table(index=[*keys, "seed"], columns="split", values="relative_error", observed=True)
    ppl = study.perplexity.query("split == 'held-out'").pivot_table(
        index=[*keys, "seed"], columns="which", values="perplexity", observed=True
    )
    return (
        errors.join(ppl)
        .groupby(keys, observed=True)
        .agg(["mean", "std"])
        .loc[list(order.itertuples(index=False, name=None))]
    )


def told(mean: float, std: float, digits: int) -> str:
    """`mean ± std`, or the mean alone where there is one seed."""
    return f"{mean:.{digits}f}" if math.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--separator")
    parser.add_argument("--criteria", nargs="+", default=["sparsegpt-30%", "wanda-50%"])
    parser.add_argument("--samples", nargs="+", type=int, default=[32, 256])
    parser.add_argument("--held-out-samples", type=int, default=200)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    jobs = grid(
        model=given.model,
        recipes=recipes(given.criteria, given.lr, given.epochs),
        calibration=f"{given.text}[:80%]",
        held_out=[("held-out", f"{given.text}[80%:]")],
        samples=given.samples,
        held_out_samples=given.held_out_samples,
        length=given.length,
        seeds=given.seeds,
        separator=given.separator,
    )
    table = summarise(run_study(jobs))
    print(
        "| pattern | windows | method | calibration error | held-out error | held-out perplexity | dense"
        " |\n|---|---|---|---|---|---|---|"
    )
    for (criterion, pattern, samples, method), row in table.iterrows():
        cells = [
            told(row[c, "mean"], row[c, "std"], d) for c, d in (("calibration", 4), ("held-out", 4), ("pruned", 2))
        ]
        print(f"| {criterion} {pattern} | {samples} | {method} | {' | '.join(cells)} | {row['dense', 'mean']:.2f} |")


if __name__ == "__main__":
    main()
