"""Made-up tables with the columns of a study: error grows with depth, falls with better methods and with more
windows.
"""

import numpy as np
import pandas as pd
import pytest

from analysis.study.grids import grids, recipes
from analysis.study.job import grid
from tests.helpers.studies import leave, study

METHODS = {"LR": 1.0, "BR": 0.45, "BR+GP": 0.25, "BR+GP+CR": 0.17}
TASKS = ("lab:yes-no", "lab:entailment")
CRITERIA = {"magnitude": 2.2, "wanda": 1.0, "sparsegpt": 0.8}
SPLITS = {"calibration": 1.0, "stories": 1.3, "entries": 2.1}


def jobs(samples=(8, 32, 128), seeds=(0, 1)):
    """One dict of job columns for every run of a made-up study."""
    for criterion in CRITERIA:
        for method in METHODS:
            for count in samples:
                for seed in seeds:
                    recipe = f"{criterion}-50% {method}"
                    yield {
                        "run": f"{recipe} {count} {seed}",
                        "model": "lab",
                        "recipe": recipe,
                        "criterion": criterion,
                        "refinement": "none",
                        "pattern": "50%",
                        "method": method,
                        "granularity": "2 blocks, overlap 1" if "CR" in method else "1 block",
                        "student": "sparse",
                        "target": "dense" if "GP" in method else "sparse",
                        "calibration": "lab:stories",
                        "samples": count,
                        "added": "",
                        "added_samples": 0,
                        "length": 128,
                        "seed": seed,
                    }


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
                    rows.append(
                        {
                            **job,
                            "block": block,
                            "split": split,
                            "kind": kind,
                            "error": 3 * error,
                            "relative_error": error,
                            "relative_error_rest": error,
                            "relative_error_median": error,
                            "energy_first": 0.01,
                            "energy_top": 0.05,
                        }
                    )
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def perplexity() -> pd.DataFrame:
    noise = np.random.default_rng(1)
    rows = []
    for job in jobs():
        for split, register in SPLITS.items():
            dense = 9.0 + register
            for which, value in {"dense": dense, "pruned": dense * (1 + 9 * level(job, split, noise))}.items():
                rows.append(
                    {
                        **job,
                        "split": split,
                        "which": which,
                        "nats_per_token": np.log(value),
                        "perplexity": value,
                        "tokens": 4000,
                        "windows": 32,
                        "context": 128,
                    }
                )
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
                    rows.append(
                        {
                            **job,
                            "unit": unit,
                            "first_block": max(unit - 1, 0) if "CR" in job["method"] else unit,
                            "last_block": min(unit, 7),
                            "part": "",
                            "epoch": epoch,
                            "step": 4 * epoch,
                            "split": split,
                            "error": 2 * error,
                            "relative_error": error,
                        }
                    )
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def sizes():
    """Methods by unit, and the closed form in its three kinds."""
    methods = ["LR", "BR", "BR+GP", "IR", "ridge", "ridge[target=dense]", "ridge[student=dense,target=dense]"]
    return study(recipes(["wanda"], "50%", methods, units=["model", "2", "sub-block", "1", "matrix"], epochs=2))


@pytest.fixture(scope="session")
def mixed():
    """Windows added from four sources, calibration on five, both with tasks asked."""
    common = {
        "model": "lab",
        "recipes": recipes(["wanda"], "50%", ["BR+GP", "BR+GP+CR"], epochs=1),
        "samples": 8,
        "length": 128,
        "seeds": (0, 1),
    }
    more = grids(
        "added",
        ["self", "lab:stories", "lab:recipes", "self:top-k=50"],
        added_samples=[0, 8, 32],
        calibration="lab:stories",
        tasks=TASKS,
        **common,
    )
    own = grids("calibration", ["lab:stories", "lab:entries", "lab:news", "self", "lab:recipes"], tasks=TASKS, **common)
    return leave([*more, *own])


@pytest.fixture(scope="session")
def models():
    """Criteria and methods on three sizes of model."""
    chosen = recipes(["magnitude", "wanda"], "50%", ["LR", "BR+GP", "BR+GP+CR"], epochs=1)
    return leave(
        grids(
            "model",
            ["lab/large", "lab", "lab/small"],
            recipes=chosen,
            samples=8,
            length=128,
            seeds=(0, 1),
            calibration="lab:stories",
        )
    )


@pytest.fixture(scope="session")
def asked():
    """Many recipes that were asked tasks, one of them with windows added too."""
    common = {
        "model": "lab",
        "samples": 8,
        "length": 128,
        "seeds": (0, 1),
        "calibration": "lab:stories",
        "tasks": TASKS,
    }
    many = grid(recipes=recipes(["magnitude", "wanda"], ["50%", "2:4"], ["LR", "BR", "BR+GP"], epochs=1), **common)
    return leave(
        [*many, *grid(recipes=recipes(["wanda"], "50%", ["BR+GP"], epochs=1), added="self", added_samples=16, **common)]
    )


@pytest.fixture(scope="session")
def masks():
    """Criteria with refinements, before and after reconstruction."""
    before = recipes(
        ["wanda", "sparsegpt", "ria", "magnitude"], ["60%", "2:4"], ["LR"], refinements=["none", "swaps", "fw"]
    )
    after = recipes(
        ["wanda", "sparsegpt", "ria", "magnitude"], ["60%", "2:4"], ["BR+GP"], refinements=["none", "swaps"], epochs=2
    )
    return study([*before, *after])


@pytest.fixture(scope="session")
def spent():
    """Local reconstruction and retraining over epochs and windows."""
    methods = [
        "LR",
        "BR+GP[unit=sub-block]",
        "BR+GP",
        "retrain",
        "retrain[objective=distill]",
        "retrain[lr=1e-3,train=masklora]",
    ]
    return study(recipes(["wanda"], "50%", methods, epochs=[1, 4]), samples=(8, 32))
