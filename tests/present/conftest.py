"""Made-up tables with the columns of a study: error grows with depth, falls with better methods and with more windows."""

import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.records import conform, study_columns
from analysis.study.choices import recipes
from analysis.study.sweep import grid

METHODS = {"LR": 1.0, "BR": 0.45, "BR+GP": 0.25, "BR+GP+CR": 0.17}
CRITERIA = {"magnitude": 2.2, "wanda": 1.0, "sparsegpt": 0.8}
SPLITS = {"calibration": 1.0, "stories": 1.3, "entries": 2.1}


def jobs(samples=(8, 32, 128), seeds=(0, 1)):
    """One dict of job columns for every run of a made-up study."""
    for criterion in CRITERIA:
        for method in METHODS:
            for count in samples:
                for seed in seeds:
                    recipe = f"{criterion}-50% {method}"
                    yield {"run": f"{recipe} {count} {seed}", "model": "lab", "recipe": recipe, "criterion": criterion, "refinement": "none",
                           "pattern": "50%", "method": method, "granularity": "2 blocks, overlap 1" if "CR" in method else "1 block", "student": "sparse",
                           "target": "dense" if "GP" in method else "sparse", "samples": count, "length": 128, "seed": seed}  # fmt: skip


def level(job, split, noise):
    """Size of an error: recipe, overfitting of few windows off the calibration set, and the seed's noise."""
    gap = 1 if split == "calibration" or job["method"] == "LR" else SPLITS[split] * (1 + 12 / job["samples"])
    return 0.04 * CRITERIA[job["criterion"]] * METHODS[job["method"]] * gap * np.exp(noise.normal(0, 0.04))


@pytest.fixture(scope="session")
def blocks() -> pd.DataFrame:
    noise = np.random.default_rng(0)
    rows = []
    for job in jobs():
        for split in SPLITS:
            size = level(job, split, noise)
            for block in range(8):
                for kind, share in {"total": 1.0, "inherited": 0.8 * block / 8, "local": 0.3, "cross": 0.1}.items():
                    error = size * share * (0.08 + (block / 7) ** 1.5)
                    rows.append({**job, "block": block, "split": split, "kind": kind, "error": 3 * error, "relative_error": error})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def perplexity() -> pd.DataFrame:
    noise = np.random.default_rng(1)
    rows = []
    for job in jobs():
        for split, register in SPLITS.items():
            dense = 9.0 + register
            for which, value in {"dense": dense, "pruned": dense * (1 + 9 * level(job, split, noise))}.items():
                rows.append({**job, "split": split, "which": which, "nats_per_token": np.log(value), "perplexity": value,
                             "tokens": 4000, "windows": 32, "context": 128})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def steps() -> pd.DataFrame:
    noise = np.random.default_rng(2)
    rows = []
    for job in jobs():
        if job["method"] == "LR":
            continue
        for unit in range(9 if "CR" in job["method"] else 8):
            for split in SPLITS:
                size = level(job, split, noise)
                for epoch in range(11):
                    overfit = 0 if split == "calibration" else 0.5 * epoch / job["samples"]
                    error = size * (0.5 + 1.5 * np.exp(-epoch / 2) + overfit)
                    rows.append({**job, "unit": unit, "first_block": unit, "last_block": unit, "part": "", "epoch": epoch, "step": 4 * epoch,
                                 "split": split, "error": 2 * error, "relative_error": error})  # fmt: skip
    return pd.DataFrame(rows)


def study(made, samples=(32,), seeds=(0, 1), blocks=3):
    """The tables that runs of the recipes `made` could have left; every number a function of the recipe, the seed and the split alone."""
    rows = {name: [] for name in ("blocks", "steps", "layers", "cost", "perplexity")}
    for job in grid(model="lab", recipes=made, samples=list(samples), seeds=list(seeds), calibration="lab:stories", length=128):
        run = f"prune-{zlib.crc32(str(job).encode()):08x}"
        front, solver, unit = job.columns(run), job.recipe.solver, job.recipe.unit
        trained = solver.name in ("gradient", "retrain")
        quality = zlib.crc32(job.recipe.label.encode()) % 1000 / 1000 + 10 / job.samples
        for split, shift in {"calibration": 0.0, "lab:stories/held-out": 0.3, "lab:entries/held-out": 0.9}.items():
            value = 2 + shift + 0.5 * quality + 0.01 * job.seed
            for which, number in {"dense": 1.8 + shift, "pruned": value}.items():
                rows["perplexity"].append({**front, "split": split, "which": which, "nats_per_token": np.log(number), "perplexity": number, "tokens": 4000,
                                           "windows": 32, "context": 128})  # fmt: skip
            for block in range(blocks):
                rows["blocks"].append({**front, "block": block, "split": split, "kind": "total", "error": value, "relative_error": 0.01 * value * (block + 1)})
            for epoch in range(solver.epochs + 1 if trained else 0):
                rows["steps"].append({**front, "unit": 0, "first_block": 0, "last_block": 0, "part": "", "epoch": epoch, "step": epoch, "split": split,
                                      "error": 1.0, "relative_error": 1.0})  # fmt: skip
        width = {"matrix": 0.25, "sub-block": 0.5, "model": blocks}.get(unit.name, unit.width)
        stage = {**front, "seconds": 2.0, "peak_memory_mib": 100.0, "solver_memory_mib": 0.0, "tokens": 128 * job.samples, "trainable_parameters": 0}
        rows["cost"].append({**stage, "unit": -1, "stage": "record"})
        for visit in range(blocks if solver.name != "none" else 0):
            epochs = solver.epochs if trained else 1
            rows["cost"].append({**stage, "unit": visit, "stage": "solve", "seconds": 0.1 * epochs * job.samples / width, "solver_memory_mib": 10.0 * width + visit,
                                 "tokens": 128 * job.samples * epochs, "trainable_parameters": 1000})  # fmt: skip
        for block in range(blocks if job.recipe.refinement.name != "none" else 0):
            rows["layers"].append({**front, "block": block, "matrix": "mlp.up", "action": job.recipe.refinement.name, "error_before": 2.0,
                                   "error_after": 1.0 + 0.1 * block + 0.05 * job.seed, "steps": 3})  # fmt: skip
    return SimpleNamespace(**{name: conform(name, pd.DataFrame(part), study_columns(name)) for name, part in rows.items()})


@pytest.fixture(scope="session")
def sizes():
    """Methods by unit, and the closed form in its three kinds."""
    methods = ["LR", "BR", "BR+GP", "IR", "ridge", "ridge[target=dense]", "ridge[student=dense,target=dense]"]
    return study(recipes(["wanda"], "50%", methods, units=["model", "2", "sub-block", "1", "matrix"], epochs=2))


@pytest.fixture(scope="session")
def masks():
    """Criteria with refinements, before and after reconstruction."""
    before = recipes(["wanda", "sparsegpt", "ria", "magnitude"], ["60%", "2:4"], ["LR"], refinements=["none", "swaps", "fw"])
    after = recipes(["wanda", "sparsegpt", "ria", "magnitude"], ["60%", "2:4"], ["BR+GP"], refinements=["none", "swaps"], epochs=2)
    return study([*before, *after])


@pytest.fixture(scope="session")
def spent():
    """Local reconstruction and retraining over epochs and windows."""
    methods = ["LR", "BR+GP[unit=sub-block]", "BR+GP", "retrain", "retrain[objective=distill]", "retrain[lr=1e-3,train=masklora]"]
    return study(recipes(["wanda"], "50%", methods, epochs=[1, 4]), samples=(8, 32))
