"""What a least-squares repair of removed neurons makes of few calibration tokens. By hand; minutes a run.

    python benchmarks/few_tokens.py smollm2 CALIBRATION HELD_OUT --samples 4 18

Half of the neurons removed by FLAP, three seeds: relative error at the last block on both texts and held-out
perplexity, for the mask alone and with LIAR, which fits every output of a removed neuron's projection to the neurons
that stay. With fewer tokens than these it can meet its targets exactly (docs/results.md, smaller SmolLM2).
"""

import argparse

import pandas as pd

from analysis.study.grids import labelled, recipes
from analysis.study.job import grid
from analysis.study.sweep import run_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 18], help="calibration windows of 256 tokens")
    parser.add_argument("--pattern", default="neurons-50%")
    parser.add_argument("--methods", nargs="+", default=["LR", "LIAR"])
    given = parser.parse_args()
    study = run_study(
        grid(
            model=given.model,
            recipes=recipes(["flap"], given.pattern, given.methods),
            calibration=given.calibration,
            held_out=labelled([given.held_out]),
            samples=given.samples,
            held_out_samples=8,
            length=256,
            seeds=[0, 1, 2],
        )
    )
    key = ["samples", "method", "seed"]
    last = study.blocks[(study.blocks["kind"] == "total") & (study.blocks["block"] == study.blocks["block"].max())]
    errors = last.pivot(index=key, columns="split", values="relative_error").add_prefix("error on ")
    pruned = study.perplexity[(study.perplexity["which"] == "pruned") & (study.perplexity["split"] != "calibration")]
    rows = errors.join(pruned.set_index(key)["perplexity"])
    with pd.option_context("display.width", 120):
        print(rows.round(4).to_string())
        print(rows.groupby(["samples", "method"]).mean().round(4).to_string())


if __name__ == "__main__":
    main()
