"""Whether a change of the code changes results: weights, masks and tables of many recipes, kept before and compared
after.

    python benchmarks/bits.py keep FOLDER [MODEL TEXT]       before; MODEL and TEXT: a real model's folder and a text
    file
    python benchmarks/bits.py compare BEFORE AFTER           after `keep` of another folder with the changed code

Everything but times and memory is kept. `compare` names what differs and by how much, relative to the largest value of
the tensor or column. One thread, CPU, no measure of time.
"""

import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", ANALYSIS_PROGRESS="0", HF_HUB_OFFLINE="1")

TRAINING = "epochs=2,batch=4,lr=1e-3"
DECODER = [
    "magnitude-50% LR",
    "wanda-50% LR",
    f"wanda-50% BR[{TRAINING}]",
    f"wanda-50% BR+GP[{TRAINING}]",
    f"wanda-60%[statistics=dense] BR+GP+CR[{TRAINING}]",
    f"sparsegpt-2:4 BR+GP[unit=sub-block,{TRAINING},select=held-out]",
    "sparsegpt-50%[damping=0.05] LR",
    "ria-60% ridge",
    "wanda-50% ridge[target=dense]",
    "wanda+swaps-50% LR",
    f"magnitude+fw-60%[iterations=50] BR[unit=matrix,{TRAINING}]",
    "random-30% LR",
    f"wanda-50% BR[train=masklora,rank=4,{TRAINING}]",
    f"wanda-50% retrain[{TRAINING}]",
    f"wanda-50% retrain[objective=distill,train=norms-biases,{TRAINING}]",
    "flap-neurons-50% LIAR+GP",
    "flap-heads-50% compensate",
    "wanda-sp-structures-50%[scope=global] LIAR[penalty=held-out]",
    "activation-neurons-30% scale",
    f"snip-neurons-50% BR+GP[repair=liar,{TRAINING}]",
]
ENCODER = [
    "wanda-50% LR",
    f"wanda-50% BR+GP[{TRAINING}]",
    "fisher-neurons-50% LIAR+GP",
    "snip-heads-50% LIAR",
    "flap-structures-30%[scope=global] compensate",
]
TIMED = {"seconds", "peak_memory_mib", "latency_ms", "tokens_per_second"}


def keep(folder: Path, real: list[str]) -> None:
    """One safetensors file and one parquet file per table for every run."""
    import torch

    from analysis import load_model, load_tokens

    torch.set_num_threads(1)
    texts = {
        "lab": ("lab:stories", "lab:stories", DECODER),
        "lab/encoder-truth": ("examples:truth", "examples:truth", ENCODER),
        "lab/encoder-answers": ("examples:answers", "examples:answers", ["flap-neurons-50% LIAR"]),
    }
    if real:
        texts[real[0]] = (f"{real[1]}[:80%]", f"{real[1]}[80%:]", DECODER)
    for number, (name, (source, other, recipes)) in enumerate(texts.items()):
        dense = load_model(name)
        separator = {"separator": "<|endoftext|>"} if real and name == real[0] else {}
        calibration = load_tokens(source, dense, samples=12, length=48, **separator)
        held_out = {"unseen": load_tokens(other, dense, samples=8, length=48, split="held-out", **separator)}
        for recipe in recipes:
            _one(folder / f"{number}-{recipe.replace('/', '_')}", dense, recipe, calibration, held_out)


def _one(folder: Path, dense, recipe: str, calibration, held_out) -> None:
    from safetensors.torch import save_file

    from analysis import Recipe, prune

    folder.mkdir(parents=True)
    pruned = prune(dense, Recipe.parse(recipe), calibration, held_out)
    save_file(
        {name: weight.detach().clone().contiguous() for name, weight in pruned.model.named_parameters()},
        folder / "weights.safetensors",
    )
    save_file({name: mask.contiguous() for name, mask in pruned.masks.items()}, folder / "masks.safetensors")
    for name, table in pruned.tables.items():
        table.drop(columns=TIMED & set(table.columns)).to_parquet(folder / f"{name}.parquet")
    print(folder.name, flush=True)


def compare(before: Path, after: Path) -> int:
    """How many files differ; each is named with its largest relative difference."""
    import pandas as pd
    from safetensors.torch import load_file

    files = sorted(path.relative_to(before) for path in before.rglob("*.*") if path.is_file())
    extra = sorted(
        path.relative_to(after)
        for path in after.rglob("*.*")
        if path.is_file() and not (before / path.relative_to(after)).exists()
    )
    differ = [f"{path}: only after" for path in extra]
    for path in files:
        if not (after / path).exists():
            differ.append(f"{path}: only before")
        elif path.suffix == ".safetensors":
            differ += _tensors(path, load_file(before / path), load_file(after / path))
        else:
            differ += _table(path, pd.read_parquet(before / path), pd.read_parquet(after / path))
    print(
        *differ,
        f"{len(files)} files of {len({path.parts[0] for path in files})} runs, {len(differ)} differences",
        sep="\n",
    )
    return len(differ)


def _tensors(path: Path, old: dict, new: dict) -> list[str]:
    if old.keys() != new.keys():
        return [f"{path}: other names {sorted(old.keys() ^ new.keys())[:3]}"]
    unequal = {
        name: (new[name].double() - old[name].double()).abs().max() / old[name].double().abs().max()
        for name in old
        if not old[name].equal(new[name])
    }
    return (
        [f"{path}: {len(unequal)} tensors, most {max(unequal.values()):.2e} in {max(unequal, key=unequal.get)}"]
        if unequal
        else []
    )


def _table(path: Path, old, new) -> list[str]:
    if list(old.columns) != list(new.columns) or len(old) != len(new):
        return [f"{path}: {len(old)} rows of {list(old.columns)}, now {len(new)} of {list(new.columns)}"]
    differ = []
    for column in old.columns[[not old[c].equals(new[c]) for c in old.columns]]:
        numbers = old[column].dtype.kind == "f"
        most = (
            f"{((new[column] - old[column]).abs().max() / old[column].abs().max()):.2e}"
            if numbers
            else f"{(old[column] != new[column]).sum()} rows"
        )
        differ.append(f"{path} {column}: {most}")
    return differ


if __name__ == "__main__":
    verb, *rest = sys.argv[1:] or ["?"]
    if verb == "keep" and len(rest) in (1, 3):
        keep(Path(rest[0]), rest[1:])
    elif verb == "compare" and len(rest) == 2:
        sys.exit(compare(Path(rest[0]), Path(rest[1])) > 0)
    else:
        sys.exit(__doc__)
