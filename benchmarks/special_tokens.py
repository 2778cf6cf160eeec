"""Neurons of an encoder that speak at the tokenizer's special tokens alone. By hand; seconds.

    python benchmarks/special_tokens.py minilm examples:STS-B/train.tsv

Per block the neuron of the largest root mean square at special tokens, times the norm of the weights that read it: that
number there, at all other tokens, and that of the median neuron at those. Where such a neuron is removed, a bias that
makes up for its mean over all tokens moves every word (docs/results.md, heads and neurons out of MiniLM).
"""

import sys

import pandas as pd
import torch

from analysis.models.hooks import hooked
from analysis.models.load import load_model
from analysis.structured.find import structures
from analysis.text.load import load_tokens


def main() -> None:
    model = load_model(sys.argv[1])
    windows = load_tokens(sys.argv[2], model, samples=128, length=128)
    special = torch.isin(windows.ids, torch.tensor(model.tokenizer.all_special_ids)) & windows.mask
    words = windows.mask & ~special
    rows: list[dict[str, float]] = []

    def watch(block: int):
        def see(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            weight = module.weight.norm(dim=0)
            there, elsewhere = (args[0][tokens].square().mean(0).sqrt() * weight for tokens in (special, words))
            top = there.argmax()
            own = {"at special tokens": there[top], "at words": elsewhere[top], "median at words": elsewhere.median()}
            rows.append({"block": block, "neuron": int(top), **{name: float(value) for name, value in own.items()}})

        return see

    pairs = structures(model.model, kinds=["neurons"])
    with hooked([(pair.consumer.module, watch(pair.block)) for pair in pairs]), torch.inference_mode():
        model.model(**windows.arguments(slice(None)))
    print(f"special tokens: {float(special.sum() / windows.mask.sum()):.0%} of all")
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
