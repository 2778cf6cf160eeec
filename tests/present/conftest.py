"""Made-up tables with the columns of a study: error grows with depth, falls with better methods and with more windows."""

import numpy as np
import pandas as pd
import pytest

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
                    yield {"run": f"{recipe} {count} {seed}", "model": "lab", "recipe": recipe, "criterion": criterion, "pattern": "50%",
                           "method": method, "samples": count, "length": 128, "seed": seed}  # fmt: skip


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
                    rows.append({**job, "unit": unit, "first_block": unit, "last_block": unit, "epoch": epoch, "step": 4 * epoch,
                                 "split": split, "error": 2 * error, "relative_error": error})  # fmt: skip
    return pd.DataFrame(rows)
